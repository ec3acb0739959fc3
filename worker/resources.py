"""What memory and how many CPUs this process has, read where the system tells without a library."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
import threading
from pathlib import Path

#: Seconds between two releases; one takes some tens of milliseconds.
RELEASE_EVERY_S = 10.0

#: Source: glibc's malloc.h.
_M_MMAP_THRESHOLD = -3


def rss_bytes() -> int:
    """Return the resident set now, or its peak where the system tells no more (macOS)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak_rss_bytes()
    return pages * resource.getpagesize()


def peak_rss_bytes() -> int:
    """Return the largest resident set so far."""
    try:
        # getrusage would report the parent's peak for a young child.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def keep_releasing(stop: threading.Event) -> None:
    """Give freed memory back every so often, in a thread of its own, until `stop` is set.

    Without it the C library keeps the largest batch that ever was.
    """
    while not stop.wait(RELEASE_EVERY_S):
        release_memory()


def unmap_large_blocks() -> None:
    """From now on give back a block of 1 MiB or more as soon as it is freed (glibc).

    By default the C library keeps blocks of up to 32 MiB once one of that size was freed, and the
    heap tears. For a process that keeps what it needs all the time: each new block costs page
    faults, 20 ms a picture for a model without an arena.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, 2**20)


def hide_memory() -> None:
    """Keep other processes of this user from reading our memory, environment and descriptors.

    Source: prctl(2), PR_SET_DUMPABLE is 4.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)


def release_memory() -> None:
    """Give freed memory back to the system, where the C library can (glibc)."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


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
