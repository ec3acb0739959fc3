"""JPEG: segments to a file with nothing but pixels, its profile and its orientation.

Source: ITU-T T.81, annex B; JFIF 1.02; ICC.1:2022, annex B.4; what libjpeg-turbo, which all
browsers use, makes of what is out of place.
"""

from __future__ import annotations

import functools
import io
import math
import re
import struct
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, JpegImagePlugin

from producer.errors import CorruptImage, ImageBomb, ModerationError, UnsupportedImage
from worker.image.containers import gain
from worker.image.containers.contents import Cel, Contents, Parts, exif_orientation, require
from worker.image.containers.formats import DecodeLimits
from worker.image.containers.gain import GainMap

#: A progressive JPEG has about ten scans; thousands make a small file take minutes.
MAX_SCANS = 100
#: Segments of one file: metadata comes in pieces of 64 kB.
_MAX_SEGMENTS = 2_000

#: Baseline, extended and progressive; the other processes are not for browsers.
_PROGRESSIVE = 0xC2
_FRAMES = frozenset({0xC0, 0xC1, _PROGRESSIVE})
_OTHER_FRAMES = frozenset({0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)})
#: Huffman and quantisation tables, restart interval.
_CODES = 0xC4
_TABLES = frozenset({_CODES, 0xDB, 0xDD})
_SCAN, _END, _EXIF, _PROFILE, _ADOBE, _JFIF = 0xDA, 0xD9, 0xE1, 0xE2, 0xEE, 0xE0
#: Markers without a length: TEM and start of image.
_BARE = frozenset({0x01, 0xD8})

_END_MARK = b"\xff\xd9"
#: Coded pixels that no end of a file decodes to by itself.
_ANY_PIXELS = b"\x5a\xa5\x96\x69" * 64

#: Bytes that are searched at once.
_MOST_STEP = 1 << 20

Uint8 = npt.NDArray[np.uint8]
_IS_MARKER = np.zeros(256, dtype=np.bool_)
_IS_MARKER[0x01:0xFF] = True
# Restarts are part of the pixels.
_IS_MARKER[0xD0:0xD8] = False

#: Chromium takes any byte after the name, Firefox only zero.
_EXIF_NAME, _EXIF_BYTES, _XMP_NAME = b"Exif\0", 6, b"http://ns.adobe.com/xap/1.0/\0"
_PROFILE_NAME = b"ICC_PROFILE\0"
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:\s*=\s*[\"']|>)\s*([1-8])")


@dataclass
class _File:
    """What the walk has found so far."""

    kept: list[bytes] = field(default_factory=lambda: [b"\xff\xd8"])
    size: tuple[int, int] = (0, 0)
    is_progressive: bool = False
    missing_bits: dict[int, list[int | None]] = field(default_factory=dict)
    scans: int = 0
    is_in_pixels: bool = False
    exif: list[bytes] = field(default_factory=list)
    xmp: list[bytes] = field(default_factory=list)
    profile: list[bytes] = field(default_factory=list)
    has_metadata: bool = False
    others: list[tuple[int, ...]] = field(default_factory=list)
    is_cut: bool = False
    doubts: list[str] = field(default_factory=list)


def read(data: bytes, limits: DecodeLimits) -> Contents:
    """Walk a JPEG file; see `containers.read`."""
    file = _walk(data, limits)
    return _contents(file, _gain_map(data, file, limits))


def _walk(data: bytes, limits: DecodeLimits) -> _File:
    file = _File()
    parts = Parts("JPEG", _MAX_SEGMENTS)
    levels = np.frombuffer(data, np.uint8)
    at = 2
    while True:
        parts.count()
        start = _find_marker(levels, at)
        if start is None:
            require(file.is_in_pixels, "the JPEG file is truncated: it has no end")
            file.kept.append(data[at:].rstrip(b"\xff"))
            file.is_cut = True
            if not file.is_progressive:
                # Browsers wait for the end before they show the last rows.
                file.doubts.append("a picture without its end")
            break
        if file.is_in_pixels:
            file.kept.append(data[at:start])
        elif file.scans and data[at:start].strip(b"\xff"):
            # Browsers stop at the first marker; what follows it is not theirs.
            file.doubts.append("pixels that are interrupted")
        file.is_in_pixels = False
        marker = data[start + 1]
        at = start + 2
        if marker in _BARE:
            if file.scans or marker == 0xD8:
                file.doubts.append("a picture that begins twice")
            continue
        if marker == _END:
            break
        (length,) = struct.unpack_from(">H", data, at)
        end = at + length
        require(length >= 2 and end <= len(data), "the JPEG file is truncated")
        _take(file, marker, data[start:end], limits)
        at = end
    require(file.scans, "the JPEG file has no pixels")
    if any(missing != 0 for bits in file.missing_bits.values() for missing in bits):
        # Decoders smooth over what never came, each in its own way.
        file.doubts.append("fewer scans than the picture needs")
    return file


def _find_marker(levels: Uint8, at: int) -> int | None:
    """Place of the next byte 0xFF that a marker's code follows: no byte is looked at twice."""
    step = 64
    while at < len(levels) - 1:
        window = levels[at : at + step + 1]
        hits = (window[:-1] == 0xFF) & _IS_MARKER[window[1:]]
        first = int(hits.argmax())
        if hits[first]:
            return at + first
        at += step
        step = min(2 * step, _MOST_STEP)
    return None


def _take(file: _File, marker: int, segment: bytes, limits: DecodeLimits) -> None:
    body = segment[4:]
    if marker in _FRAMES:
        file.is_progressive = marker == _PROGRESSIVE
        _take_frame(file, body, limits)
    elif marker in _OTHER_FRAMES or marker == 0xCC:
        raise UnsupportedImage("the JPEG file is of a kind that browsers do not show")
    elif marker == _SCAN:
        require(any(file.size), "the JPEG file has pixels before their size")
        file.scans += 1
        if file.scans > MAX_SCANS:
            raise ImageBomb(f"the JPEG file has more than {MAX_SCANS} scans")
        _take_scan(file, body)
    elif _says_colours(marker, body):
        if file.scans:
            file.doubts.append("a colour space that is told late")
            return
    elif marker not in _TABLES:
        if not file.scans:
            _take_metadata(file, marker, body)
        return
    elif marker == _CODES and not _are_codes_usual(body):
        file.doubts.append("codes for pixels that no program writes")
    file.kept.append(segment)


def _are_codes_usual(body: bytes) -> bool:
    """Whether Huffman tables have every symbol once, and none for more than 8-bit levels need.

    Source: ITU-T T.81, F.1.2: differences of 11 bits, coefficients of 10.
    """
    at = 0
    while at + 17 <= len(body):
        most_bits = 10 if body[at] >> 4 else 11
        symbols = body[at + 17 : at + 17 + sum(body[at + 1 : at + 17])]
        if len(set(symbols)) < len(symbols) or any(each & 15 > most_bits for each in symbols):
            return False
        at += 17 + len(symbols)
    return True


def _says_colours(marker: int, body: bytes) -> bool:
    """Whether a segment tells the decoder how to read the components."""
    start = {_ADOBE: b"Adobe", _JFIF: b"JFIF\0"}.get(marker)
    return start is not None and body.startswith(start)


def _take_frame(file: _File, body: bytes, limits: DecodeLimits) -> None:
    require(not any(file.size), "the JPEG file has two sizes")
    depth, height, width, components = struct.unpack_from(">BHHB", body)
    if depth != 8 or components not in (1, 3, 4):
        raise UnsupportedImage("the JPEG file is of a kind that browsers do not show")
    limits.check_size(width, height)
    file.size = width, height
    file.missing_bits = {each: [None] * 64 for each in body[6 : 6 + 3 * components : 3]}


def _take_scan(file: _File, body: bytes) -> None:
    """Note which bits of which coefficients come: each once, the higher ones first."""
    count = body[0]
    first, last, bits = body[1 + 2 * count : 4 + 2 * count] if file.is_progressive else (0, 63, 0)
    before, after = bits >> 4 or None, bits & 15
    for component in body[1 : 1 + 2 * count : 2]:
        missing = file.missing_bits.get(component)
        require(missing and last < 64, "a scan of the JPEG file is damaged")
        assert missing is not None
        if any(each != before for each in missing[first : last + 1]):
            file.doubts.append("scans that do not follow each other")
        missing[first : last + 1] = [after] * (last + 1 - first)
    file.is_in_pixels = True


def _take_metadata(file: _File, marker: int, body: bytes) -> None:
    is_first = marker == _EXIF and not file.has_metadata
    if marker == _EXIF and body.startswith(_EXIF_NAME):
        if body[5:6] != b"\0" or not is_first:
            # Firefox looks into the first segment of this kind only.
            file.others.append(())
        file.exif.append(body[_EXIF_BYTES:])
    elif marker == _EXIF and body.startswith(_XMP_NAME):
        file.xmp.append(body)
    elif marker == _PROFILE and body.startswith(_PROFILE_NAME):
        file.profile.append(body[len(_PROFILE_NAME) :])
    file.has_metadata |= marker == _EXIF


def _gain_map(data: bytes, file: _File, limits: DecodeLimits) -> GainMap | None:
    """The one map of the file; doubted where it has two or not what cameras write."""
    found = list(gain.find(data))
    if not found:
        return None
    (at, gains), *others = found
    if others or not gains or not all(each.is_usual for each in gains):
        file.doubts.append("a gain map of an unusual kind")
        return None
    try:
        levels = _walk(data[at:], limits)
    except (ModerationError, struct.error, IndexError):
        levels = _File(doubts=["damaged"])
    if levels.doubts or math.prod(levels.size) > math.prod(file.size):
        file.doubts.append("a gain map that is damaged")
        return None
    return GainMap(gains, functools.partial(_decode, b"".join(levels.kept), levels.is_cut))


def _contents(file: _File, gain_map: GainMap | None) -> Contents:
    minimal = b"".join(file.kept)
    turns = _turns(file)
    profile = _profile(file)
    return Contents(
        format="JPEG",
        width_px=file.size[0],
        height_px=file.size[1],
        frames=(
            Cel(
                decode=functools.partial(_decode, minimal, file.is_cut),
                width_px=file.size[0],
                height_px=file.size[1],
            ),
        ),
        profiles=(("icc", profile),) if profile else (),
        turns=turns[0],
        other_turns=turns[1:],
        gain_map=gain_map,
        doubts=file.doubts,
    )


def _turns(file: _File) -> tuple[tuple[int, ...], ...]:
    """The orientation of EXIF, which browsers read, and that of XMP if it is another."""
    orientation, is_plain = exif_orientation(file.exif[0] if file.exif else b"")
    if not is_plain or len({exif_orientation(exif) for exif in file.exif}) > 1:
        file.doubts.append("an orientation that readers may disagree about")
    found: list[int] = [orientation]
    for xmp in file.xmp:
        found += [int(value) for value in _XMP_ORIENTATION.findall(xmp)]
    turns = [() if value == 1 else (value,) for value in found]
    return tuple(dict.fromkeys([*turns, *file.others]))


def _profile(file: _File) -> bytes | None:
    """Every piece once, all with the same count: anything else, libjpeg drops."""
    pieces: dict[int, bytes] = {}
    for piece in file.profile:
        if len(piece) < 2 or piece[1] != len(file.profile) or not 1 <= piece[0] <= piece[1]:
            file.doubts.append("a colour profile in pieces that do not fit")
            return None
        pieces[piece[0]] = piece[2:]
    if len(pieces) != len(file.profile):
        file.doubts.append("a colour profile in pieces that do not fit")
        return None
    return b"".join(pieces[number] for number in sorted(pieces)) or None


def _decode(minimal: bytes, is_cut: bool) -> Image.Image:
    """Decode a file that lacks nothing but its end mark, or also that.

    Raises:
        CorruptImage: it lacks more: what would come next makes a difference to its pixels.
    """
    reader = _load(minimal + _END_MARK)
    if is_cut:
        other = _load(minimal + _ANY_PIXELS + _END_MARK)
        is_same = ImageChops.difference(reader, other).getbbox(alpha_only=False) is None
        require(is_same, "the JPEG file is truncated: it has no end")
    return reader


def _load(data: bytes) -> Image.Image:
    reader = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    reader.load()
    if reader.mode not in ("L", "RGB", "CMYK"):
        raise CorruptImage("the JPEG file has a kind of pixels that is not known")
    return reader
