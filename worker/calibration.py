"""From a raw score to a probability: the four calibrations a bundle may carry, and their fitting.

Pure functions and frozen data. A calibration belongs to one artefact: float32 and int8 of the same
weights may need different ones.
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
    """Undoes training with label smoothing over two classes, where certainty is 1 - epsilon / 2."""

    epsilon: float
    kind: ClassVar[str] = "label_smoothing"

    def __post_init__(self) -> None:
        if not 0.0 < self.epsilon < 1.0:
            raise ValueError(f"epsilon must be between 0 and 1, not {self.epsilon}")

    def probability(self, raw: float) -> float:
        """Return `(raw - epsilon / 2) / (1 - epsilon)`, held to 0..1."""
        return min(max((raw - self.epsilon / 2) / (1.0 - self.epsilon), 0.0), 1.0)


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
        return f"smoothing-{calibration.epsilon:g}"
    text = json.dumps(calibration_to_dict(calibration), sort_keys=True)
    return f"{calibration.kind}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def fit_platt(raw: Sequence[float], explicit: Sequence[bool], date: str) -> Platt:
    """Fit slope and offset by Newton's method.

    Source: Platt 1999 with the targets of Lin, Lin and Weng 2007, section 2: (n1 + 1) / (n1 + 2)
    and 1 / (n0 + 2) keep a separable sample from running to infinity.

    Args:
        raw: raw scores of one artefact, 0..1.
        explicit: the true label of each, both kinds present.
        date: when the sample was labelled; kept for the record.

    Raises:
        ValueError: fewer than 20 pictures, one kind only, or explicit pictures score lower.
    """
    _check_sample(raw, explicit)
    positives = sum(explicit)
    high = (positives + 1) / (positives + 2)
    low = 1 / (len(raw) - positives + 2)
    points = [(logit(q), high if label else low) for q, label in zip(raw, explicit, strict=True)]
    slope, offset = 1.0, 0.0
    for _ in range(100):
        g_slope = g_offset = h_ss = h_so = h_oo = 0.0
        for x, target in points:
            p = logistic(slope * x + offset)
            weight = max(p * (1 - p), 1e-12)
            g_slope += (p - target) * x
            g_offset += p - target
            h_ss += weight * x * x
            h_so += weight * x
            h_oo += weight
        h_ss, h_oo = h_ss + 1e-9, h_oo + 1e-9
        determinant = h_ss * h_oo - h_so * h_so
        step_slope = (h_oo * g_slope - h_so * g_offset) / determinant
        step_offset = (h_ss * g_offset - h_so * g_slope) / determinant
        damping = min(1.0, 2.0 / max(abs(step_slope), abs(step_offset), 1e-12))
        slope, offset = slope - damping * step_slope, offset - damping * step_offset
        if max(abs(step_slope), abs(step_offset)) < 1e-9:
            break
    if slope <= 0:
        raise ValueError("explicit pictures score no higher than others; are the labels swapped?")
    return Platt(slope=slope, offset=offset, pictures=len(raw), date=date)


def fit_isotonic(raw: Sequence[float], explicit: Sequence[bool], date: str) -> Isotonic:
    """Fit a rising curve by pooling adjacent violators.

    Args:
        raw: raw scores of one artefact, 0..1.
        explicit: the true label of each, both kinds present.
        date: when the sample was labelled; kept for the record.

    Raises:
        ValueError: fewer than 20 pictures, or one kind only.
    """
    _check_sample(raw, explicit)
    blocks: list[list[float]] = []  # sum of labels, count, sum of raw scores
    for q, label in sorted(zip(raw, explicit, strict=True)):
        blocks.append([float(label), 1.0, q])
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] >= blocks[-1][0] * blocks[-2][1]:
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    return Isotonic(
        raw=tuple(total / count for _, count, total in blocks),
        values=tuple(labels / count for labels, count, _ in blocks),
        pictures=len(raw),
        date=date,
    )


def _check_sample(raw: Sequence[float], explicit: Sequence[bool]) -> None:
    if len(raw) < 20 or len(set(explicit)) < 2:
        raise ValueError(
            f"a calibration needs at least 20 pictures of both kinds, not {len(raw)} with "
            f"{sum(explicit)} explicit"
        )


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
