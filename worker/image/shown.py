"""One thing that a file shows: a frame, what shines through it, and a part of it.

`View` is what a model scores; people and review providers get the same, as JPEG.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from worker.image.frames import Frame
from worker.image.preprocess import Uint8Array

#: What shines through: "" nothing, "white", "black", "grey" or "dropped" (transparency ignored);
#: then, after a slash, the rendition where it is not the browsers' own, for example "white/stored".
Background = str
Crop = Literal["whole", "square", "round", "padded", "start", "end"]

WHITE, BLACK, NEUTRAL = (255, 255, 255), (0, 0, 0), (128, 128, 128)
COLOURS = {"white": WHITE, "black": BLACK, "grey": NEUTRAL, "": NEUTRAL}


@dataclass(frozen=True, kw_only=True)
class View:
    """One thing to score.

    Attributes:
        pixels: (height_px, width_px, 3) uint8, RGB, as the bundle wants it.
        frame: index in the animation; 0 for a still picture.
        background: what shines through and how the file is read, see `Background`.
        crop: which part of the picture.
        second: the same as `ViewOptions.second_spec` wants it.
    """

    pixels: Uint8Array
    frame: int
    background: Background
    crop: Crop
    second: Uint8Array | None = None

    @property
    def second_pixels(self) -> Uint8Array:
        """What a second bundle is shown of it."""
        return self.pixels if self.second is None else self.second


def over(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Put a picture over one colour; opaque ones are returned as they are."""
    if image.mode == "RGB":
        return image
    ground = Image.new("RGB", image.size, colour)
    ground.paste(image, mask=image.getchannel("A"))
    return ground


def shown(frame: Frame, background: Background) -> Image.Image:
    """One frame as a view of it was scored, before crop and resizing; mode RGB."""
    ground, _, rendition = background.partition("/")
    image = frame.renditions.get(rendition, frame.image)
    return image.convert("RGB") if ground == "dropped" else over(image, COLOURS[ground])


#: Source: the strictest of the providers: 256 advised by the Chinese ones, 180 kB by Cloudflare.
_PROVIDER_SHORT_PX, _PROVIDER_LONG_PX, _PROVIDER_BYTES = 256, 1024, 180_000


def normalise(frame: Frame, background: Background) -> bytes:
    """Write one frame as the JPEG that every review provider accepts.

    Returns:
        Short side at least 256 px, long side at most 1024 px, under 180,000 bytes; a strip is
        padded with grey. Without metadata.
    """
    image = _resize_for_providers(shown(frame, background))
    while True:
        for quality in (92, 85, 75, 60, 40, 25):
            buffer = io.BytesIO()
            # A picture of Pillow's carries what its file said; only pixels may leave.
            Image.frombytes("RGB", image.size, image.tobytes()).save(
                buffer, "JPEG", quality=quality
            )
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
        "RGB", (max(size[0], _PROVIDER_SHORT_PX), max(size[1], _PROVIDER_SHORT_PX)), NEUTRAL
    )
    ground.paste(image, ((ground.width - size[0]) // 2, (ground.height - size[1]) // 2))
    return ground
