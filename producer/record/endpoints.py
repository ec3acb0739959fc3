"""How each callback endpoint is doing: a failing one gets one probe at a time, a gone one is left.

An endpoint is one server (scheme, host and port of a callback URL). While it fails, one callback at
a time is sent to it. After 410 Gone, or days without a success, it is disabled: its callbacks wait,
an alarm says so, an operator enables it. When it takes callbacks again, what waits for a later
attempt is due at once, the oldest first.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import redis

from producer.record.base import Step
from producer.record.keyspace import LANES, callback_line, server_of
from producer.record.outbox import CallbackEntry
from producer.record.store import Store
from producer.texts import pack, say, unpack

#: Callbacks whose times are changed in one round trip.
PAGE = 500


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """One endpoint; times are seconds since the epoch, None for never."""

    name: str
    server: str
    failing_since: float | None
    last_success_at: float | None
    last_error: str
    disabled: str
    #: Seconds that its last success took; None where there was none.
    took_s: float | None = None
    #: Whether a web page answered the last that was delivered: perhaps nothing there reads them.
    is_page: bool = False

    @property
    def is_proven(self) -> bool:
        """Whether the last that was sent to it was taken."""
        return self.took_s is not None and self.failing_since is None

    @property
    def line(self) -> str:
        """The line its callbacks wait in."""
        return callback_line(self.name)


class Endpoints:
    """Reads and notes endpoints' health. Safe to share between threads and processes.

    Args:
        store: where it is kept.
        disable_after_s: seconds of failure without a success before an endpoint is disabled.
    """

    def __init__(self, store: Store, *, disable_after_s: float) -> None:
        self._store = store
        self._redis = store.base.redis
        self._keys = store.keys
        self._disable_after_s = disable_after_s
        self._names: list[str] = []

    def all(self) -> list[Endpoint]:
        """Every endpoint that a callback ever went to."""
        names = self._store.outbox.endpoints()
        pipe = self._redis.pipeline(transaction=False)
        for name in names:
            pipe.hgetall(self._keys.endpoint(name))
        return [_endpoint(n, fields) for n, fields in zip(names, pipe.execute(), strict=True)]

    def due(self) -> list[Endpoint]:
        """The endpoints that are not disabled and have a callback that is due; one round trip."""
        names = self._names
        found = self._look()
        return found if self._names == names else self._look()

    def _look(self) -> list[Endpoint]:
        """The same of the names that are known; learns of others."""
        names, keys = self._names, self._keys

        def read(pipe: Any) -> None:
            pipe.smembers(keys.endpoints)
            for name in names:
                line = callback_line(name)
                pipe.hgetall(keys.endpoint(name))
                for key in (keys.lease(line), *(keys.due(line, lane) for lane in LANES)):
                    pipe.zrange(key, 0, 0, withscores=True)

        (time, _), present, *facts = self._store.base.run_all([Step("now", [], {})], read)
        self._names = sorted(map(str, present))
        now, width = float(time), 2 + len(LANES)
        found = []
        for number, name in enumerate(names):
            fields, *firsts = facts[number * width : (number + 1) * width]
            endpoint = _endpoint(name, fields)
            if not endpoint.disabled and any(f and f[0][1] <= now for f in firsts):
                found.append(endpoint)
        return found

    def note_failure(self, entry: CallbackEntry, error: str, *, gone: bool) -> bool:
        """Remember a failed callback; returns whether this one disabled the endpoint.

        Args:
            entry: what could not be delivered.
            error: why, for people.
            gone: the server said 410: it wants no more.
        """
        now = self._store.now()
        key = self._keys.endpoint(entry.endpoint)
        pipe = self._redis.pipeline()
        pipe.hset(key, mapping={"server": server_of(entry.url), "last_error": pack(error)})
        pipe.hsetnx(key, "failing_since", f"{now:.3f}")
        pipe.hget(key, "failing_since")
        failing_since = float(pipe.execute()[-1] or now)
        if not gone and now - failing_since < self._disable_after_s:
            return False
        reason = (
            "410 Gone" if gone else say("no success for {age_s}", age_s=round(now - failing_since))
        )
        return bool(self._redis.hsetnx(key, "disabled", pack(reason)))

    def enable(self, name: str) -> bool:
        """Open a disabled endpoint again, or end the patience with a failing one.

        What waits for it is due at once. Returns False when it was not disabled.
        """
        key = self._keys.endpoint(name)
        self._redis.hdel(key, "failing_since")
        was_disabled = bool(self._redis.hdel(key, "disabled"))
        self.hasten(name)
        return was_disabled

    def hasten(self, name: str) -> int:
        """Make all that waits for a later attempt due now, the oldest transition first.

        Returns how many callbacks of the endpoint are due by that. Done page by page: what comes
        or goes meanwhile keeps its place.
        """
        line, keys, count = callback_line(name), self._keys, 0
        for due in (keys.due(line, lane) for lane in LANES):
            items = [str(item) for item in self._redis.zrange(due, 0, -1)]
            for start in range(0, len(items), PAGE):
                page = items[start : start + PAGE]
                pipe = self._redis.pipeline(transaction=False)
                for item in page:
                    pipe.hget(keys.callback(item), "at")
                told = {i: float(at) for i, at in zip(page, pipe.execute(), strict=True) if at}
                if told:
                    self._redis.zadd(due, told, xx=True, lt=True)
                count += len(told)
        return count

    def forget(self, name: str, *, drop: bool) -> tuple[bool, int]:
        """Remove an endpoint that is not needed any more; a new callback to it brings it back.

        Args:
            name: of the endpoint.
            drop: give up the callbacks that wait for it; what is under way stands in the way still.

        Returns:
            Whether it was removed, and how many callbacks were dropped or stand in the way.
        """
        keys, line = self._keys, callback_line(name)
        due = [keys.due(line, lane) for lane in LANES]
        lease, now = keys.lease(line), self._store.now()
        with self._redis.pipeline() as pipe:
            while True:
                try:
                    # A callback that comes in the middle undoes all of this.
                    pipe.watch(lease, *due)  # type: ignore[no-untyped-call]
                    leased = int(pipe.zcount(lease, now, "+inf"))
                    # What its holder died with waits as well, and nobody takes it meanwhile.
                    waiting = [str(item) for item in pipe.zrangebyscore(lease, "-inf", now)]
                    waiting += [str(item) for key in due for item in pipe.zrange(key, 0, -1)]
                    if leased or (waiting and not drop):
                        return False, leased + len(waiting)
                    pipe.multi()
                    for item in waiting:
                        pipe.delete(keys.callback(item))
                    ended = (lease, keys.holder(line), keys.crashes(line))
                    pipe.delete(*due, *ended, keys.endpoint(name))
                    pipe.srem(keys.endpoints, name)
                    pipe.execute()
                    return True, len(waiting)
                except redis.WatchError:
                    continue


def _endpoint(name: str, fields: dict[str, Any]) -> Endpoint:
    def when(field: str) -> float | None:
        return float(fields[field]) if fields.get(field) else None

    return Endpoint(
        name=name,
        server=cast("str", fields.get("server", "")),
        failing_since=when("failing_since"),
        last_success_at=when("last_success_at"),
        last_error=unpack(fields.get("last_error", "")),
        disabled=unpack(fields.get("disabled", "")),
        took_s=when("took_s"),
        is_page=bool(fields.get("is_page")),
    )
