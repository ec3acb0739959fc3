"""Any pixel layout of the accepted formats as 8-bit sRGB, the way a browser would show it.

Pure: Pillow picture in, Pillow picture out.
"""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageCms

#: Gamma of sRGB as PNG's gAMA states it, and how far off still looks the same.
#: Source: PNG (third edition), 11.3.2.2.
_SRGB_GAMMA, _GAMMA_TOLERANCE = 0.45455, 0.05

#: Colour space of an ICC profile -> the mode that it applies to. Source: ICC.1:2022, table 19.
_PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}


def to_srgb(image: Image.Image) -> Image.Image:
    """Return mode RGB, or RGBA where a pixel is not opaque; always a new picture."""
    if image.mode.startswith("I"):
        image = _from_16_bit(image)
    alpha = _alpha(image)
    colours = _apply_profile(image) or _apply_gamma(image)
    if alpha is not None:
        colours.putalpha(alpha)
    return colours


def _from_16_bit(image: Image.Image) -> Image.Image:
    levels = np.asarray(image).astype(np.int64)
    eight_bit = Image.fromarray(((levels.clip(0, 65535) * 255 + 32767) // 65535).astype(np.uint8))
    eight_bit.info = {key: value for key, value in image.info.items() if key != "transparency"}
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        eight_bit.putalpha(
            Image.fromarray(np.where(levels == transparent, 0, 255).astype(np.uint8))
        )
    return eight_bit


def _alpha(image: Image.Image) -> Image.Image | None:
    if not image.has_transparency_data:
        return None
    alpha = image.convert("RGBA").getchannel("A")
    return None if alpha.getextrema() == (255, 255) else alpha


def _apply_profile(image: Image.Image) -> Image.Image | None:
    profile = image.info.get("icc_profile")
    if not profile:
        return None
    space, transform = _transform(profile)
    if transform is None or (space == "CMYK") != (image.mode == "CMYK"):
        return None
    return ImageCms.applyTransform(_opaque(image, _PROFILE_MODES[space]), transform)


@functools.lru_cache(maxsize=32)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """Colour space and transform of a profile; None where it is unusable, which browsers ignore."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        return space, ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), _PROFILE_MODES[space], "RGB"
        )
    except (ImageCms.PyCMSError, OSError, KeyError, ValueError):
        return "", None


def _apply_gamma(image: Image.Image) -> Image.Image:
    colours = _opaque(image, "RGB")
    gamma = image.info.get("gamma")
    if not gamma or "srgb" in image.info or abs(gamma / _SRGB_GAMMA - 1) < _GAMMA_TOLERANCE:
        return colours
    exponent = _SRGB_GAMMA / gamma
    return colours.point([round(255 * (level / 255) ** exponent) for level in range(256)] * 3)


def _opaque(image: Image.Image, mode: str) -> Image.Image:
    if "transparency" in image.info:
        image = image.copy()
        del image.info["transparency"]
    if image.mode in ("LA", "RGBA", "PA", "La", "RGBa"):
        # Straight colours, whatever shines through: `convert` would drop alpha the same way.
        image = image.convert("RGBA").convert("RGB")
    return image.copy() if image.mode == mode else image.convert(mode)
