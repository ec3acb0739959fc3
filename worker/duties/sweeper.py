"""The ticker in every worker process: once a second, whatever is due gets its doorbell rung.

So a message that the broker lost, or that was deleted, costs a second or two and nothing else. One
process at a time does the ringing, by a lock that outlives its holder by a few seconds only; every
process writes its own sign of life.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import redis
import structlog

from producer.contract import Stage
from producer.errors import BrokerUnavailable
from producer.metrics import Recorder
from producer.record.store import Store

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
        ring: sends a doorbell to a stage.
        name: this process, for example `moderate@host:1234`.
        facts: goes into the sign of life; asked at every beat.
        recorder: what this process counted; published at every beat.
        duties: what else happens each tick in one process at a time, by the name of its lock;
            an error of one is logged and stops neither the others nor the ringing.
        outage: told of every tick that Redis failed: the error, and for how many seconds by now.
        look: whether Redis still has its data; at every tick.
        stop: ends the thread.
    """

    def __init__(
        self,
        *,
        store: Store,
        ring: Callable[[Stage], object],
        name: str,
        facts: Callable[[], dict[str, Any]],
        stop: threading.Event,
        recorder: Recorder,
        duties: Mapping[str, Callable[[], object]] | None = None,
        outage: Callable[[redis.RedisError, float], object] | None = None,
        look: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(name="sweeper", daemon=True)
        self._store = store
        self._ring_for = ring
        self._name = name
        self._facts = facts
        self._recorder = recorder
        self._duties = dict(duties or {})
        self._outage = outage
        self._look = look
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
            except Exception:  # the ticker must outlive a bug in a duty
                log.exception("sweeper_failed")
        with contextlib.suppress(redis.RedisError):
            self._recorder.publish(self._store)
            self._store.end_life(self._name)

    def _tell_of_outage(self, error: redis.RedisError) -> None:
        now_s = time.monotonic()
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        if self._outage is not None:
            self._outage(error, now_s - self._failing_since_s)

    def tick(self) -> None:
        """One look: sign of life, then, if this process rings, doorbells for what is due."""
        self._look()
        self._store.show_life(self._name, self._facts())
        with contextlib.suppress(redis.OutOfMemoryError):
            # While Redis is full the counts wait here; the duties below are what makes room.
            self._recorder.publish(self._store)
        if self._holds_duty(""):
            self._ring()
        for name, duty in self._duties.items():
            if self._holds_duty(name):
                self._do(name, duty)

    def _ring(self) -> None:
        alive = {stage for fact in self._store.workers() for stage in fact.get("stages", ())}
        for stage in {Stage(line.partition(":")[0]) for line in self._store.due_lines()}:
            if stage not in alive:
                # Nobody would take the message; thousands a day would fill the broker's memory.
                # The first tick after a worker's start rings.
                continue
            try:
                self._ring_for(stage)
            except BrokerUnavailable as error:
                # A broker of its own may be away while Redis is not; the duties go on.
                log.warning("doorbell_failed", stage=stage, error=str(error))
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

    def _holds_duty(self, name: str) -> bool:
        return self._store.hold_duty(name, self._token, ttl_s=LOCK_S)
