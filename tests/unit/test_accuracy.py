"""Every measure against scikit-learn and SciPy on the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics

from worker.tools import accuracy

SAMPLES = st.lists(
    st.tuples(st.booleans(), st.integers(0, 20).map(lambda n: n / 20)), min_size=2, max_size=200
).filter(lambda rows: len({label for label, _ in rows}) == 2)


@settings(max_examples=200, deadline=None)
@given(SAMPLES)
def test_measures_equal_scikit_learn(rows: list[tuple[bool, float]]) -> None:
    """AUROC, average precision, Brier and log loss, ties included."""
    labels, scores = accuracy.as_arrays([r[0] for r in rows], [r[1] for r in rows])
    assert accuracy.roc_auc(labels, scores) == pytest.approx(metrics.roc_auc_score(labels, scores))
    assert accuracy.average_precision(labels, scores) == pytest.approx(
        metrics.average_precision_score(labels, scores)
    )
    assert accuracy.brier(labels, scores) == pytest.approx(metrics.brier_score_loss(labels, scores))
    held = np.clip(scores, 1e-7, 1 - 1e-7)
    assert accuracy.log_loss(labels, scores) == pytest.approx(metrics.log_loss(labels, held))


@settings(max_examples=100, deadline=None)
@given(SAMPLES)
def test_curves_equal_scikit_learn(rows: list[tuple[bool, float]]) -> None:
    """ROC and precision-recall, point by point."""
    labels, scores = accuracy.as_arrays([r[0] for r in rows], [r[1] for r in rows])
    fpr, tpr, _ = metrics.roc_curve(labels, scores, drop_intermediate=False)
    ours = accuracy.roc_curve(labels, scores)
    np.testing.assert_allclose(ours[0], fpr)
    np.testing.assert_allclose(ours[1], tpr)
    precision, recall, _ = metrics.precision_recall_curve(labels, scores)
    ours = accuracy.precision_recall_curve(labels, scores)
    np.testing.assert_allclose(ours[0][::-1], recall[:-1])
    np.testing.assert_allclose(ours[1][::-1], precision[:-1])


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5000), st.floats(0, 1))
def test_intervals_equal_scipy(total: int, share: float) -> None:
    """Wilson's interval."""
    hits = round(total * share)
    expected = binomtest(hits, total).proportion_ci(0.95, method="wilson")
    assert accuracy.Rate(hits, total).interval == pytest.approx((expected.low, expected.high))


def test_a_rate_of_nothing_is_unknown() -> None:
    """No picture, no claim."""
    assert accuracy.Rate(0, 0).value is None
    assert accuracy.Rate(0, 0).interval == (0.0, 1.0)
    assert str(accuracy.Rate(0, 0)) == "–"
    assert str(accuracy.Rate(1, 4)) == "25.00% (4.56% to 69.94%)"


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


def test_one_kind_of_label_has_no_curve() -> None:
    """Harmless pictures alone tell nothing of misses."""
    labels, scores = accuracy.as_arrays([False, False], [0.1, 0.2])
    with pytest.raises(ValueError, match="explicit and harmless"):
        accuracy.roc_auc(labels, scores)
