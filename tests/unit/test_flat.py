"""What is explained without a model, and what never is."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from tests.unit.pictures import blotches
from tests.witness.files.drawn import hills, sand, smiley
from worker.image.generated import explain


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """What JPEG makes of a picture."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def letter_tile(text: str, side_px: int = 200) -> Image.Image:
    """White letters on blue."""
    image = Image.new("RGB", (side_px, side_px), (30, 90, 200))
    font = ImageFont.load_default(side_px * 0.5)
    ImageDraw.Draw(image).text((side_px / 2, side_px / 2), text, (255, 255, 255), font, anchor="mm")
    return image


def identicon(cells: int, side_px: int, seed: int = 0) -> Image.Image:
    """A mirrored grid of two colours."""
    half = np.random.default_rng(seed).random((cells, (cells + 1) // 2)) < 0.5
    mask = np.concatenate([half, half[:, : cells // 2][:, ::-1]], axis=1)
    pixels = np.where(mask[..., None], (90, 160, 60), (240, 240, 240)).astype(np.uint8)
    return Image.fromarray(pixels).resize((side_px, side_px), Image.Resampling.NEAREST)


@pytest.mark.parametrize("quality", [60, 95])
def test_single_colours(quality: int) -> None:
    """Also after JPEG."""
    image = Image.new("RGB", (120, 80), (212, 97, 33))
    assert explain(image) == explain(jpeg(image, quality)) == "single colour"


def test_gradients() -> None:
    """Straight and round ones."""
    ramp = Image.linear_gradient("L").resize((200, 200), Image.Resampling.BICUBIC)
    assert explain(Image.merge("RGB", [ramp, ramp.rotate(90), ramp])) == "gradient"


@pytest.mark.parametrize("text", ["A", "K", "W", "7", "MB"])
def test_letter_tiles(text: str) -> None:
    """One or two capitals or digits, also after JPEG."""
    assert explain(letter_tile(text)) == "letter tile"
    assert explain(jpeg(letter_tile(text), 80)) == "letter tile"


@pytest.mark.parametrize(("cells", "side_px"), [(5, 200), (8, 128), (7, 420)])
def test_identicons(cells: int, side_px: int) -> None:
    """Grids of five to eight cells."""
    assert explain(identicon(cells, side_px)) == "identicon"


def test_a_speck_on_an_even_ground_is_not_explained() -> None:
    """Nothing may hide in what the rule takes, however small."""
    for image in (
        Image.new("RGB", (400, 400), (90, 90, 90)),
        letter_tile("A", 400),
        identicon(5, 400),
    ):
        image.paste(blotches(60, 60), (10, 320))
        assert explain(image) is None


def test_silhouettes_and_line_drawings_are_not_letters() -> None:
    """Two colours alone are no letter tile."""
    figure = Image.new("RGB", (200, 200), (255, 255, 255))
    draw = ImageDraw.Draw(figure)
    draw.ellipse((80, 20, 120, 60), fill=(0, 0, 0))
    draw.ellipse((70, 60, 130, 140), fill=(0, 0, 0))
    draw.line((80, 130, 60, 190), fill=(0, 0, 0), width=18)
    draw.line((120, 130, 140, 190), fill=(0, 0, 0), width=18)
    assert explain(figure) is None
    lines = Image.new("RGB", (200, 200), (255, 255, 255))
    draw = ImageDraw.Draw(lines)
    for number in range(12):
        draw.arc((20 + 9 * number, 30, 120 + 5 * number, 180), 0, 300, fill=(0, 0, 0), width=2)
    assert explain(lines) is None


def test_photos_are_not_explained() -> None:
    """Smooth pictures with structure are none of ours."""
    for seed in range(30):
        assert explain(blotches(200, 160, seed)) is None


def hidden_pictures() -> Iterator[np.ndarray]:
    """200 pictures of 200 x 200 px: drawings, blotches, waves, discs; mean 0, contrast 1."""
    dice = np.random.default_rng(0)
    y, x = np.mgrid[0:200, 0:200]
    for number in range(200):
        if number < 3:
            picture = (sand, hills, smiley)[number](200).astype(np.float64)
        elif number < 80:
            picture = np.asarray(blotches(200, 200, number)).astype(np.float64)
        elif number < 140:
            a, b, c, d = dice.uniform(0.005, 0.15, 4)
            waves = [
                np.sin(a * x + b * y + p) * np.cos(c * x - d * y) for p in dice.uniform(0, 1, 3)
            ]
            picture = np.stack(waves, axis=-1)
        else:
            picture = np.zeros((200, 200, 3))
            for _ in range(6):
                left, top, radius = *dice.uniform(20, 180, 2), dice.uniform(5, 50)
                picture[(x - left) ** 2 + (y - top) ** 2 < radius**2] = dice.uniform(0, 255, 3)
        yield (picture - picture.mean(axis=(0, 1))) / np.ptp(picture)


def hiding_places() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pictures that are taken, none of them white, and the parts that could hide another."""
    y, x = np.mgrid[0:200, 0:200]
    disc = (x - 100) ** 2 + (y - 100) ** 2 < 45**2
    for tile in (
        Image.new("RGB", (200, 200), (90, 120, 200)),
        letter_tile("A"),
        letter_tile("MB"),
        identicon(5, 200),
        identicon(8, 200, 2),
    ):
        pixels = np.asarray(tile).astype(np.float64) * 0.9
        assert explain(Image.fromarray(pixels.round().astype(np.uint8)))
        ink = np.abs(pixels - pixels[0, 0]).max(axis=2) > 60
        for place in (np.ones_like(ink), ink, ~ink, disc):
            if place.any():
                yield pixels, place


def test_no_picture_can_be_hidden() -> None:
    """At any contrast that people can see, in a part or in all of what would be taken."""
    places = list(hiding_places())
    for number, picture in enumerate(hidden_pictures()):
        for contrast in ((4, 30, 127), (6, 12, 255))[number % 2]:
            pixels, place = places[(number * 3 + contrast) % len(places)]
            added = np.where(place[..., None], picture * contrast, 0)
            shown = (pixels + added).round().clip(0, 255)
            if np.ptp(shown - pixels.round()) > 3:
                assert explain(Image.fromarray(shown.astype(np.uint8))) is None, (number, contrast)


@pytest.mark.parametrize("quality", [75, 90])
def test_no_picture_can_be_hidden_in_the_noise_of_jpeg(quality: int) -> None:
    """What JPEG's own noise does not drown is found beside outlines as well."""
    places = list(hiding_places())
    for number, picture in list(enumerate(hidden_pictures()))[::4]:
        contrast = (16, 30, 60, 127)[number // 4 % 4]
        pixels, place = places[number // 4 % len(places)]
        added = np.where(place[..., None], picture * contrast, 0)
        shown = Image.fromarray((pixels + added).round().clip(0, 255).astype(np.uint8))
        assert explain(jpeg(shown, quality)) is None, (number, contrast)


def test_a_letter_over_a_faint_photograph_is_no_tile() -> None:
    """Half the contrast is not explained either."""
    ground = 150 + (sand(256).astype(np.float64) - 150) * 0.5
    image = Image.fromarray(ground.round().astype(np.uint8))
    font = ImageFont.load_default(90)
    ImageDraw.Draw(image).text((128, 128), "H", (255, 255, 255), font, anchor="mm")
    assert explain(image) is None


@pytest.mark.parametrize("share", [0.15, 0.3])
def test_a_picture_of_dots_in_a_letter_is_no_tile(share: float) -> None:
    """Two colours and nearly the letter's shape, but dots and holes draw something else in it."""
    pixels = np.asarray(letter_tile("W", 400)).copy()
    ink = np.abs(pixels.astype(np.int16) - pixels[0, 0]).max(axis=2) > 200
    dots = np.random.default_rng(0).random(ink.shape) < share * (smiley(400)[..., 0] < 200)
    pixels[dots & ink] = pixels[0, 0]
    assert explain(Image.fromarray(pixels)) is None


def test_large_gradients() -> None:
    """Of any size, without a multiple of their memory."""
    ramp = np.broadcast_to(np.linspace(20, 220, 2400)[:, None, None], (2400, 2400, 3))
    assert explain(Image.fromarray(ramp.astype(np.uint8))) == "gradient"
