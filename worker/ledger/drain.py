"""Moves events from Redis into SQL all the time; while SQL is away, into a file.

A duty of one process at a time. What was spilled on this machine is brought in from here, whoever
holds the duty by then.
"""

from __future__ import annotations

import math
import threading
import time

import redis
import structlog

from producer.errors import ConfigurationError, LedgerUnavailable
from producer.record.store import Store
from producer.settings import Settings
from producer.texts import of_error, say
from worker.ledger.database import make_engine
from worker.ledger.spill import Spill
from worker.ledger.writer import DRAIN_EVENTS, Ledger

log = structlog.get_logger()

#: Seconds between two tries to bring in what was spilled.
SPILL_AGAIN_S = 5.0

#: Seconds for which SQL may be away before workers say so: a restart is over by then.
FAULT_S = 60.0

#: Seconds between two log lines that say the same.
SAY_AGAIN_S = 60.0

#: Seconds between two looks for rows whose time is over.
EXPIRE_EVERY_S = 3600.0


class LedgerDrain:
    """A sweeper's duty: each call wakes a thread that drains until the stream is empty.

    In a thread of its own, because a database that hangs must not hold up the doorbells. Two
    processes may drain at the same moment, when the sweeper's lock changes hands: the unique stream
    id lets one of them commit.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._ledger: Ledger | None = None
        self._spill = Spill(settings.data_folder, settings.namespace)
        self._fault = ""
        self._failing_since_s = math.inf
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._said_s = -math.inf
        self._expired_s = -math.inf
        make_engine(settings).dispose()
        if not self._spill.is_empty():
            self()

    def __call__(self) -> None:
        """Wake the thread; starts it with the first call."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
            self._thread.start()
        self._wake.set()

    def close(self, timeout_s: float = 5.0) -> None:
        """Drain once more what the last verdicts left, and stop."""
        self._stop.set()
        if self._thread is not None:
            self._wake.set()
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            # Another process may hold the duty by now: what was spilled here is ours to bring in.
            self._wake.wait(None if self._spill.is_empty() else SPILL_AGAIN_S)
            self._wake.clear()
            self._drain_all()
            if self._stop.is_set():
                break
        self._spill.close()
        if self._ledger is not None:
            self._ledger.close()

    def _drain_all(self) -> None:
        try:
            if self._ledger is None:
                ledger = Ledger.open(self._settings)
                # Where the data folder went with Redis, the ledger still knows what was lost.
                self._store.data_sets.watch(ledger.newest_mark())
                self._ledger = ledger
            self._spill.drain(self._ledger)
            while self._ledger.drain(self._store) == DRAIN_EVENTS:
                continue
            self._expire(self._ledger)
            self._failing_since_s = math.inf
        except (LedgerUnavailable, ConfigurationError) as error:
            self._note_fault(of_error(error, 200))
            self._say("ledger_waits", error)
            self._make_room()
        except redis.RedisError as error:
            self._say("ledger_waits", error)
        except Exception as error:  # noqa: BLE001 - the events are safe in Redis; try again
            self._note_fault(type(error).__name__)
            self._say("ledger_failed", error)
            self._make_room()

    @property
    def fault(self) -> str:
        """Why nothing has moved into SQL for a minute; empty where all is well."""
        return self._fault if time.monotonic() - self._failing_since_s > FAULT_S else ""

    def _note_fault(self, why: str) -> None:
        self._fault = why
        self._failing_since_s = min(self._failing_since_s, time.monotonic())

    def _make_room(self) -> None:
        """SQL is away: beyond what Redis shall hold, events wait in files."""
        try:
            while self._store.events.count() > self._settings.ledger_buffer_events:
                self._spill.take(self._store)
        except redis.RedisError as error:
            self._say("ledger_waits", error)
        except OSError as error:
            self._fault = say(
                "{why}; nor can {file} take them: {error}",
                why=self._fault,
                file=str(error.filename),
                error=error.strerror,
            )
            self._say("ledger_spill_failed", error)

    def _expire(self, ledger: Ledger) -> None:
        if time.monotonic() - self._expired_s < EXPIRE_EVERY_S:
            return
        self._expired_s = time.monotonic()
        gone = ledger.expire(self._store.now() - self._settings.ledger_retention_days * 86400)
        if gone:
            log.info("ledger_expired", events=gone)

    def _say(self, event: str, error: Exception) -> None:
        if time.monotonic() - self._said_s < SAY_AGAIN_S:
            return
        self._said_s = time.monotonic()
        log.error(event, error=type(error).__name__, message=str(error)[:300])
