"""What follows a step that works on uploads: an error's outcome, a transition's doorbell.

After an error an upload is rejected, due again later, or a dead letter; after a transition whoever
acts next is woken. Callbacks have their own endings in tasks.py.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence

import redis
import structlog
from kombu.exceptions import OperationalError

from producer.contract import Avatar, AvatarState, Stage, callback_url_of
from producer.dead_letters import DeadLetter, DeadLetters
from producer.errors import ModerationError
from producer.metrics import DEAD, RETRIES, Recorder
from producer.store import Store, Transition, write_patiently
from worker import retry

log = structlog.get_logger()

#: Seconds between two doorbells for one stage from this process: its drain is under way then.
RING_EVERY_S = 0.1

#: Seconds for which this process leaves all ringing to the sweeper after a ring that failed: each
#: may wait four seconds for a broker that does not answer, and verdicts wait behind it.
LEAVE_S = 30.0

#: Seconds between two calls for help from this process.
HELP_EVERY_S = 0.5


class Outcomes:
    """Turns errors into transitions (the decision itself is `retry.decide`) and wakes who is next.

    Args:
        store: where uploads are made due again.
        default_callback_url: who hears of uploads that name nobody.
        recorder: counts.
        ring: wakes the workers of a stage; None leaves that to the sweeper's next tick.
    """

    def __init__(
        self,
        store: Store,
        default_callback_url: str,
        recorder: Recorder,
        ring: Callable[[Stage], object] | None = None,
    ) -> None:
        self._store = store
        self._ring = ring
        self._rang_s: dict[Stage, float] = {}
        self._left_until_s = 0.0
        self._recorder = recorder
        self._default_callback_url = default_callback_url
        self._dead_letters = DeadLetters(store, self.callback_url)

    def callback_url(self, avatar: Avatar) -> str:
        """Who hears of this upload; empty for nobody."""
        return callback_url_of(avatar, self._default_callback_url)

    def wake(self, transitions: Sequence[Transition]) -> None:
        """Ring for what written transitions made due, at most ten times a second for each stage.

        A ring that is left out or fails costs a second: the sweeper rings for all that is due.
        """
        stages = {change.enters for change in transitions if change.enters}
        if any(change.callback_url for change in transitions):
            stages.add(Stage.CALLBACK)
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
        except (redis.RedisError, OperationalError, OSError) as error:
            self._left_until_s = time.monotonic() + LEAVE_S
            log.warning("doorbell_failed", stage=stage, error=type(error).__name__)

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
        attempt = avatar.attempts + 1
        decision = retry.decide(error, stage=stage, attempt=attempt, random=random.random)
        if not isinstance(error, ModerationError):
            log.error("unexpected_error", upload_id=avatar.upload_id, exc_info=error)
        if isinstance(decision, retry.Retry):
            self._postpone(avatar, stage, error, decision.delay_s, token, stop)
            return None
        if isinstance(decision, retry.Reject):
            return self._reject(avatar, stage, error, decision.code, sha256)
        return self._bury(avatar, stage, error, decision.reason, attempt)

    def _postpone(
        self,
        avatar: Avatar,
        stage: Stage,
        error: BaseException,
        delay_s: float,
        token: str,
        stop: threading.Event,
    ) -> None:
        attempt = avatar.attempts + 1
        self._recorder.count(RETRIES, stage, type(error).__name__)
        log.info(
            "upload_retried",
            upload_id=avatar.upload_id,
            stage=stage.value,
            error=type(error).__name__,
            message=str(error)[:200],
            attempt=attempt,
            delay_s=round(delay_s, 2),
        )
        first_failed_at = avatar.first_failed_at or self._store.now()
        write_patiently(
            lambda: self._store.put_back(
                stage,
                avatar.upload_id,
                token=token,
                priority=avatar.priority,
                delay_s=delay_s,
                fields={"attempts": str(attempt), "first_failed_at": str(first_failed_at)},
            ),
            stop,
        )

    def _reject(
        self, avatar: Avatar, stage: Stage, error: BaseException, code: str, sha256: str
    ) -> Transition:
        fields = {"reason": code, "decided_by": "rule", "attempts": "0"}
        if sha256:
            fields["sha256"] = sha256
        return Transition(
            avatar=avatar,
            to=AvatarState.REJECTED,
            fields=fields,
            leaves=stage,
            detail={**fields, "message": str(error)[:200]},
            callback_url=self.callback_url(avatar),
        )

    def _bury(
        self, avatar: Avatar, stage: Stage, error: BaseException, reason: str, attempts: int
    ) -> Transition:
        letter = DeadLetter.of(
            avatar.upload_id,
            stage,
            error,
            attempts=attempts,
            first_failed_at=avatar.first_failed_at,
            now=self._store.now(),
        ).after(self._dead_letters.get(avatar.upload_id))
        self._recorder.count(DEAD, stage, letter.error)
        log.error(
            "upload_dead_lettered",
            upload_id=avatar.upload_id,
            stage=stage.value,
            error=letter.error,
            reason=reason,
            attempts=attempts,
        )
        return Transition(
            avatar=avatar,
            to=AvatarState.DEAD,
            fields={"reason": reason},
            leaves=stage,
            detail={"stage": stage.value, "error": letter.error, "message": letter.message},
            callback_url=self.callback_url(avatar),
            bury=letter.to_dict(),
        )
