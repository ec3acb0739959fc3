"""A producer in memory, for the tests of a web tier: no Redis, no worker, the same answers.

from producer.testing import InMemoryProducer
producer = InMemoryProducer(callback_url="https://web.example/verdict")
producer.enqueue("user-17/1", image="https://example.org/a/17.png")
document = producer.decide("user-17/1", "blocked", reason="explicit")

`decide` plays the worker, the reviewer or the operator; what it returns is the JSON that the web
tier would get as a callback.
"""

from __future__ import annotations

import dataclasses
import hashlib
import threading
import time
from collections.abc import Sequence
from typing import Any, cast

from producer.client import Producer
from producer.contract import Avatar, AvatarState
from producer.errors import UnknownUpload
from producer.record.outbox import describe, document
from producer.settings import Settings, load_settings

#: States that count against the backlog, as in lua/submit.lua.
_BACKLOG = (AvatarState.QUEUED, AvatarState.REVIEWING)


class _Memory:
    """What `Producer` needs of a store, in a dictionary."""

    def __init__(self) -> None:
        self.avatars: dict[str, Avatar] = {}
        self._lock = threading.Lock()

    def submit_many(
        self, avatars: Sequence[Avatar], *, max_backlog: int
    ) -> list[tuple[str, Avatar]]:
        """As `Store.submit_many`."""
        with self._lock:
            return [self._submit(avatar, max_backlog) for avatar in avatars]

    def _submit(self, avatar: Avatar, max_backlog: int) -> tuple[str, Avatar]:
        known = self.avatars.get(avatar.upload_id)
        if known is not None:
            return "exists", known
        if sum(other.state in _BACKLOG for other in self.avatars.values()) >= max_backlog:
            return "full", avatar
        now = time.time()
        self.avatars[avatar.upload_id] = dataclasses.replace(avatar, created_at=now, updated_at=now)
        return "created", avatar

    @property
    def subjects(self) -> _Memory:
        """As `Store.subjects`."""
        return self

    def hashed(self, text: str) -> str:
        """As `Subjects.hashed`, with a key that everybody knows."""
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def get(self, upload_id: str) -> Avatar | None:
        """As `Store.get`."""
        return self.avatars.get(upload_id)


class InMemoryProducer(Producer):
    """Enqueues into a dictionary. Safe to share between threads.

    Args:
        settings: settings by name, such as `callback_url` or `max_backlog`; the rest comes from the
            environment, as for the real one.
    """

    def __init__(self, **settings: Any) -> None:
        self._memory = _Memory()
        super().__init__(
            cast("Any", self._memory), cast("Any", None), load_settings(Settings, **settings)
        )
        #: What was sent to whom: (callback address, JSON), oldest first.
        self.callbacks: list[tuple[str, dict[str, Any]]] = []

    def decide(
        self,
        upload_id: str,
        state: AvatarState | str,
        *,
        reason: str = "clear",
        decided_by: str = "model",
        probability: float | None = None,
    ) -> dict[str, Any]:
        """Move an upload on, as a worker or an operator would; returns what the web tier is told.

        Args:
            upload_id: what is decided.
            state: the new state; any but `queued`.
            reason: why, as in the callback.
            decided_by: `model`, `review:<provider>` or `operator:<name>`.
            probability: the model's, 0..1.

        Raises:
            UnknownUpload: it was never enqueued.
        """
        avatar = self._memory.avatars.get(upload_id)
        if avatar is None:
            raise UnknownUpload(f"no record of {upload_id!r}: never enqueued")
        avatar = dataclasses.replace(
            avatar,
            state=AvatarState(state),
            seq=avatar.seq + 1,
            reason=reason,
            decided_by=decided_by,
            probability=avatar.probability if probability is None else probability,
            updated_at=time.time(),
        )
        self._memory.avatars[upload_id] = avatar
        data = describe(upload_id, avatar.state, avatar.seq, avatar.region, avatar.to_hash())
        told = document(data, avatar.updated_at)
        if avatar.callback_url not in ("", "none"):
            self.callbacks.append((avatar.callback_url, told))
        return told

    def _ring(self) -> None:
        """Nobody sleeps."""
