"""How good are scores? The usual measures, by their usual definitions, over labelled pictures.

Pure functions over NumPy arrays: five short formulas, so that the workers' host need not install
scikit-learn; the tests compare every one of them with scikit-learn and SciPy.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

#: Bins of equal width of the reliability diagram and of the calibration error.
RELIABILITY_BINS = 15

#: Standard normal quantile of a two-sided 95 % interval.
Z95 = 1.959963984540054


@dataclasses.dataclass(frozen=True)
class Rate:
    """`hits` of `total`, with a 95 % interval."""

    hits: int
    total: int

    @property
    def value(self) -> float | None:
        """0..1; None where there was nothing to count."""
        return self.hits / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval at 95 %; 0..1 where there was nothing to count.

        Source: Wilson 1927; it stays sensible where the hits are 0 or few, as they are here.
        """
        if not self.total:
            return 0.0, 1.0
        n, p, z2 = self.total, self.hits / self.total, Z95**2
        centre = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)

    def __str__(self) -> str:
        if self.value is None:
            return "–"
        low, high = self.interval
        return f"{self.value:.2%} ({low:.2%} to {high:.2%})"

    def to_json(self) -> dict[str, object]:
        """JSON-ready form."""
        return {
            "hits": self.hits,
            "total": self.total,
            "rate": self.value,
            "interval95": self.interval,
        }


def roc_curve(explicit: Bools, scores: Floats) -> tuple[Floats, Floats]:
    """(false positive rate, true positive rate) from (0, 0) to (1, 1), one point a distinct score.

    Args:
        explicit: (N,) true labels, both kinds present.
        scores: (N,) higher is more explicit.
    """
    _, hits, false = _cumulative(explicit, scores)
    return (
        np.concatenate(([0.0], false / false[-1])),
        np.concatenate(([0.0], hits / hits[-1])),
    )


def roc_auc(explicit: Bools, scores: Floats) -> float:
    """Probability that an explicit picture scores higher than a harmless one; ties count half."""
    x, y = roc_curve(explicit, scores)
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))


def precision_recall_curve(explicit: Bools, scores: Floats) -> tuple[Floats, Floats]:
    """(recall, precision), recall rising, one point a distinct score."""
    _, hits, false = _cumulative(explicit, scores)
    return hits / hits[-1], hits / (hits + false)


def average_precision(explicit: Bools, scores: Floats) -> float:
    """Sum of precision over the steps of recall, without interpolation."""
    recall, precision = precision_recall_curve(explicit, scores)
    return float(np.sum(np.diff(np.concatenate(([0.0], recall))) * precision))


def brier(explicit: Bools, probabilities: Floats) -> float:
    """Mean squared difference of probability and label; 0 is perfect."""
    return float(np.mean((probabilities - explicit.astype(np.float64)) ** 2))


def log_loss(explicit: Bools, probabilities: Floats) -> float:
    """Mean negative logarithm of the probability of the true label; held away from infinity."""
    held = np.clip(probabilities, 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(explicit, np.log(held), np.log(1 - held))))


@dataclasses.dataclass(frozen=True)
class ReliabilityBin:
    """Pictures whose probability fell into one bin: how sure the model was, how right it was."""

    low: float
    high: float
    count: int
    mean_probability: float
    explicit: Rate


def reliability(
    explicit: Bools, probabilities: Floats, bins: int = RELIABILITY_BINS
) -> list[ReliabilityBin]:
    """Bins of equal width that hold at least one picture; the last one includes 1."""
    numbers = np.minimum((probabilities * bins).astype(int), bins - 1)
    found = []
    for number in np.unique(numbers):
        chosen = numbers == number
        found.append(
            ReliabilityBin(
                low=number / bins,
                high=(number + 1) / bins,
                count=int(chosen.sum()),
                mean_probability=float(probabilities[chosen].mean()),
                explicit=Rate(int(explicit[chosen].sum()), int(chosen.sum())),
            )
        )
    return found


def calibration_error(
    explicit: Bools, probabilities: Floats, bins: int = RELIABILITY_BINS
) -> float:
    """Expected calibration error: the bins' |sure - right|, weighted by their pictures.

    Source: Naeini, Cooper and Hauskrecht 2015, equal-width bins.
    """
    return sum(
        one.count * abs(one.mean_probability - (one.explicit.value or 0.0))
        for one in reliability(explicit, probabilities, bins)
    ) / len(probabilities)


def thin(x: Floats, y: Floats, most: int = 400) -> list[tuple[float, float]]:
    """At most so many points of a curve, ends included, for drawing."""
    chosen = np.unique(np.linspace(0, len(x) - 1, min(most, len(x))).astype(int))
    return [(float(x[n]), float(y[n])) for n in chosen]


def as_arrays(explicit: Sequence[bool], scores: Sequence[float]) -> tuple[Bools, Floats]:
    """Labels and scores as arrays."""
    return np.asarray(explicit, dtype=bool), np.asarray(scores, dtype=np.float64)


def _cumulative(explicit: Bools, scores: Floats) -> tuple[Floats, Floats, Floats]:
    """(distinct scores, hits, false alarms) when everything from that score on is called explicit.

    Raises:
        ValueError: one kind of label is missing.
    """
    if explicit.all() or not explicit.any():
        raise ValueError("a curve needs explicit and harmless pictures")
    order = np.argsort(-scores, kind="stable")
    ranked, labels = scores[order], explicit[order].astype(np.float64)
    last = np.concatenate((np.nonzero(np.diff(ranked))[0], [len(ranked) - 1]))
    hits = np.cumsum(labels)[last]
    return ranked[last], hits, last + 1 - hits
