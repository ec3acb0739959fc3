"""Fit a calibration to labelled pictures, and check on pictures it was not fitted to.

Pure: raw scores and labels in, a fit and its before-and-after out. The check is a five-fold
cross-validation; a fit that is no better on held-out pictures is not worth having.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from worker.model.calibration import Calibration, Isotonic, Platt, logit
from worker.tools.accuracy import Bools, Floats, Quality, as_arrays

Method = Literal["platt", "isotonic"]

#: Fewest pictures of each kind. Two numbers are fitted by Platt; isotonic fits a curve and is known
#: to overfit below about a thousand pictures in all.
#: Source: scikit-learn's user guide on calibration, and Niculescu-Mizil and Caruana 2005.
FEWEST_OF_EACH: dict[Method, int] = {"platt": 50, "isotonic": 500}

FOLDS = 5


class TooFewPictures(ValueError):
    """Raised when a fit would be noise; says how many more are needed."""


def fit_platt(raw: Sequence[float], explicit: Sequence[bool], date: str) -> Platt:
    """Fit a logistic curve to the raw scores' logits.

    Source: Platt 1999 with the targets of Lin, Lin and Weng 2007, section 2: (n1 + 1) / (n1 + 2)
    and 1 / (n0 + 2) keep a separable sample from running to infinity.

    Args:
        raw: raw scores of one artefact, 0..1.
        explicit: the true label of each, both kinds present.
        date: when the sample was labelled; kept for the record.

    Raises:
        ValueError: fewer than 20 pictures, one kind only, or explicit pictures score lower.
    """
    labels = _check_sample(raw, explicit)
    positives = int(labels.sum())
    high, low = (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2)
    target = np.where(labels, high, low)
    logits = np.asarray([logit(score) for score in raw]).reshape(-1, 1)
    # A target between the labels is the picture under both, weighted.
    curve = LogisticRegression(C=np.inf, tol=1e-9, max_iter=1000).fit(
        np.concatenate((logits, logits)),
        np.repeat([True, False], len(labels)),
        sample_weight=np.concatenate((target, 1 - target)),
    )
    slope, offset = float(curve.coef_[0, 0]), float(curve.intercept_[0])
    if slope <= 0:
        raise ValueError("explicit pictures score no higher than others; are the labels swapped?")
    return Platt(slope=slope, offset=offset, pictures=len(labels), date=date)


def fit_isotonic(raw: Sequence[float], explicit: Sequence[bool], date: str) -> Isotonic:
    """Fit a rising curve by pooling adjacent violators; equal scores are one point.

    Args:
        raw: raw scores of one artefact, 0..1.
        explicit: the true label of each, both kinds present.
        date: when the sample was labelled; kept for the record.

    Raises:
        ValueError: fewer than 20 pictures, or one kind only.
    """
    labels = _check_sample(raw, explicit)
    curve = IsotonicRegression(y_min=0, y_max=1).fit(np.asarray(raw, dtype=float), labels)
    return Isotonic(
        raw=tuple(curve.X_thresholds_.tolist()),
        values=tuple(curve.y_thresholds_.tolist()),
        pictures=len(labels),
        date=date,
    )


def _check_sample(raw: Sequence[float], explicit: Sequence[bool]) -> Bools:
    if len(raw) < 20 or len(set(explicit)) < 2:
        raise ValueError(
            f"a calibration needs at least 20 pictures of both kinds, not {len(raw)} with "
            f"{sum(explicit)} explicit"
        )
    return np.asarray(explicit, dtype=bool)


FITS: dict[Method, Callable[[Sequence[float], Sequence[bool], str], Platt | Isotonic]] = {
    "platt": fit_platt,
    "isotonic": fit_isotonic,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """A calibration fitted to all pictures, and how its kind did on held-out ones.

    Args:
        before: the present calibration on the same pictures.
        after: each picture judged by a fit that did not see it.
        now: the present calibration's probabilities, in the order of the pictures.
        held_out: those of the fits that did not see them.
    """

    method: Method
    calibration: Platt | Isotonic
    labels: Bools
    before: Quality
    after: Quality
    now: Floats
    held_out: Floats

    @property
    def is_better(self) -> bool:
        """On held-out pictures, by the Brier score."""
        return self.after.brier < self.before.brier

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        explicit = int(self.labels.sum())
        return {
            "method": self.method,
            "explicit": explicit,
            "harmless": len(self.labels) - explicit,
            "before": dataclasses.asdict(self.before),
            "after_held_out": dataclasses.asdict(self.after),
            "better": self.is_better,
        }


def recalibrate(
    raw: Sequence[float], explicit: Sequence[bool], present: Calibration, method: Method, date: str
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
    labels, scores = as_arrays(explicit, raw)
    held_out = np.empty_like(scores)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=20261122)
    for rest, fold in folds.split(scores, labels):
        part = FITS[method](scores[rest].tolist(), labels[rest].tolist(), date)
        held_out[fold] = [part.probability(score) for score in scores[fold]]
    now = np.asarray([present.probability(score) for score in scores])
    return Fit(
        method=method,
        calibration=FITS[method](list(raw), list(explicit), date),
        labels=labels,
        before=Quality.of(labels, now),
        after=Quality.of(labels, held_out),
        now=now,
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
