"""What the memory of pictures holds: changed copies, and pictures that nobody decided about.

Redoes the tables of docs/memory.md, on the pictures of `benchmarks/quality.py fetch`:

    python -m benchmarks.look_alikes holds /tmp/pictures
    python -m benchmarks.look_alikes strangers /tmp/pictures
    python -m benchmarks.look_alikes cost
"""

from __future__ import annotations

import io
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from benchmarks.quality_pictures import KINDS
from worker.image import generated, prints
from worker.image.decoder import SMALL_SIDE_PX
from worker.memory.index import Index, Item
from worker.resources import rss_bytes

#: Kinds of pictures that the promises are about.
NATURAL = ("photos", "paintings (pieces)", "fantasy portraits")

#: Kinds that are remembered beside these, so that there are a thousand others.
BESIDE = ("photo cut-outs (transparent)", "visual novel")

#: From which correlation of their fine detail on two pictures are one: in another size, in other
#: colours, by light and by dark, or one drawn over the other. It knows nothing of hashes; the pairs
#: are printed, to be looked at.
SAME_PICTURE = 0.8

Change = Callable[[Image.Image], Image.Image]


@click.group()
def main() -> None:
    """Measure."""


def _encode(image: Image.Image, form: str, **options: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, form, **options)
    return Image.open(file).convert("RGB")


def _noise(image: Image.Image) -> Image.Image:
    dice = np.random.default_rng(image.width)
    shape = (image.height, image.width, 3)
    return Image.fromarray(
        np.clip(np.asarray(image) + dice.normal(0, 10, shape), 0, 255).astype(np.uint8)
    )


def _crop(left: float, top: float, right: float, bottom: float) -> Change:
    def change(image: Image.Image) -> Image.Image:
        width, height = image.size
        box = (left * width, top * height, width - right * width, height - bottom * height)
        return image.crop(tuple(round(edge) for edge in box))  # type: ignore[arg-type]

    return change


def _text(image: Image.Image) -> Image.Image:
    image = image.copy()
    place = (image.width / 2, image.height / 2)
    ImageDraw.Draw(image).text(place, "@somebody", "white", anchor="mm", font_size=image.width / 8)
    return image


#: What is done to a copy, by group.
CHANGES: dict[str, dict[str, Change]] = {
    "encoding": {
        "JPEG 30": lambda image: _encode(image, "JPEG", quality=30),
        "JPEG 90": lambda image: _encode(image, "JPEG", quality=90),
        "WebP 50": lambda image: _encode(image, "WEBP", quality=50),
        "GIF": lambda image: _encode(image, "GIF"),
    },
    "size": {
        "half": lambda image: image.resize((image.width // 2, image.height // 2)),
        "96 px, square": lambda image: image.resize((96, 96)),
        "twice": lambda image: image.resize((image.width * 2, image.height * 2)),
    },
    "brightness": {
        "120 %": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
        "80 %": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    },
    "noise": {"10 levels": _noise},
    "greyscale": {"grey": lambda image: image.convert("L").convert("RGB")},
    "mirror": {"mirror": ImageOps.mirror},
    "crops": {
        "2 px each side": lambda i: i.crop((2, 2, i.width - 2, i.height - 2)),
        "5 % in all": _crop(0.025, 0.025, 0.025, 0.025),
        "5 % each side": _crop(0.05, 0.05, 0.05, 0.05),
        "mirror, 2 px, JPEG 60": lambda i: _encode(
            ImageOps.mirror(i.crop((2, 2, i.width - 2, i.height - 2))), "JPEG", quality=60
        ),
    },
    "borders and padding": {
        "white 10 %": lambda image: ImageOps.expand(image, image.width // 10, "white"),
        "black 10 %": lambda image: ImageOps.expand(image, image.width // 10, "black"),
        "purple 10 %, JPEG 60": lambda image: _encode(
            ImageOps.expand(image, image.width // 10, (90, 20, 160)), "JPEG", quality=60
        ),
        "white, to a square": lambda image: ImageOps.pad(image, (512, 512), color="white"),
        "black, to 16:9": lambda image: ImageOps.pad(image, (800, 450), color="black"),
    },
    "not promised": {
        "5 % off one side": _crop(0.05, 0, 0, 0),
        "5 % off two sides": _crop(0.05, 0.05, 0, 0),
        "text over it": _text,
        "turned by 5 degrees": lambda image: image.rotate(5, Image.Resampling.BICUBIC),
    },
}


def pictures(folder: Path, kind: str, most: int) -> Iterator[Image.Image]:
    """Pictures of one kind over white, at most 512 px long, in an order drawn once for all."""
    return (image for _, image in named_pictures(folder, kind, most))


def named_pictures(folder: Path, kind: str, most: int) -> Iterator[tuple[str, Image.Image]]:
    """The same, with the end of their paths."""
    paths = sorted({p for pattern in KINDS[kind][1] for p in folder.glob(pattern) if p.is_file()})
    random.Random(0).shuffle(paths)
    # One wallpaper is larger than a bomb in Pillow's eyes.
    Image.MAX_IMAGE_PIXELS = None
    for path in paths[:most]:
        with Image.open(path) as opened:
            image = opened.convert("RGBA" if opened.has_transparency_data else "RGB")
        if image.mode == "RGBA":
            ground = Image.new("RGB", image.size, "white")
            ground.paste(image, mask=image.getchannel("A"))
            image = ground
        image.thumbnail((512, 512))
        yield "/".join(path.parts[-2:]), image


@main.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--number", default=200, show_default=True, help="Pictures that are blocked.")
@click.option("--kind", "names", multiple=True, help="Of these kinds instead.")
def holds(folder: Path, number: int, names: tuple[str, ...]) -> None:
    """Of changed copies of blocked pictures, the share that is held."""
    names = names or (*NATURAL, "visual novel")
    kinds = [pictures(folder, kind, number) for kind in names]
    chosen: list[Image.Image] = []
    while len(chosen) < number and kinds:
        for kind in list(kinds):
            if (image := next(kind, None)) is None:
                kinds.remove(kind)
            elif min(image.size) >= SMALL_SIDE_PX and prints.kept(image):
                chosen.append(image)
    chosen = chosen[:number]
    items = [
        Item(id=f"{n}-0", pixels="", hashes=tuple(prints.kept(i))) for n, i in enumerate(chosen)
    ]
    index = Index.of(items)
    print(f"{len(chosen)} pictures\n| change | held |\n|---|--:|")
    for group, changes in CHANGES.items():
        of_group: list[bool] = []
        for name, change in changes.items():
            held = [_is_found(index, f"{n}-0", change(image)) for n, image in enumerate(chosen)]
            of_group += held
            print(f"| {group}: {name} | {np.mean(held):.1%} |")
        print(f"| **{group}** | **{np.mean(of_group):.1%}** |", flush=True)


def _is_found(index: Index, place: str, image: Image.Image) -> bool:
    return any(place in index.near(digest) for digest in prints.asked(image))


@main.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--number", default=500, show_default=True, help="Pictures that are remembered.")
def strangers(folder: Path, number: int) -> None:
    """Of pictures nobody decided about, the share that is held by the memory of others."""
    _tell_of_each(
        [one for kind in NATURAL for one in named_pictures(folder, kind, number)],
        [image for kind in BESIDE for image in pictures(folder, kind, number)],
    )
    print(
        "| kind | remembered | asked | without a hash | held | share |\n|---|--:|--:|--:|--:|--:|"
    )
    for kind in KINDS:
        if kind not in NATURAL and kind != "generated avatars":
            of_kind = list(pictures(folder, kind, 2 * number))
            _tell(kind, of_kind[::2], of_kind[1::2])
    for name in ("identicon", "letter"):
        tiles = [Image.open(p).convert("RGB") for p in sorted(folder.glob(f"generated/{name}-*"))]
        _tell(f"{name}s without the rule", tiles[::2], tiles[1::2])
        unexplained = [image for image in tiles if not generated.explain(image)]
        _tell(f"{name}s that no rule explains", unexplained[::2], unexplained[1::2])


def _tell_of_each(named: list[tuple[str, Image.Image]], beside: list[Image.Image]) -> None:
    """Each natural picture by the memory of all the others, and of those beside them."""
    images = [image for _, image in named]
    index = Index.of(
        [
            Item(id=f"{n}-0", pixels="", hashes=tuple(prints.kept(image)))
            for n, image in enumerate([*images, *beside])
        ]
    )
    pairs: set[tuple[int, int]] = set()
    for number, image in enumerate(images):
        for place in {place for digest in prints.asked(image) for place in index.near(digest)}:
            other = int(place.partition("-")[0])
            if other != number:
                pairs.add((number, other))
    details = {n: _detail([*images, *beside][n]) for pair in pairs for n in pair}
    held = {number for number, _ in pairs}
    strange = set()
    for one, other in sorted(pairs):
        alike = abs(float(details[one] @ details[other]))
        if alike < SAME_PICTURE:
            strange.add(one)
        names = [named[n][0] if n < len(named) else "(beside)" for n in (one, other)]
        print(f"{names[0]} is held by {names[1]}: detail {alike:.2f}")
    others = len(images) + len(beside) - 1
    print(
        f"photographs, paintings, portraits: {len(images)} by {others} others:"
        f" {len(held)} held, {len(held - strange)} of them by the same picture,"
        f" {len(strange)} ({len(strange) / len(images):.2%}) by another",
        flush=True,
    )


def _detail(image: Image.Image) -> npt.NDArray[np.float32]:
    """What a blur of 2 px takes from a picture at 64 px, as a vector of length 1."""
    grey = image.convert("L").resize((64, 64), Image.Resampling.BOX)
    blurred = grey.filter(ImageFilter.GaussianBlur(2))
    fine = (np.asarray(grey, np.float32) - np.asarray(blurred, np.float32)).ravel()
    fine -= fine.mean()
    found: npt.NDArray[np.float32] = fine / max(float(np.linalg.norm(fine)), 1e-6)
    return found


def _tell(kind: str, blocked: list[Image.Image], others: list[Image.Image]) -> None:
    items = [
        Item(id=f"{n}-0", pixels="", hashes=tuple(prints.kept(i))) for n, i in enumerate(blocked)
    ]
    index = Index.of(items)
    asked = [prints.asked(image) for image in others]
    held = sum(any(index.near(digest) for digest in digests) for digests in asked)
    silent = sum(not digests for digests in asked)
    share = f"{held / len(others):.2%}" if others else "-"
    print(f"| {kind} | {len(blocked)} | {len(others)} | {silent} | {held} | {share} |", flush=True)


@main.command()
@click.option("--number", default=100_000, show_default=True, help="Pictures that are remembered.")
def cost(number: int) -> None:
    """Milliseconds and bytes of a lookup, and milliseconds of hashing one picture."""
    dice = np.random.default_rng(0)
    image = Image.fromarray(dice.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    image = image.resize((512, 512), Image.Resampling.BICUBIC)
    print(f"asked:  {_best_ms(lambda: prints.asked(image)):.2f} ms a picture without a border")
    framed = ImageOps.expand(image, 40, "white")
    print(f"asked:  {_best_ms(lambda: prints.asked(framed)):.2f} ms a picture with a border")
    print(f"kept:   {_best_ms(lambda: prints.kept(image)):.2f} ms a picture")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.index"
        _fill(path, number)
        before = rss_bytes()
        index = Index.open(path)
        assert index is not None
        queries = [dice.bytes(32) for _ in range(4)]
        plain, bordered = queries[:2], queries

        def look_up(digests: list[bytes]) -> None:
            for digest in digests:
                index.near(digest)

        look_up(bordered)
        print(f"lookup: {_best_ms(lambda: look_up(plain)):.2f} ms a picture, of {number}")
        print(f"lookup: {_best_ms(lambda: look_up(bordered)):.2f} ms a picture with a border")
        for name in ("words", "rows", "edges", "ids", "pixels", "starts"):
            getattr(index, name).sum()
        grown = (rss_bytes() - before) / 1e6
        print(
            f"file:   {os.path.getsize(path) / 1e6:.1f} MB, shared; {grown:.1f} MB when all is read"
        )


def _fill(path: Path, number: int) -> None:
    """Random pictures of five or six hashes, by another process so that this one stays small."""
    if os.fork():
        os.wait()
        return
    dice = random.Random(0)
    items = [
        Item(
            id=f"{n}-0",
            pixels=dice.randbytes(32).hex(),
            hashes=tuple(dice.randbytes(32) for _ in range(5 + n % 2)),
        )
        for n in range(number)
    ]
    Index.of(items).save(path)
    os._exit(0)


def _best_ms(work: Callable[[], object], tries: int = 30) -> float:
    """The median, in processor time: other programs on the machine do not change it."""
    times = []
    for _ in range(tries):
        start_s = time.process_time()
        work()
        times.append(time.process_time() - start_s)
    return float(np.median(times)) * 1000


if __name__ == "__main__":
    sys.exit(main())
