"""The ticker in every worker process: once a second, whatever is due gets its doorbell rung.

So a message that the broker lost, or that was deleted, costs a second or two and nothing else. One
process at a time does the ringing, by a lock that outlives its holder by a few seconds only; every
process writes its own sign of life (see store.py).

Keys, behind the store's prefix:

    sweeper             string  token of the process that rings; expires after `LOCK_S`
    sweeper:<duty>      string  the same for a duty
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import redis
import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from producer.connect import ring
from producer.contract import Stage
from producer.metrics import Recorder
from producer.store import Store

log = structlog.get_logger()

#: Seconds between two looks at what is due.
TICK_S = 1.0

#: Seconds after which another process takes over from a ticker that died.
LOCK_S = 4

#: Events kept for a ledger that does not drain them; about 300 bytes each.
MAX_EVENTS = 1_000_000


class Sweeper(threading.Thread):
    """Runs until `stop` is set.

    Args:
        store: what is due.
        celery: sends the doorbells.
        name: this process, for example `moderate@host:1234`.
        facts: goes into the sign of life; asked at every beat.
        recorder: what this process counted; published at every beat.
        duties: what else happens each tick in one process at a time, by the name of its lock;
            an error of one is logged and stops neither the others nor the ringing.
        outage: told of every tick that Redis failed: the error, and for how many seconds by now.
        stop: ends the thread.
    """

    def __init__(
        self,
        *,
        store: Store,
        celery: Celery,
        name: str,
        facts: Callable[[], dict[str, Any]],
        stop: threading.Event,
        recorder: Recorder,
        duties: Mapping[str, Callable[[], object]] | None = None,
        outage: Callable[[redis.RedisError, float], object] | None = None,
    ) -> None:
        super().__init__(name="sweeper", daemon=True)
        self._store = store
        self._celery = celery
        self._name = name
        self._facts = facts
        self._recorder = recorder
        self._duties = dict(duties or {})
        self._outage = outage
        self._failing_since_s: float | None = None
        self._stop_event = stop
        self._token = f"{random.getrandbits(64):016x}"

    def run(self) -> None:
        """Tick at once and until stopped; Redis being away is waited out."""
        wait_s = 0.0
        while not self._stop_event.wait(wait_s):
            wait_s = TICK_S
            try:
                self.tick()
                self._failing_since_s = None
            except redis.RedisError as error:
                log.warning("sweeper_waits", error=type(error).__name__)
                self._tell_of_outage(error)
            except (OperationalError, OSError) as error:
                log.warning("sweeper_waits", error=type(error).__name__)
            except Exception:  # the ticker must outlive a bug in a duty
                log.exception("sweeper_failed")
        try:
            self._store.end_life(self._name)
        except redis.RedisError:
            return

    def _tell_of_outage(self, error: redis.RedisError) -> None:
        now_s = time.monotonic()
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        if self._outage is not None:
            self._outage(error, now_s - self._failing_since_s)

    def tick(self) -> None:
        """One look: sign of life, then, if this process rings, doorbells for what is due."""
        self._store.show_life(self._name, self._facts())
        self._recorder.publish(self._store)
        if self._holds_lock():
            self._ring()
        for name, duty in self._duties.items():
            if self._holds_lock(name):
                self._do(name, duty)

    def _ring(self) -> None:
        alive = {stage for fact in self._store.workers() for stage in fact.get("stages", ())}
        for stage in {Stage(line.partition(":")[0]) for line in self._store.due_lines()}:
            if stage not in alive:
                # Nobody would take the message; thousands a day would fill the broker's memory.
                # The first tick after a worker's start rings.
                continue
            try:
                ring(self._store, self._celery, stage)
            except (redis.RedisError, OperationalError, OSError) as error:
                # A broker of its own may be away while Redis is not; the duties go on.
                log.warning("doorbell_failed", stage=stage, error=type(error).__name__)
        dropped = self._store.events.guard(MAX_EVENTS)
        if dropped:
            log.error("ledger_events_dropped", events=dropped, most=MAX_EVENTS)

    @staticmethod
    def _do(name: str, duty: Callable[[], object]) -> None:
        try:
            duty()
        except redis.RedisError:
            raise
        except Exception:
            log.exception("duty_failed", duty=name)

    def _holds_lock(self, *name: str) -> bool:
        key = self._store.key("sweeper", *name)
        if self._store.redis.set(key, self._token, nx=True, ex=LOCK_S):
            return True
        if self._store.redis.get(key) != self._token:
            return False
        self._store.redis.expire(key, LOCK_S)
        return True
