"""Pictures made byte by byte, so that what a decoder should see is known without a decoder."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from worker.image.preprocess import InputSpec

#: The embedded model's input rule.
STRETCH = InputSpec(
    width_px=224, height_px=224, resize="stretch", resize_px=256, interpolation="bilinear"
)
#: A rule that crops what is not square.
SHORT_SIDE = InputSpec(
    width_px=96, height_px=96, resize="short_side", resize_px=96, interpolation="bicubic"
)


def blotches(width_px: int, height_px: int, seed: int = 0) -> Image.Image:
    """Make a colourful picture that no rule takes for generated."""
    cells = np.random.default_rng(seed).integers(0, 255, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((width_px, height_px), Image.Resampling.BICUBIC)


def encode(image: Image.Image, format_name: str, **options: Any) -> bytes:
    """Write a picture to bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def animate(
    frames: list[Image.Image], format_name: str, duration_ms: Any = 100, **options: Any
) -> bytes:
    """Write an animation to bytes."""
    return encode(
        frames[0],
        format_name,
        save_all=True,
        append_images=frames[1:],
        duration=duration_ms,
        loop=0,
        **options,
    )


def chunk(kind: bytes, body: bytes) -> bytes:
    """One PNG chunk with its checksum."""
    checksum = zlib.crc32(body, zlib.crc32(kind))
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def png(
    samples: npt.NDArray[Any],
    *,
    colour_type: int,
    bit_depth: int = 8,
    chunks: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """Write a PNG by hand.

    Args:
        samples: (height, width) or (height, width, channels); 1-bit samples are 0 or 1.
        colour_type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA.
        bit_depth: 1, 8 or 16.
        chunks: complete chunks that go before the pixels.
        after: complete chunks that go behind them.
    """
    height, width = samples.shape[:2]
    if bit_depth == 1:
        rows = [np.packbits(row).tobytes() for row in samples]
    else:
        rows = [row.astype(">u2" if bit_depth == 16 else "u1").tobytes() for row in samples]
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return png_of(width, height, pixels, colour_type, bit_depth, chunks, after)


def png_of(
    width_px: int,
    height_px: int,
    pixels: bytes,
    colour_type: int = 2,
    bit_depth: int = 8,
    chunks: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """Write a PNG that may lie: `pixels` is whatever goes into IDAT."""
    header = struct.pack(">IIBBBBB", width_px, height_px, bit_depth, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunks
        + chunk(b"IDAT", pixels)
        + after
        + chunk(b"IEND", b"")
    )


def gif_of(width_px: int, height_px: int, frame_count: int = 1, trailer: bytes = b"\x3b") -> bytes:
    """Write a GIF whose frames are single pixels on a canvas of any size."""
    # Clear, colour 1, end: codes of 3, 3 and 3 bits.
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\x00"
    table = bytes(3) + b"\xff\xff\xff"
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width_px, height_px, 0x80, 0, 0)
        + table
        + frame * frame_count
        + trailer
    )


def orientation_exif(orientation: int) -> bytes:
    """EXIF block with one tag."""
    return b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + struct.pack(
        ">HHI", orientation, 0, 0
    )


def icc_profile(primaries_xyz: npt.NDArray[np.float64], gamma: float) -> bytes:
    """Write an RGB matrix profile (ICC version 2); columns are the primaries at D50."""
    white = (0.9642, 1.0, 0.8249)
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78),
        b"wtpt": _xyz(white),
        b"rXYZ": _xyz(tuple(primaries_xyz[:, 0])),
        b"gXYZ": _xyz(tuple(primaries_xyz[:, 1])),
        b"bXYZ": _xyz(tuple(primaries_xyz[:, 2])),
    }
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    return _icc(tags, b"RGB ")


def grey_icc_profile(gamma: float) -> bytes:
    """Write a grey profile with one curve."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78),
        b"wtpt": _xyz((0.9642, 1.0, 0.8249)),
        b"kTRC": curve,
    }
    return _icc(tags, b"GRAY")


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def _icc(tags: dict[bytes, bytes], space: bytes) -> bytes:
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += struct.pack(">4sII", name, start + len(body), len(content))
        body += content
    header = struct.pack(
        ">I4sI4s4s4s12s4s4s24s12s48s",
        start + len(body), b"none", 0x02400000, b"mntr", space, b"XYZ ", bytes(12), b"acsp",
        b"APPL", bytes(24), struct.pack(">3i", 63190, 65536, 54061), bytes(48),
    )  # fmt: skip
    return header + table + body
