"""Whether Redis has room for more uploads: a tenth of its memory is kept for what follows them.

An upload that was accepted needs room for its verdict, its callback and its events. So uploads are
refused before the memory is full, and what was accepted goes on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import redis

from producer.record.base import Base

#: Share of `maxmemory` from which on no upload is accepted.
FULL_SHARE = 0.9

#: Seconds for which a process trusts what it read of the memory; not at all when it is nearly full.
READ_EVERY_S, NEARLY_FULL_SHARE = 0.1, 0.7


def memory_share(server: Mapping[str, Any]) -> float:
    """Used part of the memory that Redis may use, of what INFO says; 0.0 where it has no limit."""
    limit = int(server.get("maxmemory") or 0)
    return int(server.get("used_memory") or 0) / limit if limit else 0.0


class Room:
    """What a process knows of the room that is left."""

    def __init__(self, base: Base) -> None:
        self._redis = base.redis
        self._read_s = float("-inf")
        self._lack = ""
        self._trusted_s = READ_EVERY_S

    def lack(self) -> str:
        """Why no upload can be accepted now, for people; empty where there is room.

        A Redis that does not tell of its memory is taken to have some.
        """
        if time.monotonic() - self._read_s > self._trusted_s:
            self._lack = self._look()
            self._read_s = time.monotonic()
        return self._lack

    def _look(self) -> str:
        try:
            server: dict[str, Any] = self._redis.info("memory")
        except redis.ResponseError:
            return ""
        share = memory_share(server)
        self._trusted_s = READ_EVERY_S if share < NEARLY_FULL_SHARE else 0.0
        if share < FULL_SHARE:
            return ""
        limit_mb = int(server["maxmemory"]) / 2**20
        return (
            f"Redis is full: {share:.0%} of its maxmemory of {limit_mb:.0f} MiB are used, and the "
            f"rest is kept for verdicts; uploads are accepted again below {FULL_SHARE:.0%}"
        )
