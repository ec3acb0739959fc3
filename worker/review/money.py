"""Money as it is counted here: in millionths of a yuan, by days of a zone, told to the ledger."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import zoneinfo
from typing import Any, ClassVar

from producer.findings import Opinion

MICRO = 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unanswered:
    """A call that may be billed and brought no opinion; stands in the ledger as one."""

    provider: str
    error: str
    microyuan: int
    decision: ClassVar[str] = "unanswered"

    def to_dict(self) -> dict[str, Any]:
        """In the form of an opinion."""
        return {
            "provider": self.provider,
            "decision": self.decision,
            "score": None,
            "labels": [self.error[:200]],
            "latency_s": 0.0,
            "cost_yuan": self.microyuan / MICRO,
        }


def event_detail(said: Opinion | Unanswered, sha256: str, field: str = "") -> str:
    """What the ledger is told of one billed call; `field`: where its opinion is kept for reuse."""
    detail = {"opinions": [said.to_dict()], "sha256": sha256}
    return json.dumps(detail | ({"file": field} if field else {}), ensure_ascii=False)


def for_file(opinion: Opinion) -> str:
    """As JSON without the raw reply, which goes to the ledger once and would fill Redis here."""
    return json.dumps(dataclasses.replace(opinion, raw=None).to_dict(), ensure_ascii=False)


def days_around(now: float, zone: zoneinfo.ZoneInfo) -> list[tuple[str, int]]:
    """(date, first microsecond) of yesterday, today and tomorrow; the server's clock picks one.

    Lua knows no time zones, and midnight may be over before it is asked.

    Args:
        now: seconds since the epoch by the server's clock.
        zone: whose midnight counts.
    """
    today = datetime.datetime.fromtimestamp(now, zone).date()
    dates = [today + datetime.timedelta(days=shift) for shift in (-1, 0, 1)]
    return [(date.isoformat(), _midnight_us(date, zone)) for date in dates]


@functools.lru_cache(maxsize=16)
def _midnight_us(date: datetime.date, zone: zoneinfo.ZoneInfo) -> int:
    midnight = datetime.datetime.combine(date, datetime.time(), tzinfo=zone)
    return int(midnight.timestamp()) * MICRO
