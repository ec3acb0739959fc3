"""What a person decides about an upload: approve, block, or take such a decision back.

A decision is final and sticks to the content: the same bytes under any later upload id, with any
model, get the same answer until it is taken back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

from producer.contract import AUDIT_EXPLICIT, UNDONE, Avatar, AvatarState, Stage
from producer.errors import InvalidUpload, UnknownUpload
from producer.findings import Seen
from producer.reasons import check_block_reason
from producer.record.audits import OPEN, Label
from producer.record.claims import Claims
from producer.record.settling import NOTHING_SAID, Job, Settling, undo_of, word_of
from producer.record.store import Store, Transition

#: States that a person may decide about; a rejected upload is no usable picture.
DECIDABLE = frozenset(AvatarState) - {AvatarState.REJECTED}

#: Reasons of a rejection that may have been nobody's fault but ours: the store was not mounted, the
#: web tier replaced the file, the machine was slow.
RETRYABLE = frozenset({"missing", "changed", "too_slow"})

#: Reason of an upload whose owner objected to a block.
APPEALED = "appealed"

#: Characters of a moderator's note, and of what an owner writes.
MAX_NOTE, MAX_APPEAL = 500, 1000

#: How often a decision is tried again when a worker changes the record at the same moment.
TRIES = 5


#: Nobody says what they had in front of them.
NOT_SAID = Seen()


@dataclasses.dataclass(frozen=True)
class Why:
    """What a person says beside a decision.

    Attributes:
        reason: what it is blocked for, of `producer.reasons.BLOCK_REASONS`; empty: not said.
        note: for moderators only, at most 500 characters.
    """

    reason: str = ""
    note: str = ""

    def fields(self, to: AvatarState) -> dict[str, str]:
        """Record fields.

        Raises:
            InvalidUpload: the reason is none of the list, or belongs to no block; the note is
                too long.
        """
        if self.reason and to != AvatarState.BLOCKED:
            raise InvalidUpload(f"reason {self.reason!r} is for blocks only", field="reason")
        if len(self.note) > MAX_NOTE:
            raise InvalidUpload(f"a note has at most {MAX_NOTE} characters", field="note")
        return {"block_reason": check_block_reason(self.reason), "note": self.note}


@dataclasses.dataclass(frozen=True)
class Decided:
    """What came of a decision: the upload as it stands, and others that followed it."""

    avatar: Avatar
    others: list[Avatar]


class Outdated(InvalidUpload):
    """Raised when an upload is not what its decider saw any more; says who did what and when."""


class NotScored(InvalidUpload):
    """Raised when an upload would be approved that nothing has scored; says what to do instead."""


class Decisions:
    """Writes operators' decisions. Safe to share between threads and processes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.settling = Settling(store)

    def decide(
        self,
        upload_id: str,
        verdict: Literal["approved", "blocked"],
        *,
        by: str,
        seen: Seen = NOT_SAID,
        why: Why = Why(),
        copies: bool = False,
    ) -> Decided:
        """Approve or block a picture; deciding the same twice changes nothing.

        All that wait with the same content are settled by it and told.

        Args:
            upload_id: what is decided.
            verdict: the answer.
            by: the operator's name; recorded as `operator:<name>`.
            seen: what it is about. Of an upload that nothing has scored, the hash of what was shown
                becomes the record's, so that the block sticks to that content.
            why: what it is blocked for.
            copies: whether uploads with the same content are settled too that are decided
                otherwise by now.

        Raises:
            UnknownUpload: no such record.
            InvalidUpload: it was rejected: there is no usable picture to decide about.
            NotScored: it would be approved, and nothing has scored it.
            Outdated: it is not what was seen any more.
        """
        to = AvatarState(verdict)
        said = {"decided_by": f"operator:{by}", "reason": "overruled", **why.fields(to)}
        # Others follow what was seen of the picture, not of the record.
        others = {**said, "decided_on": Seen(sha256=seen.sha256).to_json()}
        job = Job(word=verdict, by=by, fields=others, copies=copies)

        def change(avatar: Avatar) -> Transition | None:
            if avatar.state not in DECIDABLE:
                raise InvalidUpload(
                    f"{upload_id} was rejected ({avatar.reason}): there is no picture to decide"
                )
            if self._is_said(avatar, to, copies):
                return None
            if to == AvatarState.BLOCKED:
                self._check_waiting(avatar, seen, by)
            self._check_seen(avatar, seen)
            if to == AvatarState.APPROVED and not is_scored(avatar):
                raise NotScored(
                    f"{upload_id} is {avatar.state} and nothing has scored it: {_instead(avatar)}"
                )
            found = {"sha256": seen.sha256} if not avatar.sha256 and seen.sha256 else {}
            fields = {**said, "decided_on": seen.to_json(), **found}
            return dataclasses.replace(word_of(by, avatar, to, fields), settles=job.settles())

        avatar = self._advance(upload_id, change)
        if avatar.sha256 and copies:
            self.settling.note(avatar.sha256, job)
        return self._settled(avatar, by)

    def undo(self, upload_id: str, *, by: str, seen: Seen = NOT_SAID) -> Decided:
        """Take an operator's decision back: held again, and no longer sticky.

        Others that were decided by it are what they were before: held, or approved or blocked; and
        what somebody else had said of the picture before sticks again.

        Raises:
            UnknownUpload: no such record.
            InvalidUpload: no operator has decided it, or it was rejected or discarded: there is no
                picture to hold.
        """

        def change(avatar: Avatar) -> Transition | None:
            if avatar.state == AvatarState.REJECTED:
                raise InvalidUpload(
                    f"{upload_id} was rejected ({avatar.reason}): there is no picture to hold"
                )
            is_persons = avatar.decided_by.startswith("operator:")
            waits = bool(self._store.approved_by(avatar))
            if not is_persons and not waits:
                raise InvalidUpload(f"{upload_id} was not decided by an operator")
            if avatar.state == AvatarState.HELD and not waits:
                return None
            self._check_waiting(avatar, seen, by)
            self._check_seen(avatar, seen)
            fields = {**NOTHING_SAID, "reason": UNDONE, "decided_on": seen.to_json()}
            said = word_of(by, avatar, AvatarState.HELD, fields)
            # Of an approval that waits for its safe copy nothing sticks yet.
            settles = undo_of(avatar, by).settles() if is_persons and not waits else None
            return dataclasses.replace(said, settles=settles)

        return self._settled(self._advance(upload_id, change), by)

    def _is_said(self, avatar: Avatar, to: AvatarState, copies: bool) -> bool:
        """Whether a person has said so; what all copies shall follow is the last word, too."""
        if avatar.state != to or not avatar.decided_by.startswith("operator:"):
            return False
        said = self._store.overruled(avatar.sha256) if copies and avatar.sha256 else None
        return said is None or said["state"] == to

    def _check_seen(self, avatar: Avatar, seen: Seen) -> None:
        """Once an earlier word on the picture has reached this upload, compare with what was seen.

        What that changes makes the step of this decision fail, and it is tried again.
        """
        if avatar.sha256:
            self.settling.finish(avatar.sha256)
        _check_seen(avatar, seen)

    def _check_waiting(self, avatar: Avatar, seen: Seen, by: str) -> None:
        """Whether somebody else's approval waits for its safe copy, and was not seen."""
        who = self._store.approved_by(avatar)
        if seen.seq is not None and who not in ("", by, seen.approved_by):
            raise Outdated(
                f"{avatar.upload_id} has changed meanwhile: approved (decided by {who}), waits for "
                f"its safe copy, seq {avatar.seq}; look at it again"
            )

    def _settled(self, avatar: Avatar, by: str) -> Decided:
        """Let others follow."""
        others = self.settling.finish(avatar.sha256) if avatar.sha256 else []
        Claims(self._store).release(by, [avatar.upload_id])
        return Decided(avatar, others)

    def appeal(self, upload_id: str, text: str) -> Avatar:
        """Let a blocked picture be looked at once more, because its owner objects; once.

        Raises:
            UnknownUpload: no such record.
            InvalidUpload: it is not blocked, was appealed against before, or the text is too long.
        """
        if len(text) > MAX_APPEAL:
            raise InvalidUpload(f"an appeal has at most {MAX_APPEAL} characters", field="text")

        def change(avatar: Avatar) -> Transition | None:
            if avatar.appealed_from and avatar.state == AvatarState.HELD:
                return None
            if avatar.appealed_from:
                raise InvalidUpload(f"{upload_id} was decided again after an appeal: that is final")
            if avatar.state != AvatarState.BLOCKED:
                raise InvalidUpload(f"{upload_id} is {avatar.state}; only a block can be appealed")
            fields = {
                "reason": APPEALED,
                "decided_by": "",
                "appeal": text,
                "appealed_from": avatar.decided_by or "unknown",
            }
            return dataclasses.replace(word_of("", avatar, AvatarState.HELD, fields), appeals=True)

        return self._advance(upload_id, change)

    def audit(self, upload_id: str, label: Literal["harmless", "explicit"], *, by: str) -> Avatar:
        """Say what an approval that is being audited is; an explicit one is held from then on.

        Raises:
            UnknownUpload: no such record.
            InvalidUpload: nobody asked, or it was answered.
            Outdated: somebody answered otherwise, or changed it, in this moment.
        """
        avatar = self._store.get(upload_id)
        if avatar is None:
            raise UnknownUpload(f"no record of {upload_id!r}: never enqueued, or expired")
        if avatar.audit not in OPEN:
            raise InvalidUpload(f"{upload_id} is not being audited")
        end_audit(self._store, avatar, label, by=by, decided_by=f"operator:{by}")
        present = self._store.get(upload_id) or avatar
        if present.audit != label:
            raise Outdated(
                f"{upload_id} has changed meanwhile: its audit stands at {present.audit}; "
                "look at it again"
            )
        return present

    def retry(self, upload_id: str, *, by: str) -> Avatar:
        """Let a rejected upload be looked at once more; a second call changes nothing.

        Raises:
            UnknownUpload: no such record.
            InvalidUpload: it was not rejected, or for what its bytes are.
        """

        def change(avatar: Avatar) -> Transition | None:
            if avatar.state == AvatarState.QUEUED:
                return None
            if avatar.state != AvatarState.REJECTED or avatar.reason not in RETRYABLE:
                why = f" ({avatar.reason})" if avatar.reason else ""
                raise InvalidUpload(
                    f"{upload_id} is {avatar.state}{why}; only what was rejected as "
                    f"{', '.join(sorted(RETRYABLE))} can be tried again"
                )
            fields = {"reason": "retried", "decided_by": ""}
            return dataclasses.replace(
                word_of(by, avatar, AvatarState.QUEUED, {**fields, "sha256": ""}),
                enters=Stage.MODERATE,
            )

        return self._advance(upload_id, change)

    def _advance(self, upload_id: str, change: Callable[[Avatar], Transition | None]) -> Avatar:
        for _ in range(TRIES):
            avatar = self._store.get(upload_id)
            if avatar is None:
                raise UnknownUpload(f"no record of {upload_id!r}: never enqueued, or expired")
            transition = change(avatar)
            if transition is None or self._store.advance([transition])[0].applied:
                return self._store.get(upload_id) or avatar
        raise UnknownUpload(f"{upload_id!r} changes faster than it can be decided; try again")


def end_audit(
    store: Store,
    avatar: Avatar,
    label: Label,
    fields: dict[str, str] | None = None,
    *,
    by: str = "",
    **said: Any,
) -> bool:
    """Write what an audit found; what is still approved and explicit is held with the same step.

    Args:
        store: with the record.
        avatar: as it was read.
        label: what was found.
        fields: record fields to set.
        by: the person who says so; empty for a provider.
        said: for the ledger, such as `decided_by` and `reason`.

    Returns:
        False when it was ended, or the upload changed, meanwhile.
    """
    fields = fields or {}
    if label != "explicit" or avatar.state != AvatarState.APPROVED:
        return store.audits.end(avatar, label, fields, **said)
    change = Transition(
        avatar=avatar,
        to=AvatarState.HELD,
        fields={**fields, "reason": AUDIT_EXPLICIT, "decided_by": ""},
        leaves=Stage.AUDIT,
        by=by,
        detail={"reason": AUDIT_EXPLICIT, **said},
        audit=label,
    )
    return store.advance([change])[0].applied


def is_scored(avatar: Avatar) -> bool:
    """Whether a model, a rule or an earlier verdict has looked at the bytes."""
    return bool(avatar.sha256 or avatar.approval) or avatar.state not in (
        AvatarState.QUEUED,
        AvatarState.DEAD,
    )


def _instead(avatar: Avatar) -> str:
    if avatar.state == AvatarState.DEAD:
        return "send it to the model again (replay or retry), then decide"
    return "wait for the model"


def _check_seen(avatar: Avatar, seen: Seen) -> None:
    other_seq = seen.seq is not None and seen.seq != avatar.seq
    other_bytes = seen.sha256 and avatar.sha256 and seen.sha256 != avatar.sha256
    if not other_seq and not other_bytes:
        return
    at = datetime.fromtimestamp(avatar.updated_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    who = avatar.decided_by.removeprefix("operator:") or "nobody yet"
    what = "is another picture now" if other_bytes else "has changed meanwhile"
    raise Outdated(
        f"{avatar.upload_id} {what}: {avatar.state} (decided by {who}) since {at}, "
        f"seq {avatar.seq}; look at it again"
    )
