"""Each change of an upload that was accepted: one Lua script that does all of it, or nothing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, Literal

from producer.contract import FINAL_STATES, Avatar, AvatarState, Stage
from producer.record.audits import Audits, Label
from producer.record.base import Step
from producer.record.changes import LISTED_S
from producer.record.copies import Copies
from producer.record.hearers import Hearers
from producer.record.keyspace import callback_line
from producer.record.memory import said_of, step_keys

#: The stage that an undecided state waits in.
STAGE_OF = {AvatarState.QUEUED: Stage.MODERATE, AvatarState.REVIEWING: Stage.REVIEW}

#: What a machine may say only where no person said otherwise of the content; a review asks first.
OPINIONS = frozenset({AvatarState.APPROVED, AvatarState.BLOCKED, AvatarState.HELD})

#: Record fields that count the failures of one stage; they end with it.
COUNTERS = {"attempts": "0", "first_failed_at": "", "failures": ""}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transition:
    """One change of one upload, as a worker or an operator wants it.

    Args:
        avatar: the record as it was read; its state and seq must still hold.
        to: the new state.
        fields: record fields to set, by name.
        leaves: the line whose lease ends with this transition.
        enters: the stage that acts next, if any, after `delay_s` seconds.
        by: the person who does this; empty for a machine.
        detail: goes into the ledger beside the transition; JSON-ready.
        bury: a dead letter to write (JSON-ready), or None.
        unbury: remove the upload's dead letter (a replay).
        audit: how an open audit of the upload ends with this; empty where it goes on.
        remember: (content, JSON) of a verdict to keep for the same content, see `Store.known`.
        settles: what others with the same content follow, see `Settling`; None: nothing.
        appeals: its owner objects: it waits in a lane of its own.
    """

    avatar: Avatar
    to: AvatarState
    fields: dict[str, str] = dataclasses.field(default_factory=dict)
    leaves: Stage | None = None
    enters: Stage | None = None
    delay_s: float = 0.0
    by: str = ""
    detail: dict[str, Any] = dataclasses.field(default_factory=dict)
    bury: dict[str, Any] | None = None
    unbury: bool = False
    audit: Label | Literal[""] = ""
    settles: dict[str, Any] | None = None
    appeals: bool = False
    remember: tuple[tuple[str, ...], str] | None = None

    @property
    def obeys(self) -> bool:
        """Whether a person's word on the content overrules it."""
        return not self.by and self.to in OPINIONS and self.avatar.state in STAGE_OF

    @property
    def is_verdict(self) -> bool:
        """Whether the machine got an upload through its model, whatever it said."""
        return (
            not self.by and self.avatar.state == AvatarState.QUEUED and self.to != AvatarState.DEAD
        )


@dataclasses.dataclass(frozen=True)
class Advanced:
    """What came of a transition: `applied`, or the present state that stood against it."""

    applied: bool
    state: str
    seq: int


class Transitions(Hearers):
    """Applies transitions."""

    copies: Copies
    audits: Audits

    # -- safe copies ---------------------------------------------------------------------------

    def copy_follows(self, change: Transition) -> bool:
        """Whether a safe copy is to be written before this change, or removed after it."""
        if change.leaves == Stage.COPY:
            return False
        if change.to != AvatarState.APPROVED:
            return change.avatar.safe_copy is not None
        # What was approved before copies were promised keeps its verdict without one.
        return change.avatar.state != AvatarState.APPROVED and self.copies.are_promised()

    def approval_of(self, avatar: Avatar) -> Transition | None:
        """The approval that waits for a safe copy; None where none does, or no longer."""
        said = json.loads(avatar.approval or "{}")
        if said.pop("seq", None) != avatar.seq:
            return None
        return Transition(avatar=avatar, to=AvatarState.APPROVED, leaves=Stage.COPY, **said)

    def approved_by(self, avatar: Avatar) -> str:
        """The person whose approval waits for a safe copy; empty where none does."""
        approval = self.approval_of(avatar)
        return approval.by if approval is not None else ""

    def _deferral(self, change: Transition) -> Step:
        avatar, keys = change.avatar, self.keys
        leaves = change.leaves or Stage.MODERATE
        content, verdict = change.remember or ((), None)
        approval = {
            "seq": avatar.seq,
            "fields": change.fields,
            "by": change.by,
            "detail": change.detail,
            "unbury": change.unbury,
            "settles": change.settles,
        }
        return Step(
            "defer",
            [
                keys.avatar(avatar.upload_id),
                keys.lease(leaves),
                keys.holder(leaves),
                keys.crashes(leaves),
                keys.due(leaves, avatar.priority),
                keys.due(Stage.COPY, avatar.priority),
                keys.verdict(*content),
            ],
            {
                "id": avatar.upload_id,
                "seq": avatar.seq,
                "from": avatar.state,
                "fields": {**COUNTERS, "approval": json.dumps(approval)},
                "remember": verdict,
                "remember_s": self.base.record_ttl_s,
            },
        )

    # -- changing ------------------------------------------------------------------------------

    def advance(self, transitions: Sequence[Transition]) -> list[Advanced]:
        """Apply transitions, each atomic by itself, in one round trip; order is kept.

        Each tells whoever hears of the upload, and ends the counts of failures of the stage that
        it leaves. Where safe copies are promised, an approval waits for its copy: the upload keeps
        its state, nobody is told, and `Stage.COPY` goes on with `approval_of`.
        """
        if not transitions:
            return []
        answers = self.base.run_all([self._step(change) for change in transitions])
        done = [Advanced(bool(ok), state, int(seq)) for ok, state, seq in answers]
        self.base.note_seq(max(result.seq for result in done))
        return done

    def _step(self, change: Transition) -> Step:
        avatar, keys = change.avatar, self.keys
        if change.to == AvatarState.APPROVED and self.copy_follows(change):
            return self._deferral(change)
        leaves = change.leaves or Stage.MODERATE
        enters = change.enters or leaves
        fields = change.fields
        if avatar.attempts and change.to != AvatarState.DEAD:
            fields = {**COUNTERS, **fields}
        drops_copy = avatar.safe_copy is not None and change.to != AvatarState.APPROVED
        if drops_copy:
            fields = {**fields, "safe_copy": ""}
        if avatar.subject and change.to == AvatarState.BLOCKED:
            fields = {**fields, "subject_blocked": str(self._blocked_of(avatar) + 1)}
        settles = change.settles is not None
        memory = said_of(
            avatar, change.to, fields, by=change.by, leaves=change.leaves, settles=settles
        )
        remembering = step_keys(self.base, memory)
        callback = self._callback(avatar, change.to, fields)
        item, endpoint = (callback["item"], callback["endpoint"]) if callback else ("", "")
        content, verdict = change.remember or ((), None)
        sha256 = fields.get("sha256") or avatar.sha256
        return Step(
            "transition",
            [
                keys.avatar(avatar.upload_id),
                keys.events,
                keys.counts,
                keys.open(avatar.state),
                keys.open(change.to),
                keys.lease(leaves),
                keys.holder(leaves),
                keys.crashes(leaves),
                keys.due(leaves, avatar.priority),
                keys.due(enters, avatar.priority),
                keys.callback(item),
                keys.due(callback_line(endpoint), avatar.priority),
                keys.endpoints,
                keys.dead,
                keys.letter(avatar.upload_id),
                keys.due(Stage.COPY, avatar.priority),
                keys.due(Stage.AUDIT, avatar.priority),
                keys.audits,
                keys.audits_explicit,
                keys.doubted(avatar.sha256),
                keys.data_set,
                keys.verdict(*content),
                *remembering[:6],
                keys.same(sha256, "waiting"),
                keys.same(sha256, "decided"),
                keys.overrule(sha256),
                keys.settling,
                keys.appeals,
                keys.blocked(avatar.subject),
                keys.changes,
                remembering[7],
                keys.due(STAGE_OF.get(avatar.state, leaves), avatar.priority),
            ],
            {
                "id": avatar.upload_id,
                "changes_s": LISTED_S,
                "seq": avatar.seq,
                "from": avatar.state,
                "to": change.to,
                "sha256": sha256,
                "subject": bool(avatar.subject),
                "keep_s": self.base.record_ttl_s,
                "settles": change.settles if sha256 else None,
                "appeals": change.appeals,
                "obeys": change.obeys,
                "fields": fields,
                "enters_after_s": change.delay_s if change.enters is not None else None,
                "ttl_s": self.base.record_ttl_s if change.to in FINAL_STATES else None,
                "drops_copy": drops_copy,
                "is_verdict": change.is_verdict,
                "detail": json.dumps({**change.detail, **({"by": change.by} if change.by else {})}),
                "callback": callback,
                "letter": json.dumps(change.bury) if change.bury is not None else None,
                "unbury": change.unbury,
                "letter_ttl_s": self.base.record_ttl_s,
                "audit": self._audit(change),
                "seq_from": self.base.seq_from,
                "remember": verdict,
                "remember_s": self.base.record_ttl_s,
                "memory": {**memory, "seen_ttl_s": self.base.record_ttl_s} if memory else None,
            },
        )

    def _blocked_of(self, avatar: Avatar) -> int:
        """How many other pictures of the same person are blocked."""
        pipe = self.base.redis.pipeline(transaction=False)
        pipe.scard(self.keys.blocked(avatar.subject))
        pipe.sismember(self.keys.blocked(avatar.subject), avatar.upload_id)
        count, is_counted = pipe.execute()
        return int(count) - int(is_counted)

    def _audit(self, change: Transition) -> dict[str, Any] | None:
        """Whether a clear approval was drawn for an audit, or how its audit ends; None: neither."""
        avatar = change.avatar
        if change.audit:
            label = self.audits.label(avatar, **change.detail)
            return {"to": change.audit, "label": label, "doubt_ttl_s": self.base.record_ttl_s}
        decided_by = change.fields.get("decided_by", "")
        is_clear = change.is_verdict and change.to == AvatarState.APPROVED
        if not is_clear or avatar.audit or decided_by.startswith("operator:"):
            return None
        return {"to": "due"} if self.audits.draws(avatar.upload_id) else None
