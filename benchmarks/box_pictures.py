"""Pictures for `small_box.py`: avatars of everyday sizes, each unique, and the worst to decode."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from worker.demo import pictures as samples

#: Every so many pictures an animation, and a drawn PNG; the others are JPEG photos.
ANIMATION_EVERY, PNG_EVERY = 50, 4

#: Sides of the uploads, in pixels.
SIDES_PX = (128, 200, 256, 400, 512, 640)

#: Different pictures that are drawn; all others are these with another comment in the file.
DRAWN = 24


class Pictures:
    """An endless row of avatars whose bytes never repeat, so that no verdict is remembered."""

    def __init__(self) -> None:
        self._count = itertools.count()
        sides = itertools.cycle(SIDES_PX)
        self._photos = [
            samples.encode(_scaled(_photo(seed), next(sides)), "JPEG", quality=85)
            for seed in range(DRAWN)
        ]
        self._drawings = [
            samples.encode(_scaled(samples.cartoon_face(seed), next(sides)), "PNG")
            for seed in range(DRAWN)
        ]
        self._animations = [
            samples.animation(*(samples.cartoon_face(10 * seed + i) for i in range(4)))
            for seed in range(3)
        ]

    def next(self) -> bytes:
        """The next file."""
        number = next(self._count)
        if number % ANIMATION_EVERY == ANIMATION_EVERY - 1:
            kind = self._animations
        elif number % PNG_EVERY == PNG_EVERY - 1:
            kind = self._drawings
        else:
            kind = self._photos
        return with_comment(kind[number % len(kind)], str(number))


def with_comment(data: bytes, text: str) -> bytes:
    """The same picture in other bytes.

    Source: ISO 10918-1 B.2.4.5 (JPEG COM), PNG specification 11.3.4.3 (tEXt), GIF89a section 24
    (Comment Extension).
    """
    note = text.encode()
    if data[:2] == b"\xff\xd8":
        return data[:2] + b"\xff\xfe" + struct.pack(">H", 2 + len(note)) + note + data[2:]
    if data[:4] == b"\x89PNG":
        body = b"tEXtComment\0" + note
        chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        return data[:-12] + chunk + data[-12:]
    if data[:3] == b"GIF":
        return data[:-1] + b"\x21\xfe" + bytes([len(note)]) + note + b"\0" + data[-1:]
    raise ValueError("neither JPEG nor PNG nor GIF")


def worst_pictures(count: int) -> Iterator[bytes]:
    """Files at the limits of pixels, frames and bytes, in turns; each accepted or refused."""
    makers = [
        lambda: _big_png("RGBA"),
        lambda: _big_jpeg("CMYK"),
        lambda: _big_jpeg("RGB"),
        lambda: _big_png("I;16"),
        _big_gif,
    ]
    kinds = [make() for make in makers[:count]]
    for number in range(count):
        yield with_comment(kinds[number % len(kinds)], f"worst {number}")


def _photo(seed: int) -> Image.Image:
    return samples.landscape(seed) if seed % 2 else samples.dunes(seed, 0.7, 2)


def _scaled(image: Image.Image, side_px: int) -> Image.Image:
    return image.convert("RGB").resize((side_px, side_px), Image.Resampling.BICUBIC)


def _big_jpeg(mode: str) -> bytes:
    """Just under 50 million pixels, progressive: the whole picture is in memory at once."""
    image = _scaled(samples.landscape(5), 1000).resize((7070, 7070)).convert(mode)
    return samples.encode(image, "JPEG", quality=60, progressive=True)


def _big_png(mode: str) -> bytes:
    if mode == "I;16":
        ramp = np.linspace(0, 65535, 7070).astype(np.uint16)
        image = Image.fromarray(np.broadcast_to(ramp, (7070, 7070)).copy())
    else:
        image = _scaled(samples.landscape(6), 700).resize((7070, 7070), Image.Resampling.NEAREST)
        image = image.convert(mode)
    return samples.encode(image, "PNG", compress_level=1)


def _big_gif() -> bytes:
    """Almost 1,000 frames and 300 million pixels."""
    frames = []
    for number in range(990):
        frame = Image.new("P", (550, 550), number % 200)
        frame.putpalette([v for i in range(256) for v in (i, 255 - i, (7 * i) % 256)])
        frame.paste((number * 7) % 256, (number % 400, 100, number % 400 + 120, 300))
        frames.append(frame)
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=40, loop=0)
    return buffer.getvalue()
