"""From a file's frames to what the model scores: the ways in which people may get to see it.

Frames are chosen so that none that differs from the rest is missed, transparency is looked at over
white and over black, long pictures also in pieces. Runs in the decoding child process.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from worker import flat
from worker.frames import Frame, Frames
from worker.pixels import InputSpec, Uint8Array, fit

Background = Literal["", "white", "black", "dropped"]
Crop = Literal["whole", "square", "round", "padded", "start", "end"]

#: Mean levels (0..255) by which a cell of the thumbnails must differ to be seen.
VISIBLE_LEVELS = 12
#: Cells along each side of the thumbnails that frames are compared by.
_THUMB_CELLS = 32
#: Pillow resizes from a picture shrunk by a whole number without visible loss while this is kept.
#: Source: Pillow, Image.resize, `reducing_gap`: 3.0 is "indistinguishable from fair resampling".
_REDUCING_GAP = 3
#: Standard deviation in levels above which colours under full transparency are a picture.
_HIDDEN_LEVELS = 24
#: Proportions from which a picture is also scored padded, and from which also in pieces.
_PADDED_RATIO, _PIECES_RATIO = 1.5, 2.0

_WHITE, _BLACK, _NEUTRAL = (255, 255, 255), (0, 0, 0), (128, 128, 128)
_COLOURS: dict[Background, tuple[int, int, int]] = {
    "white": _WHITE,
    "black": _BLACK,
    "": _NEUTRAL,
}
_BACKGROUNDS: dict[str, tuple[Background, ...]] = {
    "both": ("white", "black"),
    "white": ("white",),
    "black": ("black",),
}


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """How a picture is looked at.

    Attributes:
        spec: the bundle's input rule.
        max_frames: frames of an animation that are scored at most.
        max_views: views of one upload that are scored at most.
        backgrounds: what transparency is put over.
        hidden_colours: also look at what a program shows that drops transparency; where nothing
            else is visible, this is done in any case.
        served_crop: also score the centre square, or the circle in it, as shown by a web tier.
        pad_to_square: pad instead of the bundle's own resize rule.
        flat_rule: let `flat.explain` recognise generated pictures.
    """

    spec: InputSpec
    max_frames: int = 8
    max_views: int = 16
    backgrounds: Literal["both", "white", "black"] = "both"
    hidden_colours: bool = False
    served_crop: Literal["none", "square", "round", "both"] = "none"
    pad_to_square: bool = False
    flat_rule: bool = True

    @property
    def id(self) -> str:
        """Names these options; a verdict holds only for pictures that were looked at so."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:8]


@dataclass(frozen=True, kw_only=True)
class View:
    """One thing to score.

    Attributes:
        pixels: (height_px, width_px, 3) uint8, RGB, as the bundle wants it.
        frame: index in the animation; 0 for a still picture.
        background: what shines through: "" nothing, "dropped" transparency ignored.
        crop: which part of the picture.
        shown_share: part of the animation's time that this frame, and those just like it, take.
    """

    pixels: Uint8Array
    frame: int
    background: Background
    crop: Crop
    shown_share: float


def look(frames: Frames, options: ViewOptions) -> tuple[list[View], str | None]:
    """Decode what is needed and return the views, the most telling first, and the flat rule's word.

    Raises:
        InvalidInput: see `Frames.read`.
    """
    shown = [
        _Shown(frame=frame, share=share, grounds=tuple(_backgrounds(frame.image, options)))
        for frame, share in _choose(frames, options.max_frames)
    ]
    views = [view for each in shown for view in _views(each, options)]
    telling = [view for view in views if not flat.shows_nothing(view.pixels)]
    explanation = _explain_all(shown) if options.flat_rule else None
    # Where there is anything to see, what shows nothing is not worth an inference.
    views = telling or views[:1]
    views.sort(key=lambda view: (view.crop != "whole", view.background == "dropped"))
    return views[: options.max_views], explanation


def short_side_needed_px(spec: InputSpec) -> int:
    """Short side below which shrinking a frame first would be seen in the model's input."""
    return _REDUCING_GAP * spec.resize_px


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """A chosen frame over each of its backgrounds."""

    frame: Frame
    share: float
    grounds: tuple[tuple[Background, Image.Image], ...]


def _explain_all(shown: list[_Shown]) -> str | None:
    explanation = None
    for each in shown:
        for _, image in each.grounds:
            explanation = flat.explain(image)
            if explanation is None:
                return None
    return explanation


# -- frames --------------------------------------------------------------------------------------


def _choose(frames: Frames, max_frames: int) -> list[tuple[Frame, float]]:
    """The frames to score with the share of time that each stands for."""
    if len(frames) == 1:
        return [(frames.read(0), 1.0)]
    keep = len(frames) <= max_frames
    kept: dict[int, Frame] = {}
    thumbs, durations_s = [], []
    for index in range(len(frames)):
        frame = frames.read(index)
        thumbs.append(thumbnail(frame.image))
        durations_s.append(frame.duration_s)
        if keep:
            kept[index] = frame
    shares = spread(np.stack(thumbs), np.array(durations_s), max_frames)
    return [(kept.get(index) or frames.read(index), share) for index, share in shares]


def thumbnail(image: Image.Image) -> npt.NDArray[np.int16]:
    """Mean levels of a grid of cells, over white and over black."""
    size = (_THUMB_CELLS, _THUMB_CELLS)
    small = image.resize(size, Image.Resampling.BOX, reducing_gap=1.0)
    layers = [over(small, colour) for colour in (_WHITE, _BLACK)]
    return np.stack([np.asarray(layer) for layer in layers]).astype(np.int16).reshape(-1)


def spread(
    thumbs: npt.NDArray[np.int16], durations_s: npt.NDArray[np.float64], max_frames: int
) -> list[tuple[int, float]]:
    """Choose frames that stand for all.

    The first, the last, three spread over the time shown, then always the frame that is least like
    those chosen, so that a frame shown for an instant is not missed. One that differs from a chosen
    one by less than `VISIBLE_LEVELS` in every cell is not chosen.

    Args:
        thumbs: (frames, cells), see `thumbnail`.
        durations_s: one a frame; may all be zero.
        max_frames: at most so many.

    Returns:
        Index and share of the time, in order; the shares add up to 1.
    """
    count = len(thumbs)
    clock = np.cumsum(durations_s)
    wanted = [0, count - 1]
    if clock[-1] > 0:
        wanted += [int(np.searchsorted(clock, clock[-1] * part)) for part in (0.25, 0.5, 0.75)]
    chosen: list[int] = []
    nearest = np.zeros(count, dtype=np.intp)
    distance = np.full(count, np.iinfo(np.int16).max, dtype=np.int16)
    while len(chosen) < max_frames:
        index = wanted.pop(0) if wanted else int(distance.argmax())
        if distance[index] >= VISIBLE_LEVELS:
            apart = np.abs(thumbs - thumbs[index]).max(axis=1)
            nearest[apart < distance] = len(chosen)
            distance = np.minimum(distance, apart)
            chosen.append(index)
        elif distance.max() < VISIBLE_LEVELS:
            break
    weights = durations_s if clock[-1] > 0 else np.ones(count)
    shares = np.bincount(nearest, weights=weights, minlength=len(chosen)) / weights.sum()
    return sorted(zip(chosen, shares.tolist(), strict=True))


# -- views of one frame --------------------------------------------------------------------------


def _views(shown: _Shown, options: ViewOptions) -> Iterator[View]:
    looks = [
        (background, crop, pixels)
        for background, image in shown.grounds
        for crop, pixels in _crops(image, background, options)
    ]
    seen: list[npt.NDArray[np.int16]] = []
    for background, crop, pixels in looks:
        if len(looks) > 1:
            thumb = thumbnail(Image.fromarray(pixels))
            if any(np.abs(thumb - other).max() < VISIBLE_LEVELS for other in seen):
                continue
            seen.append(thumb)
        yield View(
            pixels=pixels,
            frame=shown.frame.index,
            background=background,
            crop=crop,
            shown_share=shown.share,
        )


def _backgrounds(
    image: Image.Image, options: ViewOptions
) -> Iterator[tuple[Background, Image.Image]]:
    if image.mode == "RGB":
        yield "", image
        return
    is_blank = True
    for background in _BACKGROUNDS[options.backgrounds]:
        ground = over(image, _COLOURS[background])
        is_blank = is_blank and flat.is_single_colour(ground)
        yield background, ground
    if (options.hidden_colours or is_blank) and _hides_colours(image):
        yield "dropped", image.convert("RGB")


def over(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Put a picture over one colour; opaque ones are returned as they are."""
    if image.mode == "RGB":
        return image
    ground = Image.new("RGB", image.size, colour)
    ground.paste(image, mask=image.getchannel("A"))
    return ground


def _hides_colours(image: Image.Image) -> bool:
    pixels = np.asarray(image)
    hidden = pixels[pixels[..., 3] < 8]
    return len(hidden) > 0 and bool(hidden[:, :3].std(axis=0).max() > _HIDDEN_LEVELS)


def _crops(
    image: Image.Image, background: Background, options: ViewOptions
) -> Iterator[tuple[Crop, Uint8Array]]:
    spec = options.spec
    padded = replace(
        spec, resize="pad", resize_px=max(spec.width_px, spec.height_px), fill=_NEUTRAL[0]
    )
    if options.pad_to_square:
        spec = padded
    yield "whole", fit(image, spec)
    long_px, short_px = max(image.size), min(image.size)
    if long_px > _PADDED_RATIO * short_px and spec.resize == "short_side":
        yield "padded", fit(image, padded)
    if long_px > _PIECES_RATIO * short_px:
        yield "start", fit(image.crop((0, 0, short_px, short_px)), spec)
        corner = (image.width - short_px, image.height - short_px)
        yield "end", fit(image.crop((*corner, *image.size)), spec)
    if options.served_crop in ("square", "both"):
        yield "square", fit(_square(image), spec)
    if options.served_crop in ("round", "both"):
        yield "round", fit(_round(_square(image), background), spec)


def _square(image: Image.Image) -> Image.Image:
    side_px = min(image.size)
    left, top = (image.width - side_px) // 2, (image.height - side_px) // 2
    return image.crop((left, top, left + side_px, top + side_px))


def _round(square: Image.Image, background: Background) -> Image.Image:
    if flat.is_single_colour(square):
        # A disc cut from nothing would be taken for a drawing.
        return square
    mask = Image.new("L", square.size)
    ImageDraw.Draw(mask).ellipse((0, 0, square.width - 1, square.height - 1), fill=255)
    page = _BLACK if background == "black" else _WHITE
    return Image.composite(square, Image.new("RGB", square.size, page), mask)


# -- for people and providers --------------------------------------------------------------------

#: Source: the strictest of the providers: 256 advised by the Chinese ones, 180 kB by Cloudflare.
_PROVIDER_SHORT_PX, _PROVIDER_LONG_PX, _PROVIDER_BYTES = 256, 1024, 180_000


def normalise(frame: Frame, background: Background) -> bytes:
    """Write one frame as the JPEG that every review provider accepts.

    Returns:
        Short side at least 256 px, long side at most 1024 px, under 180,000 bytes; a strip is
        padded with grey. Without metadata.
    """
    image = frame.image
    image = image.convert("RGB") if background == "dropped" else over(image, _COLOURS[background])
    image = _resize_for_providers(image)
    while True:
        for quality in (92, 85, 75, 60, 40, 25):
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=quality)
            if buffer.tell() < _PROVIDER_BYTES:
                return buffer.getvalue()
        image = image.reduce(2)


def _resize_for_providers(image: Image.Image) -> Image.Image:
    scale = max(1.0, _PROVIDER_SHORT_PX / min(image.size))
    scale = min(scale, _PROVIDER_LONG_PX / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    if min(size) >= _PROVIDER_SHORT_PX:
        return image
    ground = Image.new(
        "RGB", (max(size[0], _PROVIDER_SHORT_PX), max(size[1], _PROVIDER_SHORT_PX)), _NEUTRAL
    )
    ground.paste(image, ((ground.width - size[0]) // 2, (ground.height - size[1]) // 2))
    return ground
