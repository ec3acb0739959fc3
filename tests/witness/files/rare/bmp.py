"""BMP: OS/2 headers, bit fields of all widths, runs with jumps, linked profiles, lying counts."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from tests.witness.files.bmp import (
    ALPHA_MASKS,
    MASKS,
    RLE4,
    RLE8,
    blue_first,
    core,
    file,
    info,
    masks,
    rows,
    table,
)
from tests.witness.files.drawn import quantised, sand, smiley


def files() -> Iterator[tuple[str, bytes]]:
    """All kinds."""
    body = rows(blue_first(sand()))
    for size in (16, 64):
        yield (
            f"os2-{size}.bmp",
            file(
                info(96, 96, 24, size=64)[:4].replace(b"\x40", bytes([size]), 1)
                + info(96, 96, 24, size=64)[4:size],
                body,
            ),
        )
    yield "os2-huffman.bmp", file(info(96, 96, 1, compression=3, size=64), bytes(2000))
    yield "os2-rle24.bmp", file(info(96, 96, 24, compression=4, size=64), body)
    yield "core-tall.bmp", file(core(96, 65_440, 24), body)
    values = sand().astype(np.uint32)
    for name, (red, green, blue, alpha) in (
        ("565", (0xF800, 0x7E0, 0x1F, 0)),
        ("555", (0x7C00, 0x3E0, 0x1F, 0)),
        ("1555", (0x7C00, 0x3E0, 0x1F, 0x8000)),
        ("4444", (0xF00, 0xF0, 0xF, 0xF000)),
        ("bgr", (0x1F, 0x7E0, 0xF800, 0)),
        ("332", (0xE0, 0x1C, 0x3, 0)),
        ("one-bit", (0x8000, 0x4000, 0x2000, 0)),
    ):
        packed = _packed(values, (red, green, blue)) | alpha
        for size, kind in ((40, MASKS), (56, MASKS), (40, ALPHA_MASKS), (108, MASKS)):
            fields = masks(red, green, blue, alpha)
            head = info(96, 96, 16, compression=kind, size=size, more=fields if size > 40 else b"")
            between = fields[: 12 if kind == MASKS else 16] if size == 40 else b""
            yield (
                f"fields-{name}-{size}-{kind}.bmp",
                file(head, rows(packed.astype("<u2")), between),
            )
    for name, (red, green, blue, alpha) in (
        ("10-bit", (0x3FF00000, 0xFFC00, 0x3FF, 0)),
        ("10-bit-alpha", (0x3FF00000, 0xFFC00, 0x3FF, 0xC0000000)),
        ("reversed", (0xFF000000, 0xFF0000, 0xFF00, 0xFF)),
        ("12-bit", (0xFFF00000, 0xFFF00, 0xFF, 0)),
        ("30-bit-red", (0xFFFFFF00, 0xF0, 0xF, 0)),
        ("no-blue", (0xFF0000, 0xFF00, 0, 0)),
    ):
        packed = _packed(values, (red, green, blue)) | (alpha & 0xC0000000)
        head = info(96, 96, 32, compression=MASKS, size=108, more=masks(red, green, blue, alpha))
        yield f"fields-32-{name}.bmp", file(head, rows(packed.astype("<u4")))
    four = np.dstack([blue_first(sand()), np.full((96, 96), 200, np.uint8)])
    yield "thirty-two.bmp", file(info(96, 96, 32), rows(four))
    yield "thirty-two-v5.bmp", file(info(96, 96, 32, size=124), rows(four))
    linked = info(
        96, 96, 24, size=124, more=bytes(16) + b"KNIL" + bytes(48) + struct.pack("<III", 124, 9, 0)
    )
    yield "profile-linked.bmp", file(linked, body, b"c:\\x.icc\0")
    indices, palette = quantised(smiley(), 16)
    colours = table(palette)
    for colours_used in (1, 2, 15, 17, 255, 257, 2**31):
        head = info(96, 96, 8, colours=colours_used)
        yield f"colours-{colours_used}.bmp", file(head, rows(indices), colours)
    two = (indices > 3).astype(np.uint8)
    packed_two = np.packbits(two, axis=1)
    yield "one-bit-one-colour.bmp", file(info(96, 96, 1, colours=1), rows(packed_two), colours[:4])
    yield (
        "two-bits.bmp",
        file(info(96, 96, 2, colours=4), rows(_quarter(indices % 4)), colours[:16]),
    )
    yield from _runs(indices, colours)


def _packed(values: np.ndarray, fields: tuple[int, ...]) -> np.ndarray:
    packed = np.zeros(values.shape[:2], np.uint32)
    for channel, mask in enumerate(fields):
        if mask:
            shift = (mask & -mask).bit_length() - 1
            most = mask >> shift
            levels = values[..., channel].astype(np.uint64) * most // 255
            packed |= (levels << np.uint64(shift)).astype(np.uint32)
    return packed


def _quarter(indices: np.ndarray) -> np.ndarray:
    shifts = np.array([6, 4, 2, 0], np.uint8)
    grouped = indices.astype(np.uint8).reshape(96, 24, 4) << shifts
    return grouped.sum(axis=2).astype(np.uint8)


def _runs(indices: np.ndarray, colours: bytes) -> Iterator[tuple[str, bytes]]:
    head = info(96, 96, 8, compression=RLE8, colours=16)
    lines = [b"".join(bytes([1, int(v)]) for v in row) for row in indices[::-1]]
    literal = [b"\0\x60" + row.tobytes() for row in indices[::-1]]
    for name, data in (
        ("plain", b"\0\0".join(lines) + b"\0\1"),
        ("literal", b"\0\0".join(literal) + b"\0\1"),
        ("no-line-ends", b"".join(lines) + b"\0\1"),
        ("no-end", b"\0\0".join(lines)),
        ("no-end-line-ends", b"\0\0".join(lines) + b"\0\0"),
        ("end-early", b"\0\0".join(lines[:50]) + b"\0\1"),
        ("jump", b"\0\0".join(lines[:50]) + b"\0\2\0\x05" + b"\0\0".join(lines[55:]) + b"\0\1"),
        ("jump-right", b"\0\2\x30\0" + lines[0][:96] + b"\0\0" + b"\0\0".join(lines[1:]) + b"\0\1"),
        ("run-0-0", b"\0\0".join(lines) + b"\0\0\0\1"),
        ("rubbish-behind", b"\0\0".join(lines) + b"\0\1" + bytes(900)),
        (
            "literal-odd",
            b"\0\0".join(
                b"\0\x5f" + row[:95].tobytes() + b"\0\1" + bytes([row[95]]) for row in indices[::-1]
            )
            + b"\0\1",
        ),
    ):
        yield f"runs-{name}.bmp", file(head, data, colours)
    four = info(96, 96, 4, compression=RLE4, colours=16)
    packed = (indices[:, ::2] << 4 | indices[:, 1::2]).astype(np.uint8)
    thin = [b"".join(bytes([2, int(v)]) for v in row) for row in packed[::-1]]
    for name, data in (
        ("plain", b"\0\0".join(thin) + b"\0\1"),
        ("no-end", b"\0\0".join(thin)),
        ("literal", b"\0\0".join(b"\0\x60" + row.tobytes() for row in packed[::-1]) + b"\0\1"),
        ("jump", b"\0\0".join(thin[:40]) + b"\0\2\0\3" + b"\0\0".join(thin[43:]) + b"\0\1"),
    ):
        yield f"runs-4-{name}.bmp", file(four, data, colours)
