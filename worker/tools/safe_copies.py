"""Safe copies for what was approved before they were switched on, by the records.

Records say what is missing, so that a run that was killed goes on with what is left, and a second
run does nothing. An approved upload stays approved, with or without a copy.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Iterable, Iterator

import structlog

from producer.contract import NO_CALLBACK, Avatar, AvatarState, Stage
from producer.errors import ModerationError, StorageUnavailable
from producer.record.store import Store, Transition
from worker.safe_copies import Copier
from worker.tools.files import pieces

log = structlog.get_logger()

#: Records read in one round trip.
PIECE = 100

#: Seconds until the next try while a store is away.
OUTAGE_WAIT_S = 2.0

#: Outcome of an upload that got its copy.
COPIED = "copied"


class CopyBackfill:
    """Goes through approved uploads without a copy.

    Args:
        store: the records.
        copier: makes the copies.
        callbacks: tell the web tier, which learns the copy's name by it.
        stop: ends the run; the next one goes on.
    """

    def __init__(
        self, store: Store, copier: Copier, *, callbacks: bool, stop: threading.Event
    ) -> None:
        self._store = store
        self._copier = copier
        self._callbacks = callbacks
        self._stop = stop
        self.outcomes: Counter[str] = Counter()

    def run(self, upload_ids: Iterable[str]) -> Iterator[str]:
        """Yield the outcome of each upload, so that the caller sets the pace."""
        for piece in pieces(upload_ids, PIECE):
            for avatar in self._store.get_many(piece):
                outcome = self._patiently(avatar)
                if self._stop.is_set() and not outcome:
                    return
                self.outcomes[outcome] += 1
                yield outcome

    def _patiently(self, avatar: Avatar | None) -> str:
        """The outcome of one upload; empty where `stop` came while a store was away."""
        while not self._stop.is_set():
            try:
                return self._one(avatar)
            except StorageUnavailable as error:
                log.warning("backfill_waits", error=type(error).__name__, message=str(error)[:200])
                self._stop.wait(OUTAGE_WAIT_S)
            except ModerationError as error:
                return error.code
        return ""

    def _one(self, avatar: Avatar | None) -> str:
        if avatar is None:
            return "expired"
        if avatar.state != AvatarState.APPROVED:
            return "not approved"
        if avatar.safe_copy is not None:
            return "has one"
        fields = self._copier.make(avatar, avatar.sha256)
        told = avatar if self._callbacks else dataclasses.replace(avatar, callback_url=NO_CALLBACK)
        change = Transition(
            avatar=told,
            to=AvatarState.APPROVED,
            fields=fields,
            leaves=Stage.COPY,
            detail={"decided_by": avatar.decided_by, "reason": avatar.reason, **fields},
        )
        if self._store.advance([change])[0].applied:
            return COPIED
        now = self._store.get(avatar.upload_id)
        if now is None or now.state != AvatarState.APPROVED:
            # Somebody blocked it meanwhile.
            self._copier.remove(avatar.upload_id)
        return "changed meanwhile"
