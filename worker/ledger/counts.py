"""What the ledger's questions are answered with: counts of a period, plain data."""

from __future__ import annotations

import dataclasses
import datetime as dt
import zoneinfo
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from producer.contract import AvatarState

#: Millionths of a yuan in one yuan.
MICRO = 1_000_000

#: States of an upload whose first look was not clear.
GRAY_STATES = (str(AvatarState.REVIEWING), str(AvatarState.HELD))

#: Tiers in the rows; empty where nobody decided. Asked for by name, an index by tier serves.
ALL_TIERS = ("", "model", "cache", "rule", "review", "operator")

#: States that a verdict leads to.
DECIDED = (str(AvatarState.APPROVED), str(AvatarState.BLOCKED))


@dataclasses.dataclass(frozen=True)
class Bin:
    """How many pictures the model put between two probabilities, and what became of them."""

    low: float
    high: float
    approved: int
    gray: int
    blocked: int


@dataclasses.dataclass(frozen=True)
class ShadowCounts:
    """Uploads by (live verdict, verdict of the shadow)."""

    bundle: str
    policy: str
    counts: dict[tuple[str, str], int]

    @property
    def looked(self) -> int:
        """All of them."""
        return sum(self.counts.values())

    def newly(self, verdict: str) -> int:
        """How many the shadow would have given this verdict that live had another."""
        return sum(n for (live, would), n in self.counts.items() if would == verdict != live)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        newly = {f"newly_{name}": self.newly(name) for name in ("approved", "gray", "blocked")}
        return {"bundle": self.bundle, "policy": self.policy, "looked": self.looked, **newly}


@dataclasses.dataclass(frozen=True)
class AuditAnswer:
    """How the audit of one approval ended: `harmless`, `explicit` or `unanswered`.

    `probability` is the first model's; None where a rule approved without one.
    """

    label: str
    probability: float | None
    style: str


@dataclasses.dataclass(frozen=True)
class Latency:
    """How many verdicts, and percentiles of their seconds in the order asked for."""

    count: int
    percentiles_s: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PersonCounts:
    """One person's decisions.

    Args:
        approved: how many.
        blocked: how many.
        agreed: of those that the model had scored, how many it would have decided alike.
        scored: how many those are.
    """

    approved: int = 0
    blocked: int = 0
    agreed: int = 0
    scored: int = 0

    @property
    def decided(self) -> int:
        """All of them."""
        return self.approved + self.blocked

    @property
    def agreement(self) -> float | None:
        """0..1; None where the model had scored none."""
        return self.agreed / self.scored if self.scored else None

    def __add__(self, other: PersonCounts) -> PersonCounts:
        return PersonCounts(
            approved=self.approved + other.approved,
            blocked=self.blocked + other.blocked,
            agreed=self.agreed + other.agreed,
            scored=self.scored + other.scored,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeriodCounts:
    """What happened from `start` (included) to `end` (excluded), seconds since the epoch.

    Args:
        uploads: accepted.
        first_looks: verdicts of the first tier: approved, blocked, gray or rejected.
        states: transitions by the state they led to.
        tiers: final verdicts by who gave them: model, cache, rule, review, operator.
        providers: billed calls and yuan by review provider.
        callbacks: ended callbacks by outcome.
    """

    start: float
    end: float
    uploads: int
    first_looks: dict[str, int]
    states: dict[str, int]
    tiers: dict[str, int]
    providers: dict[str, tuple[int, float]]
    callbacks: dict[str, int]
    zone: str = "UTC"

    @property
    def date(self) -> str:
        """The local date of its start, in the zone that made the period begin at midnight."""
        zone = zoneinfo.ZoneInfo(self.zone)
        return dt.datetime.fromtimestamp(self.start, zone).date().isoformat()

    @property
    def judged(self) -> int:
        """Pictures that the first tier judged; rejected files are none."""
        return sum(self.first_looks.get(name, 0) for name in ("approved", "blocked", "gray"))

    @property
    def gray_share(self) -> float | None:
        """Share of judged pictures that were not clear; None where none was judged."""
        return self.first_looks.get("gray", 0) / self.judged if self.judged else None

    @property
    def decided(self) -> int:
        """Final verdicts of all tiers, those that changed an earlier one too."""
        return sum(self.tiers.values())

    def cloud_yuan(self, cloud_yuan_per_1000: float) -> float:
        """What it would have cost to send every judged picture to the cloud."""
        return self.judged * cloud_yuan_per_1000 / 1000

    def saved_yuan(self, cloud_yuan_per_1000: float) -> float:
        """What that would have cost more than was paid; without the machine."""
        return self.cloud_yuan(cloud_yuan_per_1000) - self.cost_yuan

    @property
    def provider_calls(self) -> int:
        """Billed calls at all providers."""
        return sum(calls for calls, _ in self.providers.values())

    @property
    def cost_yuan(self) -> float:
        """Paid to all providers."""
        return sum(yuan for _, yuan in self.providers.values())

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "date": self.date,
            "start": self.start,
            "end": self.end,
            "uploads": self.uploads,
            "judged": self.judged,
            "gray_share": self.gray_share,
            "first_looks": self.first_looks,
            "states": self.states,
            "tiers": self.tiers,
            "provider_calls": self.provider_calls,
            "cost_yuan": round(self.cost_yuan, 6),
            "providers": {
                name: {"calls": calls, "yuan": round(yuan, 6)}
                for name, (calls, yuan) in self.providers.items()
            },
            "callbacks": self.callbacks,
        }


def make_period(start: float, end: float, zone: str, rows: Iterable[Any]) -> PeriodCounts:
    """Add up rows of (kind, from, to, tier, provider, number, calls, microyuan)."""
    uploads = 0
    first_looks: Counter[str] = Counter()
    states: Counter[str] = Counter()
    tiers: Counter[str] = Counter()
    providers: dict[str, tuple[int, float]] = {}
    callbacks: Counter[str] = Counter()
    for kind, from_state, to_state, tier, provider, number, calls, microyuan in rows:
        if provider:
            before = providers.get(provider, (0, 0.0))
            providers[provider] = (before[0] + calls, before[1] + microyuan / MICRO)
        if kind == "callback":
            callbacks[to_state] += number
        if kind != "transition":
            continue
        if not from_state:
            uploads += number
            continue
        states[to_state] += number
        if is_first_look(kind, from_state, to_state, tier):
            first_looks["gray" if to_state in GRAY_STATES else to_state] += number
        if to_state in DECIDED:
            tiers[tier or "unknown"] += number
    return PeriodCounts(
        start=start,
        end=end,
        uploads=uploads,
        first_looks=dict(first_looks),
        states=dict(states),
        tiers=dict(tiers),
        providers=providers,
        callbacks=dict(callbacks),
        zone=zone,
    )


def total_of(periods: Sequence[PeriodCounts]) -> PeriodCounts:
    """One period that holds all of them, at least one."""

    def sums(name: str) -> dict[str, int]:
        counter: Counter[str] = Counter()
        for period in periods:
            counter.update(getattr(period, name))
        return dict(counter)

    providers: dict[str, tuple[int, float]] = {}
    for period in periods:
        for name, (calls, yuan) in period.providers.items():
            before = providers.get(name, (0, 0.0))
            providers[name] = (before[0] + calls, before[1] + yuan)
    return PeriodCounts(
        start=periods[0].start,
        end=periods[-1].end,
        uploads=sum(period.uploads for period in periods),
        first_looks=sums("first_looks"),
        states=sums("states"),
        tiers=sums("tiers"),
        providers=providers,
        callbacks=sums("callbacks"),
        zone=periods[0].zone,
    )


def is_first_look(kind: str, from_state: str, to_state: str, tier: str) -> bool:
    """Whether an event is the first tier's verdict on a picture."""
    is_move = kind == "transition" and from_state == AvatarState.QUEUED
    return is_move and to_state != AvatarState.DEAD and tier != "operator"
