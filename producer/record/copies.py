"""Which uploads have a safe copy, and whether approvals wait for one; `Store.copies`.

Whoever decides reads here what the workers promise, so that a console or a command with other
settings keeps it too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from producer.contract import AvatarState
from producer.record.base import Base

#: Seconds for which a process trusts what it read of the promise.
READ_EVERY_S = 5.0

#: Records looked at in one round trip.
PAGE = 500


class Copies:
    """Keeps the index of safe copies. Safe to share between threads."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._redis = base.redis
        self._keys = base.keys
        self._read: tuple[float, bool] = (-math.inf, False)

    def promise(self, promised: bool) -> None:
        """Say whether an approval waits until a safe copy is written; by workers as they start."""
        if promised:
            # A worker starts while Redis is full, too, where nothing is new.
            if not self._redis.exists(self._keys.copies_promised):
                self._redis.set(self._keys.copies_promised, 1)
        else:
            self._redis.delete(self._keys.copies_promised)
        self._read = (-math.inf, False)

    def are_promised(self) -> bool:
        """Whether an approval waits until a safe copy is written."""
        read_s, promised = self._read
        if time.monotonic() - read_s > READ_EVERY_S:
            promised = bool(self._redis.exists(self._keys.copies_promised))
            self._read = (time.monotonic(), promised)
        return promised

    def note(self, upload_id: str) -> None:
        """An upload is about to have a copy, which lives as long as its record."""
        self._redis.zadd(self._keys.copies, {upload_id: self._base.now() + self._base.record_ttl_s})

    def forget(self, upload_id: str) -> None:
        """The copy of an upload is gone."""
        self._redis.zrem(self._keys.copies, upload_id)

    def missing(self) -> Iterator[str]:
        """Approved uploads without a copy, in no order; some may be given twice."""
        prefix, cursor = self._keys.avatar(""), None
        while cursor != 0:
            cursor, keys = self._redis.scan(cursor or 0, match=f"{prefix}*", count=PAGE)
            pipe = self._redis.pipeline(transaction=False)
            for key in keys:
                pipe.hmget(key, "state", "safe_copy")
            for key, (state, copy) in zip(keys, pipe.execute(), strict=True):
                if state == AvatarState.APPROVED and not copy:
                    yield str(key).removeprefix(prefix)

    def over(self, limit: int) -> list[str]:
        """Up to `limit` uploads with a copy whose records are gone."""
        gone: list[str] = []
        while not gone:
            now = self._base.now()
            ids = self._redis.zrangebyscore(self._keys.copies, "-inf", now, start=0, num=limit)
            if not ids:
                break
            pipe = self._redis.pipeline(transaction=False)
            for upload_id in ids:
                pipe.pttl(self._keys.avatar(str(upload_id)))
            left_ms = dict(zip(map(str, ids), pipe.execute(), strict=True))
            # Redis says -2 of what is not there, and -1 of what is kept for now.
            gone = [upload_id for upload_id, ms in left_ms.items() if ms == -2]
            later = {
                upload_id: now + (ms / 1000 if ms >= 0 else self._base.record_ttl_s)
                for upload_id, ms in left_ms.items()
                if ms != -2
            }
            if later:
                self._redis.zadd(self._keys.copies, later)
        return gone

    def start_sweep(self, *, every_s: int) -> bool:
        """Whether the caller should look for copies to remove (nobody did within `every_s`)."""
        return bool(self._redis.set(self._keys.copies_swept, 1, nx=True, ex=every_s))
