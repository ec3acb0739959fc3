"""WebP by chunks; frames hold chunks."""

from __future__ import annotations

import random
import struct

from tests.witness.mutation.pieces import Piece

_FRAME_HEADER_BYTES = 16


def split(data: bytes) -> list[Piece]:
    """The chunks of a file."""
    return _chunks(data[12:])


def _chunks(data: bytes) -> list[Piece]:
    pieces, at = [], 0
    while at + 8 <= len(data):
        (size,) = struct.unpack_from("<I", data, at + 4)
        kind, body = data[at : at + 4], data[at + 8 : at + 8 + size]
        if kind == b"ANMF":
            inside = tuple(_chunks(body[_FRAME_HEADER_BYTES:]))
            pieces.append(Piece(kind, body[:_FRAME_HEADER_BYTES], inside))
        else:
            pieces.append(Piece(kind, body, fixed=kind in (b"VP8 ", b"VP8L", b"ALPH")))
        at += 8 + size + (size & 1)
    return pieces


def join(pieces: list[Piece], dice: random.Random) -> bytes:
    """A file with true sizes, nearly always."""
    chunks = _join(pieces, dice)
    size = len(chunks) + 4 + (dice.choice((-2, 2, 100)) if dice.random() < 0.03 else 0)
    return b"RIFF" + struct.pack("<I", max(0, size)) + b"WEBP" + chunks


def _join(pieces: list[Piece], dice: random.Random) -> bytes:
    data = b""
    for piece in pieces:
        body = piece.body + _join(list(piece.inside or ()), dice)
        size = len(body) + (dice.choice((-1, 1, 2)) if dice.random() < 0.01 else 0)
        data += piece.kind + struct.pack("<I", max(0, size)) + body + bytes(len(body) & 1)
    return data
