"""The step before an approval is told: what was scored is encoded anew and kept for the web tier.

Whoever approves (the model, the cache, a rule, a review provider, a person) only notes the approval
where safe copies are promised, see `Store.advance`; this step writes the copy and commits it. It is
the one place that every approval passes, and it is in the io worker: a person's console cannot
decode, and a slow store must not hold the model. It also removes the copy of what no longer is
approved.
"""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Callable
from typing import Protocol

import redis
import structlog

from producer.contract import Avatar, AvatarState, Stage
from producer.errors import ImageChanged, WorkerKilled
from producer.findings import SafeCopy
from producer.record.store import Lease, Store, Transition, write_patiently
from producer.safe_copies import SafeCopies
from producer.texts import say
from producer.tracing import span
from worker import retry
from worker.outcomes import Outcomes

log = structlog.get_logger()


class Encoder(Protocol):
    """Bytes to a copy; see worker/image/decoder.py."""

    def safe_copy(self, data: bytes, max_side_px: int) -> tuple[bytes, str, int, int]:
        """A file, its media type, its width and its height, or InvalidInput."""


class Copier:
    """Makes the safe copy of one upload. Safe to share between threads.

    Args:
        store: notes that there is a copy.
        fetch: image reference and upload id to bytes.
        encoder: those bytes to the copy.
        copies: where it is kept.
        max_side_px: longest side of a copy.
    """

    def __init__(
        self,
        *,
        store: Store,
        fetch: Callable[[str, str], bytes],
        encoder: Encoder,
        copies: SafeCopies,
        max_side_px: int,
    ) -> None:
        self._store = store
        self._fetch = fetch
        self._encoder = encoder
        self._copies = copies
        self._max_side_px = max_side_px

    @property
    def fault(self) -> str:
        """What an operator must repair at the store for safe copies; empty: nothing."""
        return self._copies.fault

    def make(self, avatar: Avatar, sha256: str) -> dict[str, str]:
        """Write the copy of an upload; returns the record fields that name it.

        Args:
            avatar: the upload.
            sha256: of the bytes that were scored; empty where nobody has looked at them.

        Raises:
            ImageChanged: other bytes lie there now.
            ModerationError: they cannot be had or encoded, or the store does not take the copy.
        """
        data = self._fetch(avatar.image, avatar.upload_id)
        found = hashlib.sha256(data).hexdigest()
        if sha256 and found != sha256:
            raise ImageChanged(say("the picture is not the one that was scored; upload it anew"))
        encoded, media_type, width_px, height_px = self._encoder.safe_copy(data, self._max_side_px)
        # Before it is written: whatever happens next, retention knows of it.
        self._store.copies.note(avatar.upload_id)
        copy = SafeCopy(
            name=self._copies.put(avatar.upload_id, encoded, media_type),
            sha256=hashlib.sha256(encoded).hexdigest(),
            media_type=media_type,
            width_px=width_px,
            height_px=height_px,
        )
        return {"sha256": found, "safe_copy": copy.to_json()}

    def remove(self, upload_id: str) -> None:
        """Delete the copy of an upload; nothing happens when there is none.

        Raises:
            StorageUnavailable: the store does not delete it.
        """
        self._copies.remove(upload_id)
        self._store.copies.forget(upload_id)


class CopyStep:
    """Takes one upload whose approval waits, or whose copy is to go.

    Args:
        copier: None where safe copies are off: what waits is approved without one.
    """

    def __init__(
        self, *, store: Store, outcomes: Outcomes, copier: Copier | None, stop: threading.Event
    ) -> None:
        self._store = store
        self._outcomes = outcomes
        self._copier = copier
        self._stop = stop

    def handle(self, line: str, lease: Lease, token: str) -> None:
        """One lease: approved, its copy removed, due again later, rejected, or a dead letter."""
        try:
            avatar = self._store.get(lease.item)
            approval = self._store.approval_of(avatar) if avatar is not None else None
            if avatar is not None and approval is not None:
                self._approve(avatar, approval, lease, token)
            else:
                self._clean(avatar, lease, token)
        except redis.RedisError as error:
            log.warning("copy_interrupted", upload_id=lease.item, error=type(error).__name__)
        except Exception:
            log.exception("copy_crashed", upload_id=lease.item)

    def _approve(self, avatar: Avatar, approval: Transition, lease: Lease, token: str) -> None:
        change: Transition | None
        try:
            if lease.crashes >= retry.MAX_CRASHES:
                raise WorkerKilled(
                    say(
                        "the worker process died {crashes} times with this upload in its hands",
                        crashes=lease.crashes,
                    )
                )
            change = self._with_copy(avatar, approval)
        except redis.RedisError:
            raise
        except Exception as error:  # noqa: BLE001 - the edge of one upload; retry.decide sorts it
            change = self._outcomes.after_error(
                avatar, Stage.COPY, error, token=token, stop=self._stop
            )
        if change is None:
            return
        if avatar.state == AvatarState.DEAD:
            change = dataclasses.replace(change, unbury=True)
        [result] = write_patiently(lambda: self._store.advance([change]), self._stop)
        self._outcomes.wake([change])
        if result.applied and change.to == AvatarState.APPROVED:
            log.info("safe_copy_written", upload_id=lease.item)
            return
        reason = change.fields.get("reason", "")
        log.info("verdict_reached", upload_id=lease.item, state=result.state, reason=reason)
        # A person was faster, or it was no picture after all: no copy may stay.
        self._clean(self._store.get(lease.item), lease, token)

    def _with_copy(self, avatar: Avatar, approval: Transition) -> Transition:
        if self._copier is None:
            return approval
        with span("copy", upload_id=avatar.upload_id):
            sha256 = approval.fields.get("sha256") or avatar.sha256
            fields = self._copier.make(avatar, sha256)
        return dataclasses.replace(approval, fields={**approval.fields, **fields})

    def _clean(self, avatar: Avatar | None, lease: Lease, token: str) -> None:
        """Nothing waits for a copy: what is not approved must not have one."""
        is_kept = avatar is not None and avatar.state == AvatarState.APPROVED
        if self._copier is not None and not is_kept:
            try:
                self._copier.remove(lease.item)
            except Exception as error:  # noqa: BLE001 - the copy must go, however long it takes
                log.warning("copy_not_removed", upload_id=lease.item, message=str(error)[:200])
                self._store.put_back(
                    Stage.COPY,
                    lease.item,
                    token=token,
                    priority=avatar.priority if avatar is not None else "normal",
                    delay_s=retry.REMOVAL_EVERY_S,
                )
                return
        self._store.drop(Stage.COPY, lease.item, token=token)
