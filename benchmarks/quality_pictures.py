"""Harmless pictures of many kinds: from Debian packages, and made here as sites make them.

Used by quality.py; nothing is installed.
"""

from __future__ import annotations

import io
import random
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageDraw, ImageFont

PACKAGES = (
    "dde-account-faces",
    "gcompris-qt-data",
    "gnome-backgrounds",
    "mate-backgrounds",
    "openclipart-png",
    "pidgin-themes",
    "renpy-thequestion",
    "tuxpaint-stamps-default",
    "wesnoth-1.16-data",
)

#: Kind -> (drawn?, glob patterns below the fetched folder).
KINDS: dict[str, tuple[bool | None, tuple[str, ...]]] = {
    "photos": (
        False,
        (
            "mate-backgrounds/**/nature/*.jpg",
            "gnome-backgrounds/**/*.webp",
            "rcc/erase/*",
            "rcc/explore_monuments/*",
            "rcc/explore_world_animals/*",
            "rcc/explore_farm_animals/*",
            "rcc/categorization/*",
        ),
    ),
    "photo cut-outs (transparent)": (
        False,
        ("tuxpaint-stamps-default/**/animals/**/*.png", "tuxpaint-stamps-default/**/food/**/*.png"),
    ),
    "paintings (pieces)": (True, ("rcc/paintings/*",)),
    "fantasy portraits": (True, ("wesnoth-1.16-data/**/core/images/portraits/**/*.png",)),
    "game sprites (72 px, transparent)": (
        True,
        ("wesnoth-1.16-data/**/core/images/units/**/*.png",),
    ),
    "visual novel": (True, ("renpy-thequestion/**/game/images/**/*.[pj][np]g",)),
    "desktop avatars": (True, ("dde-account-faces/**/*.png",)),
    "clip art": (True, ("openclipart-png/**/png/*/**/*.png",)),
    "smileys (some animated, under 80 px)": (True, ("pidgin-themes/**/*.gif",)),
    "generated avatars": (None, ("generated/*",)),
}


def fetch(folder: Path) -> None:
    """Unpack the Debian packages into FOLDER and make generated avatars; installs nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True)
        (deb,) = folder.glob(f"{package}_*.deb")
        subprocess.run(["dpkg", "-x", deb, folder / package], check=True)
        deb.unlink()
    for container in folder.glob("gcompris-qt-data/**/*.rcc"):
        target = folder / "rcc" / container.stem
        for number, picture in enumerate(_carve_webp(container.read_bytes())):
            target.mkdir(parents=True, exist_ok=True)
            (target / f"{number:04}.webp").write_bytes(picture)
    (folder / "generated").mkdir(exist_ok=True)
    for name, image in _generated(random.Random(0)):
        image.save(folder / "generated" / f"{name}.png")


def _carve_webp(data: bytes) -> Iterator[bytes]:
    at = data.find(b"RIFF")
    while at >= 0:
        if data[at + 8 : at + 12] == b"WEBP":
            (size,) = struct.unpack("<I", data[at + 4 : at + 8])
            yield data[at : at + 8 + size]
        at = data.find(b"RIFF", at + 4)


def _generated(dice: random.Random) -> Iterator[tuple[str, Image.Image]]:
    makers: dict[str, Callable[[random.Random, int], Image.Image]] = {
        "single": _single,
        "letter": _letter,
        "identicon": _identicon,
        "quarters": _quarters,
    }
    for name, make in makers.items():
        for number in range(60):
            image = make(dice, dice.choice((80, 128, 200, 256, 420, 512)))
            yield f"{name}-{number:02}", image
            if number % 3 == 0:
                buffer = io.BytesIO()
                image.save(buffer, "JPEG", quality=dice.choice((60, 75, 90)))
                yield f"{name}-{number:02}-jpeg", Image.open(buffer)


def _colour(dice: random.Random) -> tuple[int, int, int]:
    return dice.randrange(256), dice.randrange(256), dice.randrange(256)


def _single(dice: random.Random, side_px: int) -> Image.Image:
    return Image.new("RGB", (side_px, side_px), _colour(dice))


def _letter(dice: random.Random, side_px: int) -> Image.Image:
    image = _single(dice, side_px)
    text = "".join(dice.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(dice.choice((1, 1, 2))))
    ink = dice.choice(((255, 255, 255), (20, 20, 20), _colour(dice)))
    font = ImageFont.load_default(side_px * dice.uniform(0.35, 0.6))
    ImageDraw.Draw(image).text((side_px / 2, side_px / 2), text, ink, font, anchor="mm")
    return image


def _identicon(dice: random.Random, side_px: int) -> Image.Image:
    cells = dice.choice((5, 7, 8))
    image = Image.new("RGB", (cells, cells), dice.choice(((240, 240, 240), (255, 255, 255))))
    ink = _colour(dice)
    for x in range((cells + 1) // 2):
        for y in range(cells):
            if dice.random() < 0.5:
                image.putpixel((x, y), ink)
                image.putpixel((cells - 1 - x, y), ink)
    return image.resize((side_px, side_px), Image.Resampling.NEAREST)


def _quarters(dice: random.Random, side_px: int) -> Image.Image:
    cells = np.array([[_colour(dice) for _ in range(2)] for _ in range(2)], dtype=np.uint8)
    return Image.fromarray(cells).resize((side_px, side_px), Image.Resampling.NEAREST)


def sample(folder: Path, per_kind: int, kinds: tuple[str, ...] = ()) -> Iterator[tuple[str, Path]]:
    """Kind and path of so many pictures of each kind; always the same."""
    for kind, (_, patterns) in KINDS.items():
        if kinds and not any(name in kind for name in kinds):
            continue
        paths = sorted({path for pattern in patterns for path in folder.glob(pattern)})
        paths = [path for path in paths if path.is_file() and not path.is_symlink()]
        chosen = random.Random(0).sample(paths, min(per_kind, len(paths)))
        click.echo(f"{kind}: {len(chosen)} of {len(paths)}", err=True)
        for path in sorted(chosen):
            yield kind, path


def shrunk(path: Path, side_px: int) -> bytes:
    """A picture as PNG with this short side."""
    with Image.open(path) as image:
        scale = side_px / min(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        small = image.convert("RGBA" if image.has_transparency_data else "RGB").resize(size)
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return buffer.getvalue()
