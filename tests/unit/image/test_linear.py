"""Ten megabytes of the worst bytes of every format are read or refused in a moment."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable

import pytest

from producer.errors import InvalidInput
from tests.unit.pictures import blotches, chunk, encode
from worker.image.containers import read
from worker.image.containers.formats import DecodeLimits
from worker.image.frames import Frames

SIZE = 10 * 2**20
#: How often as long four times the bytes may take: 4 is linear, 16 quadratic.
MOST_TIMES = 9

PNG = encode(blotches(8, 8), "PNG")
GIF_HEAD = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + bytes(6)
GIF_FRAME = b"\x2c" + struct.pack("<HHHHB", 0, 0, 8, 8, 0) + b"\x02"
JPEG = encode(blotches(8, 8), "JPEG")


def filled(size: int, head: bytes, piece: bytes) -> bytes:
    """A head and as many of a piece as the size holds."""
    return head + piece * ((size - len(head)) // len(piece))


def box(kind: bytes, body: bytes) -> bytes:
    """One box of AVIF."""
    return struct.pack(">I4s", len(body) + 8, kind) + body


def avif(meta: bytes) -> bytes:
    """An AVIF file of one `meta` box."""
    return box(b"ftyp", b"avif" + bytes(4) + b"avif") + box(b"meta", bytes(4) + meta)


def riff(body: bytes) -> bytes:
    """A WebP file."""
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


FILES: dict[str, Callable[[int], bytes]] = {
    "JPEG of 0xFF": lambda size: filled(size, b"\xff\xd8\xff", b"\xff"),
    "JPEG of starts": lambda size: filled(size, b"\xff\xd8", b"\xff\xd8"),
    "JPEG of restarts": lambda size: filled(size, JPEG[:-2], b"\xff\xd0") + b"\xff\xd9",
    "JPEG of empty segments": lambda size: filled(size, b"\xff\xd8", b"\xff\xe1\0\2"),
    "JPEG of 0xFF in its pixels": lambda size: filled(size, JPEG[:-2], b"\xff\0") + b"\xff\xd9",
    "JPEG of orientations": lambda size: filled(
        size, b"\xff\xd8",
        b"\xff\xe1\xff\xff" + b"http://ns.adobe.com/xap/1.0/\0" + b"tiff:Ori" * 8188
    ),
    "PNG of empty chunks": lambda size: filled(size, PNG[:33], chunk(b"teXt", b"")),
    "PNG of one chunk": lambda size: PNG[:33] + chunk(b"teXt", bytes(size)) + PNG[33:],
    "PNG of palettes": lambda size: filled(size, PNG[:33], chunk(b"gAMA", bytes(4))),
    "GIF of empty extensions": lambda size: filled(size, GIF_HEAD, b"\x21\xfe\0"),
    "GIF of tiny blocks": lambda size: filled(size, GIF_HEAD + GIF_FRAME, b"\1\0"[:1] + b"\1"),
    "GIF of frames": lambda size: filled(size, GIF_HEAD, GIF_FRAME + b"\2\x4c\1\0"),
    "WebP of empty chunks": lambda size: riff(b"JUNK\0\0\0\0" * (size // 8)),
    "WebP of empty chunks in a frame": lambda size: riff(
        b"VP8X\x0a\0\0\0\2" + bytes(9)
        + b"ANMF" + struct.pack("<I", size) + bytes(16) + b"JUNK\0\0\0\0" * ((size - 16) // 8)
    ),
    "BMP of runs": lambda size: filled(
        size,
        b"BM" + bytes(8) + struct.pack("<IIiiHHIIiiII", 1078, 40, 9000, 9, 1, 8, 1, 0, 0, 0, 0, 0)
        + bytes(1024), b"\1\1"
    ),
    "AVIF of boxes": lambda size: filled(size, avif(b""), box(b"free", b"")),
    "AVIF of properties": lambda size: avif(
        box(b"iprp", box(b"ipco", box(b"free", b"") * (size // 8)))
    ),
    "AVIF of places": lambda size: avif(
        box(b"iloc", bytes(4) + b"\x44\0\xff\xff" + b"\0\1\0\0\xff\xff" + bytes(size))
    ),
    "AVIF of references": lambda size: avif(
        box(b"iref", bytes(4) + box(b"dimg", b"\0\1\0\0") * (size // 18))
    ),
    "HEIC of boxes": lambda size: filled(
        size, box(b"ftyp", b"heic" + bytes(4) + b"mif1"), box(b"free", b"")
    ),
}  # fmt: skip


def cost_s(data: bytes) -> float:
    """Processor seconds of reading a file: the better of two, for the machine may be busy."""
    spent_s = []
    for _ in range(2):
        start_s = time.process_time()
        with contextlib.suppress(InvalidInput):
            read(data, DecodeLimits(max_bytes=2 * SIZE))
        spent_s.append(time.process_time() - start_s)
    return min(spent_s)


@pytest.mark.parametrize("name", list(FILES))
def test_the_worst_bytes_cost_a_moment(name: str) -> None:
    """Reading is linear in the file's size, however it is built."""
    build = FILES[name]
    assert cost_s(build(SIZE)) < MOST_TIMES * cost_s(build(SIZE // 4)) + 0.1


def _runs(piece: bytes, width_px: int = 4_000) -> bytes:
    """A run-length coded BMP of ten megabytes whose lines repeat a piece of one pixel a byte."""
    line = piece * (width_px // (len(piece) // 2)) + b"\0\0"
    header = struct.pack("<IIiiHHIIiiII", 1078, 40, width_px, 9_000, 1, 8, 1, 0, 0, 0, 0, 0)
    return filled(SIZE, b"BM" + bytes(8) + header + bytes(1024), line)


@pytest.mark.parametrize("piece", [b"\1\1", b"\0\3\1\2\3\0", b"\0\2\0\0"])
def test_runs_of_a_bmp_are_followed_in_linear_time(piece: bytes) -> None:
    """Ten times the runs take about ten times as long, or less where the rest is not followed."""
    spent_s = []
    for part in (10, 1):
        whole = _runs(piece)
        data = whole[: len(whole) // part]
        frames = Frames(data, DecodeLimits(max_bytes=2 * SIZE), 768)
        start_s = time.process_time()
        with contextlib.suppress(InvalidInput):
            frames.read(0)
        spent_s.append(time.process_time() - start_s)
    assert spent_s[1] < 20 * spent_s[0] + 0.5
