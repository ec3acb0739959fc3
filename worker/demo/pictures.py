"""Harmless pictures, drawn here, that make every kind of answer happen: for the demo and the tests.

No photograph is needed and nothing explicit is ever drawn. Which answer each gives with the default
bundle was measured, not designed; see `EXPECTED` for what the demo relies on.
"""

from __future__ import annotations

import io
import math
import struct
import zlib

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE_PX = 256


def landscape(seed: int = 0) -> Image.Image:
    """Sky, hills and a sun with a little noise."""
    rng = np.random.default_rng(seed)
    y = np.linspace(0, 1, SIDE_PX)[:, None, None]
    sky = np.array([90, 150, 230]) * (1 - y) + np.array([250, 210, 160]) * y
    canvas = np.broadcast_to(sky, (SIDE_PX, SIDE_PX, 3)).copy()
    x = np.arange(SIDE_PX)
    for layer, colour in enumerate([(70, 110, 90), (50, 90, 60), (30, 60, 40)]):
        height = 130 + 40 * layer + 22 * np.sin(x / (17 + 9 * layer) + rng.uniform(0, 6))
        mask = np.arange(SIDE_PX)[:, None] > height[None, :]
        canvas[mask] = colour
    canvas += rng.normal(0, 6, canvas.shape)
    image = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    ImageDraw.Draw(image).ellipse((170, 30, 215, 75), fill=(255, 240, 180))
    return image.filter(ImageFilter.GaussianBlur(0.6))


def cartoon_face(seed: int = 0) -> Image.Image:
    """A drawn face with big eyes."""
    rng = np.random.default_rng(seed)
    back = tuple(int(v) for v in rng.integers(120, 255, 3))
    image = Image.new("RGB", (SIDE_PX, SIDE_PX), back)
    draw = ImageDraw.Draw(image)
    hair = tuple(int(v) for v in rng.integers(20, 200, 3))
    draw.ellipse((40, 20, 216, 230), fill=hair)
    draw.ellipse((62, 60, 194, 220), fill=(250, 222, 200), outline=(60, 40, 40), width=3)
    for x in (100, 156):
        draw.ellipse((x - 17, 110, x + 17, 156), fill="white", outline=(30, 30, 40), width=3)
        draw.ellipse((x - 9, 120, x + 9, 150), fill=(60, 90, 180))
        draw.ellipse((x - 3, 124, x + 5, 134), fill="white")
    draw.arc((108, 160, 148, 196), 20, 160, fill=(180, 60, 70), width=4)
    return image


def letter_tile() -> Image.Image:
    """One letter on one colour, as default avatars often are."""
    image = Image.new("RGB", (SIDE_PX, SIDE_PX), (38, 132, 160))
    draw = ImageDraw.Draw(image)
    draw.polygon([(128, 50), (200, 206), (172, 206), (128, 104), (84, 206), (56, 206)], "white")
    draw.rectangle((96, 150, 160, 168), fill="white")
    return image


def identicon(seed: int = 7) -> Image.Image:
    """A symmetric grid of squares, made from a hash."""
    rng = np.random.default_rng(seed)
    half = rng.integers(0, 2, (5, 3))
    cells = np.hstack([half, half[:, 1::-1]])
    image = Image.new("RGB", (250, 250), (240, 240, 240))
    draw = ImageDraw.Draw(image)
    for (row, column), on in np.ndenumerate(cells):
        if on:
            draw.rectangle(
                (column * 50, row * 50, column * 50 + 49, row * 50 + 49), fill=(90, 60, 150)
            )
    return image


def dunes(seed: int = 3, warmth: float = 1.0, folds: int = 3) -> Image.Image:
    """Smooth warm folds of sand under soft light."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIDE_PX, 0:SIDE_PX] / SIDE_PX
    height = np.zeros_like(x)
    for k in range(folds):
        angle, phase = rng.uniform(0, math.pi), rng.uniform(0, 6)
        height += np.sin((x * math.cos(angle) + y * math.sin(angle)) * (4 + 3 * k) + phase) / (
            k + 1
        )
    slope = np.gradient(height, axis=1) - np.gradient(height, axis=0)
    light = 0.72 + 0.28 * np.tanh(slope * 14)
    base = np.array([232, 178 - 12 * (warmth - 1), 148 - 30 * (warmth - 1)])
    canvas = light[:, :, None] * base
    canvas += rng.normal(0, 2.5, canvas.shape)
    return Image.fromarray(canvas.clip(0, 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(1.2)
    )


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """The picture as a file of a Pillow format."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def animation(*frames: Image.Image) -> bytes:
    """An animated GIF of the given frames."""
    first, *rest = (frame.convert("P", palette=Image.Palette.ADAPTIVE) for frame in frames)
    return encode(first, "GIF", save_all=True, append_images=rest, duration=200, loop=0)


def transparent_badge() -> bytes:
    """A round badge with a transparent background."""
    image = Image.new("RGBA", (200, 200), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    draw.ellipse((10, 10, 190, 190), fill=(230, 120, 40, 255), outline=(80, 30, 10, 255), width=8)
    draw.polygon(
        [
            (100, 40),
            (120, 90),
            (170, 90),
            (130, 120),
            (145, 170),
            (100, 140),
            (55, 170),
            (70, 120),
            (30, 90),
            (80, 90),
        ],
        fill=(255, 240, 200, 255),
    )
    return encode(image, "PNG")


def png_bomb() -> bytes:
    """A tiny PNG file that declares 60,000 x 60,000 px."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 100_000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def demo_files() -> dict[str, bytes]:
    """File name to content: one of each kind of answer, see the module's docstring.

    `blocked` is missing: no harmless picture drawn here makes the default model that sure.
    """
    photo = encode(landscape(), "JPEG", quality=90)
    return {
        "landscape.jpg": photo,
        "drawn-face.png": encode(cartoon_face(), "PNG"),
        "letter-tile.png": encode(letter_tile(), "PNG"),
        "identicon.png": encode(identicon(), "PNG"),
        "transparent-badge.png": transparent_badge(),
        "animated.gif": animation(cartoon_face(1), cartoon_face(2), landscape(2)),
        "same-landscape-again.jpg": photo,
        "warm-dunes.jpg": encode(dunes(30, 0.5, 2), "JPEG", quality=92),
        "truncated.jpg": photo[: len(photo) // 2],
        "bomb-60000x60000.png": png_bomb(),
        "not-a-picture.png": b"<html>this is not a picture</html>",
        "empty.png": b"",
    }
