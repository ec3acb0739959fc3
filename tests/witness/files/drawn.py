"""The pictures that the files show or hide."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Pixels = npt.NDArray[np.uint8]


@functools.cache
def sand(side_px: int = 96) -> Pixels:
    """Soft brown waves with grain, (side, side, 3); no flat area."""
    y, x = np.mgrid[0:side_px, 0:side_px] / side_px
    grain = np.random.default_rng(1).normal(0, 3, (side_px, side_px))
    height = 18 * np.sin(5 * x + 3 * y) + 14 * np.cos(4 * y - 2 * x) + grain
    levels = np.stack([height * share for share in (1.0, 0.85, 0.8)], axis=-1)
    return (levels + np.array([168, 132, 118])).clip(0, 255).astype(np.uint8)


@functools.cache
def hills(width_px: int = 96, height_px: int | None = None) -> Pixels:
    """Blue sky, a sun, two rows of green hills."""
    height_px = height_px or width_px
    y, x = np.mgrid[0:height_px, 0:width_px]
    y, x = y / height_px, x / width_px
    image = np.stack([100 + 80 * y, 150 + 20 * y, 225 - 30 * y], axis=-1)
    image[(x - 0.7) ** 2 + (y - 0.2) ** 2 < 0.012] = (250, 235, 170)
    image[y > 0.55 + 0.12 * np.sin(9 * x)] = (70, 115, 90)
    image[y > 0.75 + 0.08 * np.cos(7 * x)] = (35, 70, 45)
    return image.astype(np.uint8)


@functools.cache
def smiley(side_px: int = 96) -> Pixels:
    """A face of dark lines on light grey."""
    image = Image.new("RGB", (side_px, side_px), (240, 240, 240))
    draw = ImageDraw.Draw(image)
    part = side_px / 16
    draw.ellipse((2 * part, 2 * part, 14 * part, 14 * part), outline=(60, 60, 60), width=3)
    for left in (5 * part, 9.5 * part):
        draw.ellipse((left, 5 * part, left + 1.5 * part, 7 * part), fill=(60, 60, 60))
    draw.arc((5 * part, 6 * part, 11 * part, 12 * part), 20, 160, fill=(60, 60, 60), width=3)
    return np.asarray(image)


@functools.cache
def letter(side_px: int = 96) -> npt.NDArray[np.bool_]:
    """Where a capital H stands."""
    image = Image.new("L", (side_px, side_px))
    font = ImageFont.load_default(side_px * 0.5)
    ImageDraw.Draw(image).text((side_px / 2, side_px / 2), "H", 255, font, anchor="mm")
    return np.asarray(image) > 127


def grey(pixels: Pixels) -> Pixels:
    """One channel, (height, width)."""
    return pixels.mean(axis=2).astype(np.uint8)


def quantised(pixels: Pixels, colours: int = 64) -> tuple[Pixels, bytes]:
    """Palette indices, (height, width), and the palette's RGB bytes."""
    image = Image.fromarray(pixels).quantize(colours, dither=Image.Dither.NONE)
    palette = bytes(image.getpalette() or [])[: 3 * colours].ljust(3 * colours, b"\0")
    return np.asarray(image), palette
