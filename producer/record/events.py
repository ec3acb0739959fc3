"""What happened to every upload, in order: a Redis stream, until the ledger has it."""

from __future__ import annotations

import json
from typing import Any, cast

from producer.record.base import Base

#: Entries of `audit` that can be gone back to; the ledger keeps them all.
MAX_AUDIT = 10_000

#: One event: its id in the stream and its fields.
Entry = tuple[str, dict[str, str]]


class Events:
    """Reads, adds and removes events; `Store.events`. Transitions write theirs by themselves."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._redis = base.redis
        self._stream = base.keys.events

    def first(self, limit: int) -> list[Entry]:
        """The oldest events that the ledger does not have yet."""
        return _entries(self._redis.xrange(self._stream, count=limit))

    def first_marked(self, limit: int) -> tuple[str, list[Entry]]:
        """The mark of the data set, in which alone ids are unique, and its oldest events."""
        pipe = self._redis.pipeline(transaction=True)
        pipe.hget(self._base.keys.data_set, "id")
        pipe.xrange(self._stream, count=limit)
        mark, found = pipe.execute()
        return str(mark or ""), _entries(found)

    def newest(self, limit: int) -> list[Entry]:
        """The newest events that the ledger does not have yet, the newest first."""
        return _entries(self._redis.xrevrange(self._stream, count=limit))

    def after(self, place: str, *, wait_s: float, limit: int) -> list[Entry]:
        """Events after a stream id, oldest first; waits for the first of them.

        Args:
            place: the last id that was seen, or `0-0`.
            wait_s: longest wait, in seconds.
            limit: most events to return.
        """
        found: Any = self._redis.xread({self._stream: place}, block=int(wait_s * 1000), count=limit)
        if not found:
            return []
        return _entries(found[0][1] if isinstance(found, list) else found[self._stream][0])

    def last_id(self) -> str:
        """Stream id of the newest event; `0-0` where there is none."""
        newest = self.newest(1)
        return newest[0][0] if newest else "0-0"

    def count(self) -> int:
        """How many the ledger does not have yet."""
        return int(self._redis.xlen(self._stream))

    def forget(self, up_to: str) -> int:
        """Remove the events up to and including one stream id; the ledger has them."""
        time_ms, _, number = up_to.partition("-")
        after = f"{time_ms}-{int(number) + 1}"
        return int(self._redis.xtrim(self._stream, minid=after, approximate=False))

    def note(
        self,
        kind: str,
        upload_id: str,
        seq: int,
        to: str,
        detail: dict[str, Any],
        *,
        from_: str = "",
    ) -> None:
        """Put something into the ledger that changes no record."""
        fields = self._fields(kind, upload_id, seq, to, detail, self._base.now())
        self._redis.xadd(self._stream, {**fields, "from": from_})

    def audit(self, *, by: str, action: str, item: str, outcome: str, address: str) -> None:
        """Note what somebody did, for the activity page and for the ledger.

        Args:
            by: the user of the console or of the machine.
            action: a word for it.
            item: an upload id, a callback's item or a name.
            outcome: what came of it, in words.
            address: where the browser was; empty for the command line.
        """
        now, detail = self._base.now(), {"by": by, "address": address, "outcome": outcome}
        upload_id = item.rpartition("#")[0] or item
        entry = {"action": action, "item": item, "at": f"{now:.6f}", **detail}
        pipe = self._redis.pipeline()
        pipe.xadd(self._base.keys.audit, cast("Any", entry), maxlen=MAX_AUDIT, approximate=True)
        pipe.xadd(self._stream, self._fields("audit", upload_id, 0, action[:16], detail, now))
        pipe.execute()

    def audited(self, limit: int, *, before: str = "") -> list[Entry]:
        """What people did, the newest first.

        Args:
            limit: most entries to return.
            before: only what stands before this stream id; empty: from the newest on.
        """
        top = f"({before}" if before else "+"
        return _entries(self._redis.xrevrange(self._base.keys.audit, max=top, count=limit))

    def guard(self, most: int) -> int:
        """Keep the memory bounded where no ledger drains; returns how many events were lost."""
        keys = [self._stream, self._base.keys.events_dropped]
        return int(self._base.run("guard_events", keys, most=most))

    def dropped(self) -> int:
        """How many events the memory guard has ever removed unread; anything but 0 is a loss."""
        return int(cast("str | None", self._redis.get(self._base.keys.events_dropped)) or 0)

    @staticmethod
    def _fields(
        kind: str, upload_id: str, seq: int, to: str, detail: dict[str, Any], now: float
    ) -> dict[Any, Any]:
        return {
            "kind": kind,
            "upload_id": upload_id,
            "seq": seq,
            "from": "",
            "to": to,
            "at": f"{now:.6f}",
            "detail": json.dumps(detail),
        }


def _entries(found: Any) -> list[Entry]:
    """As the server gave them; the time of one that carries none is that of its stream id."""
    entries: list[Entry] = []
    for stream_id, fields in found:
        at = f"{int(stream_id.partition('-')[0]) / 1000:.3f}"
        entries.append((str(stream_id), {"at": at, **(fields or {})}))
    return entries
