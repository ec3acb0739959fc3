"""Any pixel layout of the accepted formats as 8-bit sRGB, in each way that viewers show it.

Colour data is applied to every pixel before anything is shrunk. Pure: Pillow pictures in and out.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageCms

from worker.image.containers import profiles
from worker.image.containers.contents import eight_bit

#: Colour space of an ICC profile -> the mode that it applies to. Source: ICC.1:2022, table 19.
_PROFILE_MODES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
#: Levels by which a conversion may move any colour and still count as none.
_SAME_LEVELS = 6
#: Profiles of printers have about one megabyte.
_MAX_PROFILE_BYTES = 4 * 2**20
#: Pixels that are converted at once: a copy of the whole in another mode would double the memory.
_STRIP_PIXELS = 1_000_000

#: Colours are tried in bins of so many levels a channel, the fullest ones, each changed by so much,
#: and results may differ by so many levels: sixteen of linear light are 70 of sRGB.
_BIN_LEVELS, _BINS = 16, 16
_TRIED_COLOURS = 1_000
_NEAR = {3: (-8, -3, 0, 3, 8), 4: (-8, 0, 8)}
_FAR_LEVELS, _TORN_SHARE = 96, 0.02

Transform = ImageCms.ImageCmsTransform


@dataclass(frozen=True)
class Conversion:
    """One way to read a file's colours.

    Attributes:
        name: where it comes from; "stored" leaves the colours as they are.
        mode: what the transform takes.
        transform: None leaves the colours as they are.
        exact: the same without the library's shortcut, where that may leave out detail of tables.
    """

    name: str
    mode: str
    transform: Transform | None
    exact: Transform | None = None

    def tears_apart(self, image: Image.Image) -> bool:
        """Whether tables show colours of a picture far apart that are nearly the same in the file.

        Between the nodes of its tables every program reads a profile in its own way, and what
        the colours as stored hardly show can be a picture for one of them. No device needs this.
        """
        if self.exact is None:
            return False
        channels = len(self.mode)
        places = _BINS ** np.arange(channels)
        counts = np.zeros(_BINS**channels, np.int64)
        for strip in _strips(image):
            bins = np.zeros((strip.height, strip.width), np.uint16)
            for place, band in zip(places, strip.convert(self.mode).split(), strict=True):
                bins += np.asarray(band) // np.uint8(_BIN_LEVELS) * np.uint16(place)
            counts += np.bincount(bins.ravel(), minlength=len(counts))
        usual = np.argsort(counts)[-_TRIED_COLOURS:]
        colours = (usual[:, None] // places % _BINS * _BIN_LEVELS + _BIN_LEVELS // 2)[:, None]
        steps = np.meshgrid(*[_NEAR[channels]] * channels)
        near = (colours + np.stack(steps, axis=-1).reshape(1, -1, channels)).clip(0, 255)
        tried = Image.frombytes(self.mode, near.shape[1::-1], near.astype(np.uint8).tobytes())
        shown = np.asarray(ImageCms.applyTransform(tried, self.exact))
        is_torn = np.ptp(shown, axis=1).max(axis=-1) > _FAR_LEVELS
        return bool(counts[usual][is_torn].sum() > _TORN_SHARE * counts[usual].sum())


STORED = Conversion("stored", "RGB", None)


@dataclass(frozen=True)
class Readings:
    """All ways to read a file's colours, the browsers' first, and why they may not be all."""

    conversions: tuple[Conversion, ...]
    doubts: tuple[str, ...]


def readings(sources: tuple[tuple[str, bytes], ...], mode: str) -> Readings:
    """Turn the profiles of a file into conversions of its pixels.

    Args:
        sources: profiles by where they come from, the browsers' choice first.
        mode: of the picture, as Pillow names it.
    """
    found: list[Conversion] = []
    doubts: list[str] = []
    for name, profile in sources:
        if not profile:
            # sRGB by name.
            found.append(STORED)
            continue
        if len(profile) > _MAX_PROFILE_BYTES:
            doubts.append("a colour profile of unusual size")
            continue
        conversions, doubt = _of_profile(profile, mode == "CMYK", mode in ("L", "LA", "1", "I;16"))
        found += [
            each if each is STORED else replace(each, name=name + each.name) for each in conversions
        ]
        doubts += doubt
    ordered: dict[Transform | None, Conversion] = {}
    for each in [*found, STORED]:
        ordered.setdefault(each.transform, each)
    return Readings(tuple(ordered.values()), tuple(doubts))


@functools.lru_cache(maxsize=8)
def _of_profile(profile: bytes, is_cmyk: bool, is_grey: bool) -> tuple[list[Conversion], list[str]]:
    head = profiles.header(profile)
    mode = _PROFILE_MODES.get(head.space) if head else None
    if head is None or mode is None:
        return [], []
    if (mode == "CMYK" and not is_cmyk) or (mode == "L" and not is_grey):
        # A profile for another kind of pixels: browsers ignore it.
        return [], []
    profile = profiles.as_browsers_read(profile)
    doubts = [] if head.is_plain else ["a colour profile that viewers read in different ways"]
    variants = [("", profile, ImageCms.Intent.PERCEPTUAL)]
    if head.has_tables:
        variants.append(("-colorimetric", profile, ImageCms.Intent.RELATIVE_COLORIMETRIC))
        if head.has_matrix:
            without = profiles.without_tables(profile)
            variants.append(("-matrix", without, ImageCms.Intent.RELATIVE_COLORIMETRIC))
    conversions = []
    for name, variant, intent in variants:
        transform = _transform(variant, mode, intent)
        if transform is None:
            doubts.append("a colour profile that cannot be applied")
        elif mode != "CMYK" and not head.has_tables and _changes_nothing(transform, mode):
            conversions.append(STORED)
        else:
            exact = None
            if head.has_tables and mode in ("RGB", "CMYK") and name != "-matrix":
                exact = _transform(variant, mode, intent, ImageCms.Flags.NOOPTIMIZE)
            conversions.append(Conversion(name, mode, transform, exact))
    return conversions, doubts


def _transform(
    profile: bytes, mode: str, intent: ImageCms.Intent, flags: ImageCms.Flags = ImageCms.Flags.NONE
) -> Transform | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), mode, "RGB", renderingIntent=intent, flags=flags
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


def _changes_nothing(transform: Transform, mode: str) -> bool:
    """Whether curves and a matrix leave all colours where they are: tried on what spans them."""
    ramp = np.arange(256, dtype=np.uint8)
    if mode == "L":
        colours = ramp[None, :]
        expected = np.repeat(ramp[None, :, None], 3, axis=2)
    else:
        single = [np.eye(3, dtype=np.uint8)[channel] * ramp[:, None] for channel in range(3)]
        grid = np.stack(np.meshgrid(*[ramp[::15]] * 3), axis=-1).reshape(-1, 3)
        grey = np.repeat(ramp[:, None], 3, axis=1)
        colours = expected = np.concatenate([*single, grid, grey])[None]
    shown = np.asarray(ImageCms.applyTransform(Image.fromarray(colours), transform))
    return bool(np.abs(shown.astype(np.int16) - expected).max() <= _SAME_LEVELS)


# -- pictures ------------------------------------------------------------------------------------


def render(
    image: Image.Image, conversions: tuple[Conversion, ...], factor: int = 1
) -> list[Image.Image]:
    """Convert a picture in each way and shrink the results by a whole number.

    Returns:
        One picture a conversion: mode RGB, or RGBA where a pixel is not opaque. Shrunk ones are
        averaged with transparency premultiplied.
    """
    is_clear = image.mode in ("LA", "RGBA") and _shines_through(image)
    size = (-(-image.width // factor), -(-image.height // factor))
    results = [Image.new("RGBa" if is_clear else "RGB", size) for _ in conversions]
    step_px = factor * max(1, _STRIP_PIXELS // (image.width * factor))
    if step_px >= image.height and factor == 1:
        return [_convert(image, each, is_clear) for each in conversions]
    for top_px in range(0, image.height, step_px):
        bottom_px = min(top_px + step_px, image.height)
        strip = image.crop((0, top_px, image.width, bottom_px))
        for result, conversion in zip(results, conversions, strict=True):
            part = _convert(strip, conversion, is_clear)
            # Premultiplied, so that the colour of what is transparent does not bleed.
            part = part.convert("RGBa") if is_clear else part
            result.paste(part.reduce(factor), (0, top_px // factor))
    return [result.convert("RGBA") for result in results] if is_clear else results


def _shines_through(image: Image.Image) -> bool:
    """Whether a pixel is not opaque; in strips, because Pillow copies a channel to look at it."""
    return any(strip.getextrema()[-1] != (255, 255) for strip in _strips(image))


def _strips(image: Image.Image) -> Iterator[Image.Image]:
    step_px = max(1, _STRIP_PIXELS // image.width)
    for top_px in range(0, image.height, step_px):
        yield image.crop((0, top_px, image.width, min(top_px + step_px, image.height)))


def _convert(image: Image.Image, conversion: Conversion, is_clear: bool) -> Image.Image:
    if image.mode == "I;16":
        image = eight_bit(image)
    if conversion.transform is None:
        # Straight colours, whatever shines through.
        return image.convert("RGBA" if is_clear else "RGB")
    alpha = image.getchannel("A") if is_clear else None
    colours = image.convert("RGB") if image.mode in ("LA", "RGBA", "RGBX") else image
    converted = ImageCms.applyTransform(colours.convert(conversion.mode), conversion.transform)
    assert converted is not None
    if alpha is not None:
        converted.putalpha(alpha)
    return converted
