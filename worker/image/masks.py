"""Masks of pictures in two colours: where they meet and how much of each is in a pixel."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

#: How far the soft edges between two colours reach.
SOFT_PX = 2

Levels = npt.NDArray[np.int16]
Mask = npt.NDArray[np.bool_]
Uint8 = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


def ink_in(pixels: Levels | Uint8, ground: Levels, ink: Levels | Floats) -> Floats:
    """How much of the ink is in each of (..., 3) pixels, 0..1."""
    direction = (ink - ground).astype(np.float64)
    amounts: Floats = (pixels - ground) @ direction / (direction @ direction)
    return amounts.clip(0, 1)


def edges_of(mask: Mask, reach_px: int) -> Mask:
    """What lies no farther than this from both colours."""
    return grown(mask, reach_px) & grown(~mask, reach_px)


def grown(mask: Mask, reach_px: int) -> Mask:
    """The mask and all within a square of this reach around its pixels."""
    height, width = mask.shape
    wide, shifts = np.pad(mask, reach_px), range(2 * reach_px + 1)
    tall = functools.reduce(np.bitwise_or, (wide[:, at : at + width] for at in shifts))
    return functools.reduce(np.bitwise_or, (tall[at : at + height] for at in shifts))
