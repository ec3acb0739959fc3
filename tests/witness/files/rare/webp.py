"""WebP: ways to code transparency, odd frames, orientations in films, ends that lack a byte."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from tests.witness.files import profiles
from tests.witness.files.drawn import hills, letter, sand, smiley
from tests.witness.files.jpeg import turn
from tests.witness.files.webp import (
    ALPHA,
    EXIF,
    ICC,
    MOVES,
    XMP,
    anim,
    chunk,
    coded,
    frame,
    riff,
    vp8x,
)


def files() -> Iterator[tuple[str, bytes]]:
    """All kinds."""
    clear = np.dstack([sand(), np.where(letter(), 255, 40)]).astype(np.uint8)
    for quality in (0, 50, 100):
        body = coded(clear, alpha_quality=quality)
        yield f"alpha-quality-{quality}.webp", riff(vp8x(ALPHA) + body)
        (size,) = struct.unpack_from("<I", body, 4)
        for flags in (0x04, 0x08, 0x0C, 0x10, 0x20, 0xC0):
            lied = body[:8] + bytes([body[8] & 3 | flags]) + body[9:]
            yield f"alpha-way-{quality}-{flags:02x}.webp", riff(vp8x(ALPHA) + lied)
        raw = chunk(b"ALPH", b"\0" + np.ascontiguousarray(clear[..., 3]).tobytes())
        yield (
            f"alpha-raw-{quality}.webp",
            riff(vp8x(ALPHA) + raw + body[8 + size + (size & 1) :]),
        )
        short = chunk(b"ALPH", b"\0" + bytes(500))
        yield (
            f"alpha-short-{quality}.webp",
            riff(vp8x(ALPHA) + short + body[8 + size + (size & 1) :]),
        )
    for side in (1, 2, 3, 17, 95):
        part = np.ascontiguousarray(sand()[:side, :side])
        yield f"side-{side}.webp", riff(coded(part))
        yield f"side-{side}-lossless.webp", riff(coded(part, True))
    few = (sand() // 64 * 64).astype(np.uint8)
    yield "few-colours.webp", riff(coded(few, True))
    yield (
        "two-colours.webp",
        riff(coded(np.dstack([np.where(letter(), 255, 0)] * 3).astype(np.uint8), True)),
    )
    body = coded(sand())
    odd = body + chunk(b"XMP ", b"x" * 7)
    yield "last-byte-missing.webp", riff(vp8x(XMP) + odd)[:-1]
    yield "metadata-cut.webp", riff(vp8x(XMP) + odd)[:-4]
    yield "metadata-missing.webp", riff(vp8x(XMP | EXIF) + body, 40)
    for reserved in (0x01, 0x40, 0x80, 0xC1):
        yield f"reserved-{reserved:02x}.webp", riff(vp8x(reserved) + body)
    xmp = chunk(b"XMP ", b"<x tiff:Orientation='6'/>")
    yield "xmp-turned.webp", riff(vp8x(XMP) + body + xmp)
    yield "exif-first.webp", riff(chunk(b"EXIF", turn(6)) + body)
    head = vp8x(MOVES | ALPHA)
    land, grains = frame(hills(), 20), frame(sand(), 5000)
    for name, chunks in (
        ("exif", vp8x(MOVES | EXIF) + anim() + land + grains + chunk(b"EXIF", turn(6))),
        (
            "profile-grey",
            vp8x(MOVES | ICC) + chunk(b"ICCP", profiles.FLAT) + anim() + land + grains,
        ),
        ("once", head + anim(plays=1) + land + grains),
        ("no-delay", head + anim() + frame(hills(), 0) + frame(sand(), 0)),
        ("pixel", head + anim() + land + frame(np.ascontiguousarray(sand()[:1, :1]), 900, 94, 94)),
        ("lossy-clear", head + anim() + land + frame(clear, 5000, lossless=False)),
        ("lossy-clear-first", head + anim() + frame(clear, 20, lossless=False) + grains),
        ("unknown-inside", head + anim() + _inside(land, chunk(b"ABCD", b"ab")) + grains),
        ("unknown-inside-last", head + anim() + land + _inside(grains, chunk(b"ABCD", b"ab"))),
        ("picture-twice-inside", head + anim() + land + _inside(grains, coded(hills(), True))),
        ("longest-delay", head + anim() + frame(hills(), 0xFFFFFF) + frame(sand(), 1)),
        ("anim-long", head + chunk(b"ANIM", bytes(10)) + land + grains),
        ("anim-short", head + chunk(b"ANIM", bytes(4)) + land + grains),
        ("reserved-flags", head + anim() + land + frame(sand(), 5000, flags=0xF0)),
        ("canvas-larger", vp8x(MOVES, 200, 120) + anim() + land + grains),
        ("size-later", vp8x(MOVES) + anim() + land + grains[:-8]),
    ):
        yield f"moves-{name}.webp", riff(chunks)
    yield "moves-end-missing.webp", riff(head + anim() + land + grains, 60)
    yield "moves-last-byte-missing.webp", riff(head + anim() + land + grains)[:-1]
    for flags in range(4):
        layers = b"".join(frame(clear[:60, :60], 20, 12 * n, 6 * n, flags, False) for n in range(3))
        yield f"moves-layers-{flags}.webp", riff(head + anim() + layers)
        yield f"moves-layers-{flags}-no-alpha.webp", riff(vp8x(MOVES) + anim() + layers)
    strip = frame(smiley(32), 20, 32, 0) + frame(smiley(32), 900, 64, 64, 1)
    yield "moves-parts-only.webp", riff(head + anim() + strip)


def _inside(whole: bytes, more: bytes) -> bytes:
    """A frame with another chunk behind its picture."""
    return chunk(b"ANMF", whole[8 : 8 + struct.unpack("<I", whole[4:8])[0]] + more)
