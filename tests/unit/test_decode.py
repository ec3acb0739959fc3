"""The decoder from outside: files in, views or a refusal out."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from producer.errors import CorruptImage, ImageBomb, ImageTooLarge, UnsupportedImage
from worker.decode import DecodeLimits, Decoder, ViewOptions
from worker.pixels import InputSpec

SPEC = InputSpec(
    width_px=224, height_px=224, resize="stretch", resize_px=256, interpolation="bilinear"
)
LIMITS = DecodeLimits(max_bytes=2 * 2**20)


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(LIMITS, ViewOptions(spec=SPEC)) as decoder:
        yield decoder


def blotches(width_px: int, height_px: int, seed: int = 0) -> Image.Image:
    """Make a colourful picture that no rule takes for generated."""
    cells = np.random.default_rng(seed).integers(0, 255, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((width_px, height_px), Image.Resampling.BICUBIC)


def encode(image: Image.Image, format_name: str, **options: object) -> bytes:
    """Write a picture to bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["PNG", "JPEG", "GIF", "WebP", "BMP", "AVIF"])
def test_an_ordinary_picture_becomes_one_view(decoder: Decoder, name: str) -> None:
    """Every accepted format gives one view of the bundle's size."""
    picture = decoder.decode(encode(blotches(200, 160), name))
    assert (picture.format, picture.width_px, picture.height_px) == (name, 200, 160)
    assert [view.pixels.shape for view in picture.views] == [(224, 224, 3)]
    assert picture.flat is None


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", CorruptImage, "empty"),
        (b"%PDF-1.7 ...", UnsupportedImage, "a PDF document; send JPEG"),
        (b"<?xml version='1.0'?><svg xmlns='x'/>", UnsupportedImage, "an SVG drawing"),
        (b"8BPS\0\1", UnsupportedImage, "a Photoshop file"),
        (b"\x01\x02\x03\x04", UnsupportedImage, "not a picture"),
        (b"x" * (2 * 2**20 + 1), ImageTooLarge, "2,097,153 bytes"),
        (encode(blotches(64, 64), "PNG")[:-9], CorruptImage, "truncated"),
        (encode(blotches(64, 64), "JPEG")[:900], CorruptImage, "truncated"),
        (encode(Image.new("1", (17_000, 10)), "PNG"), ImageBomb, "17000 x 10"),
    ],
)
def test_what_is_no_usable_picture_is_refused_with_its_reason(
    decoder: Decoder, data: bytes, error: type[Exception], words: str
) -> None:
    """Each kind of refusal has its class and says what is wrong."""
    with pytest.raises(error, match=words):
        decoder.decode(data)
