"""How many approvals are wrong: exact intervals, by band and style, and what tighter ones take."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom, binomtest

from worker.ledger.counts import AuditAnswer
from worker.tools.misses import Misses, MissRate, at_most, band_of, miss_rows


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 60), st.integers(0, 5000))
def test_the_interval_is_scipys(hits: int, others: int) -> None:
    """Clopper-Pearson by the binomial tails, as scipy has it by the beta distribution."""
    total = max(1, hits + others)
    expected = binomtest(hits, total).proportion_ci(0.95, method="exact")
    low, high = MissRate(hits, total).interval
    assert low == pytest.approx(expected.low, abs=1e-9)
    assert high == pytest.approx(expected.high, abs=1e-9)


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(40, 500), st.floats(0.001, 0.999))
def test_the_binomial_tail_is_scipys(hits: int, total: int, p: float) -> None:
    """To twelve digits, where the intervals look."""
    assert at_most(hits, total, p) == pytest.approx(binom.cdf(hits, total, p), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("share", "total"), [(0.0, 200), (0.005, 400), (0.03, 300)])
def test_the_interval_covers_the_truth_at_least_as_often_as_it_says(
    share: float, total: int
) -> None:
    """Summed over every outcome, not drawn: 95 % and never less."""
    covered = sum(
        binom.pmf(hits, total, share)
        for hits in range(total + 1)
        if (ends := MissRate(hits, total).interval)[0] <= share <= ends[1]
    )
    assert covered >= 0.95


def test_nothing_looked_at_says_nothing() -> None:
    """Everything is possible, and no sentence claims otherwise."""
    assert MissRate(0, 0).interval == (0.0, 1.0)
    assert str(MissRate(0, 0)) == "–"
    assert Misses(answers=()).sentences() == []
    assert miss_rows(Misses(answers=()))[1] == []


@pytest.mark.parametrize(("hits", "total"), [(0, 0), (0, 100), (1, 300), (4, 900)])
def test_so_many_more_reach_the_bound_and_one_fewer_does_not(hits: int, total: int) -> None:
    """If the share stays as it is."""
    rate = MissRate(hits, total)
    more = rate.more_needed()
    assert more is not None
    bound, samples = more
    assert bound < rate.interval[1]

    def upper(extra: int) -> float:
        n = total + extra
        k = -(-hits * n // max(total, 1))
        return float(beta.ppf(0.975, k + 1, n - k))

    assert upper(samples) <= bound
    assert upper(samples - 1) > bound


def test_a_bound_below_the_share_itself_is_not_promised() -> None:
    """No number of samples brings the bound below what is measured."""
    assert MissRate(99, 100).more_needed() is None


def test_groups_are_bands_and_styles_and_leave_out_what_has_no_answer() -> None:
    """The label says nothing where nobody answered."""
    answers = [
        AuditAnswer("harmless", 0.002, ""),
        AuditAnswer("harmless", 0.02, "photo"),
        AuditAnswer("explicit", 0.03, "photo"),
        AuditAnswer("unanswered", 0.7, "drawn"),
        AuditAnswer("harmless", None, ""),
    ]
    misses = Misses(answers=answers)
    assert (misses.overall.hits, misses.overall.total, misses.unanswered) == (1, 4, 1)
    found = {name: (rate.hits, rate.total) for name, rate in misses.groups().items()}
    assert found == {
        "probability below 0.01": (0, 1),
        "by rule, without a model": (0, 1),
        "probability 0.01 to 0.05": (1, 2),
        "style not asked": (0, 2),
        "style photo": (1, 2),
    }
    text = " ".join(misses.sentences())
    assert "Of 4 approvals" in text
    assert "1 was explicit" in text
    assert "25.00% (0.63% to 80.59%)" in text
    assert "1 audit ended without an answer" in text
    assert misses.to_json()["groups"]["style photo"]["explicit"] == 1


@given(st.none() | st.floats(0, 1))
def test_every_probability_has_a_band(probability: float | None) -> None:
    """The ends too."""
    assert band_of(AuditAnswer("harmless", probability, ""))
