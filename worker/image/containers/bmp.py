"""BMP: headers, masks and palettes to one frame.

Source: Microsoft, BITMAPV5HEADER and [MS-WMF] 2.2.2; Firefox and Chromium on alpha and profiles.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from producer.errors import CorruptImage, UnsupportedImage
from worker.image.containers.contents import Cel, Contents, Parts, require
from worker.image.containers.formats import DecodeLimits
from worker.image.containers.profiles import Chromaticities, gamma_profile

_FILE_HEADER_BYTES = 14
_OS2_BYTES, _INFO_BYTES, _V2_BYTES, _V3_BYTES, _V4_BYTES, _V5_BYTES = 12, 40, 52, 56, 108, 124
_PLAIN, _RUNS_8, _RUNS_4, _MASKS, _ALPHA_MASKS = 0, 1, 2, 3, 6
#: Bits of a pixel -> compressions that exist for them.
_KINDS = {
    1: {_PLAIN},
    2: {_PLAIN},
    4: {_PLAIN, _RUNS_4},
    8: {_PLAIN, _RUNS_8},
    16: {_PLAIN, _MASKS, _ALPHA_MASKS},
    24: {_PLAIN},
    32: {_PLAIN, _MASKS, _ALPHA_MASKS},
}
#: Masks of red, green, blue and alpha where the file has none.
_DEFAULT_MASKS = {16: (0x7C00, 0x3E0, 0x1F, 0), 32: (0xFF0000, 0xFF00, 0xFF, 0xFF000000)}
_CALIBRATED, _EMBEDDED = 0, 0x4D424544
#: Runs of one file; Python follows a million a second.
_MAX_RUNS = 500_000

#: What the longest run sets.
_SET = b"\1" * 255

Indices = npt.NDArray[np.uint8]


@dataclass
class _File:
    """What the headers say, and the bytes of the pixels."""

    data: bytes
    header_bytes: int
    width_px: int
    height_px: int
    runs_down: bool
    bits: int
    compression: int
    palette: bytes = b""
    masks: tuple[int, int, int, int] = (0, 0, 0, 0)
    pixels_at: int = 0
    doubts: list[str] = field(default_factory=list)


def read(data: bytes, limits: DecodeLimits) -> Contents:
    """Read a BMP file; see `containers.read`."""
    file = _read_header(data, limits)
    _read_masks_and_palette(file)
    is_packed = file.compression in (_RUNS_8, _RUNS_4)
    if not is_packed:
        needed = _stride(file) * file.height_px
        require(file.pixels_at + needed <= len(data), "the BMP file is truncated")
    profile = _profile(file)
    return Contents(
        format="BMP",
        width_px=file.width_px,
        height_px=file.height_px,
        frames=(
            Cel(decode=lambda: _decode(file), width_px=file.width_px, height_px=file.height_px),
        ),
        profiles=(("icc", profile),) if profile else (),
        ignores_alpha=True,
        doubts=file.doubts,
    )


def _read_header(data: bytes, limits: DecodeLimits) -> _File:
    (pixels_at, header_bytes) = struct.unpack_from("<II", data, 10)
    compression = colours = 0
    if header_bytes == _OS2_BYTES:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    else:
        width, height, _, bits = struct.unpack_from("<iiHH", data, 18)
    if header_bytes >= _INFO_BYTES:
        compression, _, _, _, colours = struct.unpack_from("<IIiiI", data, 30)
    require(width > 0, "the BMP file is damaged")
    limits.check_size(width, abs(height))
    if compression not in _KINDS.get(bits, ()) or (height < 0 and compression in (1, 2)):
        raise UnsupportedImage("the BMP file is of a kind that browsers do not show")
    file = _File(data, header_bytes, width, abs(height), height < 0, bits, compression)
    file.pixels_at = pixels_at
    file.palette = _palette(file, colours)
    return file


def _palette(file: _File, colours: int) -> bytes:
    at = _FILE_HEADER_BYTES + file.header_bytes
    if file.bits > 8:
        return b""
    entry = 3 if file.header_bytes == _OS2_BYTES else 4
    count = min(colours or 1 << file.bits, 1 << file.bits)
    if file.pixels_at:
        count = min(count, max(0, file.pixels_at - at) // entry)
    if count < (colours or 1 << file.bits):
        file.doubts.append("a palette that is cut short")
    levels = np.frombuffer(file.data, np.uint8, count * entry, at).reshape(-1, entry)
    return levels[:, 2::-1].tobytes()


def _read_masks_and_palette(file: _File) -> None:
    at = _FILE_HEADER_BYTES + _INFO_BYTES
    end = _FILE_HEADER_BYTES + file.header_bytes
    if file.bits in _DEFAULT_MASKS:
        file.masks = _DEFAULT_MASKS[file.bits]
    if file.compression in (_MASKS, _ALPHA_MASKS):
        has_alpha = file.header_bytes >= _V3_BYTES or file.compression == _ALPHA_MASKS
        count = 4 if has_alpha else 3
        red, green, blue, *alpha = struct.unpack_from(f"<{count}I", file.data, at)
        file.masks = red, green, blue, alpha[0] if alpha else 0
        if file.header_bytes < _V2_BYTES:
            end = at + 4 * count
        _check_masks(file)
    if file.bits <= 8:
        entry = 3 if file.header_bytes == _OS2_BYTES else 4
        end += len(file.palette) // 3 * entry
    if file.pixels_at < end:
        file.doubts.append("pixels that begin inside of the header")


def _check_masks(file: _File) -> None:
    taken = 0
    for mask in file.masks:
        run = mask >> ((mask & -mask).bit_length() - 1) if mask else 0
        if run & (run + 1) or taken & mask or mask >> file.bits:
            file.doubts.append("masks that overlap or have gaps")
        taken |= mask
    if not all(file.masks[:3]):
        file.doubts.append("masks that leave out a colour")


def _profile(file: _File) -> bytes | None:
    if file.header_bytes < _V4_BYTES:
        return None
    start = _FILE_HEADER_BYTES
    (kind,) = struct.unpack_from("<I", file.data, start + 56)
    if kind == _EMBEDDED and file.header_bytes >= _V5_BYTES:
        offset, length = struct.unpack_from("<II", file.data, start + 112)
        profile = file.data[start + offset : start + offset + length]
        if len(profile) < length or profile[16:20] != b"RGB ":
            file.doubts.append("a colour profile that does not fit")
        return profile
    return _calibrated(file, start) if kind == _CALIBRATED else None


def _calibrated(file: _File, start: int) -> bytes | None:
    """End points in XYZ (2.30 fixed point) and gammas (16.16)."""
    end_points = np.array(struct.unpack_from("<9i", file.data, start + 60)).reshape(3, 3) / 2**30
    gammas = [value / 65536 for value in struct.unpack_from("<3I", file.data, start + 96)]
    if not end_points.any() or not all(gammas):
        return None
    sums = np.stack([end_points.sum(axis=0), *end_points])
    with np.errstate(divide="ignore", invalid="ignore"):
        points = [tuple(xyz[:2] / xyz.sum()) for xyz in sums]
    chromaticities = Chromaticities(*points)
    if not np.isfinite(points).all() or not chromaticities.are_usable or len(set(gammas)) > 1:
        file.doubts.append("colours that are not understood")
        return None
    if not chromaticities.are_srgb or not 2.1 < gammas[0] < 2.5:
        # Firefox and Chromium do not agree on these.
        file.doubts.append("colours that viewers read in different ways")
    return gamma_profile(1 / gammas[0], chromaticities)


# -- pixels --------------------------------------------------------------------------------------


def _stride(file: _File) -> int:
    return (file.width_px * file.bits + 31) // 32 * 4


def _decode(file: _File) -> Image.Image:
    if file.compression in (_RUNS_8, _RUNS_4):
        return _Runs(file).decode()
    stride, size = _stride(file), (file.width_px, file.height_px)
    pixels = file.data[file.pixels_at : file.pixels_at + stride * file.height_px]
    rows = np.frombuffer(pixels, np.uint8).reshape(file.height_px, stride)
    rows = rows if file.runs_down else rows[::-1]
    if file.bits == 24:
        return Image.frombytes(
            "RGB", size, np.ascontiguousarray(rows).tobytes(), "raw", "BGR", stride
        )
    if file.bits > 8:
        return _from_masks(file, np.ascontiguousarray(rows))
    if file.bits < 8:
        rows = _unpack(rows, file.bits)
    return _from_palette(file, np.ascontiguousarray(rows[:, : file.width_px]))


def _unpack(rows: Indices, bits: int) -> Indices:
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    spread = rows[:, :, None] >> shifts & np.uint8((1 << bits) - 1)
    return spread.reshape(len(rows), -1)


def _from_palette(file: _File, indices: Indices) -> Image.Image:
    if indices.max() >= len(file.palette) // 3:
        file.doubts.append("pixels outside of the palette")
    image = Image.fromarray(indices, "L")
    shown = Image.frombytes("P", image.size, image.tobytes())
    shown.putpalette(file.palette.ljust(768, b"\0"))
    return shown


def _from_masks(file: _File, rows: Indices) -> Image.Image:
    values = rows.view("<u2" if file.bits == 16 else "<u4")[:, : file.width_px].astype(np.uint32)
    channels = [_channel(values, mask) for mask in file.masks]
    if not file.masks[3] or not channels[3].any():
        # No alpha that anybody uses.
        return Image.merge("RGB", channels_of(channels[:3]))
    return Image.merge("RGBA", channels_of(channels))


def channels_of(channels: list[Indices]) -> list[Image.Image]:
    """One picture a channel."""
    return [Image.fromarray(channel) for channel in channels]


def _channel(values: npt.NDArray[np.uint32], mask: int) -> Indices:
    if not mask:
        return np.zeros(values.shape, np.uint8)
    shift = (mask & -mask).bit_length() - 1
    most = mask >> shift
    levels = ((values & np.uint32(mask)) >> np.uint32(shift)).astype(np.uint64)
    return ((levels * 255 + most // 2) // most).astype(np.uint8)


class _Runs:
    """Run-length coded pixels; what is skipped is transparent."""

    def __init__(self, file: _File) -> None:
        self._file = file
        self._data = file.data[file.pixels_at :]
        # Runs are short: for them bytes are ten times faster than arrays.
        self._indices = bytearray(file.height_px * file.width_px)
        self._is_set = bytearray(file.height_px * file.width_px)
        self._x, self._y = 0, 0

    def decode(self) -> Image.Image:
        self._follow()
        size = self._file.height_px, self._file.width_px
        indices, is_set = (
            np.frombuffer(each, np.uint8).reshape(size)[::-1]
            for each in (self._indices, self._is_set)
        )
        image = _from_palette(self._file, indices.copy())
        if is_set.all():
            return image
        self._file.doubts.append("pixels that are skipped")
        shown = image.convert("RGBA")
        shown.putalpha(Image.fromarray(is_set * np.uint8(255)))
        return shown

    def _follow(self) -> None:
        data, at, parts = self._data, 0, Parts("BMP", _MAX_RUNS)
        is_8_bit = self._file.bits == 8
        while True:
            parts.count()
            if at + 2 > len(data):
                # Some programs leave out the end mark; Chromium then leaves out the last row.
                require(0 not in self._is_set, "the BMP file is truncated")
                self._file.doubts.append("a picture without its end")
                return
            count, value = data[at], data[at + 1]
            at += 2
            if count:
                pair = data[at - 1 : at] * 2 if is_8_bit else bytes((value >> 4, value & 15))
                self._put((pair * (count + 1 >> 1))[:count])
            elif value == 0:
                self._x, self._y = 0, self._y + 1
            elif value == 1:
                return
            elif value == 2:
                self._x, self._y = self._x + data[at], self._y + data[at + 1]
                at += 2
            else:
                at = self._literal(at, value)

    def _literal(self, at: int, count: int) -> int:
        if self._file.bits == 8:
            length = count
            self._put(self._data[at : at + length])
        else:
            length = (count + 1) // 2
            packed = np.frombuffer(self._data[at : at + length], np.uint8)[None]
            self._put(_unpack(packed, 4)[0, :count].tobytes())
        return at + length + (length & 1)

    def _put(self, indices: bytes) -> None:
        start = self._y * self._file.width_px + self._x
        self._x += len(indices)
        if self._y >= self._file.height_px or self._x > self._file.width_px:
            raise CorruptImage("the BMP file's pixels do not fit into the picture")
        end = start + len(indices)
        self._indices[start:end] = indices
        self._is_set[start:end] = _SET[: len(indices)]
