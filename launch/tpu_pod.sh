#!/usr/bin/env bash
# One run on a Cloud TPU pod slice; needs gcloud, and --run_dir on a file system that all hosts mount.
#
#   launch/tpu_pod.sh create NAME ZONE v5p-64
#   launch/tpu_pod.sh setup  NAME ZONE
#   launch/tpu_pod.sh run    NAME ZONE --flagfile=configs/paper_qwen2_5_7b.flags --run_dir=/mnt/runs/a
#   launch/tpu_pod.sh logs   NAME ZONE
#   launch/tpu_pod.sh delete NAME ZONE
set -euo pipefail

usage() {
  sed -n '2,8p' "$0"
  exit 2
}
[[ $# -ge 3 ]] || usage
action=$1 name=$2 zone=$3
shift 3

tpu() { gcloud compute tpus tpu-vm "$@" --zone="$zone"; }
everywhere() { tpu ssh "$name" --worker=all --command="$1"; }

case $action in
  create)
    tpu create "$name" --accelerator-type="${1:?accelerator type}" --version="${2:-tpu-ubuntu2204-base}"
    ;;
  setup)
    git archive --format=tar.gz -o /tmp/acdc.tar.gz HEAD
    tpu scp /tmp/acdc.tar.gz "$name:" --worker=all
    everywhere "mkdir -p acdc && tar xzf acdc.tar.gz -C acdc && python3 -m venv env && env/bin/pip install -q -e 'acdc[tpu]'"
    ;;
  run)
    everywhere "cd acdc && nohup ../env/bin/acdc run --distributed $(printf '%q ' "$@") > ../acdc.log 2>&1 < /dev/null &"
    ;;
  logs) tpu ssh "$name" --worker=0 --command="tail -n 50 -F acdc.log" ;;
  delete) tpu delete "$name" --quiet ;;
  *) usage ;;
esac
