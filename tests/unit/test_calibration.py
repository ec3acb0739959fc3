import math
import random

import pytest

from worker.model.calibration import (
    Identity,
    Isotonic,
    LabelSmoothing,
    Platt,
    calibration_from_dict,
    calibration_tag,
    calibration_to_dict,
)
from worker.tools.recalibration import fit_isotonic, fit_platt

EVERY_KIND = [
    Identity(),
    LabelSmoothing(epsilon=0.1),
    Platt(slope=1.5, offset=-0.2, pictures=100, date="2026-01-01"),
    Isotonic(raw=(0.1, 0.4, 0.9), values=(0.0, 0.2, 1.0), pictures=100, date="2026-01-01"),
]


def sample(count=2000, seed=1):
    dice = random.Random(seed)
    raw = [dice.random() for _ in range(count)]
    return raw, [dice.random() < 1 / (1 + math.exp(-(8 * q - 5))) for q in raw]


@pytest.mark.parametrize("calibration", EVERY_KIND)
def test_probability_rises_and_stays_in_range(calibration):
    """Every calibration is a rising map from 0..1 into 0..1."""
    values = [calibration.probability(step / 500) for step in range(501)]
    assert values == sorted(values)
    assert 0 <= values[0] <= values[-1] <= 1


@pytest.mark.parametrize("calibration", EVERY_KIND)
def test_round_trip_through_a_dictionary(calibration):
    """What is written to model.json is read back equal, under an equal tag."""
    again = calibration_from_dict(calibration_to_dict(calibration))
    assert again == calibration
    assert calibration_tag(again) == calibration_tag(calibration)
    assert len(calibration_tag(calibration)) <= 17


@pytest.mark.parametrize(
    ("raw", "probability"),
    [(0.05, 0.0), (0.095, 0.05), (0.5, 0.5), (0.905, 0.95), (0.95, 1.0), (0.0, 0.0), (1.0, 1.0)],
)
def test_label_smoothing_is_undone_exactly(raw, probability):
    """With epsilon 0.1 a certain answer is 0.95 or 0.05, and the cut-offs move accordingly."""
    assert LabelSmoothing(epsilon=0.1).probability(raw) == pytest.approx(probability, abs=1e-12)


def test_isotonic_interpolates():
    """Between two points the curve is straight; outside the ends hold."""
    curve = EVERY_KIND[3]
    assert curve.probability(0.25) == pytest.approx(0.1)
    assert curve.probability(0.05) == 0.0
    assert curve.probability(0.99) == 1.0


def test_platt_recovers_the_curve_that_made_the_sample():
    """Fitted to labels drawn from a known curve, the probabilities come out near it."""
    raw, explicit = sample()
    fitted = fit_platt(raw, explicit, "2026-01-01")
    for q in (0.2, 0.5, 0.8):
        assert fitted.probability(q) == pytest.approx(1 / (1 + math.exp(-(8 * q - 5))), abs=0.1)


def test_platt_stays_finite_on_a_separable_sample():
    """A perfect model does not drive the slope to infinity."""
    raw = [0.1] * 20 + [0.9] * 20
    fitted = fit_platt(raw, [q > 0.5 for q in raw], "2026-01-01")
    assert 0.9 < fitted.probability(0.9) < 1


def test_isotonic_is_calibrated_on_its_own_sample():
    """Over its own sample the mean probability is the share of explicit pictures."""
    raw, explicit = sample()
    fitted = fit_isotonic(raw, explicit, "2026-01-01")
    mean = sum(map(fitted.probability, raw)) / len(raw)
    assert mean == pytest.approx(sum(explicit) / len(explicit), abs=0.02)


def test_equal_scores_are_one_point_of_the_curve():
    """90 harmless and 10 explicit pictures at one score: a tenth is explicit, in any order."""
    for labels in ([False] * 90 + [True] * 10, [True] * 10 + [False] * 90):
        fitted = fit_isotonic([0.7] * 100, labels, "2026-01-01")
        assert fitted.probability(0.7) == pytest.approx(0.1)
        fitted = fit_isotonic([0.2] * 50 + [0.7] * 100, [False] * 50 + labels, "2026-01-01")
        assert fitted.probability(0.7) == pytest.approx(0.1)
        assert fitted.probability(0.2) == 0.0


@pytest.mark.parametrize("fit", [fit_platt, fit_isotonic])
def test_small_or_one_sided_samples_are_refused(fit):
    """A calibration needs 20 pictures of both kinds."""
    with pytest.raises(ValueError, match="at least 20"):
        fit([0.1, 0.9], [False, True], "2026-01-01")
    with pytest.raises(ValueError, match="both kinds"):
        fit([0.1] * 30, [False] * 30, "2026-01-01")


def test_platt_refuses_swapped_labels():
    """Labels that contradict the model are an error of the file, not a falling curve."""
    raw, explicit = sample()
    with pytest.raises(ValueError, match="swapped"):
        fit_platt(raw, [not label for label in explicit], "2026-01-01")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"kind": "magic"}, "kind must be one of"),
        ({"kind": "label_smoothing"}, "do not fit"),
        ({"kind": "label_smoothing", "epsilon": 1.5}, "epsilon must be"),
        ({"kind": "platt", "slope": -1, "offset": 0, "pictures": 9, "date": ""}, "slope"),
        (
            {"kind": "isotonic", "raw": [0.5, 0.1], "values": [0, 1], "pictures": 9, "date": ""},
            "raw",
        ),
        ({"kind": "isotonic", "raw": [0.1], "values": [0, 1], "pictures": 9, "date": ""}, "length"),
    ],
)
def test_bad_descriptions_are_refused(data, words):
    """What cannot be a rising map is named."""
    with pytest.raises(ValueError, match=words):
        calibration_from_dict(data)
