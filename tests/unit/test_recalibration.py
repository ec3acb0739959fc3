"""Fitting with a held-out check, on numbers whose true curve is known."""

from __future__ import annotations

import numpy as np
import pytest

from worker.model.calibration import Identity
from worker.tools.recalibration import FEWEST_OF_EACH, TooFewPictures, check_enough, recalibrate


def sample(count: int, *, seed: int = 1) -> tuple[list[float], list[bool]]:
    """Raw scores that claim too little: the truth is logit(p) = 2 logit(raw) + 1."""
    rng = np.random.default_rng(seed)
    raw = rng.uniform(0.02, 0.98, count)
    truth = 1 / (1 + np.exp(-(2 * np.log(raw / (1 - raw)) + 1)))
    return raw.tolist(), (rng.uniform(size=count) < truth).tolist()


def test_platt_finds_the_curve_that_made_the_labels() -> None:
    """Slope 2 and offset 1 within sampling error, and better on held-out pictures."""
    fit = recalibrate(*sample(6000), Identity(), "platt", "2026-11-22")
    assert fit.calibration.slope == pytest.approx(2, rel=0.1)  # type: ignore[union-attr]
    assert fit.calibration.offset == pytest.approx(1, rel=0.2)  # type: ignore[union-attr]
    assert fit.is_better
    assert fit.after.calibration_error < 0.03 < fit.before.calibration_error


def test_isotonic_is_checked_on_pictures_it_did_not_see() -> None:
    """Its held-out quality is worse than what it reaches on its own pictures."""
    raw, labels = sample(3000)
    fit = recalibrate(raw, labels, Identity(), "isotonic", "2026-11-22")
    own = [fit.calibration.probability(score) for score in raw]
    assert np.mean((np.asarray(own) - labels) ** 2) < fit.after.brier < fit.before.brier


def test_a_calibration_that_is_right_already_is_not_beaten() -> None:
    """Labels drawn from the raw scores themselves: nothing to gain but noise."""
    rng = np.random.default_rng(3)
    raw = rng.uniform(size=2000)
    labels = rng.uniform(size=2000) < raw
    fit = recalibrate(raw.tolist(), labels.tolist(), Identity(), "platt", "2026-11-22")
    assert fit.after.brier == pytest.approx(fit.before.brier, abs=0.002)


@pytest.mark.parametrize("method", list(FEWEST_OF_EACH))
def test_too_few_pictures_are_refused_with_the_number_needed(method: str) -> None:
    """Both kinds count."""
    need = FEWEST_OF_EACH[method]  # type: ignore[index]
    labels = [True] * (need - 3) + [False] * need
    with pytest.raises(TooFewPictures, match=r"add 3 more explicit$"):
        check_enough(labels, method)  # type: ignore[arg-type]
    check_enough([*labels, True, True, True], method)  # type: ignore[arg-type]


def test_swapped_labels_are_noticed() -> None:
    """A falling curve is no calibration."""
    raw, labels = sample(400)
    with pytest.raises(ValueError, match="swapped"):
        recalibrate(raw, [not label for label in labels], Identity(), "platt", "2026-11-22")
