"""The faults that chaos.py injects while uploads come in."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from benchmarks.chaos_people import People
from benchmarks.chaos_servers import Behaviour
from benchmarks.chaos_web_tier import WebTier
from producer.contract import Stage
from producer.errors import ModerationError
from producer.record.store import Store
from worker.process.supervisor import Supervisor

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")

#: What an operator says when Redis lost its data.
RESTORE = ("restore", "--from-ledger", "--yes", "--json")

#: Bytes of a full disk that stay free.
CRUMBS = 65_536

#: Seconds that a loss may take to be seen in `/readyz`, that `avatarmod restore` may take, and for
#: which SQL is away so long that events go into files.
NOTICED_S, RESTORED_S, SQL_AWAY_S = 10.0, 180.0, 25.0

#: How often the faults come that take long to get over, beside others.
SELDOM = {"empty Redis, restore from the ledger": 4, "SQL is away longer than Redis holds": 4}


class Faults:
    """Injects one fault at a time, chosen by a seeded generator, and notes recovery times.

    Args:
        supervisor: of the processes.
        store: their Redis.
        receiver: how callbacks are answered.
        provider: how the review provider answers.
        web_tier: whose uploads come in meanwhile.
        people: who decide meanwhile.
        seed: of the choices.
        lease_s: of the instance.
        disk: a disk of our own that can be filled, with the data folder on it; None: there is none.
        clock: a file that says how far Redis' clock is off; None: it cannot be set.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        store: Store,
        receiver: Behaviour,
        provider: Behaviour,
        web_tier: WebTier,
        people: People,
        seed: int,
        *,
        lease_s: float,
        disk: Path | None,
        clock: Path | None,
    ) -> None:
        #: Uploads of which the ledger did not know everything when Redis was emptied.
        self.lost: set[str] = set()
        #: What went wrong with a loss: seen too late, not restored.
        self.complaints: dict[str, list[str]] = {}
        self._lease_s = lease_s
        self._ledger_file = supervisor.settings.data_folder / "ledger.sqlite3"
        self._disk = disk
        self._clock = clock
        self._web_tier = web_tier
        self._people = people
        self._restores: list[threading.Thread] = []
        self._healers: list[Callable[[], None]] = []
        self._supervisor = supervisor
        self._store = store
        self._receiver = receiver
        self._provider = provider
        self._random = random.Random(seed)
        self.count: Counter[str] = Counter()
        self.recovery_s: dict[str, list[float]] = {}
        #: Uploads that `avatarmod restore` brought back, by state.
        self.restored: Counter[str] = Counter()
        self.faults: dict[str, Callable[[], None]] = {
            "kill moderate worker": lambda: self._kill("moderate"),
            "kill io worker": lambda: self._kill("io"),
            "kill both workers (and the sweeper)": lambda: self._kill("moderate", "io"),
            "kill Valkey": lambda: self._kill("valkey"),
            "kill the API": lambda: self._kill("api"),
            "kill what workers are copied from": lambda: self._kill("template"),
            "kill a moderator in mid-decision": self._people.kill_one,
            "webhook receiver fails": lambda: self._degrade(self._receiver, failing_share=1.0),
            "webhook receiver is slow": lambda: self._degrade(self._receiver, delay_s=1.0),
            "provider fails half of the time": lambda: self._degrade(
                self._provider, failing_share=0.5
            ),
            "provider is slow": lambda: self._degrade(self._provider, delay_s=1.5),
            "provider answers strangely": lambda: self._degrade(self._provider, is_nasty=True),
            "freeze both workers beyond their leases": self._freeze,
            "fill Redis' memory": self._fill,
            "lock the ledger's database": lambda: self._lock_ledger(6.0),
            "SQL is away longer than Redis holds": lambda: self._lock_ledger(SQL_AWAY_S),
            "empty Redis, restore from the ledger": self._empty,
            "delete all broker messages": self._delete_messages,
            "duplicate enqueues, wake-ups and due entries": self._duplicate,
        }
        if FAKETIME.exists():
            self.faults["move the worker's clock by an hour"] = self._move_clock
        if clock is not None:
            self.faults["set Redis' clock back by an hour"] = self._set_clock_back
        if disk is not None:
            self.faults["fill the disk"] = self._fill_disk

    def inject(self) -> str:
        """One fault; returns its name."""
        name = min(
            self.faults, key=lambda n: (self.count[n] * SELDOM.get(n, 1), self._random.random())
        )
        self.count[name] += 1
        with contextlib.suppress(redis.RedisError, ModerationError):
            self.faults[name]()
        return name

    def heal(self) -> None:
        """Everything answers again."""
        for behaviour in (self._receiver, self._provider):
            self._restore(behaviour)
        for heal in self._healers:
            heal()
        for restore in self._restores:
            restore.join()
        with contextlib.suppress(redis.RedisError):
            self._kill("moderate")  # it may still have a wrong clock

    def _later(self, seconds: float, heal: Callable[[], object]) -> None:
        """End a fault after a while, or with the load."""

        def once() -> None:
            with contextlib.suppress(redis.RedisError, ProcessLookupError):
                heal()

        self._healers.append(once)
        timer = threading.Timer(seconds, once)
        timer.daemon = True
        timer.start()

    def _freeze(self) -> None:
        """Longer than leases and locks hold; then both go on with what is not theirs any more."""
        pids = [pid for name, pid in self._supervisor.pids().items() if name in ("moderate", "io")]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)

        def go_on() -> None:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

        self._later(self._lease_s + 2.0, go_on)

    def _fill(self) -> None:
        """Nothing can be written for a while, as far as Redis is asked to keep a limit."""
        info: Any = self._store.redis.info("memory")
        self._store.redis.config_set("maxmemory", int(info["used_memory"]) - 100_000)
        self._later(4.0, lambda: self._store.redis.config_set("maxmemory", 0))

    def _fill_disk(self) -> None:
        """Nothing can be written: Redis ends, SQL fails, pictures are refused."""
        assert self._disk is not None
        filler = self._disk / "filler"
        room = shutil.disk_usage(self._disk).free - CRUMBS
        with filler.open("wb") as file, contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, max(1, room))
        self._later(5.0, lambda: filler.unlink(missing_ok=True))

    def _set_clock_back(self) -> None:
        assert self._clock is not None
        self._clock.write_text("-3600\n")
        clock = self._clock
        self._later(8.0, lambda: clock.write_text("+0\n"))

    def _empty(self) -> None:
        """Redis forgets everything; an operator brings back what the ledger knows."""
        pipe = self._store.redis.pipeline(transaction=True)
        pipe.xrange(self._store.key("events"))
        pipe.flushall()
        self._web_tier.has_forgotten = True
        events, _ = pipe.execute()
        # An event of money may belong to no upload.
        self.lost |= {fields["upload_id"] for _, fields in events} - {""}
        restore = threading.Thread(target=self._bring_back)
        self._restores.append(restore)
        restore.start()

    def _bring_back(self) -> None:
        started_s = time.monotonic()
        while (is_ready := self._web_tier.is_ready()) is not False:
            spent_s = time.monotonic() - started_s
            if spent_s > RESTORED_S:
                break
            # An API that does not answer, because it was killed as well, says nothing wrong.
            if is_ready and spent_s > NOTICED_S:
                self.complaints.setdefault("loss not noticed", []).append("/readyz says ready")
                break
            time.sleep(0.1)
        self.recovery_s.setdefault("noticing a loss", []).append(time.monotonic() - started_s)
        said = "nothing"
        while time.monotonic() - started_s < RESTORED_S:
            run = subprocess.run(
                [sys.executable, "-m", "producer.cli", *RESTORE],
                env={**os.environ, "AVATARMOD_REDIS_URL": self._supervisor.redis_url},
                capture_output=True,
                text=True,
                check=False,
            )
            if run.returncode == 0:
                self.restored.update(json.loads(run.stdout)["uploads"])
                self.recovery_s.setdefault("restoring", []).append(time.monotonic() - started_s)
                return
            said = run.stderr[-300:]
            time.sleep(1.0)
        self.complaints.setdefault("not restored", []).append(said)

    def _lock_ledger(self, seconds: float) -> None:
        """Somebody else holds the database; events wait in Redis, then in files."""
        if not self._ledger_file.exists():
            return
        holder = sqlite3.connect(self._ledger_file, timeout=1.0, check_same_thread=False)
        with contextlib.suppress(sqlite3.OperationalError):
            holder.execute("BEGIN EXCLUSIVE")
        self._later(seconds, holder.close)

    def _kill(self, *names: str, clock: str = "") -> None:
        """Kill by name; the moderate worker comes back with a clock that is off by `clock`."""
        # Under libfaketime every sleep of Python 3.11+ fails at once: a harsher fault than the
        # clock alone, so it ends with the next kill.
        self._supervisor.set_env("LD_PRELOAD", str(FAKETIME) if clock else "", only="moderate")
        self._supervisor.set_env("FAKETIME", clock, only="moderate")
        self._supervisor.set_env("DONT_FAKE_MONOTONIC", "1", only="moderate")
        pids = self._supervisor.pids()
        killed_s = time.monotonic()
        for name in names:
            with contextlib.suppress(ProcessLookupError, KeyError):
                os.kill(pids[name], signal.SIGKILL)
        threading.Thread(
            target=self._watch_recovery, args=("kill " + " + ".join(names), killed_s), daemon=True
        ).start()

    def _watch_recovery(self, name: str, killed_s: float) -> None:
        """Seconds from the kill to the next transition by a worker."""
        before = None
        while time.monotonic() - killed_s < 120:
            with contextlib.suppress(redis.RedisError, OSError):
                last = self._store.redis.hget(self._store.key("counts"), "last_transition_at")
                if before is not None and last != before and time.monotonic() - killed_s > 0.3:
                    self.recovery_s.setdefault(name, []).append(time.monotonic() - killed_s)
                    return
                if before is None or time.monotonic() - killed_s < 0.3:
                    before = last
            time.sleep(0.05)

    def _degrade(
        self,
        behaviour: Behaviour,
        *,
        failing_share: float = 0.0,
        delay_s: float = 0.0,
        is_nasty: bool = False,
    ) -> None:
        behaviour.failing_share, behaviour.delay_s = failing_share, delay_s
        behaviour.is_nasty = is_nasty
        timer = threading.Timer(3.0, self._restore, (behaviour,))
        timer.daemon = True
        timer.start()

    @staticmethod
    def _restore(behaviour: Behaviour) -> None:
        behaviour.failing_share = behaviour.delay_s = 0.0
        behaviour.is_nasty = False

    def _delete_messages(self) -> None:
        prefix = self._store.prefix.strip("{}:")
        for stage in Stage:
            self._store.redis.delete(f"{prefix}:celery:{stage}")
        self._store.redis.delete(f"{prefix}:celery:unacked", f"{prefix}:celery:unacked_index")

    def _duplicate(self) -> None:
        accepted = self._web_tier.accepted
        some = self._random.sample(accepted, min(20, len(accepted)))
        for upload_id in some:
            self._web_tier.enqueue_again(upload_id)
        now = self._store.now()
        for stage in (Stage.MODERATE, Stage.REVIEW):
            due = self._store.key("due", stage, "normal")
            self._store.redis.zadd(due, {upload_id: now for upload_id in some[:10]})

    def _move_clock(self) -> None:
        self._kill("moderate", clock=self._random.choice(["+3600", "-3600"]))
