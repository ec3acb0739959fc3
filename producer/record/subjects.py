"""Which uploads are one person's, and names that do not tell whom they name; `Store.subjects`.

The id of a person is kept as a keyed hash. The key is drawn once and stays in Redis: whoever gets a
ledger, a log or a backup of either cannot try out ids.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import secrets
from typing import cast

from producer.record.base import Base

#: Characters of a keyed hash; 128 bits.
HASH_CHARS = 32


class Subjects:
    """Hashes ids and reads the index of persons. Safe to share between threads."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._redis = base.redis
        self._keys = base.keys

    def hashed(self, text: str) -> str:
        """A keyed hash, the same wherever this Redis is used.

        Raises:
            redis.RedisError: the key could not be read.
        """
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()[:HASH_CHARS]

    @functools.cached_property
    def _key(self) -> bytes:
        self._redis.set(self._keys.hash_key, secrets.token_hex(32), nx=True)
        return cast("str", self._redis.get(self._keys.hash_key)).encode()

    def uploads_of(self, subject: str) -> list[str]:
        """Ids of a person's uploads while their records are kept, in order of their text.

        Args:
            subject: the id as it was given with the uploads, whether it was hashed or not.
        """
        names = [self._keys.subject(name) for name in (self.hashed(subject), subject)]
        return sorted(cast("set[str]", self._redis.sunion(names)))

    def name_of(self, text: str) -> str:
        """The name that records have a person under; empty where none is of this person.

        Args:
            text: the id as it was given with the uploads, or such a name.
        """
        names = (self.hashed(text), text)
        return next((name for name in names if self.counts(name)[0]), "")

    def counts(self, name: str) -> tuple[int, int]:
        """How many uploads of a person are recorded, and how many of them are blocked.

        Args:
            name: as a record has it.
        """
        pipe = self._redis.pipeline(transaction=False)
        pipe.scard(self._keys.subject(name))
        pipe.scard(self._keys.blocked(name))
        uploads, blocked = pipe.execute()
        return int(uploads), int(blocked)

    def drop_over(self, limit: int) -> int:
        """Look at up to `limit` entries whose time may be over; returns how many went."""
        now = self._base.now()
        found = self._redis.zrangebyscore(self._keys.subjects, "-inf", now, start=0, num=limit)
        entries = [str(entry) for entry in cast("list[str]", found)]
        pipe = self._redis.pipeline(transaction=False)
        for entry in entries:
            pipe.pttl(self._keys.avatar(entry.rpartition(" ")[2]))
        removal = self._redis.pipeline()
        gone = 0
        for entry, left_ms in zip(entries, pipe.execute(), strict=True):
            name, _, upload_id = entry.rpartition(" ")
            # Redis says -2 of what is not there, and -1 of what is kept for now.
            if left_ms == -2:
                gone += 1
                removal.zrem(self._keys.subjects, entry)
                removal.srem(self._keys.subject(name), upload_id)
            else:
                left_s = left_ms / 1000 if left_ms >= 0 else self._base.record_ttl_s
                removal.zadd(self._keys.subjects, {entry: now + left_s})
        removal.execute()
        return gone

    def start_sweep(self, *, every_s: int) -> bool:
        """Whether the caller should look for what is over (nobody did within `every_s`)."""
        return bool(self._redis.set(self._keys.subjects_swept, 1, nx=True, ex=every_s))
