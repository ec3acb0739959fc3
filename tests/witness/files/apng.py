"""APNG: control chunks late, twice or lying; rectangles, disposal and blending; time."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tests.unit.pictures import chunk
from tests.witness.files import profiles
from tests.witness.files.drawn import Pixels, hills, letter, sand, smiley
from tests.witness.files.png import IEND, header, iccp, scanlines, text_less


@dataclass(frozen=True)
class Frame:
    """One frame of an animation; `delay` in hundredths of a second."""

    pixels: Pixels
    delay: int = 10
    x: int = 0
    y: int = 0
    dispose: int = 0
    blend: int = 0
    unit: int = 100


def actl(frames: int, plays: int = 0) -> bytes:
    """How many frames there are."""
    return chunk(b"acTL", struct.pack(">II", frames, plays))


def fctl(number: int, frame: Frame) -> bytes:
    """Rectangle, delay, disposal and blending of the next frame."""
    height, width = frame.pixels.shape[:2]
    body = struct.pack(
        ">IIIIIHHBB", number, width, height, frame.x, frame.y, frame.delay, frame.unit,
        frame.dispose, frame.blend,
    )  # fmt: skip
    return chunk(b"fcTL", body)


def parts(frames: list[Frame], *, default: Pixels | None = None) -> list[bytes]:
    """All chunks but the first and last; `default` is shown by what knows no animation."""
    made = [actl(len(frames))]
    if default is not None:
        made.append(chunk(b"IDAT", zlib.compress(scanlines(default), 6)))
    number = 0
    for index, frame in enumerate(frames):
        made.append(fctl(number, frame))
        number += 1
        data = zlib.compress(scanlines(frame.pixels), 6)
        if index == 0 and default is None:
            made.append(chunk(b"IDAT", data))
        else:
            made.append(chunk(b"fdAT", struct.pack(">I", number) + data))
            number += 1
    return made


def animation(frames: list[Frame], *, default: Pixels | None = None, colour: int = 2) -> bytes:
    """A whole file, its canvas as large as its first picture."""
    first = frames[0].pixels if default is None else default
    head = header(first.shape[1], first.shape[0], 8, colour)
    return text_less([head, *parts(frames, default=default), IEND])


def tint(seed: int, side_px: int = 64) -> Pixels:
    """A frame unlike all others."""
    cells = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return np.kron(cells, np.ones((side_px // 4, side_px // 4, 1), np.uint8))


def timelines() -> Iterator[tuple[str, list[tuple[Pixels, int]]]]:
    """Frames and hundredths of seconds, for every format that moves."""
    yield "one-of-40", [(tint(n) if n != 17 else sand(64), 4) for n in range(40)]
    yield (
        "long-among-40",
        [(tint(n) if n != 23 else sand(64), 3 if n != 23 else 3000) for n in range(40)],
    )
    alike = hills(64)
    yield "same-but-one", [(alike if n != 29 else sand(64), 2) for n in range(50)]
    yield "quarter-of-the-time", [(hills(64), 30), (sand(64), 25), (smiley(64), 45)]
    yield "between-samples", [(hills(64), 20), (sand(64), 24), (tint(1), 6), (hills(64), 50)]
    yield "last-for-ever", [(hills(64), 2), (tint(3), 2), (sand(64), 60000)]
    yield "flash", [(hills(64), 100), (sand(64), 1), (hills(64), 100)]
    yield "no-delay", [(hills(64), 0), (sand(64), 0), (smiley(64), 0)]
    check = np.indices((64, 64)).sum(axis=0)[..., None] % 2
    face = (smiley(64) < 128).astype(np.intp)
    one = np.where((check ^ face) == 1, 200, 60).astype(np.uint8)
    two = np.where((check ^ 0 * face) == 1, 200, 60).astype(np.uint8)
    yield "same-mosaic", [(two, 50), (one, 50)]
    faint = (hills(64).astype(int) + np.where(letter(64), 14, 0)[..., None]).clip(0, 255)
    tile = np.where(letter(64)[..., None], 230, (30, 90, 200)).astype(np.uint8)
    face = np.where(smiley(64) < 128, 8, 0).astype(np.uint8)
    yield "tile-then-faint-face", [(tile, 50), (tile + face, 50)]
    yield "faint-letter", [(hills(64), 50), (faint.astype(np.uint8), 50)]


def files() -> Iterator[tuple[str, bytes]]:
    """All kinds."""
    for name, line in timelines():
        yield f"time-{name}.png", animation([Frame(pixels, delay) for pixels, delay in line])
    yield from _control()
    yield from _composition()


def _control() -> Iterator[tuple[str, bytes]]:
    frames = [Frame(hills(64), 1), Frame(sand(64), 600)]
    head, (ac, f0, idat, f1, fd1) = header(64, 64, 8, 2), parts(frames)
    yield "plain.png", animation(frames)
    yield "default-apart.png", animation(frames, default=smiley(64))
    yield "default-sand.png", animation([Frame(hills(64)), Frame(tint(1))], default=sand(64))
    yield "one-frame-default-apart.png", animation([Frame(sand(64))], default=hills(64))
    yield "one-frame.png", animation([Frame(sand(64))])
    for name, order in (
        ("late-0", [ac, f0, idat, f1, actl(0), fd1]),
        ("early-0", [actl(0), ac, f0, idat, f1, fd1]),
        ("twice-1", [ac, actl(1), f0, idat, f1, fd1]),
        ("first-1", [actl(1), ac, f0, idat, f1, fd1]),
        ("after-pixels", [f0, idat, ac, f1, fd1]),
        ("after-fctl", [f0, ac, idat, f1, fd1]),
        ("none", [f0, idat, f1, fd1]),
        ("behind-all", [f0, idat, f1, fd1, ac]),
        ("more-claimed", [actl(5), f0, idat, f1, fd1]),
        ("fewer-claimed", [actl(1), f0, idat, f1, fd1]),
        ("huge-claimed", [actl(0x7FFFFFFF), f0, idat, f1, fd1]),
        ("play-once", [actl(2, 1), f0, idat, f1, fd1]),
        ("long-actl", [chunk(b"acTL", struct.pack(">III", 2, 0, 0)), f0, idat, f1, fd1]),
        ("short-actl", [chunk(b"acTL", struct.pack(">I", 2)), f0, idat, f1, fd1]),
    ):
        yield f"actl-{name}.png", text_less([head, *order, IEND])
    raw = fd1[8:-4]
    dark = chunk(b"fdAT", raw[:4] + zlib.compress(scanlines(smiley(64))))
    turned = fctl(1, Frame(sand(64), 600, dispose=2))
    for name, order in (
        ("fctl-twice", [ac, f0, idat, f1, turned, fd1]),
        ("fctl-none", [ac, f0, idat, fd1]),
        ("fctl-first-none", [ac, idat, f1, fd1]),
        ("fctl-both-before-pixels", [ac, f0, f1, idat, fd1]),
        ("fdat-none", [ac, f0, idat, f1]),
        ("fdat-twice", [ac, f0, idat, f1, fd1, dark]),
        ("fdat-before-idat", [ac, f0, fd1, idat, f1]),
        ("fdat-behind-end", [ac, f0, idat, f1, IEND, fd1]),
        ("idat-in-the-middle", [ac, f0, idat, f1, idat, fd1]),
        ("idat-for-frame-2", [ac, f0, idat, f1, chunk(b"IDAT", raw[4:])]),
        ("number-wrong", [ac, f0, idat, f1, chunk(b"fdAT", struct.pack(">I", 7) + raw[4:])]),
        ("number-same", [ac, f0, idat, f1, chunk(b"fdAT", struct.pack(">I", 1) + raw[4:])]),
        ("fdat-short", [ac, f0, idat, f1, chunk(b"fdAT", raw[:3])]),
        ("fdat-empty-then-whole", [ac, f0, idat, f1, chunk(b"fdAT", raw[:4]), fd1]),
        ("fdat-bad-crc", [ac, f0, idat, f1, fd1[:-1] + b"x"]),
        ("fctl-bad-crc", [ac, f0, idat, f1[:-1] + b"x", fd1]),
        ("fctl-long", [ac, f0, idat, chunk(b"fcTL", f1[8:-4] + b"x"), fd1]),
        ("fctl-after-pixels", [ac, f0, idat, fd1, f1]),
        ("cut", [ac, f0, idat, f1, fd1[:500]]),
    ):
        yield f"{name}.png", text_less([head, *order, IEND])
    for name, delay, unit in (
        ("unit-0", 1, 0),
        ("delay-0", 0, 100),
        ("slow", 65535, 1),
        ("fast", 1, 1000),
    ):
        timed = [Frame(hills(64), delay, unit=unit), Frame(sand(64), delay, unit=unit)]
        yield f"delay-{name}.png", animation(timed)
    profile = iccp(profiles.FLAT)
    yield "profile-after-actl.png", text_less([head, ac, profile, f0, idat, f1, fd1, IEND])
    yield "profile-between-frames.png", text_less([head, ac, f0, idat, profile, f1, fd1, IEND])


def _composition() -> Iterator[tuple[str, bytes]]:
    part = sand(64)[:40, :40]
    clear = np.dstack([part, np.where(np.indices((40, 40)).sum(axis=0) % 3 > 0, 255, 0)])
    solid = np.dstack([hills(64), np.full((64, 64), 255)]).astype(np.uint8)
    empty = np.zeros((64, 64, 4), np.uint8)
    clear = clear.astype(np.uint8)
    half = np.dstack([sand(64), np.full((64, 64), 128)]).astype(np.uint8)
    last = Frame(empty, 500, blend=1)
    for dispose in (0, 1, 2, 3):
        for blend in (0, 1, 2):
            one = [Frame(solid, 2), Frame(clear, 2, 10, 12, dispose, blend), last]
            yield f"dispose-{dispose}-blend-{blend}.png", animation(one, colour=6)
            two = [Frame(half, 2, dispose=dispose, blend=blend), Frame(clear, 2, 3, 3, 0, 1), last]
            yield f"dispose-{dispose}-blend-{blend}-first.png", animation(two, colour=6)
    back = [Frame(solid, 2), *(Frame(clear, 2, n, n, 2, 1) for n in (2, 9, 20)), last]
    yield "back-and-back.png", animation(back, colour=6)
    for name, x, y in (
        ("outside", 40, 40),
        ("far-outside", 100, 0),
        ("negative", 2**31, 0),
        ("wrapped", 2**32 - 8, 0),
    ):
        yield (
            f"rectangle-{name}.png",
            animation([Frame(hills(64)), Frame(sand(64)[:40, :40], 500, x, y)]),
        )
    yield "rectangle-larger.png", animation([Frame(hills(64)), Frame(sand(96), 500)])
    small = [
        header(64, 64, 8, 2),
        actl(1),
        fctl(0, Frame(sand(64)[:40, :40])),
        chunk(b"IDAT", zlib.compress(scanlines(hills(64)))),
        IEND,
    ]
    yield "first-rectangle-smaller.png", text_less(small)
    builds = [Frame(hills(64), 2)] + [Frame(sand(64)[n : n + 8], 2, 0, n) for n in range(0, 64, 8)]
    yield "built-in-strips.png", animation([*builds, Frame(sand(64)[:1, :1], 500)])
