"""The supervisor's own decisions, without processes."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from producer.settings import load_settings
from worker import supervisor as module
from worker.settings import WorkerSettings
from worker.supervisor import NEEDED_DISK_BYTES, Supervisor

Usage = namedtuple("Usage", "total used free")


class DeadValkey:
    """A server that has ended; counts how often it is started."""

    def __init__(self, _folder: Path) -> None:
        self.started = 0
        self.url = "unix:///nowhere"

    def is_running(self) -> bool:
        """Never."""
        return False

    def start(self) -> None:
        """Counted."""
        self.started += 1


def test_a_broker_is_not_started_on_a_full_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It would end at its first write; with room again it starts by itself."""
    free = [NEEDED_DISK_BYTES - 1]
    monkeypatch.setattr(module, "EmbeddedValkey", DeadValkey)
    monkeypatch.setattr(module, "VALKEY_PAUSE_S", 0.0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: Usage(2**40, 0, free[0]))
    supervisor: Any = Supervisor(load_settings(WorkerSettings, data_folder=tmp_path))
    supervisor._children.clear()
    for _ in range(3):
        supervisor.watch()
    assert supervisor._valkey.started == 0
    free[0] = NEEDED_DISK_BYTES
    supervisor.watch()
    assert supervisor._valkey.started == 1
