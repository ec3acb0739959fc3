"""What a file shows, as the format modules tell it and `frames` paints it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from producer.errors import CorruptImage, ImageBomb
from worker.image.containers.gain import GainMap

#: Chunks, blocks or boxes of one file. Source: 10 MB in chunks of 512 bytes; Python walks that many
#: in about 30 ms.
MAX_PARTS = 20_000

#: Delays (seconds) up to which browsers show a frame for a tenth of a second instead.
_FAST_S = 0.010

_ORIENTATION, _RESOLUTIONS, _PRIVATE = 0x0112, (0x011A, 0x011B), 0x8769
#: Type and count of an entry that says where another directory is; entries that are followed.
_ONE_LONG, _MOST_ENTRIES = (4, 1), 1_000

Disposal = Literal["keep", "background", "previous"]


@dataclass(frozen=True, kw_only=True)
class Cel:
    """One coded frame and where it goes on the canvas.

    Attributes:
        decode: gives its pixels: any mode of Pillow that `colours` knows, alpha resolved to an
            alpha channel, colours as stored.
        left_px, top_px, width_px, height_px: its rectangle, which may reach over the canvas.
        duration_s: as browsers show it; 0 for a picture that only programs without animation show.
        disposal: what becomes of its rectangle before the next one.
        blends: put over what is there; otherwise its rectangle is replaced.
    """

    decode: Callable[[], Image.Image]
    width_px: int
    height_px: int
    left_px: int = 0
    top_px: int = 0
    duration_s: float = 0.0
    disposal: Disposal = "keep"
    blends: bool = True


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What one file shows.

    Attributes:
        format: for example `PNG`.
        width_px: of the canvas, before it is turned upright.
        height_px: of the canvas.
        frames: at least one.
        profiles: ICC profiles of its colours by where they come from, the first in legal places,
            those that browsers prefer first; b"" is sRGB by name.
        crop: left, top, right, bottom of the clean aperture; None shows all.
        turns: EXIF orientations 1 to 8, applied in order, as browsers turn the picture.
        other_turns: the same as another source in the file has it; each is what some viewer shows.
        ignores_alpha: some viewers show the picture without its alpha channel.
        plays: how often an animation is shown; 0 is without end.
        is_deep: it has more than 256 levels, of which that many are looked at.
        is_film: coded as moving pictures, whose levels some viewers scale in another way.
        other_alphas: how else viewers scale the levels of transparency, "wider" or "narrower".
        gain_map: by what screens that can do more than white light it up.
        doubts: why viewers may show something else; decoding may add to it.
    """

    format: str
    width_px: int
    height_px: int
    frames: tuple[Cel, ...]
    profiles: tuple[tuple[str, bytes], ...] = ()
    crop: tuple[int, int, int, int] | None = None
    turns: tuple[int, ...] = ()
    other_turns: tuple[tuple[int, ...], ...] = ()
    ignores_alpha: bool = False
    plays: int = 0
    is_deep: bool = False
    is_film: bool = False
    other_alphas: tuple[str, ...] = ()
    gain_map: GainMap | None = None
    doubts: list[str] = field(default_factory=list)


class Parts:
    """Counts the parts of a file and refuses what has more than any program writes."""

    def __init__(self, name: str, most: int = MAX_PARTS) -> None:
        self._name = name
        self._left = most
        self._most = most

    def count(self) -> None:
        """Count one more.

        Raises:
            ImageBomb: there are too many.
        """
        self._left -= 1
        if self._left < 0:
            raise ImageBomb(
                f"the {self._name} file is in more than the {self._most:,} pieces that are accepted"
            )


def shown_s(seconds: float) -> float:
    """The time for which browsers show a frame that asks for so many seconds."""
    return 0.1 if seconds <= _FAST_S else seconds


def exif_orientation(exif: bytes) -> tuple[int, bool]:
    """The orientation 1 to 8 of a TIFF block, and whether every reader would agree.

    Chromium also stretches a picture whose resolutions across and down differ.

    Source: EXIF 2.32, tag 0x0112 in the first directory: one SHORT. Chromium reads nothing else.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1, True
    first = _entries(exif, order, int.from_bytes(exif[4:8], "little" if order == "<" else "big"))
    entries, deeper, is_plain = list(first), first, True
    while pointers := [each for each in deeper if each.tag == _PRIVATE]:
        # Firefox looks there too, whatever type they are of, and into those within.
        is_plain = is_plain and len(entries) < _MOST_ENTRIES and len(pointers) == 1
        is_plain = is_plain and pointers[0][1:3] == _ONE_LONG
        if not is_plain:
            break
        deeper = _entries(exif, order, pointers[0].long)
        entries += deeper
    places = [each.long for each in entries if each.tag in _RESOLUTIONS]
    is_plain = is_plain and len({exif[place : place + 8] for place in places}) < 2
    found = [each[1:4] for each in entries if each.tag == _ORIENTATION]
    if not found:
        return 1, is_plain
    is_short = found[0][:2] == (3, 1)
    is_plain = is_plain and is_short and len(set(found)) == 1
    is_plain = is_plain and sum(each.tag == _ORIENTATION for each in first) == 1
    is_plain = is_plain and all(place + 8 <= len(exif) for place in places)
    value = found[0][2]
    return (value if is_short and 1 <= value <= 8 else 1), is_plain


class _Entry(NamedTuple):
    """One of a directory; its value as one short number and as a long one."""

    tag: int
    kind: int
    values: int
    short: int
    long: int


def _entries(exif: bytes, order: str, at: int) -> list[_Entry]:
    if at + 2 > len(exif):
        return []
    (count,) = struct.unpack_from(order + "H", exif, at)
    starts = range(at + 2, min(at + 2 + 12 * count, len(exif) - 11), 12)
    return [
        _Entry(
            *struct.unpack_from(order + "HHIH", exif, start),
            *struct.unpack_from(order + "I", exif, start + 8),
        )
        for start in starts
    ]


def require(condition: object, message: str) -> None:
    """Refuse a file that does not hold what it must.

    Raises:
        CorruptImage: with this message.
    """
    if not condition:
        raise CorruptImage(message)


def eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey as the nearest of 256 levels."""
    levels = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
