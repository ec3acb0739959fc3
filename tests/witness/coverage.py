"""Whether all that the browsers show of a file is what the decoder scores of it.

A thing shown (each frame, over white and over black, and the middle of what is longer than 1.5 to
1) is *covered* where a scored view looks like it at the model's own input size. A file is
*uncovered* where a thing is not and the verdict could still be `approved`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from producer.errors import InvalidInput
from tests.witness.browsers import Painted, Shown, Witnesses
from worker import model
from worker.image import generated
from worker.image.decoder import DecodeLimits, Decoder, Picture, ViewOptions
from worker.image.preprocess import InputSpec, fit

_BUNDLE = Path(model.__file__).parent / "bundles" / "open-nsfw" / "model.json"
#: What the bundled model sees of a picture.
SPEC = InputSpec.from_dict(json.loads(_BUNDLE.read_text())["input"])
#: Levels (0..255) by which two pictures of the model's size may differ in any box of `_BOX_PX`
#: pixels a side, on average over channels: codecs round differently and enlarge colour differently,
#: and an outline half a pixel off is no other picture. Each pixel's difference counts, so that what
#: only a mosaic would even out is seen.
SAME_LEVELS = 16.0
#: The same for what was let through without a model.
EXPLAINED_LEVELS = 5.0
_BOX_PX = 7
#: Proportion from which a page's `object-fit: cover` shows another picture than the whole.
_CROPPED_RATIO = 1.5

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One thing that a browser shows, as the model would see it."""

    label: str
    pixels: Pixels
    full: Image.Image
    apart: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """How one file is shown and scored.

    Attributes:
        name: the file's name, or how it was made.
        data: the file.
        picture: what the decoder made of it; None where it was refused.
        refusal: why it was refused.
        is_shown: whether any browser shows it.
        unlike: the things shown that no scored view looks like.
        is_uncovered: such a thing exists and the verdict could be `approved`.
    """

    name: str
    data: bytes
    picture: Picture | None
    refusal: str = ""
    is_shown: bool = False
    unlike: list[Thing] = field(default_factory=list)
    is_uncovered: bool = False


def watch(
    files: Iterable[tuple[str, bytes]], witnesses: Witnesses, decoder: Decoder
) -> Iterator[Finding]:
    """Show, decode and compare named files, in order."""
    names: list[str] = []

    def bare() -> Iterator[bytes]:
        for name, data in files:
            names.append(name)
            yield data

    for data, shown in witnesses.show(bare()):
        yield compare(names.pop(0), data, shown, decoder)


def default_decoder() -> Decoder:
    """The decoder as a worker with the bundled model runs it."""
    return Decoder(DecodeLimits(), ViewOptions(spec=SPEC))


def compare(name: str, data: bytes, shown: list[Shown], decoder: Decoder) -> Finding:
    """Judge one file that the browsers have painted."""
    is_shown = any(each.pictures for each in shown)
    try:
        picture = decoder.decode(data)
    except InvalidInput as error:
        return Finding(name=name, data=data, picture=None, refusal=error.code, is_shown=is_shown)
    unlike = [
        thing for thing in (_apart(thing, picture) for thing in things(shown)) if thing.apart > 0
    ]
    return Finding(
        name=name,
        data=data,
        picture=picture,
        is_shown=is_shown,
        unlike=unlike,
        is_uncovered=bool(unlike) and can_be_approved(picture),
    )


def can_be_approved(picture: Picture) -> bool:
    """Whether nothing about the picture keeps its verdict gray at best."""
    return not picture.unseen


def things(shown: list[Shown]) -> Iterator[Thing]:
    """All that people may see, each once; one even colour is nothing to be seen."""
    seen: set[bytes] = set()
    for browser in shown:
        for number, painted in enumerate(_upright(browser.pictures)):
            key = painted.pixels.tobytes()
            if key in seen:
                continue
            seen.add(key)
            when = f"frame {number - 1}" if painted.duration_s >= 0 else "still"
            for ground, image in _grounds(painted):
                for crop, part in _crops(image, painted):
                    label = " ".join(filter(None, (browser.browser, when, ground, crop)))
                    pixels = fit(part, SPEC)
                    if not generated.shows_nothing(pixels):
                        yield Thing(label=label, pixels=pixels, full=part)


def _upright(pictures: list[Painted]) -> list[Painted]:
    """Turn frames as the still picture is turned: ImageDecoder leaves that to the page."""
    if len(pictures) < 2 or pictures[0].duration_s >= 0:
        return pictures
    still, *frames = pictures
    first = frames[0].pixels
    for turn in _TURNS:
        turned = turn(first)
        if turned.shape == still.pixels.shape and _mean_apart(turned, still.pixels) < 3:
            return [still, *(_turned(frame, turn(frame.pixels)) for frame in frames)]
    return pictures


_TURNS = tuple(
    (lambda pixels, k=k, flip=flip: np.rot90(pixels[:, ::-1] if flip else pixels, k))
    for flip in (False, True)
    for k in range(4)
)


def _turned(frame: Painted, pixels: Pixels) -> Painted:
    sides = (frame.width_px, frame.height_px)
    width_px, height_px = sides if pixels.shape == frame.pixels.shape else sides[::-1]
    return Painted(
        pixels=pixels, width_px=width_px, height_px=height_px, duration_s=frame.duration_s
    )


def _mean_apart(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(np.int16) - other).mean())


def _grounds(painted: Painted) -> Iterator[tuple[str, Image.Image]]:
    image = Image.fromarray(np.ascontiguousarray(painted.pixels))
    if painted.pixels[..., 3].min() == 255:
        yield "", image.convert("RGB")
        return
    for name, level in (("white", 255), ("black", 0)):
        ground = Image.new("RGB", image.size, (level,) * 3)
        ground.paste(image, mask=image.getchannel("A"))
        yield f"over {name}", ground


def _crops(image: Image.Image, painted: Painted) -> Iterator[tuple[str, Image.Image]]:
    yield "", image
    sides = sorted((painted.width_px, painted.height_px))
    if sides[1] > _CROPPED_RATIO * sides[0]:
        side_px = min(image.size)
        left, top = (image.width - side_px) // 2, (image.height - side_px) // 2
        yield "centre square", image.crop((left, top, left + side_px, top + side_px))


def _apart(thing: Thing, picture: Picture) -> Thing:
    """The thing with how far it is from every view, 0 where one looks like it."""
    nearest = min(most_apart(thing.pixels, view.pixels) for view in picture.views)
    bound = SAME_LEVELS if picture.flat is None else EXPLAINED_LEVELS
    if nearest <= bound and (picture.flat is None or generated.explain(thing.full) is not None):
        nearest = 0.0
    return Thing(label=thing.label, pixels=thing.pixels, full=thing.full, apart=max(nearest, 0.0))


def most_apart(one: Pixels, other: Pixels) -> float:
    """Mean levels by which two pictures of one size differ in the box where they differ most."""
    if one.shape != other.shape:
        return 255.0
    apart = np.abs(one.astype(np.int16) - other).mean(axis=2)
    sums = np.pad(apart, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    box = min(_BOX_PX, *apart.shape)
    inside = sums[box:, box:] - sums[:-box, box:] - sums[box:, :-box] + sums[:-box, :-box]
    return float(inside.max() / box**2)
