"""PNG and APNG: rare chunks, Adam7, split streams, 16 bits, keys in animations."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from tests.unit.pictures import chunk
from tests.witness.files import profiles
from tests.witness.files.apng import Frame, actl, animation, fctl
from tests.witness.files.drawn import Pixels, hills, letter, quantised, sand, smiley
from tests.witness.files.jpeg import turn
from tests.witness.files.png import IEND, gama, header, iccp, idat, scanlines, text_less
from tests.witness.files.rare.jpeg import directories

_PASSES = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # fmt: skip


def adam7(samples: Pixels, depth: int = 8) -> bytes:
    """The seven passes, one behind the other."""
    passes = (samples[top::down, left::across] for left, top, across, down in _PASSES)
    return b"".join(scanlines(each, depth) for each in passes if each.size)


def stills() -> Iterator[tuple[str, bytes]]:
    """Still pictures."""
    head, pixels = header(96, 96, 8, 2), idat(sand())
    for name, extra in (
        ("back-red", chunk(b"bKGD", struct.pack(">3H", 255, 0, 0))),
        ("pixels-not-square", chunk(b"pHYs", struct.pack(">IIB", 1000, 3000, 1))),
        ("significant-bits-1", chunk(b"sBIT", b"\1\1\1")),
        ("mastering", chunk(b"mDCV", struct.pack(">8HII", *range(1, 9), 10**7, 1))),
        ("light-level", chunk(b"cLLI", struct.pack(">II", 10**7, 10**6))),
        ("suggested-palette", chunk(b"PLTE", bytes(range(48)))),
        ("scale", chunk(b"sCAL", b"\x011\x003")),
        ("offset", chunk(b"oFFs", struct.pack(">iiB", 40, -40, 0))),
        ("exif-as-text", chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(turn(6)))),
        ("all-colours", gama(100_000) + iccp(profiles.PLAIN) + chunk(b"sRGB", b"\1")),
        ("cicp-and-gamma", chunk(b"cICP", bytes([1, 13, 0, 1])) + gama(100_000)),
    ):
        yield f"{name}.png", text_less([head, extra, pixels, IEND])
    for name, block in directories():
        parts = [head, chunk(b"eXIf", block), idat(smiley()), IEND]
        yield f"exif-{name}.png", text_less(parts)
    ramp = np.stack(np.broadcast_arrays(*np.ogrid[0:65536:683, 0:65536:683], 30_000), axis=-1)
    for value in (43_300, 45_455, 47_700, 50_000, 100_000):
        yield (
            f"gradient-gamma-{value}.png",
            text_less([header(96, 96, 16, 2), gama(value), idat(ramp, 16), IEND]),
        )
    stream = zlib.compress(scanlines(sand()))
    ones = [chunk(b"IDAT", bytes([byte])) for byte in stream[:200]]
    yield "pixels-in-bytes.png", text_less([head, *ones, chunk(b"IDAT", stream[200:]), IEND])
    stored = zlib.compress(scanlines(sand()), 0)
    yield "pixels-stored.png", text_less([head, chunk(b"IDAT", stored), IEND])
    yield (
        "pixels-then-others.png",
        text_less([head, chunk(b"IDAT", stream + zlib.compress(scanlines(hills()))), IEND]),
    )
    for size in (1, 3, 9, 96):
        part = np.ascontiguousarray(sand(96)[:, :size] if size > 6 else sand(96)[:size, :size])
        yield (
            f"interlaced-{size}.png",
            text_less(
                [
                    header(part.shape[1], part.shape[0], 8, 2, 1),
                    chunk(b"IDAT", zlib.compress(adam7(part))),
                    IEND,
                ]
            ),
        )
    indices, palette = quantised(smiley(), 4)
    key = chunk(b"tRNS", b"\0\x80\xff")
    for name, more in (("", b""), ("-key", key), ("-key-late", b"")):
        parts = [header(96, 96, 2, 3, 1), chunk(b"PLTE", palette), more]
        body = chunk(b"IDAT", zlib.compress(adam7(indices, 2)))
        yield (
            f"interlaced-palette{name}.png",
            text_less([*parts, body, key if name == "-key-late" else b"", IEND]),
        )
    grey = np.where(letter(), 40_000, 300).astype(np.uint16)
    both = np.stack([grey, np.where(letter(), 0x00FF, 0xFF00)], axis=-1)
    yield "grey-alpha-16.png", text_less([header(96, 96, 16, 4), idat(both, 16), IEND])
    yield (
        "grey-16-key.png",
        text_less(
            [header(96, 96, 16, 0), chunk(b"tRNS", struct.pack(">H", 300)), idat(grey, 16), IEND]
        ),
    )
    one = letter().astype(np.uint8)
    yield (
        "grey-1-key.png",
        text_less([header(96, 96, 1, 0), chunk(b"tRNS", struct.pack(">H", 1)), idat(one, 1), IEND]),
    )
    for length in (3, 9, 11):
        cut = text_less([head, pixels, IEND])[:-length]
        yield f"end-cut-{length}.png", cut


def moving() -> Iterator[tuple[str, bytes]]:
    """Animations."""
    head, ac = header(64, 64, 8, 2), actl(2)
    land, grains = Frame(hills(64), 2), Frame(sand(64), 500)
    first = chunk(b"IDAT", zlib.compress(scanlines(land.pixels)))
    data = zlib.compress(scanlines(grains.pixels))
    start = [ac, fctl(0, land), first, fctl(1, grains)]
    pieces = [data[at : at + 700] for at in range(0, len(data), 700)]
    split = [chunk(b"fdAT", struct.pack(">I", 2 + n) + part) for n, part in enumerate(pieces)]
    text = chunk(b"tEXt", b"Comment\0between")
    yield "pixels-in-pieces.png", text_less([head, *start, *split, IEND])
    yield "text-between-pieces.png", text_less([head, *start, split[0], text, *split[1:], IEND])
    yield "text-before-pixels.png", text_less([head, *start, text, *split, IEND])
    yield "no-end.png", text_less([head, *start, *split])
    yield "last-piece-missing.png", text_less([head, *start, *split[:-1], IEND])
    empty = chunk(b"fdAT", struct.pack(">I", 2))
    late = [chunk(b"fdAT", struct.pack(">I", 3 + n) + part) for n, part in enumerate(pieces)]
    yield "empty-piece-first.png", text_less([head, *start, empty, *late, IEND])
    for name, extra in (
        ("turned", chunk(b"eXIf", turn(6))),
        ("gamma", gama(100_000)),
        ("cicp-linear", chunk(b"cICP", bytes([1, 8, 0, 1]))),
        ("key", chunk(b"tRNS", struct.pack(">3H", *(int(v) for v in hills(64)[0, 0])))),
        ("back", chunk(b"bKGD", struct.pack(">3H", 255, 0, 0))),
    ):
        yield f"{name}.png", text_less([head, extra, *start, *split, IEND])
    for blend in (0, 1):
        indices, palette = quantised(smiley(64), 16)
        holes = Frame(indices, 3, blend=blend)
        again = Frame(np.roll(indices, 20, axis=1), 300, blend=blend)
        parts = [header(64, 64, 8, 3), chunk(b"PLTE", palette), chunk(b"tRNS", b"\0\0\x80")]
        parts += [ac, fctl(0, holes), idat(indices), fctl(1, again)]
        body = zlib.compress(scanlines(again.pixels))
        yield (
            f"palette-blend-{blend}.png",
            text_less([*parts, chunk(b"fdAT", struct.pack(">I", 2) + body), IEND]),
        )
    clear = np.dstack([sand(64), np.where(letter(64), 255, 90)]).astype(np.uint8)
    for dispose in range(3):
        frames = [
            Frame(clear, 2, dispose=dispose, blend=1),
            Frame(clear[:30, :30], 3, 10, 10, dispose, 1),
            Frame(clear[:1, :1], 500, 63, 63, dispose, 1),
        ]
        yield f"layers-{dispose}.png", animation(frames, colour=6)
    crossed = Frame(sand(64), 500)
    body = zlib.compress(adam7(crossed.pixels))
    front = chunk(b"IDAT", zlib.compress(adam7(land.pixels)))
    yield (
        "interlaced.png",
        text_less(
            [
                header(64, 64, 8, 2, 1), ac, fctl(0, land), front, fctl(1, crossed),
                chunk(b"fdAT", struct.pack(">I", 2) + body), IEND,
            ]
        ),
    )  # fmt: skip
    deep = Frame(sand(64).astype(np.uint16) * 257, 500)
    body = zlib.compress(scanlines(deep.pixels, 16))
    front = chunk(b"IDAT", zlib.compress(scanlines(land.pixels.astype(np.uint16) * 257, 16)))
    yield (
        "deep.png",
        text_less(
            [
                header(64, 64, 16, 2), ac, fctl(0, land), front, fctl(1, deep),
                chunk(b"fdAT", struct.pack(">I", 2) + body), IEND,
            ]
        ),
    )  # fmt: skip
