"""What was scored of a picture, encoded anew: the file that may be served in its place.

JPEG for a photograph, which costs a twentieth of WebP; lossless WebP for what has few colours; WebP
for transparency, and for an animation with every frame and its time. Nothing but pixels is in it.
`encode` runs in the decoding child; `check` runs in the worker, which takes nothing from a child on
trust.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator, Sequence

from PIL import Image

from worker.image.frames import Frame, Frames

JPEG, WEBP = "image/jpeg", "image/webp"

#: Chunks that a WebP of ours consists of. Source: RFC 9649, section 2.
_STILL = frozenset([b"VP8X", b"ALPH", b"VP8 ", b"VP8L"])
_ANIMATED = frozenset([b"VP8X", b"ANIM", b"ANMF"])
_ALPHA_FLAG, _ANIMATION_FLAG = 0x10, 0x02
#: ANMF: replace what is there, and leave the frame for the next one.
_NO_BLENDING = 0x02
#: Markers before the scan of a JPEG of ours: JFIF, tables, frame. Source: ITU-T T.81, table B.1.
_JPEG_MARKERS = frozenset([b"\xff\xe0", b"\xff\xdb", b"\xff\xc0", b"\xff\xc4"])
#: What ends a scan: a marker that is neither a stuffed byte nor a restart.
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7]")

_JPEG_QUALITY = 92
#: Quality and effort (0 to 6) of a still WebP; of one of up to a thousand frames.
_STILL_WEBP = {"quality": 90, "method": 2}
_FRAME_WEBP = {"quality": 80, "method": 0}
#: Colours up to which a picture is a drawing, small and exact without loss.
_FEW_COLOURS = 256
#: Pixels of all frames together; an animation with more is shrunk to it.
_MAX_FRAME_PIXELS = 40_000_000
#: Bytes of a copy; one that would have more is encoded again at half its size.
MAX_BYTES = 8 * 2**20
#: How often an animation can be shown without being shown for ever.
_MOST_PLAYS = 2**16 - 1
#: Milliseconds that a frame's time can say.
_MAX_MS = 2**24 - 1


def encode(frames: Frames, max_side_px: int) -> tuple[bytes, int, int]:
    """Encode what browsers show of a file.

    Args:
        frames: opened so that no frame is shrunk below `max_side_px`.
        max_side_px: longest side of the copy; a smaller picture keeps its size.

    Returns:
        The file, at most `MAX_BYTES`, and its width and height in pixels.

    Raises:
        InvalidInput: see `Frames.read`.
    """
    # A frame without a time is what programs show that know no animation.
    shown = [n for n, cel in enumerate(frames.declared.frames) if cel.duration_s > 0]
    shown = shown if len(frames) > 1 and shown else [0]
    if len(shown) > 1:
        first = frames.read(shown[0]).image
        within = (_MAX_FRAME_PIXELS / (len(shown) * first.width * first.height)) ** 0.5
        max_side_px = max(1, min(max_side_px, int(max(first.size) * within)))
    while True:
        size, written = _encode(frames, shown, max_side_px)
        if written is not None:
            return written, *size
        max_side_px = max(size) // 2


def _encode(
    frames: Frames, shown: Sequence[int], max_side_px: int
) -> tuple[tuple[int, int], bytes | None]:
    """One try at one size: width, height and the file; None where it is too large."""
    if len(shown) == 1:
        image = _fit(frames.read(shown[0]).image, max_side_px)
        still = _still(image)
        return image.size, still if len(still) <= MAX_BYTES else None
    chunks: list[bytes] = []
    size, has_alpha, total = (1, 1), False, 0
    for index in shown:
        frame = frames.read(index)
        image = _fit(frame.image, max_side_px)
        size, has_alpha = image.size, has_alpha or image.mode == "RGBA"
        chunks.append(_anmf(frame, image))
        total += len(chunks[-1])
        if total > MAX_BYTES - 100:
            return size, None
    flags = _ANIMATION_FLAG | (_ALPHA_FLAG if has_alpha else 0)
    head = struct.pack("<I", flags) + _u24(size[0] - 1) + _u24(size[1] - 1)
    # Background: transparent.
    loops = bytes(4) + struct.pack("<H", min(frames.declared.plays, _MOST_PLAYS))
    parts = [_chunk(b"VP8X", head), _chunk(b"ANIM", loops), *chunks]
    return size, _chunk(b"RIFF", b"WEBP" + b"".join(parts))


def _fit(image: Image.Image, max_side_px: int) -> Image.Image:
    """At most so long, with nothing but black under what is fully transparent."""
    scale = max_side_px / max(image.size)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    if image.mode == "RGB":
        return image
    alpha = image.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return image.convert("RGB")
    cleared = Image.new("RGBA", image.size)
    cleared.paste(image, mask=alpha.point([0, *[255] * 255]))
    return cleared


def _still(image: Image.Image) -> bytes:
    if image.getcolors(_FEW_COLOURS) is not None:
        return _write(image, "WEBP", lossless=True, **_STILL_WEBP)
    if image.mode == "RGBA":
        return _write(image, "WEBP", **_STILL_WEBP)
    return _write(image, "JPEG", quality=_JPEG_QUALITY)


def _write(image: Image.Image, name: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    # A picture of Pillow's carries what its file said; only pixels may leave.
    Image.frombytes(image.mode, image.size, image.tobytes()).save(buffer, name, **options)
    return buffer.getvalue()


def _anmf(frame: Frame, image: Image.Image) -> bytes:
    """One frame of the whole canvas."""
    written = _write(image, "WEBP", **_FRAME_WEBP)
    coded = [_chunk(name, body) for name, body in _chunks(written, 12) if name != b"VP8X"]
    time_ms = min(_MAX_MS, max(1, round(1000 * frame.duration_s)))
    size = _u24(image.width - 1) + _u24(image.height - 1)
    place = _u24(0) + _u24(0) + size + _u24(time_ms) + bytes([_NO_BLENDING])
    return _chunk(b"ANMF", place + b"".join(coded))


def check(data: bytes) -> str:
    """See that a file is what `encode` writes, pixels alone from its first byte to its last.

    Returns:
        Its media type.

    Raises:
        ValueError: it is neither, is longer than `MAX_BYTES`, or has another part in it.
    """
    if len(data) > MAX_BYTES:
        raise ValueError("too many bytes")
    if data.startswith(b"\xff\xd8"):
        _check_jpeg(data)
        return JPEG
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise ValueError("neither JPEG nor WebP")
    if int.from_bytes(data[4:8], "little") != len(data) - 8:
        raise ValueError("bytes after the picture")
    chunks = list(_chunks(data, 12))
    if not any(name == b"ANMF" for name, _ in chunks):
        _require(chunks, _STILL)
        return WEBP
    _require(chunks, _ANIMATED)
    for name, body in chunks:
        if name == b"ANMF":
            _require(list(_chunks(body, 16)), _STILL - {b"VP8X"})
    return WEBP


def _check_jpeg(data: bytes) -> None:
    at = 2
    while data[at : at + 2] != b"\xff\xda":
        if data[at : at + 2] not in _JPEG_MARKERS:
            raise ValueError("another part in the JPEG")
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    end = _AFTER_SCAN.search(data, at + 2)
    if end is None or end.group() != b"\xff\xd9" or end.end() != len(data):
        raise ValueError("bytes after the picture")


def _require(chunks: list[tuple[bytes, bytes]], allowed: frozenset[bytes]) -> None:
    names = {name for name, _ in chunks}
    if not names or names - allowed:
        raise ValueError(f"chunks {sorted(names)}")


def _chunks(data: bytes, at: int) -> Iterator[tuple[bytes, bytes]]:
    while at < len(data):
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + length + length % 2 > len(data):
            raise ValueError("a chunk reaches over the end")
        yield name, data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def _u24(number: int) -> bytes:
    return struct.pack("<I", number)[:3]
