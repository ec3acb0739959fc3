"""A report as one HTML file."""

from __future__ import annotations

from matplotlib.axes import Axes

from worker.tools.figures import percent, span, yuan
from worker.tools.misses import miss_rows
from worker.tools.page import chart, render, stacked_bars
from worker.tools.report import (
    OUTCOMES,
    Report,
    money_rows,
    period_rows,
    saved_sentence,
    shadow_rows,
    tier_rows,
)


def to_page(report: Report) -> str:
    """The report as one HTML file."""
    total, prices = report.total, report.prices
    notes = [] if total.uploads else ["The ledger has no uploads in this time."]
    if report.measured is not None and report.days < 1:
        notes.append("Less than a day of data: the measured month takes it as one day.")
    labels = [period.date for period in report.periods]

    def outcomes(axes: Axes) -> None:
        series = {name: [float(p.states.get(name, 0)) for p in report.periods] for name in OUTCOMES}
        stacked_bars(axes, labels, series)

    def money(axes: Axes) -> None:
        paid = [period.cost_yuan for period in report.periods]
        more = [max(0.0, report.saved_yuan(period)) for period in report.periods]
        stacked_bars(axes, labels, {"paid": paid, "saved": more})

    return render(
        "report.html",
        title="Moderation report",
        lead=f"{report.periods[0].date} until now, by {report.by}, {report.zone}",
        cards=[
            ("uploads", f"{total.uploads:,}"),
            ("gray share of the pictures that the first tier judged", percent(total.gray_share)),
            ("provider calls", f"{total.provider_calls:,}"),
            (f"{report.prices.unit} paid to providers", yuan(total.cost_yuan)),
            (f"{saved_sentence(report)}, without the machine", ""),
        ],
        notes=notes,
        charts=[
            (chart("Outcomes", outcomes, y="pictures"), "Final verdicts, whoever gave them."),
            (
                chart("Money", money, y=report.prices.unit),
                "Paid to providers, and what sending every picture out would have cost more.",
            ),
        ],
        periods=period_rows(report),
        tiers=tier_rows(report),
        audits=miss_rows(report.misses),
        audited=report.misses.sentences(),
        shadows=shadow_rows(report),
        money=money_rows(report),
        prices=f"Prices: {prices.cloud_yuan_per_1000:g} {prices.unit} for 1,000 pictures at a "
        f"provider, {span(prices.server_min_yuan, prices.server_max_yuan)} {prices.unit} a month "
        "for the machine; 30 days. What providers really charged is the price list of each "
        "provider.",
    )
