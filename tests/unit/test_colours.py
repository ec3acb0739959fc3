"""What a pixel's colour becomes, against values computed from the formats' own definitions."""

from __future__ import annotations

import io
import zlib

import numpy as np
import numpy.typing as npt
import pillow_heif
import pytest
from PIL import Image

from tests.unit.pictures import (
    chunk,
    encode,
    grey_icc_profile,
    icc_profile,
    orientation_exif,
    png,
    png_of,
)
from worker.image.containers.formats import DecodeLimits
from worker.image.frames import Frames, prepare_codecs

#: Linear sRGB to XYZ at D50. Source: IEC 61966-2-1 primaries, Bradford-adapted (ICC.1 annex E).
SRGB_TO_XYZ = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)
#: Linear Display P3 to XYZ at D50. Source: SMPTE EG 432-1 primaries, Bradford-adapted.
P3_TO_XYZ = np.array(
    [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]
)


@pytest.fixture(autouse=True)
def _codecs() -> None:
    prepare_codecs()


def decoded(data: bytes) -> npt.NDArray[np.int64]:
    """Return the first frame's samples."""
    return np.asarray(Frames(data, DecodeLimits(), 10**6).read(0).image).astype(np.int64)


def from_linear(linear: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Encode linear light as sRGB levels."""
    linear = linear.clip(0, 1)
    curve = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return 255 * curve


PATCHES = np.array(
    [[[200, 60, 30], [20, 180, 90], [40, 70, 210], [128, 128, 128]]] * 2, dtype=np.uint8
)


def test_display_p3_becomes_srgb() -> None:
    """A matrix profile is applied as its primaries say."""
    profile = icc_profile(P3_TO_XYZ, 2.2)
    linear = (PATCHES / 255.0) ** (round(2.2 * 256) / 256)
    expected = from_linear(linear @ P3_TO_XYZ.T @ np.linalg.inv(SRGB_TO_XYZ).T)
    data = encode(Image.fromarray(PATCHES), "PNG", icc_profile=profile)
    assert np.abs(decoded(data) - expected).max() <= 2


def test_a_profile_that_swaps_red_and_green_is_believed_whatever_its_name() -> None:
    """A hostile profile shows here what it shows in a browser."""
    profile = icc_profile(SRGB_TO_XYZ[:, [1, 0, 2]], 2.2)
    data = encode(Image.new("RGB", (4, 4), (255, 0, 0)), "WebP", lossless=True, icc_profile=profile)
    assert np.abs(decoded(data)[0, 0] - (0, 255, 0)).max() <= 6


def test_a_grey_profile_applies_to_grey_pixels() -> None:
    """Linear grey is brightened to sRGB."""
    ramp = np.array([[0, 30, 100, 255]], dtype=np.uint8)
    data = encode(Image.fromarray(ramp), "PNG", icc_profile=grey_icc_profile(1.0))
    expected = from_linear(ramp / 255.0)
    assert np.abs(decoded(data)[..., 0] - expected).max() <= 2


def test_a_damaged_profile_is_ignored_as_browsers_do() -> None:
    """The colours stay as they are."""
    data = encode(Image.fromarray(PATCHES), "PNG", icc_profile=b"no profile at all" * 20)
    assert np.array_equal(decoded(data), PATCHES)


def test_cmyk_jpegs_are_not_inverted() -> None:
    """Ink over paper: (1 - ink)(1 - black), also with Adobe's inverted storage."""
    inks = np.full((16, 16, 4), (0, 128, 255, 64), dtype=np.uint8)
    data = encode(Image.fromarray(inks, "CMYK"), "JPEG", quality=100, subsampling=0)
    expected = [(255 - ink) * (255 - 64) / 255 for ink in (0, 128, 255)]
    assert np.abs(decoded(data)[8, 8] - expected).max() <= 3


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bit_samples_are_scaled(colour_type: int, channels: int) -> None:
    """Each 16-bit sample becomes the nearest level, give or take one."""
    samples = np.random.default_rng(1).integers(0, 65536, (5, 7, channels))
    result = decoded(png(samples, colour_type=colour_type, bit_depth=16))
    levels = samples / 257
    expected = np.repeat(levels[..., :1], 3, axis=2) if channels < 3 else levels[..., :3]
    if channels in (2, 4):
        expected = np.concatenate([expected, levels[..., -1:]], axis=2)
    assert np.abs(result - expected).max() <= 1


def test_16_bit_grey_with_a_transparent_level() -> None:
    """The level of tRNS shines through, its neighbour does not."""
    samples = np.array([[1000, 1001]])
    data = png(samples, colour_type=0, bit_depth=16, chunks=chunk(b"tRNS", b"\x03\xe8"))
    assert decoded(data)[0, :, 3].tolist() == [0, 255]


def test_palette_with_transparency() -> None:
    """Colours come from the palette, alpha from tRNS; entries beyond it are opaque."""
    palette = chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60, 70, 80, 90]))
    data = png(
        np.array([[0, 1, 2]]), colour_type=3, chunks=palette + chunk(b"tRNS", bytes([0, 128]))
    )
    assert decoded(data).tolist() == [[[10, 20, 30, 0], [40, 50, 60, 128], [70, 80, 90, 255]]]


def test_grey_with_alpha_and_one_bit() -> None:
    """Grey fills three channels; one-bit pixels are black and white."""
    grey = png(np.array([[[7, 255], [9, 100]]]), colour_type=4)
    assert decoded(grey).tolist() == [[[7, 7, 7, 255], [9, 9, 9, 100]]]
    bits = png(np.array([[0, 1, 1, 0]]), colour_type=0, bit_depth=1)
    assert decoded(bits)[0, :, 0].tolist() == [0, 255, 255, 0]


def test_rgb_with_one_transparent_colour() -> None:
    """The colour of tRNS shines through."""
    data = png(
        np.array([[[1, 2, 3], [1, 2, 4]]]),
        colour_type=2,
        chunks=chunk(b"tRNS", b"\0\1\0\2\0\3"),
    )
    assert decoded(data)[0, :, 3].tolist() == [0, 255]


def test_opaque_alpha_is_no_transparency() -> None:
    """A picture that only has an alpha channel counts as opaque."""
    data = png(np.full((3, 3, 4), 255), colour_type=6)
    assert decoded(data).shape == (3, 3, 3)


def test_png_gamma_is_applied_as_browsers_do() -> None:
    """A gamma of 1 means linear samples: the trick that hides a picture from naive readers."""
    linear = chunk(b"gAMA", (100_000).to_bytes(4, "big"))
    samples = np.array([[[0, 50, 200]]])
    expected = 255 * (samples / 255) ** 0.45455
    assert np.abs(decoded(png(samples, colour_type=2, chunks=linear)) - expected).max() <= 1
    srgb = chunk(b"sRGB", b"\0")
    untouched = decoded(png(samples, colour_type=2, chunks=srgb + linear))
    assert untouched.tolist() == samples.tolist()


def test_bmp_rows_run_upwards() -> None:
    """The first stored row is the lowest."""
    samples = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    data = encode(Image.fromarray(samples), "BMP")
    assert np.array_equal(decoded(data), samples)


UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WebP"])
def test_exif_turns_the_picture_upright(orientation: int, name: str) -> None:
    """All eight orientations, in every format that carries EXIF."""
    stored = np.zeros((16, 32, 3), dtype=np.uint8)
    stored[:8, :8] = 255
    stored[8:, 16:] = (255, 0, 0)
    options = {"quality": 100} | ({"lossless": True} if name == "WebP" else {})
    data = encode(Image.fromarray(stored), name, exif=orientation_exif(orientation), **options)
    expected = UPRIGHT[orientation](stored).astype(np.int64)
    if name == "WebP" and orientation > 1:
        # Browsers do not turn WebP; other viewers do, so both are seen.
        assert np.array_equal(decoded(data), stored)
        turned = Frames(data, DecodeLimits(), 10**6).read(0).renditions[f"turned-{orientation}"]
        assert np.array_equal(np.asarray(turned), expected)
        return
    assert np.abs(decoded(data) - expected).mean() < 3


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_nonsense_orientations_turn_nothing(orientation: int) -> None:
    """Values outside 1 to 8 are ignored."""
    data = encode(Image.fromarray(PATCHES), "PNG", exif=orientation_exif(orientation))
    assert np.array_equal(decoded(data), PATCHES)


def test_heic_and_avif_keep_their_colours() -> None:
    """A lossy round trip stays near."""
    flat = Image.new("RGB", (64, 64), (200, 60, 30))
    heic = pillow_heif.from_pillow(flat)
    buffer = io.BytesIO()
    heic.save(buffer, quality=95)
    for data in (buffer.getvalue(), encode(flat, "AVIF", quality=95)):
        assert np.abs(decoded(data)[32, 32] - (200, 60, 30)).max() <= 6


def test_what_is_transparent_does_not_bleed_when_shrunk() -> None:
    """Hidden red beside opaque blue leaves no purple."""
    samples = np.zeros((64, 64, 4), dtype=np.uint8)
    samples[:, ::2] = (255, 0, 0, 0)
    samples[:, 1::2] = (0, 0, 255, 255)
    data = encode(Image.fromarray(samples, "RGBA"), "PNG")
    small = np.asarray(Frames(data, DecodeLimits(), 16).read(0).image)
    assert small.shape == (16, 16, 4)
    assert small[8, 8, :3].tolist() == [0, 0, 255]
    assert abs(int(small[8, 8, 3]) - 127) <= 1


def test_zlib_level_does_not_matter() -> None:
    """Stored, unpacked pixels are read like packed ones."""
    pixels = zlib.compress(b"\0\1\2\3", 0)
    assert decoded(png_of(1, 1, pixels)).tolist() == [[[1, 2, 3]]]
