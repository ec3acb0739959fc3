"""Which approvals are looked at once more, so that what passes is measured; `Store.audits`.

Whoever commits an approval reads here what the workers ask for. An approval is drawn by a keyed
hash of its upload id: the same in every process and after every crash, and not to be foreseen by
whoever chooses the id, for the key is random and never leaves Redis.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import secrets
import time
from typing import Any, Literal, cast

from producer.contract import Avatar, Stage
from producer.record.base import Base

#: How the audit of an approval ends; `unanswered` says nothing about it.
Label = Literal["harmless", "explicit", "unanswered"]

#: Values of `Avatar.audit` while nobody has answered.
OPEN = ("due", "person")

#: Seconds for which a process trusts what it read of the share.
READ_EVERY_S = 5.0

#: Of the lane for people, looked at in one round trip.
PAGE = 100

#: Seconds for which it is remembered what audits found.
FOUND_KEPT_S = 7 * 86400.0


class Audits:
    """Draws approvals and ends their audits. Safe to share between threads."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._redis = base.redis
        self._keys = base.keys
        self._read: tuple[float, float, bytes] = (-math.inf, 0.0, b"")

    def announce(self, share: float) -> None:
        """Say which share of clear approvals is audited, 0..1; by workers as they start."""
        known, key = self._redis.hmget(self._keys.audits_draw, ["share", "key"])
        if key and known == repr(float(share)):
            return  # a worker can start while nothing can be written
        pipe = self._redis.pipeline(transaction=True)
        pipe.hsetnx(self._keys.audits_draw, "key", secrets.token_hex(32))
        pipe.hset(self._keys.audits_draw, "share", float(share))
        pipe.execute()
        self._read = (-math.inf, 0.0, b"")

    def is_announced(self) -> bool:
        """Whether a worker has said so; not any more where Redis lost its data."""
        return bool(self._redis.exists(self._keys.audits_draw))

    def draws(self, upload_id: str) -> bool:
        """Whether the approval of an upload is among those that are audited."""
        read_s, share, key = self._read
        if time.monotonic() - read_s > READ_EVERY_S:
            said = cast("Any", self._redis.hmget(self._keys.audits_draw, ["share", "key"]))
            share, key = float(said[0] or 0), bytes.fromhex(said[1] or "")
            self._read = (time.monotonic(), share, key)
        return share > 0 and place_of(key, upload_id) < share

    def label(self, avatar: Avatar, **said: Any) -> str:
        """What the ledger is told of an answer: of which approval, and who said it; as JSON."""
        names = ("sha256", "probability", "raw_score", "style", "bundle", "policy")
        known = {name: getattr(avatar, name) for name in (*names, "second_probability")}
        return json.dumps({**{name: value for name, value in known.items() if value}, **said})

    def end(
        self, avatar: Avatar, to: Label | Literal["person"], fields: dict[str, str], **said: Any
    ) -> bool:
        """End the audit of an upload, or hand it to a person; its state stays.

        Args:
            avatar: the record as it was read; its seq must still hold.
            to: `person`, or what came of it.
            fields: record fields to set.
            said: for the ledger, such as `decided_by` and `reason`.

        Returns:
            False when it was ended before, then only the lease ends, or the upload changed.
        """
        keys, line = self._keys, Stage.AUDIT
        return bool(
            self._base.run(
                "end_audit",
                [
                    keys.avatar(avatar.upload_id),
                    keys.events,
                    keys.lease(line),
                    keys.holder(line),
                    keys.crashes(line),
                    keys.audits,
                    keys.audits_explicit,
                    keys.doubted(avatar.sha256),
                ],
                id=avatar.upload_id,
                seq=avatar.seq,
                to=to,
                fields=fields,
                label=self.label(avatar, **said),
                doubt_ttl_s=self._base.record_ttl_s,
            )
        )

    def count(self) -> int:
        """How many wait for a person."""
        return int(self._redis.zcard(self._keys.audits))

    def drop_expired(self) -> None:
        """Forget those at the head of the lane whose records are gone."""
        while head := [str(one) for one in self._redis.zrange(self._keys.audits, 0, PAGE - 1)]:
            pipe = self._redis.pipeline(transaction=False)
            for upload_id in head:
                pipe.exists(self._keys.avatar(upload_id))
            gone = [one for one, there in zip(head, pipe.execute(), strict=True) if not there]
            if not gone:
                return
            self._redis.zrem(self._keys.audits, *gone)

    def found_since(self, at: float) -> int:
        """How many approvals audits found explicit since a time, at most a week ago."""
        oldest = self._base.now() - FOUND_KEPT_S
        self._redis.zremrangebyscore(self._keys.audits_explicit, "-inf", oldest)
        return int(self._redis.zcount(self._keys.audits_explicit, at, "+inf"))


def place_of(key: bytes, upload_id: str) -> float:
    """Where an upload id falls in 0..1, evenly, for who has the key."""
    digest = hmac.digest(key, upload_id.encode(), hashlib.sha256)
    return int.from_bytes(digest[:8]) / 2**64
