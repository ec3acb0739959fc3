"""Other uploads that a decision about one may matter to: with its picture, and with one like it."""

from __future__ import annotations

import dataclasses
from typing import Any

from producer.contract import Avatar
from producer.record.settling import Settling
from producer.record.store import Store


@dataclasses.dataclass(frozen=True)
class Relatives:
    """What is still recorded of them.

    Attributes:
        same: uploads with the same bytes.
        alike: uploads that looked like this one when they were scored, after it was decided.
    """

    same: list[Avatar]
    alike: list[Avatar]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"same_picture": _named(self.same), "looked_like_it": _named(self.alike)}


def _named(avatars: list[Avatar]) -> list[dict[str, str]]:
    return [{"upload_id": avatar.upload_id, "state": str(avatar.state)} for avatar in avatars]


def relatives_of(store: Store, avatar: Avatar, limit: int) -> Relatives:
    """Up to `limit` of each kind; those whose records have expired are in the ledger only."""
    if not avatar.sha256:
        return Relatives([], [])
    same = Settling(store).uploads_with(avatar.sha256, avatar.upload_id, limit)
    alike = store.get_many(store.memory.alike(avatar.sha256, limit))
    return Relatives(same, [one for one in alike if one and one.upload_id != avatar.upload_id])
