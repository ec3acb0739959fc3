"""Whether JPEG, and nothing else, made a picture of two clean colours what it is."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image

from worker.image.masks import SOFT_PX, Levels, Mask, Uint8, edges_of, grown, ink_in

#: A block of coarse colour, pixels a side, and how far smoothing reaches beyond it.
_BLOCK_PX, _BEYOND_PX = 16, 2
#: Longer side of what is compressed again, and side of the piece on which quality is found.
_MOST_SIDE_PX, _PIECE_PX = 512, 96
_QUALITIES, _STEPS = range(50, 98), 4
#: How often the soft edges are corrected by what compressing them got wrong.
_ROUNDS = 14
#: What may be left unexplained then: a part of the noise that JPEG makes, by root mean square, and
#: levels of brightness of a box of so many pixels a side. What is hidden in an outline with a
#: contrast of 20 levels leaves 0.40 of the noise or more; a true letter mostly less than 0.30.
_LEFT_OF_NOISE, _LEFT_BOX_LEVELS, _BOX_PX = 0.32, 4.0, 4


def is_jpeg_of(image: Uint8, off: Mask, mask: Mask, ground: Levels, ink: Levels) -> bool:
    """Whether JPEG would make this picture of two clean colours and soft edges between them.

    JPEG leaves blocks without an edge as they are. For the others the clean picture is compressed
    again, and its soft edges are corrected until the same noise comes out.
    """
    touched = _blocks_of(edges_of(mask, SOFT_PX))
    if (off & ~touched).any():
        return False
    where = _bounds(touched)
    image, mask, touched = image[where], mask[where], touched[where]
    if max(mask.shape) > _MOST_SIDE_PX:
        return False
    quality = _quality(image, mask, ground, ink)
    # The one below is found for the one above now and then.
    return any(
        _is_remade(image, touched, mask, ground, ink, each) for each in (quality, quality - 1)
    )


def _is_remade(
    image: Uint8, touched: Mask, mask: Mask, ground: Levels, ink: Levels, quality: int
) -> bool:
    """Correct the soft edges and the ink until this quality makes the picture of them."""
    edges = edges_of(mask, 1)
    inner = mask & ~edges
    amount = np.where(edges, ink_in(image, ground, ink), mask)
    colour = ink.astype(np.float64)
    for _ in range(_ROUNDS):
        clean = np.rint(ground + amount[..., None] * (colour - ground)).astype(np.uint8)
        made = _compressed(clean, quality)
        left = image - made
        if _is_nothing_left(left[touched], (made - clean)[touched]) and _is_even(left):
            return True
        amount[edges] = ink_in(clean[edges] + left[edges], ground, colour)
        colour = (colour + left[inner].mean(axis=0)).clip(0, 255)
    return False


def _blocks_of(edges: Mask) -> Mask:
    """All pixels that coding a block with an edge in it may change."""
    height, width = edges.shape
    padded = np.pad(edges, ((0, -height % _BLOCK_PX), (0, -width % _BLOCK_PX)))
    blocks = padded.reshape(padded.shape[0] // _BLOCK_PX, _BLOCK_PX, -1, _BLOCK_PX).any(axis=(1, 3))
    whole = np.kron(blocks, np.ones((_BLOCK_PX, _BLOCK_PX), dtype=bool))[:height, :width]
    return grown(whole, _BEYOND_PX)


def _bounds(mask: Mask) -> tuple[slice, slice]:
    """The smallest rectangle of whole blocks around it."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        slice(rows[0] // _BLOCK_PX * _BLOCK_PX, -(-(rows[-1] + 1) // _BLOCK_PX) * _BLOCK_PX),
        slice(columns[0] // _BLOCK_PX * _BLOCK_PX, -(-(columns[-1] + 1) // _BLOCK_PX) * _BLOCK_PX),
    )


def _quality(image: Uint8, mask: Mask, ground: Levels, ink: Levels) -> int:
    """The quality that changes the picture least, measured by what it does to a clean one."""
    outline = np.argwhere(edges_of(mask, 1))
    middle = outline[len(outline) // 2]
    top, left = np.maximum(middle // _BLOCK_PX * _BLOCK_PX - _PIECE_PX // 2, 0)
    piece = np.s_[top : top + _PIECE_PX, left : left + _PIECE_PX]
    seen, edges = image[piece], edges_of(mask[piece], 1)
    amount = np.where(edges, ink_in(seen, ground, ink), mask[piece])
    clean = np.rint(ground + amount[..., None] * (ink - ground)).astype(np.uint8)

    @functools.cache
    def change(quality: int) -> float:
        again, fresh = (np.abs(_compressed(each, quality) - each).mean() for each in (seen, clean))
        return float(again / (fresh + 0.01))

    coarse = min(_QUALITIES[::_STEPS], key=change)
    return min(range(coarse - _STEPS + 1, coarse + _STEPS), key=change)


def _compressed(pixels: Uint8, quality: int) -> Levels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as image:
        return np.asarray(image).astype(np.int16)


def _is_nothing_left(left: Levels, noise: Levels) -> bool:
    """Whether what is unexplained is weak beside the noise that is explained."""
    squares, noise_squares = (np.square(each.astype(np.float64)).mean() for each in (left, noise))
    return bool(squares <= _LEFT_OF_NOISE**2 * noise_squares)


def _is_even(left: Levels) -> bool:
    """Whether it makes no spot lighter or darker."""
    sums = np.pad(left.mean(axis=2), ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    lower = sums[_BOX_PX:] - sums[:-_BOX_PX]
    boxes = np.abs(lower[:, _BOX_PX:] - lower[:, :-_BOX_PX])
    return bool(boxes.max() <= _LEFT_BOX_LEVELS * _BOX_PX**2)
