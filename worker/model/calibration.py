"""From a raw score to a probability: the four calibrations a bundle may carry.

Pure functions and frozen data, fitted by worker/tools/recalibration.py. A calibration belongs to
one artefact: float32 and int8 of the same weights may need different ones.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, ClassVar, Protocol

#: Keeps a logit finite for raw scores of exactly 0 or 1.
_EPSILON = 1e-6


class Calibration(Protocol):
    """Maps a raw score (0..1) to the probability that a picture is explicit (0..1), rising."""

    kind: ClassVar[str]

    def probability(self, raw: float) -> float:
        """Return the calibrated probability of one raw score."""


@dataclass(frozen=True)
class Identity:
    """The raw score is taken as it is."""

    kind: ClassVar[str] = "identity"

    def probability(self, raw: float) -> float:
        """Return `raw`, held to 0..1."""
        return min(max(raw, 0.0), 1.0)


@dataclass(frozen=True)
class LabelSmoothing:
    """Undoes training with label smoothing, which gives every class at least epsilon / classes.

    Attributes:
        epsilon: the share that was spread over all classes, 0..1.
        classes: how many classes the model was trained on.
        columns: how many of them the raw score adds up.
    """

    epsilon: float
    classes: int = 2
    columns: int = 1
    kind: ClassVar[str] = "label_smoothing"

    def __post_init__(self) -> None:
        if not 0.0 < self.epsilon < 1.0:
            raise ValueError(f"epsilon must be between 0 and 1, not {self.epsilon}")
        if not 1 <= self.columns < self.classes:
            raise ValueError(f"columns must be from 1 to {self.classes - 1}, not {self.columns}")

    def probability(self, raw: float) -> float:
        """Return `(raw - columns * epsilon / classes) / (1 - epsilon)`, held to 0..1."""
        floor = self.columns * self.epsilon / self.classes
        return min(max((raw - floor) / (1.0 - self.epsilon), 0.0), 1.0)


@dataclass(frozen=True)
class Platt:
    """A logistic curve over the raw score's logit, fitted to labelled pictures."""

    slope: float
    offset: float
    pictures: int
    date: str
    kind: ClassVar[str] = "platt"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slope) and math.isfinite(self.offset)) or self.slope <= 0:
            raise ValueError("slope must be above 0, and slope and offset finite")

    def probability(self, raw: float) -> float:
        """Return `1 / (1 + exp(-(slope * logit(raw) + offset)))`."""
        return logistic(self.slope * logit(raw) + self.offset)


@dataclass(frozen=True)
class Isotonic:
    """A rising curve of straight pieces through `raw` -> `values`, fitted to labelled pictures."""

    raw: tuple[float, ...]
    values: tuple[float, ...]
    pictures: int
    date: str
    kind: ClassVar[str] = "isotonic"

    def __post_init__(self) -> None:
        object.__setattr__(self, "raw", tuple(self.raw))
        object.__setattr__(self, "values", tuple(self.values))
        if len(self.raw) != len(self.values) or not self.raw:
            raise ValueError("raw and values must be lists of the same length, at least 1")
        for name, numbers in (("raw", self.raw), ("values", self.values)):
            rising = all(a <= b for a, b in pairwise(numbers))
            if not rising or numbers[0] < 0 or numbers[-1] > 1:
                raise ValueError(f"{name} must rise from at least 0 to at most 1")

    def probability(self, raw: float) -> float:
        """Interpolate; outside of the fitted range the nearest end holds."""
        at = bisect_right(self.raw, raw)
        if at == 0:
            return self.values[0]
        if at == len(self.raw):
            return self.values[-1]
        low, high = self.raw[at - 1], self.raw[at]
        share = (raw - low) / (high - low)
        return self.values[at - 1] + share * (self.values[at] - self.values[at - 1])


_KINDS: dict[str, type[Identity | LabelSmoothing | Platt | Isotonic]] = {
    kind.kind: kind for kind in (Identity, LabelSmoothing, Platt, Isotonic)
}


def calibration_from_dict(data: dict[str, Any]) -> Calibration:
    """Read `model.json`'s `calibration`.

    Raises:
        ValueError: the kind is unknown, or a parameter is missing, unknown or out of range.
    """
    kind = _KINDS.get(data.get("kind", ""))
    if kind is None:
        raise ValueError(f"kind must be one of {', '.join(_KINDS)}, not {data.get('kind')!r}")
    try:
        return kind(**{key: value for key, value in data.items() if key != "kind"})
    except TypeError as error:
        raise ValueError(f"parameters of {kind.kind} do not fit: {error}") from error


def calibration_to_dict(calibration: Calibration) -> dict[str, Any]:
    """Return what `calibration_from_dict` reads."""
    return {"kind": calibration.kind, **asdict(calibration)}  # type: ignore[call-overload]


def calibration_tag(calibration: Calibration) -> str:
    """Name a calibration in a few characters, for the bundle's id; equal tags, equal curves."""
    if isinstance(calibration, Identity):
        return "identity"
    if isinstance(calibration, LabelSmoothing):
        plain = (calibration.classes, calibration.columns) == (2, 1)
        classes = "" if plain else f"-{calibration.columns}of{calibration.classes}"
        return f"smoothing-{calibration.epsilon:g}{classes}"
    text = json.dumps(calibration_to_dict(calibration), sort_keys=True)
    return f"{calibration.kind}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def logit(raw: float) -> float:
    """Return log(raw / (1 - raw)), finite also for 0 and 1."""
    held = min(max(raw, _EPSILON), 1.0 - _EPSILON)
    return math.log(held / (1.0 - held))


def logistic(x: float) -> float:
    """Return 1 / (1 + exp(-x)) without overflow."""
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    return math.exp(x) / (1.0 + math.exp(x))


def straddles(
    calibration: Calibration, raw: float, error: float, cut_offs: Sequence[float]
) -> bool:
    """Tell whether a raw score that is wrong by at most `error` could change sides.

    Args:
        calibration: rising, as all are.
        raw: 0..1.
        error: in logits, where a model's errors are alike over the whole range.
        cut_offs: probabilities, 0..1.
    """
    low = calibration.probability(logistic(logit(raw) - error))
    high = calibration.probability(logistic(logit(raw) + error))
    return any(low <= cut_off <= high for cut_off in cut_offs)
