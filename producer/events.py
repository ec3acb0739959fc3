"""What happened to every upload, in order: a Redis stream, until the ledger has it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from producer.store import Store


class Events:
    """Reads, adds and removes events; `Store.events`. Transitions write theirs by themselves."""

    def __init__(self, store: Store) -> None:
        self._redis = store.redis
        self._stream = store.key("events")
        self._dropped = store.key("events", "dropped")
        self._guard = store.script("guard_events")

    def first(self, limit: int) -> list[tuple[str, dict[str, str]]]:
        """The oldest events that the ledger does not have yet: (stream id, fields)."""
        found: Any = self._redis.xrange(self._stream, count=limit)
        return [(stream_id, fields or {}) for stream_id, fields in found]

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
        self._redis.xadd(
            self._stream,
            {
                "kind": kind,
                "upload_id": upload_id,
                "seq": seq,
                "from": from_,
                "to": to,
                "detail": json.dumps(detail),
            },
        )

    def guard(self, most: int) -> int:
        """Keep the memory bounded where no ledger drains; returns how many events were lost."""
        return int(self._guard(keys=[self._stream, self._dropped], args=[most]))

    def dropped(self) -> int:
        """How many events the memory guard has ever removed unread; anything but 0 is a loss."""
        return int(cast("str | None", self._redis.get(self._dropped)) or 0)
