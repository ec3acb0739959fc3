"""PNG and APNG by chunks."""

from __future__ import annotations

import random
import struct
import zlib

from tests.witness.mutation.pieces import Piece

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def split(data: bytes) -> list[Piece]:
    """Chunks; what cannot be read as one is dropped."""
    pieces, at = [], len(_SIGNATURE)
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        pieces.append(Piece(kind, body, fixed=kind in (b"IDAT", b"fdAT")))
        at += 12 + size
    return pieces


def join(pieces: list[Piece], dice: random.Random) -> bytes:
    """A file with true checksums and frame numbers, nearly always."""
    renumber = dice.random() < 0.8
    data, number = _SIGNATURE, 0
    for kind, body in ((piece.kind, piece.body) for piece in pieces):
        if kind in (b"fcTL", b"fdAT") and renumber:
            body = struct.pack(">I", number) + body[4:]
            number += 1
        checksum = zlib.crc32(body, zlib.crc32(kind))
        if dice.random() < 0.02:
            checksum ^= 1
        size = len(body) + (dice.choice((-1, 1, 4, 2**31)) if dice.random() < 0.01 else 0)
        data += struct.pack(">I", size % 2**32) + kind + body + struct.pack(">I", checksum)
    return data
