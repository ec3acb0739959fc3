"""What became of every upload, in order, for a web tier that asks instead of being told.

A stream in Redis. Each entry is written in the step that changes the record, so entries stand in
the order of the changes, whoever makes them and whenever they are read: what comes later stands
behind. A cursor names the last entry that was read; as long as that entry is there, all that follow
it are, for the oldest go first.
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from typing import Any

from producer.record.base import Base

#: How long a change is listed at least, in seconds; the newest stays.
LISTED_S = 14 * 86400

#: Where the entry of a cursor is gone (forgotten, or lost by a fail-over), reading goes on so many
#: seconds before it: more than a replica, or its clock, is behind.
BACK_S = 3600

#: Data set, stream id and check sum of the entry, in this order.
_CURSOR = re.compile(r"([0-9a-f]{1,32})\.([0-9]{1,15})-([0-9]{1,19})\.([0-9a-f]{8})")

#: Instead of a check sum: nothing was listed yet.
_NOTHING = "00000000"


class CursorInvalid(ValueError):
    """Raised when a text is no cursor."""


class CursorTooOld(Exception):
    """Raised when changes after a cursor are not listed any more, or data were lost since."""


@dataclasses.dataclass(frozen=True)
class Change:
    """One change; `at` is in seconds since the epoch."""

    upload_id: str
    seq: int
    state: str
    at: float


@dataclasses.dataclass(frozen=True)
class Page:
    """Changes, the oldest first, the cursor behind the last of them, and whether more follow."""

    changes: list[Change]
    cursor: str
    more: bool


class Changes:
    """Reads the list of changes; `Store.changes`. Transitions write it by themselves."""

    def __init__(self, base: Base) -> None:
        self._base = base

    def since(self, cursor: str, limit: int) -> Page:
        """Changes behind a cursor, or, where it is empty, all that are listed.

        A change may come twice where its reader was sent back a little; none is left out.

        Args:
            cursor: of an earlier page.
            limit: most changes to return.

        Raises:
            CursorInvalid: it is none of ours.
            CursorTooOld: begin again without one.
        """
        data_set, place, check = _parse(cursor)
        stream = self._base.keys.changes
        # One transaction: nothing comes or goes between the parts.
        pipe = self._base.redis.pipeline(transaction=True)
        pipe.hget(self._base.keys.data_set, "id")
        pipe.time()
        pipe.xrange(stream, place, place)
        pipe.xrange(stream, f"({place}", count=limit + 1)
        mark, (seconds, micros), at_place, found = pipe.execute()
        now_ms = seconds * 1000 + micros // 1000
        if cursor and data_set != mark:
            raise CursorTooOld
        if cursor and check not in map(_check, at_place):
            start = _start_again(place, check, now_ms)
            found = self._base.redis.xrange(stream, start, count=limit + 1)
        page = found[:limit]
        if page:
            cursor = f"{mark}.{page[-1][0]}.{_check(page[-1])}"
        elif mark and check == _NOTHING:
            cursor = f"{mark}.{now_ms}-0.{_NOTHING}"
        return Page([_change(entry) for entry in page], cursor, len(found) > limit)


def _parse(cursor: str) -> tuple[str, str, str]:
    """Data set, stream id, check sum; of no cursor what stands before everything."""
    if not cursor:
        return "", "0-0", _NOTHING
    found = _CURSOR.fullmatch(cursor)
    if found is None:
        raise CursorInvalid
    return found[1], f"{found[2]}-{found[3]}", found[4]


def _start_again(place: str, check: str, now_ms: int) -> str:
    """From where to read where the entry of a cursor is not there (any more)."""
    place_ms = int(place.partition("-")[0])
    if place_ms < now_ms - LISTED_S * 1000:
        raise CursorTooOld
    return "-" if check == _NOTHING else str(max(0, place_ms - BACK_S * 1000))


def _check(entry: Any) -> str:
    """Tells an entry from another that a fail-over put in its place."""
    change = _change(entry)
    return f"{zlib.crc32(f'{change.upload_id}#{change.seq}'.encode()):08x}"


def _change(entry: Any) -> Change:
    stream_id, fields = entry
    at = int(stream_id.partition("-")[0]) / 1000
    return Change(str(fields["id"]), int(fields["seq"]), str(fields["state"]), at)
