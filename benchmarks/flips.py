"""How stable are verdicts? The same pictures, each changed in twelve harmless ways.

The pictures are those of `quality.py`, as many of each kind. Nothing is drawn over them and nothing
turned: what changes is how a picture was saved, its size, light, noise, mirror and edge.

    python -m benchmarks.quality fetch /tmp/pictures
    python benchmarks/flips.py /tmp/pictures
"""

from __future__ import annotations

import io
import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.quality_pictures import KINDS
from producer.contract import Region
from producer.errors import InvalidInput
from producer.logs import quiet_logging
from producer.settings import load_settings
from worker.model.bundle import Bundle
from worker.moderation.policy import Policy
from worker.moderation.road import policy_in_use
from worker.settings import WorkerSettings
from worker.tools.scoring import Scorer


def _saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture = image.convert("RGB") if file_format == "JPEG" else image
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def _scaled(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((max(1, int(image.width * factor)), max(1, int(image.height * factor))))


def _noisy(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 6, (image.height, image.width, 1))
    pixels = np.asarray(image.convert("RGB"), dtype=float) + noise
    noisy = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if image.mode == "RGBA":
        noisy.putalpha(image.getchannel("A"))
    return noisy


def _light(image: Image.Image, factor: float) -> Image.Image:
    changed = ImageEnhance.Brightness(image.convert("RGB")).enhance(factor)
    if image.mode == "RGBA":
        changed.putalpha(image.getchannel("A"))
    return changed


def _grey(image: Image.Image) -> Image.Image:
    return image.convert("LA").convert("RGBA") if image.mode == "RGBA" else image.convert("L")


def _cropped(image: Image.Image, share: float) -> Image.Image:
    x, y = int(image.width * share), int(image.height * share)
    return image.crop((x, y, image.width - x, image.height - y))


#: Name -> the picture's file after the change. JPEG has no transparency: it goes onto black there.
CHANGES: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG 90": lambda image: _saved(image, "JPEG", quality=90),
    "JPEG 60": lambda image: _saved(image, "JPEG", quality=60),
    "JPEG 30": lambda image: _saved(image, "JPEG", quality=30),
    "WebP 80": lambda image: _saved(image, "WEBP", quality=80),
    "half the size": lambda image: _saved(_scaled(image, 0.5), "PNG"),
    "twice the size": lambda image: _saved(_scaled(image, 2.0), "PNG"),
    "15 % brighter": lambda image: _saved(_light(image, 1.15), "PNG"),
    "15 % darker": lambda image: _saved(_light(image, 0.85), "PNG"),
    "noise": lambda image: _saved(_noisy(image), "PNG"),
    "greyscale": lambda image: _saved(_grey(image), "PNG"),
    "mirror": lambda image: _saved(ImageOps.mirror(image), "PNG"),
    "5 % off each edge": lambda image: _saved(_cropped(image, 0.05), "PNG"),
}


def choose(folder: Path, count: int) -> list[Path]:
    """As many of each kind as there are, up to an equal share; the same every time."""
    files = []
    for _, patterns in KINDS.values():
        found = sorted({path for pattern in patterns for path in folder.glob(pattern)})
        random.Random(2).shuffle(found)
        files.append(found)
    chosen: list[Path] = []
    for rank in range(max(map(len, files))):
        chosen += [found[rank] for found in files if rank < len(found)]
    return chosen[: 2 * count]


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--count", default=200, show_default=True)
@click.option("--models-folder", type=click.Path(exists=True, path_type=Path))
@click.option("--alone", is_flag=True, help="One model judges alone.")
def main(folder: Path, count: int, models_folder: Path | None, alone: bool) -> None:
    """Print the share of verdicts that each change flips, as one JSON object."""
    quiet_logging()
    given = {"models_folder": models_folder} if models_folder else {}
    settings = load_settings(WorkerSettings, **given)
    policy = policy_in_use(settings)
    policy = policy.alone() if alone else policy
    bundle = Bundle.load(settings.bundle, settings.models_folder)
    flips: Counter[str] = Counter()
    verdicts: Counter[str] = Counter()
    unstable = looked = 0
    with Scorer(settings, bundle, None, policy) as scorer:
        for path in choose(folder, count):
            try:
                changed, before = _look(path, scorer, policy)
            except (InvalidInput, OSError):
                continue
            flips.update(changed)
            unstable += bool(changed)
            verdicts[before] += 1
            looked += 1
            if looked == count:
                break
        second = scorer.second_id
    print(
        json.dumps(
            {
                "bundle": bundle.id,
                "second": second or None,
                "pictures": looked,
                "verdicts": verdicts,
                "flipped": round(flips.total() / (looked * len(CHANGES)), 4),
                "pictures_with_any": round(unstable / looked, 4),
                "by_change": {name: round(flips[name] / looked, 4) for name in CHANGES},
            },
            indent=2,
        )
    )


def _look(path: Path, scorer: Scorer, policy: Policy) -> tuple[list[str], str]:
    """(changes that flip the verdict, the verdict of the picture as it is)."""
    with Image.open(path) as opened:
        image = opened.convert(
            "RGBA" if "A" in opened.getbands() or "transparency" in opened.info else "RGB"
        )
    if max(image.size) > 1024:
        image.thumbnail((1024, 1024))

    def verdict(data: bytes) -> str:
        return str(scorer.look(data, policy, Region.DOMESTIC)[1].verdict)

    before = verdict(_saved(image, "PNG"))
    return [name for name, change in CHANGES.items() if verdict(change(image)) != before], before


if __name__ == "__main__":
    main()
