"""Gain maps of JPEG: a second picture by which screens that can do more light the first one up.

Source: Adobe, Gain Map 1.0; Android, Ultra HDR 1.1; ISO 21496-1, annex C; what Skia, which draws
for Chromium, makes of them: it finds them by a table of pictures (MPF) or by XMP. Pure.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image

_START = b"\xff\xd8\xff"
#: Places of a file that begin like a picture; phones write a thumbnail and a gain map.
_MOST_PICTURES = 64
_MOST_SEGMENTS = 100
_APP1, _APP2 = 0xE1, 0xE2
#: End of picture, start of pixels; markers without a length; bytes that may stand before a marker.
_LAST, _BARE, _FILL = (0xD9, 0xDA), frozenset({0x01, *range(0xD0, 0xD9)}), re.compile(rb"\xff*")
_ISO_NAME, _XMP_NAME = b"urn:iso:std:iso:ts:21496:-1\0", b"http://ns.adobe.com/xap/1.0/\0"
_ADOBE, _APPLE = b"http://ns.adobe.com/hdr-gain-map/1.0/", b"hdrgainmap"
#: What can hide a word of XMP: another encoding, entities but for white space, a second part.
_HIDES = re.compile(rb"\0|<!|&#(?!(?:x[9AaDd]|9|10|13);)|HasExtendedXMP")
#: Stops that Apple's maps add at most. Source: Apple, "Applying Apple HDR effect to your photos".
_APPLE_STOPS = 3.0

Three = tuple[float, float, float]


@dataclass(frozen=True)
class Gain:
    """What a gain map's levels mean, for red, green and blue.

    Attributes:
        low: stops (powers of two) that its level 0 adds.
        high: those that its level 255 adds.
        gamma: of the levels between.
        before, after: what is added to linear light before, and taken away afterwards.
        reach: stops over white from which a screen shows anything of it, and from which all of it.
        is_reversed: the first picture is the one for screens that can do more.
    """

    low: Three = (0.0,) * 3
    high: Three = (1.0,) * 3
    gamma: Three = (1.0,) * 3
    before: Three = (1 / 64,) * 3
    after: Three = (1 / 64,) * 3
    reach: tuple[float, float] = (0.0, 1.0)
    is_reversed: bool = False

    @property
    def is_usual(self) -> bool:
        """Whether ordinary screens show the first picture as it is."""
        return (
            not self.is_reversed
            and 0 <= self.reach[0] < self.reach[1]
            and all(-16 <= low <= high <= 16 for low, high in zip(self.low, self.high, strict=True))
            and all(0.01 <= each <= 100 for each in self.gamma)
            and all(0 <= each <= 1 for each in (*self.before, *self.after))
        )


@dataclass(frozen=True)
class GainMap:
    """One of them.

    Attributes:
        gains: what its levels mean; more than one where its metadata differ, which viewers choose
            among.
        decode: gives them, in any mode and size.
    """

    gains: tuple[Gain, ...]
    decode: Callable[[], Image.Image]


#: What Apple's own maps mean.
OF_APPLE = Gain(
    high=(_APPLE_STOPS,) * 3, before=(0.0,) * 3, after=(0.0,) * 3, reach=(0.0, _APPLE_STOPS)
)  # fmt: skip


def find(data: bytes) -> Iterator[tuple[int, tuple[Gain, ...]]]:
    """Where gain maps begin in a file and what they say; nothing where that is not plain."""
    at = data.find(_START, 2)
    for _ in range(_MOST_PICTURES):
        if at < 0:
            return
        found = list(_gains(data, at))
        if found:
            plain = tuple(dict.fromkeys(each for each in found if each is not None))
            yield at, plain if None not in found else ()
        at = data.find(_START, at + 2)
    if at >= 0:
        yield at, ()


def _gains(data: bytes, at: int) -> Iterator[Gain | None]:
    """What each segment of a picture that makes it a gain map says."""
    at += 2
    for _ in range(_MOST_SEGMENTS):
        at = _FILL.match(data, at).end()  # type: ignore[union-attr]
        if at + 3 > len(data) or data[at] in _LAST:
            return
        if data[at - 1] != 0xFF:
            break
        marker = data[at]
        if marker in _BARE:
            at += 1
            continue
        end = at + 1 + int.from_bytes(data[at + 1 : at + 3], "big")
        yield from _of_segment(marker, data[at + 3 : end])
        at = end
    if data.find(_ISO_NAME, at) >= 0 or data.find(_XMP_NAME, at) >= 0:
        # Who reads on in another way may find one.
        yield None


def _of_segment(marker: int, body: bytes) -> Iterator[Gain | None]:
    if marker == _APP2 and body.startswith(_ISO_NAME):
        yield of_iso(body[len(_ISO_NAME) :])
    elif marker == _APP1 and body.startswith(_XMP_NAME):
        text = body[len(_XMP_NAME) :]
        if _ADOBE in text:
            yield _of_adobe(text)
        elif _APPLE in text:
            yield OF_APPLE
        elif _HIDES.search(text):
            yield None


def of_iso(body: bytes) -> Gain | None:
    """What ISO's metadata says: fractions in binary, the same for all colours or for each."""
    if len(body) < 5 or body[:2] != b"\0\0" or body[4] & 0x3F:
        return None
    channels = 3 if body[4] & 0x80 else 1
    count = 4 + 10 * channels
    if len(body) < 5 + 4 * count:
        return None
    # Signed where a minimum, maximum or offset is meant.
    numbers = struct.unpack_from(">4I" + "iIiIIIiIiI" * channels, body, 5)
    if not all(numbers[1::2]):
        return None
    values = [over / under for over, under in zip(numbers[::2], numbers[1::2], strict=True)]
    low, high, gamma, before, after = (
        (*values[2 + each :: 5], *values[2 + each :: 5], *values[2 + each :: 5])[:3]
        for each in range(5)
    )
    return Gain(low, high, gamma, before, after, (values[0], values[1]), values[0] > values[1])


def _of_adobe(text: bytes) -> Gain | None:
    """Attributes or elements of XMP, each once."""
    prefixes = re.findall(rb"xmlns:(\w+)\s*=\s*[\"']" + re.escape(_ADOBE) + rb"[\"']", text)
    if _HIDES.search(text) or len(set(prefixes)) != 1 or text.count(_ADOBE) != len(prefixes):
        return None
    try:
        values = {
            name: _adobe_value(text, prefixes[0] + b":" + name.encode(), usual)
            for name, usual in _ADOBE_NAMES.items()
        }
    except ValueError:
        return None
    is_reversed = _texts(text, prefixes[0] + b":BaseRenditionIsHDR")
    return Gain(
        values["GainMapMin"], values["GainMapMax"], values["Gamma"], values["OffsetSDR"],
        values["OffsetHDR"], (values["HDRCapacityMin"][0], values["HDRCapacityMax"][0]),
        is_reversed not in ([], [b"False"]),
    )  # fmt: skip


#: Names and what is meant where they are missing. Source: Adobe, Gain Map 1.0.
_ADOBE_NAMES = {
    "GainMapMin": 0.0, "GainMapMax": 1.0, "Gamma": 1.0, "OffsetSDR": 1 / 64, "OffsetHDR": 1 / 64,
    "HDRCapacityMin": 0.0, "HDRCapacityMax": 1.0,
}  # fmt: skip


def _texts(text: bytes, name: bytes) -> list[bytes]:
    inside = rb"<%b\s*>(.*?)</%b\s*>" % (name, name)
    found = re.findall(rb"\b%b\s*=\s*[\"']([^\"']*)[\"']" % name, text)
    return [each.strip() for each in (*found, *re.findall(inside, text, re.DOTALL))]


def _adobe_value(text: bytes, name: bytes, usual: float) -> Three:
    found = _texts(text, name)
    if not found and name not in text:
        return (usual,) * 3
    parts = re.findall(rb"<rdf:li\s*>([^<]*)</rdf:li\s*>", found[0]) if found else []
    parts = parts or found * 3
    if len(found) != 1 or len(parts) != 3:
        raise ValueError("told twice, in another way, or not for three colours")
    return float(parts[0]), float(parts[1]), float(parts[2])
