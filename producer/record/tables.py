"""Small things that processes share beside the records: accounts, sessions, alarms, life, totals.

Each is a hash or a string of JSON; what the values mean belongs to whoever writes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from producer.record.base import Base

#: Seconds after which a process without a sign of life counts as gone.
ALIVE_S = 15


class Table:
    """One hash of JSON values by name."""

    def __init__(self, base: Base, key: str) -> None:
        self._base = base
        self._redis = base.redis
        self._key = key

    def get(self, name: str) -> Any:
        """The value of a name, or None."""
        text = cast("str | None", self._redis.hget(self._key, name))
        return None if text is None else json.loads(text)

    def put(self, name: str, value: Any) -> None:
        """Set the value of a name; JSON-ready. Works while Redis is full, too."""
        self._base.run("put", [self._key], name=name, value=json.dumps(value))

    def remove(self, *names: str) -> bool:
        """Forget names; False when there was none of them."""
        return bool(self._redis.hdel(self._key, *names))

    def all(self) -> dict[str, Any]:
        """Every value by name."""
        stored = cast("dict[str, str]", self._redis.hgetall(self._key))
        return {name: json.loads(text) for name, text in stored.items()}


class Tables:
    """The shared tables of one namespace; the part of a `Store` that is not about uploads."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self.users = Table(base, base.keys.users)
        self.api_keys = Table(base, base.keys.api_keys)
        self.api_keys_used = Table(base, base.keys.api_keys_used)
        self.alarms = Table(base, base.keys.alarms)
        self._workers = Table(base, base.keys.workers)

    # -- sessions and rates --------------------------------------------------------------------

    def put_session(self, digest: str, content: dict[str, Any], *, ttl_s: int) -> None:
        """Keep a session under the hash of its token, until `ttl_s` after the last look."""
        self.base.redis.set(self.base.keys.session(digest), json.dumps(content), ex=ttl_s)

    def get_session(self, digest: str, *, ttl_s: int) -> dict[str, Any] | None:
        """A session that has not ended; it lives `ttl_s` from now on."""
        text = self.base.redis.getex(self.base.keys.session(digest), ex=ttl_s)
        return None if text is None else dict(json.loads(cast("str", text)))

    def end_session(self, digest: str) -> None:
        """Forget a session; nothing happens when it has ended."""
        self.base.redis.delete(self.base.keys.session(digest))

    def take_places(self, what: str, *, per_s: float, burst: int, places: int) -> float:
        """Take places in a shared rate; 0.0, or the seconds to wait when none was taken.

        Args:
            what: who does what, for example `key:<id>`.
            per_s: places that come back each second.
            burst: most places at once.
            places: how many are wanted.
        """
        keys = [self.base.keys.rate(what)]
        wait_s = self.base.run("rate", keys, per_s=per_s, burst=burst, places=places)
        return float(wait_s)

    # -- who may use it ------------------------------------------------------------------------

    def access(self) -> tuple[str, dict[str, dict[str, str]]]:
        """The mark of the data set, and API keys and users as they are kept, of one moment."""
        keys = self.base.keys
        pipe = self.base.redis.pipeline(transaction=True)
        pipe.hget(keys.data_set, "id")
        pipe.hgetall(keys.api_keys)
        pipe.hgetall(keys.users)
        mark, api_keys, users = pipe.execute()
        return str(mark or ""), {"api_keys": api_keys, "users": users}

    def put_access_back(self, access: Mapping[str, Mapping[str, str]]) -> int:
        """Put back what `access` gave, but for what is there by now; returns how many."""
        pipe = self.base.redis.pipeline(transaction=True)
        for table, entries in access.items():
            for name, text in entries.items():
                pipe.hsetnx(self.base.keys.name(table), name, text)
        return sum(pipe.execute())

    # -- processes -----------------------------------------------------------------------------

    def show_life(self, name: str, facts: dict[str, Any]) -> None:
        """Say that this process lives; to be repeated well within `ALIVE_S`."""
        self._workers.put(name, {**facts, "at": self.base.now()})

    def end_life(self, name: str) -> None:
        """Say that this process ends."""
        self._workers.remove(name)

    def workers(self) -> list[dict[str, Any]]:
        """What every living process said last, by name; forgets those that fell silent."""
        oldest = self.base.now() - ALIVE_S
        facts = self._workers.all()
        silent = [name for name, fact in facts.items() if fact["at"] < oldest]
        if silent:
            self._workers.remove(*silent)
        return [fact for name, fact in sorted(facts.items()) if name not in silent]

    def hold_duty(self, duty: str, token: str, *, ttl_s: int) -> bool:
        """Take or keep the lock of what one process at a time does, for `ttl_s` seconds.

        Works while Redis is full, too.

        Args:
            duty: its name; empty for the ringing of doorbells.
            token: names the holder.
            ttl_s: after this another process takes over from one that died.
        """
        return bool(self.base.run("hold", [self.base.keys.sweeper(duty)], token=token, ttl_s=ttl_s))

    def is_rung_for(self) -> bool:
        """Whether a process lives that rings for what is due."""
        return bool(self.base.redis.exists(self.base.keys.sweeper("")))

    def start_sweep_of_received(self, *, every_s: int) -> bool:
        """Whether the caller should look for old pictures (nobody did within `every_s`)."""
        return bool(self.base.redis.set(self.base.keys.received_swept, 1, nx=True, ex=every_s))

    def try_to_write(self) -> None:
        """Write something that changes nothing.

        Raises:
            redis.RedisError: it is away, or has no room in its memory or on its disk.
        """
        self.base.redis.set(self.base.keys.written, 1, ex=60)

    # -- totals --------------------------------------------------------------------------------

    def add_totals(self, new: Mapping[str, float]) -> None:
        """Add to the metrics' totals, all of it or nothing."""
        pipe = self.base.redis.pipeline(transaction=True)
        for field, value in new.items():
            pipe.hincrbyfloat(self.base.keys.metrics, field, value)
        pipe.execute()

    def totals(self) -> dict[str, float]:
        """The metrics' totals by field."""
        found = cast("dict[str, str]", self.base.redis.hgetall(self.base.keys.metrics))
        return {field: float(total) for field, total in found.items()}

    def server_facts(self) -> dict[str, Any]:
        """What the Redis server says of its memory and its writing to disk."""
        info: dict[str, Any] = {}
        for section in ("memory", "persistence"):
            info |= self.base.redis.info(section)
        return info
