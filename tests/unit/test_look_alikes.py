"""Perceptual hashes and the index that searches them."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from worker.image import prints
from worker.memory.index import MOST_BITS, Index, Item


def painting(seed: int, width_px: int = 320, height_px: int = 240) -> Image.Image:
    """A smooth picture with some shapes; different seeds look different."""
    dice = np.random.default_rng(seed)
    small = Image.fromarray(dice.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    image = small.resize((width_px, height_px), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = dice.integers(0, width_px), dice.integers(0, height_px)
        colour = tuple(int(level) for level in dice.integers(0, 256, 3))
        draw.ellipse((x - 30, y - 20, x + 30, y + 20), fill=colour)
    return image


def encoded(image: Image.Image, form: str, **options: int) -> Image.Image:
    """The same picture through a file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return Image.open(file).convert("RGB")


def distance(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()


def nearest(kept: list[bytes], asked: list[bytes]) -> int:
    return min(distance(k, a) for k in kept for a in asked)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: encoded(image, "JPEG", quality=40),
        lambda image: encoded(image, "WEBP", quality=50),
        lambda image: image.resize((96, 72)),
        lambda image: ImageEnhance.Brightness(image).enhance(0.8),
        lambda image: image.convert("L").convert("RGB"),
        ImageOps.mirror,
        lambda image: image.crop((2, 2, image.width - 2, image.height - 2)),
        lambda image: image.crop((16, 12, image.width - 16, image.height - 12)),
        lambda image: ImageOps.expand(image, 30, "white"),
        lambda image: encoded(ImageOps.expand(image, 30, (90, 20, 160)), "JPEG", quality=60),
        lambda image: ImageOps.pad(image, (400, 400), color="black"),
    ],
    ids=["jpeg", "webp", "size", "dark", "grey", "mirror", "2px", "5%", "white", "jpeg+", "pad"],
)
def test_a_changed_copy_is_found_again(change) -> None:
    """Of a picture with ten hashes, whatever is done to it that people hardly see."""
    for seed in range(5):
        image = painting(seed)
        assert nearest(prints.kept(image), prints.asked(change(image))) <= MOST_BITS


def test_other_pictures_are_far_away() -> None:
    """None of thirty looks like another."""
    kept = [prints.kept(painting(seed)) for seed in range(30)]
    asked = [prints.asked(painting(seed)) for seed in range(30)]
    for one in range(30):
        assert all(
            nearest(kept[one], asked[other]) > MOST_BITS for other in range(30) if other != one
        )


def test_what_shows_too_little_has_no_hash() -> None:
    """One colour and a soft gradient, once remembered, would be found in every other one."""
    red = Image.new("RGB", (200, 200), "red")
    assert prints.asked(red) == prints.kept(red) == []
    assert prints.kept(Image.linear_gradient("L").convert("RGB")) == []


def test_five_hashes_are_kept_and_a_picture_is_asked_for_as_it_is_and_mirrored() -> None:
    """Two more without a border; the first of both is that of the whole picture."""
    image = painting(1)
    framed = ImageOps.expand(image, 40, "black")
    kept = prints.kept(image)
    assert (len(kept), len(prints.kept(framed)), len(prints.asked(framed))) == (5, 6, 4)
    assert prints.asked(image) == [kept[0], prints.kept(ImageOps.mirror(image))[0]]


def test_what_is_nearly_white_is_found_when_it_is_made_brighter() -> None:
    """What such a copy loses is lost in a hash that is kept, too; a dark picture needs none."""
    dark = painting(1).point(lambda level: level // 2)
    assert len(prints.kept(dark)) == 5
    for seed in range(5):
        pale = painting(seed).point(lambda level: 160 + level * 95 // 255)
        kept, asked = prints.kept(pale), prints.asked(ImageEnhance.Brightness(pale).enhance(1.2))
        assert nearest(kept, asked) <= 8 < nearest(kept[:5], asked)
        assert len(kept) == 6


def items(count: int, seed: int = 0) -> list[Item]:
    """Pictures with up to ten random hashes each."""
    dice = random.Random(seed)
    return [
        Item(
            id=f"{1000 + number}-{number % 3}",
            pixels=dice.randbytes(32).hex() if number % 2 else "",
            hashes=tuple(dice.randbytes(32) for _ in range(dice.randrange(11))),
        )
        for number in range(count)
    ]


def flipped(digest: bytes, bits: int, seed: int = 0) -> bytes:
    """A hash so far from another."""
    number = int.from_bytes(digest)
    for bit in random.Random(seed).sample(range(256), bits):
        number ^= 1 << bit
    return number.to_bytes(32)


def test_the_index_finds_what_a_slow_search_finds() -> None:
    """Up to 31 of 256 bits away; each picture once, with its nearest hash."""
    found = items(400)
    index = Index.of(found)
    for number in range(0, 400, 7):
        if not found[number].hashes:
            continue
        digest = found[number].hashes[-1]
        for bits in (0, 1, 15, 24, 31, 32, 60):
            expected = {found[number].id: bits} if bits <= MOST_BITS else {}
            assert index.near(flipped(digest, bits, bits)) == expected


def test_an_empty_index_finds_nothing() -> None:
    """As when nobody has decided anything."""
    index = Index.of([])
    assert (len(index), index.near(bytes(32)), index.with_pixels("ab" * 32)) == (0, {}, [])


def test_joined_indexes_are_one() -> None:
    """Pages of the log in their order."""
    found = items(90)
    parts = [Index.of(found[:30]), Index.of([]), Index.of(found[30:])]
    joined, whole = Index.joined(parts), Index.of(found)
    for item in found:
        assert joined.with_pixels(item.pixels) == whole.with_pixels(item.pixels)
        for digest in item.hashes:
            assert joined.near(digest) == whole.near(digest) == {item.id: 0}
    assert joined.last == found[-1].id


def test_a_file_is_the_index(tmp_path: Path) -> None:
    """Mapped, not read; what is no such file is none."""
    path = tmp_path / "memory" / "x.index"
    found = items(50)
    Index.of(found).save(path)
    opened = Index.open(path)
    assert opened is not None
    assert (len(opened), opened.last) == (50, found[-1].id)
    digest = found[3].hashes[0] if found[3].hashes else found[4].hashes[0]
    assert opened.near(digest) == Index.of(found).near(digest)
    assert [p.name for p in path.parent.iterdir()] == ["x.index"]
    data = path.read_bytes()
    for bad in (b"", b"{}", data[:4100], data.replace(b'"version": 3', b'"version": 2')):
        path.write_bytes(bad)
        assert Index.open(path) is None
    assert Index.open(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (1, "0b505c98eb3014c9ab775480ab7fabfd01412b7e0347f33f135877770b501b76"),
        (2, "636d44b32b6f7438abe35404ab2aabff4515a8e9431141f72b45d1dcaa410df7"),
        (3, "aaaa408dabf7ec82aaef5600acaa81fbbb6d8940a3aa01f5ab65a9e58ababdc0"),
    ],
)
def test_hashes_are_those_of_the_reference(seed: int, expected: str) -> None:
    """As pdqhash 0.2.8 computed them, so that lists can be exchanged."""
    y, x = np.mgrid[0:256, 0:256]
    waves = 127 + 60 * np.sin(x * seed / 17) + 50 * np.cos(y * (seed + 1) / 23)
    found, quality = prints.pdq((waves + (x * y * seed) % 13).astype(np.uint8))
    assert (found.hex(), quality) == (expected, 100)
