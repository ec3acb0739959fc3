"""Figures and measures, against scikit-learn and SciPy on the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics

from worker.tools import accuracy
from worker.tools.figures import Rate, saved, yuan

SAMPLES = st.lists(
    st.tuples(st.booleans(), st.integers(0, 20).map(lambda n: n / 20)), min_size=2, max_size=200
).filter(lambda rows: len({label for label, _ in rows}) == 2)


@settings(max_examples=200, deadline=None)
@given(SAMPLES)
def test_qualities_equal_scikit_learn(rows: list[tuple[bool, float]]) -> None:
    """Brier and log loss, ties included; one kind of label is enough."""
    labels, scores = accuracy.as_arrays([r[0] for r in rows], [r[1] for r in rows])
    found = accuracy.Quality.of(labels, scores)
    assert found.brier == pytest.approx(metrics.brier_score_loss(labels, scores))
    held = np.clip(scores, 1e-7, 1 - 1e-7)
    assert found.log_loss == pytest.approx(metrics.log_loss(labels, held))
    alone = accuracy.Quality.of(labels[labels], scores[labels])
    assert alone.brier == pytest.approx(float(np.mean((scores[labels] - 1) ** 2)))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5000), st.floats(0, 1))
def test_intervals_equal_scipy(total: int, share: float) -> None:
    """Wilson's interval."""
    hits = round(total * share)
    expected = binomtest(hits, total).proportion_ci(0.95, method="wilson")
    assert Rate(hits, total).interval == pytest.approx((expected.low, expected.high))


def test_a_rate_of_nothing_is_unknown() -> None:
    """No picture, no claim."""
    assert Rate(0, 0).value is None
    assert Rate(0, 0).interval == (0.0, 1.0)
    assert str(Rate(0, 0)) == "–"
    assert str(Rate(1, 4)) == "25.00% (4.56% to 69.94%)"


def test_calibration_error_of_a_case_done_by_hand() -> None:
    """Two bins: (0.5 sure, 1 right) of 1 picture and (0.9 sure, 0.5 right) of 2."""
    labels, scores = accuracy.as_arrays([True, True, False], [0.5, 0.9, 0.9])
    assert accuracy.calibration_error(labels, scores, bins=10) == pytest.approx(
        (1 * 0.5 + 2 * 0.4) / 3
    )


def test_calibration_error_counts_the_edges_once() -> None:
    """0 belongs to the first bin, 1 to the last, and every picture to one."""
    labels, scores = accuracy.as_arrays([False, True, True], [0.0, 1.0, 0.2])
    bins = accuracy.reliability(labels, scores, bins=5)
    assert [(b.low, b.count) for b in bins] == [(0.0, 1), (0.2, 1), (0.8, 1)]


def test_money_is_told_to_the_fen_and_a_loss_in_words() -> None:
    """No four digits, and no sign where a word says what it means."""
    assert [yuan(0.00451), yuan(1234.5)] == ["0.00", "1,234.50"]
    assert saved(80, 130) == "80.00 to 130.00"
    assert saved(-96.85, -46.85) == "46.85 to 96.85 more"
    assert saved(-10, 40) == "10.00 more to 40.00 saved"
    assert saved(-3, -3) == "3.00 more"
