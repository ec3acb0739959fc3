"""The earlier picture and decision beside one that looks like it; drawn by `parts.look_alike`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from producer.contract import Avatar
from producer.findings import LooksLike
from producer.record.memory import LISTED, Remembered
from producer.record.store import Store


@dataclasses.dataclass(frozen=True, kw_only=True)
class Earlier:
    """What an upload looked like when it was scored.

    Attributes:
        like: what was decided of the earlier picture then, and how far it is.
        avatar: the earlier upload, whose picture can be shown; None where it is not kept.
        entry: what is remembered of the earlier picture now; None: the decision was taken back,
            or is forgotten.
    """

    like: LooksLike
    avatar: Avatar | None
    entry: Remembered | None

    @property
    def is_listed(self) -> bool:
        """Whether it is only a hash of a list, which has no picture here."""
        return self.like.sha256.startswith(LISTED)


def earlier_of(store: Store, avatars: Sequence[Avatar | None]) -> dict[str, Earlier]:
    """By upload id, what those of some uploads looked like that looked like anything.

    Three round trips, however many they are.
    """
    return with_records(store, {a.upload_id: a.looks_like for a in avatars if a and a.looks_like})


def with_records(store: Store, likes: Mapping[str, LooksLike]) -> dict[str, Earlier]:
    """Earlier pictures by any name, with what is known of them now."""
    if not likes:
        return {}
    entries = store.memory.get_many([like.sha256 for like in likes.values()])
    ids = {one: _earlier_id(like, entries.get(like.sha256)) for one, like in likes.items()}
    wanted = sorted(set(filter(None, ids.values())))
    records = dict(zip(wanted, store.get_many(wanted), strict=True))
    return {
        one: Earlier(like=like, avatar=records.get(ids[one]), entry=entries.get(like.sha256))
        for one, like in likes.items()
    }


def _earlier_id(like: LooksLike, entry: Remembered | None) -> str:
    """The upload that was decided last about this content."""
    return entry.upload_id if entry is not None and entry.upload_id else like.upload_id
