"""One step of an audit: a clear approval, drawn at random, is shown to a provider or to a person.

The approval stands meanwhile. What is found harmless changes nothing, what is found explicit is
held. Either way the answer is a label of a fair sample, from which the report tells how many
explicit pictures pass.
"""

from __future__ import annotations

from collections.abc import Callable

import redis
import structlog

from producer.contract import Avatar, AvatarState, Stage
from producer.findings import Decision
from producer.record.audits import Label
from producer.record.decisions import end_audit
from producer.record.store import Lease, write_patiently
from producer.record.transitions import COUNTERS
from worker import retry
from worker.review.answers import Answered, Hold, Wait
from worker.review.step import ProviderStep

log = structlog.get_logger()

#: What the end of an audit leaves behind in the record.
ENDED = {**COUNTERS, "tried": ""}


class AuditStep(ProviderStep):
    """Takes one audit one step further."""

    def may_run(self) -> bool:
        """Whether no gray upload is due: audits can wait, it cannot."""
        return self._store.oldest_due_at(Stage.REVIEW) is None

    def handle(self, line: str, lease: Lease, token: str) -> None:
        """One lease: answered, left to a person, or due again later."""
        try:
            avatar = self._store.get(lease.item)
            if avatar is None or avatar.audit != "due":
                self._store.drop(line, lease.item, token=token)
                return
            try:
                self._step(avatar, lease, token)
            except redis.RedisError:
                raise
            except Exception as error:  # noqa: BLE001 - the edge of one audit
                reason = self._outcomes.after_audit_error(
                    avatar, error, token=token, stop=self._stop
                )
                if reason:
                    self._end(avatar, "unanswered", token, reason=reason)
        except redis.RedisError as error:
            log.warning("audit_interrupted", upload_id=lease.item, error=type(error).__name__)
        except Exception:
            log.exception("audit_crashed", upload_id=lease.item)

    def _step(self, avatar: Avatar, lease: Lease, token: str) -> None:
        if lease.crashes >= retry.MAX_CRASHES:
            self._end(avatar, "unanswered", token, reason="worker_killed")
            return
        known = self._store.overruled(avatar.sha256)
        if known is not None:
            is_blocked = known["state"] == AvatarState.BLOCKED
            label: Label = "explicit" if is_blocked else "harmless"
            self._end(avatar, label, token, decided_by=known["decided_by"])
            return
        answer = self._ask(avatar, is_audit=True)
        match answer:
            case Wait():
                self._count(answer.opinions)
                self._again(
                    avatar, Stage.AUDIT, token, answer.delay_s, tried=",".join(answer.tried)
                )
            case Answered(opinion=opinion):
                self._count([opinion])
                label = "harmless" if opinion.decision == Decision.APPROVE else "explicit"
                self._end(avatar, label, token, decided_by=f"review:{opinion.provider}")
            case Hold(reason="budget_spent"):
                # Tomorrow's approvals are as good a sample as today's.
                self._end(avatar, "unanswered", token, reason=answer.reason)
            case _:
                self._count(answer.opinions if isinstance(answer, Hold) else ())
                self._write(avatar, token, lambda: self._store.audits.end(avatar, "person", ENDED))

    def _end(self, avatar: Avatar, label: Label, token: str, **said: str) -> None:
        if self._write(avatar, token, lambda: end_audit(self._store, avatar, label, ENDED, **said)):
            log.info("audit_answered", upload_id=avatar.upload_id, label=label, **said)

    def _write(self, avatar: Avatar, token: str, write: Callable[[], bool]) -> bool:
        is_written = write_patiently(write, self._stop)
        if not is_written:
            # It changed meanwhile; the next look sees how.
            self._again(avatar, Stage.AUDIT, token, 1.0)
        return is_written
