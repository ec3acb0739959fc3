"""The console's figures: periods from the ledger, what other cut-offs would do, fresh events."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
import re
import zoneinfo
from collections.abc import Mapping, Sequence
from typing import Any

from producer.record.store import Store
from producer.web.console.context import Console
from producer.web.console.dependencies import CutOffs

#: Period -> (number of bars, seconds of one).
PERIODS = {"24h": (24, 3600.0), "7d": (28, 6 * 3600.0), "30d": (30, 86400.0)}

#: Choices of the dead letters' filter, in hours.
SINCE = {"1h": 1, "24h": 24, "7d": 168}

#: Who decides, in the order of the bars.
TIERS = ("model", "cache", "rule", "review", "operator")

#: Pictures shown that would get another verdict, of each.
SHOWN_CHANGES = 24

#: People with a colour of their own.
PERSONS = 5

#: Bins of the histogram; cut-offs in hundredths fall on their edges.
BINS = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Overview:
    """Figures of one period, each as the ledger defines it; docs/glossary.md says how.

    Args:
        people: decisions of each person in each bar, those with most first.
        people_total: all decisions of each person.
        agreement: how often people agreed with the model, 0..1.
        same, decided_twice: contents that several people decided, and alike.
        misses: how many approvals were wrong; see `Parts.misses`.
        budget_yuan: what may be spent today; None without a limit.
    """

    labels: list[str]
    tiers: dict[str, list[int]]
    gray_shares: list[float | None]
    uploads: int
    decided: int
    gray_share: float | None
    latency_p50_s: float | None
    latency_p95_s: float | None
    people: dict[str, list[int]]
    people_total: dict[str, Any]
    people_p50_s: float | None
    people_p95_s: float | None
    agreement: float | None
    same: int
    decided_twice: int
    misses: Any
    spent_yuan: float
    saved_yuan: float
    spent_today_yuan: float
    saved_today_yuan: float
    cloud_today_yuan: float
    budget_yuan: float | None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        misses = self.misses.to_json() if self.misses else None
        return {**dataclasses.asdict(self), "misses": misses}


def overview(console: Console, period: str) -> Overview | None:
    """Figures of a period; None while there is no ledger."""
    found: Overview | None = console.cache.get(
        f"overview:{period}", lambda: _overview(console, period)
    )
    return found


def _overview(console: Console, period: str) -> Overview | None:
    ledger, parts = console.parts.ledger(), console.parts
    if ledger is None:
        return None
    zone = zoneinfo.ZoneInfo(parts.timezone)
    now = console.services.store.now()
    edges = _edges(now, period, zone)
    start, end = edges[0][0], edges[-1][1]
    midnight = dt.datetime.fromtimestamp(now, zone).replace(
        hour=0, minute=0, second=0, microsecond=0
    )
    *counts, total, today = ledger.counts([*edges, (start, end), (midnight.timestamp(), end)])
    waits = ledger.latencies(start, end, (0.5, 0.95))
    half_s, most_s = waits["machine"].percentiles_s if "machine" in waits else (None, None)
    people_s = waits["operator"].percentiles_s if "operator" in waits else (None, None)
    *bars, people = ledger.people([*edges, (start, end)])
    same, twice = ledger.second_opinions(start, end)
    scored = sum(person.scored for person in people.values())
    spent_today, budget = parts.providers.today() if parts.providers else (today.cost_yuan, None)
    return Overview(
        labels=[_label(start, period, zone) for start, _ in edges],
        tiers={tier: [count.tiers.get(tier, 0) for count in counts] for tier in TIERS},
        gray_shares=[count.gray_share for count in counts],
        uploads=total.uploads,
        decided=total.decided,
        gray_share=total.gray_share,
        latency_p50_s=half_s,
        latency_p95_s=most_s,
        people=_most(people, bars),
        people_total=people,
        people_p50_s=people_s[0],
        people_p95_s=people_s[1],
        agreement=sum(p.agreed for p in people.values()) / scored if scored else None,
        same=same,
        decided_twice=twice,
        misses=parts.misses(start, end),
        spent_yuan=total.cost_yuan,
        saved_yuan=total.saved_yuan(parts.cloud_yuan_per_1000),
        spent_today_yuan=spent_today,
        saved_today_yuan=today.saved_yuan(parts.cloud_yuan_per_1000),
        cloud_today_yuan=today.cloud_yuan(parts.cloud_yuan_per_1000),
        budget_yuan=budget,
    )


def _most(people: Mapping[str, Any], bars: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Decisions in each bar of those who took most; the others together, under an empty name."""
    names = sorted(people, key=lambda name: -people[name].decided)
    found = {
        name: [bar[name].decided if name in bar else 0 for bar in bars] for name in names[:PERSONS]
    }
    if rest := names[PERSONS:]:
        found[""] = [sum(bar[n].decided for n in rest if n in bar) for bar in bars]
    return found


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
    """The histogram, and the effects of the present and of other cut-offs on it.

    Args:
        changes: (verdict, how many get it that had another, the newest of them) of each verdict
            that some would newly get.
        unknown: pictures whose style decides and is not kept; left out.
    """

    bins: list[Any]
    total: int
    present: Effect
    proposed: Effect
    changes: list[tuple[str, int, list[Any]]]
    unknown: int


def what_if(console: Console, days: int, photo: CutOffs, drawn: CutOffs) -> WhatIf | None:
    """What other cut-offs would have done; None while there is no ledger.

    Judged by the workers' own rules, once by the present policy and once with the other cut-offs;
    shares of the newest pictures are scaled to all of the period.
    """
    ledger, parts = console.parts.ledger(), console.parts
    if ledger is None:
        return None
    bins = console.cache.get(f"bins:{days}", lambda: ledger.histogram(days, BINS))
    total = sum(b.approved + b.gray + b.blocked for b in bins)
    found = console.cache.get(
        f"again:{parts.policies.version}:{days}:{photo}:{drawn}",
        lambda: parts.policies.judge_again(days, photo, drawn),
    )

    def effect(counts: Mapping[str, int]) -> Effect:
        scale = total / max(sum(counts.values()), 1)
        gray = scale * counts.get("gray", 0)
        return Effect(
            approved=scale * counts.get("approved", 0),
            gray=gray,
            blocked=scale * counts.get("blocked", 0),
            gray_a_day=gray / days,
            yuan_a_month=gray / days * 30 * parts.review_yuan_per_1000 / 1000,
        )

    present, proposed = map(effect, found.totals())
    newly = [
        (verdict, found.newly(verdict), [c for c in found.changes if c.after == verdict])
        for verdict in ("approved", "blocked", "gray")
    ]
    return WhatIf(
        bins=bins,
        total=total,
        present=present,
        proposed=proposed,
        changes=[(name, n, found[::-1][:SHOWN_CHANGES]) for name, n, found in newly if n],
        unknown=found.unknown,
    )


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
    found: list[dict[str, Any]] = []
    for stream_id, fields in reversed(store.events.newest(most)):
        if fields.get("upload_id") != upload_id:
            continue
        try:
            detail = json.loads(fields.get("detail") or "{}")
        except ValueError:
            detail = {}
        detail = detail if isinstance(detail, dict) else {}
        found.append(
            {
                "stream_id": stream_id,
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
    return re.fullmatch(r"[0-9]{1,15}-[0-9]{1,18}", text) is not None
