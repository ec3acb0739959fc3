"""What is explained without a model, and what never is."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from tests.unit.pictures import blotches
from worker.flat import explain


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
