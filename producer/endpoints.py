"""How each callback endpoint is doing: a failing one gets one probe at a time, a gone one is left.

An endpoint is one server (scheme, host and port of a callback URL). While it fails, one callback at
a time is sent to it, so that it cannot hold the threads that others need. After 410 Gone, or days
without a success, it is disabled: its callbacks wait, an alarm says so, an operator enables it.

Keys, behind the store's prefix:

    endpoints             set     names
    endpoint:<name>       hash    server, failing_since, last_success_at, last_error, disabled
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import redis

from producer.outbox import CallbackEntry, callback_line, server_of
from producer.store import LANES, Store


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """One endpoint; times are seconds since the epoch, None for never."""

    name: str
    server: str
    failing_since: float | None
    last_success_at: float | None
    last_error: str
    disabled: str

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
        self._disable_after_s = disable_after_s

    def all(self) -> list[Endpoint]:
        """Every endpoint that a callback ever went to."""
        names = self._store.outbox.endpoints()
        pipe = self._store.redis.pipeline(transaction=False)
        for name in names:
            pipe.hgetall(self._key(name))
        return [_endpoint(n, fields) for n, fields in zip(names, pipe.execute(), strict=True)]

    def open_lines(self) -> dict[str, bool]:
        """Lines of the endpoints that are not disabled -> whether the endpoint is failing."""
        return {e.line: e.failing_since is not None for e in self.all() if not e.disabled}

    def note_failure(self, entry: CallbackEntry, error: str, *, gone: bool) -> bool:
        """Remember a failed callback; returns whether this one disabled the endpoint.

        Args:
            entry: what could not be delivered.
            error: why, for people.
            gone: the server said 410: it wants no more.
        """
        now = self._store.now()
        key = self._key(entry.endpoint)
        pipe = self._store.redis.pipeline()
        pipe.hset(key, mapping={"server": server_of(entry.url), "last_error": error[:200]})
        pipe.hsetnx(key, "failing_since", f"{now:.3f}")
        pipe.hget(key, "failing_since")
        failing_since = float(pipe.execute()[-1] or now)
        if not gone and now - failing_since < self._disable_after_s:
            return False
        reason = "410 Gone" if gone else f"no success for {(now - failing_since) / 86400:.1f} days"
        return bool(self._store.redis.hsetnx(key, "disabled", reason))

    def enable(self, name: str) -> bool:
        """Open a disabled endpoint again; False when it was not disabled."""
        self._store.redis.hdel(self._key(name), "failing_since")
        return bool(self._store.redis.hdel(self._key(name), "disabled"))

    def forget(self, name: str, *, drop: bool) -> tuple[bool, int]:
        """Remove an endpoint that is not needed any more; a new callback to it brings it back.

        Args:
            name: of the endpoint.
            drop: give up the callbacks that wait for it; what is under way stands in the way still.

        Returns:
            Whether it was removed, and how many callbacks were dropped or stand in the way.
        """
        store, line = self._store, callback_line(name)
        due = [store.key("due", line, lane) for lane in LANES]
        lease = store.key("lease", line)
        with store.redis.pipeline() as pipe:
            while True:
                try:
                    # A callback that comes in the middle undoes all of this.
                    pipe.watch(lease, *due)  # type: ignore[no-untyped-call]
                    leased = int(pipe.zcard(lease))
                    waiting = [str(item) for key in due for item in pipe.zrange(key, 0, -1)]
                    if leased or (waiting and not drop):
                        return False, leased + len(waiting)
                    pipe.multi()
                    for item in waiting:
                        pipe.delete(store.key("callback", item))
                    pipe.delete(*due, store.key("crashes", line), self._key(name))
                    pipe.srem(store.key("endpoints"), name)
                    pipe.execute()
                    return True, len(waiting)
                except redis.WatchError:
                    continue

    def _key(self, name: str) -> str:
        return self._store.key("endpoint", name)


def _endpoint(name: str, fields: dict[str, Any]) -> Endpoint:
    def when(field: str) -> float | None:
        return float(fields[field]) if fields.get(field) else None

    return Endpoint(
        name=name,
        server=cast("str", fields.get("server", "")),
        failing_since=when("failing_since"),
        last_success_at=when("last_success_at"),
        last_error=cast("str", fields.get("last_error", "")),
        disabled=cast("str", fields.get("disabled", "")),
    )
