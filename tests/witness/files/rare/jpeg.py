"""JPEG: second pictures, thumbnails, odd sampling, tables and restarts, odd orientations."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from tests.witness.files.drawn import grey, hills, sand, smiley
from tests.witness.files.jpeg import (
    encode,
    exif,
    parts_of,
    segment,
    tiff,
    turn,
    with_segments,
    without_jfif,
)


def files() -> Iterator[tuple[str, bytes]]:
    """All kinds."""
    base, other = encode(sand()), encode(hills(), quality=60)
    front, frame, scan = parts_of(base)
    little = encode(smiley(32))
    count = struct.pack(">I", 1)
    for name, extra in (
        ("thumbnail-jfxx", segment(0xE0, b"JFXX\0\x10" + little)),
        ("thumbnail-exif", exif(turn(1) + little)),
        ("photoshop", segment(0xED, b"Photoshop 3.0\x008BIM\x04\x0c\0\0" + little)),
        ("many-pictures", segment(0xE2, b"MPF\0MM\0*" + count + little)),
        ("gain-map", segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0" + bytes(8))),
        ("exif-twice", exif(turn(1)) + exif(turn(6))),
        ("exif-twice-other", exif(turn(6)) + exif(turn(1))),
        ("exif-little-endian", exif(turn(8, "<"))),
        ("exif-far", exif(tiff((0x0112, 3, 1, b"\0\6\0\0"), offset=400))),
        ("exif-second-directory", exif(_second_directory(6))),
        ("exif-cut", exif(turn(6)[:18])),
        ("filled", b"\xff" * 40 + segment(0xFE, b"note")),
        ("restart-every-0", segment(0xDD, b"\0\0")),
        ("start-again", b"\xff\xd8"),
        ("temporary", b"\xff\x01"),
        ("reserved", segment(0xC8, b"reserved")),
        ("version-marker", segment(0xF0, b"version")),
    ):
        yield f"{name}.jpg", with_segments(base, extra)
    for name, block in directories():
        yield f"exif-{name}.jpg", with_segments(encode(smiley()), exif(block))
    yield "behind-film.jpg", base + struct.pack(">I4s4s", 24, b"ftyp", b"mp42") + bytes(200)
    yield "behind-other.jpg", base + other
    yield "end-cut-half.jpg", base[:-1]
    for cut in (3, 4, 5, 8, 20):
        yield f"end-cut-{cut}.jpg", base[:-cut]
    yield "end-twice.jpg", base + b"\xff\xd9"
    for ids in (b"RGB", b"\0\1\2", b"\1\1\1", b"\1\4\5", b"abc"):
        changed = bytearray(frame), bytearray(scan)
        for number, name_of in enumerate(ids):
            changed[0][10 + 3 * number] = name_of
            changed[1][5 + 2 * number] = name_of
        bare = without_jfif(front)
        for label, head in (("", front), ("-bare", bare)):
            yield f"ids-{ids.hex()}{label}.jpg", head + bytes(changed[0]) + bytes(changed[1])
    for across, down in ((4, 1), (1, 2), (1, 4), (2, 2), (4, 2), (3, 1)):
        lied = bytearray(frame)
        lied[11] = across << 4 | down
        yield f"sampling-lies-{across}{down}.jpg", front + bytes(lied) + scan
    lied = bytearray(frame)
    lied[11], lied[14] = 0x11, 0x22
    yield "sampling-colour-finer.jpg", front + bytes(lied) + scan
    twelve = bytearray(frame)
    twelve[4] = 12
    yield "depth-12.jpg", front + bytes(twelve) + scan
    for marker in (0xC1, 0xC2, 0xC3, 0xC9, 0xCA):
        lied = bytearray(frame)
        lied[1] = marker
        yield f"process-{marker:02x}.jpg", front + bytes(lied) + scan
    deep = segment(0xDB, b"\x10" + b"\0\x20" * 64)
    yield "tables-of-16-bits.jpg", front + deep + frame + scan
    late = segment(0xDB, b"\0" + b"\x40" * 64)
    yield "tables-between.jpg", front + frame + late + scan
    levels = encode(grey(sand()), "L")
    yield "grey-sampled.jpg", levels.replace(b"\1\1\x11\0", b"\1\1\x22\0", 1)
    yield "grey-three-quarters.jpg", levels[: len(levels) * 3 // 4]
    slow = encode(sand(), progressive=True)
    yield "progressive-no-end.jpg", slow[:-2]
    yield "progressive-end-cut.jpg", slow[:-6]
    inks = np.dstack([255 - sand(), np.zeros((96, 96), np.uint8)])
    yield "inks-no-adobe.jpg", without_adobe(encode_inks(inks))
    yield "inks-turned.jpg", with_segments(encode_inks(inks), exif(turn(3)))
    five = struct.pack(">HBHHB", 11 + 6, 8, 96, 96, 2) + bytes([1, 0x11, 0, 2, 0x11, 0])
    yield "components-2.jpg", front + b"\xff\xc0" + five + scan


def directories() -> Iterator[tuple[str, bytes]]:
    """TIFF blocks with orientations in directories within directories."""
    one, six, within, deeper = _turned(1), _turned(6), (0x8769, 4, 1), (0x8769, 4, 2)
    yield "private", _tree([within], [six])
    yield "private-other", _tree([one, within], [six])
    yield "private-upright", _tree([six, within], [one])
    yield "private-same", _tree([six, within], [six])
    yield "private-private", _tree([within], [deeper], [six])
    yield "private-twice", _tree([within, deeper], [one], [six])
    yield "private-itself", _tree([(0x8769, 4, 0), six])
    for kind in (3, 13):
        yield f"private-of-type-{kind}", _tree([(0x8769, kind, 1)], [six])
    for tag in (0x8825, 0xA005, 0x014A):
        yield f"directory-{tag:04x}", _tree([(tag, 4, 1)], [six])


def _turned(orientation: int) -> tuple[int, int, bytes]:
    return 0x0112, 3, struct.pack(">HH", orientation, 0)


def _tree(*directories: list[tuple[int, int, bytes | int]]) -> bytes:
    """Each of tags, types and values, or which of the directories is meant."""
    places = [8 + sum(12 * len(each) + 6 for each in directories[:n]) for n in range(9)]
    body = b"MM\0*" + struct.pack(">I", 8)
    for directory in directories:
        body += struct.pack(">H", len(directory))
        for tag, kind, value in directory:
            value = struct.pack(">I", places[value]) if isinstance(value, int) else value
            body += struct.pack(">HHI", tag, kind, 1) + value
        body += bytes(4)
    return body


def _second_directory(orientation: int) -> bytes:
    """The orientation of the thumbnail alone."""
    second = struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    return b"MM\0*" + struct.pack(">IHI", 8, 0, 14) + second


def encode_inks(picture: np.ndarray) -> bytes:
    """Four inks, by Pillow."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.frombytes("CMYK", picture.shape[1::-1], picture.tobytes()).save(buffer, "JPEG")
    return buffer.getvalue()


def without_adobe(data: bytes) -> bytes:
    """Drop the segment that names the colour space."""
    at = data.find(b"\xff\xee")
    return data[:at] + data[at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0] :]
