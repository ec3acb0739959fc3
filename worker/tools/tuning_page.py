"""What a search for cut-offs found, for people: rows for the terminal, a policy file, one page."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from typing import Any

from matplotlib.axes import Axes

from producer.contract import Region
from producer.plain import counted
from worker.moderation.policy import Policy
from worker.tools.evaluation import Evaluation
from worker.tools.evaluation_page import rate_text
from worker.tools.figures import Table, percent, yuan
from worker.tools.misses import Misses, miss_rows
from worker.tools.page import Captioned, chart, render
from worker.tools.route_prices import Route
from worker.tools.tuning import Lack, Limits, Setting, Traffic, policy_toml


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What the search found, and what it was asked.

    Args:
        guessed: nobody measured the uploads.
        misses: what audits say of the present policy's approvals.
    """

    one: Evaluation
    region: Region
    now: Setting
    found: Setting | None
    points: list[Setting]
    lacks: list[Lack]
    traffic: Traffic
    ways: tuple[Route, ...]
    limits: Limits
    guessed: bool
    misses: Misses

    @property
    def named(self) -> list[tuple[str, Setting]]:
        """Now, and what was found."""
        name = "found, unverified" if self.lacks else "found"
        return [("now", self.now)] + ([(name, self.found)] if self.found else [])

    @property
    def frontier(self) -> list[tuple[str, Setting]]:
        """The settings that no other beats in everything, by number."""
        return [(str(number), point) for number, point in enumerate(self.points, 1)]

    @property
    def headline(self) -> str:
        """What the figures stand on."""
        return (
            f"{counted(len(self.one.judged), 'labelled picture')}; "
            f"{self.traffic.uploads_per_day:,.0f} uploads a day"
            f"{' (assumed)' if self.guessed else ''}, "
            f"{percent(self.traffic.explicit_share)} of them explicit (assumed); "
            f"cut-offs of {self.region}"
        )

    @property
    def priced(self) -> str:
        """Whose price the money is."""
        return f"Money at {'; '.join(map(str, self.ways))}."

    @property
    def target(self) -> str:
        """The limits in words."""
        limits = self.limits
        most = limits.yuan_per_month
        money = "" if math.isinf(most) else f", {yuan(most)} {limits.unit}"
        return (
            f"{100 * limits.false_blocks:.3g}% false blocks, {100 * limits.misses:.3g}% "
            f"missed{money}"
        )

    @property
    def no_solution(self) -> str:
        """Why nothing was found."""
        cheapest = min((point.route_yuan_per_month for point in self.points), default=None)
        parts = [f"no cut-offs meet {self.target}"]
        if cheapest is not None:
            parts.append(f"the cheapest on the frontier is {yuan(cheapest)} {self.limits.unit}")
        if self.limits.cautious:
            parts.append("with --cautious more labelled pictures narrow the intervals")
        if self.lacks:
            parts.append(self.unverified)
        return "; ".join(parts)

    @property
    def unverified(self) -> str:
        """What the labels are too few for."""
        return f"the target cannot be verified: {'; '.join(map(str, self.lacks))}"

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "bundle": self.one.bundle,
            "region": self.region,
            "present": self.now.to_json(),
            "found": self.found.to_json() if self.found else None,
            "verified": self.found is not None and not self.lacks,
            "lacking": [lack.to_json() for lack in self.lacks],
            "routes": [way.to_json() for way in self.ways],
            "frontier": [point.to_json() for point in self.points],
            "audits": self.misses.to_json(),
            "unknown": self.one.unknowns(),
        }


def policy_file(result: Result, found: Setting, present: Policy) -> str:
    """The cut-offs that were found as a policy file, with what they stand on."""
    one = result.one
    comment = [
        f"Made by avatarmod tune on {dt.datetime.now(dt.UTC).date().isoformat()}",
        f"for {one.judges}, from {counted(len(one.judged), 'labelled picture')}.",
        f"Target: {result.target}.",
        *(f"UNVERIFIED: {lack}." for lack in result.lacks),
        f"Measured: false blocks {found.false_blocks}, missed {found.misses}.",
    ]
    if present.regions:
        comment.append("The present policy's own rules for regions are not carried over.")
    return policy_toml(found, present, comment)


def setting_rows(named: list[tuple[str, Setting]], unit: str) -> Table:
    """Settings side by side."""
    shares = ("false blocks %", "missed %", "gray %")
    return ["", "photo", "drawn", *shares, "calls/day", f"{unit}/mo"], [
        [
            name,
            f"{one.photo.approve_below:.3g}/{one.photo.block_from:.3g}",
            f"{one.drawn.approve_below:.3g}/{one.drawn.block_from:.3g}",
            rate_text(one.false_blocks),
            rate_text(one.misses),
            f"{100 * one.gray_share:.1f}",
            f"{one.calls_per_day:,.0f}",
            yuan(one.route_yuan_per_month),
        ]
        for name, one in named
    ]


#: The second model's numbers that the search moves.
PANEL = (
    *("veto_from", "drawn_veto_from", "clear_below", "clear_up_to", "block_needs"),
    *("block_first", "block_second"),
)


def panel_rows(named: list[tuple[str, Setting]]) -> Table:
    """The second model's numbers side by side; no rows where one model judges alone."""
    looks = [(name, one.second) for name, one in named if one.second and one.second.ask != "off"]
    return ["second model", *(name for name, _ in looks)], [
        [number, *(f"{getattr(look, number):.3g}" for _, look in looks)]
        for number in PANEL
        if looks
    ]


def money_rows(named: list[tuple[str, Setting]], unit: str) -> Table:
    """Money a month by provider, if every gray picture went there."""
    providers = sorted({name for _, one in named for name in one.yuan_per_month})
    return [f"{unit} a month", *(name for name, _ in named)], [
        [provider, *(yuan(one.yuan_per_month[provider]) for _, one in named)]
        for provider in providers
    ]


def to_page(result: Result) -> str:
    """The frontier as one HTML file."""
    notes = result.one.unknowns()
    if result.found is None:
        notes.insert(0, result.no_solution)
    elif result.lacks:
        notes.insert(0, result.unverified)
    return render(
        "tuning.html",
        title="Cut-offs and what they cost",
        lead=f"{result.one.judges}, {result.headline}",
        notes=notes,
        charts=[_frontier(result, "misses"), _frontier(result, "false_blocks")],
        settings=setting_rows(result.named, result.limits.unit),
        panel=panel_rows(result.named),
        audited=result.misses.sentences(),
        audits=miss_rows(result.misses),
        priced=result.priced,
        money=money_rows(result.named, result.limits.unit),
        frontier=setting_rows(result.frontier, result.limits.unit),
    )


def _frontier(result: Result, measure: str) -> Captioned:
    def draw(axes: Axes) -> None:
        named = [("frontier", result.points), *((name, [one]) for name, one in result.named)]
        for name, settings in named:
            rates = [100 * (getattr(one, measure).value or 0.0) for one in settings]
            axes.plot([one.route_yuan_per_month for one in settings], rates, "o", label=name)

    title = f"{measure.replace('_', ' ').capitalize()} and money"
    drawn = chart(title, draw, x=f"{result.limits.unit} a month", y="percent")
    return drawn, "Each dot is a set of cut-offs that no other beats in everything."
