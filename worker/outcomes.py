"""What follows a step of any of the three stages: an error's outcome, a transition's doorbell.

After an error an upload is rejected, due again later, or a dead letter, and a callback one of the
last two; after a transition whoever acts next is woken.
"""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from collections.abc import Callable, Sequence

import redis
import structlog

from producer.contract import Avatar, AvatarState, Priority, Stage
from producer.errors import BrokerUnavailable, ModerationError
from producer.metrics import DEAD, RETRIES, Recorder
from producer.record.dead_letters import DeadLetter, DeadLetters
from producer.record.keyspace import callback_line
from producer.record.outbox import CallbackEntry
from producer.record.store import Store, Transition, write_patiently
from producer.texts import of_error, told
from worker import retry

log = structlog.get_logger()

#: Seconds between two doorbells for one stage from this process: its drain is under way then.
RING_EVERY_S = 0.1

#: Seconds for which this process leaves all ringing to the sweeper after a ring that failed: each
#: may wait four seconds for a broker that does not answer, and verdicts wait behind it.
LEAVE_S = 30.0

#: Seconds between two calls for help from this process.
HELP_EVERY_S = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """One more failed attempt at an item that this process holds.

    Args:
        line: where it is held, and due again after a retry.
        attempts: how many have failed by now, this one included.
        of_kind: how many of these in the same way.
        first_failed_at: seconds since the epoch; 0: this is the first.
        counted: fields of the item after this attempt.
        facts: name the item in the log.
    """

    item: str
    stage: Stage
    error: BaseException
    line: str
    token: str
    priority: Priority
    attempts: int
    of_kind: int
    first_failed_at: float
    counted: dict[str, str]
    facts: dict[str, object]


class Outcomes:
    """Turns errors into transitions (the decision itself is `retry.decide`) and wakes who is next.

    Args:
        store: where uploads are made due again.
        recorder: counts.
        ring: wakes the workers of a stage; None leaves that to the sweeper's next tick.
    """

    def __init__(
        self,
        store: Store,
        recorder: Recorder,
        ring: Callable[[Stage], object] | None = None,
    ) -> None:
        self._store = store
        self._ring = ring
        self._rang_s: dict[Stage, float] = {}
        self._left_until_s = 0.0
        self._recorder = recorder
        self._dead_letters = DeadLetters(store)

    def wake(self, transitions: Sequence[Transition]) -> None:
        """Ring for what written transitions made due, at most ten times a second for each stage.

        A ring that is left out or fails costs a second: the sweeper rings for all that is due.
        """
        stages = {change.enters for change in transitions if change.enters}
        if any(self._store.callback_url(change.avatar) for change in transitions):
            stages.add(Stage.CALLBACK)
        if any(self._store.copy_follows(change) for change in transitions):
            stages.add(Stage.COPY)
        for stage in stages:
            self._wake(stage, RING_EVERY_S)

    def call_help(self, stage: Stage) -> None:
        """Ring once more for a stage that has more due than this process takes at once.

        The last doorbell may have reached a worker that was busy already, and until its mark
        expires nobody else rings: a burst would wake the idle workers one every few seconds.
        """
        self._wake(stage, HELP_EVERY_S, anew=True)

    def _wake(self, stage: Stage, every_s: float, *, anew: bool = False) -> None:
        now_s = time.monotonic()
        if self._ring is None or now_s < self._left_until_s:
            return
        if now_s - self._rang_s.get(stage, -every_s) < every_s:
            return
        self._rang_s[stage] = now_s
        try:
            if anew:
                self._store.answer_bell(stage)
            self._ring(stage)
        except (redis.RedisError, BrokerUnavailable) as error:
            self._left_until_s = time.monotonic() + LEAVE_S
            log.warning("doorbell_failed", stage=stage, error=str(error))

    def after_error(
        self,
        avatar: Avatar,
        stage: Stage,
        error: BaseException,
        *,
        token: str,
        stop: threading.Event,
        sha256: str = "",
    ) -> Transition | None:
        """The transition that follows an error, or None when the upload was made due again."""
        failure = self._failure(avatar, stage, error, token)
        decision = self._decide(failure, None, stop)
        if isinstance(decision, retry.Retry):
            return None
        if isinstance(decision, retry.Reject):
            return self._reject(avatar, stage, error, decision.code, sha256)
        letter = self._letter(failure, decision.reason)
        return Transition(
            avatar=avatar,
            to=AvatarState.DEAD,
            fields={"reason": decision.reason},
            leaves=stage,
            detail={"stage": stage.value, "error": letter.error, **told(letter.said)},
            bury=letter.to_dict(),
        )

    def after_audit_error(
        self, avatar: Avatar, error: BaseException, *, token: str, stop: threading.Event
    ) -> str:
        """Make an audit due again; else why there is no answer. The approval is not touched."""
        decision = self._decide(self._failure(avatar, Stage.AUDIT, error, token), None, stop)
        match decision:
            case retry.Reject():
                return decision.code
            case retry.DeadLetter():
                return decision.reason
        return ""

    def _failure(self, avatar: Avatar, stage: Stage, error: BaseException, token: str) -> Failure:
        kind = retry.kind_of(error)
        return Failure(
            item=avatar.upload_id,
            stage=stage,
            error=error,
            line=stage,
            token=token,
            priority=avatar.priority,
            attempts=avatar.attempts + 1,
            of_kind=avatar.failures_of(kind) + 1,
            first_failed_at=avatar.first_failed_at,
            counted=avatar.after_failure(kind, self._store.now()),
            facts={"upload_id": avatar.upload_id},
        )

    def after_callback_error(
        self,
        entry: CallbackEntry,
        error: BaseException,
        *,
        attempts: int,
        schedule_s: Sequence[float],
        token: str,
        stop: threading.Event,
    ) -> None:
        """Make a callback due again, or end it in the dead letters."""
        first_failed_at = entry.first_failed_at or self._store.now()
        failure = Failure(
            item=entry.item,
            stage=Stage.CALLBACK,
            error=error,
            line=callback_line(entry.endpoint),
            token=token,
            priority=Avatar.priority,
            attempts=attempts,
            of_kind=attempts,
            first_failed_at=first_failed_at,
            counted={"attempts": str(attempts), "first_failed_at": str(first_failed_at)},
            facts={"upload_id": entry.upload_id, "seq": entry.seq},
        )
        decision = self._decide(failure, schedule_s, stop)
        if isinstance(decision, retry.Retry):
            return
        reason = decision.code if isinstance(decision, retry.Reject) else decision.reason
        letter = self._letter(failure, reason)
        detail = {"attempts": attempts, "error": letter.error, **told(letter.said)}
        write_patiently(
            lambda: self._store.outbox.end(
                entry, token=token, detail=detail, bury=letter.to_dict()
            ),
            stop,
        )

    def _decide(
        self, failure: Failure, schedule_s: Sequence[float] | None, stop: threading.Event
    ) -> retry.RetryDecision:
        """What follows; a retry is written here, the rest is the caller's to write."""
        error = failure.error
        decision = retry.decide(
            error,
            stage=failure.stage,
            attempt=failure.of_kind,
            random=random.random,
            schedule_s=schedule_s,
        )
        if not isinstance(error, ModerationError):
            log.error("unexpected_error", **failure.facts, exc_info=error)
        if isinstance(decision, retry.Retry):
            self._postpone(failure, decision.delay_s, stop)
        return decision

    def _postpone(self, failure: Failure, delay_s: float, stop: threading.Event) -> None:
        name = type(failure.error).__name__
        self._recorder.count(RETRIES, failure.stage, name)
        log.info(
            "upload_retried",
            **failure.facts,
            stage=failure.stage.value,
            error=name,
            message=str(failure.error)[:200],
            attempt=failure.attempts,
            delay_s=round(delay_s, 2),
        )
        write_patiently(
            lambda: self._store.put_back(
                failure.line,
                failure.item,
                token=failure.token,
                priority=failure.priority,
                delay_s=delay_s,
                fields=failure.counted,
            ),
            stop,
        )

    def _reject(
        self, avatar: Avatar, stage: Stage, error: BaseException, code: str, sha256: str
    ) -> Transition:
        fields = {"reason": code, "decided_by": "rule"}
        if sha256:
            fields["sha256"] = sha256
        return Transition(
            avatar=avatar,
            to=AvatarState.REJECTED,
            fields=fields,
            leaves=stage,
            detail={**fields, **told(of_error(error, 200))},
        )

    def _letter(self, failure: Failure, reason: str) -> DeadLetter:
        letter = DeadLetter.of(
            failure.item,
            failure.stage,
            failure.error,
            attempts=failure.attempts,
            first_failed_at=failure.first_failed_at,
            now=self._store.now(),
        ).after(self._dead_letters.get(failure.item))
        self._recorder.count(DEAD, failure.stage, letter.error)
        log.error(
            "upload_dead_lettered",
            **failure.facts,
            stage=failure.stage.value,
            error=letter.error,
            message=letter.message,
            reason=reason,
            attempts=failure.attempts,
        )
        return letter
