"""AVIF by boxes; offsets of items and samples follow the data that they name."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

from tests.witness.mutation.pieces import Piece

#: Boxes that hold boxes, and the bytes that stand before those.
_NESTS = {
    b"meta": 4, b"iinf": 6, b"iref": 4, b"iprp": 0, b"ipco": 0, b"moov": 0, b"trak": 0,
    b"mdia": 0, b"minf": 0, b"stbl": 0, b"dinf": 0, b"edts": 0, b"stsd": 8, b"av01": 78,
}  # fmt: skip


def split(data: bytes) -> list[Piece]:
    """The tree of boxes; where the data was is kept in the kind of its box."""
    return _boxes(data, 0)


def _boxes(data: bytes, start: int) -> list[Piece]:
    pieces, at = [], 0
    while at + 8 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        size = len(data) - at if size < 8 else size
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + size]
        skip = _NESTS.get(kind)
        if kind == b"mdat":
            # Twelve bytes of ours in front say where the data was.
            place = b"was:" + struct.pack(">II", start + at + 8, len(body))
            pieces.append(Piece(kind, place + body, fixed=True))
        elif skip is None:
            pieces.append(Piece(kind, body))
        else:
            inside = tuple(_boxes(body[skip:], start + at + 8 + skip))
            pieces.append(Piece(kind, body[:skip], inside))
        at += size
    return pieces


def join(pieces: list[Piece], dice: random.Random) -> bytes:
    """A file with true sizes; offsets are moved along, most of the time."""
    data, moved = _join(pieces, dice)
    if moved is None or dice.random() < 0.05:
        return data
    was, length = moved
    now = data.rfind(b"mdat") + 4
    shifted = bytearray(data)
    for at in _offsets(data, 0, len(data)):
        (offset,) = struct.unpack_from(">I", data, at)
        if was <= offset <= was + length:
            struct.pack_into(">I", shifted, at, (offset - was + now) % 2**32)
    return bytes(shifted)


def _join(pieces: list[Piece], dice: random.Random) -> tuple[bytes, tuple[int, int] | None]:
    data, moved = b"", None
    for piece in pieces:
        body = piece.body
        if piece.inside is not None:
            inner, place = _join(list(piece.inside), dice)
            body, moved = body + inner, place or moved
        if body[:4] == b"was:" and len(body) >= 12:
            moved, body = struct.unpack(">II", body[4:12]), body[12:]
        size = len(body) + 8 + (dice.choice((-1, 1, 8)) if dice.random() < 0.005 else 0)
        data += struct.pack(">I", size) + piece.kind + body
    return data, moved


def _offsets(data: bytes, start: int, end: int) -> Iterator[int]:
    """Where 32-bit offsets into the file stand."""
    at = start
    while at + 8 <= end:
        (size,) = struct.unpack_from(">I", data, at)
        kind, inner = data[at + 4 : at + 8], min(at + size, end)
        if size < 8:
            return
        if kind == b"iloc":
            yield from _item_offsets(data, at + 8, inner)
        elif kind == b"stco":
            yield from range(at + 16, inner - 3, 4)
        elif kind in _NESTS:
            yield from _offsets(data, at + 8 + _NESTS[kind], inner)
        at += size


def _item_offsets(data: bytes, at: int, end: int) -> Iterator[int]:
    """Of an iloc box with 32-bit offsets and lengths and no base offset."""
    version, sizes = data[at], data[at + 4 : at + 6]
    if sizes[:1] != b"\x44" or len(sizes) < 2 or sizes[1] >> 4:
        return
    head = 4 if version == 0 else 6
    at += 8
    while at + head + 2 <= end:
        (count,) = struct.unpack_from(">H", data, at + head)
        at += head + 2
        for _ in range(count):
            if at + 8 > end:
                return
            yield at
            at += 8
