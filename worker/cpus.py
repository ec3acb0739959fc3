"""How many CPUs this process may really use; containers lie about the machine's count."""

from __future__ import annotations

import os
from pathlib import Path


def allowed_cpus(
    proc_folder: Path = Path("/proc"), cgroup_folder: Path = Path("/sys/fs/cgroup")
) -> int:
    """Return the CPUs of the affinity mask, lowered to the tightest cgroup quota; at least 1.

    A quota of 1.5 CPUs gives 1: a second thread would be stopped half of the time.

    Source: Linux Documentation/admin-guide/cgroup-v2.rst (cpu.max) and
    scheduler/sched-bwc.rst (cpu.cfs_quota_us of version 1).
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quotas = list(_quotas(proc_folder, cgroup_folder))
    return max(1, min([count, *(int(quota) for quota in quotas)]))


def _quotas(proc_folder: Path, cgroup_folder: Path) -> list[float]:
    """Return the quota, in CPUs, of this process's cgroup and of each of its parents."""
    try:
        lines = (proc_folder / "self" / "cgroup").read_text().splitlines()
    except OSError:
        lines = []
    found = []
    for line in [*lines, "0::/", "1:cpu:/"]:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroup_folder / "cpu" if controllers else cgroup_folder
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(root):
                break
            quota = _quota_v1(folder) if controllers else _quota_v2(folder)
            if quota:
                found.append(quota)
    return found


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 and period > 0 else None
    except (OSError, ValueError):
        return None
