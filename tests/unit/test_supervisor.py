"""The supervisor's own decisions, without processes."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import redis

from producer.errors import ConfigurationError
from producer.settings import load_settings
from worker.process import supervisor as module
from worker.process.supervisor import EXIT_CONFIGURATION, NEEDED_DISK_BYTES, Supervisor
from worker.settings import WorkerSettings

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


def test_a_broker_that_cannot_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A quota, no inodes, a disk that fills up at this moment: workers run on meanwhile."""
    monkeypatch.setattr(module, "EmbeddedValkey", DeadValkey)
    monkeypatch.setattr(module, "VALKEY_PAUSE_S", 0.0)
    supervisor: Any = Supervisor(load_settings(WorkerSettings, data_folder=tmp_path))
    supervisor._children.clear()
    start = supervisor._valkey.start

    def refused() -> None:
        start()
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    supervisor._valkey.start = refused
    for _ in range(3):
        supervisor.watch()
    assert supervisor._valkey.started == 3


class Ended:
    """A process that has ended."""

    def __init__(self, returncode: int) -> None:
        self.returncode = returncode

    def poll(self) -> int:
        """At once."""
        return self.returncode


def supervisor_of(monkeypatch: pytest.MonkeyPatch, folder: Path, returncode: int) -> Any:
    """A supervisor whose children have all ended with a code."""
    monkeypatch.setattr(module, "EmbeddedValkey", DeadValkey)
    supervisor: Any = Supervisor(load_settings(WorkerSettings, data_folder=folder))
    supervisor._valkey_again_s = float("inf")
    for child in supervisor._children:
        child.process = Ended(returncode)
    return supervisor


def test_a_misconfigured_worker_is_not_started_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Everything stops with one sentence instead of starting it for ever."""
    supervisor = supervisor_of(monkeypatch, tmp_path, EXIT_CONFIGURATION)
    with pytest.raises(ConfigurationError, match="configuration of the moderate worker"):
        supervisor.watch()


@pytest.mark.parametrize("code", [0, 1, -9])
def test_a_worker_that_died_is_started_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int
) -> None:
    """Whether it left, failed or was killed."""
    supervisor = supervisor_of(monkeypatch, tmp_path, code)
    started: list[str] = []
    monkeypatch.setattr(supervisor, "_spawn", lambda child: started.append(child.name))
    supervisor.watch()
    for child in supervisor._children:
        child.start_again_s = 0.0
    supervisor.watch()
    assert "moderate" in started


class Frozen:
    """A process that lives and does nothing."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.killed = False

    def poll(self) -> int | None:
        """It lives until it is killed."""
        return -9 if self.killed else None

    def kill(self) -> None:
        """Noted."""
        self.killed = True


class Alive:
    """A store that says which processes show life; or does not answer."""

    def __init__(self, pids: set[int]) -> None:
        self.pids = pids
        self.is_away = False

    def workers(self) -> list[dict[str, Any]]:
        """Those of this host."""
        if self.is_away:
            raise redis.ConnectionError("gone")
        return [{"pid": pid, "host": socket.gethostname()} for pid in self.pids]


def test_a_child_without_a_sign_of_life_is_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not one that still loads its model, and nobody while Redis is what does not answer."""
    supervisor = supervisor_of(monkeypatch, tmp_path, 0)
    children = {child.name: child for child in supervisor._children}
    for number, child in enumerate(children.values()):
        child.process, child.started_s = Frozen(number), 1000.0
    supervisor._store = store = Alive({0, 1, 2})
    supervisor._end_frozen(1010.0)
    store.pids, store.is_away = {0, 2}, True
    supervisor._end_frozen(1100.0)
    store.is_away = False
    supervisor._end_frozen(1120.0)
    assert not any(child.process.killed for child in children.values())
    supervisor._end_frozen(1131.0)
    assert [child.process.killed for child in children.values()] == [False, True, False]

    children["moderate"].started_s = 2000.0
    store.pids = {1, 2}
    supervisor._end_frozen(2100.0)
    assert not children["moderate"].process.killed
    supervisor._end_frozen(2151.0)
    assert children["moderate"].process.killed


@pytest.mark.process
def test_the_supervisor_needs_none_of_what_workers_need(tmp_path: Path) -> None:
    """It lives as long as they do, on machines with little memory."""
    code = (
        "import sys\n"
        "import worker.commands.up\n"
        "from rich.console import Console\n"
        "from producer.settings import load_settings\n"
        "from worker.commands.banner import print_banner\n"
        "from worker.process.supervisor import Supervisor\n"
        "from worker.settings import WorkerSettings\n"
        "settings = load_settings(WorkerSettings)\n"
        "Supervisor(settings)\n"
        "facts = {'broker': 'x', 'workers': [], 'data': 'x', 'access': None}\n"
        "print_banner(Console(stderr=True), facts, settings)\n"
        "large = {'numpy', 'PIL', 'celery', 'httpx', 'sqlalchemy'}\n"
        "print(sorted(large & set(sys.modules)))\n"
    )
    env = {**os.environ, "AVATARMOD_DATA_FOLDER": str(tmp_path)}
    shown = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "[]"
