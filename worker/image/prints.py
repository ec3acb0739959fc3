"""Perceptual hashes of what a file shows, and a hash of its decoded pixels.

A perceptual hash (PDQ, 256 bits) changes little with encoding, size, brightness or noise. A picture
that is remembered gets five, of five crops, and more where it has a border or is nearly white. One
that is asked about gets two, as it is and mirrored, and two more without its border where it has
one. Runs in the decoding child process.

Source: PDQ, github.com/facebook/ThreatExchange/tree/main/pdq; the numbers: docs/memory.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance

from worker.image.frames import Frame, Frames
from worker.image.groups import explain
from worker.image.preprocess import Uint8Array
from worker.image.shown import shown

#: The 16 lowest frequencies of a DCT-II over 64 cells, without the mean.
_WAVES = (
    np.sqrt(2 / 64) * np.cos(np.pi / 128 * np.outer(np.arange(1, 17), 2 * np.arange(64) + 1))
).astype(np.float32)
#: Side of the square that is hashed, and longest side at which borders are looked for.
_SIDE_PX, _LONG_PX = 256, 512
#: PDQ's own word on how much a picture shows, 0..100, below which its hash says nothing: of what is
#: kept, and of a copy, which may be darker.
LEAST_QUALITY, LEAST_QUALITY_OF_COPY = 50, 25
#: Share of width and of height that each crop leaves out, half of it at each end.
_CROPS = (0.0, 0.03, 0.06, 0.09, 0.12)
#: A copy that is brighter by this loses what is nearly white; such a picture is kept as that leaves
#: it, too, where the hash changes by more than so many bits.
_BRIGHTER, _MOST_BITS_LOST = 1.2, 16
#: Levels (0..255) within which a line is border, but for a share at each end of its levels: what
#: JPEG leaves beside an edge.
_BORDER_LEVELS, _BORDER_STRAYS = 24, 0.03
#: Share of each side that must be left for something to count as a picture within a border.
_LEAST_LEFT = 0.3
#: Frames of one file that get hashes, of those that look like no other: a sticker of so many takes
#: a fifth of a second.
_MOST_PRINTED = 32


def asked(image: Image.Image) -> list[bytes]:
    """The hashes by which a picture is looked for; none where it shows too little.

    Args:
        image: mode RGB.

    Returns:
        32 bytes each.
    """
    grey = _grey(image)
    inner = _without_border(grey)
    found: dict[bytes, None] = {}
    for image in (grey,) if inner is None else (grey, inner):
        square = _square(image)
        for pixels in (square, square[:, ::-1]):
            bits, quality = pdq(pixels)
            if quality >= LEAST_QUALITY_OF_COPY:
                found[bits] = None
    return list(found)


def kept(image: Image.Image) -> list[bytes]:
    """The hashes by which a picture is found again, that of all of it first; at most seven."""
    grey = _grey(image)
    inner = _without_border(grey)
    images = [*_crops(grey), *([] if inner is None else [inner])]
    printed = [pdq(_square(one)) for one in images]
    found = dict.fromkeys(bits for bits, quality in printed if quality >= LEAST_QUALITY)
    whole = printed[0][0]
    bright, quality = pdq(_square(_grey(ImageEnhance.Brightness(image).enhance(_BRIGHTER))))
    if (
        whole in found
        and quality >= LEAST_QUALITY_OF_COPY
        and _distance(bright, whole) > _MOST_BITS_LOST
    ):
        found[bright] = None
    return list(found)


def _distance(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()


def _square(grey: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(grey.resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BILINEAR))


def pdq(grey: npt.NDArray[np.uint8]) -> tuple[bytes, int]:
    """PDQ of a grey picture, as the reference has it, and how much the picture shows.

    Args:
        grey: (256, 256) levels.

    Returns:
        32 bytes, the highest frequency first, and the quality, 0..100.
    """
    cells = _cells(grey)
    waves = _WAVES @ cells @ _WAVES.T
    median = np.partition(waves.ravel(), waves.size // 2 - 1)[waves.size // 2 - 1]
    steps = (np.trunc(np.diff(cells, axis=axis) * 100 / 255) for axis in (0, 1))
    quality = min(100, int(sum(float(np.abs(step).sum()) for step in steps) / 90))
    return np.packbits((waves > median).ravel()[::-1]).tobytes(), quality


def _cells(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The reference's box filter at this size, where it is sampled; (64, 64).

    Twice the mean of two neighbours, by row and by column: the weights 1, 2, 1.
    """
    levels = np.pad(grey, (0, 1), mode="edge").astype(np.uint16)
    rows = levels[2:256:4] + 2 * levels[3:256:4] + levels[4:257:4]
    sums = rows[:, 2:256:4] + 2 * rows[:, 3:256:4] + rows[:, 4:257:4]
    cells: npt.NDArray[np.float32] = sums.astype(np.float32) / np.float32(16)
    return cells


def _grey(image: Image.Image) -> Image.Image:
    grey = image.convert("L")
    grey.thumbnail((_LONG_PX, _LONG_PX), Image.Resampling.BOX)
    return grey


def _crops(image: Image.Image) -> Iterator[Image.Image]:
    for share in _CROPS:
        left, top = image.width * share / 2, image.height * share / 2
        box = (round(left), round(top), round(image.width - left), round(image.height - top))
        yield image.crop(box)


def _without_border(grey: Image.Image) -> Image.Image | None:
    """What lies within rows and columns of one level each; None where there is no border."""
    pixels = np.asarray(grey)
    if (_spread(pixels[[0, -1]]) > _BORDER_LEVELS).all() and (
        _spread(pixels[:, [0, -1]].T) > _BORDER_LEVELS
    ).all():
        return None
    top, bottom, left, right = 0, grey.height, 0, grey.width
    # Rows look even only once what stands beside them is gone, and the reverse.
    for _ in range(2):
        above, below = _inner(pixels[top:bottom, left:right])
        top, bottom = top + above, top + below
        before, after = _inner(pixels[top:bottom, left:right].T)
        left, right = left + before, left + after
    size = (right - left, bottom - top)
    if size == grey.size or size[0] < _LEAST_LEFT * grey.width:
        return None
    if size[1] < _LEAST_LEFT * grey.height:
        return None
    return grey.crop((left, top, right, bottom))


def _inner(lines: Uint8Array) -> tuple[int, int]:
    """First line that is no border, and the one after the last."""
    inner = np.flatnonzero(_spread(lines) > _BORDER_LEVELS)
    return (int(inner[0]), int(inner[-1]) + 1) if len(inner) else (0, len(lines))


def _spread(lines: Uint8Array) -> npt.NDArray[np.int16]:
    """Levels between the darkest and the lightest pixels of each line, but for strays."""
    low = int(lines.shape[1] * _BORDER_STRAYS)
    high = lines.shape[1] - 1 - low
    levels = np.partition(lines, (low, high), axis=1).astype(np.int16)
    return levels[:, high] - levels[:, low]


class Printer:
    """Takes down what one file is looked for by, while `views.look` reads its frames."""

    def __init__(self) -> None:
        self._found: dict[bytes, None] = {}
        self._pixels = hashlib.sha256()
        self._printed = 0

    def add(self, frame: Frame, *, is_new: bool) -> None:
        """One more frame, in order; one that looks like another has that one's hashes."""
        self._pixels.update(f"{frame.index} {frame.duration_s!r} {frame.ignores_alpha}".encode())
        for name, image in frame.renditions.items():
            self._pixels.update(f"{name} {image.mode} {image.size}".encode())
            self._pixels.update(image.tobytes())
        if not is_new or self._printed == _MOST_PRINTED:
            return
        self._printed += 1
        grounds = ("",) if frame.image.mode == "RGB" else ("white", "black")
        for ground in grounds:
            self._found.update(dict.fromkeys(asked(shown(frame, ground))))

    @property
    def hashes(self) -> list[bytes]:
        """Of every frame that looks like no other, over white and over black."""
        return list(self._found)

    def pixels(self, frames: Frames) -> str:
        """Names all that the file shows, whatever bytes it came in: 64 hexadecimal digits.

        Empty where viewers may show something else than what was read.
        """
        return "" if frames.doubts else self._pixels.hexdigest()


def keep(frames: Frames, worst: int, background: str) -> tuple[list[bytes], str]:
    """By what a file is found again: hashes of its worst view and of what it shows first.

    What the flat rule explains has no hashes, for it looks like what others upload.

    Args:
        frames: of the file.
        worst: the frame that scored worst.
        background: what that view was put over, as in `View`.

    Returns:
        Hashes, those of the worst view first, and the name of its pixels as `Printer.pixels`.
    """
    printer, found, first = Printer(), list[bytes](), list[bytes]()
    for index in range(len(frames)):
        frame = frames.read(index)
        printer.add(frame, is_new=False)
        if explain(frame):
            continue
        if index == min(worst, len(frames) - 1):
            found = kept(shown(frame, background))
        elif index == 0:
            first = kept(shown(frame, background))
    return list(dict.fromkeys([*found, *first])), printer.pixels(frames)
