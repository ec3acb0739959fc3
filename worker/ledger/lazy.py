"""The ledger for processes that can do without it: opened with the first question, tried again.

SQLAlchemy is imported with that question too, for its memory.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import structlog

from producer.errors import ConfigurationError, LedgerUnavailable
from producer.settings import Settings
from producer.texts import say

if TYPE_CHECKING:
    from worker.ledger.erase import Eraser
    from worker.ledger.queries import LedgerReads

log = structlog.get_logger()

#: Seconds after which a ledger that could not be opened is tried again.
AGAIN_S = 10.0


class LazyLedger:
    """Safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ledger: LedgerReads | None = None
        self._next_try_s = 0.0
        self._lock = threading.Lock()

    def get(self) -> LedgerReads | None:
        """The ledger for reading, or None while it is off, not installed or not reachable."""
        if not self._settings.has_ledger:
            return None
        with self._lock:
            if self._ledger is None and time.monotonic() >= self._next_try_s:
                self._next_try_s = time.monotonic() + AGAIN_S
                try:
                    self._ledger = open_ledger(self._settings)
                except (LedgerUnavailable, ConfigurationError, ModuleNotFoundError) as error:
                    log.warning("ledger_absent", error=type(error).__name__)
            return self._ledger

    def eraser(self) -> Eraser | None:
        """What takes names out of it; None as for `get`."""
        from worker.ledger.erase import Eraser

        ledger = self.get()
        return Eraser(ledger.engine, ledger.namespace) if ledger is not None else None

    def close(self) -> None:
        """Give the connections back."""
        if self._ledger is not None:
            self._ledger.engine.dispose()


def open_ledger(settings: Settings) -> LedgerReads | None:
    """The ledger for reading, or None before a worker has brought its tables up to this version.

    Migrations are the worker's; without them this process saves Alembic's memory.

    Raises:
        ConfigurationError: the address cannot be used, or a driver is not installed.
        LedgerUnavailable: the database does not answer.
    """
    import sqlalchemy as sa

    from worker.ledger.database import HEAD, make_engine, revision_of
    from worker.ledger.queries import LedgerReads

    engine = make_engine(settings)
    try:
        is_there = (revision_of(engine) or "") >= HEAD
    except sa.exc.SQLAlchemyError as error:
        engine.dispose()
        raise LedgerUnavailable(
            say("the ledger does not answer: {error}", error=type(error).__name__)
        ) from error
    if not is_there:
        engine.dispose()
        return None
    return LedgerReads(engine, settings.namespace)
