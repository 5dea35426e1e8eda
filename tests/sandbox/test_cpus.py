"""The number of CPUs that a process may use."""

import os
from pathlib import Path

import pytest

from acdc_jax.run_options import SandboxOptions
from acdc_jax.sandbox import cpus

_V2 = {"": "max 100000", "pod": "250000 100000", "pod/main": "max 100000"}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the root of the control groups' files, on a machine with 16 CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setattr(cpus, "_CGROUP_FILES", tmp_path / "cgroup")
    monkeypatch.setattr(cpus, "_OWN_CGROUPS", tmp_path / "own")
    (tmp_path / "cgroup").mkdir()
    return tmp_path / "cgroup"


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_the_affinity_counts(machine: Path) -> None:
    assert cpus.count_cpus() == 16
    (machine.parent / "own").write_text("0::/\n")
    assert cpus.count_cpus() == 16


@pytest.mark.parametrize(
    ("own", "count"), [("/pod/main", 3), ("/pod", 3), ("/", 16), ("/gone", 16)]
)
def test_the_quota_of_every_group_above_counts(machine: Path, own: str, count: int) -> None:
    for group, quota in _V2.items():
        write(machine / group, cpu__max=quota)
    (machine.parent / "own").write_text(f"0::{own}\n")
    assert cpus.count_cpus() == count


def test_a_container_sees_its_own_group_at_the_mount(machine: Path) -> None:
    write(machine, cpu__max="50000 100000")
    (machine.parent / "own").write_text("0::/system.slice/docker-1234.scope\n")
    assert cpus.count_cpus() == 1


def test_control_groups_of_version_1(machine: Path) -> None:
    (machine.parent / "own").write_text("9:name=systemd:/\n4:cpu,cpuacct:/job\n3:cpuset:/\n0::/\n")
    group = machine / "cpu,cpuacct" / "job"
    write(group, cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert cpus.count_cpus() == 16
    write(group, cpu__cfs_quota_us="400000")
    assert cpus.count_cpus() == 4


def test_workers_follow_the_cpus(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SandboxOptions().workers is None
    assert SandboxOptions().worker_count == 16
    assert SandboxOptions(workers=5).worker_count == 5
    monkeypatch.setattr(cpus, "count_cpus", lambda: 400)
    assert SandboxOptions().worker_count == 64
