"""One step of a gray upload's review: ask the router, and write what it answers to the record."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from typing import Any

import redis
import structlog

from producer.contract import Avatar, AvatarState, Stage
from producer.errors import ImageChanged, Permanent, WorkerKilled
from producer.findings import Decision, Opinion
from producer.metrics import REVIEW, Recorder
from producer.record.store import Lease, Store, Transition, write_patiently
from producer.texts import of_error, say, told
from producer.tracing import Span, span
from worker import retry
from worker.outcomes import Outcomes
from worker.review.answers import Answer, Answered, Approve, GiveUp, Hold, Wait
from worker.review.router import Router

log = structlog.get_logger()


def fetch_scored(fetch: Callable[[str, str], bytes], avatar: Avatar) -> bytes:
    """The bytes of an upload's picture, as they were scored.

    Raises:
        ImageChanged: other bytes lie there now: an opinion on the one picture would hold for the
            other, now and ever after.
    """
    data = fetch(avatar.image, avatar.upload_id)
    if hashlib.sha256(data).hexdigest() != avatar.sha256:
        raise ImageChanged(say("the picture is not the one that was scored; upload it anew"))
    return data


class ProviderStep:
    """What asks the review providers about one upload, and notes what came of it.

    Args:
        fetch: image reference and upload id to bytes.
        normalise: those bytes and the record to the JPEG that a provider sees: the frame and
            background that the model found worst.
    """

    def __init__(
        self,
        *,
        store: Store,
        outcomes: Outcomes,
        router: Router,
        fetch: Callable[[str, str], bytes],
        normalise: Callable[[bytes, Avatar], bytes],
        stop: threading.Event,
        recorder: Recorder,
    ) -> None:
        self._recorder = recorder
        self._store = store
        self._outcomes = outcomes
        self._router = router
        self._fetch = fetch
        self._normalise = normalise
        self._stop = stop

    def _ask(self, avatar: Avatar, *, is_audit: bool = False) -> Answer:
        """What the router answers about the picture that was scored."""
        return self._router.review(
            upload_id=avatar.upload_id,
            seq=avatar.seq,
            sha256=avatar.shown_sha256,
            region=avatar.region,
            jpeg=lambda: self._normalise(fetch_scored(self._fetch, avatar), avatar),
            probability=1.0 if avatar.probability is None else avatar.probability,
            waiting_since_s=self._store.now() - avatar.updated_at,
            tried=[entry for entry in avatar.tried.split(",") if entry],
            is_audit=is_audit,
        )

    def _again(
        self, avatar: Avatar, stage: Stage, token: str, delay_s: float, **fields: str
    ) -> None:
        """Make it due again later, with record fields set."""
        write_patiently(
            lambda: self._store.put_back(
                stage,
                avatar.upload_id,
                token=token,
                priority=avatar.priority,
                delay_s=delay_s,
                fields=fields,
            ),
            self._stop,
        )

    def _count(self, opinions: Iterable[Opinion]) -> None:
        for opinion in opinions:
            if not opinion.reused:
                self._recorder.observe(
                    REVIEW, opinion.latency_s, opinion.provider, opinion.decision
                )


class ReviewStep(ProviderStep):
    """Takes one gray upload one step further."""

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
                say(
                    "the worker process died {crashes} times with this upload in its hands",
                    crashes=lease.crashes,
                )
            )
        said = self._store.overruled(avatar.sha256)
        if said is not None:
            # An operator has decided about the same content while this upload waited.
            return self._overruled(avatar, said)
        answer = self._ask(avatar)
        trace.note(outcome=type(answer).__name__.lower())
        if isinstance(answer, Wait):
            self._wait(avatar, answer, token)
            return None
        return self._transition(avatar, answer)

    def _wait(self, avatar: Avatar, answer: Wait, token: str) -> None:
        self._count(answer.opinions)
        self._again(avatar, Stage.REVIEW, token, answer.delay_s, tried=",".join(answer.tried))
        log.info(
            "upload_retried",
            upload_id=avatar.upload_id,
            stage=Stage.REVIEW.value,
            why=answer.why,
            message=answer.detail,
            delay_s=round(answer.delay_s, 2),
        )

    def _overruled(self, avatar: Avatar, said: dict[str, str]) -> Transition:
        fields = dict(said)
        to = AvatarState(fields.pop("state"))
        return Transition(
            avatar=avatar,
            to=to,
            fields=fields,
            leaves=Stage.REVIEW,
            detail=dict(fields),
        )

    def _transition(self, avatar: Avatar, answer: Answer) -> Transition:
        fields = {"tried": ",".join(answer.tried)}
        detail: dict[str, Any] = {"tried": list(answer.tried)}
        match answer:
            case Answered(opinion=opinion):
                self._count([opinion])
                to = (
                    AvatarState.APPROVED
                    if opinion.decision == Decision.APPROVE
                    else AvatarState.BLOCKED
                )
                fields |= {
                    "decided_by": f"review:{opinion.provider}",
                    "reason": opinion.labels[0][:60] if opinion.labels else opinion.decision.value,
                }
                detail |= {"opinions": _on_file([opinion]), "reused": opinion.reused}
            case Approve():
                to = AvatarState.APPROVED
                fields |= {"decided_by": "rule", "reason": answer.reason}
                detail |= told(answer.detail)
            case Hold():
                to = AvatarState.HELD
                self._count(answer.opinions)
                fields["reason"] = answer.reason
                detail |= {
                    **told(answer.detail),
                    "opinions": _on_file(answer.opinions),
                }
            case GiveUp():
                raise Permanent(
                    say(
                        "{who}: {error}",
                        who=type(answer.error).__name__,
                        error=of_error(answer.error),
                    )
                ) from answer.error
            case _:
                raise TypeError(f"the router answered {answer!r}")
        return Transition(
            avatar=avatar,
            to=to,
            fields=fields,
            leaves=Stage.REVIEW,
            detail={**fields, **detail},
        )

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


def _on_file(opinions: Iterable[Opinion]) -> list[dict[str, Any]]:
    """What a transition says of opinions: a call made now stands in the ledger by itself."""
    return [opinion.to_dict() for opinion in opinions if opinion.reused]
