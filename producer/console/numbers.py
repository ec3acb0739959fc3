"""The console's figures: periods from the ledger, what other cut-offs would do, fresh events."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
import re
import time
import zoneinfo
from collections.abc import Callable
from typing import Any, TypeVar, cast

from producer.console.visit import Desk
from producer.store import Store

#: Period -> (number of bars, seconds of one).
PERIODS = {"24h": (24, 3600.0), "7d": (28, 6 * 3600.0), "30d": (30, 86400.0)}

#: Choices of the dead letters' filter, in hours.
SINCE = {"1h": 1, "24h": 24, "7d": 168}

#: Who decides, in the order of the bars.
TIERS = ("model", "cache", "rule", "review", "operator")

#: Seconds that figures are shown again before they are computed anew.
KEEP_S = 15.0

#: Bins of the histogram; cut-offs in hundredths fall on their edges.
BINS = 100

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Overview:
    """Figures of one period."""

    labels: list[str]
    tiers: dict[str, list[int]]
    gray_shares: list[float | None]
    uploads: int
    decided: int
    gray_share: float | None
    latency_p50_s: float | None
    latency_p95_s: float | None
    spent_yuan: float
    saved_yuan: float
    spent_today_yuan: float
    saved_today_yuan: float

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        return dataclasses.asdict(self)


class Kept:
    """Remembers what is expensive to compute, for a few seconds."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[float, Any]] = {}

    def get(self, name: str, compute: Callable[[], T]) -> T:
        """The kept value, or a new one."""
        at_s, value = self._kept.get(name, (-math.inf, None))
        if time.monotonic() - at_s > KEEP_S:
            value = compute()
            self._kept[name] = (time.monotonic(), value)
            while len(self._kept) > 50:
                self._kept.pop(next(iter(self._kept)))
        return cast("T", value)


def overview(desk: Desk, period: str) -> Overview | None:
    """Figures of a period; None while there is no ledger."""
    kept: Overview | None = desk.kept.get(f"overview:{period}", lambda: _overview(desk, period))
    return kept


def _overview(desk: Desk, period: str) -> Overview | None:
    ledger = desk.parts.ledger()
    if ledger is None:
        return None
    zone = zoneinfo.ZoneInfo(desk.parts.timezone)
    now = desk.services.store.now()
    edges = _edges(now, period, zone)
    counts = [ledger.count(start, end) for start, end in edges]
    midnight = dt.datetime.fromtimestamp(now, zone).replace(
        hour=0, minute=0, second=0, microsecond=0
    )
    today = ledger.count(midnight.timestamp(), now + 1)
    waits = ledger.latencies(now - 86400, now + 1, (0.5, 0.95)).get("machine")
    half_s, most_s = waits.percentiles_s if waits else (None, None)
    judged = sum(count.judged for count in counts)
    spent = sum(count.cost_yuan for count in counts)
    price = desk.parts.cloud_yuan_per_1000 / 1000
    return Overview(
        labels=[_label(start, period, zone) for start, _ in edges],
        tiers={tier: [count.tiers.get(tier, 0) for count in counts] for tier in TIERS},
        gray_shares=[count.gray_share for count in counts],
        uploads=sum(count.uploads for count in counts),
        decided=sum(sum(count.tiers.values()) for count in counts),
        gray_share=sum(c.first_looks.get("gray", 0) for c in counts) / judged if judged else None,
        latency_p50_s=half_s,
        latency_p95_s=most_s,
        spent_yuan=spent,
        saved_yuan=judged * price - spent,
        spent_today_yuan=today.cost_yuan,
        saved_today_yuan=today.judged * price - today.cost_yuan,
    )


def _edges(now: float, period: str, zone: zoneinfo.ZoneInfo) -> list[tuple[float, float]]:
    bars, width_s = PERIODS[period]
    offset = dt.datetime.fromtimestamp(now, zone).utcoffset() or dt.timedelta()
    shift = offset.total_seconds()
    end = (math.floor((now + shift) / width_s) + 1) * width_s - shift
    return [(end - (n + 1) * width_s, end - n * width_s) for n in range(bars - 1, -1, -1)]


def _label(start: float, period: str, zone: zoneinfo.ZoneInfo) -> str:
    moment = dt.datetime.fromtimestamp(start, zone)
    return moment.strftime({"24h": "%H:%M", "7d": "%m-%d %Hh", "30d": "%m-%d"}[period])


# -- cut-offs ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effect:
    """What a pair of cut-offs does to the pictures of the period; a month has 30 days."""

    approved: float
    gray: float
    blocked: float
    gray_a_day: float
    yuan_a_month: float

    @property
    def total(self) -> float:
        """All pictures."""
        return self.approved + self.gray + self.blocked


@dataclasses.dataclass(frozen=True, kw_only=True)
class WhatIf:
    """The histogram, and the effects of the present and of other cut-offs on it."""

    bins: list[Any]
    total: int
    present: Effect
    proposed: Effect


def what_if(desk: Desk, days: int, proposed: tuple[float, float]) -> WhatIf | None:
    """What other cut-offs would have done; None while there is no ledger.

    The present counts are what really happened; the proposed ones take every picture for a photo,
    and split a bin that a cut-off crosses evenly.
    """
    ledger = desk.parts.ledger()
    if ledger is None:
        return None
    bins = desk.kept.get(f"bins:{days}", lambda: ledger.histogram(days, BINS))
    approved = float(sum(b.approved for b in bins))
    gray = float(sum(b.gray for b in bins))
    blocked = float(sum(b.blocked for b in bins))
    total = int(approved + gray + blocked)
    below = sum(_below(b, proposed[0]) for b in bins)
    above = total - sum(_below(b, proposed[1]) for b in bins)
    price = desk.parts.review_yuan_per_1000 / 1000

    def effect(approved: float, gray: float, blocked: float) -> Effect:
        a_day = gray / days
        return Effect(
            approved=approved,
            gray=gray,
            blocked=blocked,
            gray_a_day=a_day,
            yuan_a_month=a_day * 30 * price,
        )

    return WhatIf(
        bins=bins,
        total=total,
        present=effect(approved, gray, blocked),
        proposed=effect(below, total - below - above, above),
    )


def _below(b: Any, cut: float) -> float:
    share = min(max((cut - b.low) / (b.high - b.low), 0.0), 1.0)
    total = float(b.approved + b.gray + b.blocked)
    return total * float(share)


def number(text: str, default: float) -> float:
    """A number that somebody typed; the default where it is none."""
    try:
        value = float(text)
    except ValueError:
        return default
    return value if math.isfinite(value) else default


# -- events ------------------------------------------------------------------------------------


def fresh_events(store: Store, upload_id: str, most: int) -> list[dict[str, Any]]:
    """One upload's events that the ledger has not taken yet, in the ledger's form."""
    entries: Any = store.redis.xrevrange(store.key("events"), count=most)
    found = []
    for stream_id, fields in reversed(entries):
        if fields.get("upload_id") != upload_id:
            continue
        try:
            detail = json.loads(fields.get("detail") or "{}")
        except ValueError:
            detail = {}
        detail = detail if isinstance(detail, dict) else {}
        found.append(
            {
                "stream_id": str(stream_id),
                "kind": fields.get("kind", ""),
                "seq": int(fields.get("seq") or 0),
                "from_state": fields.get("from", ""),
                "to_state": fields.get("to", ""),
                "at": number(fields.get("at", ""), 0.0),
                "probability": number(str(detail.get("probability", "")), math.nan),
                "reason": str(detail.get("reason", "")),
                "decided_by": str(detail.get("decided_by", "")),
                "detail": detail,
            }
        )
    for event in found:
        if math.isnan(event["probability"]):
            event["probability"] = None
    return found


def is_stream_id(text: str) -> bool:
    """Whether a text is an id of a Redis stream."""
    return re.fullmatch(r"\d{1,20}-\d{1,20}", text) is not None
