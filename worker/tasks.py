"""The hub: three Celery tasks, each a doorbell's answer, joining the steps to the store.

moderate -> (review) -> callback. A task carries nothing; it empties its line and returns. A second
doorbell while a drain runs in this process only makes that drain look once more.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import redis
import structlog
from celery import Celery

from producer.contract import (
    TASK_NAMES,
    Avatar,
    Region,
    Stage,
)
from producer.dead_letters import DeadLetter
from producer.store import CallbackEntry, Lease, Store, write_patiently
from worker import retry
from worker.callback import CallbackSender

log = structlog.get_logger()


class Drain(Protocol):
    """Empties one stage's lines."""

    def drain(self, stop: threading.Event) -> int:
        """Work until nothing is due or `stop` is set."""


class Doorbell:
    """Runs one drain at a time per process; a ring during a drain makes it look again."""

    def __init__(self, store: Store, stage: Stage, drain: Drain, stop: threading.Event) -> None:
        self._store = store
        self._stage = stage
        self._drain = drain
        self._stop = stop
        self._running = threading.Lock()
        self._again = threading.Event()

    def answer(self) -> None:
        """What the Celery task does."""
        self._again.set()
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


def register(app: Celery, doorbells: dict[Stage, Doorbell]) -> None:
    """Give the application the tasks of the stages that this process works on."""
    for stage, doorbell in doorbells.items():
        app.task(name=TASK_NAMES[stage], ignore_result=True)(doorbell.answer)


class CallbackStep:
    """Delivers one outbox entry and writes what came of it."""

    def __init__(self, store: Store, sender: CallbackSender, stop: threading.Event) -> None:
        self._store = store
        self._sender = sender
        self._stop = stop

    def handle(self, line: str, lease: Lease, token: str) -> None:
        """One lease: delivered, due again later, or a dead letter."""
        try:
            entry = self._store.callback(lease.item)
            if entry is None:
                self._store.drop(line, lease.item, token=token)
                return
            self._deliver(line, entry, token)
        except redis.RedisError as error:
            log.warning("callback_interrupted", item=lease.item, error=type(error).__name__)
        except Exception:
            log.exception("callback_crashed", item=lease.item)

    def _deliver(self, line: str, entry: CallbackEntry, token: str) -> None:
        attempt = entry.attempts + 1
        try:
            status = self._sender.deliver(entry)
        except Exception as error:  # noqa: BLE001 - the edge of one callback; retry.decide sorts it
            self._after_error(line, entry, token, error, attempt)
            return
        detail = {"status": status, "attempts": attempt}
        write_patiently(
            lambda: self._store.end_callback(entry, token=token, detail=detail), self._stop
        )
        log.info("callback_delivered", upload_id=entry.upload_id, seq=entry.seq, attempts=attempt)

    def _after_error(
        self, line: str, entry: CallbackEntry, token: str, error: Exception, attempt: int
    ) -> None:
        decision = retry.decide(error, stage=Stage.CALLBACK, attempt=attempt, random=random.random)
        now = self._store.now()
        first_failed_at = entry.first_failed_at or now
        if isinstance(decision, retry.Retry):
            fields = {"attempts": str(attempt), "first_failed_at": str(first_failed_at)}
            write_patiently(
                lambda: self._store.put_back(
                    line,
                    entry.item,
                    token=token,
                    priority=Avatar.priority,
                    delay_s=decision.delay_s,
                    fields=fields,
                ),
                self._stop,
            )
            log.info(
                "callback_retried",
                upload_id=entry.upload_id,
                seq=entry.seq,
                message=str(error),
                attempt=attempt,
                delay_s=round(decision.delay_s, 2),
            )
            return
        letter = DeadLetter.of(
            entry.item,
            Stage.CALLBACK,
            error,
            attempts=attempt,
            first_failed_at=first_failed_at,
            now=now,
        )
        detail = {"attempts": attempt, "error": letter.error, "message": letter.message}
        write_patiently(
            lambda: self._store.end_callback(
                entry, token=token, detail=detail, bury=letter.to_dict()
            ),
            self._stop,
        )
        log.error(
            "callback_dead_lettered",
            upload_id=entry.upload_id,
            seq=entry.seq,
            message=letter.message,
            attempts=attempt,
        )


class Router(Protocol):
    """Chooses a review provider and asks it; see review/router.py."""

    def review(
        self,
        *,
        sha256: str,
        region: Region,
        jpeg: Callable[[], bytes],
        probability: float,
        attempts: int,
        waiting_since_s: float,
        tried: Sequence[str],
    ) -> Any:
        """An answer: Answered, Wait, Hold or Approve."""
