"""What a person decides about an upload: approve, block, or take such a decision back.

A decision is final and sticks to the content: the same bytes under any later upload id, with any
model, get the same answer until it is taken back.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Literal

from producer.contract import Avatar, AvatarState, Stage
from producer.errors import InvalidUpload, UnknownUpload
from producer.store import Store, Transition

#: States that a person may decide about; a rejected upload is no usable picture.
DECIDABLE = frozenset(AvatarState) - {AvatarState.REJECTED}

#: The stage that an undecided state waits in.
STAGE_OF = {AvatarState.QUEUED: Stage.MODERATE, AvatarState.REVIEWING: Stage.REVIEW}

#: Reason of an upload whose decision was taken back; the ledger's labels know it by this.
UNDONE = "undone"

#: How often a decision is tried again when a worker changes the record at the same moment.
TRIES = 5


class Decisions:
    """Writes operators' decisions. Safe to share between threads and processes."""

    def __init__(self, store: Store, callback_url: Callable[[Avatar], str]) -> None:
        self._store = store
        self._callback_url = callback_url

    def decide(self, upload_id: str, verdict: Literal["approved", "blocked"], *, by: str) -> Avatar:
        """Approve or block; deciding the same twice changes nothing.

        Args:
            upload_id: what is decided.
            verdict: the answer.
            by: the operator's name; recorded as `operator:<name>`.

        Returns:
            The record as it stands then.

        Raises:
            UnknownUpload: no such record.
            InvalidUpload: it was rejected: there is no usable picture to decide about.
        """
        to = AvatarState(verdict)

        def change(avatar: Avatar) -> Transition | None:
            if avatar.state not in DECIDABLE:
                raise InvalidUpload(
                    f"{upload_id} was rejected ({avatar.reason}): there is no picture to decide"
                )
            fields = {"decided_by": f"operator:{by}", "reason": "overruled"}
            if avatar.state == to and avatar.decided_by.startswith("operator:"):
                return None
            return self._transition(avatar, to, fields, by)

        avatar = self._advance(upload_id, change)
        if avatar.sha256:
            sticky = {"state": verdict, "reason": "overruled", "decided_by": f"operator:{by}"}
            self._store.redis.set(self._store.key("overrule", avatar.sha256), json.dumps(sticky))
        return avatar

    def undo(self, upload_id: str, *, by: str) -> Avatar:
        """Take an operator's decision back: held again, and no longer sticky.

        Raises:
            UnknownUpload: no such record.
            InvalidUpload: no operator has decided it.
        """

        def change(avatar: Avatar) -> Transition | None:
            if not avatar.decided_by.startswith("operator:"):
                raise InvalidUpload(f"{upload_id} was not decided by an operator")
            if avatar.state == AvatarState.HELD:
                return None
            return self._transition(
                avatar, AvatarState.HELD, {"decided_by": "", "reason": UNDONE}, by
            )

        avatar = self._advance(upload_id, change)
        if avatar.sha256:
            self._store.redis.delete(self._store.key("overrule", avatar.sha256))
        return avatar

    def _transition(
        self, avatar: Avatar, to: AvatarState, fields: dict[str, str], by: str
    ) -> Transition:
        return Transition(
            avatar=avatar,
            to=to,
            fields=fields,
            leaves=STAGE_OF.get(avatar.state),
            detail={**fields, "by": by},
            callback_url=self._callback_url(avatar),
            unbury=avatar.state == AvatarState.DEAD,
        )

    def _advance(self, upload_id: str, change: Callable[[Avatar], Transition | None]) -> Avatar:
        for _ in range(TRIES):
            avatar = self._store.get(upload_id)
            if avatar is None:
                raise UnknownUpload(f"no record of {upload_id!r}: never enqueued, or expired")
            transition = change(avatar)
            if transition is None or self._store.advance([transition])[0].applied:
                return self._store.get(upload_id) or avatar
        raise UnknownUpload(f"{upload_id!r} changes faster than it can be decided; try again")
