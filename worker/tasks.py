"""The hub: three Celery tasks, each a doorbell's answer, joining the steps to the store.

moderate -> (review) -> callback. A task carries nothing; it empties its line and returns. A second
doorbell while a drain runs in this process only makes that drain look once more.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import redis
import structlog
from celery import Celery

from producer.contract import TASK_NAMES, Avatar, AvatarState, Decision, Opinion, Stage
from producer.dead_letters import DeadLetter, DeadLetters
from producer.endpoints import Endpoints
from producer.errors import (
    CallbackFailed,
    CallbackRefused,
    ImageChanged,
    Permanent,
    WorkerKilled,
)
from producer.metrics import CALLBACK, COST, DEAD, RETRIES, REVIEW, Recorder
from producer.outbox import CallbackEntry
from producer.store import Lease, Store, Transition, write_patiently
from producer.tracing import Span, span
from worker import retry
from worker.callback import CallbackSender
from worker.decode import Decoder
from worker.outcomes import Outcomes
from worker.review.answers import Answer, Answered, Approve, GiveUp, Hold, Wait
from worker.review.router import Router
from worker.views import Background

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

    def answer(self, *_: object, **__: object) -> None:
        """What the Celery task does; a newer version may send arguments, which change nothing."""
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

    def __init__(
        self,
        *,
        store: Store,
        sender: CallbackSender,
        dead_letters: DeadLetters,
        endpoints: Endpoints,
        schedule_s: Sequence[float],
        stop: threading.Event,
        recorder: Recorder,
    ) -> None:
        self._recorder = recorder
        self._store = store
        self._sender = sender
        self._dead_letters = dead_letters
        self._endpoints = endpoints
        self._schedule_s = schedule_s
        self._stop = stop

    def handle(self, line: str, lease: Lease, token: str) -> None:
        """One lease: delivered, due again later, or a dead letter."""
        try:
            entry = self._store.outbox.get(lease.item)
            if entry is None:
                self._store.drop(line, lease.item, token=token)
                return
            if lease.crashes >= retry.MAX_CRASHES:
                error = WorkerKilled(
                    f"the worker process died {lease.crashes} times with this callback in its hands"
                )
                self._after_error(line, entry, token, error, entry.attempts)
                return
            self._deliver(line, entry, token)
        except redis.RedisError as error:
            log.warning("callback_interrupted", item=lease.item, error=type(error).__name__)
        except Exception:
            log.exception("callback_crashed", item=lease.item)

    def _deliver(self, line: str, entry: CallbackEntry, token: str) -> None:
        attempt = entry.attempts + 1
        now_s = self._store.now()
        started_s = time.monotonic()
        try:
            status = self._send(entry, now_s, attempt)
        except Exception as error:  # noqa: BLE001 - the edge of one callback; retry.decide sorts it
            self._recorder.observe(CALLBACK, time.monotonic() - started_s, "failed")
            self._after_error(line, entry, token, error, attempt)
            return
        self._recorder.observe(CALLBACK, time.monotonic() - started_s, "delivered")
        detail = {"status": status, "attempts": attempt}
        write_patiently(
            lambda: self._store.outbox.end(entry, token=token, detail=detail), self._stop
        )
        log.info("callback_delivered", upload_id=entry.upload_id, seq=entry.seq, attempts=attempt)

    def _send(self, entry: CallbackEntry, now_s: float, attempt: int) -> int:
        with span("callback", upload_id=entry.upload_id, seq=entry.seq, attempt=attempt) as trace:
            try:
                status = self._sender.deliver(entry, now_s=now_s)
            except CallbackFailed as error:
                if error.status is not None:
                    trace.note(status=error.status)
                raise
            trace.note(status=status)
            return status

    def _after_error(
        self, line: str, entry: CallbackEntry, token: str, error: Exception, attempt: int
    ) -> None:
        decision = retry.decide(
            error,
            stage=Stage.CALLBACK,
            attempt=attempt,
            random=random.random,
            schedule_s=self._schedule_s,
        )
        gone = isinstance(error, CallbackRefused) and error.gone
        blameless = isinstance(error, WorkerKilled)
        if not blameless and self._endpoints.note_failure(entry, str(error), gone=gone):
            log.error("endpoint_disabled", url=entry.url.partition("?")[0], message=str(error))
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
            self._recorder.count(RETRIES, Stage.CALLBACK, type(error).__name__)
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
        ).after(self._dead_letters.get(entry.item))
        detail = {"attempts": attempt, "error": letter.error, "message": letter.message}
        write_patiently(
            lambda: self._store.outbox.end(
                entry, token=token, detail=detail, bury=letter.to_dict()
            ),
            self._stop,
        )
        self._recorder.count(DEAD, Stage.CALLBACK, letter.error)
        log.error(
            "callback_dead_lettered",
            upload_id=entry.upload_id,
            seq=entry.seq,
            message=letter.message,
            attempts=attempt,
        )


def shown_sha256(avatar: Avatar) -> str:
    """Names what a provider sees of an upload: its content, or one frame or background of it."""
    if not avatar.frame and not avatar.background:
        return avatar.sha256
    shown = f"{avatar.sha256} {avatar.frame} {avatar.background}"
    return hashlib.sha256(shown.encode()).hexdigest()


class ReviewStep:
    """Takes one gray upload one step further with the review providers."""

    def __init__(
        self,
        *,
        store: Store,
        outcomes: Outcomes,
        router: Router,
        fetch: Callable[[str, str], bytes],
        decoder: Decoder,
        stop: threading.Event,
        recorder: Recorder,
    ) -> None:
        self._recorder = recorder
        self._store = store
        self._outcomes = outcomes
        self._router = router
        self._fetch = fetch
        self._decoder = decoder
        self._stop = stop

    def handle(self, line: str, lease: Lease, token: str) -> None:
        """One lease: decided, held, due again later, or a dead letter."""
        try:
            avatar = self._store.get(lease.item)
            if avatar is None or avatar.state != AvatarState.REVIEWING:
                self._store.drop(line, lease.item, token=token)
                return
            try:
                with span("review", upload_id=avatar.upload_id) as trace:
                    change = self._step(avatar, lease, token, trace)
            except redis.RedisError:
                raise
            except Exception as error:  # noqa: BLE001 - the edge of one upload
                change = self._outcomes.after_error(
                    avatar, Stage.REVIEW, error, token=token, stop=self._stop
                )
            if change is not None:
                self._commit(change)
        except redis.RedisError as error:
            log.warning("review_interrupted", upload_id=lease.item, error=type(error).__name__)
        except Exception:
            log.exception("review_crashed", upload_id=lease.item)

    def _step(self, avatar: Avatar, lease: Lease, token: str, trace: Span) -> Transition | None:
        if lease.crashes >= retry.MAX_CRASHES:
            raise WorkerKilled(
                f"the worker process died {lease.crashes} times with this upload in its hands"
            )
        said = self._store.overruled(avatar.sha256)
        if said is not None:
            # An operator has decided about the same content while this upload waited.
            return self._overruled(avatar, said)
        answer = self._router.review(
            sha256=shown_sha256(avatar),
            region=avatar.region,
            jpeg=lambda: self._jpeg(avatar),
            probability=1.0 if avatar.probability is None else avatar.probability,
            attempts=avatar.attempts,
            waiting_since_s=self._store.now() - avatar.updated_at,
            tried=[entry for entry in avatar.tried.split(",") if entry],
        )
        trace.note(outcome=type(answer).__name__.lower())
        if isinstance(answer, Wait):
            self._wait(avatar, answer, token)
            return None
        return self._transition(avatar, answer)

    def _jpeg(self, avatar: Avatar) -> bytes:
        data = self._fetch(avatar.image, avatar.upload_id)
        if hashlib.sha256(data).hexdigest() != avatar.sha256:
            # Else an opinion on the one picture would hold for the other, now and ever after.
            raise ImageChanged("the picture is not the one that was scored; upload it anew")
        background = cast("Background", avatar.background)
        return self._decoder.normalise(data, frame=avatar.frame, background=background)

    def _wait(self, avatar: Avatar, answer: Wait, token: str) -> None:
        fields = {"tried": ",".join(answer.tried)}
        if answer.counts_as_attempt:
            fields["attempts"] = str(avatar.attempts + 1)
            fields["first_failed_at"] = str(avatar.first_failed_at or self._store.now())
        fresh = [o.to_dict() for o in answer.opinions if o.cost_yuan or o.raw is not None]
        if fresh:
            # Paid for without a transition: the ledger must know of the money and the raw reply,
            # which later answers repeat without.
            detail = {"opinions": fresh}
            self._store.events.note("opinion", avatar.upload_id, avatar.seq, "uncertain", detail)
        write_patiently(
            lambda: self._store.put_back(
                Stage.REVIEW,
                avatar.upload_id,
                token=token,
                priority=avatar.priority,
                delay_s=answer.delay_s,
                fields=fields,
            ),
            self._stop,
        )
        log.info(
            "upload_retried",
            upload_id=avatar.upload_id,
            stage=Stage.REVIEW.value,
            why=answer.why,
            message=answer.detail,
            delay_s=round(answer.delay_s, 2),
        )

    def _overruled(self, avatar: Avatar, said: dict[str, str]) -> Transition:
        fields = {**said, "attempts": "0", "first_failed_at": ""}
        to = AvatarState(fields.pop("state"))
        return Transition(
            avatar=avatar,
            to=to,
            fields=fields,
            leaves=Stage.REVIEW,
            detail=dict(fields),
            callback_url=self._outcomes.callback_url(avatar),
        )

    def _transition(self, avatar: Avatar, answer: Answer) -> Transition:
        fields = {"tried": ",".join(answer.tried), "attempts": "0", "first_failed_at": ""}
        detail: dict[str, Any] = {"tried": list(answer.tried)}
        match answer:
            case Answered(opinion=opinion):
                if not answer.reused:
                    self._count(opinion)
                to = (
                    AvatarState.APPROVED
                    if opinion.decision == Decision.APPROVE
                    else AvatarState.BLOCKED
                )
                fields |= {
                    "decided_by": f"review:{opinion.provider}",
                    "reason": opinion.labels[0][:60] if opinion.labels else opinion.decision.value,
                }
                detail |= {"opinions": [opinion.to_dict()], "reused": answer.reused}
            case Approve():
                to = AvatarState.APPROVED
                fields |= {"decided_by": "rule", "reason": answer.reason}
                detail["message"] = answer.detail
            case Hold():
                to = AvatarState.HELD
                for opinion in answer.opinions:
                    if opinion.cost_yuan:
                        self._count(opinion)
                fields["reason"] = answer.reason
                detail |= {
                    "message": answer.detail,
                    "opinions": [opinion.to_dict() for opinion in answer.opinions],
                }
            case GiveUp():
                raise Permanent(f"{type(answer.error).__name__}: {answer.error}") from answer.error
            case _:
                raise TypeError(f"the router answered {answer!r}")
        return Transition(
            avatar=avatar,
            to=to,
            fields=fields,
            leaves=Stage.REVIEW,
            detail={**fields, **detail},
            callback_url=self._outcomes.callback_url(avatar),
        )

    def _count(self, opinion: Opinion) -> None:
        self._recorder.observe(REVIEW, opinion.latency_s, opinion.provider, opinion.decision)
        self._recorder.count(COST, opinion.provider, by=opinion.cost_yuan)

    def _commit(self, change: Transition) -> None:
        [result] = write_patiently(lambda: self._store.advance([change]), self._stop)
        self._outcomes.wake([change])
        if result.applied:
            log.info(
                "verdict_reached",
                upload_id=change.avatar.upload_id,
                state=change.to.value,
                reason=change.fields.get("reason", ""),
                by=change.fields.get("decided_by", ""),
            )
