"""How good are probabilities? Measures over labelled pictures; scikit-learn's where it has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn import metrics

from worker.tools.figures import Rate

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

#: Bins of equal width of the reliability diagram and of the calibration error.
RELIABILITY_BINS = 15


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quality:
    """How good probabilities are; smaller is better everywhere."""

    brier: float
    log_loss: float
    calibration_error: float

    @classmethod
    def of(cls, labels: Bools, probabilities: Floats) -> Quality:
        """Measure; labels of one kind are enough. Log loss is held away from infinity."""
        held = np.clip(probabilities, 1e-7, 1 - 1e-7)
        return cls(
            brier=float(np.mean((probabilities - labels) ** 2)),
            log_loss=float(metrics.log_loss(labels, held, labels=[False, True])),
            calibration_error=calibration_error(labels, probabilities),
        )

    @property
    def cells(self) -> list[str]:
        """As a row of a table under `QUALITY_HEADER`."""
        return [f"{value:.4f}" for value in dataclasses.astuple(self)]


#: Names of what `Quality` measures.
QUALITY_HEADER = ["Brier", "log loss", "calibration error"]


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


def as_arrays(explicit: Sequence[bool], scores: Sequence[float]) -> tuple[Bools, Floats]:
    """Labels and scores as arrays."""
    return np.asarray(explicit, dtype=bool), np.asarray(scores, dtype=np.float64)
