"""Goes on with what is to be forgotten, and keeps the index of persons no longer than records."""

from __future__ import annotations

import threading

import redis
import structlog

from producer.forget import Forgetter
from producer.record.store import Store

log = structlog.get_logger()

#: Seconds between two looks for entries of persons whose records are gone, by whichever process.
EVERY_S = 3600

#: Entries looked at in one round.
PAGE = 500


class ForgettingDuty:
    """Looks each tick, in a thread of its own: a store or a database may hang.

    Args:
        store: the index of persons.
        forgetter: what removes.
        stop: ends a look early.
    """

    def __init__(self, store: Store, forgetter: Forgetter, *, stop: threading.Event) -> None:
        self._store = store
        self._forgetter = forgetter
        self._stop = stop
        self._thread: threading.Thread | None = None

    def __call__(self) -> None:
        """Start a look, unless one is under way."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._look, name="forgetting", daemon=True)
            self._thread.start()

    def _look(self) -> None:
        try:
            if done := self._forgetter.look_again():
                log.info("uploads_forgotten", uploads=done)
            if self._store.subjects.start_sweep(every_s=EVERY_S):
                while self._store.subjects.drop_over(PAGE) and not self._stop.is_set():
                    continue
        except redis.RedisError as error:
            log.warning("forgetting_waits", error=type(error).__name__)
