"""Memory that is free goes back to the system."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

from worker import resources as memory


def test_memory_is_given_back_until_the_process_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Again and again, and the thread ends with the stop."""
    twice, stop, count = threading.Event(), threading.Event(), []

    def release() -> None:
        count.append(1)
        if len(count) == 2:
            twice.set()

    monkeypatch.setattr(memory, "release_memory", release)
    monkeypatch.setattr(memory, "RELEASE_EVERY_S", 0.001)
    thread = threading.Thread(target=memory.keep_releasing, args=(stop,), daemon=True)
    thread.start()
    assert twice.wait(30)
    stop.set()
    thread.join(30)
    assert not thread.is_alive()


def test_numbers_are_bytes() -> None:
    """The peak holds what was used in between."""
    before = memory.peak_rss_bytes()
    block = np.ones(8 * 2**20)
    assert memory.peak_rss_bytes() >= memory.rss_bytes() >= block.nbytes
    del block
    memory.release_memory()
    assert memory.peak_rss_bytes() >= before


#: Free a large block, which raises glibc's own threshold; is a smaller one mapped apart after that?
_TEAR = """
import ctypes, sys
from worker import resources as memory
if sys.argv[1] == "unmap":
    memory.unmap_large_blocks()
c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
c.free.argtypes = [ctypes.c_void_p]
c.free(c.malloc(16 * 2**20))
block = c.malloc(4 * 2**20)
# The lowest bit but one of a chunk's size says that it is mapped.
print(ctypes.c_size_t.from_address(block - 8).value >> 1 & 1)
"""


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux" or sys.maxsize < 2**32, reason="glibc's 64-bit chunks")
@pytest.mark.parametrize(("argument", "mapped"), [("default", "0"), ("unmap", "1")])
def test_large_blocks_are_mapped_apart_when_asked(argument: str, mapped: str) -> None:
    """A block of 4 MiB goes back at once, though a larger one was freed before."""
    done = subprocess.run(
        [sys.executable, "-c", _TEAR, argument], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == mapped
