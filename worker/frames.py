"""A file's frames as upright 8-bit sRGB pictures, no larger than the model needs.

Takes bytes that `formats.declare` has let through; the codec libraries run here, so this is used in
the decoding child process only. Every codec error becomes `CorruptImage`.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass

from pi_heif import options as heif_options
from pi_heif.as_plugin import HeifImageFile
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from producer.errors import CorruptImage, ModerationError
from worker.colours import to_srgb
from worker.formats import Declared, DecodeLimits, declare

_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "HEIC": HeifImageFile,
}

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
_ORIENTATION_TAG = 0x0112

#: Modes in which neighbouring pixels can be averaged as they are.
_SHRINKABLE = frozenset({"L", "RGB", "RGBA", "CMYK"})

#: Pixels that are premultiplied at once.
_STRIP_PIXELS = 1_000_000


def prepare_codecs() -> None:
    """Set the libraries' global switches; once, in the child process."""
    # Our own limits are stricter and are checked before a reader is made.
    Image.MAX_IMAGE_PIXELS = None
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    heif_options.DECODE_THREADS = 1
    heif_options.THUMBNAILS = heif_options.DEPTH_IMAGES = heif_options.AUX_IMAGES = False


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame as it would be seen: mode RGB, or RGBA where something shines through."""

    index: int
    image: Image.Image
    duration_s: float


class Frames:
    """The frames of one file; opening checks the limits, reading decodes."""

    def __init__(self, data: bytes, limits: DecodeLimits, short_side_px: int) -> None:
        """Open without decoding.

        Args:
            data: the file.
            limits: what it may cost.
            short_side_px: frames are shrunk by whole numbers while their short side keeps this.

        Raises:
            InvalidInput: one of its kinds, see `formats.declare`.
        """
        declared = declare(data, limits)
        self._short_side_px = short_side_px
        self.format = declared.format
        with self._translated():
            self._reader = _READERS[declared.format](io.BytesIO(data))
        self.declared = declared if declared.frame_count else self._ask_library()
        # A reader that finds another size than we did must not get past the limits.
        limits.check_size(*self._reader.size, self.declared.frame_count)

    def __len__(self) -> int:
        return self.declared.frame_count

    def _ask_library(self) -> Declared:
        width_px, height_px = self._reader.size
        # The other pictures of a HEIC collection are not shown by a browser.
        count = getattr(self._reader, "n_frames", 1) if self.format == "AVIF" else 1
        return Declared(
            format=self.format, width_px=width_px, height_px=height_px, frame_count=count
        )

    def read(self, index: int) -> Frame:
        """Decode one frame; reading in order is cheapest.

        Raises:
            CorruptImage: the codec gave up.
            MemoryError: the pixels do not fit into the memory allowed.
        """
        reader = self._reader
        with self._translated():
            if len(self) > 1:
                reader.seek(index)
            factor = self._factor(reader.size)
            if factor > 1 and isinstance(reader, JpegImagePlugin.JpegImageFile):
                reader.draft(None, (reader.width // factor, reader.height // factor))
            reader.load()
            image = _upright(_convert(reader, self._factor(reader.size)), reader)
        if self.declared.durations_s:
            duration_s = self.declared.durations_s[index]
        else:
            duration_s = reader.info.get("duration", 0) / 1000
        return Frame(index=index, image=image, duration_s=duration_s)

    def _factor(self, size: tuple[int, int]) -> int:
        return max(1, min(size) // self._short_side_px)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (ModerationError, MemoryError):
            raise
        except Exception as error:
            raise CorruptImage(f"the {self.format} file is damaged: {str(error)[:200]}") from error


def _convert(image: Image.Image, factor: int) -> Image.Image:
    if factor > 1 and image.mode in _SHRINKABLE and "transparency" not in image.info:
        # First shrunk, a large picture takes half the memory and a fraction of the time.
        return to_srgb(_shrink(image, factor))
    return _shrink(to_srgb(image), factor)


def _shrink(image: Image.Image, factor: int) -> Image.Image:
    if factor == 1:
        return image
    if image.mode == "RGBA":
        return _shrink_transparent(image, factor)
    return image.reduce(factor)


def _shrink_transparent(image: Image.Image, factor: int) -> Image.Image:
    """Premultiplied, so that the colour of what is transparent does not bleed into the rest.

    Strip by strip: a premultiplied copy of the whole would double the memory.
    """
    width_px, height_px = image.size
    shrunk = Image.new("RGBa", (-(-width_px // factor), -(-height_px // factor)))
    step_px = factor * max(1, _STRIP_PIXELS // (width_px * factor))
    for top_px in range(0, height_px, step_px):
        strip = image.crop((0, top_px, width_px, min(top_px + step_px, height_px)))
        shrunk.paste(strip.convert("RGBa").reduce(factor), (0, top_px // factor))
    return shrunk.convert("RGBA")


def _upright(image: Image.Image, reader: Image.Image) -> Image.Image:
    try:
        orientation = reader.getexif().get(_ORIENTATION_TAG)
    except Exception:  # noqa: BLE001 - EXIF that cannot be read turns nothing, as in browsers
        return image
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)
