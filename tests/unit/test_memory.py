"""Memory that is free goes back to the system."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from worker import memory


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
