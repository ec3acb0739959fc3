"""Animated AVIF: one track of pictures, perhaps one of transparency; what AV1 says of colours.

Only the plain form is taken without doubt: a track turned, cut or edited shows who knows what.
Source: AV1 Image File Format 1.1, chapter 3; ISO/IEC 14496-12; AV1 bitstream specification 5.5.
"""

from __future__ import annotations

import functools
import io
import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from PIL import AvifImagePlugin, Image

from producer.errors import CorruptImage, ModerationError, UnsupportedImage
from worker.image.containers.boxes import Box, Meta, walk
from worker.image.containers.contents import Cel, Contents, Parts, require, shown_s
from worker.image.containers.formats import DecodeLimits
from worker.image.containers.profiles import named_profile

#: Boxes on the way from the film to its samples.
_NESTED = frozenset({b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf"})
#: What programs write that changes nothing.
_PLAIN = frozenset(
    {b"mvhd", b"tkhd", b"tref", b"meta", b"mdhd", b"hdlr", b"vmhd", b"nmhd", b"dref", b"stsd",
     b"stts", b"stsc", b"stsz", b"stco", b"co64", b"stss", b"elst", b"free", b"skip", b"udta",
     b"sdtp", b"ctts"}
)  # fmt: skip
_PLAIN_IN_ENTRY = frozenset(
    {b"av1C", b"colr", b"ccst", b"pasp", b"auxi", b"clli", b"mdcv", b"btrt"}
)
#: Track matrix that leaves a picture as it is.
_IDENTITY = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
#: Firefox repeats the colour samples of films, others blend them: seen below this short side.
_SMALL_PX = 160
#: What is transparency by its name, of stills and films. Source: ISO/IEC 23000-22, 7.3.5.2.
ALPHA_NAME = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0"
#: Fixed part of a visual sample entry.
_ENTRY_BYTES = 78


@dataclass
class _Track:
    handler: bytes = b""
    size: tuple[int, int] = (0, 0)
    timescale: int = 0
    count: int = 0
    durations: list[int] = field(default_factory=list)
    colours: list[bytes] = field(default_factory=list)
    references: set[bytes] = field(default_factory=set)
    names: list[bytes] = field(default_factory=list)
    configuration: bytes = b""
    sizes: tuple[int, ...] = ()
    chunks: tuple[int, ...] = ()
    runs: dict[int, int] = field(default_factory=dict)

    @property
    def is_transparency(self) -> bool:
        """Whether every program takes it for that of another track, and for nothing else."""
        is_linked = self.handler == b"auxv" and self.references == {b"auxl"}
        return is_linked and self.names == [ALPHA_NAME.rstrip(b"\0")]

    def places(self) -> Iterator[slice]:
        """Where its samples lie: so many in a chunk, from the chunk that names the number."""
        sizes, per_chunk = iter(self.sizes), 0
        for number, at in enumerate(self.chunks, 1):
            per_chunk = self.runs.get(number, per_chunk)
            for size in itertools.islice(sizes, per_chunk):
                yield slice(at, at + size)
                at += size


def read(
    data: bytes, found: dict[bytes, Box], parts: Parts, limits: DecodeLimits, doubts: list[str]
) -> Contents:
    """Read an animated AVIF by its outermost boxes; see `containers.read`."""
    tracks: list[_Track] = []
    for box in walk(data, found[b"moov"].start, found[b"moov"].end, parts):
        if box.kind == b"trak":
            tracks.append(_Track())
            _read_track(data, box, tracks[-1], parts, limits, doubts)
        elif box.kind not in _PLAIN:
            doubts.append("a film of an unusual kind")
    shown = [track for track in tracks if track.handler == b"pict"]
    others = [track for track in tracks if not track.is_transparency]
    if len(shown) != 1 or len(tracks) > 2 or others != shown:
        doubts.append("several films in one")
    require(shown and shown[0].count and shown[0].timescale, "it has no pictures")
    track = shown[0]
    if track.references:
        doubts.append("a film that depends on another, or whose colours are multiplied already")
    width_px, height_px = track.size
    limits.check_size(width_px, height_px, track.count)
    reader = _Reader(data, track.size, track.count)
    frames = []
    for index, duration in enumerate(track.durations[: track.count]):
        frames.append(
            Cel(
                decode=functools.partial(reader.decode, index),
                width_px=width_px,
                height_px=height_px,
                duration_s=shown_s(duration / track.timescale),
                blends=False,
            )
        )
    require(len(frames) == track.count, "its pictures have no durations")
    _check_stream(data, track, doubts)
    if b"meta" in found:
        _check_still(data, found[b"meta"], parts, track, doubts)
    if min(track.size) < _SMALL_PX:
        doubts.append("a film so small that the size of its colour samples is seen")
    return Contents(
        format="AVIF",
        width_px=width_px,
        height_px=height_px,
        frames=tuple(frames),
        profiles=_profiles(track, doubts),
        is_film=True,
        other_alphas=("wider", "narrower"),
        doubts=doubts,
    )


def _check_stream(data: bytes, track: _Track, doubts: list[str]) -> None:
    """Chromium goes by the matrix of the stream; Firefox takes a picture for grey as configured."""
    view = memoryview(data)
    streams = [view[place] for place in track.places()]
    told = signalled(*streams) if len(streams) == track.count else None
    for body in track.colours:
        (matrix,) = struct.unpack_from(">H", body, 8) if body[:4] == b"nclx" else (None,)
        if matrix is not None and (told is None or _usual(matrix) != _usual(told.matrix)):
            doubts.append("a film whose colours are coded in another way than it says")
    if are_at_odds(track.configuration, told):
        doubts.append("colours where the file says that there are none")


def _usual(matrix: int) -> int:
    """BT.601 has two numbers, and is meant where none is told. Source: ITU-T H.273, table 4."""
    return 6 if matrix in (2, 5) else matrix


def _check_still(data: bytes, box: Box, parts: Parts, track: _Track, doubts: list[str]) -> None:
    """Firefox takes the colours of films from the still picture beside them."""
    try:
        meta = Meta(data, box, parts, frozenset())
        is_alike = sorted(meta.items[meta.primary].all(b"colr")) == sorted(track.colours)
    except (ModerationError, struct.error, IndexError):
        is_alike = False
    if not is_alike:
        doubts.append("a film that has other colours than the picture beside it")


def _read_track(
    data: bytes, box: Box, track: _Track, parts: Parts, limits: DecodeLimits, doubts: list[str]
) -> None:
    for part in walk(data, box.start, box.end, parts):
        if part.kind in _NESTED:
            _read_track(data, part, track, parts, limits, doubts)
        elif part.kind not in _PLAIN:
            doubts.append("a film of an unusual kind")
        elif part.kind == b"tkhd":
            _read_header(data, part, doubts)
        elif part.kind == b"hdlr":
            track.handler = data[part.start + 8 : part.start + 12]
        elif part.kind == b"mdhd":
            skip = 20 if data[part.start] == 1 else 12
            (track.timescale,) = struct.unpack_from(">I", data, part.start + skip)
        elif part.kind == b"tref":
            track.references |= {each.kind for each in walk(data, part.start, part.end, parts)}
        elif part.kind == b"stsz":
            even, track.count = struct.unpack_from(">II", data, part.start + 4)
            count = min(track.count, limits.max_frames)
            track.sizes = (even,) * count if even else _numbers(data, part.start + 12, count, "I")
        elif part.kind in (b"stco", b"co64"):
            (count,) = struct.unpack_from(">I", data, part.start + 4)
            form = "I" if part.kind == b"stco" else "Q"
            track.chunks = _numbers(data, part.start + 8, min(count, limits.max_frames), form)
        elif part.kind == b"stsc":
            (count,) = struct.unpack_from(">I", data, part.start + 4)
            runs = _numbers(data, part.start + 8, 3 * min(count, limits.max_frames), "I")
            track.runs = dict(zip(runs[::3], runs[1::3], strict=True))
        elif part.kind == b"stts":
            _read_durations(data, part, track, limits)
        elif part.kind == b"stsd":
            _read_entry(data, part, track, parts, doubts)


def _numbers(data: bytes, at: int, count: int, form: str) -> tuple[int, ...]:
    return struct.unpack_from(f">{count}{form}", data, at)


def _read_header(data: bytes, box: Box, doubts: list[str]) -> None:
    matrix_at = box.start + (52 if data[box.start] == 1 else 40)
    if data[matrix_at : matrix_at + 36] != _IDENTITY:
        doubts.append("a film that is turned")


def _read_durations(data: bytes, box: Box, track: _Track, limits: DecodeLimits) -> None:
    (entries,) = struct.unpack_from(">I", data, box.start + 4)
    for number in range(min(entries, limits.max_frames + 1)):
        count, duration = struct.unpack_from(">II", data, box.start + 8 + 8 * number)
        track.durations += [duration] * min(count, limits.max_frames + 1)
        if len(track.durations) > limits.max_frames:
            return


def _read_entry(data: bytes, box: Box, track: _Track, parts: Parts, doubts: list[str]) -> None:
    entries = list(walk(data, box.start + 8, box.end, parts))
    if len(entries) != 1 or entries[0].kind != b"av01":
        raise UnsupportedImage("the AVIF file is of a kind that browsers do not show")
    entry = entries[0]
    track.size = struct.unpack_from(">HH", data, entry.start + 24)
    for part in walk(data, entry.start + _ENTRY_BYTES, entry.end, parts):
        if part.kind not in _PLAIN_IN_ENTRY:
            doubts.append("a film of an unusual kind")
        elif part.kind == b"auxi":
            track.names.append(data[part.start + 4 : part.end].rstrip(b"\0"))
        elif part.kind == b"colr":
            track.colours.append(data[part.start : part.end])
        elif part.kind == b"av1C":
            track.configuration = data[part.start : part.end]


def _profiles(track: _Track, doubts: list[str]) -> tuple[tuple[str, bytes], ...]:
    found: list[tuple[str, bytes]] = []
    for body in track.colours:
        if body[:4] in (b"prof", b"rICC"):
            found.insert(0, ("icc", body[4:]))
        elif body[:4] == b"nclx":
            profile = named_profile(*struct.unpack_from(">HH", body, 4))
            if profile is None:
                doubts.append("colours that are not understood")
            else:
                found.append(("nclx", profile))
    if not found or len(track.colours) > 2:
        doubts.append("colours that are not told")
    return tuple(found)


class _Reader:
    """The decoder library over the whole file; it has nothing else to be distracted by."""

    def __init__(self, data: bytes, size: tuple[int, int], count: int) -> None:
        self._data = data
        self._size = size
        self._count = count
        self._file: AvifImagePlugin.AvifImageFile | None = None

    def decode(self, index: int) -> Image.Image:
        if self._file is None:
            self._file = AvifImagePlugin.AvifImageFile(io.BytesIO(self._data))
            if self._file.size != self._size or self._file.n_frames != self._count:
                raise CorruptImage("the AVIF file contradicts itself")
        self._file.seek(index)
        self._file.load()
        return self._file.copy()


# -- what the coded stream says ------------------------------------------------------------------

_SEQUENCE_HEADER = 1
#: Units of a stream that are looked at; a picture has three, and one more a tile.
_MAX_UNITS = 1_000
#: No header is as long: of 32 operating points, each has at most 18 bits.
_MAX_HEADER_BYTES = 128
#: Primaries, transfer and matrix of colours that are coded as they are. Source: AV1 5.5.2.
_AS_THEY_ARE = (1, 13, 0)


class Signalled(NamedTuple):
    """What a sequence header says: code points of ITU-T H.273, and whether all levels are used."""

    primaries: int
    transfer: int
    matrix: int
    is_grey: bool
    is_full: bool


def are_at_odds(configuration: bytes, told: Signalled | None) -> bool:
    """Whether a configuration box and the stream disagree about there being colours."""
    return bool(configuration[2:3] and configuration[2] & 0x10) != bool(told and told.is_grey)


def signalled(*streams: bytes | memoryview) -> Signalled | None:
    """What their sequence headers say; None where they differ or there is none to read."""
    found: set[bytes] = set()
    for stream in streams:
        at = 0
        for _ in range(_MAX_UNITS):
            if at >= len(stream):
                break
            kind, has_extension, has_size = stream[at] >> 3 & 15, stream[at] & 4, stream[at] & 2
            at += 2 if has_extension else 1
            if not has_size:
                length = len(stream) - at
            else:
                length, at = _leb128(stream, at)
            if kind == _SEQUENCE_HEADER:
                found.add(bytes(stream[at : at + min(length, _MAX_HEADER_BYTES)]))
            at += length
        else:
            return None
    return _sequence_header(_Bits(found.pop())) if len(found) == 1 else None


def _leb128(stream: bytes | memoryview, at: int) -> tuple[int, int]:
    value = 0
    for number in range(8):
        if at >= len(stream):
            break
        byte = stream[at]
        at += 1
        value |= (byte & 0x7F) << 7 * number
        if not byte & 0x80:
            break
    return value, at


def _sequence_header(bits: _Bits) -> Signalled | None:
    """None where it tells times, which a picture does not need and few films have."""
    profile, _, is_short = bits.take(3), bits.take(1), bits.take(1)
    if is_short:
        bits.take(5)
    elif bits.take(1) or not _skip_points(bits):
        return None
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    bits.take(width_bits + height_bits)
    if not is_short and bits.take(1):
        # Numbers of frames.
        bits.take(7)
    # Superblocks and intra filters; then superres, cdef, restoration.
    bits.take(3)
    if not is_short:
        _skip_tools(bits)
    bits.take(3)
    has_high_depth = bits.take(1)
    if profile == 2 and has_high_depth:
        bits.take(1)
    is_grey = bool(profile != 1 and bits.take(1))
    named = (bits.take(8), bits.take(8), bits.take(8)) if bits.take(1) else (2, 2, 2)
    is_full = bool((not is_grey and named == _AS_THEY_ARE) or bits.take(1))
    return Signalled(*named, is_grey, is_full)


def _skip_points(bits: _Bits) -> bool:
    """Pass over the operating points; False where they are delayed."""
    if bits.take(1):
        return False
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
    return True


def _skip_tools(bits: _Bits) -> None:
    """Pass over the ways of coding that only films know. Source: AV1 5.5.1."""
    bits.take(4)
    has_order = bits.take(1)
    if has_order:
        bits.take(2)
    is_screen_content = bits.take(1) or bits.take(1)
    if is_screen_content and not bits.take(1):
        bits.take(1)
    if has_order:
        bits.take(3)


class _Bits:
    """Bits from the highest to the lowest; nothing but zeros after the end."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data.ljust(_MAX_HEADER_BYTES, b"\0"), "big")
        self._left = 8 * _MAX_HEADER_BYTES

    def take(self, count: int) -> int:
        self._left -= count
        return self._value >> self._left & (1 << count) - 1
