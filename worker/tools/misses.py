"""How many approvals are wrong: the share of explicit ones among those that were drawn at random.

Pure. The intervals are exact, for the hits are none or few; see `Rate` for the others.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from producer.plain import counted
from worker.ledger.counts import AuditAnswer
from worker.tools.figures import Table

#: Upper edges of the bands of probability; the last one takes the rest.
BANDS = (0.01, 0.05, 0.5, math.inf)

#: Shares that an upper bound may be brought below, the next one after the present bound.
BOUNDS = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0002, 0.0001)

#: Part of a two-sided 95 % interval that lies on each side.
TAIL = 0.025


@dataclasses.dataclass(frozen=True)
class MissRate:
    """`hits` explicit pictures among `total` approvals that were looked at again."""

    hits: int
    total: int

    @property
    def interval(self) -> tuple[float, float]:
        """Clopper and Pearson's exact 95 % interval; 0..1 where nothing was looked at.

        Source: Clopper and Pearson 1934.
        """
        hits, total = self.hits, self.total
        low, high = 0.0, 1.0
        if hits:
            low = _root(lambda p: at_most(hits - 1, total, p) - (1 - TAIL))
        if hits < total:
            high = _root(lambda p: at_most(hits, total, p) - TAIL)
        return low, high

    def more_needed(self) -> tuple[float, int] | None:
        """(a tighter upper bound, how many more samples reach it if the share stays as it is).

        None where no listed bound is above the share itself.
        """
        share, high = self.hits / max(self.total, 1), self.interval[1]
        bound = next((one for one in BOUNDS if one < high), None)
        if bound is None or share >= bound:
            return None
        low, need = self.total, max(1, self.total)
        while self._bound_at(need) > bound:
            low, need = need, 2 * need
        while need - low > 1:
            middle = (low + need) // 2
            low, need = (middle, need) if self._bound_at(middle) > bound else (low, middle)
        return bound, need - self.total

    def _bound_at(self, total: int) -> float:
        hits = math.ceil(self.hits * total / max(self.total, 1))
        return MissRate(hits, total).interval[1]

    def __str__(self) -> str:
        if not self.total:
            return "–"
        low, high = self.interval
        return f"{self.hits / self.total:.2%} ({low:.2%} to {high:.2%})"

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        share = self.hits / self.total if self.total else None
        more = self.more_needed()
        return {
            "explicit": self.hits,
            "looked_at": self.total,
            "share": share,
            "interval95": self.interval,
            "more_needed": {"bound": more[0], "samples": more[1]} if more else None,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Misses:
    """What audits say of a period: all together, and by band of probability and style."""

    answers: Sequence[AuditAnswer]

    @property
    def overall(self) -> MissRate:
        """Of all approvals that were answered."""
        return _rate(self.answers)

    @property
    def unanswered(self) -> int:
        """Audits without an answer; they count nowhere else."""
        return sum(one.label == "unanswered" for one in self.answers)

    def groups(self) -> dict[str, MissRate]:
        """By band of probability, then by style; only those with an answer."""
        found: dict[str, list[AuditAnswer]] = {}
        for name in (band_of, style_of):
            for one in sorted(self.answers, key=lambda each: each.probability or 0.0):
                found.setdefault(name(one), []).append(one)
        rates = {name: _rate(members) for name, members in found.items()}
        return {name: rate for name, rate in rates.items() if rate.total}

    def sentences(self) -> list[str]:
        """What it comes to, for people; none where nothing was audited."""
        rate = self.overall
        if not self.answers:
            return []
        if not rate.total:
            return [f"No answer yet to {counted(self.unanswered, 'audit')}."]
        said = [
            f"Of {counted(rate.total, 'approval')} drawn at random and looked at again, "
            f"{rate.hits:,} {'was' if rate.hits == 1 else 'were'} explicit: {rate} of the "
            "approvals were wrong (exact 95 % interval)."
        ]
        if more := rate.more_needed():
            bound, samples = more
            said.append(
                f"An upper bound of {bound:.2%} needs {counted(samples, 'more audit')}, if the "
                "share stays as it is."
            )
        if self.unanswered:
            said.append(f"{counted(self.unanswered, 'audit')} ended without an answer.")
        return said

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            **self.overall.to_json(),
            "unanswered": self.unanswered,
            "groups": {name: rate.to_json() for name, rate in self.groups().items()},
        }


def miss_rows(misses: Misses) -> Table:
    """One row a group; no rows where nothing was audited."""
    header = ["approvals audited", "looked at", "explicit", "wrong (exact 95 %)"]
    groups = {"all": misses.overall, **misses.groups()}
    return header, [
        [name, rate.total, rate.hits, str(rate)] for name, rate in groups.items() if rate.total
    ]


def band_of(one: AuditAnswer) -> str:
    """The band of the first model's probability, in words."""
    if one.probability is None:
        return "by rule, without a model"
    number = next(n for n, edge in enumerate(BANDS) if one.probability < edge)
    if number == 0:
        return f"probability below {BANDS[0]:g}"
    if math.isinf(BANDS[number]):
        return f"probability {BANDS[number - 1]:g} and more"
    return f"probability {BANDS[number - 1]:g} to {BANDS[number]:g}"


def style_of(one: AuditAnswer) -> str:
    """The style, where the policy had to know it."""
    return f"style {one.style}" if one.style else "style not asked"


def at_most(hits: int, total: int, p: float) -> float:
    """The chance of at most `hits` of `total` where each has the chance `p`, 0..1."""
    if p <= 0:
        return 1.0
    if p >= 1:
        return 1.0 if hits >= total else 0.0
    logs = (
        math.lgamma(total + 1)
        - math.lgamma(k + 1)
        - math.lgamma(total - k + 1)
        + k * math.log(p)
        + (total - k) * math.log1p(-p)
        for k in range(hits + 1)
    )
    return math.fsum(map(math.exp, logs))


def _root(falling: Callable[[float], float]) -> float:
    """Where a falling function of 0..1 crosses zero."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def _rate(answers: Sequence[AuditAnswer]) -> MissRate:
    labels = [one.label for one in answers]
    hits = labels.count("explicit")
    return MissRate(hits, hits + labels.count("harmless"))
