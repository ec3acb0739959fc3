"""AVIF: files that are icons too, lists that lie, transparency of tiles, streams that differ."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.witness.files.avif import (
    SRGB,
    Item,
    box,
    boxes,
    coded,
    full,
    ispe,
    moving,
    nclx,
    pixi,
    still,
)
from tests.witness.files.drawn import hills, letter, sand, smiley
from tests.witness.files.rare.avif import one_link

_ALPHA = full(b"auxC", b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0")
#: Type 1 is an icon, 2 a cursor: as big-endian numbers 256 and 512.
_ICON_TYPES = {"icon": 1, "cursor": 2}
_ENTRY_BYTES = 16


def files() -> Iterator[tuple[str, bytes]]:
    """All kinds."""
    for name in _ICON_TYPES:
        yield f"{name}.avif", icon(name)
    mask = _mask("letter", 2, 1)
    clear = still([coded("sand", SRGB), mask])
    for more in (-1, 1):
        yield f"list-lies-{more}.avif", with_count(clear, 2 + more)
    other = still([coded("sand", SRGB), mask, _mask("smiley", 3, 1)])
    yield "alpha-twice-listed-otherwise.avif", _swap_entries(other)
    yield "tiles-clear.avif", clear_tiles(10, 11)
    yield "tile-clear.avif", clear_tiles(11)
    yield "tiles-tell-colours.avif", told_by_tiles()
    yield "alpha-not-known.avif", still([coded("sand", SRGB), _mask("letter", 2, 1, _NOT_KNOWN)])
    for first, second in ((1, 2), (2, 1)):
        yield f"alternatives-{first}-{second}.avif", alternatives(first, second)
    for name, (configured, *headers) in STREAMS.items():
        yield f"stream-{name}.avif", stream(configured, *headers)
    for name, (old, new) in FILMS.items():
        yield f"film-{name}.avif", film(old, new)
    yield "called-grey.avif", called_grey(still([coded("sand")]))
    yield "film-called-grey.avif", called_grey(plain_film())
    yield "film-of-stills.avif", film_of_stills(_PLAIN, _PLAIN)
    yield "film-of-stills-second-other.avif", film_of_stills(_PLAIN, bytes([1, 13, 8]))
    for where in (0, 1):
        for told in ((1, 8, 6), (9, 13, 6), (1, 13, 0), (1, 13, 8)):
            yield f"film-told-{where}-{told[1]}-{told[2]}.avif", film_told(where, *told)


# -- icons ---------------------------------------------------------------------------------------


def icon(name: str = "icon") -> bytes:
    """A picture of a face whose first box is as long as an icon's signature says; hills as icon."""
    size_of_ftyp = 256 * _ICON_TYPES[name]
    buffer = io.BytesIO()
    Image.fromarray(hills(256)).save(buffer, "PNG")
    png = buffer.getvalue()
    (count,) = struct.unpack("<H", b"ft")
    end = 6 + _ENTRY_BYTES * count
    # Entries of one pixel that lie nowhere, and one of 256 x 256 px behind them.
    entry = struct.pack("<BBBBHHII", 1, 1, 0, 0, 1, 32, 40, 0x7FFFFFFF)
    head = bytearray(6) + entry * count
    head[:16] = struct.pack(">I", size_of_ftyp) + b"ftypavif" + bytes(4)
    struct.pack_into(">I4s", head, size_of_ftyp, end - size_of_ftyp + len(png), b"free")
    at = 6 + 40 * _ENTRY_BYTES
    head[at : at + _ENTRY_BYTES] = struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(png), end)
    face = still([coded("smiley", SRGB)])
    moved = bytearray(face)
    place = moved.index(b"iloc") + 18
    (was,) = struct.unpack_from(">I", moved, place)
    (ftyp,) = struct.unpack_from(">I", face)
    struct.pack_into(">I", moved, place, was - ftyp + end + len(png))
    return bytes(head) + png + bytes(moved[ftyp:])


# -- items ---------------------------------------------------------------------------------------


_NOT_KNOWN = box(b"abcd", b"x")


def _mask(name: str, number: int, of: int, *more: bytes) -> Item:
    links, essential = ((b"auxl", of),), frozenset((b"av1C", b"abcd"))
    return coded(
        name, _ALPHA, *more, number=number, references=links, essential=essential, hidden=True
    )


def alternatives(*numbers: int) -> bytes:
    """A primary picture, the first item, in a group with another one, in this order."""
    group = full(b"altr", struct.pack(f">II{len(numbers)}I", 50, len(numbers), *numbers))
    two = [coded("sand", SRGB), coded("hills", SRGB, number=2)]
    return still(two, groups=box(b"grpl", group))


def told_by_tiles() -> bytes:
    """Two tiles that tell colours, which the grid does not."""
    body, links = struct.pack(">BBBBHH", 0, 0, 0, 1, 192, 96), ((b"dimg", 10), (b"dimg", 11))
    grid = Item(1, body, (ispe(192, 96), pixi()), b"grid", links)
    linear = nclx(1, 8, 6)
    tiles = [coded(name, linear, number=10 + n) for n, name in enumerate(("hills", "sand"))]
    return one_link([grid, *tiles])


def with_count(data: bytes, count: int) -> bytes:
    """The same with another number of items in front of their list."""
    at = data.index(b"iinf") + 8
    return data[:at] + struct.pack(">H", count) + data[at + 2 :]


def _swap_entries(data: bytes) -> bytes:
    """The last two of three items in the other order in their list alone."""
    at = data.index(b"iinf") + 10
    entries = [box(kind, body) for kind, body in boxes(data[at:])][:3]
    end = at + sum(map(len, entries))
    return data[:at] + entries[0] + entries[2] + entries[1] + data[end:]


def clear_tiles(*clear: int) -> bytes:
    """Two tiles next to each other; each of those named has transparency of its own."""
    body = struct.pack(">BBBBHH", 0, 0, 0, 1, 192, 96)
    links = ((b"dimg", 10), (b"dimg", 11))
    grid = Item(1, body, (ispe(192, 96), pixi(), SRGB), b"grid", links)
    tiles = [
        coded(name, SRGB, number=number, hidden=True)
        for number, name in ((10, "hills"), (11, "sand"))
    ]
    return one_link([grid, *tiles, *(_mask("letter", 10 + number, number) for number in clear)])


# -- streams -------------------------------------------------------------------------------------

_LINEAR, _PLAIN = bytes([9, 8, 6]), bytes([1, 13, 6])
#: Colours in the configuration box, if it tells any, and in each header of the stream.
STREAMS: dict[str, tuple[bytes | None, bytes, *tuple[bytes, ...]]] = {
    "linear": (None, _LINEAR),
    "linear-configured-plain": (_PLAIN, _LINEAR),
    "plain-configured-linear": (_LINEAR, _PLAIN),
    "plain-then-linear": (None, _PLAIN, _LINEAR),
    "linear-then-plain": (None, _LINEAR, _PLAIN),
}


def stream(configured: bytes | None, *headers: bytes) -> bytes:
    """A picture without a colour box; each header tells these primaries, transfer and matrix."""
    item = coded("sand")
    start, end = _header(item.data)
    told = [_told(item.data[start:end], each) for each in headers]
    data = item.data[:start] + b"".join(told) + item.data[end:]
    configuration = item.properties[2][8:12]
    if configured is not None:
        configuration += _told(item.data[start:end], configured)
    return still([Item(1, data, (ispe(), pixi(), box(b"av1C", configuration)))])


def _header(data: bytes) -> tuple[int, int]:
    """Where the sequence header lies; units here are shorter than 128 bytes up to it."""
    at = 0
    while data[at] >> 3 & 15 != 1:
        at += 2 + data[at + 1]
    return at, at + 2 + data[at + 1]


def _told(header: bytes, colours: bytes) -> bytes:
    bits = f"{int.from_bytes(header, 'big'):0{8 * len(header)}b}"
    usual, other = (f"{int.from_bytes(each, 'big'):024b}" for each in (_PLAIN, colours))
    assert bits.count(usual) == 1
    return int(bits.replace(usual, other), 2).to_bytes(len(header), "big")


# -- films ---------------------------------------------------------------------------------------

#: What is replaced where the track of transparency is told, and by what.
FILMS = {
    "clear": (b"", b""),
    "depth": (b"auxiliary:alpha", b"auxiliary:depth"),
    "not-linked": (b"auxl", b"abcd"),
    "two-pictures": (b"auxv", b"pict"),
    "two-kinds": (b"auxv", b"vide"),
    "multiplied": (b"auxl", b"prem"),
}


def film(old: bytes, new: bytes) -> bytes:
    """An animation seen through a letter, changed in the last place that holds this."""
    clear = np.where(letter(192), 255, 0)[..., None]
    frames = [
        np.concatenate([picture(192), clear], axis=2).astype(np.uint8)
        for picture in (hills, sand, smiley)
    ]
    data = moving(frames, [200] * 3)
    at = data.index(b"moov")
    head, _, tail = data[at:].rpartition(old) if old else (data[at:], b"", b"")
    return data[:at] + head + new + tail


def plain_film() -> bytes:
    """Large enough that no program enlarges its colours in a way of its own."""
    return moving([hills(192), sand(192)], [20, 600])


def film_told(where: int, *numbers: int) -> bytes:
    """Other primaries, transfer and matrix for the still picture (0) or for the track (1)."""
    data = plain_film()
    at = data.index(b"colr")
    for _ in range(where):
        at = data.index(b"colr", at + 1)
    return data[: at + 8] + struct.pack(">HHH", *numbers) + data[at + 14 :]


def film_of_stills(*told: bytes) -> bytes:
    """Each picture is decoded by itself and tells primaries, transfer and matrix of its own."""
    data, samples = bytearray(plain_film()), []
    for name, numbers in zip(("hills", "sand"), told, strict=True):
        picture = coded(name, side_px=192).data
        start, end = _header(picture)
        samples.append(picture[:start] + _told(picture[start:end], numbers) + picture[end:])
    struct.pack_into(">2I", data, data.index(b"stsz") + 16, *map(len, samples))
    struct.pack_into(">I", data, data.index(b"stco") + 12, len(data) + 8)
    return bytes(data) + box(b"mdat", *samples)


def called_grey(data: bytes) -> bytes:
    """The last configuration box says that there are no colours."""
    at = data.rindex(b"av1C") + 6
    return data[:at] + bytes([data[at] | 0x10]) + data[at + 1 :]
