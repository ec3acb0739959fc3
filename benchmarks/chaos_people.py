"""Moderators of chaos.py: they take held pictures, decide them and sometimes take that back.

Each is a process of its own, to be killed in the middle of a decision, and writes down every one
that was confirmed to it. What they say of a content never changes.
Run by chaos.py: python benchmarks/chaos_people.py NAME FILE, with settings from the environment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, TextIO

import redis

sys.path.insert(0, str(Path(__file__).parents[1]))

from producer.connect import connect_store
from producer.contract import AvatarState
from producer.errors import ModerationError
from producer.findings import Seen
from producer.record.claims import Claims
from producer.record.decisions import Decisions
from producer.record.store import Store
from producer.settings import Settings, load_settings

NAMES = ("ada", "bob")

#: Share of the decisions that are taken back.
UNDO_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class Word:
    """One decision that a person was told is made."""

    upload_id: str
    seq: int
    state: str


def verdict_of(sha256: str) -> Literal["approved", "blocked"]:
    """What every person says of this content."""
    return "blocked" if int(sha256[0], 16) < 8 else "approved"


class People:
    """The moderators' processes; one that was killed comes back with `watch`."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._folder = folder
        self._env = {**os.environ, **env, "PYTHONPATH": str(Path(__file__).parents[1])}
        self._random = random.Random(3)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def watch(self) -> None:
        """Start who is missing."""
        for name in NAMES:
            process = self._running.get(name)
            if process is None or process.poll() is not None:
                command = [sys.executable, __file__, name, str(self._book(name))]
                self._running[name] = subprocess.Popen(command, env=self._env)

    def kill_one(self) -> None:
        """In the middle of whatever it does."""
        for process in self._random.sample(list(self._running.values()), 1):
            process.kill()
            process.wait()

    def stop(self) -> None:
        """Let everybody finish what is begun."""
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        for process in self._running.values():
            process.wait(30)
        self._running.clear()

    def words(self) -> Iterator[Word]:
        """All that was confirmed."""
        for name in NAMES:
            with contextlib.suppress(FileNotFoundError):
                for line in self._book(name).read_text().splitlines():
                    with contextlib.suppress(ValueError):  # cut by a kill
                        yield Word(*json.loads(line))

    def _book(self, name: str) -> Path:
        return self._folder / f"decided-by-{name}"


def main() -> int:
    name, path = sys.argv[1:]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    store = connect_store(load_settings(Settings))
    with open(path, "a", buffering=1) as book:
        while not stop.wait(0.2):
            with contextlib.suppress(redis.RedisError, OSError):
                for upload_id in Claims(store).take(name, AvatarState.HELD, 4):
                    _decide(store, name, upload_id, book)
    return 0


def _decide(store: Store, name: str, upload_id: str, book: TextIO) -> None:
    """As the console does: about what was seen, or not at all."""
    decisions = Decisions(store)
    avatar = store.get(upload_id)
    if avatar is None or avatar.state != AvatarState.HELD or not avatar.sha256:
        return
    time.sleep(random.uniform(0.0, 0.1))
    with contextlib.suppress(ModerationError):
        seen = Seen(avatar.seq, avatar.sha256)
        decided = decisions.decide(upload_id, verdict_of(avatar.sha256), by=name, seen=seen).avatar
        print(json.dumps([upload_id, decided.seq, str(decided.state)]), file=book)
        if random.random() < UNDO_SHARE:
            undone = decisions.undo(upload_id, by=name, seen=Seen(decided.seq)).avatar
            print(json.dumps([upload_id, undone.seq, str(undone.state)]), file=book)


if __name__ == "__main__":
    raise SystemExit(main())
