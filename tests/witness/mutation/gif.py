"""GIF by blocks; descriptor and palette of an image are changed apart from its pixels."""

from __future__ import annotations

import random

from tests.witness.mutation.pieces import Piece


def split(data: bytes) -> list[Piece]:
    """Screen, extensions, images."""
    end = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    pieces, at = [Piece(b"screen", data[:end])], end
    while at < len(data):
        start = at
        if data[at] == 0x21:
            at = _behind_blocks(data, at + 2)
            pieces.append(Piece(data[start : start + 2], data[start + 2 : at]))
        elif data[at] == 0x2C and at + 10 <= len(data):
            table = at + 10 + (3 << (data[at + 9] & 7) + 1 if data[at + 9] & 0x80 else 0)
            at = _behind_blocks(data, table + 1)
            parts = (
                Piece(b"place", data[start + 1 : start + 10]),
                Piece(b"table", data[start + 10 : table], fixed=True),
                Piece(b"pixels", data[table:at], fixed=True),
            )
            pieces.append(Piece(b"\x2c", b"", parts))
        else:
            at += 1
            pieces.append(Piece(b"", data[start:at]))
    return pieces


def _behind_blocks(data: bytes, at: int) -> int:
    while at < len(data) and data[at]:
        at += data[at] + 1
    return min(at + 1, len(data))


def join(pieces: list[Piece], dice: random.Random) -> bytes:
    """The blocks one after another."""
    return b"".join(
        (piece.kind if piece.kind not in _INNER else b"")
        + piece.body
        + join(list(piece.inside or ()), dice)
        for piece in pieces
    )


_INNER = (b"screen", b"place", b"table", b"pixels")
