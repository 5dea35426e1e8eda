"""Count the CPUs that this process may use."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUP_FILES = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


_MAX_WORKERS = 64  # more threads would mostly wait for each other in this process


def default_workers() -> int:
    """Return the number of sandbox workers that this process has CPUs for."""
    return min(count_cpus(), _MAX_WORKERS)


def count_cpus() -> int:
    """Return the number of CPUs that the affinity and the CPU quota leave to this process."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, min([count, *(math.ceil(quota) for quota in _quotas())]))


def _quotas() -> Iterator[float]:
    """Yield the CPU quota, in CPUs, of each control group that contains this process."""
    try:
        lines = _OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = _CGROUP_FILES / controllers if controllers else _CGROUP_FILES
        folder = mount / path.strip("/")
        # In a container, the path may be that outside; the container's own group is the mount.
        for group in (folder, *folder.parents):
            if group.is_relative_to(mount) and (quota := _quota(group)) is not None:
                yield quota


def _quota(group: Path) -> float | None:
    """Return the quota of one control group, version 2 or 1; None if it has none."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return None if quota in ("max", "-1") else float(quota) / float(period)
