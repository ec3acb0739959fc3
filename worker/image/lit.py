"""What screens that can do more than white show of a picture with a gain map, as 8-bit sRGB.

Source: ISO 21496-1, 6.3: stops of light added pixel by pixel. Pure: Pillow pictures in and out.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from worker.image.containers.gain import Gain, GainMap
from worker.image.containers.profiles import levels_of, light_of

#: Pixels at most: more than any model sees.
_MOST_PX = 1_000_000
#: Share of the pixels that may be brighter than what is shown as white.
_BRIGHTEST = 0.01
#: Times white from which what lies between is shown by itself.
_FAR = 4.0

_LEVELS = np.linspace(0, 1, 256)
_LIGHT = light_of(_LEVELS).astype(np.float32)
_STEPS = np.linspace(0, 1, 4096)
_SHOWN_LEVELS = np.round(levels_of(_STEPS) * 255).astype(np.uint8)


def lit(image: Image.Image, gain_map: GainMap) -> dict[str, Image.Image]:
    """The picture with its map in full effect, mode RGB, perhaps shrunk.

    Returns:
        "lit" stops at white, as a screen does that can do no more; "lit-dim", where there is
        anything brighter, is darkened until that is seen, and "lit-half" half as far. With a
        number for each further meaning of the map.
    """
    factor = int(np.ceil(np.sqrt(image.width * image.height / _MOST_PX)))
    small = image.reduce(factor) if factor > 1 else image
    levels = gain_map.decode().convert("RGB").resize(small.size, Image.Resampling.BILINEAR)
    found = {}
    for number, gain in enumerate(gain_map.gains):
        light = _lit(small, levels, gain)
        end = f"-{number + 1}" if number else ""
        # Not `quantile`, which imports a module; the child that decodes opens no file.
        peaks = light.max(axis=2).ravel()
        place = int(len(peaks) * (1 - _BRIGHTEST))
        brightest = float(np.partition(peaks, place)[place])
        found["lit" + end] = _as_levels(light)
        if brightest > 1:
            found["lit-dim" + end] = _as_levels(light / brightest)
        if brightest > _FAR:
            found["lit-half" + end] = _as_levels(light / np.sqrt(brightest))
    return found


def _lit(image: Image.Image, levels: Image.Image, gain: Gain) -> npt.NDArray[np.float32]:
    """Linear light, (height, width, 3); 1 is white."""
    light: npt.NDArray[np.float32] = _LIGHT[np.asarray(image)]
    for channel, added in enumerate(levels.split()):
        low, high = gain.low[channel], gain.high[channel]
        times = np.exp2(low + (high - low) * _LEVELS ** (1 / gain.gamma[channel]))
        plane = light[..., channel]
        plane += gain.before[channel]
        plane *= times.astype(np.float32)[np.asarray(added)]
        plane -= gain.after[channel]
    return np.maximum(light, np.float32(0))


def _as_levels(light: npt.NDArray[np.float32]) -> Image.Image:
    steps = (light.clip(0, 1) * (len(_SHOWN_LEVELS) - 1) + 0.5).astype(np.uint16)
    return Image.fromarray(_SHOWN_LEVELS[steps])
