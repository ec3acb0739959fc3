"""From a file's frames to what the model scores: the ways in which people may get to see it.

Every frame, every way of reading its colours, crop and orientation, transparency over white, over
black and, where much is half transparent, over grey, long pictures also in pieces; what looks alike
at the model's own input size counts once. Runs in the decoding child process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from worker.image import generated
from worker.image.frames import Frame, Frames
from worker.image.groups import Groups
from worker.image.preprocess import InputSpec, Uint8Array, fit
from worker.image.prints import Printer
from worker.image.shown import BLACK, COLOURS, NEUTRAL, WHITE, Crop, View, over

#: Pillow resizes from a picture shrunk by a whole number without visible loss while this is kept.
#: Source: Pillow, Image.resize, `reducing_gap`: 3.0 is "indistinguishable from fair resampling".
_REDUCING_GAP = 3
#: Standard deviation in levels above which colours under full transparency are a picture.
_HIDDEN_LEVELS = 24
#: Proportions from which a picture is also scored padded and as its centre square, and from which
#: also as the squares at both ends.
_CENTRE_RATIO, _PIECES_RATIO = 1.5, 2.0

#: Alpha of what is neither there nor not, and of how many pixels it is more than soft edges: over
#: grey they are the mean of what they are over white and black, where a pattern can cancel out.
_HALF, _VEIL_SHARE = slice(32, 224), 0.1

_BACKGROUNDS = {"both": ("white", "black"), "white": ("white",), "black": ("black",)}


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """How a picture is looked at.

    Attributes:
        spec: the bundle's input rule.
        second_spec: that of a second bundle which wants other pixels; None where it wants the same.
        max_frames: frames of an animation that are scored at most; if there is more to see, the
            picture is not approved without a second opinion.
        max_views: views of one upload that are scored at most; likewise.
        backgrounds: what transparency is put over; with both, also grey where much is veiled.
        hidden_colours: also look at what a program shows that drops transparency; where nothing
            else is visible, this is done in any case.
        served_crop: also score the centre square, or the circle in it, as shown by a web tier.
        pad_to_square: pad instead of the bundle's own resize rule.
        flat_rule: let `generated.explain` recognise generated pictures.
    """

    spec: InputSpec
    second_spec: InputSpec | None = None
    max_frames: int = 64
    max_views: int = 128
    backgrounds: Literal["both", "white", "black"] = "both"
    hidden_colours: bool = False
    served_crop: Literal["none", "square", "round", "both"] = "none"
    pad_to_square: bool = False
    flat_rule: bool = True

    @property
    def id(self) -> str:
        """Names these options; a verdict holds only for pictures that were looked at so."""
        return hashlib.sha256(f"{_WAY} {self!r}".encode()).hexdigest()[:8]


#: Changes when the same options look in another way: older verdicts then no longer hold.
_WAY = 5


class Looked(NamedTuple):
    """What a file shows.

    Attributes:
        views: what is to be scored, the most telling first; never empty.
        flat: the flat rule's word; None where a model is needed.
        unseen: why this is not all that people may see, so that the picture must not be approved:
            `unseen_frames`, `ambiguous`, or "".
    """

    views: list[View]
    flat: str | None
    unseen: str


def look(frames: Frames, options: ViewOptions, printer: Printer | None = None) -> Looked:
    """Decode every frame and choose what is scored.

    Args:
        frames: of one file.
        options: how it is looked at.
        printer: takes down what the file is looked for by.

    Raises:
        InvalidInput: see `Frames.read`.
    """
    groups = Groups()
    is_only = len(frames) == 1
    for index in range(len(frames)):
        frame = frames.read(index)
        if not is_only and groups.is_repeated(frame):
            if printer is not None:
                printer.add(frame, is_new=False)
            continue
        looks = list(_views(frame, options))
        is_new = groups.add(frame, looks, is_only=is_only, flat_rule=options.flat_rule)
        if printer is not None:
            printer.add(frame, is_new=is_new)
    chosen = groups.longest(options.max_frames)
    views = [view for of_group in chosen for view in of_group]
    telling = [view for view in views if not generated.shows_nothing(view.pixels)]
    # Where there is anything to see, what shows nothing is not worth an inference.
    views = telling or views[:1]
    views.sort(key=lambda view: (view.crop != "whole", view.background.startswith("dropped")))
    is_all = len(chosen) == len(groups.groups) and not groups.is_overfull
    unseen = "" if is_all and len(views) <= options.max_views else "unseen_frames"
    unseen = "ambiguous" if frames.doubts else unseen
    return Looked(views[: options.max_views], None if unseen else groups.explanation, unseen)


def short_side_needed_px(options: ViewOptions) -> int:
    """Short side below which shrinking a frame first would be seen in a model's input."""
    return _REDUCING_GAP * max(spec.resize_px for spec in _specs(options))


def _specs(options: ViewOptions) -> tuple[InputSpec, ...]:
    return (options.spec, options.second_spec) if options.second_spec else (options.spec,)


def _views(frame: Frame, options: ViewOptions) -> Iterator[View]:
    """Every view, whether or not it looks like another."""
    for rendition, image in frame.renditions.items():
        for ground, shown in _backgrounds(image, frame.ignores_alpha, options):
            for crop, part, is_padded in _crops(shown, ground, options):
                fitted = [_fit(part, spec, pad=is_padded) for spec in _specs(options)]
                yield View(
                    pixels=fitted[0],
                    second=fitted[1] if options.second_spec else None,
                    frame=frame.index,
                    background=f"{ground}/{rendition}" if rendition else ground,
                    crop=crop,
                )


def _backgrounds(
    image: Image.Image, ignores_alpha: bool, options: ViewOptions
) -> Iterator[tuple[str, Image.Image]]:
    if image.mode == "RGB":
        yield "", image
        return
    is_blank = True
    for background in _BACKGROUNDS[options.backgrounds]:
        ground = over(image, COLOURS[background])
        is_blank = is_blank and generated.is_single_colour(ground)
        yield background, ground
    if options.backgrounds == "both" and _is_veil(image):
        yield "grey", over(image, COLOURS["grey"])
    if ignores_alpha or ((options.hidden_colours or is_blank) and _hides_colours(image)):
        yield "dropped", image.convert("RGB")


def _is_veil(image: Image.Image) -> bool:
    """Whether so much is half transparent that a page of another colour shows another picture."""
    alpha = np.asarray(image.getchannel("A").histogram())
    return bool(alpha[_HALF].sum() > _VEIL_SHARE * alpha.sum())


def _hides_colours(image: Image.Image) -> bool:
    pixels = np.asarray(image)
    hidden = pixels[pixels[..., 3] < 8]
    return len(hidden) > 0 and bool(hidden[:, :3].std(axis=0).max() > _HIDDEN_LEVELS)


def _crops(
    image: Image.Image, ground: str, options: ViewOptions
) -> Iterator[tuple[Crop, Image.Image, bool]]:
    """Each crop, the part of the picture, and whether to pad it."""
    pad = options.pad_to_square
    yield "whole", image, pad
    long_px, short_px = max(image.size), min(image.size)
    is_long = long_px > _CENTRE_RATIO * short_px
    if is_long and not pad and any(spec.resize == "short_side" for spec in _specs(options)):
        yield "padded", image, True
    if is_long or options.served_crop in ("square", "both"):
        yield "square", _square(image), pad
    if long_px > _PIECES_RATIO * short_px:
        yield "start", image.crop((0, 0, short_px, short_px)), pad
        corner = (image.width - short_px, image.height - short_px)
        yield "end", image.crop((*corner, *image.size)), pad
    if options.served_crop in ("round", "both"):
        yield "round", _round(_square(image), ground), pad


def _fit(image: Image.Image, spec: InputSpec, *, pad: bool) -> Uint8Array:
    if not pad:
        return fit(image, spec)
    side_px = max(spec.width_px, spec.height_px)
    return fit(image, replace(spec, resize="pad", resize_px=side_px, fill=NEUTRAL[0]))


def _square(image: Image.Image) -> Image.Image:
    side_px = min(image.size)
    left, top = (image.width - side_px) // 2, (image.height - side_px) // 2
    return image.crop((left, top, left + side_px, top + side_px))


def _round(square: Image.Image, ground: str) -> Image.Image:
    if generated.is_single_colour(square):
        # A disc cut from nothing would be taken for a drawing.
        return square
    mask = Image.new("L", square.size)
    ImageDraw.Draw(mask).ellipse((0, 0, square.width - 1, square.height - 1), fill=255)
    page = {"black": BLACK, "grey": NEUTRAL}.get(ground, WHITE)
    return Image.composite(square, Image.new("RGB", square.size, page), mask)
