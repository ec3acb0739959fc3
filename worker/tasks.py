"""What a doorbell does: it empties its stage's lines and returns; it carries nothing itself.

A second doorbell while a drain runs in this process only makes that drain look once more.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Protocol

import redis
import structlog

from producer.contract import Stage
from producer.record.store import Store

log = structlog.get_logger()


class Drain(Protocol):
    """Empties one stage's lines."""

    def drain(self, stop: threading.Event) -> int:
        """Work until nothing is due or `stop` is set."""


class Doorbell:
    """Runs one drain at a time per process; a ring during a drain makes it look again.

    Args:
        look: tells the drain of a ring that reaches it in its work.
    """

    def __init__(
        self,
        store: Store,
        stage: Stage,
        drain: Drain,
        stop: threading.Event,
        look: Callable[[], object] | None = None,
    ) -> None:
        self._look = look
        self._store = store
        self._stage = stage
        self._drain = drain
        self._stop = stop
        self._running = threading.Lock()
        self._again = threading.Event()

    def answer(self, *_: object, **__: object) -> None:
        """What the Celery task does; a newer version may send arguments, which change nothing."""
        self._again.set()
        if self._look is not None and self._running.locked():
            # Until the mark is gone nobody else rings.
            with contextlib.suppress(redis.RedisError):
                self._store.answer_bell(self._stage)
            self._look()
        while self._again.is_set() and self._running.acquire(blocking=False):
            try:
                self._again.clear()
                self._store.answer_bell(self._stage)
                self._drain.drain(self._stop)
            except redis.RedisError as error:
                # Leases run out, the ticker rings again: nothing to do but to say so.
                log.warning("drain_interrupted", stage=self._stage, error=type(error).__name__)
            finally:
                self._running.release()
