"""The search over the second model's numbers: less gray within the limits, only what is known."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable

import numpy as np

from producer.contract import Verdict
from worker.moderation.panel import SecondLook, SecondScore, combine
from worker.moderation.policy import Policy, parse_policy
from worker.tools.panel_tuning import search_both
from worker.tools.tuning import Limits, Sample, Setting, Traffic, policy_toml, search

TRAFFIC = Traffic(
    uploads_per_day=1000,
    explicit_share=0.02,
    yuan_per_1000={"tencent": 1.5},
    route_yuan_per_1000=1.5,
)

PRESENT = Policy(second=SecondLook())

#: (first model's probability, second's, explicit, drawn)
Row = tuple[float, float, bool, bool]


def sample_of(rows: list[Row]) -> Callable[[SecondLook], Sample]:
    """The same pictures under any numbers, judged by the one rule."""

    def make(rules: SecondLook) -> Sample:
        def said(first: Verdict, verdict: Verdict) -> np.ndarray:
            return np.asarray(
                [
                    combine(
                        first, p, SecondScore(probability=s, raw_score=s), rules, is_drawn=drawn
                    )[0]
                    == verdict
                    for p, s, _, drawn in rows
                ]
            )

        return Sample(
            probability=np.asarray([row[0] for row in rows]),
            explicit=np.asarray([row[2] for row in rows]),
            drawn=np.asarray([row[3] for row in rows]),
            decided=np.zeros(len(rows), dtype=bool),
            vetoed=said(Verdict.APPROVED, Verdict.GRAY),
            cleared=said(Verdict.GRAY, Verdict.APPROVED),
            joint=said(Verdict.GRAY, Verdict.BLOCKED),
            disputed=said(Verdict.BLOCKED, Verdict.GRAY),
        )

    return make


def pictures(explicit_of_each: int) -> list[Row]:
    """Harmless ones that the second model is a little suspicious of, explicit ones it knows."""
    dice = np.random.default_rng(7)
    rows: list[Row] = []
    for drawn in (False, True):
        for _ in range(150):
            rows.append((float(dice.beta(1, 6)), float(dice.beta(2, 5)), False, drawn))
        for _ in range(explicit_of_each):
            rows.append((float(dice.beta(3, 2)), 0.8 + 0.2 * float(dice.random()), True, drawn))
    return rows


def found_of(rows: list[Row], limits: Limits) -> tuple[Setting, Setting]:
    """(with the present numbers, with those that were found)."""
    sample = sample_of(rows)
    plain = search(sample(PRESENT.second), PRESENT, TRAFFIC, limits)
    both = search_both(sample, PRESENT, TRAFFIC, limits)
    assert plain is not None
    assert both is not None
    return plain, both


def test_better_numbers_leave_less_gray_within_the_same_limits() -> None:
    """A second model that separates the labels well is given more to say."""
    limits = Limits(false_blocks=0.01, misses=0.02)
    plain, both = found_of(pictures(40), limits)
    assert both.gray_share < plain.gray_share / 2
    assert both.misses.hits <= 0.02 * both.misses.total
    assert both.false_blocks.hits <= 0.01 * both.false_blocks.total
    assert both.second is not None
    assert both.second.problem() == ""
    again = sample_of(pictures(40))(both.second)
    assert search(again, PRESENT, TRAFFIC, limits) == dataclasses.replace(both, second=None)


def test_without_explicit_pictures_nothing_that_lets_pass_moves() -> None:
    """Else the veto would go, for it costs gray and nothing is known of what it catches."""
    _, both = found_of(pictures(0), Limits(false_blocks=0.01))
    assert both.second is not None
    kept = ("veto_from", "drawn_veto_from", "clear_below", "clear_up_to", "hold_from", "ask")
    for name in kept:
        assert getattr(both.second, name) == getattr(PRESENT.second, name)


def test_a_style_without_explicit_pictures_keeps_its_veto() -> None:
    """Photographs say nothing of drawings."""
    rows = [row for row in pictures(40) if not (row[2] and row[3])]
    _, both = found_of(rows, Limits(false_blocks=0.01, misses=0.02))
    assert both.second is not None
    assert both.second.drawn_veto_from == PRESENT.second.drawn_veto_from


def test_what_was_found_is_written_and_reads_back() -> None:
    """Even where the present policy names no second model: its numbers are new."""
    _, both = found_of(pictures(40), Limits(false_blocks=0.01, misses=0.02))
    text = policy_toml(both, PRESENT, [])
    assert parse_policy(tomllib.loads(text), "written").second == both.second


def test_one_model_alone_is_searched_as_before() -> None:
    """There are no numbers to move."""
    alone = PRESENT.alone()
    sample = sample_of(pictures(40))
    limits = Limits(false_blocks=0.01, misses=0.05)
    plain = search(sample(alone.second), alone, TRAFFIC, limits)
    both = search_both(sample, alone, TRAFFIC, limits)
    assert plain is not None
    assert both is not None
    assert both == dataclasses.replace(plain, second=alone.second)
