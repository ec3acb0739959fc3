"""Any pixel layout of the accepted formats as 8-bit sRGB, in each way that viewers show it.

Colour data is applied to every pixel before anything is shrunk. Pure: Pillow pictures in and out.
"""

from __future__ import annotations

import functools
import io
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageCms

from worker.image.containers import icc, profiles
from worker.image.containers.contents import eight_bit
from worker.image.containers.icc import Table

#: Colour space of an ICC profile -> the mode that it applies to. Source: ICC.1:2022, table 19.
_PROFILE_MODES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
#: The mode of a conversion of four inks by way of three colours, as Chromium does it.
_NO_BLACK = "CMY"
#: Levels by which a conversion may move any colour and still count as none.
_SAME_LEVELS = 6
#: Profiles of printers have about one megabyte.
_MAX_PROFILE_BYTES = 4 * 2**20
#: Pixels that are converted at once: a copy of the whole in another mode would double the memory.
_STRIP_PIXELS = 1_000_000

#: Pixels of a picture that are looked up in tables as browsers do it, boxes in each direction in
#: which they are compared, and levels by which they may differ on average.
_COMPARED_PX, _BOXES, _FAR_LEVELS = 1 << 18, 32, 10

Transform = ImageCms.ImageCmsTransform


@dataclass(frozen=True)
class Conversion:
    """One way to read a file's colours.

    Attributes:
        name: where it comes from; "stored" leaves the colours as they are.
        mode: what the transform takes.
        transform: None leaves the colours as they are.
    """

    name: str
    mode: str
    transform: Transform | None


STORED = Conversion("stored", "RGB", None)


@dataclass(frozen=True)
class Readings:
    """All ways to read a file's colours, the browsers' first, and why they may not be all.

    Attributes:
        conversions: at least one.
        tables: those that browsers look into.
        doubts: in words.
    """

    conversions: tuple[Conversion, ...]
    tables: tuple[Table, ...]
    doubts: tuple[str, ...]

    def leave_out(self, image: Image.Image) -> bool:
        """Whether browsers show a picture as no conversion does.

        Between the nodes of its tables every program reads a profile in its own way, and what
        the colours as stored hardly show can be a picture for one of them.
        """
        for table in self.tables:
            pixels = _sampled(image, {1: "L", 3: "RGB", 4: _NO_BLACK}[table.channels])
            sample = Image.fromarray(pixels, "CMYK" if table.channels == 4 else None)
            shown = [np.asarray(_convert(sample, each, False)) for each in self.conversions]
            levels = pixels.reshape(-1, table.channels)
            for found in (table.shown(levels), table.shown_baked(levels)):
                mine = found.reshape(shown[0].shape)
                if min(_most_apart(mine, each) for each in shown) > _FAR_LEVELS:
                    return True
        return False


def _sampled(image: Image.Image, mode: str) -> np.ndarray:
    """The pixels of a picture, of large ones one in each square, at places that they decide."""
    step_px = math.ceil(math.sqrt(image.width * image.height / _COMPARED_PX))
    if step_px == 1:
        return np.asarray(_colours(image, mode))
    left = np.arange(0, image.width - step_px + 1, step_px)
    rows = []
    for top_px in range(0, image.height - step_px + 1, step_px):
        row = _colours(image.crop((0, top_px, image.width, top_px + step_px)), mode)
        chance = (left.astype(np.uint64) * 2_654_435_761 + zlib.crc32(row.tobytes())) >> 8
        down, across = (chance // step_px % step_px).astype(int), (chance % step_px).astype(int)
        rows.append(np.asarray(row)[down, left + across])
    return np.stack(rows)


def _most_apart(one: np.ndarray, other: np.ndarray) -> int:
    """Levels by which two pictures differ in the box where they differ most."""
    apart = np.abs(one.astype(np.int16) - other).mean(axis=2).astype(np.uint8)
    boxes = Image.fromarray(apart).resize((_BOXES, _BOXES), Image.Resampling.BOX)
    return int(boxes.getextrema()[1])  # type: ignore[arg-type]


def readings(
    sources: tuple[tuple[str, bytes], ...], mode: str, *, is_deep: bool = False
) -> Readings:
    """Turn the profiles of a file into conversions of its pixels.

    Args:
        sources: profiles by where they come from, the browsers' choice first.
        mode: of the picture, as Pillow names it.
        is_deep: the file has more than the picture's 256 levels.
    """
    found: list[Conversion] = []
    tables: list[Table] = []
    doubts: list[str] = []
    for name, profile in sources:
        if not profile:
            # sRGB by name.
            found.append(STORED)
            continue
        if len(profile) > _MAX_PROFILE_BYTES:
            doubts.append("a colour profile of unusual size")
            continue
        read = _of_profile(profile, mode == "CMYK", mode in ("L", "LA", "1", "I;16"))
        found += [
            each if each is STORED else replace(each, name=name + each.name)
            for each in read.conversions
        ]
        tables += read.tables
        doubts += read.doubts
    ordered: dict[tuple[Transform | None, str], Conversion] = {}
    for each in [*found, STORED]:
        ordered.setdefault((each.transform, each.mode), each)
    if is_deep and (tables or any(icc.is_uneven(each) for _, each in sources if each)):
        doubts.append("colours that are finer than what is looked at")
    return Readings(tuple(ordered.values()), tuple(tables), tuple(doubts))


@functools.lru_cache(maxsize=8)
def _of_profile(profile: bytes, is_cmyk: bool, is_grey: bool) -> Readings:
    head = profiles.header(profile)
    mode = _PROFILE_MODES.get(head.space) if head else None
    if head is None or mode is None:
        return Readings((), (), ())
    if (mode == "CMYK" and not is_cmyk) or (mode == "L" and not is_grey):
        # A profile for another kind of pixels: browsers ignore it.
        return Readings((), (), ())
    doubts = [] if head.is_plain else ["a colour profile that viewers read in different ways"]
    conversions, tables = [], []
    if name_of_table := head.table_of_browsers:
        only = profiles.with_tables(profile, [name_of_table])
        transform = _transform(only, mode)
        conversions.append(Conversion("", mode, transform))
        if mode == "CMYK":
            conversions.append(Conversion("-no-black", _NO_BLACK, transform))
        table = icc.table_of(profile, name_of_table)
        if table is not None and table.channels == len(mode):
            tables.append(table)
        else:
            doubts.append("a colour profile with tables that cannot be read")
    if head.has_tables:
        of_tables = profiles.with_tables(profile, profiles.TABLES)
        for name, intent in _INTENTS.items():
            conversions.append(Conversion(name, mode, _transform(of_tables, mode, intent)))
    if not head.has_tables or head.has_matrix:
        matrix = icc.rebuilt(profile, is_grey=mode == "L")
        transform = _transform(matrix, "RGB") if matrix else None
        conversion = Conversion("-matrix" if head.has_tables else "", "RGB", transform)
        is_stored = transform is not None and _changes_nothing(transform)
        conversions.append(STORED if is_stored else conversion)
    applied = tuple(each for each in conversions if each is STORED or each.transform is not None)
    if len(applied) < len(conversions):
        doubts.append("a colour profile that cannot be applied")
    return Readings(applied, tuple(tables), tuple(doubts))


#: Tables are chosen by them, and the first also makes what is nearly black black.
_INTENTS = {
    "-perceptual": ImageCms.Intent.PERCEPTUAL,
    "-colorimetric": ImageCms.Intent.RELATIVE_COLORIMETRIC,
}


def _transform(
    profile: bytes, mode: str, intent: ImageCms.Intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
) -> Transform | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), mode, "RGB", renderingIntent=intent
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


def _changes_nothing(transform: Transform) -> bool:
    """Whether curves and a matrix leave all colours where they are: tried on what spans them."""
    ramp = np.arange(256, dtype=np.uint8)
    single = [np.eye(3, dtype=np.uint8)[channel] * ramp[:, None] for channel in range(3)]
    grid = np.stack(np.meshgrid(*[ramp[::15]] * 3), axis=-1).reshape(-1, 3)
    grey = np.repeat(ramp[:, None], 3, axis=1)
    colours = np.concatenate([*single, grid, grey])[None]
    shown = np.asarray(ImageCms.applyTransform(Image.fromarray(colours), transform))
    return bool(np.abs(shown.astype(np.int16) - colours).max() <= _SAME_LEVELS)


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


def _colours(image: Image.Image, mode: str) -> Image.Image:
    """A picture without transparency in the mode of a conversion."""
    if image.mode == "I;16":
        image = eight_bit(image)
    elif image.mode in ("LA", "RGBA", "RGBX"):
        image = image.convert("RGB")
    return image.convert("RGB").convert("CMYK") if mode == _NO_BLACK else image.convert(mode)


def _convert(image: Image.Image, conversion: Conversion, is_clear: bool) -> Image.Image:
    if image.mode == "I;16":
        image = eight_bit(image)
    if conversion.transform is None:
        # Straight colours, whatever shines through.
        return image.convert("RGBA" if is_clear else "RGB")
    alpha = image.getchannel("A") if is_clear else None
    colours = _colours(image, conversion.mode)
    converted = ImageCms.applyTransform(colours, conversion.transform)
    assert converted is not None
    if alpha is not None:
        converted.putalpha(alpha)
    return converted
