"""How a picture becomes a model's pixels: the input rule of a bundle, as data and as one function.

Imported by the decoding child process, so it needs Pillow and numpy but not onnxruntime.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

Uint8Array = npt.NDArray[np.uint8]

Resize = Literal["stretch", "short_side", "pad"]
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]

#: Proportion above which the cropped-away part of a picture is not computed.
_STRIP_RATIO = 12

_FILTERS = {name: Image.Resampling[name.upper()] for name in get_args(Interpolation)}


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """What a model sees of a picture: resize, then centre crop to `width_px` x `height_px`.

    Attributes:
        width_px: width of the array that `fit` returns.
        height_px: height of that array.
        resize: `stretch` to a square of `resize_px`, the `short_side` to `resize_px` with the
            proportions kept, or the long side to it and `pad` to a square with `fill`.
        resize_px: see `resize`; at least as large as the crop.
        interpolation: Pillow's filter; all but `nearest` are antialiased when shrinking.
        fill: grey level 0..255 of the padding.
    """

    width_px: int
    height_px: int
    resize: Resize
    resize_px: int
    interpolation: Interpolation
    fill: int = 0

    def __post_init__(self) -> None:
        for name in ("width_px", "height_px", "resize_px", "fill"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise ValueError(f"{name} must be a whole number, not {value!r}")
        if (
            not 1
            <= min(self.width_px, self.height_px)
            <= max(self.width_px, self.height_px)
            <= 4096
        ):
            raise ValueError("width_px and height_px must be from 1 to 4096")
        if not max(self.width_px, self.height_px) <= self.resize_px <= 8192:
            raise ValueError(
                f"resize_px must be from the crop's longer side to 8192, not {self.resize_px}"
            )
        if self.resize not in get_args(Resize):
            raise ValueError(f"resize must be one of {get_args(Resize)}, not {self.resize!r}")
        if self.interpolation not in _FILTERS:
            raise ValueError(
                f"interpolation must be one of {tuple(_FILTERS)}, not {self.interpolation!r}"
            )
        if not 0 <= self.fill <= 255:
            raise ValueError(f"fill must be from 0 to 255, not {self.fill}")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> InputSpec:
        """Read `model.json`'s `input` strictly.

        Raises:
            ValueError: a key is missing or unknown, or a value is out of range; names it.
        """
        known = {field.name for field in fields(cls)}
        unknown, missing = set(data) - known, known - set(data) - {"fill"}
        if unknown:
            raise ValueError(f"unknown key {min(unknown)!r}")
        if missing:
            raise ValueError(f"key {min(missing)!r} is missing")
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` reads."""
        return asdict(self)


def fit(image: Image.Image, spec: InputSpec) -> Uint8Array:
    """Resize and crop one picture as the model was trained to see it.

    Equal to the reference to the pixel. Of a strip longer than `_STRIP_RATIO` times its width only
    the crop is computed, so 50,000 x 10 costs no more than a square; Pillow then rounds its two
    passes in another order, and single pixels may differ.

    Source: torchvision `Resize` and `CenterCrop` on Pillow images (rounding of the long side and
    of the crop's corner), timm `ResizeKeepRatio` and `CenterCropOrPad` for `pad`, transformers
    `ViTImageProcessor` for `stretch`.

    Args:
        image: mode RGB, at least 1 x 1.
        spec: the bundle's input rule.

    Returns:
        (height_px, width_px, 3) uint8, RGB, C-contiguous.

    Raises:
        ValueError: the picture is not in mode RGB.
    """
    if image.mode != "RGB":
        raise ValueError(f"fit takes RGB pictures, not mode {image.mode}")
    if spec.resize == "pad":
        return _pad(image, spec)
    width_px, height_px = _resized_size(image.width, image.height, spec)
    left_px = round((width_px - spec.width_px) / 2.0)
    top_px = round((height_px - spec.height_px) / 2.0)
    resample = _FILTERS[spec.interpolation]
    if max(width_px, height_px) > _STRIP_RATIO * min(width_px, height_px):
        scale_x, scale_y = image.width / width_px, image.height / height_px
        box = (
            left_px * scale_x,
            top_px * scale_y,
            min((left_px + spec.width_px) * scale_x, image.width),
            min((top_px + spec.height_px) * scale_y, image.height),
        )
        return np.array(image.resize((spec.width_px, spec.height_px), resample, box=box))
    resized = np.asarray(image.resize((width_px, height_px), resample))
    crop = resized[top_px : top_px + spec.height_px, left_px : left_px + spec.width_px]
    return np.ascontiguousarray(crop)


def _resized_size(width_px: int, height_px: int, spec: InputSpec) -> tuple[int, int]:
    if spec.resize == "stretch":
        return spec.resize_px, spec.resize_px
    if width_px <= height_px:
        return spec.resize_px, int(spec.resize_px * height_px / width_px)
    return int(spec.resize_px * width_px / height_px), spec.resize_px


def _pad(image: Image.Image, spec: InputSpec) -> Uint8Array:
    ratio = max(image.width, image.height) / spec.resize_px
    width_px = max(1, round(image.width / ratio))
    height_px = max(1, round(image.height / ratio))
    resized = image.resize((width_px, height_px), _FILTERS[spec.interpolation])
    canvas = Image.new("RGB", (spec.width_px, spec.height_px), (spec.fill,) * 3)
    corner = round((spec.width_px - width_px) / 2.0), round((spec.height_px - height_px) / 2.0)
    canvas.paste(resized, corner)
    return np.array(canvas)
