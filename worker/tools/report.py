"""What was decided, by which tier, how fast, and what it cost beside sending everything out.

Reads the ledger, gives one `Report`; `to_page` draws it. The money is compared twice: from the
design note's inputs, and from what was measured in the reported time.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any, Literal

from producer.settings import Settings
from worker.ledger_counts import Latency, PeriodCounts, ShadowCounts
from worker.ledger_reads import MACHINE, LedgerReads, period_bounds
from worker.tools.money import NOTE_GRAY_SHARE, NOTE_UPLOADS_PER_DAY, MonthlyCost, Prices
from worker.tools.page import Page, bar_chart

By = Literal["day", "week", "month"]

#: Percentiles of the latencies, in the order in which they are shown.
SHARES = (0.5, 0.9, 0.99)

#: Tiers as they are shown; `machine` is all that stand before it together.
TIERS = ("model", "cache", "rule", "review")

#: First looks in the order in which bars are stacked; also their colours.
LOOKS = ("approved", "gray", "blocked", "rejected")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Periods oldest first, and their sums.

    Args:
        measured: a month at the measured rate, or None where nothing was judged.
        note: the design note's table, from its inputs and the configured prices.
        days: length of the reported time that has data, in days.
    """

    by: By
    zone: str
    periods: list[PeriodCounts]
    latencies: dict[str, Latency]
    prices: Prices
    days: float
    measured: MonthlyCost | None
    note: MonthlyCost
    shadows: list[ShadowCounts]

    @property
    def total(self) -> PeriodCounts:
        """All periods together."""
        return add_up(self.periods)

    @property
    def saved_yuan(self) -> float:
        """What sending every judged picture to the cloud would have cost more; without machine."""
        return self.total.judged * self.prices.cloud_yuan_per_1000 / 1000 - self.total.cost_yuan

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "by": self.by,
            "zone": self.zone,
            "periods": [period.to_json() for period in self.periods],
            "total": {**self.total.to_json(), "saved_yuan": round(self.saved_yuan, 4)},
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
            "shadows": [shadow.to_json() for shadow in self.shadows],
            "measured_month": self.measured.to_json() if self.measured else None,
            "note_month": self.note.to_json(),
        }


def make_report(
    ledger: LedgerReads, settings: Settings, by: By, last: int, *, now: float | None = None
) -> Report:
    """Read the last calendar periods, the present one included."""
    bounds = period_bounds(by, last, settings.report_timezone, now)
    periods = [ledger.count(*each, settings.report_timezone) for each in bounds]
    prices = Prices(
        cloud_yuan_per_1000=settings.cloud_yuan_per_1000,
        server_min_yuan=settings.server_min_yuan,
        server_max_yuan=settings.server_max_yuan,
    )
    start, end = bounds[0][0], bounds[-1][1]
    span = ledger.span()
    days = (min(end, span[1]) - max(start, span[0])) / 86400 if span else 0.0
    return Report(
        by=by,
        zone=settings.report_timezone,
        periods=periods,
        latencies=ledger.latencies(start, end, SHARES),
        prices=prices,
        days=max(days, 0.0),
        shadows=ledger.shadows(start, end),
        measured=_measured(add_up(periods), days, prices),
        note=MonthlyCost(
            uploads_per_day=NOTE_UPLOADS_PER_DAY, gray_share=NOTE_GRAY_SHARE, prices=prices
        ),
    )


def _measured(total: PeriodCounts, days: float, prices: Prices) -> MonthlyCost | None:
    """A month at the measured rate; less than a day of data is taken as a day."""
    if total.gray_share is None:
        return None
    return MonthlyCost(
        uploads_per_day=total.judged / max(days, 1.0), gray_share=total.gray_share, prices=prices
    )


def add_up(periods: list[PeriodCounts]) -> PeriodCounts:
    """One period that holds all of them."""
    providers: dict[str, tuple[int, float]] = {}
    for period in periods:
        for name, (calls, yuan) in period.providers.items():
            before = providers.get(name, (0, 0.0))
            providers[name] = (before[0] + calls, before[1] + yuan)

    def sums(name: str) -> dict[str, int]:
        counter: Counter[str] = Counter()
        for period in periods:
            counter.update(getattr(period, name))
        return dict(counter)

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


# -- rows, the same for the terminal and for the page -------------------------------------------


def percent(share: float | None) -> str:
    """A share for people; a dash where there is none."""
    return "–" if share is None else f"{share:.1%}"


def yuan(amount: float) -> str:
    """An amount for people; more digits while it is small."""
    return f"{amount:,.4f}" if 0 < abs(amount) < 1 else f"{amount:,.2f}"


def period_rows(report: Report) -> tuple[list[str], list[list[object]]]:
    """One row a period with something in it, then the sum."""
    header = [report.by, "uploads", *LOOKS, "gray %", "calls", "yuan", "saved"]
    price = report.prices.cloud_yuan_per_1000 / 1000

    def row(name: str, period: PeriodCounts) -> list[object]:
        saved = period.judged * price - period.cost_yuan
        looks = [period.first_looks.get(look, 0) for look in LOOKS]
        return [
            name,
            period.uploads,
            *looks,
            percent(period.gray_share),
            period.provider_calls,
            yuan(period.cost_yuan),
            yuan(saved),
        ]

    rows = [row(p.date, p) for p in report.periods if p.uploads or p.states or p.provider_calls]
    return header, [*rows, row("total", report.total)]


def tier_rows(report: Report) -> tuple[list[str], list[list[object]]]:
    """Final verdicts and latency percentiles by tier; operators stand apart, below the sum."""
    header = ["tier", "verdicts", *(f"p{share * 100:.0f} s" for share in SHARES)]
    last = (MACHINE, "operator")
    names = [*TIERS, *sorted(set(report.latencies) - {*TIERS, *last}), *last]
    rows: list[list[object]] = []
    for name in names:
        found = report.latencies.get(name)
        if found:
            rows.append(
                [name or "unknown", found.count, *(f"{v:.3f}" for v in found.percentiles_s)]
            )
    return header, rows


def money_rows(report: Report) -> tuple[list[str], list[list[object]]]:
    """The note's table beside the measured one, yuan a month."""
    months = [("design note", report.note)]
    if report.measured is not None:
        months.append(("measured", report.measured))

    def span(low_high: tuple[float, float]) -> str:
        low, high = low_high
        return yuan(low) if low == high else f"{yuan(low)} to {yuan(high)}"

    def even(month: MonthlyCost) -> str:
        found = month.break_even_uploads_per_day
        return "never" if found is None else f"{found[0]:,.0f} to {found[1]:,.0f}"

    lines = (
        ("uploads a day", lambda m: f"{m.uploads_per_day:,.0f}"),
        ("gray share", lambda m: percent(m.gray_share)),
        ("provider calls a day", lambda m: f"{m.calls_per_day:,.0f}"),
        ("everything to the cloud", lambda m: yuan(m.cloud_only_yuan)),
        ("gray pictures to the cloud", lambda m: yuan(m.cloud_yuan)),
        ("with the machine", lambda m: span(m.total_yuan)),
        ("saved", lambda m: span(m.saved_yuan)),
        ("pays above so many uploads a day", even),
    )
    header = ["yuan a month", *(name for name, _ in months)]
    return header, [[name, *(show(month) for _, month in months)] for name, show in lines]


def shadow_rows(report: Report) -> tuple[list[str], list[list[object]]]:
    """What each shadow would have changed."""
    header = ["shadow", "policy", "looked", "newly approved", "newly gray", "newly blocked"]
    return header, [
        [s.bundle, s.policy, s.looked, *(s.newly(v) for v in ("approved", "gray", "blocked"))]
        for s in report.shadows
    ]


def to_page(report: Report) -> str:
    """The report as one HTML file."""
    total = report.total
    page = Page(
        "Moderation report",
        f"{report.periods[0].date} until now, by {report.by}, {report.zone}",
    )
    page.cards(
        [
            ("uploads", f"{total.uploads:,}"),
            ("gray share", percent(total.gray_share)),
            ("provider calls", f"{total.provider_calls:,}"),
            ("yuan paid to providers", yuan(total.cost_yuan)),
            ("yuan saved against cloud only, without the machine", yuan(report.saved_yuan)),
        ]
    )
    if not total.uploads:
        page.text("The ledger has no uploads in this time.", warns=True)
    labels = [period.date for period in report.periods]
    price = report.prices.cloud_yuan_per_1000 / 1000
    page.heading("What was decided")
    page.figures(
        [
            (
                bar_chart(
                    "First looks",
                    labels,
                    [
                        (look, look, [float(p.first_looks.get(look, 0)) for p in report.periods])
                        for look in LOOKS
                    ],
                    y_label="pictures",
                ),
                "What the first tier said. Gray pictures get a second opinion.",
            ),
            (
                bar_chart(
                    "Money",
                    labels,
                    [
                        ("paid", "c2", [p.cost_yuan for p in report.periods]),
                        (
                            "saved",
                            "c3",
                            [max(0.0, p.judged * price - p.cost_yuan) for p in report.periods],
                        ),
                    ],
                    y_label="yuan",
                ),
                "Paid to providers, and what sending every picture out would have cost more.",
            ),
        ]
    )
    page.table(*period_rows(report))
    page.heading("Who decided, and how fast")
    page.table(*tier_rows(report))
    if report.shadows:
        page.heading("What shadows would have said")
        page.table(*shadow_rows(report))
    page.heading("What it costs a month")
    page.table(*money_rows(report))
    page.text(
        f"Prices: {report.prices.cloud_yuan_per_1000:g} yuan for 1,000 pictures at a provider, "
        f"{report.prices.server_min_yuan:g} to {report.prices.server_max_yuan:g} yuan a month for "
        "the machine; 30 days. What providers really charged is the price list of each provider."
    )
    if report.measured is not None and report.days < 1:
        page.text("Less than a day of data: the measured month takes it as one day.", warns=True)
    return page.render()
