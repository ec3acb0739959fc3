"""Pictures that a rule can explain without a model: single colours, gradients, letters, identicons.

Sites make such avatars for people who upload none, and models score flat colours high. Each rule
explains every pixel of the picture, to within what people cannot see, so that nothing can hide in
what it takes; what it does not take costs one inference. Noise is explained only where it is what
JPEG makes of the clean picture. Pure; measured in docs/quality.md.
"""

from __future__ import annotations

import functools
import string
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from worker.image.masks import SOFT_PX, Levels, Mask, Uint8, edges_of, grown, ink_in
from worker.image.recompressed import is_jpeg_of

#: Levels (0..255) between the darkest and the lightest pixel that nobody can tell apart.
SINGLE_LEVELS = 2
#: The same for what is left of a gradient: its own rounding takes one of them.
_GRADIENT_LEVELS = 2.0
#: Side below which a curve of second order fits anything.
_GRADIENT_SIDE_PX = 16
#: Levels by which pixels of a sample may miss one of two colours, share of those that do not, and
#: of those that are the more common colour.
_SAME_COLOUR_LEVELS, _KNOWN_SHARE, _GROUND_SHARE = 24, 0.85, 0.35
#: Levels by which soft edges may miss what lies between two colours.
_EDGE_LEVELS = 2
#: How far the two colours of a letter tile or an identicon are apart at least.
_INK_LEVELS = 26
#: Pixels of a letter tile or identicon at most: all of them are looked at.
_MOST_PIXELS = 1_100_000
#: Cells along a side of an identicon; 12 is five cells with half a cell of margin.
_IDENTICON_CELLS = range(3, 13)
#: Overlap (intersection over union) with a letter's shape, how far its proportions may be off, and
#: how much more outline it may have: dots and holes that a coarse grid does not show.
_LETTER_OVERLAP, _LETTER_PROPORTION, _LETTER_OUTLINE = 0.78, 1.35, 1.2
#: Pixels along a side at which shapes are compared.
_GLYPH_PX = 32


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
        return "gradient" if _is_gradient(np.asarray(image)) else None
    colours = _two_colours(sample.reshape(-1, 3))
    if colours is None or image.width * image.height > _MOST_PIXELS:
        return None
    return _explain_two_colours(np.asarray(image), *colours)


def is_single_colour(image: Image.Image) -> bool:
    """Whether no pixel differs from another by what an eye could see."""
    # Nearly every picture is let go on a few of its pixels.
    return all(_levels_apart(part) <= SINGLE_LEVELS for part in (_few(image, 8), image))


def _levels_apart(image: Image.Image) -> int:
    return max(high - low for low, high in image.getextrema())  # type: ignore[misc]


def shows_nothing(pixels: Uint8) -> bool:
    """`is_single_colour` of (height_px, width_px, 3), without making an image of most."""
    if np.ptp(pixels[::32, ::32], axis=(0, 1)).max() > SINGLE_LEVELS:
        return False
    return is_single_colour(Image.fromarray(pixels))


def _few(image: Image.Image, side_px: int) -> Image.Image:
    """Single pixels of an even grid that reaches every edge."""
    size = (min(side_px, image.width), min(side_px, image.height))
    return image.resize(size, Image.Resampling.NEAREST)


# -- gradients -----------------------------------------------------------------------------------


def _is_gradient(pixels: npt.NDArray[np.uint8 | np.int16]) -> bool:
    """Whether a polynomial of second order in x and y gives every pixel."""
    height, width = pixels.shape[:2]
    if min(height, width) < _GRADIENT_SIDE_PX:
        return False
    rows, columns = (np.linspace(0, side - 1, 24).astype(np.intp) for side in (height, width))
    terms = _terms(rows / height, columns / width).reshape(-1, 6)
    some = pixels[np.ix_(rows, columns)].reshape(-1, 3)
    factors, *_ = np.linalg.lstsq(terms, some, rcond=None)
    lowest, highest = np.full(3, np.inf), np.full(3, -np.inf)
    # Row by row in strips: a large picture must not need many times its memory.
    for top in range(0, height, 64):
        y = np.arange(top, min(top + 64, height)) / height
        left = pixels[top : top + 64] - _terms(y, np.arange(width) / width) @ factors
        lowest = np.minimum(lowest, left.min(axis=(0, 1)))
        highest = np.maximum(highest, left.max(axis=(0, 1)))
        if (highest - lowest).max() > _GRADIENT_LEVELS:
            return False
    return True


def _terms(y: npt.NDArray[np.float64], x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The polynomial's terms at these rows and columns, (rows, columns, 6)."""
    y, x = np.broadcast_arrays(y[:, None], x[None, :])
    return np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=-1)


# -- two colours ---------------------------------------------------------------------------------


def _two_colours(pixels: Levels) -> tuple[Levels, Levels] | None:
    """The two colours that make up nearly all of a sample, (n, 3), the more common one first."""
    ground = _commonest(pixels)
    if ground is None:
        return None
    from_ground = _apart(pixels, ground)
    far = from_ground >= _INK_LEVELS
    if not far.any():
        return None
    # The half that differs most: soft edges lie between the two colours.
    ink = _median(pixels[from_ground >= np.median(from_ground[far])])
    known = np.minimum(from_ground, _apart(pixels, ink)) <= _SAME_COLOUR_LEVELS
    return (ground, ink) if known.mean() >= _KNOWN_SHARE else None


def _commonest(pixels: Levels) -> Levels | None:
    """The colour around which most pixels lie; None where none is common."""
    coarse = (pixels >> 4) @ np.array([256, 16, 1], dtype=np.int16)
    counts = np.bincount(coarse)
    most = counts.argmax()
    return _median(pixels[coarse == most]) if counts[most] >= _GROUND_SHARE * len(pixels) else None


def _median(pixels: Levels) -> Levels:
    median: Levels = np.median(pixels, axis=0).astype(np.int16)
    return median


def _apart(pixels: Levels, colour: Levels) -> Levels:
    """Levels by which each of (..., 3) pixels differs from a colour at most."""
    red, green, blue = np.moveaxis(np.abs(pixels - colour), -1, 0)
    apart: Levels = np.maximum(np.maximum(red, green), blue)
    return apart


def _explain_two_colours(image: Uint8, ground: Levels, ink: Levels) -> str | None:
    pixels = image.astype(np.int16)
    mask: Mask = _apart(pixels, ink) < _apart(pixels, ground)
    grid = _grid(mask)
    if grid is None and not _is_text(mask):
        return None
    shape = mask if grid is None else grid
    inner, outer = (each & ~edges_of(shape, 1) for each in (shape, ~shape))
    if not inner.any() or not outer.any():
        return None
    ground, ink = _median(pixels[outer]), _median(pixels[inner])
    off = np.where(shape, _apart(pixels, ink), _apart(pixels, ground)) > SINGLE_LEVELS // 2
    if _is_mixture(pixels, off, shape, ground, ink) or is_jpeg_of(image, off, shape, ground, ink):
        return "letter tile" if grid is None else "identicon"
    return None


def _is_mixture(pixels: Levels, off: Mask, mask: Mask, ground: Levels, ink: Levels) -> bool:
    """Whether what is not of its colour lies between the two, and only where they meet."""
    if (off & ~edges_of(mask, SOFT_PX)).any():
        return False
    edges = pixels[off]
    mixed = ground + ink_in(edges, ground, ink)[:, None] * (ink - ground)
    return bool((np.abs(edges - mixed) <= _EDGE_LEVELS).all())


# -- identicons ----------------------------------------------------------------------------------


def _grid(mask: Mask) -> Mask | None:
    """What a grid of cells, the same in the mirror, would look like; None if this is no such."""
    for count in _IDENTICON_CELLS:
        if min(mask.shape) < 4 * count:
            continue
        rows, columns = (_cells(side, count) for side in mask.shape)
        cells = mask[np.ix_(_middles(rows), _middles(columns))]
        if not np.array_equal(cells, cells[:, ::-1]) or cells.all() or not cells.any():
            continue
        whole = cells.repeat(np.diff(rows), axis=0).repeat(np.diff(columns), axis=1)
        if not ((whole != mask) & ~edges_of(whole, 1)).any():
            return whole
    return None


def _cells(length: int, count: int) -> npt.NDArray[np.intp]:
    """Where cells begin and end. Source: Pillow's `NEAREST`, which takes the middle of a pixel."""
    return np.ceil(np.arange(count + 1) * length / count - 0.5).astype(np.intp)


def _middles(cuts: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    return (cuts[:-1] + cuts[1:]) // 2


# -- letters -------------------------------------------------------------------------------------


def _is_text(mask: Mask) -> bool:
    """Whether one or two Latin letters or digits stand on an even ground."""
    if mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any():
        return False
    glyphs = list(_split(mask))
    return 1 <= len(glyphs) <= 2 and all(_is_letter(glyph) for glyph in glyphs)


def _split(mask: Mask) -> Iterator[Mask]:
    """Cut at empty columns, and each part to its bounding box."""
    inked = np.flatnonzero(mask.any(axis=0))
    if len(inked):
        for part in np.split(inked, np.flatnonzero(np.diff(inked) > 1) + 1):
            yield _cut(mask[:, part[0] : part[-1] + 1])


def _cut(mask: Mask) -> Mask:
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _is_letter(glyph: Mask) -> bool:
    height, width = glyph.shape
    if height < 8 or width < 2:
        return False
    shape, crossings = _to_grid(glyph), _crossings(glyph)
    for letter, proportion, known_crossings in _letters():
        off = width / height / proportion
        overlap = (shape & letter).sum() / (shape | letter).sum()
        if (
            overlap >= _LETTER_OVERLAP
            and 1 / _LETTER_PROPORTION < off < _LETTER_PROPORTION
            and (crossings <= _LETTER_OUTLINE * known_crossings).all()
            and not _is_thick(shape ^ letter)
        ):
            return True
    return False


def _crossings(glyph: Mask) -> npt.NDArray[np.float64]:
    """How often a row and a column cross the outline, on average."""
    padded = np.pad(glyph, 1)
    across, down = (np.diff(padded, axis=axis).sum() for axis in (1, 0))
    return np.array([across / glyph.shape[0], down / glyph.shape[1]])


def _is_thick(mask: Mask) -> bool:
    """Whether there is more to it than an outline that is a little off."""
    return not grown(~np.pad(mask, 1), 1).all()


def _to_grid(glyph: Mask) -> Mask:
    grid = Image.fromarray(glyph).convert("L").resize((_GLYPH_PX, _GLYPH_PX), Image.Resampling.BOX)
    return np.asarray(grid) > 127


@functools.cache
def _letters() -> list[tuple[Mask, float, npt.NDArray[np.float64]]]:
    """Shapes of capitals and digits, regular and bold, width divided by height, and crossings."""
    shapes = []
    for character in string.ascii_uppercase + string.digits:
        for weight_px in (0, 2, 4):
            sheet = Image.new("L", (160, 160))
            font = ImageFont.load_default(90)
            ImageDraw.Draw(sheet).text(
                (80, 80), character, 255, font, anchor="mm", stroke_width=weight_px
            )
            glyph = _cut(np.asarray(sheet) > 127)
            proportion = glyph.shape[1] / glyph.shape[0]
            shapes.append((_to_grid(glyph), proportion, _crossings(glyph)))
    return shapes
