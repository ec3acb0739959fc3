"""GIF: palettes of single frames, keys, tables of codes, disposal on small first frames."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.witness.files.drawn import hills, letter, quantised, sand, smiley
from tests.witness.files.gif import (
    LOOP,
    TRAILER,
    Part,
    blocks,
    control,
    extension,
    image,
    part,
    screen,
)


def files() -> Iterator[tuple[str, bytes]]:
    """All kinds."""
    land, grains, face = part(hills(64)), part(sand(64)), part(smiley(64), 16)
    few, palette = quantised(smiley(64), 4)
    other = bytes(reversed(palette))
    for clear in (0, 1, 3, 4, 200):
        frames = control(2, 1, clear) + image(few, palette=palette)
        frames += control(400, 1, (clear + 1) % 256) + image(few, palette=other)
        yield f"keys-{clear}.gif", screen(64, 64) + LOOP + frames + TRAILER
        frames = control(2, 1, clear) + image(few) + control(400, 1, clear) + image(few)
        yield f"keys-{clear}-global.gif", screen(64, 64, palette) + frames + TRAILER
    cell = Part(grains.indices[:20, :20], grains.palette)
    for dispose in range(4):
        frames = control(2, dispose) + cell.at(30, 30) + control(400, 0) + cell.at(5, 5)
        yield f"first-small-{dispose}.gif", screen(64, 64, land.palette, 9) + frames + TRAILER
        frames = b"".join(control(3, dispose, 0) + face.at(8 * n, 4 * n) for n in range(3))
        yield f"steps-{dispose}.gif", screen(100, 90) + LOOP + frames + TRAILER
    slim = Part(grains.indices[:, :17], grains.palette)
    yield "first-slim-and-tall.gif", screen(64, 20) + slim.at() + TRAILER
    yield (
        "first-slim-and-tall-two.gif",
        screen(64, 20) + slim.at() + control(9) + land.at() + TRAILER,
    )
    yield "aspect.gif", screen(64, 64)[:12] + b"\xf1" + grains.at() + TRAILER
    yield "input-flag.gif", screen(64, 64) + b"\x21\xf9\4\2\2\0\0\0" + land.at() + grains.at()
    both = control(5) + land.at() + grains.at() + face.at(10, 10)
    yield "one-control.gif", screen(80, 80) + both + TRAILER
    note = extension(0xFE, b"between")
    yield "note-between.gif", screen(64, 64) + control(5) + note + land.at() + control(9) + note
    yield (
        "note-before-picture.gif",
        screen(64, 64) + control(5, 2, 0) + note + face.at() + control(400) + grains.at(),
    )
    second = screen(64, 64) + grains.at() + TRAILER
    yield "file-in-file.gif", screen(64, 64) + land.at() + second
    for bits in (2, 3, 7):
        thin = (grains.indices % (1 << bits)).astype(np.uint8)
        yield f"codes-{bits}.gif", screen(64, 64) + image(thin, 0, 0, grains.palette, False, bits)
    yield "code-bits-1.gif", screen(64, 64) + _one_bit(palette) + TRAILER
    yield "pillow.gif", _by_pillow([hills(64), sand(64)], [20, 4000])
    yield "pillow-optimised.gif", _by_pillow([sand(64), sand(64)], [20, 4000], optimize=True)
    yield "long-delay.gif", screen(64, 64) + control(65535) + land.at() + control(1) + grains.at()
    zeros = b"".join(control(0) + each.at() for each in (land, grains, face))
    yield "no-delay.gif", screen(64, 64) + LOOP + zeros + TRAILER
    sorted_flag = bytearray(screen(64, 64, grains.palette))
    sorted_flag[10] |= 0x08
    yield "sorted.gif", bytes(sorted_flag) + image(grains.indices) + TRAILER
    crossed = Part(grains.indices, grains.palette).at(interlace=True)
    yield "interlaced-second.gif", screen(64, 64) + control(2) + land.at() + control(400) + crossed
    tall = Part(grains.indices[:7], grains.palette).at(0, 50, interlace=True)
    yield "interlaced-strip.gif", screen(64, 64) + land.at() + control(300, 0, 3) + tall
    yield (
        "rubbish-behind.gif",
        screen(64, 64)
        + control(4)
        + land.at()
        + control(9)
        + grains.at()
        + (b"\x99" + face.at() + TRAILER),
    )
    holes = np.where(letter(64), 255, grains.indices).astype(np.uint8)
    frames = control(2, 1, 255) + image(holes, palette=grains.palette.ljust(768, b"\0"))
    yield "through-letter.gif", screen(64, 64, land.palette) + frames + TRAILER
    wide = part(np.concatenate([hills(64), sand(64), hills(64)], axis=1))
    frames = control(3) + wide.at() + control(500) + grains.at(64, 0)
    yield "wide-moving.gif", screen(192, 64) + LOOP + frames + TRAILER


def _one_bit(palette: bytes) -> bytes:
    """Codes that begin with one bit, which the format does not allow for."""
    codes = [2, *([0, 1] * 40), 3]
    bits = np.array(codes)[:, None] >> np.arange(2) & 1
    body = np.packbits(bits.astype(np.uint8).ravel(), bitorder="little").tobytes()
    place = struct.pack("<HHHHB", 0, 0, 64, 64, 0x81)
    return b"\x2c" + place + palette + b"\1" + blocks(body)


def _by_pillow(frames: list[np.ndarray], times_ms: list[int], **options: bool) -> bytes:
    first, *rest = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=times_ms, **options)
    return buffer.getvalue()
