"""GIF: blocks to frames.

Source: GIF89a specification; where it is silent, what Firefox and Chromium do.
"""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
from PIL import GifImagePlugin, Image

from worker.image.containers.contents import Cel, Contents, Parts, require, shown_s
from worker.image.containers.formats import DecodeLimits

#: Blocks of one file: 10 MB in blocks of 50 bytes. They usually have 255.
_MAX_BLOCKS = 200_000
#: Disposal method -> what it means; those above are not defined.
_DISPOSALS: tuple[Any, ...] = ("keep", "keep", "background", "previous")
#: What stands before how often an animation is shown again. Source: Netscape Navigator 2.0, whose
#: extension has one name more.
_LOOPS = (b"\x0bNETSCAPE2.0\3\1", b"\x0bANIMEXTS1.0\3\1")
#: Bits of a pixel that a frame may have. Source: GIF89a, appendix F.
_CODE_BITS = range(1, 9)


def read(data: bytes, limits: DecodeLimits) -> Contents:
    """Walk a GIF file; see `containers.read`."""
    return _Walk(data, limits).contents()


class _Walk:
    def __init__(self, data: bytes, limits: DecodeLimits) -> None:
        self._data = data
        self._limits = limits
        self._parts = Parts("GIF", _MAX_BLOCKS)
        self._doubts: list[str] = []
        self._frames: list[Cel] = []
        self._control: bytes | None = None
        self._plays = 1
        self._width_px, self._height_px, flags = struct.unpack_from("<HHB", data, 6)
        self._palette, self._at = self._take_palette(13, flags)

    def contents(self) -> Contents:
        data = self._data
        # Old programs leave out the end mark, and browsers do not miss it.
        while self._at < len(data) and (block := data[self._at]) != 0x3B:
            self._parts.count()
            if block == 0x21:
                self._take_extension()
            elif block == 0x2C:
                self._take_frame()
            else:
                # Browsers take what they do not know for the end.
                break
        require(self._frames, "the GIF file has no pixels")
        return Contents(
            format="GIF",
            width_px=self._width_px,
            height_px=self._height_px,
            frames=tuple(self._frames),
            plays=self._plays,
            doubts=self._doubts,
        )

    def _take_palette(self, at: int, flags: int) -> tuple[bytes, int]:
        end = at + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        return self._data[at:end], end

    def _take_extension(self) -> None:
        start = self._at + 2
        if self._data[self._at + 1] == 0xF9:
            if self._control is not None or self._data[start] != 4:
                self._doubts.append("a frame with two or odd controls")
            self._control = self._data[start + 1 : start + 5]
        elif self._data[start : start + 14] in _LOOPS:
            (again,) = struct.unpack_from("<H", self._data, start + 14)
            self._plays = again + 1 if again else 0
        self._at = self._skip(start)

    def _skip(self, at: int) -> int:
        # A last block that is cut short may still hold every pixel: that is for the codec to say.
        data, end = self._data, len(self._data)
        while at < end and (length := data[at]):
            self._parts.count()
            at += length + 1
        return at + 1

    def _take_frame(self) -> None:
        left, top, width, height, flags = struct.unpack_from("<HHHHB", self._data, self._at + 1)
        palette, start = self._take_palette(self._at + 10, flags)
        end = self._skip(start + 1)
        pixels = self._data[start:end]
        require(pixels and pixels[0] in _CODE_BITS, "a frame of the GIF file is damaged")
        if not self._frames:
            self._take_screen(left, top, width, height)
        control = self._control or bytes(4)
        self._control = None
        flags_of_control, delay_cs, clear = struct.unpack("<BHB", control)
        disposal = flags_of_control >> 2 & 7
        if disposal > 3:
            self._doubts.append("a disposal of frames that is not defined")
        is_interlaced = bool(flags & 0x40)
        self._limits.check_size(width or 1, height or 1)
        frame = _Frame(
            width, height, is_interlaced, palette or self._palette,
            clear if flags_of_control & 1 else None, pixels, self._doubts,
        )  # fmt: skip
        if not palette and not self._palette:
            self._doubts.append("a frame without colours")
        require(width and height, "a frame of the GIF file is empty")
        self._frames.append(
            Cel(
                decode=frame.decode,
                width_px=width,
                height_px=height,
                left_px=left,
                top_px=top,
                duration_s=shown_s(delay_cs / 100),
                disposal=_DISPOSALS[min(disposal, 3)],
            )
        )
        self._limits.check_size(self._width_px, self._height_px, len(self._frames))
        self._at = end

    def _take_screen(self, left: int, top: int, width: int, height: int) -> None:
        """The first frame makes the screen larger; later ones are clipped to it."""
        if left + width > self._width_px or top + height > self._height_px:
            if left or top or width < self._width_px or height < self._height_px:
                # Firefox then takes the frame's size, Chromium the larger of each.
                self._doubts.append("a first frame that reaches over the screen")
            self._width_px = max(self._width_px, left + width)
            self._height_px = max(self._height_px, top + height)


class _Frame:
    """Pixels of one frame, decoded from a small GIF without colours: its indices."""

    def __init__(
        self,
        width_px: int,
        height_px: int,
        is_interlaced: bool,
        palette: bytes,
        clear: int | None,
        pixels: bytes,
        doubts: list[str],
    ) -> None:
        self._size = struct.pack("<HH", width_px, height_px)
        self._is_interlaced = is_interlaced
        self._palette = palette
        self._clear = clear
        self._pixels = pixels
        self._doubts = doubts

    def decode(self) -> Image.Image:
        flags = 0x40 if self._is_interlaced else 0
        minimal = b"".join(
            (b"GIF89a", self._size, bytes(3), b"\x2c", bytes(4), self._size, bytes([flags]),
             self._pixels, b"\x3b")
        )  # fmt: skip
        reader = GifImagePlugin.GifImageFile(io.BytesIO(minimal))
        reader.load()
        indices = np.asarray(reader)
        count = len(self._palette) // 3
        is_outside = indices >= count
        if self._clear is not None:
            is_outside &= indices != self._clear
        if count < 256 and is_outside.any():
            self._doubts.append("pixels outside of the palette")
        image = Image.frombytes("P", reader.size, indices.tobytes())
        image.putpalette(self._palette.ljust(768, b"\0"))
        if self._clear is None:
            return image
        image.info["transparency"] = self._clear
        return image.convert("RGBA")
