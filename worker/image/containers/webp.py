"""WebP: chunks to frames.

Source: RFC 9649, chapter 2; libwebp's demuxer, which browsers use, on what is out of place.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import Image, _webp

from worker.image.containers.contents import (
    Cel,
    Contents,
    Parts,
    exif_orientation,
    require,
    shown_s,
)
from worker.image.containers.formats import DecodeLimits

_ANIMATION, _EXIF, _ALPHA, _PROFILE = 0x02, 0x08, 0x10, 0x20


@dataclass
class _Picture:
    """The chunks of one coded picture."""

    pixels: bytes = b""
    kind: bytes = b""
    alpha: bytes | None = None
    size: tuple[int, int] = (0, 0)

    @property
    def has_alpha(self) -> bool:
        return self.alpha is not None or (self.kind == b"VP8L" and bool(self.pixels[4] & 0x10))


@dataclass
class _File:
    flags: int = 0
    canvas: tuple[int, int] | None = None
    still: _Picture = field(default_factory=_Picture)
    frames: list[Cel] = field(default_factory=list)
    metadata: dict[bytes, bytes] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)


def read(data: bytes, limits: DecodeLimits) -> Contents:
    """Walk a WebP file; see `containers.read`."""
    (size,) = struct.unpack_from("<I", data, 4)
    file, parts = _File(), Parts("WebP")
    for number, (kind, body) in enumerate(_chunks(data, 12, min(size + 8, len(data)), parts)):
        if kind == b"VP8X":
            require(number == 0, "the WebP file's header is out of place")
            file.flags = body[0]
            file.canvas = _u24(body, 4) + 1, _u24(body, 7) + 1
            limits.check_size(*file.canvas)
        elif kind == b"ANMF":
            _take_frame(file, body, parts, limits)
        elif kind in (b"VP8 ", b"VP8L", b"ALPH"):
            _take_pixels(file.still, kind, body, file.doubts)
        elif kind in (b"ICCP", b"EXIF", b"XMP ", b"ANIM"):
            _take_metadata(file, kind, body)
    if size + 8 > len(data):
        # Nothing lacks where every chunk of a still picture is whole, but Chromium waits for more.
        require(not file.frames, f"the WebP file is truncated: {len(data)} of {size + 8} bytes")
        file.doubts.append("a picture without its end")
    return _contents(file, limits)


def _chunks(data: bytes, at: int, end: int, parts: Parts) -> Iterator[tuple[bytes, bytes]]:
    while at + 8 <= end:
        parts.count()
        kind, length = struct.unpack_from("<4sI", data, at)
        require(at + 8 + length <= end, "the WebP file is truncated")
        yield kind, data[at + 8 : at + 8 + length]
        at += 8 + length + (length & 1)


def _take_pixels(picture: _Picture, kind: bytes, body: bytes, doubts: list[str]) -> None:
    if kind == b"ALPH":
        if picture.alpha is not None or picture.pixels:
            doubts.append("a transparency that is out of place")
            return
        picture.alpha = body
        return
    if picture.pixels:
        doubts.append("two pictures in one")
        return
    picture.kind, picture.pixels, picture.size = kind, body, _size(kind, body)
    if kind == b"VP8L" and picture.alpha is not None:
        doubts.append("a transparency that is out of place")
        picture.alpha = None


def _size(kind: bytes, body: bytes) -> tuple[int, int]:
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", body, 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", body, 6)
    return width & 0x3FFF, height & 0x3FFF


def _u24(body: bytes, at: int) -> int:
    return int.from_bytes(body[at : at + 3], "little")


def _take_metadata(file: _File, kind: bytes, body: bytes) -> None:
    if kind in file.metadata:
        file.doubts.append(f"two {kind.decode().strip()} chunks")
        return
    if kind == b"ICCP" and (file.still.pixels or file.frames or not file.flags & _PROFILE):
        file.doubts.append("a colour profile out of place")
        if file.still.pixels or file.frames:
            return
    file.metadata[kind] = body


def _take_frame(file: _File, body: bytes, parts: Parts, limits: DecodeLimits) -> None:
    require(file.canvas and file.flags & _ANIMATION, "the WebP file has frames but is no animation")
    assert file.canvas is not None
    left, top = 2 * _u24(body, 0), 2 * _u24(body, 3)
    width, height = _u24(body, 6) + 1, _u24(body, 9) + 1
    is_inside = left + width <= file.canvas[0] and top + height <= file.canvas[1]
    require(is_inside, "a frame of the WebP animation lies outside the picture")
    picture = _Picture()
    for kind, part in _chunks(body, 16, len(body), parts):
        if kind in (b"VP8 ", b"VP8L", b"ALPH"):
            _take_pixels(picture, kind, part, file.doubts)
    require(picture.size == (width, height), "a frame of the WebP animation is damaged")
    _check_announced(file, picture)
    flags = body[15]
    file.frames.append(
        Cel(
            decode=functools.partial(_decode, picture, file.doubts),
            width_px=width,
            height_px=height,
            left_px=left,
            top_px=top,
            duration_s=shown_s(_u24(body, 12) / 1000),
            disposal="background" if flags & 1 else "keep",
            blends=not flags & 2,
        )
    )
    limits.check_size(*file.canvas, len(file.frames))


def _check_announced(file: _File, picture: _Picture) -> None:
    """Chromium takes the colours for multiplied already where the header is silent on alpha."""
    if file.canvas is not None and picture.has_alpha and not file.flags & _ALPHA:
        file.doubts.append("a transparency that is not announced")


def _contents(file: _File, limits: DecodeLimits) -> Contents:
    is_animation = bool(file.flags & _ANIMATION)
    if is_animation:
        require(file.frames, "the WebP file has no pixels")
        if file.still.pixels or b"ANIM" not in file.metadata:
            file.doubts.append("an animation that is not built as one")
        frames = tuple(file.frames)
    else:
        require(file.still.pixels, "the WebP file has no pixels")
        limits.check_size(*file.still.size)
        width_px, height_px = file.still.size
        _check_announced(file, file.still)
        require(
            file.canvas in (None, file.still.size),
            "the WebP file's canvas and picture have different sizes",
        )
        frames = (
            Cel(
                decode=functools.partial(_decode, file.still, file.doubts),
                width_px=width_px,
                height_px=height_px,
            ),
        )
    profile = file.metadata.get(b"ICCP") if file.canvas else None
    # Browsers do not turn WebP pictures; other viewers do.
    orientation, _ = exif_orientation(_tiff(file.metadata.get(b"EXIF", b"")))
    width_px, height_px = file.canvas or file.still.size
    return Contents(
        format="WebP",
        width_px=width_px,
        height_px=height_px,
        frames=frames,
        profiles=(("icc", profile),) if profile else (),
        other_turns=() if orientation == 1 else ((orientation,),),
        plays=int.from_bytes(file.metadata.get(b"ANIM", b"")[4:6], "little"),
        doubts=file.doubts,
    )


def _tiff(exif: bytes) -> bytes:
    return exif.removeprefix(b"Exif\0\0")


def _decode(picture: _Picture, doubts: list[str]) -> Image.Image:
    parts = [*_chunk(picture.kind, picture.pixels)]
    if picture.alpha is not None:
        width, height = picture.size
        header = struct.pack("<I", _ALPHA) + _from_u24(width - 1) + _from_u24(height - 1)
        parts = [*_chunk(b"VP8X", header), *_chunk(b"ALPH", picture.alpha), *parts]
    size = struct.pack("<I", sum(len(part) for part in parts) + 4)
    # Not by way of WebPImageFile: of 4096 px, each of the copies that it makes has 64 MB.
    decoder = _webp.WebPAnimDecoder(b"".join([b"RIFF", size, b"WEBP", *parts]))
    shown_size, _, _, _, mode = decoder.get_info()
    found = decoder.get_next()
    require(found, "the WebP file's pixels are damaged")
    del decoder
    if picture.kind == b"VP8L" and not picture.has_alpha and found[0][3::4].strip(b"\xff"):
        # Some browsers believe the pixels, others the bit that says there is none.
        doubts.append("a transparency that is not announced")
    return Image.frombuffer(mode, shown_size, found[0], "raw", mode, 0, 1)


def _chunk(kind: bytes, body: bytes) -> tuple[bytes, ...]:
    return kind + struct.pack("<I", len(body)), body, bytes(len(body) & 1)


def _from_u24(value: int) -> bytes:
    return struct.pack("<I", value)[:3]
