"""What a search for cut-offs found, for people: rows for the terminal, a policy file, one page."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from collections.abc import Callable
from typing import Any

from worker.policy import Policy
from worker.tools.accuracy import Rate
from worker.tools.evaluation import Evaluation
from worker.tools.evaluation_page import rate_text
from worker.tools.page import Page, Series, line_chart
from worker.tools.report import percent, yuan
from worker.tools.route_prices import Route
from worker.tools.tuning import Lack, Limits, Setting, Traffic, policy_toml
from worker.tools.words import counted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What the search found, and what it was asked; `guessed`: nobody measured the uploads."""

    one: Evaluation
    now: Setting
    found: Setting | None
    points: list[Setting]
    lacks: list[Lack]
    traffic: Traffic
    ways: tuple[Route, ...]
    limits: Limits
    guessed: bool

    @property
    def named(self) -> list[tuple[str, Setting]]:
        """Now, and what was found."""
        name = "found, unverified" if self.lacks else "found"
        return [("now", self.now)] + ([(name, self.found)] if self.found else [])

    @property
    def headline(self) -> str:
        """What the figures stand on."""
        return (
            f"{counted(len(self.one.judged), 'labelled picture')}; "
            f"{self.traffic.uploads_per_day:,.0f} uploads a day"
            f"{' (assumed)' if self.guessed else ''}, "
            f"{percent(self.traffic.explicit_share)} of them explicit (assumed)"
        )

    @property
    def priced(self) -> str:
        """Whose price the money is."""
        return f"Money at {'; '.join(map(str, self.ways))}."

    @property
    def target(self) -> str:
        """The limits in words."""
        limits = self.limits
        money = "" if math.isinf(limits.yuan_per_month) else f", {yuan(limits.yuan_per_month)} yuan"
        return (
            f"{100 * limits.false_blocks:.3g}% false blocks, {100 * limits.misses:.3g}% "
            f"missed{money}"
        )

    @property
    def no_solution(self) -> str:
        """Why nothing was found."""
        cheapest = min((point.route_yuan_per_month for point in self.points), default=None)
        least = (
            "" if cheapest is None else f"; the cheapest on the frontier is {yuan(cheapest)} yuan"
        )
        hint = (
            "; with --cautious more labelled pictures narrow the intervals"
            if self.limits.cautious
            else ""
        )
        more = f"; {self.unverified}" if self.lacks else ""
        return f"no cut-offs meet {self.target}{least}{hint}{more}"

    @property
    def unverified(self) -> str:
        """What the labels are too few for."""
        return f"the target cannot be verified: {'; '.join(map(str, self.lacks))}"

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "bundle": self.one.bundle,
            "present": self.now.to_json(),
            "found": self.found.to_json() if self.found else None,
            "verified": self.found is not None and not self.lacks,
            "lacking": [lack.to_json() for lack in self.lacks],
            "routes": [way.to_json() for way in self.ways],
            "frontier": [point.to_json() for point in self.points],
            "unknown": self.one.unknowns(),
        }


def policy_file(result: Result, found: Setting, present: Policy) -> str:
    """The cut-offs that were found as a policy file, with what they stand on."""
    one = result.one
    comment = [
        f"Made by avatarmod tune on {dt.datetime.now(dt.UTC).date().isoformat()}",
        f"for {one.bundle}, from {counted(len(one.judged), 'labelled picture')}.",
        f"Target: {result.target}.",
        *(f"UNVERIFIED: {lack}." for lack in result.lacks),
        f"Measured: false blocks {found.false_blocks}, missed {found.misses}.",
    ]
    if present.regions:
        comment.append("The present policy's own rules for regions are not carried over.")
    return policy_toml(found.photo, found.drawn, present, comment)


def setting_rows(named: list[tuple[str, Setting]]) -> tuple[list[str], list[list[object]]]:
    """Settings side by side."""
    header = ["", "photo", "drawn", "false blocks %", "missed %", "gray %", "calls/day", "yuan/mo"]

    rows: list[list[object]] = []
    for name, one in named:
        rows.append(
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
        )
    return header, rows


def money_rows(named: list[tuple[str, Setting]]) -> tuple[list[str], list[list[object]]]:
    """Yuan a month by provider, if every gray picture went there."""
    providers = sorted({name for _, one in named for name in one.yuan_per_month})
    rows: list[list[object]] = [
        [provider, *(yuan(one.yuan_per_month[provider]) for _, one in named)]
        for provider in providers
    ]
    return ["yuan a month", *(name for name, _ in named)], rows


def to_page(result: Result) -> str:
    """The frontier as one HTML file."""
    now, found, points = result.now, result.found, result.points
    page = Page("Cut-offs and what they cost", f"{result.one.bundle}, {result.headline}")
    if found is None:
        page.text(result.no_solution, warns=True)
    elif result.lacks:
        page.text(result.unverified, warns=True)
    for sentence in result.one.unknowns():
        page.text(sentence, warns=True)
    charts = []
    kinds: tuple[tuple[str, Callable[[Setting], Rate]], ...] = (
        ("Misses and money", lambda s: s.misses),
        ("False blocks and money", lambda s: s.false_blocks),
    )
    for title, rate_of in kinds:
        dots = [(s.route_yuan_per_month, 100 * (rate_of(s).value or 0.0)) for s in points]
        series = [
            Series("frontier", [], "c1"),
            *(
                Series(
                    "",
                    [dot],
                    "c1",
                    dots=True,
                    titles=[
                        f"photo {s.photo.approve_below:g}/{s.photo.block_from:g}, drawn "
                        f"{s.drawn.approve_below:g}/{s.drawn.block_from:g}: {rate_of(s)}"
                    ],
                )
                for dot, s in zip(dots, points, strict=True)
            ),
            Series(
                "now",
                [(now.route_yuan_per_month, 100 * (rate_of(now).value or 0.0))],
                "c2",
                dots=True,
            ),
        ]
        if found is not None:
            dot = (found.route_yuan_per_month, 100 * (rate_of(found).value or 0.0))
            series.append(Series("found", [dot], "c3", dots=True))
        chart = line_chart(title, series, x_label="yuan a month", y_label="percent")
        charts.append((chart, "Each dot is a set of cut-offs that no other beats in everything."))
    page.figures(charts)
    page.heading("Now, and what was found")
    page.table(*setting_rows(result.named))
    page.text(result.priced)
    page.table(*money_rows(result.named))
    page.heading("The frontier")
    page.table(*setting_rows([(str(n), point) for n, point in enumerate(points, 1)]))
    return page.render()
