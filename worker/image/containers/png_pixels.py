"""The pixels of PNG and APNG frames, with the transparency that a colour key or palette gives."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin

from worker.image.containers.contents import eight_bit, require
from worker.image.containers.formats import PNG_SIGNATURE

#: Colour type -> samples of a pixel.
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
#: First column and row of each pass, and the steps. Source: PNG 8.2.
_PASSES = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # fmt: skip
#: Bytes that are inflated at once to count them.
_INFLATED_BYTES = 1 << 20


class _Coded(NamedTuple):
    width_px: int
    height_px: int
    bodies: list[bytes]


class Pixels:
    """Decodes the frames of one file, each from a small PNG written for it."""

    def __init__(
        self,
        header: bytes,
        palette: bytes | None,
        transparency: bytes | None,
        doubts: list[str],
    ) -> None:
        """Take the bodies of IHDR, PLTE and tRNS; decoding adds to the doubts."""
        self._header = header
        self._palette = palette
        self._depth, self._colour_type = header[8], header[9]
        self._transparency = transparency
        self._doubts = doubts
        if transparency is not None:
            self._check_transparency(transparency)

    def _check_transparency(self, body: bytes) -> None:
        lengths = {0: 2, 2: 6}
        if self._colour_type == 3:
            is_right = 0 < len(body) <= len(self._palette or b"") // 3
        else:
            is_right = len(body) == lengths.get(self._colour_type, -1)
        if is_right and self._colour_type != 3:
            levels = struct.unpack(f">{len(body) // 2}H", body)
            is_right = max(levels) < 1 << self._depth
        if not is_right:
            self._doubts.append("transparency that does not fit the pixels")
            self._transparency = None

    def decode(self, width_px: int, height_px: int, bodies: list[bytes]) -> Image.Image:
        """One frame of this size from the bodies of its IDAT or fdAT chunks.

        Raises:
            CorruptImage: rows are missing.
        """
        frame = _Coded(width_px, height_px, bodies)
        if self._transparency is None and self._colour_type != 3:
            return self._load(frame)
        image = self._load(frame)
        if self._colour_type == 3:
            return self._from_palette(image)
        if self._colour_type == 0:
            return self._grey_with_key(image)
        assert self._transparency is not None
        key = struct.unpack(">3H", self._transparency)
        if self._depth == 8:
            return _with_key(image, np.asarray(image), key)
        # Pillow keeps the high bytes of 16-bit colours only; the low ones are read as if swapped.
        low = self._load(frame, swapped=True)
        samples = np.asarray(image).astype(np.uint16) << 8 | np.asarray(low)
        return _with_key(image, samples, key)

    def _load(self, frame: _Coded, *, swapped: bool = False) -> Image.Image:
        reader = PngImagePlugin.PngImageFile(io.BytesIO(self._minimal(frame)))
        if swapped:
            reader.tile = [tile._replace(args="RGB;16L") for tile in reader.tile]
        reader.load()
        last_row = reader.crop((0, reader.height - 1, reader.width, reader.height)).getbbox()
        if last_row is None or self._header[12]:
            # Rows that are missing stay zero here and transparent in browsers.
            require(self._is_complete(frame), "the PNG file is truncated: rows are missing")
        return reader

    def _is_complete(self, frame: _Coded) -> bool:
        bits = self._depth * _CHANNELS[self._colour_type]
        wanted = 0
        for left, top, across, down in _PASSES if self._header[12] else ((0, 0, 1, 1),):
            columns = -(-(frame.width_px - left) // across)
            rows = -(-(frame.height_px - top) // down)
            if columns > 0 and rows > 0:
                wanted += rows * (1 + (columns * bits + 7) // 8)
        inflater = zlib.decompressobj()
        for piece in frame.bodies:
            while wanted > 0 and piece and not inflater.eof:
                wanted -= len(inflater.decompress(piece, min(wanted, _INFLATED_BYTES)))
                piece = inflater.unconsumed_tail
        while wanted > 0 and not inflater.eof:
            more = inflater.decompress(b"", min(wanted, _INFLATED_BYTES))
            if not more:
                return False
            wanted -= len(more)
        return wanted <= 0

    def _minimal(self, frame: _Coded) -> bytes:
        header = struct.pack(">II", frame.width_px, frame.height_px) + self._header[8:]
        parts = [PNG_SIGNATURE, *_chunk(b"IHDR", header)]
        if self._colour_type == 3:
            parts += _chunk(b"PLTE", self._palette or b"")
        parts += _chunk(b"IDAT", *frame.bodies)
        return b"".join([*parts, *_chunk(b"IEND")])

    def _from_palette(self, image: Image.Image) -> Image.Image:
        count = len(self._palette or b"") // 3
        if count < 1 << self._depth:
            indices = Image.frombytes("L", image.size, image.tobytes())
            if indices.getextrema()[1] >= count:  # type: ignore[operator]
                self._doubts.append("pixels outside of the palette")
        if self._transparency is None:
            return image
        image.info["transparency"] = self._transparency
        return image.convert("RGBA")

    def _grey_with_key(self, image: Image.Image) -> Image.Image:
        assert self._transparency is not None
        (level,) = struct.unpack(">H", self._transparency)
        if self._depth < 8:
            image, level = image.convert("L"), level * 255 // ((1 << self._depth) - 1)
        mask = np.where(np.asarray(image) == level, 0, 255).astype(np.uint8)
        grey = image if image.mode == "L" else eight_bit(image)
        return Image.merge("LA", (grey, Image.fromarray(mask)))


def _with_key(image: Image.Image, samples: Any, key: tuple[int, ...]) -> Image.Image:
    mask = np.where((samples == key).all(axis=2), 0, 255).astype(np.uint8)
    image = image.copy()
    image.putalpha(Image.fromarray(mask))
    return image


def _chunk(kind: bytes, *bodies: bytes) -> list[bytes]:
    checksum = zlib.crc32(kind)
    for body in bodies:
        checksum = zlib.crc32(body, checksum)
    length = sum(len(body) for body in bodies)
    return [struct.pack(">I", length), kind, *bodies, struct.pack(">I", checksum)]
