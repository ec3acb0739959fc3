"""Fit a calibration to labelled pictures, and check on pictures it was not fitted to.

Pure: raw scores and labels in, a fit and its before-and-after out. The check is a five-fold
cross-validation; a fit that is no better on held-out pictures is not worth having.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from worker.calibration import Calibration, Isotonic, Platt, fit_isotonic, fit_platt
from worker.tools import accuracy
from worker.tools.accuracy import Bools, Floats

Method = Literal["platt", "isotonic"]

FITS: dict[Method, Callable[[Sequence[float], Sequence[bool], str], Platt | Isotonic]] = {
    "platt": fit_platt,
    "isotonic": fit_isotonic,
}

#: Fewest pictures of each kind. Two numbers are fitted by Platt; isotonic fits a curve and is known
#: to overfit below about a thousand pictures in all.
#: Source: scikit-learn's user guide on calibration, and Niculescu-Mizil and Caruana 2005.
FEWEST_OF_EACH: dict[Method, int] = {"platt": 50, "isotonic": 500}

FOLDS = 5


class TooFewPictures(ValueError):
    """Raised when a fit would be noise; says how many more are needed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quality:
    """How good probabilities are; smaller is better everywhere."""

    brier: float
    log_loss: float
    calibration_error: float

    @classmethod
    def of(cls, labels: Bools, probabilities: Floats) -> Quality:
        """Measure."""
        return cls(
            brier=accuracy.brier(labels, probabilities),
            log_loss=accuracy.log_loss(labels, probabilities),
            calibration_error=accuracy.calibration_error(labels, probabilities),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """A calibration fitted to all pictures, and how its kind did on held-out ones.

    Args:
        before: the present calibration on the same pictures.
        after: each picture judged by a fit that did not see it.
        held_out: those probabilities, in the order of the pictures.
    """

    method: Method
    calibration: Platt | Isotonic
    explicit: int
    harmless: int
    before: Quality
    after: Quality
    held_out: Floats

    @property
    def is_better(self) -> bool:
        """On held-out pictures, by the Brier score."""
        return self.after.brier < self.before.brier

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "method": self.method,
            "explicit": self.explicit,
            "harmless": self.harmless,
            "before": dataclasses.asdict(self.before),
            "after_held_out": dataclasses.asdict(self.after),
            "better": self.is_better,
        }


def recalibrate(
    raw: Sequence[float],
    explicit: Sequence[bool],
    present: Calibration,
    method: Method,
    date: str,
) -> Fit:
    """Fit one kind of calibration and check it.

    Args:
        raw: raw scores of one bundle, 0..1, each content once.
        explicit: the true labels.
        present: what the bundle has now.
        method: which kind.
        date: goes into the calibration.

    Raises:
        TooFewPictures: fewer of a kind than `FEWEST_OF_EACH`.
        ValueError: explicit pictures score lower than harmless ones.
    """
    check_enough(explicit, method)
    labels, scores = accuracy.as_arrays(explicit, raw)
    held_out = np.empty_like(scores)
    for fold in _folds(labels):
        rest = ~fold
        part = FITS[method](scores[rest].tolist(), labels[rest].tolist(), date)
        held_out[fold] = [part.probability(score) for score in scores[fold]]
    now = np.asarray([present.probability(score) for score in scores])
    return Fit(
        method=method,
        calibration=FITS[method](list(raw), list(explicit), date),
        explicit=int(labels.sum()),
        harmless=int((~labels).sum()),
        before=Quality.of(labels, now),
        after=Quality.of(labels, held_out),
        held_out=held_out,
    )


def check_enough(explicit: Sequence[bool], method: Method) -> None:
    """Refuse what would be noise; see `recalibrate`."""
    need = FEWEST_OF_EACH[method]
    have = {"explicit": sum(explicit), "harmless": len(explicit) - sum(explicit)}
    missing = [f"{need - count} more {name}" for name, count in have.items() if count < need]
    if missing:
        raise TooFewPictures(
            f"{method} needs at least {need} explicit and {need} harmless pictures; these are "
            f"{have['explicit']} and {have['harmless']}: add {' and '.join(missing)}"
        )


def _folds(labels: Bools) -> list[Bools]:
    """Both labels spread evenly over the folds, by a fixed shuffle."""
    numbers = np.empty(len(labels), dtype=int)
    rng = np.random.default_rng(20261122)
    for kind in (True, False):
        places = rng.permutation(np.nonzero(labels == kind)[0])
        numbers[places] = np.arange(len(places)) % FOLDS
    return [numbers == fold for fold in range(FOLDS)]
