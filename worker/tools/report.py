"""What was decided, by which tier, how fast, and what it cost beside sending everything out.

Reads the ledger, gives one `Report`; `report_page.py` draws it. A period's verdicts are final
outcomes by whoever gave them; its gray share is of the pictures that the first tier judged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from producer.settings import Settings
from worker.ledger.counts import Latency, PeriodCounts, ShadowCounts, total_of
from worker.ledger.queries import MACHINE, LedgerReads, period_bounds
from worker.tools.figures import Table, percent, saved, span, unit, yuan
from worker.tools.misses import Misses, miss_rows
from worker.tools.money import MonthlyCost, Prices

By = Literal["day", "week", "month"]

#: Percentiles of the latencies, in the order in which they are shown.
SHARES = (0.5, 0.9, 0.99)

#: Tiers as they are shown; `machine` is all that stand before it together.
TIERS = ("model", "cache", "rule", "review")

#: Final outcomes, in the order in which they are shown.
OUTCOMES = ("approved", "blocked", "rejected")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Periods oldest first, and their sums.

    Args:
        measured: a month at the measured rate, or None where nothing was judged.
        days: length of the reported time that has data, in days.
    """

    by: By
    zone: str
    periods: list[PeriodCounts]
    latencies: dict[str, Latency]
    prices: Prices
    days: float
    measured: MonthlyCost | None
    shadows: list[ShadowCounts]
    misses: Misses

    @property
    def total(self) -> PeriodCounts:
        """All periods together."""
        return total_of(self.periods)

    def saved_yuan(self, period: PeriodCounts) -> float:
        """What sending every judged picture to the cloud would have cost more; without machine."""
        return period.saved_yuan(self.prices.cloud_yuan_per_1000)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        total = self.total
        return {
            "by": self.by,
            "zone": self.zone,
            "periods": [period.to_json() for period in self.periods],
            "total": {**total.to_json(), "saved_yuan": round(self.saved_yuan(total), 4)},
            "latency_s": {
                tier: {
                    "count": found.count,
                    **{
                        f"p{share * 100:.0f}": round(value, 4)
                        for share, value in zip(SHARES, found.percentiles_s, strict=True)
                    },
                }
                for tier, found in self.latencies.items()
            },
            "audits": self.misses.to_json(),
            "shadows": [shadow.to_json() for shadow in self.shadows],
            "measured_month": self.measured.to_json() if self.measured else None,
        }


def make_report(ledger: LedgerReads, settings: Settings, by: By, last: int) -> Report:
    """Read the last calendar periods, the present one included."""
    bounds = period_bounds(by, last, settings.report_timezone)
    periods = ledger.counts(bounds, settings.report_timezone)
    prices = Prices(
        cloud_yuan_per_1000=settings.cloud_yuan_per_1000,
        server_min_yuan=settings.server_min_yuan,
        server_max_yuan=settings.server_max_yuan,
        unit=unit(settings.currency),
    )
    start, end = bounds[0][0], bounds[-1][1]
    whole = ledger.span()
    days = (min(end, whole[1]) - max(start, whole[0])) / 86400 if whole else 0.0
    return Report(
        by=by,
        zone=settings.report_timezone,
        periods=periods,
        latencies=ledger.latencies(start, end, SHARES),
        prices=prices,
        days=max(days, 0.0),
        shadows=ledger.shadows(start, end),
        misses=Misses(answers=ledger.audits(start, end)),
        measured=_measured(total_of(periods), days, prices),
    )


def _measured(total: PeriodCounts, days: float, prices: Prices) -> MonthlyCost | None:
    """A month at the measured rate; less than a day of data is taken as a day."""
    if total.gray_share is None:
        return None
    return MonthlyCost(
        uploads_per_day=total.judged / max(days, 1.0), gray_share=total.gray_share, prices=prices
    )


# -- rows, the same for the terminal and for the page -------------------------------------------


def period_rows(report: Report) -> Table:
    """One row a period with something in it, then the sum."""
    header = [report.by, "uploads", *OUTCOMES, "gray share", "calls", report.prices.unit, "saved"]

    def row(name: str, period: PeriodCounts) -> list[object]:
        amount = report.saved_yuan(period)
        return [
            name,
            period.uploads,
            *(period.states.get(outcome, 0) for outcome in OUTCOMES),
            percent(period.gray_share),
            period.provider_calls,
            yuan(period.cost_yuan),
            saved(amount, amount),
        ]

    rows = [row(p.date, p) for p in report.periods if p.uploads or p.states or p.provider_calls]
    return header, [*rows, row("total", report.total)]


def tier_rows(report: Report) -> Table:
    """Final verdicts and latency percentiles by tier; operators stand apart, below the sum."""
    last = (MACHINE, "operator")
    names = [*TIERS, *sorted(set(report.latencies) - {*TIERS, *last}), *last]
    found = [(name, report.latencies[name]) for name in names if name in report.latencies]
    return ["tier", "verdicts", *(f"p{share * 100:.0f} s" for share in SHARES)], [
        [name or "unknown", latency.count, *(f"{v:.3f}" for v in latency.percentiles_s)]
        for name, latency in found
    ]


def money_rows(report: Report) -> Table:
    """A month at the measured rate; no rows where nothing was judged."""
    month = report.measured
    if month is None:
        return ["a month", report.prices.unit], []
    money, even = report.prices.unit, month.break_even_uploads_per_day
    lines: dict[str, object] = {
        "uploads a day": f"{month.uploads_per_day:,.0f}",
        "gray share": percent(month.gray_share),
        "provider calls a day": f"{month.calls_per_day:,.0f}",
        f"everything to the cloud, {money}": yuan(month.cloud_only_yuan),
        f"gray pictures to the cloud, {money}": yuan(month.cloud_yuan),
        f"with the machine, {money}": span(*month.total_yuan),
        f"saved, {money}": saved(*month.saved_yuan),
        "pays above so many uploads a day": "{:,.0f} to {:,.0f}".format(*even) if even else "never",
    }
    return ["a month", "measured"], [list(line) for line in lines.items()]


def shadow_rows(report: Report) -> Table:
    """What each shadow would have changed."""
    header = ["shadow", "policy", "looked", "newly approved", "newly gray", "newly blocked"]
    return header, [
        [s.bundle, s.policy, s.looked, *(s.newly(v) for v in ("approved", "gray", "blocked"))]
        for s in report.shadows
    ]


def saved_sentence(report: Report) -> str:
    """The reported time against sending every picture to the cloud, without the machine."""
    amount, money = report.saved_yuan(report.total), report.prices.unit
    if amount < 0:
        return f"{yuan(-amount)} {money} more than sending every picture to the cloud"
    return f"{yuan(amount)} {money} saved against sending every picture to the cloud"


def audit_rows(report: Report) -> Table:
    """How many approvals were wrong, where some are audited."""
    return miss_rows(report.misses)


Rows = Callable[[Report], Table]

#: The tables of a report, in their order.
TABLES: tuple[Rows, ...] = (period_rows, tier_rows, audit_rows, shadow_rows, money_rows)
