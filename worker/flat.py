"""Pictures that a rule can explain without a model: single colours, gradients, letters, identicons.

Sites make such avatars for people who upload none, and models score flat colours high. Each rule
explains every pixel of the picture, so that nothing can hide in what it takes; what it does not
take costs one inference. Pure; measured in docs/quality.md.
"""

from __future__ import annotations

import functools
import string

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

#: Levels (0..255) between the darkest and the lightest pixel that still are one colour.
SINGLE_LEVELS = 6
#: Levels by which a pixel may miss a gradient or a mixture of two colours; JPEG needs some.
_GRADIENT_LEVELS, _MIXTURE_LEVELS, _CELL_LEVELS = 6, 40, 24
#: Side below which a curve of second order fits anything.
_GRADIENT_SIDE_PX = 16
#: Colours of an identicon, its ground included; how near two cells of one colour are and how far
#: apart cells of two colours.
_INKS, _SAME_INK_LEVELS, _OTHER_INK_LEVELS = 4, 10, 40
#: Cells along a side of an identicon; 12 is five cells with half a cell of margin.
_IDENTICON_CELLS = range(3, 13)
#: Share of pixels that two colours make up in a letter tile; the rest are soft edges.
_TWO_COLOURS_SHARE = 0.9
#: Share of pixels that may differ from their mirror image: the soft edges of cells.
_MIRROR_SHARE = 0.05
#: Overlap (intersection over union) with a letter's shape, and how far its proportions may be off.
_LETTER_OVERLAP, _LETTER_PROPORTION = 0.84, 1.35
#: Width of the band around an outline in which colours may be off: half a JPEG block each way.
_EDGE_PX = 9
#: Pixels along a side at which shapes are compared; at most so many are looked at.
_GLYPH_PX, _WORKING_PX = 32, 256

Levels = npt.NDArray[np.int16]
Mask = npt.NDArray[np.bool_]


def explain(image: Image.Image) -> str | None:
    """Say what an RGB picture is where every pixel of it is explained; None for all others.

    Returns:
        `single colour`, `gradient`, `identicon` or `letter tile`.
    """
    if is_single_colour(image):
        return "single colour"
    # Nearly every picture is let go on a sample of it, before its pixels are touched.
    sample = np.asarray(_few(image, 64)).astype(np.int16)
    if _is_gradient(sample):
        return "gradient" if _is_gradient(np.asarray(image).astype(np.int16)) else None
    colours = _two_colours(sample)
    if colours is None:
        return None
    if _is_mirrored(sample) and _is_identicon(np.asarray(image).astype(np.int16)):
        return "identicon"
    return "letter tile" if _is_letter_tile(image, *colours) else None


def is_single_colour(image: Image.Image) -> bool:
    """Whether no pixel differs from another by what an eye could see."""
    # Nearly every picture is let go on a few of its pixels.
    return all(_levels_apart(part) <= SINGLE_LEVELS for part in (_few(image, 8), image))


def _levels_apart(image: Image.Image) -> int:
    return max(high - low for low, high in image.getextrema())  # type: ignore[misc]


def shows_nothing(pixels: npt.NDArray[np.uint8]) -> bool:
    """`is_single_colour` of (height_px, width_px, 3), without making an image of most."""
    if np.ptp(pixels[::32, ::32], axis=(0, 1)).max() > SINGLE_LEVELS:
        return False
    return is_single_colour(Image.fromarray(pixels))


def _few(image: Image.Image, side_px: int) -> Image.Image:
    """Single pixels of an even grid that reaches every edge."""
    size = (min(side_px, image.width), min(side_px, image.height))
    return image.resize(size, Image.Resampling.NEAREST)


def _is_gradient(pixels: Levels) -> bool:
    """Whether a polynomial of second order in x and y gives every pixel."""
    height, width = pixels.shape[:2]
    if min(height, width) < _GRADIENT_SIDE_PX:
        return False
    levels = pixels.reshape(-1, 3)
    some = np.arange(0, len(levels), max(1, len(levels) // 500))
    terms = _terms(some, pixels)
    factors, *_ = np.linalg.lstsq(terms, levels[some], rcond=None)
    if np.abs(terms @ factors - levels[some]).max() > _GRADIENT_LEVELS:
        return False
    everywhere = _terms(np.arange(len(levels)), pixels)
    return bool(np.abs(everywhere @ factors - levels).max() <= _GRADIENT_LEVELS)


def _terms(places: npt.NDArray[np.intp], pixels: Levels) -> npt.NDArray[np.float64]:
    """The polynomial's terms at these places of a picture, counted row by row."""
    height, width = pixels.shape[:2]
    x, y = places % width / width, places // width / height
    return np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=-1)


def _two_colours(sample: Levels) -> tuple[Levels, Levels] | None:
    """Ground, the colour of the edge, and ink, if they make up nearly all of a sample."""
    edge = np.concatenate([sample[0], sample[-1], sample[:, 0], sample[:, -1]])
    ground = np.median(edge, axis=0).astype(np.int16)
    pixels = sample.reshape(-1, 3)
    from_ground = _apart(pixels, ground)
    if from_ground.max() <= _CELL_LEVELS:
        return None
    # The half that differs most: soft edges lie between the two colours.
    ink_like = from_ground >= np.median(from_ground[from_ground > _CELL_LEVELS])
    ink = np.median(pixels[ink_like], axis=0).astype(np.int16)
    near = np.minimum(from_ground, _apart(pixels, ink)) <= _CELL_LEVELS
    return (ground, ink) if near.mean() >= _TWO_COLOURS_SHARE else None


def _apart(pixels: Levels, colour: Levels) -> Levels:
    """Levels by which each of (n, 3) pixels differs from a colour at most, (n,)."""
    red, green, blue = np.abs(pixels - colour).T
    apart: Levels = np.maximum(np.maximum(red, green), blue)
    return apart


def _is_identicon(pixels: Levels) -> bool:
    """Whether the picture is a grid of evenly coloured cells, the same in the mirror."""
    if not _is_mirrored(pixels):
        return False
    return any(_is_grid(pixels, count) for count in _IDENTICON_CELLS)


def _is_mirrored(pixels: Levels) -> bool:
    differ = np.abs(pixels - pixels[:, ::-1]).max(axis=2) > 2 * _CELL_LEVELS
    return bool(differ.mean() <= _MIRROR_SHARE)


def _is_grid(pixels: Levels, count: int) -> bool:
    height, width = pixels.shape[:2]
    if min(height, width) < 4 * count:
        return False
    colours: list[Levels] = []
    for top, bottom in _cells(height, count):
        for left, right in _cells(width, count):
            cell = pixels[top:bottom, left:right].reshape(-1, 3)
            if np.ptp(cell, axis=0).max() > _CELL_LEVELS:
                return False
            colours.append(np.median(cell, axis=0).astype(np.int16))
    return _are_few_and_distinct(np.stack(colours))


def _are_few_and_distinct(colours: Levels) -> bool:
    """Whether the cells have two to four colours that nobody could confuse.

    A blurred photograph is a grid of even cells too, but their colours run into one another.
    """
    palette: list[Levels] = []
    for colour in colours:
        distances = [np.abs(colour - known).max() for known in palette]
        if distances and min(distances) <= _SAME_INK_LEVELS:
            continue
        if any(distance < _OTHER_INK_LEVELS for distance in distances):
            return False
        palette.append(colour)
        if len(palette) > _INKS:
            return False
    return len(palette) > 1


def _cells(length: int, count: int) -> list[tuple[int, int]]:
    """Cells without their soft edges."""
    edge = max(1, round(0.08 * length / count))
    return [
        (round(at * length / count) + edge, round((at + 1) * length / count) - edge)
        for at in range(count)
    ]


# -- letters -------------------------------------------------------------------------------------


def _is_letter_tile(image: Image.Image, ground: Levels, ink: Levels) -> bool:
    """Whether one or two Latin letters or digits stand on an even ground."""
    if max(image.size) > _WORKING_PX:
        image = image.reduce(-(-max(image.size) // _WORKING_PX))
    pixels = np.asarray(image).astype(np.float64) - ground
    direction = (ink - ground).astype(np.float64)
    amount = (pixels @ direction / (direction @ direction)).clip(0, 1)
    mask = amount > 0.5
    unexplained = np.abs(pixels - amount[..., None] * direction).max(axis=2) > _MIXTURE_LEVELS
    if (unexplained & ~_edges(mask)).any():
        return False
    if mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any():
        return False
    glyphs = _split(mask)
    return 1 <= len(glyphs) <= 2 and all(_is_letter(glyph) for glyph in glyphs)


def _edges(mask: Mask) -> Mask:
    """What lies so near to the ink's outline that JPEG mixes other colours into it."""
    shape = Image.fromarray(mask).convert("L")
    reach = ImageFilter.MaxFilter(_EDGE_PX), ImageFilter.MinFilter(_EDGE_PX)
    outer, inner = (np.asarray(shape.filter(each)) > 127 for each in reach)
    return outer & ~inner


def _split(mask: Mask) -> list[Mask]:
    """Cut at empty columns, and each part to its bounding box."""
    inked = np.flatnonzero(mask.any(axis=0))
    if not len(inked):
        return []
    parts = np.split(inked, np.flatnonzero(np.diff(inked) > 1) + 1)
    return [_cut(mask[:, part[0] : part[-1] + 1]) for part in parts]


def _cut(mask: Mask) -> Mask:
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _is_letter(glyph: Mask) -> bool:
    height, width = glyph.shape
    if height < 8 or width < 2:
        return False
    shape = _to_grid(glyph)
    for letter, proportion in _letters():
        off = width / height / proportion
        overlap = (shape & letter).sum() / (shape | letter).sum()
        if overlap >= _LETTER_OVERLAP and 1 / _LETTER_PROPORTION < off < _LETTER_PROPORTION:
            return True
    return False


def _to_grid(glyph: Mask) -> Mask:
    grid = Image.fromarray(glyph).convert("L").resize((_GLYPH_PX, _GLYPH_PX), Image.Resampling.BOX)
    return np.asarray(grid) > 127


@functools.cache
def _letters() -> list[tuple[Mask, float]]:
    """Shapes of capitals and digits, regular and bold, and their width divided by their height."""
    shapes = []
    for character in string.ascii_uppercase + string.digits:
        for weight_px in (0, 2, 4):
            sheet = Image.new("L", (160, 160))
            font = ImageFont.load_default(90)
            ImageDraw.Draw(sheet).text(
                (80, 80), character, 255, font, anchor="mm", stroke_width=weight_px
            )
            glyph = _cut(np.asarray(sheet) > 127)
            shapes.append((_to_grid(glyph), glyph.shape[1] / glyph.shape[0]))
    return shapes
