"""A file's frames as upright 8-bit sRGB pictures, in each way that viewers show them.

The codec libraries run here, on small files that `containers` has written, so this is used in the
decoding child process only. Every codec error becomes `CorruptImage`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pi_heif import options as heif_options
from PIL import AvifImagePlugin, Image

from producer.errors import CorruptImage, ModerationError
from worker.image import containers
from worker.image.canvas import Canvas
from worker.image.colours import STORED, Readings, readings, render
from worker.image.containers.formats import DecodeLimits
from worker.image.lit import lit

#: EXIF orientation -> what turns the picture upright. Source: EXIF 2.32, tag 0x0112.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

#: What becomes of levels where the full range is taken for that of video: Chromium does it with
#: films and with transparency; and the reverse. Source: ITU-R BT.601.
_WIDER = [max(0, min(255, round((level - 16) * 255 / 219))) for level in range(256)]
_NARROWER = [round(16 + level * 219 / 255) for level in range(256)]


def prepare_codecs() -> None:
    """Set the libraries' global switches; once, in the child process."""
    # Our own limits are stricter and are checked before a reader is made.
    Image.MAX_IMAGE_PIXELS = None
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    heif_options.DECODE_THREADS = 1
    # NumPy's BLAS reserves 32 MB with its first product; no picture should have to pay that.
    np.linalg.lstsq(np.eye(64), np.eye(64), rcond=None)
    heif_options.THUMBNAILS = heif_options.DEPTH_IMAGES = heif_options.AUX_IMAGES = False


#: Bytes a pixel that codecs take at most of what they say they lack: two canvases of an animated
#: WebP and the picture, or the coefficients of a progressive JPEG with four channels.
_CODEC_BYTES_PER_PX = 16
#: What codecs raise, for damage as for lack of memory.
_CODEC_ERRORS = (OSError, RuntimeError, SyntaxError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame as it would be seen: mode RGB, or RGBA where something shines through.

    Attributes:
        index: place in the file.
        renditions: name -> picture. The first one, named "", is what browsers show; the others are
            what viewers show that read colours, crop or orientation in another way.
        duration_s: how long it is shown.
        ignores_alpha: some viewers show the colours without the transparency.
        is_plain: neither colour data nor a crop or turn stands between the file and what is seen.
    """

    index: int
    renditions: dict[str, Image.Image]
    duration_s: float
    ignores_alpha: bool = False
    is_plain: bool = True

    @property
    def image(self) -> Image.Image:
        """What browsers show."""
        return self.renditions[""]


class Frames:
    """The frames of one file; opening checks the limits, reading decodes."""

    def __init__(self, data: bytes, limits: DecodeLimits, short_side_px: int) -> None:
        """Open without decoding.

        Args:
            data: the file.
            limits: what it may cost.
            short_side_px: frames are shrunk by whole numbers while their short side keeps this.

        Raises:
            InvalidInput: one of its kinds, see `containers.read`.
        """
        self.declared = containers.read(data, limits)
        self.format = self.declared.format
        self._short_side_px = short_side_px
        pixels = self.declared.width_px * self.declared.height_px
        self._may_lack_memory = pixels * _CODEC_BYTES_PER_PX > limits.memory_bytes
        self._canvas = Canvas(self.declared)
        self._readings: Readings | None = None

    def __len__(self) -> int:
        return len(self.declared.frames)

    @property
    def doubts(self) -> list[str]:
        """Why viewers may show something else than what was read so far; no entry twice."""
        found = [*self.declared.doubts, *(self._readings.doubts if self._readings else ())]
        return list(dict.fromkeys(found))

    def read(self, index: int) -> Frame:
        """Decode one frame; reading in order is cheapest.

        Raises:
            CorruptImage: the codec gave up.
            MemoryError: the pixels do not fit into the memory allowed, or the codec gave up on a
                picture so large that this may be why; few codecs tell.
        """
        contents = self.declared
        with self._translated():
            image = self._canvas.show(index)
            if self._readings is None:
                self._readings = readings(contents.profiles, image.mode, is_deep=contents.is_deep)
            if self._readings.leave_out(image):
                contents.doubts.append("colours that browsers read from tables in another way")
            renditions = self._renditions(image)
        return Frame(
            index=index,
            renditions=renditions,
            duration_s=contents.frames[index].duration_s,
            ignores_alpha=contents.ignores_alpha,
            is_plain=not (contents.turns or contents.crop or contents.doubts)
            and list(renditions) == [""]
            and self._readings.conversions == (STORED,),
        )

    def _renditions(self, image: Image.Image) -> dict[str, Image.Image]:
        contents = self.declared
        assert self._readings is not None
        conversions = self._readings.conversions
        cropped = image if contents.crop is None else image.crop(contents.crop)
        first, *others = render(cropped, conversions, self._factor(cropped))
        found = {"": _turn(first, contents.turns)}
        for conversion, other in zip(conversions[1:], others, strict=True):
            found[conversion.name] = _turn(other, contents.turns)
        for turns in contents.other_turns:
            name = "turned-" + "-".join(str(turn) for turn in turns) if turns else "unturned"
            found[name] = _turn(first, turns)
        if contents.is_film:
            found["widened"] = _rescale(found[""], "RGB", _WIDER)
        for name in contents.other_alphas if first.mode == "RGBA" else ():
            levels = _WIDER if name == "wider" else _NARROWER
            found[f"alpha-{name}"] = _rescale(found[""], "A", levels)
        if contents.gain_map is not None:
            shown = lit(first.convert("RGB"), contents.gain_map)
            found |= {name: _turn(each, contents.turns) for name, each in shown.items()}
        if contents.crop is not None:
            (whole,) = render(image, conversions[:1], self._factor(image))
            found["uncropped"] = _turn(whole, contents.turns)
        return found

    def _factor(self, image: Image.Image) -> int:
        return max(1, min(image.size) // self._short_side_px)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (ModerationError, MemoryError):
            raise
        except Exception as error:
            if self._may_lack_memory and isinstance(error, _CODEC_ERRORS):
                raise MemoryError from error
            raise CorruptImage(f"the {self.format} file is damaged: {str(error)[:200]}") from error


def _turn(image: Image.Image, turns: tuple[int, ...]) -> Image.Image:
    return functools.reduce(lambda turned, turn: turned.transpose(_UPRIGHT[turn]), turns, image)


def _rescale(image: Image.Image, channels: str, levels: list[int]) -> Image.Image:
    """Replace the levels of some channels."""
    same = list(range(256))
    return image.point([to for band in image.mode for to in (levels if band in channels else same)])
