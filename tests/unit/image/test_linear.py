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
#: Processor seconds; a fifth is the aim on an idle core, and this machine may be busy.
MOST_S = 0.4

PNG = encode(blotches(8, 8), "PNG")
GIF_HEAD = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + bytes(6)
GIF_FRAME = b"\x2c" + struct.pack("<HHHHB", 0, 0, 8, 8, 0) + b"\x02"
JPEG = encode(blotches(8, 8), "JPEG")


def filled(head: bytes, piece: bytes) -> bytes:
    """A head and as many of a piece as ten megabytes hold."""
    return head + piece * ((SIZE - len(head)) // len(piece))


def box(kind: bytes, body: bytes) -> bytes:
    """One box of AVIF."""
    return struct.pack(">I4s", len(body) + 8, kind) + body


def avif(meta: bytes) -> bytes:
    """An AVIF file of one `meta` box."""
    return box(b"ftyp", b"avif" + bytes(4) + b"avif") + box(b"meta", bytes(4) + meta)


def riff(body: bytes) -> bytes:
    """A WebP file."""
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


FILES: dict[str, Callable[[], bytes]] = {
    "JPEG of 0xFF": lambda: filled(b"\xff\xd8\xff", b"\xff"),
    "JPEG of starts": lambda: filled(b"\xff\xd8", b"\xff\xd8"),
    "JPEG of restarts": lambda: filled(JPEG[:-2], b"\xff\xd0") + b"\xff\xd9",
    "JPEG of empty segments": lambda: filled(b"\xff\xd8", b"\xff\xe1\0\2"),
    "JPEG of 0xFF in its pixels": lambda: filled(JPEG[:-2], b"\xff\0") + b"\xff\xd9",
    "JPEG of orientations": lambda: filled(
        b"\xff\xd8", b"\xff\xe1\xff\xff" + b"http://ns.adobe.com/xap/1.0/\0" + b"tiff:Ori" * 8188
    ),
    "PNG of empty chunks": lambda: filled(PNG[:33], chunk(b"teXt", b"")),
    "PNG of one chunk": lambda: PNG[:33] + chunk(b"teXt", bytes(SIZE)) + PNG[33:],
    "PNG of palettes": lambda: filled(PNG[:33], chunk(b"gAMA", bytes(4))),
    "GIF of empty extensions": lambda: filled(GIF_HEAD, b"\x21\xfe\0"),
    "GIF of tiny blocks": lambda: filled(GIF_HEAD + GIF_FRAME, b"\1\0"[:1] + b"\1"),
    "GIF of frames": lambda: filled(GIF_HEAD, GIF_FRAME + b"\2\x4c\1\0"),
    "WebP of empty chunks": lambda: riff(b"JUNK\0\0\0\0" * (SIZE // 8)),
    "WebP of empty chunks in a frame": lambda: riff(
        b"VP8X\x0a\0\0\0\2" + bytes(9)
        + b"ANMF" + struct.pack("<I", SIZE) + bytes(16) + b"JUNK\0\0\0\0" * ((SIZE - 16) // 8)
    ),
    "BMP of runs": lambda: filled(
        b"BM" + bytes(8) + struct.pack("<IIiiHHIIiiII", 1078, 40, 9000, 9, 1, 8, 1, 0, 0, 0, 0, 0)
        + bytes(1024), b"\1\1"
    ),
    "AVIF of boxes": lambda: filled(avif(b""), box(b"free", b"")),
    "AVIF of properties": lambda: avif(box(b"iprp", box(b"ipco", box(b"free", b"") * (SIZE // 8)))),
    "AVIF of places": lambda: avif(
        box(b"iloc", bytes(4) + b"\x44\0\xff\xff" + b"\0\1\0\0\xff\xff" + bytes(SIZE))
    ),
    "AVIF of references": lambda: avif(
        box(b"iref", bytes(4) + box(b"dimg", b"\0\1\0\0") * 600_000)
    ),
    "HEIC of boxes": lambda: filled(
        box(b"ftyp", b"heic" + bytes(4) + b"mif1"), box(b"free", b"")
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(FILES))
def test_the_worst_bytes_cost_a_moment(name: str) -> None:
    """Reading is linear in the file's size, however it is built."""
    data = FILES[name]()
    start_s = time.process_time()
    with contextlib.suppress(InvalidInput):
        read(data, DecodeLimits(max_bytes=2 * SIZE))
    assert time.process_time() - start_s < MOST_S


def _runs(piece: bytes, width_px: int = 4_000) -> bytes:
    """A run-length coded BMP of ten megabytes whose lines repeat a piece of one pixel a byte."""
    line = piece * (width_px // (len(piece) // 2)) + b"\0\0"
    header = struct.pack("<IIiiHHIIiiII", 1078, 40, width_px, 9_000, 1, 8, 1, 0, 0, 0, 0, 0)
    return filled(b"BM" + bytes(8) + header + bytes(1024), line)


@pytest.mark.parametrize("piece", [b"\1\1", b"\0\3\1\2\3\0", b"\0\2\0\0"])
def test_runs_of_a_bmp_are_followed_in_linear_time(piece: bytes) -> None:
    """Ten times the runs take about ten times as long, and as many as are followed a second."""
    spent_s = []
    for part in (10, 1):
        whole = _runs(piece)
        data = whole[: len(whole) // part]
        frames = Frames(data, DecodeLimits(max_bytes=2 * SIZE), 768)
        start_s = time.process_time()
        with contextlib.suppress(InvalidInput):
            frames.read(0)
        spent_s.append(time.process_time() - start_s)
    assert spent_s[1] < 4
    assert spent_s[1] < 20 * spent_s[0] + 0.5
