"""BMP by headers, palette and pixels."""

from __future__ import annotations

import random
import struct

from tests.witness.mutation.pieces import Piece


def split(data: bytes) -> list[Piece]:
    """File header, picture header, all up to the pixels, the pixels and what follows."""
    (start,) = struct.unpack_from("<I", data, 10)
    (size,) = struct.unpack_from("<I", data, 14)
    end = min(14 + size, len(data))
    start = min(max(start, end), len(data))
    return [
        Piece(b"file", data[2:14]),
        Piece(b"info", data[14 : min(end, 54)]),
        Piece(b"more", data[54:end]),
        Piece(b"table", data[end:start]),
        Piece(b"pixels", data[start:], fixed=True),
    ]


def join(pieces: list[Piece], dice: random.Random) -> bytes:
    """The parts one after another; the offset of the pixels is made true, most of the time."""
    data = b"BM"
    for piece in pieces:
        if piece.kind == b"pixels" and len(data) >= 14 and dice.random() < 0.6:
            data = data[:10] + struct.pack("<I", len(data)) + data[14:]
        data += piece.body
    return data
