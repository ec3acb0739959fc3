"""JPEG by segments; a scan's coded data belongs to its header."""

from __future__ import annotations

import random
import re
import struct

from tests.witness.mutation.pieces import Piece

_NEXT = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_BARE = frozenset((0x01, *range(0xD0, 0xDA)))


def split(data: bytes) -> list[Piece]:
    """Segments between the start and the end."""
    pieces, at = [], 0
    while at + 2 <= len(data) and data[at] == 0xFF:
        kind = data[at : at + 2]
        if kind[1] in _BARE:
            pieces.append(Piece(kind, b""))
            at += 2
            continue
        if at + 4 > len(data):
            break
        (size,) = struct.unpack_from(">H", data, at + 2)
        end = at + 2 + size
        pieces.append(Piece(kind, data[at + 4 : end]))
        at = end
        if kind[1] == 0xDA:
            found = _NEXT.search(data, end)
            at = found.start() if found else len(data)
            pieces.append(Piece(b"scan", data[end:at], fixed=True))
    return pieces


def join(pieces: list[Piece], dice: random.Random) -> bytes:
    """Segments with true lengths, nearly always."""
    data = b""
    for piece in pieces:
        if piece.kind == b"scan":
            data += piece.body
        elif len(piece.kind) == 2 and piece.kind[1] in _BARE:
            data += piece.kind
        else:
            size = len(piece.body) + 2 + (dice.choice((-1, 1, 60)) if dice.random() < 0.01 else 0)
            data += piece.kind + struct.pack(">H", max(0, min(size, 65535))) + piece.body
    return data
