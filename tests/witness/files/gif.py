"""GIF: screens, rectangles, disposal, palettes, control blocks, time; written by hand."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tests.witness.files import profiles
from tests.witness.files.apng import timelines
from tests.witness.files.drawn import Pixels, hills, letter, quantised, sand, smiley

TRAILER = b"\x3b"


def screen(
    width_px: int, height_px: int, palette: bytes = b"", back: int = 0, version: bytes = b"89a"
) -> bytes:
    """Signature, screen and global palette."""
    flags = 0x80 | _bits(palette) if palette else 0
    return b"GIF" + version + struct.pack("<HHBBB", width_px, height_px, flags, back, 0) + palette


def _bits(palette: bytes) -> int:
    return max(0, (len(palette) // 3 - 1).bit_length() - 1)


def control(delay: int = 10, dispose: int = 0, clear: int | None = None) -> bytes:
    """Delay in hundredths of a second, disposal and the transparent index."""
    flags = dispose << 2 | (clear is not None)
    return b"\x21\xf9\x04" + struct.pack("<BHBB", flags, delay, clear or 0, 0)


def image(
    indices: Pixels,
    x: int = 0,
    y: int = 0,
    palette: bytes = b"",
    interlace: bool = False,
    least: int = 8,
) -> bytes:
    """Descriptor, local palette and pixels."""
    height, width = indices.shape
    flags = (0x80 | _bits(palette) if palette else 0) | (0x40 if interlace else 0)
    return (
        b"\x2c" + struct.pack("<HHHHB", x, y, width, height, flags) + palette
        + pixels(indices, least)
    )  # fmt: skip


def pixels(indices: Pixels, least: int = 8) -> bytes:
    """LZW that never uses its table: clear codes keep the codes short."""
    clear, end = 2**least, 2**least + 1
    codes: list[int] = []
    for number, index in enumerate(indices.ravel().tolist()):
        if number % (clear - 2) == 0:
            codes.append(clear)
        codes.append(index)
    bits = np.array([*codes, end])[:, None] >> np.arange(least + 1) & 1
    body = np.packbits(bits.astype(np.uint8).ravel(), bitorder="little").tobytes()
    return bytes([least]) + blocks(body)


def blocks(body: bytes) -> bytes:
    """Sub-blocks and their end."""
    pieces = [body[at : at + 255] for at in range(0, len(body), 255)]
    return b"".join(bytes([len(piece)]) + piece for piece in pieces) + b"\0"


def extension(label: int, *bodies: bytes) -> bytes:
    """Any extension block."""
    return b"\x21" + bytes([label]) + b"".join(bytes([len(b)]) + b for b in bodies) + b"\0"


LOOP = extension(0xFF, b"NETSCAPE2.0", b"\1\0\0")


@dataclass(frozen=True)
class Part:
    """One picture with a palette of its own."""

    indices: Pixels
    palette: bytes

    def at(self, x: int = 0, y: int = 0, interlace: bool = False) -> bytes:
        """As an image block; a palette has a power of two entries."""
        entries = 2 << _bits(self.palette)
        return image(self.indices, x, y, self.palette.ljust(3 * entries, b"\0"), interlace)


def part(picture: Pixels, colours: int = 256) -> Part:
    """Reduce a picture to a palette."""
    return Part(*quantised(picture, colours))


def files() -> Iterator[tuple[str, bytes]]:
    """All kinds."""
    for name, line in timelines():
        frames = [control(delay) + part(picture).at() for picture, delay in line]
        yield f"time-{name}.gif", screen(64, 64) + LOOP + b"".join(frames) + TRAILER
    yield from _screens()
    yield from _composition()
    yield from _blocks()
    yield from _palettes()


def _screens() -> Iterator[tuple[str, bytes]]:
    land, grains = part(hills(64)), part(sand(64))
    large = part(sand(96))
    for name, width, height in (
        ("same", 64, 64),
        ("smaller", 40, 40),
        ("larger", 100, 80),
        ("zero", 0, 0),
        ("narrow", 64, 20),
        ("huge", 60000, 60000),
    ):
        yield f"screen-{name}-still.gif", screen(width, height) + grains.at() + TRAILER
        two = control(1) + land.at() + control(600) + grains.at()
        yield f"screen-{name}-two.gif", screen(width, height) + two + TRAILER
        late = control(1) + land.at() + control(600) + large.at()
        yield f"screen-{name}-larger-later.gif", screen(width, height) + late + TRAILER
    for name, x, y in (
        ("shifted", 20, 20),
        ("outside", 64, 0),
        ("far", 60000, 0),
        ("edge", 63, 63),
    ):
        yield f"rectangle-{name}-first.gif", screen(64, 64) + grains.at(x, y) + TRAILER
        two = control(1) + land.at() + control(600) + grains.at(x, y)
        yield f"rectangle-{name}-second.gif", screen(64, 64) + two + TRAILER
    little = Part(land.indices[:8, :8], land.palette)
    yield (
        "first-tiny.gif",
        screen(64, 64) + control(1) + little.at() + control(500) + grains.at() + TRAILER,
    )
    yield (
        "empty-image.gif",
        screen(64, 64) + Part(land.indices[:0, :0], land.palette).at() + grains.at() + TRAILER,
    )
    wide = part(np.concatenate([hills(64), sand(64), hills(64)], axis=1))
    yield "wide.gif", screen(192, 64) + wide.at() + TRAILER


def _composition() -> Iterator[tuple[str, bytes]]:
    land, grains, face = part(hills(64)), part(sand(64), 255), part(smiley(64))
    holes = Part(
        np.where(letter(64), grains.indices, 255).astype(np.uint8), grains.palette + b"\0\0\0"
    )
    nothing = Part(np.full((64, 64), 255, np.uint8), holes.palette)
    strip = Part(grains.indices[:30], grains.palette + b"\0\0\0")
    for dispose in range(8):
        frames = [
            control(2) + land.at(),
            control(2, dispose) + strip.at(0, 10),
            control(500, 0, 255) + nothing.at(),
        ]
        yield f"dispose-{dispose}.gif", screen(64, 64) + LOOP + b"".join(frames) + TRAILER
        frames = [control(2, dispose) + grains.at(), control(500, 0, 255) + holes.at()]
        yield f"dispose-{dispose}-first.gif", screen(64, 64) + LOOP + b"".join(frames) + TRAILER
        frames = [
            control(2) + land.at(),
            control(2, dispose) + strip.at(),
            control(2, 3) + face.at(),
            control(500, 0, 255) + holes.at(),
        ]
        yield f"dispose-{dispose}-then-back.gif", screen(64, 64) + LOOP + b"".join(frames) + TRAILER
    for back in (0, 7, 255):
        glob = face.palette
        frames = [control(2, 2) + image(face.indices), control(500, 0, 255) + nothing.at()]
        yield f"background-{back}.gif", screen(64, 64, glob, back) + b"".join(frames) + TRAILER
        small = control(500) + Part(grains.indices[:20, :20], grains.palette + b"\0\0\0").at(20, 20)
        yield f"background-{back}-small.gif", screen(64, 64, glob, back) + small + TRAILER
    yield "holes.gif", screen(64, 64) + control(0, 0, 255) + holes.at() + TRAILER
    for clear in (0, 30, 254):
        yield f"clear-{clear}.gif", screen(64, 64) + control(0, 0, clear) + face.at() + TRAILER


def _blocks() -> Iterator[tuple[str, bytes]]:
    land, grains, holes = part(hills(64)), part(sand(64)), part(smiley(64), 4)
    two = control(2) + land.at() + control(500) + grains.at()
    yield "plain.gif", screen(64, 64) + LOOP + two + TRAILER
    yield "version-87.gif", screen(64, 64, version=b"87a") + two + TRAILER
    yield "version-odd.gif", screen(64, 64, version=b"88a") + two + TRAILER
    yield "no-trailer.gif", screen(64, 64) + two
    yield "trailer-early.gif", screen(64, 64) + land.at() + TRAILER + grains.at() + TRAILER
    yield "behind-trailer.gif", screen(64, 64) + land.at() + TRAILER + bytes(100)
    yield "comment.gif", screen(64, 64) + extension(0xFE, b"a comment") + two + TRAILER
    yield (
        "comment-between.gif",
        screen(64, 64) + control(0, 0, 0) + extension(0xFE, b"x") + holes.at() + TRAILER,
    )
    yield (
        "control-twice.gif",
        screen(64, 64) + control(0, 0, 0) + control(0, 0, 3) + holes.at() + TRAILER,
    )
    yield (
        "control-twice-none.gif",
        screen(64, 64) + control(0, 0, 0) + control() + holes.at() + TRAILER,
    )
    yield (
        "control-left-over.gif",
        screen(64, 64) + control(0, 0, 0) + holes.at() + holes.at() + TRAILER,
    )
    yield "control-short.gif", screen(64, 64) + b"\x21\xf9\x03\x01\0\0\0" + holes.at() + TRAILER
    yield "control-long.gif", screen(64, 64) + b"\x21\xf9\x05\x01\0\0\0\0\0" + holes.at() + TRAILER
    plain = (
        b"\x21\x01" + bytes([12]) + struct.pack("<HHHHBBBB", 0, 0, 64, 64, 8, 8, 1, 0) + b"\x02Hi\0"
    )
    yield "plain-text.gif", screen(64, 64) + control(0, 0, 0) + plain + holes.at() + TRAILER
    yield "plain-text-first.gif", screen(64, 64, part(sand(64)).palette) + plain + two + TRAILER
    yield "unknown-extension.gif", screen(64, 64) + extension(0x77, b"x" * 9) + two + TRAILER
    yield (
        "unknown-block.gif",
        screen(64, 64) + land.at() + b"\x99" + control(500) + grains.at() + TRAILER,
    )
    yield "zeros-between.gif", screen(64, 64) + land.at() + b"\0\0\0" + grains.at() + TRAILER
    icc = extension(
        0xFF,
        b"ICCRGBG1012",
        *(profiles.FLAT[at : at + 255] for at in range(0, len(profiles.FLAT), 255)),
    )
    yield "profile.gif", screen(64, 64) + icc + grains.at() + TRAILER
    xmp = extension(0xFF, b"XMP DataXMP", b"<x/>")
    yield "xmp.gif", screen(64, 64) + xmp + two + TRAILER
    for plays in (1, 2, 65535):
        loop = extension(0xFF, b"NETSCAPE2.0", b"\1" + struct.pack("<H", plays))
        yield f"plays-{plays}.gif", screen(64, 64) + loop + two + TRAILER
    yield "interlaced.gif", screen(64, 64) + part(smiley(64)).at(interlace=True) + TRAILER
    whole = grains.at()
    for name, data in (
        ("cut", whole[:-2000]),
        ("cut-then-more", whole[:-2000] + b"\0" + control(500) + land.at()),
        (
            "end-early",
            whole[: 10 + 768] + b"\x08" + blocks(bytes.fromhex("0001020301")) + land.at(),
        ),
        ("code-size-9", whole[: 10 + 768] + b"\x09" + whole[10 + 769 :]),
        ("code-size-12", whole[: 10 + 768] + b"\x0c" + whole[10 + 769 :]),
        ("code-size-0", whole[: 10 + 768] + b"\0" + whole[10 + 769 :]),
        ("no-pixels", whole[: 10 + 768] + b"\x08\0" + land.at()),
    ):
        yield f"pixels-{name}.gif", screen(64, 64) + data + TRAILER
        yield (
            f"pixels-{name}-second.gif",
            screen(64, 64) + control(2) + part(smiley(64)).at() + control(500) + data + TRAILER,
        )
    more = Part(np.concatenate([grains.indices] * 2), grains.palette).at()
    short = more[:5] + struct.pack("<HH", 64, 64) + more[9:]
    yield "pixels-too-many.gif", screen(64, 64) + short + TRAILER


def _palettes() -> Iterator[tuple[str, bytes]]:
    land, grains = part(hills(64)), part(sand(64))
    yield "none.gif", screen(64, 64) + image(grains.indices) + TRAILER
    yield "global.gif", screen(64, 64, grains.palette) + image(grains.indices) + TRAILER
    yield "both.gif", screen(64, 64, land.palette) + grains.at() + TRAILER
    yield (
        "none-second.gif",
        screen(64, 64) + land.at() + control(500) + image(grains.indices) + TRAILER,
    )
    few = grains.palette[: 3 * 16]
    yield "index-beyond-global.gif", screen(64, 64, few) + image(grains.indices) + TRAILER
    yield "index-beyond-local.gif", screen(64, 64) + image(grains.indices, palette=few) + TRAILER
    yield (
        "index-beyond-clear.gif",
        screen(64, 64) + control(0, 0, 200) + image(grains.indices, palette=few) + TRAILER,
    )
