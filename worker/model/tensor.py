"""From pixels to the graph's input, as a bundle says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from worker.image.preprocess import InputSpec


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """How uint8 RGB pixels become the graph's input: `(pixel * scale - mean) / std`.

    Attributes:
        layout: `NHWC` or `NCHW`.
        channels: `RGB` or `BGR`; mean and std are in this order.
        dtype: `uint8` where the graph normalises by itself, else `float32`.
    """

    layout: Literal["NHWC", "NCHW"]
    channels: Literal["RGB", "BGR"]
    dtype: Literal["uint8", "float32"]
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TensorSpec:
        """Check what `model.json` says.

        Raises:
            ValueError, TypeError: a field is missing, unknown or out of range.
        """
        rule = cls(**data)
        for field, known in (
            ("layout", ("NHWC", "NCHW")),
            ("channels", ("RGB", "BGR")),
            ("dtype", ("uint8", "float32")),
        ):
            if getattr(rule, field) not in known:
                raise ValueError(f"{field} must be one of {known}, not {getattr(rule, field)!r}")
        mean: tuple[float, ...] = tuple(map(float, rule.mean))
        std: tuple[float, ...] = tuple(map(float, rule.std))
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError("mean and std must be 3 numbers each, and std above 0")
        return replace(rule, mean=(mean[0], mean[1], mean[2]), std=(std[0], std[1], std[2]))


def normalise(
    pixels: npt.NDArray[np.uint8], rule: TensorSpec
) -> npt.NDArray[np.float32] | npt.NDArray[np.uint8]:
    """Turn pixels into the graph's input.

    Source: scale, mean and std come from the bundle, that is, from the model's pinned revision.

    Args:
        pixels: (N, height_px, width_px, 3) uint8, RGB.
        rule: of the bundle that is to see them.

    Returns:
        (N, H, W, 3) or (N, 3, H, W), C-contiguous, in the dtype of the rule.
    """
    array = pixels[..., ::-1] if rule.channels == "BGR" else pixels
    is_planar = rule.layout == "NCHW"
    if rule.dtype == "uint8":
        return np.ascontiguousarray(array.transpose(0, 3, 1, 2) if is_planar else array)
    std = np.asarray(rule.std, np.float64)
    factors = (rule.scale / std).astype(np.float32)
    shifts = (np.asarray(rule.mean, np.float64) / std).astype(np.float32)
    shape = (len(array), 3, *array.shape[1:3]) if is_planar else array.shape
    result = np.empty(shape, np.float32)
    # One channel at a time: numpy's loop over the three of each pixel takes four times as long.
    for channel in range(3):
        target = result[:, channel] if is_planar else result[..., channel]
        np.multiply(array[..., channel], factors[channel], out=target)
        target -= shifts[channel]
    return result


def probe_pixels(spec: InputSpec) -> npt.NDArray[np.uint8]:
    """Return two fixed pictures, a smooth one and a busy one: (2, height_px, width_px, 3) uint8."""
    y, x = np.mgrid[0 : spec.height_px, 0 : spec.width_px]
    smooth = np.stack([x * 255 // spec.width_px, y * 255 // spec.height_px, (x + y) // 4], -1)
    busy = np.stack([(x * 7) ^ (y * 3), (x * y) >> 3, (x * 5 + y * 11)], -1)
    return np.stack([smooth, busy]).astype(np.uint8)
