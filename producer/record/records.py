"""What can be read of records and their indexes; the part of a `Store` that changes nothing.

Consoles, metrics and alarms read here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from producer.contract import AUDIT_EXPLICIT, Avatar, AvatarState, Verdict
from producer.record.base import Base
from producer.record.keyspace import OPEN_STATES


class Records:
    """Reads records, what is known of contents, and the indexes of open states."""

    base: Base

    def get(self, upload_id: str) -> Avatar | None:
        """The record, or None where there is none."""
        return self.get_many([upload_id])[0]

    def get_many(self, upload_ids: Sequence[str]) -> list[Avatar | None]:
        """Records in the order asked for, one round trip."""
        keys, pipe = self.base.keys, self.base.redis.pipeline(transaction=False)
        for upload_id in upload_ids:
            pipe.hgetall(keys.avatar(upload_id))
        return [
            Avatar.from_hash(upload_id, fields) if fields else None
            for upload_id, fields in zip(upload_ids, pipe.execute(), strict=True)
        ]

    def images_of(self, upload_ids: Sequence[str]) -> list[str | None]:
        """Where the pictures of records are, in the order asked for; None where there is none."""
        pipe = self.base.redis.pipeline(transaction=False)
        for upload_id in upload_ids:
            pipe.hget(self.base.keys.avatar(upload_id), "image")
        return list(pipe.execute())

    def known(self, *content: str) -> dict[str, str] | None:
        """What an operator, an audit or an earlier verdict said of a content: `state` and fields.

        Args:
            content: its sha256; then, for an earlier verdict, all that a verdict depends on.
        """
        keys = self.base.keys
        found = self.base.redis.mget(
            keys.overrule(content[0]), keys.doubted(content[0]), keys.verdict(*content)
        )
        overruled, doubted, cached = cast("list[str | None]", found)
        if overruled:
            return _word(overruled)
        if doubted:
            return {"state": Verdict.GRAY.value, "reason": AUDIT_EXPLICIT}
        return {**json.loads(cached), "decided_by": "cache"} if cached else None

    def overruled(self, sha256: str) -> dict[str, str] | None:
        """What an operator said of this content: `state` and record fields; None for nothing."""
        text = self.base.redis.get(self.base.keys.overrule(sha256)) if sha256 else None
        return _word(cast("str", text)) if text else None

    def open_counts(self) -> dict[str, int]:
        """How many uploads stand in each state that somebody still has to act on."""
        pipe = self.base.redis.pipeline(transaction=False)
        for state in OPEN_STATES:
            pipe.zcard(self.base.keys.open(state))
        return dict(zip(map(str, OPEN_STATES), pipe.execute(), strict=True))

    def open_ids(self, state: str, start: int, count: int) -> list[str]:
        """Uploads in an open state or lane, the longest-standing first; `count` from `start`."""
        found = self.base.redis.zrange(self.base.keys.waiting(state), start, start + count - 1)
        return [str(upload_id) for upload_id in found]

    def appeals_count(self) -> int:
        """How many blocked pictures wait because their owners object."""
        return int(self.base.redis.zcard(self.base.keys.appeals))

    def all_open_ids(self) -> list[str]:
        """Every upload in an open state, as of one moment."""
        # One transaction: an upload that moves between two states is in one of them.
        pipe = self.base.redis.pipeline(transaction=True)
        for state in OPEN_STATES:
            pipe.zrange(self.base.keys.open(state), 0, -1)
        return [str(upload_id) for members in pipe.execute() for upload_id in members]

    def open_rank(self, state: str, upload_id: str) -> int | None:
        """How many stand longer in this state or lane than an upload; None: it is not in it."""
        return cast("int | None", self.base.redis.zrank(self.base.keys.waiting(state), upload_id))

    def oldest_at(self, state: AvatarState) -> float | None:
        """Since when the longest-standing upload is in an open state, seconds since the epoch."""
        first: Any = self.base.redis.zrange(self.base.keys.open(state), 0, 0, withscores=True)
        return float(first[0][1]) if first else None

    def transition_counts(self) -> dict[str, int]:
        """Transitions by state since the beginning."""
        counts = cast("dict[str, str]", self.base.redis.hgetall(self.base.keys.counts))
        return {s: int(n) for s, n in sorted(counts.items()) if not s.startswith("last_")}

    def last_verdict_at(self) -> float | None:
        """When a machine last reached a verdict, seconds since the epoch; None for never."""
        at = cast("str | None", self.base.redis.hget(self.base.keys.counts, "last_verdict_at"))
        return float(at) if at else None


def _word(text: str) -> dict[str, str]:
    """What was said last of a content, without what others had said before."""
    said: dict[str, str] = json.loads(text)
    said.pop("earlier", None)
    return said
