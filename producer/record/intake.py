"""The stream of uploads from programs that speak only Redis, and its answers.

Whoever can write `XADD '{namespace}:intake' * upload_id ...` need not speak HTTP. A consumer group
hands each entry to one worker; what that one has not settled after half a minute, because it died
or the queue was full, is taken again. Settled entries are deleted, so the stream holds what waits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import redis

from producer.record.base import Base

#: The group that all workers read as, under one name: who of them has an entry does not matter.
GROUP, CONSUMER = "avatarmod", "io"

#: Seconds after which an entry that was taken and not settled is taken again.
TAKEN_AGAIN_S = 30.0

#: Answers that are kept for the programs that read them.
MAX_REFUSALS = 10_000


@dataclasses.dataclass(frozen=True)
class IntakeEntry:
    """One entry of the stream.

    Attributes:
        place: its id in the stream.
        fields: what it says; None where it is no text in UTF-8.
    """

    place: str
    fields: dict[str, str] | None


class Intake:
    """Takes and settles entries; `Store.intake`."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._redis = base.redis
        self._stream = base.keys.intake

    def take(self, limit: int, *, wait_s: float) -> list[IntakeEntry]:
        """Entries to settle, those left behind first; waits for the first of them.

        Args:
            limit: most entries to return.
            wait_s: longest wait, in seconds.
        """
        try:
            return self._left_behind(limit) or self._new(limit, wait_s)
        except redis.ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            # The first worker, or Redis lost its data. From the very first entry on.
            self._redis.xgroup_create(self._stream, GROUP, id="0", mkstream=True)
            return self._new(limit, wait_s)

    def _left_behind(self, limit: int) -> list[IntakeEntry]:
        idle_ms = int(TAKEN_AGAIN_S * 1000)
        found: Any = self._redis.execute_command(  # type: ignore[no-untyped-call]
            *("XAUTOCLAIM", self._stream, GROUP, CONSUMER, idle_ms, "0-0", "COUNT", limit),
            NEVER_DECODE=True,
        )
        return _entries(found[1])

    def _new(self, limit: int, wait_s: float) -> list[IntakeEntry]:
        wait_ms = max(1, int(wait_s * 1000))
        found: Any = self._redis.execute_command(  # type: ignore[no-untyped-call]
            *("XREADGROUP", "GROUP", GROUP, CONSUMER, "COUNT", limit, "BLOCK", wait_ms),
            *("STREAMS", self._stream, ">"),
            NEVER_DECODE=True,
        )
        return _entries(found[0][1]) if found else []

    def settle(self, answers: Mapping[str, Sequence[dict[str, str]]]) -> None:
        """End entries, by their places; with an answer for each upload of one that was refused."""
        if not answers:
            return
        pipe = self._redis.pipeline(transaction=True)
        for place, refusals in answers.items():
            for refusal in refusals:
                fields: Any = {"entry": place, **refusal}
                pipe.xadd(
                    self._base.keys.intake_refused, fields, maxlen=MAX_REFUSALS, approximate=True
                )
        pipe.xack(self._stream, GROUP, *answers)
        pipe.xdel(self._stream, *answers)
        pipe.execute()

    def adopt_events(self, limit: int) -> int:
        """Move bucket events from the list that MinIO appends to into the stream; how many."""
        keys = [self._base.keys.intake_events, self._stream]
        return int(self._base.run("adopt_events", keys, limit=limit))

    def facts(self) -> tuple[int, float | None]:
        """(how many entries wait, since when the oldest does, in seconds since the epoch)."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.xlen(self._stream)
        pipe.llen(self._base.keys.intake_events)
        pipe.execute_command(  # type: ignore[no-untyped-call]
            "XRANGE", self._stream, "-", "+", "COUNT", 1, NEVER_DECODE=True
        )
        waiting, events, oldest = pipe.execute()
        at = int(oldest[0][0].partition(b"-")[0]) / 1000 if oldest else None
        return int(waiting) + int(events), at

    def refusals(self, limit: int) -> list[dict[str, str]]:
        """The newest answers, the newest first."""
        found: Any = self._redis.xrevrange(self._base.keys.intake_refused, count=limit)
        return [dict(fields) for _, fields in found]


def _entries(found: Any) -> list[IntakeEntry]:
    """What the server gave undecoded; Redis 6.2 gives entries that were deleted as nothing."""
    return [
        IntakeEntry(entry[0].decode(), _text(entry[1])) for entry in found if entry and entry[0]
    ]


def _text(fields: Mapping[bytes, bytes] | None) -> dict[str, str] | None:
    try:
        return {name.decode(): value.decode() for name, value in (fields or {}).items()}
    except UnicodeDecodeError:
        return None
