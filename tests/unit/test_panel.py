"""What a second model's word changes, over the whole square of both probabilities."""

from __future__ import annotations

import itertools

import pytest

from producer.contract import Verdict
from worker.moderation.panel import SecondLook, SecondScore, combine

RULES = SecondLook()
GRID = [step / 50 for step in range(51)]
RANK = {Verdict.APPROVED: 0, Verdict.GRAY: 1, Verdict.BLOCKED: 2}


def first(probability: float) -> Verdict:
    """The verdict of the built-in cut-offs."""
    if probability < 0.05:
        return Verdict.APPROVED
    return Verdict.BLOCKED if probability >= 0.95 else Verdict.GRAY


def both(
    p: float, s: float, rules: SecondLook = RULES, *, hold: float = 0.0
) -> tuple[Verdict, str]:
    """The verdict of both."""
    second = SecondScore(probability=s, raw_score=s, hold=hold)
    return combine(first(p), p, second, rules, is_drawn=False)


@pytest.mark.parametrize(
    ("p", "s", "verdict", "reason"),
    [
        (0.01, 0.01, Verdict.APPROVED, ""),
        (0.01, 0.34, Verdict.APPROVED, ""),
        (0.01, 0.35, Verdict.GRAY, "second_veto"),
        (0.20, 0.04, Verdict.APPROVED, "second_clear"),
        (0.20, 0.05, Verdict.GRAY, ""),
        (0.50, 0.00, Verdict.GRAY, ""),
        (0.96, 0.04, Verdict.GRAY, "second_disagrees"),
        (0.96, 0.05, Verdict.BLOCKED, ""),
    ],
)
def test_the_second_vetoes_and_clears(p: float, s: float, verdict: Verdict, reason: str) -> None:
    """Approved if (p < 0.05 and s < 0.35) or (p < 0.5 and s < 0.05), else gray or blocked.

    A block by the first alone that the second finds harmless is gray: both must err to block.
    """
    assert both(p, s) == (verdict, reason)


def test_more_suspicion_never_makes_a_milder_verdict() -> None:
    """Along both axes: a picture is never better off for looking worse."""
    rules = SecondLook(block_first=0.8, block_second=0.5)
    table = {(p, s): RANK[both(p, s, rules)[0]] for p, s in itertools.product(GRID, GRID)}
    for line in (lambda a, b: (a, b), lambda a, b: (b, a)):
        for fixed in GRID:
            ranks = [table[line(fixed, moving)] for moving in GRID]
            assert ranks == sorted(ranks)


@pytest.mark.parametrize("p", GRID)
def test_a_missing_word_is_never_a_good_one(p: float) -> None:
    """What needed the second look and did not get it is gray; a block stands without it."""
    verdict, _ = combine(first(p), p, None, RULES, is_drawn=False)
    assert verdict == (Verdict.BLOCKED if p >= 0.95 else Verdict.GRAY)


def test_gore_holds_and_never_clears() -> None:
    """Whatever the rest says."""
    assert both(0.0, 0.0, hold=0.5) == (Verdict.GRAY, "second_hold")
    assert both(0.3, 0.0, hold=0.9) == (Verdict.GRAY, "second_hold")
    assert both(0.99, 0.0, hold=0.9)[0] == Verdict.BLOCKED


def test_asked_only_of_gray_it_vetoes_nothing() -> None:
    """An approval of the first stands then, asked or not."""
    rules = SecondLook(ask="gray")
    assert both(0.01, 0.9, rules) == (Verdict.APPROVED, "")
    assert combine(Verdict.APPROVED, 0.01, None, rules, is_drawn=False)[0] == Verdict.APPROVED
    assert both(0.2, 0.01, rules) == (Verdict.APPROVED, "second_clear")
    assert both(0.99, 0.0, rules) == (Verdict.BLOCKED, "")


def test_switched_off_it_changes_nothing() -> None:
    """For every verdict."""
    rules = SecondLook(ask="off")
    for verdict in Verdict:
        assert combine(verdict, 0.3, None, rules, is_drawn=True) == (verdict, "")


def test_drawn_pictures_have_a_veto_of_their_own() -> None:
    """The second model is suspicious of drawings by themselves."""
    rules = SecondLook(drawn_veto_from=0.9)
    second = SecondScore(probability=0.7, raw_score=0.7)
    assert combine(Verdict.APPROVED, 0.0, second, rules, is_drawn=True)[0] == Verdict.APPROVED
    assert combine(Verdict.APPROVED, 0.0, second, rules, is_drawn=False)[0] == Verdict.GRAY


def test_both_together_may_block() -> None:
    """Only where the policy says so."""
    rules = SecondLook(block_first=0.8, block_second=0.5)
    assert both(0.85, 0.6, rules) == (Verdict.BLOCKED, "both_explicit")
    assert both(0.85, 0.6) == (Verdict.GRAY, "")
    assert combine(
        Verdict.GRAY, 1.0, SecondScore(probability=1.0, raw_score=1.0), RULES, is_drawn=False
    ) == (Verdict.GRAY, "")


def test_a_block_may_need_no_agreement() -> None:
    """With 0 the first alone blocks, and is not even asked to wait for the second."""
    rules = SecondLook(block_needs=0.0)
    assert not rules.is_needed(Verdict.BLOCKED)
    assert both(0.96, 0.0, rules) == (Verdict.BLOCKED, "")


@pytest.mark.parametrize("rules", [RULES, SecondLook(block_first=0.8, block_second=0.5)])
def test_no_verdict_changes_between_two_boundaries(rules: SecondLook) -> None:
    """So a score of an int8 bundle that is far from each of them need not be exact."""
    first_edges = {0.05, 0.95, *rules.boundaries()}
    for p, step in itertools.product(GRID, (0.013, -0.013)):
        for s in GRID:
            if not any(min(p, p + step) < edge <= max(p, p + step) for edge in first_edges):
                assert both(p, s, rules)[0] == both(p + step, s, rules)[0]
            edges = rules.second_boundaries()
            if not any(min(s, s + step) < edge <= max(s, s + step) for edge in edges):
                assert both(p, s, rules)[0] == both(p, s + step, rules)[0]
