"""How the pipeline judges harmless pictures: approved, gray, blocked, rejected per kind.

Redoes docs/quality.md. The pictures come from Debian packages and stay in a folder of yours:

    python benchmarks/quality.py fetch /tmp/pictures
    python benchmarks/quality.py measure /tmp/pictures /tmp/scores.jsonl
    python benchmarks/quality.py report /tmp/scores.jsonl
"""

from __future__ import annotations

import io
import json
import random
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from producer.errors import InvalidInput
from worker.bundle import Bundle
from worker.decode import DecodeLimits, Decoder, ViewOptions
from worker.engine import Engine
from worker.style import StyleHead

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
PER_KIND = 250

PHOTO_CUT_OFFS, DRAWN_CUT_OFFS = (0.05, 0.95), (0.03, 0.98)


@click.group()
def main() -> None:
    """Fetch, measure, report."""


# -- fetch ---------------------------------------------------------------------------------------


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
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


# -- measure -------------------------------------------------------------------------------------


@main.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.argument("scores", type=click.Path(path_type=Path))
@click.option("--bundle", default="open-nsfw", show_default=True)
@click.option("--models", type=click.Path(path_type=Path), default=Path("models"))
@click.option("--per-kind", default=PER_KIND, show_default=True)
@click.option("--pad-to-square", is_flag=True)
@click.option("--served-crop", default="none")
@click.option("--side-px", type=int, help="Shrink every picture to this short side first.")
def measure(
    folder: Path,
    scores: Path,
    bundle: str,
    models: Path,
    per_kind: int,
    pad_to_square: bool,
    served_crop: Any,
    side_px: int | None,
) -> None:
    """Decode and score a sample of every kind; write one JSON line a picture."""
    loaded = Bundle.load(bundle, models)
    engine = Engine(loaded, threads=1, micro_batch=1)
    style = StyleHead()
    options = ViewOptions(
        spec=loaded.input, pad_to_square=pad_to_square, served_crop=served_crop, flat_rule=True
    )
    with Decoder(DecodeLimits(), options) as decoder, scores.open("w") as output:
        decoder.start()
        for kind, path in _sample(folder, per_kind):
            data = path.read_bytes() if side_px is None else _shrunk(path, side_px)
            line = {"kind": kind, "path": str(path.relative_to(folder)), "bytes": len(data)}
            start_s = time.perf_counter()
            try:
                picture = decoder.decode(data)
            except InvalidInput as error:
                output.write(json.dumps({**line, "rejected": f"{error.code}: {error}"}) + "\n")
                continue
            decode_s = time.perf_counter() - start_s
            views = [
                {
                    "frame": view.frame,
                    "background": view.background,
                    "crop": view.crop,
                    "share": round(view.shown_share, 4),
                    "p": engine.score(view.pixels[None])[0].probability,
                }
                for view in picture.views
            ]
            worst = max(range(len(views)), key=lambda index: views[index]["p"])
            drawn = style.drawn_probability(picture.views[worst].pixels)
            line |= {
                "size": (picture.width_px, picture.height_px),
                "frames": picture.frame_count,
                "decode_s": decode_s,
                "flat": picture.flat,
                "drawn": drawn,
                "views": views,
            }
            output.write(json.dumps(line) + "\n")


def _sample(folder: Path, per_kind: int) -> Iterator[tuple[str, Path]]:
    for kind, (_, patterns) in KINDS.items():
        paths = sorted({path for pattern in patterns for path in folder.glob(pattern)})
        paths = [path for path in paths if path.is_file() and not path.is_symlink()]
        chosen = random.Random(0).sample(paths, min(per_kind, len(paths)))
        click.echo(f"{kind}: {len(chosen)} of {len(paths)}", err=True)
        for path in sorted(chosen):
            yield kind, path


def _shrunk(path: Path, side_px: int) -> bytes:
    with Image.open(path) as image:
        scale = side_px / min(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        small = image.convert("RGBA" if image.has_transparency_data else "RGB").resize(size)
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return buffer.getvalue()


# -- report --------------------------------------------------------------------------------------


@main.command()
@click.argument("scores", type=click.Path(exists=True, path_type=Path))
def report(scores: Path) -> None:
    """Print the tables of docs/quality.md from measured scores."""
    lines = [json.loads(line) for line in scores.read_text().splitlines()]
    for title, style_rule, flat_rule in (
        ("one pair of cut-offs, no flat rule", False, False),
        ("with the flat rule", False, True),
        ("with the style rule", True, False),
        ("with both", True, True),
    ):
        print(f"\n{title}\n| kind | n | approved | gray | blocked | rejected |")
        print("|---|--:|--:|--:|--:|--:|")
        for kind in KINDS:
            of_kind = [line for line in lines if line["kind"] == kind]
            if of_kind:
                verdicts = Counter(verdict(line, style_rule, flat_rule) for line in of_kind)
                shares = [
                    f"{verdicts[name] / len(of_kind):.1%}"
                    for name in ("approved", "gray", "blocked", "rejected")
                ]
                print(f"| {kind} | {len(of_kind)} | {' | '.join(shares)} |")
    _report_cost(lines)
    _report_style(lines)


def verdict(line: dict[str, Any], style_rule: bool, flat_rule: bool) -> str:
    """Judge one measured picture by its worst view."""
    if "rejected" in line:
        return "rejected"
    if flat_rule and line["flat"]:
        return "approved"
    probability = max(view["p"] for view in line["views"])
    low, high = DRAWN_CUT_OFFS if style_rule and line["drawn"] >= 0.5 else PHOTO_CUT_OFFS
    if probability < low:
        return "approved"
    return "blocked" if probability >= high else "gray"


def _report_cost(lines: list[dict[str, Any]]) -> None:
    print("\n| kind | decode ms, median | p95 | views a picture |\n|---|--:|--:|--:|")
    for kind in KINDS:
        decoded = [line for line in lines if line["kind"] == kind and "views" in line]
        if decoded:
            costs_ms = np.array([line["decode_s"] for line in decoded]) * 1000
            views = sum(len(line["views"]) for line in decoded) / len(decoded)
            print(
                f"| {kind} | {np.median(costs_ms):.1f} | {np.quantile(costs_ms, 0.95):.1f} "
                f"| {views:.2f} |"
            )


def _report_style(lines: list[dict[str, Any]]) -> None:
    print("\n| kind | said to be drawn |\n|---|--:|")
    for kind in KINDS:
        drawn = [line["drawn"] >= 0.5 for line in lines if line["kind"] == kind and "drawn" in line]
        if drawn:
            print(f"| {kind} | {sum(drawn) / len(drawn):.1%} |")


if __name__ == "__main__":
    sys.exit(main())
