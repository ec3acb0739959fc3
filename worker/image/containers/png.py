"""PNG and APNG: chunks to frames.

Source: PNG (third edition), W3C; what happens to chunks that are late, doubled or damaged is what
libpng and the Rust `png` crate do (Firefox and Chromium): the first in a legal place counts.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from producer.errors import CorruptImage
from worker.image.containers.contents import (
    Cel,
    Contents,
    Parts,
    exif_orientation,
    require,
    shown_s,
)
from worker.image.containers.formats import PNG_SIGNATURE, DecodeLimits
from worker.image.containers.png_pixels import Pixels
from worker.image.containers.profiles import Chromaticities, gamma_profile, named_profile

#: Bytes that a compressed profile may become.
_MAX_PROFILE_BYTES = 4 * 2**20

#: Colour type -> legal bit depths. Source: PNG 11.2.1.
_DEPTHS = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}

#: Chunks that say what colours, transparency and orientation are: each at most once, before the
#: pixels, and those in the second set before the palette too.
_SPOKEN = {b"tRNS", b"eXIf"}
_BEFORE_PALETTE = {b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP"}

#: gAMA values (times 100,000) that libpng accepts. Source: libpng, png_set_gAMA_fixed.
_GAMMAS = range(16, 625_000_001)
#: Those that stand for sRGB, and its intents. Source: PNG 11.3.2.5.
_SRGB_GAMMAS, _INTENTS = range(45_000, 46_000), range(4)
#: The last chunk, of which browsers do not need a byte.
_END = b"\0\0\0\0IEND\xae\x42\x60\x82"

_DISPOSALS: tuple[Any, ...] = ("keep", "background", "previous")


@dataclass
class _Frame:
    """One fcTL and the pixel chunks that follow it."""

    width_px: int
    height_px: int
    left_px: int = 0
    top_px: int = 0
    duration_s: float = 0.0
    disposal: int = 0
    blends: bool = False
    pixels: list[bytes] = field(default_factory=list)


@dataclass
class _File:
    """What the walk has found so far."""

    header: bytes = b""
    palette: bytes | None = None
    spoken: dict[bytes, bytes] = field(default_factory=dict)
    announced: int = 0
    plays: int = 0
    still: list[bytes] = field(default_factory=list)
    frames: list[_Frame] = field(default_factory=list)
    is_first_frame_still: bool = False
    has_pixels_ended: bool = False
    sequence: int = 0
    doubts: list[str] = field(default_factory=list)


def read(data: bytes, limits: DecodeLimits) -> Contents:
    """Walk a PNG file; see `containers.read`."""
    file = _File()
    for kind, body, is_whole in _chunks(data):
        if file.still and kind != b"IDAT":
            file.has_pixels_ended = True
        if kind == b"IHDR":
            _take_header(file, body, limits)
        elif kind == b"IDAT":
            require(not file.has_pixels_ended, "the PNG file's pixels are in two places")
            file.still.append(body)
        elif kind == b"PLTE":
            _take_palette(file, body)
        elif kind in _SPOKEN or kind in _BEFORE_PALETTE:
            _take_spoken(file, kind, body, is_whole)
        elif kind in (b"acTL", b"fcTL", b"fdAT"):
            require(is_whole, f"the PNG file's {kind.decode()} chunk is damaged")
            _ANIMATION[kind](file, body, limits)
        elif not kind[0] & 0x20:
            raise CorruptImage(f"the PNG file has a critical {kind.decode('latin-1')} chunk")
    return _contents(file)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    at = len(PNG_SIGNATURE)
    require(data[at + 4 : at + 8] == b"IHDR", "the PNG file does not begin with its header")
    parts = Parts("PNG")
    view = memoryview(data)
    while not _END.startswith(data[at : at + len(_END) + 1]):
        parts.count()
        length, kind = struct.unpack_from(">I4s", data, at)
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        is_whole = checksum == zlib.crc32(view[at + 4 : at + 8 + length])
        if kind == b"IEND":
            return
        if not is_whole and not kind[0] & 0x20:
            raise CorruptImage(f"the PNG file's {kind.decode('latin-1')} chunk is damaged")
        yield kind, data[at + 8 : at + 8 + length], is_whole
        at += 12 + length


def _take_header(file: _File, body: bytes, limits: DecodeLimits) -> None:
    require(not file.header, "the PNG file has two headers")
    width_px, height_px, depth, colour_type, *methods = struct.unpack(">IIBBBBB", body)
    limits.check_size(width_px, height_px)
    is_known = depth in _DEPTHS.get(colour_type, ()) and methods[:2] == [0, 0] and methods[2] < 2
    require(is_known, "the PNG file has a kind of pixels that does not exist")
    file.header = body


def _take_palette(file: _File, body: bytes) -> None:
    require(file.palette is None and not file.still, "the PNG file's palette is out of place")
    colour_type = file.header[9]
    require(colour_type not in (0, 4), "the PNG file has a palette for shades of grey")
    require(body and len(body) % 3 == 0 and len(body) <= 768, "the PNG file's palette is damaged")
    if colour_type == 3 and len(body) // 3 > 1 << file.header[8]:
        file.doubts.append("a palette larger than its indices")
    if b"tRNS" in file.spoken:
        file.doubts.append("transparency before the palette")
    file.palette = body


def _take_spoken(file: _File, kind: bytes, body: bytes, is_whole: bool) -> None:
    """Keep the first in a legal place; whatever else there is, some program may believe."""
    is_late = bool(file.still) or (kind in _BEFORE_PALETTE and file.palette is not None)
    if kind == b"eXIf":
        is_late = False
    if not is_whole:
        file.doubts.append(f"a damaged {kind.decode()} chunk")
    elif is_late and kind == b"sRGB" and not _BEFORE_PALETTE & file.spoken.keys():
        # It says late what everybody takes for granted.
        pass
    elif is_late:
        file.doubts.append(f"a {kind.decode()} chunk out of place")
    elif kind in file.spoken:
        file.doubts.append(f"two {kind.decode()} chunks")
    else:
        file.spoken[kind] = body


# -- animation -----------------------------------------------------------------------------------


def _take_animation(file: _File, body: bytes, limits: DecodeLimits) -> None:
    count, plays = struct.unpack(">II", body)
    if file.still or file.announced or not count:
        file.doubts.append("an animation that is announced late, twice or as empty")
        return
    width_px, height_px = struct.unpack(">II", file.header[:8])
    limits.check_size(width_px, height_px, count)
    file.announced, file.plays = count, plays


def _take_frame(file: _File, body: bytes, limits: DecodeLimits) -> None:
    if not file.announced:
        file.doubts.append("frames of an animation that is not announced")
        return
    number, width, height, left, top, over, under, disposal, blend = struct.unpack(
        ">IIIIIHHBB", body
    )
    _count(file, number)
    canvas_width, canvas_height = struct.unpack(">II", file.header[:8])
    is_inside = width and height and left + width <= canvas_width and top + height <= canvas_height
    require(is_inside, "a frame of the PNG animation lies outside the picture")
    require(disposal < 3 and blend < 2, "a frame of the PNG animation is damaged")
    if not file.still:
        is_whole = (width, height, left, top) == (canvas_width, canvas_height, 0, 0)
        require(is_whole and not file.frames, "the first frame of the PNG animation is damaged")
        file.is_first_frame_still = True
    frame = _Frame(width, height, left, top, over / (under or 100), disposal, bool(blend))
    file.frames.append(frame)
    limits.check_size(canvas_width, canvas_height, len(file.frames))


def _take_frame_pixels(file: _File, body: bytes, limits: DecodeLimits) -> None:
    if not file.announced:
        file.doubts.append("frames of an animation that is not announced")
        return
    (number,) = struct.unpack_from(">I", body)
    _count(file, number)
    is_placed = file.frames and not (file.is_first_frame_still and len(file.frames) == 1)
    require(is_placed and file.still, "pixels of the PNG animation belong to no frame")
    file.frames[-1].pixels.append(body[4:])


def _count(file: _File, number: int) -> None:
    require(number == file.sequence, "the frames of the PNG animation are out of order")
    file.sequence += 1


_ANIMATION = {b"acTL": _take_animation, b"fcTL": _take_frame, b"fdAT": _take_frame_pixels}


# -- what it all means ---------------------------------------------------------------------------


def _contents(file: _File) -> Contents:
    require(file.still, "the PNG file has no pixels")
    require(file.header[9] != 3 or file.palette, "the PNG file's palette is missing")
    if file.announced:
        count = len(file.frames)
        require(
            count == file.announced,
            f"the PNG file announces {file.announced} frames and has {count}",
        )
    width_px, height_px = struct.unpack(">II", file.header[:8])
    default = _Frame(width_px, height_px, pixels=file.still)
    frames = [default]
    if file.announced:
        shown = [replace(frame, duration_s=shown_s(frame.duration_s)) for frame in file.frames]
        if file.is_first_frame_still:
            shown[0].pixels = file.still
            frames = shown
        else:
            # Programs that do not know APNG show it. It must not stay below the animation.
            default.disposal = 1
            frames = [default, *shown]
    require(all(frame.pixels for frame in frames), "a frame of the PNG animation has no pixels")
    transparency = file.spoken.get(b"tRNS")
    pixels = Pixels(file.header, file.palette, transparency, file.doubts)
    orientation, is_plain = exif_orientation(file.spoken.get(b"eXIf", b""))
    if not is_plain:
        file.doubts.append("an orientation that readers may disagree about")
    return Contents(
        format="PNG",
        width_px=width_px,
        height_px=height_px,
        frames=tuple(_cel(pixels, frame) for frame in frames),
        profiles=tuple(_profiles(file)),
        turns=() if orientation == 1 else (orientation,),
        other_turns=() if orientation == 1 else ((),),
        plays=file.plays,
        is_deep=file.header[8] == 16,
        doubts=file.doubts,
    )


def _cel(pixels: Pixels, frame: _Frame) -> Cel:
    return Cel(
        decode=lambda: pixels.decode(frame.width_px, frame.height_px, frame.pixels),
        width_px=frame.width_px,
        height_px=frame.height_px,
        left_px=frame.left_px,
        top_px=frame.top_px,
        duration_s=frame.duration_s,
        disposal=_DISPOSALS[frame.disposal],
        blends=frame.blends,
    )


def _profiles(file: _File) -> Iterator[tuple[str, bytes]]:
    """CICP goes before iCCP, iCCP before sRGB, sRGB before gAMA and cHRM. Source: PNG 4.3."""
    spoken = file.spoken
    if cicp := spoken.get(b"cICP"):
        profile = named_profile(cicp[0], cicp[1]) if len(cicp) == 4 else None
        if profile is None or cicp[2:] != b"\0\1":
            file.doubts.append("colours that are not understood")
        else:
            yield "cicp", profile
    if iccp := spoken.get(b"iCCP"):
        profile = _inflate(iccp)
        if profile is None:
            file.doubts.append("a damaged colour profile")
        else:
            yield "icc", profile
    srgb = spoken.get(b"sRGB")
    if srgb is not None and len(srgb) == 1 and srgb[0] in _INTENTS:
        yield "srgb", b""
    elif srgb is not None:
        file.doubts.append("a damaged sRGB chunk")
    # Firefox goes by these also where the file says sRGB.
    yield from _gamma(file)


def _inflate(body: bytes) -> bytes | None:
    name, separator, rest = body.partition(b"\0")
    if not separator or not 1 <= len(name) <= 79 or rest[:1] != b"\0":
        return None
    inflater = zlib.decompressobj()
    try:
        profile = inflater.decompress(rest[1:], _MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if inflater.eof else None


def _gamma(file: _File) -> Iterator[tuple[str, bytes]]:
    """GAMA and cHRM together, and each alone: Chromium takes one alone, Firefox only both."""
    gamma = chromaticities = None
    if (body := file.spoken.get(b"gAMA")) is not None:
        value = int.from_bytes(body, "big")
        if value in _SRGB_GAMMAS and b"sRGB" in file.spoken:
            # Beside sRGB it says the same for programs that do not know that.
            pass
        elif len(body) == 4 and value in _GAMMAS:
            # Also where it is nearly sRGB's: the darkest levels move by nine.
            gamma = value / 100_000
        else:
            file.doubts.append("a gamma that is out of range")
    if (body := file.spoken.get(b"cHRM")) is not None:
        if len(body) == 32:
            values = [value / 100_000 for value in struct.unpack(">8I", body)]
            chromaticities = Chromaticities(*zip(values[::2], values[1::2], strict=True))
        else:
            file.doubts.append("chromaticities that are damaged")
    if chromaticities is not None and not chromaticities.are_usable:
        file.doubts.append("chromaticities that no display has")
        chromaticities = None
    if chromaticities is not None and not chromaticities.are_srgb:
        if gamma is not None:
            yield "chrm-gama", gamma_profile(gamma, chromaticities)
        yield "chrm", gamma_profile(None, chromaticities)
    if gamma is not None:
        yield "gama", gamma_profile(gamma, None)
