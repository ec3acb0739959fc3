"""What memory this process holds, read where the system tells it without a library."""

from __future__ import annotations

import ctypes
import gc
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


def release_memory() -> None:
    """Give freed memory back to the system, where the C library can (glibc)."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
