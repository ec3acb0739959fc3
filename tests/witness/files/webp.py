"""WebP: flags that lie, chunks out of order or twice, frames, alpha, profiles."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from tests.witness.files import profiles
from tests.witness.files.apng import timelines
from tests.witness.files.drawn import Pixels, hills, letter, sand, smiley
from tests.witness.files.jpeg import turn

ICC, ALPHA, EXIF, XMP, MOVES = 0x20, 0x10, 0x08, 0x04, 0x02


def riff(chunks: bytes, more: int = 0) -> bytes:
    """The whole file; `more` falsifies its size."""
    return b"RIFF" + struct.pack("<I", len(chunks) + 4 + more) + b"WEBP" + chunks


def chunk(kind: bytes, body: bytes, more: int = 0) -> bytes:
    """One chunk, padded to even length."""
    return kind + struct.pack("<I", len(body) + more) + body + bytes(len(body) & 1)


def coded(picture: Pixels, lossless: bool = False, **options: Any) -> bytes:
    """The chunks (ALPH and VP8, or VP8L) of a picture."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", lossless=lossless, **{"quality": 90, **options})
    data = buffer.getvalue()[12:]
    while data[:4] not in (b"ALPH", b"VP8 ", b"VP8L"):
        size = struct.unpack("<I", data[4:8])[0]
        data = data[8 + size + (size & 1) :]
    return data


def vp8x(flags: int, width_px: int = 96, height_px: int = 96) -> bytes:
    """Flags and canvas."""
    size = struct.pack("<I", width_px - 1)[:3] + struct.pack("<I", height_px - 1)[:3]
    return chunk(b"VP8X", bytes([flags, 0, 0, 0]) + size)


def anim(back: bytes = b"\xff\xff\xff\xff", plays: int = 0) -> bytes:
    """Background and loops."""
    return chunk(b"ANIM", back + struct.pack("<H", plays))


def frame(
    picture: Pixels, ms: int, x: int = 0, y: int = 0, flags: int = 0, lossless: bool = True
) -> bytes:
    """One frame; flags: 1 dispose to background, 2 do not blend."""
    height, width = picture.shape[:2]
    numbers = (x // 2, y // 2, width - 1, height - 1, ms)
    body = b"".join(struct.pack("<I", number)[:3] for number in numbers)
    return chunk(b"ANMF", body + bytes([flags]) + coded(picture, lossless))


def files() -> Iterator[tuple[str, bytes]]:
    """All kinds."""
    for name, line in timelines():
        frames = [frame(picture, delay * 10) for picture, delay in line]
        yield f"time-{name}.webp", riff(vp8x(MOVES, 64, 64) + anim() + b"".join(frames))
    yield from _metadata()
    yield from _structure()
    yield from _animations()


def _metadata() -> Iterator[tuple[str, bytes]]:
    for label, body in (("lossy", coded(sand())), ("lossless", coded(sand(), True))):
        profile = chunk(b"ICCP", profiles.FLAT)
        plain = chunk(b"ICCP", profiles.PLAIN)
        for name, chunks in (
            ("flag", vp8x(ICC) + profile + body),
            ("no-flag", vp8x(0) + profile + body),
            ("no-header", profile + body),
            ("behind", vp8x(ICC) + body + profile),
            ("twice", vp8x(ICC) + plain + profile + body),
            ("twice-other", vp8x(ICC) + profile + plain + body),
            ("flag-only", vp8x(ICC) + body),
            ("empty", vp8x(ICC) + chunk(b"ICCP", b"") + body),
            ("empty-then-whole", vp8x(ICC) + chunk(b"ICCP", b"") + profile + body),
            ("after-unknown", vp8x(ICC) + chunk(b"ABCD", b"xx") + profile + body),
        ):
            yield f"icc-{name}-{label}.webp", riff(chunks)
    body = coded(sand())
    for name, profile in profiles.odd().items():
        yield f"icc-{name}.webp", riff(vp8x(ICC) + chunk(b"ICCP", profile) + body)
    for way in (3, 6):
        for name, block in (("tiff", turn(way)), ("named", b"Exif\0\0" + turn(way))):
            yield f"exif-{way}-{name}.webp", riff(vp8x(EXIF) + body + chunk(b"EXIF", block))
            yield f"exif-{way}-{name}-no-flag.webp", riff(vp8x(0) + body + chunk(b"EXIF", block))
            yield f"exif-{way}-{name}-before.webp", riff(vp8x(EXIF) + chunk(b"EXIF", block) + body)
    xmp = chunk(b"XMP ", b"<a tiff:Orientation='6'/>")
    yield "xmp.webp", riff(vp8x(XMP) + body + xmp)


def _structure() -> Iterator[tuple[str, bytes]]:
    body, other, exact = coded(sand()), coded(hills()), coded(sand(), True)
    alpha = np.dstack([sand(), np.where(letter(), 255, 60)]).astype(np.uint8)
    clear = coded(alpha)
    exact_clear = coded(alpha, True, exact=True)
    alph, vp8 = clear[: clear.index(b"VP8 ")], clear[clear.index(b"VP8 ") :]
    hidden = np.dstack([hills(), np.zeros((96, 96))]).astype(np.uint8)
    for name, chunks in (
        ("plain", body),
        ("two-pictures", body + other),
        ("two-pictures-extended", vp8x(0) + body + other),
        ("lossless-then-lossy", vp8x(0) + exact + other),
        ("alpha", vp8x(ALPHA) + clear),
        ("alpha-no-flag", vp8x(0) + clear),
        ("alpha-no-header", clear),
        ("alpha-behind", vp8x(ALPHA) + vp8 + alph),
        ("alpha-twice", vp8x(ALPHA) + alph + coded(hidden)[: len(coded(hidden)) - 0]),
        ("alpha-flag-only", vp8x(ALPHA) + body),
        ("alpha-with-lossless", vp8x(ALPHA) + alph + exact),
        ("lossless-alpha", exact_clear),
        ("lossless-alpha-no-flag", vp8x(0) + exact_clear),
        ("lossless-alpha-flag", vp8x(ALPHA) + exact_clear),
        ("all-clear", coded(hidden, True, exact=True)),
        ("canvas-larger", vp8x(0, 200, 200) + body),
        ("canvas-smaller", vp8x(0, 50, 50) + body),
        ("header-behind", body + vp8x(ICC)),
        ("header-twice", vp8x(0) + vp8x(ALPHA, 50, 50) + body),
        ("header-short", chunk(b"VP8X", bytes(8)) + body),
        ("header-long", chunk(b"VP8X", vp8x(0)[8:] + b"xx") + body),
        ("unknown-first", chunk(b"ABCD", b"abc") + body),
        ("unknown-between", vp8x(0) + chunk(b"ABCD", b"abc") + body),
        ("unknown-behind", body + chunk(b"ABCD", b"abc")),
        ("unknown-lies", vp8x(0) + chunk(b"ABCD", b"abc", 50) + body),
        ("odd-not-padded", vp8x(0) + b"ABCD\3\0\0\0abc" + body),
        ("moves-flag-on-still", vp8x(MOVES) + body),
        ("all-flags", vp8x(0xFF) + body),
    ):
        yield f"{name}.webp", riff(chunks)
    for more in (-40, -2, 1, 2, 1000):
        yield f"size-{more}.webp", riff(vp8x(0) + body, more)
    yield "cut.webp", riff(body)[:-600]
    yield "cut-lossless.webp", riff(exact)[:-600]
    yield "behind.webp", riff(body) + bytes(50)
    yield "second-file.webp", riff(body) + riff(other)
    size = struct.unpack("<I", body[4:8])[0]
    for name, less in (("short", -100), ("long", 1000)):
        yield f"picture-{name}.webp", riff(body[:4] + struct.pack("<I", size + less) + body[8:])
    lied = bytearray(body)
    lied[14:18] = struct.pack("<HH", 48, 48)
    yield "picture-smaller.webp", riff(bytes(lied))
    lied[14:18] = struct.pack("<HH", 96 | 0x4000, 96 | 0x8000)
    yield "picture-scale-bits.webp", riff(bytes(lied))
    lied = bytearray(body)
    lied[8] |= 1
    yield "picture-not-key.webp", riff(bytes(lied))
    lied = bytearray(body)
    lied[8] &= 0xEF
    yield "picture-not-shown.webp", riff(bytes(lied))
    wide = np.concatenate([hills(), sand(), hills()], axis=1)
    yield "wide.webp", riff(coded(wide))
    large = np.kron(sand(), np.ones((14, 14, 1), np.uint8))
    yield (
        "large-profile.webp",
        riff(vp8x(ICC, 1344, 1344) + chunk(b"ICCP", profiles.PERMUTED) + coded(large)),
    )


def _animations() -> Iterator[tuple[str, bytes]]:
    land, grains, face = frame(hills(), 20), frame(sand(), 5000), frame(smiley(), 20)
    clear = np.dstack([sand()[:40, :40], np.where(letter(40), 90, 255)]).astype(np.uint8)
    nothing = np.zeros((96, 96, 4), np.uint8)
    head = vp8x(MOVES | ALPHA)
    for name, chunks in (
        ("plain", head + anim() + land + grains),
        ("no-flag", vp8x(0) + anim() + land + grains),
        ("no-anim", head + land + grains),
        ("anim-behind", head + land + grains + anim()),
        ("anim-twice", head + anim() + anim(plays=1) + land + grains),
        ("still-first", head + coded(smiley()) + anim() + land + grains),
        ("still-behind", head + anim() + land + grains + coded(smiley())),
        ("still-between", head + anim() + land + coded(smiley()) + grains),
        ("still-no-flag", vp8x(0) + coded(hills()) + anim() + grains),
        ("one-frame", head + anim() + grains),
        ("one-frame-part", head + anim() + frame(clear, 10, 20, 20)),
        ("no-frames", head + anim()),
        ("unknown-between", head + anim() + land + chunk(b"ABCD", b"xx") + grains),
        ("exif-between", head + anim() + land + chunk(b"EXIF", turn(6)) + grains),
        ("three", head + anim() + land + face + grains),
        ("no-header", anim() + land + grains),
        ("bad-frame-between", head + anim() + land + chunk(b"ANMF", bytes(30)) + grains),
        ("short-frame-between", head + anim() + land + chunk(b"ANMF", bytes(10)) + grains),
        ("cut", (head + anim() + land + grains)[:-700]),
    ):
        yield f"moves-{name}.webp", riff(chunks)
    for flags in range(4):
        for place in (0, 30, 80):
            part = frame(clear, 20, place, place, flags)
            yield (
                f"moves-part-{flags}-{place}.webp",
                riff(head + anim() + land + part + frame(nothing, 5000)),
            )
        first = frame(
            np.dstack([smiley(), np.full((96, 96), 128)]).astype(np.uint8), 20, flags=flags
        )
        yield f"moves-first-{flags}.webp", riff(head + anim() + first + frame(clear, 5000, 10, 10))
    for name, back in (("clear", bytes(4)), ("red", b"\0\0\xff\xff"), ("half", b"\0\xff\0\x80")):
        part = frame(clear, 5000, 20, 20)
        yield f"moves-back-{name}.webp", riff(vp8x(MOVES) + anim(back) + part + part)
    for ms in (0, 1, 10, 0xFFFFFF):
        yield f"moves-delay-{ms}.webp", riff(head + anim() + frame(hills(), ms) + frame(sand(), ms))
    lied = bytearray(grains)
    lied[14:20] = struct.pack("<I", 40)[:3] + struct.pack("<I", 40)[:3]
    yield "moves-frame-size-lies.webp", riff(head + anim() + land + bytes(lied))
    profile = chunk(b"ICCP", profiles.FLAT)
    yield "moves-profile.webp", riff(vp8x(MOVES | ICC) + profile + anim() + land + grains)
    yield "moves-profile-behind.webp", riff(vp8x(MOVES | ICC) + anim() + profile + land + grains)
    tall = frame(np.concatenate([hills(), sand(), hills()])[:, :32], 50)
    yield "moves-wide.webp", riff(vp8x(MOVES, 32, 288) + anim() + tall + frame(smiley(32), 50))
