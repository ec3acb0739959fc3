"""JPEG: profiles, orientations and Adobe markers in the wrong place, twice or impossible."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from tests.witness.files import profiles
from tests.witness.files.drawn import Pixels, grey, hills, sand, smiley


def encode(picture: Pixels, mode: str = "RGB", **options: Any) -> bytes:
    """By Pillow, without any metadata but JFIF."""
    buffer = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(buffer, "JPEG", **{"quality": 90, **options})
    return buffer.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    """A marker segment."""
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def icc(profile: bytes, number: int = 1, count: int = 1) -> bytes:
    """One APP2 piece of a profile."""
    return segment(0xE2, b"ICC_PROFILE\0" + bytes([number, count]) + profile)


def tiff(
    *tags: tuple[int, int, int, bytes], order: str = ">", offset: int = 8, more: bytes = b""
) -> bytes:
    """A TIFF block with one directory; tags are number, type, count and four bytes of value."""
    start = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(order + "I", offset)
    entries = b"".join(struct.pack(order + "HHI", *tag[:3]) + tag[3] for tag in tags)
    return (
        start
        + bytes(offset - 8)
        + struct.pack(order + "H", len(tags))
        + entries
        + (more or bytes(4))
    )


def exif(block: bytes, name: bytes = b"Exif\0\0") -> bytes:
    """APP1 with it."""
    return segment(0xE1, name + block)


def turn(orientation: int, order: str = ">", kind: int = 3, count: int = 1) -> bytes:
    """A TIFF block with an orientation."""
    sizes = {1: "B3x", 3: "H2x", 4: "I", 6: "b3x", 8: "h2x", 9: "i"}
    value = struct.pack(order + sizes.get(kind, "I"), orientation)
    return tiff((0x0112, kind, count, value), order=order)


def with_segments(data: bytes, extra: bytes) -> bytes:
    """Put them behind JFIF."""
    at = 2 + 2 + struct.unpack(">H", data[4:6])[0]
    return data[:at] + extra + data[at:]


def without_jfif(data: bytes) -> bytes:
    """Drop the first segment."""
    return data[:2] + data[4 + struct.unpack(">H", data[4:6])[0] :]


def parts_of(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Up to the frame header, up to the scan, the rest."""
    at, frame = 2, 0
    while data[at + 1] != 0xDA:
        if 0xC0 <= data[at + 1] <= 0xC2:
            frame = at
        at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return data[:frame], data[frame:at], data[at:]


_XMP = (
    b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x='adobe:ns:meta/'>"
    b"<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'><rdf:Description "
    b"xmlns:tiff='http://ns.adobe.com/tiff/1.0/' tiff:Orientation='6'/></rdf:RDF></x:xmpmeta>"
)


def files() -> Iterator[tuple[str, bytes]]:
    """All kinds."""
    yield from _profiles()
    yield from _orientations()
    yield from _adobe()
    yield from _structure()


def _profiles() -> Iterator[tuple[str, bytes]]:
    base, levels = encode(sand()), encode(sand(), "L")
    inks = encode(sand(), "CMYK")
    for name, profile in profiles.odd().items():
        yield f"icc-{name}.jpg", with_segments(base, icc(profile))
        if name in ("flat", "grey-space", "cmyk-space", "permuted", "grey-space-rgb-curves"):
            yield f"icc-{name}-on-grey.jpg", with_segments(levels, icc(profile))
            yield f"icc-{name}-on-cmyk.jpg", inks[:2] + icc(profile) + inks[2:]
    flat, plain = profiles.FLAT, profiles.PLAIN
    head, tail = flat[:200], flat[200:]
    for name, extra in (
        ("2-of-1", icc(flat, 2, 1)),
        ("0-of-1", icc(flat, 0, 1)),
        ("1-of-0", icc(flat, 1, 0)),
        ("0-of-0", icc(flat, 0, 0)),
        ("1-of-2-alone", icc(flat, 1, 2)),
        ("2-of-2-alone", icc(flat, 2, 2)),
        ("two-pieces", icc(head, 1, 2) + icc(tail, 2, 2)),
        ("two-pieces-swapped", icc(tail, 2, 2) + icc(head, 1, 2)),
        ("two-pieces-apart", icc(head, 1, 2) + segment(0xFE, b"between") + icc(tail, 2, 2)),
        ("two-pieces-same-number", icc(head, 1, 2) + icc(tail, 1, 2)),
        ("counts-differ", icc(head, 1, 2) + icc(tail, 2, 3)),
        ("three-of-two", icc(head, 1, 2) + icc(tail, 2, 2) + icc(tail, 3, 2)),
        ("empty-piece", icc(b"", 1, 2) + icc(flat, 2, 2)),
        ("twice", icc(plain) + icc(flat)),
        ("twice-other", icc(flat) + icc(plain)),
        ("bad-then-good", icc(flat, 3, 2) + icc(flat)),
        ("two-whole", icc(plain, 1, 2) + icc(flat, 2, 2)),
        ("name-short", segment(0xE2, b"ICC_PROFILE" + flat)),
        ("name-lower", segment(0xE2, b"icc_profile\0\1\1" + flat)),
        ("in-app3", segment(0xE3, b"ICC_PROFILE\0\1\1" + flat)),
        ("fill-bytes", b"\xff\xff\xff" + icc(flat)),
        ("after-zeros", b"\0\0\0" + icc(flat)),
    ):
        yield f"icc-{name}.jpg", with_segments(base, extra)
    front, frame, scan = parts_of(base)
    yield "icc-after-frame.jpg", front + frame + icc(flat) + scan
    yield "icc-before-jfif.jpg", base[:2] + icc(flat) + base[2:]
    yield "icc-after-scan.jpg", base[:-2] + icc(flat) + base[-2:]
    yield "icc-behind-end.jpg", base + icc(flat)


def _orientations() -> Iterator[tuple[str, bytes]]:
    base = encode(sand())
    front, frame, scan = parts_of(base)
    for way in range(10):
        yield f"turn-{way}.jpg", with_segments(base, exif(turn(way)))
    for name, extra in (
        ("little", exif(turn(6, "<"))),
        ("long", exif(turn(6, kind=4))),
        ("byte", exif(turn(6, kind=1))),
        ("signed", exif(turn(6, kind=8))),
        ("signed-long", exif(turn(6, kind=9))),
        ("undefined", exif(turn(6, kind=7))),
        ("count-0", exif(turn(6, count=0))),
        ("count-2", exif(turn(6, count=2))),
        ("count-9", exif(turn(6, count=9))),
        ("far", exif(tiff((0x0112, 3, 1, b"\0\6\0\0"), offset=40))),
        ("twice-tag", exif(tiff((0x0112, 3, 1, b"\0\1\0\0"), (0x0112, 3, 1, b"\0\6\0\0")))),
        ("twice-tag-other", exif(tiff((0x0112, 3, 1, b"\0\6\0\0"), (0x0112, 3, 1, b"\0\1\0\0")))),
        ("unsorted", exif(tiff((0x9000, 3, 1, b"\0\1\0\0"), (0x0112, 3, 1, b"\0\6\0\0")))),
        (
            "second-directory",
            exif(
                tiff(
                    (0x0100, 3, 1, b"\0\1\0\0"),
                    more=struct.pack(">I", 26)
                    + struct.pack(">HHHI4sI", 1, 0x0112, 3, 1, b"\0\6\0\0", 0),
                )
            ),
        ),
        ("twice", exif(turn(1)) + exif(turn(6))),
        ("twice-other", exif(turn(6)) + exif(turn(1))),
        ("bad-then-good", exif(b"MM\0*\0\0\0\x08\0\x09") + exif(turn(6))),
        ("name-padded", exif(turn(6), b"Exif\0\1")),
        ("name-lower", exif(turn(6), b"exif\0\0")),
        ("name-short", exif(turn(6), b"Exif\0")),
        ("magic", exif(turn(6).replace(b"MM\0*", b"MM\0+"))),
        ("byte-order", exif(turn(6).replace(b"MM", b"IM"))),
        ("offset-beyond", exif(b"MM\0*\0\0\x7f\xff" + bytes(30))),
        ("offset-0", exif(b"MM\0*\0\0\0\0" + turn(6)[8:])),
        ("entries-beyond", exif(turn(6)[:8] + b"\0\x09" + turn(6)[10:])),
        ("no-next", exif(turn(6)[:-4])),
        ("in-app2", segment(0xE2, b"Exif\0\0" + turn(6))),
        (
            "xmp",
            segment(
                0xE1,
                _XMP,
            ),
        ),
        (
            "xmp-and-exif",
            segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<a tiff:Orientation='6'/>")
            + exif(turn(3)),
        ),
        ("mpf", segment(0xE2, b"MPF\0" + turn(6))),
    ):
        yield f"turn-{name}.jpg", with_segments(base, extra)
    yield "turn-before-jfif.jpg", base[:2] + exif(turn(6)) + base[2:]
    yield "turn-after-frame.jpg", front + frame + exif(turn(6)) + scan
    yield "turn-after-scan.jpg", base[:-2] + exif(turn(6)) + base[-2:]
    yield "turn-no-jfif.jpg", without_jfif(base)[:2] + exif(turn(6)) + without_jfif(base)[2:]
    wide = encode(np.concatenate([hills(), sand(), hills()], axis=1))
    yield "turn-wide.jpg", with_segments(wide, exif(turn(6)))
    for name, x, y, unit, wide_px, high_px in (
        ("double", 144, 144, 2, 48, 48),
        ("narrow", 144, 72, 2, 48, 96),
        ("tall", 72, 288, 2, 96, 24),
    ):
        rationals = struct.pack(">IIII", x, 1, y, 1)
        tags = [
            (0x011A, 5, 1, struct.pack(">I", 100)),
            (0x011B, 5, 1, struct.pack(">I", 108)),
            (0x0128, 3, 1, struct.pack(">HH", unit, 0)),
            (0x8769, 4, 1, struct.pack(">I", 70)),
            (0xA002, 3, 1, struct.pack(">HH", wide_px, 0)),
            (0xA003, 3, 1, struct.pack(">HH", high_px, 0)),
        ]
        first = tiff(*tags[:4])
        second = (
            struct.pack(">H", 2)
            + b"".join(struct.pack(">HHI", *tag[:3]) + tag[3] for tag in tags[4:])
            + bytes(4)
        )
        block = (first.ljust(70, b"\0") + second).ljust(100, b"\0") + rationals
        yield f"density-{name}.jpg", with_segments(base, exif(block))


def _adobe() -> Iterator[tuple[str, bytes]]:
    base, bare = encode(hills()), without_jfif(encode(hills()))

    def adobe(transform: int, more: bytes = b"") -> bytes:
        return segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform) + more)

    bare_front, bare_frame, bare_scan = parts_of(bare)
    for transform in (0, 1, 2, 3, 255):
        yield f"adobe-{transform}.jpg", bare[:2] + adobe(transform) + bare[2:]
        yield f"adobe-{transform}-after-jfif.jpg", with_segments(base, adobe(transform))
        yield (
            f"adobe-{transform}-after-frame.jpg",
            bare_front + bare_frame + adobe(transform) + bare_scan,
        )
    yield "adobe-twice.jpg", bare[:2] + adobe(1) + adobe(0) + bare[2:]
    yield "adobe-twice-other.jpg", bare[:2] + adobe(0) + adobe(1) + bare[2:]
    yield "adobe-short.jpg", bare[:2] + segment(0xEE, b"Adobe\0\x64\0\0\0\0") + bare[2:]
    yield "adobe-long.jpg", bare[:2] + adobe(0, b"more") + bare[2:]
    yield "no-jfif.jpg", bare
    for name, ids in (
        ("rgb", b"RGB"),
        ("zero", b"\0\1\2"),
        ("odd", b"\x05\x06\x07"),
        ("same", b"\1\1\1"),
    ):
        for label, whole in (("", bare), ("-jfif", base)):
            before, middle, after = parts_of(whole)
            sof = bytearray(middle)
            at = middle.index(b"\xff\xc0") if b"\xff\xc0" in middle else 0
            sos = bytearray(after)
            for place, each in enumerate(ids):
                sof[at + 10 + 3 * place] = each
                sos[5 + 2 * place] = each
            yield f"components-{name}{label}.jpg", before + bytes(sof) + bytes(sos)
    inks = encode(hills(), "CMYK")
    at = inks.index(b"Adobe") + 11
    for transform in (0, 1, 2):
        yield f"cmyk-{transform}.jpg", inks[:at] + bytes([transform]) + inks[at + 1 :]
    place = inks.index(b"\xff\xee")
    yield (
        "cmyk-no-adobe.jpg",
        inks[:place] + inks[place + 2 + struct.unpack(">H", inks[place + 2 : place + 4])[0] :],
    )


def _structure() -> Iterator[tuple[str, bytes]]:
    base = encode(sand())
    front, frame, scan = parts_of(base)
    for sampling in (0, 1, 2):
        yield f"sampling-{sampling}.jpg", encode(smiley(), subsampling=sampling)
        yield f"sampling-{sampling}-hills.jpg", encode(hills(), subsampling=sampling)
    yield "progressive.jpg", encode(hills(), progressive=True)
    slow = encode(smiley(), progressive=True)
    yield "progressive-cut.jpg", slow[: len(slow) // 2]
    yield "progressive-cut-ended.jpg", slow[: len(slow) // 2] + b"\xff\xd9"
    starts = [at for at in range(len(slow) - 1) if slow[at : at + 2] == b"\xff\xda"]
    yield "progressive-first-scan.jpg", slow[: starts[1]] + b"\xff\xd9"
    yield "progressive-last-scans.jpg", slow[: starts[0]] + slow[starts[2] :]
    yield "grey.jpg", encode(sand(), "L")
    yield "cut.jpg", base[: len(base) * 2 // 3]
    yield "cut-early.jpg", (front + frame + scan)[: len(front) + len(frame) + 300]
    yield "no-end.jpg", base[:-2]
    yield "second-picture.jpg", base + encode(hills())
    yield "end-then-scan.jpg", base[:-2] + b"\xff\xd9" + scan
    other_front, other_frame, other_scan = parts_of(encode(hills()))
    yield "frame-twice.jpg", front + frame + other_frame + scan
    yield "scan-twice.jpg", front + frame + scan[:-2] + other_scan
    yield "start-twice.jpg", b"\xff\xd8" + base
    yield "tables-replaced.jpg", front + frame + other_front[2:] + scan
    for name, height, width in (
        ("height-0", 0, 96),
        ("height-less", 48, 96),
        ("height-more", 400, 96),
        ("width-less", 96, 48),
        ("width-more", 96, 160),
    ):
        lied = frame[:5] + struct.pack(">HH", height, width) + frame[9:]
        yield f"{name}.jpg", front + lied + scan
    lied = frame[:5] + struct.pack(">HH", 0, 96) + frame[9:]
    yield (
        "height-later.jpg",
        front + lied + scan[:-2] + segment(0xDC, struct.pack(">H", 96)) + b"\xff\xd9",
    )
    restarted = encode(smiley(), restart_marker_blocks=4)
    yield "restarts.jpg", restarted
    swapped = restarted.replace(b"\xff\xd1", b"\xff\xd5")
    yield "restarts-wrong.jpg", swapped
    yield "restarts-dropped.jpg", restarted.replace(b"\xff\xd2", b"")
    noise = bytearray(base)
    for place in range(len(front) + len(frame) + 200, len(base) - 2, 331):
        noise[place] ^= 0x55
    yield "damaged-scan.jpg", bytes(noise)
    yield "garbage-between-segments.jpg", with_segments(base, b"garbage here")
    yield "segment-too-long.jpg", with_segments(base, b"\xff\xe5\x40\x00" + bytes(20))
    yield "segment-too-short.jpg", with_segments(base, b"\xff\xe5\x00\x01")
    yield "comment.jpg", with_segments(base, segment(0xFE, b"51.5N 0.1W"))
    # Blocks whose even and odd columns cancel out at half the size.
    check = np.indices((1200, 1200)).sum(axis=0)[..., None] % 2
    face = np.kron(smiley(100), np.ones((12, 12, 1), np.uint8)) < 128
    flat = np.where(face, np.where(check == 1, 255, 0), 128).astype(np.uint8)
    yield "half-size-differs.jpg", encode(flat, quality=95, subsampling=0)
    big = np.kron(sand(), np.ones((14, 14, 1), np.uint8))
    yield "large-profile.jpg", with_segments(encode(big), icc(profiles.PERMUTED))
    yield "wide.jpg", encode(np.concatenate([hills(), sand(), hills()], axis=1))
    yield "grey-wide.jpg", encode(np.dstack([grey(sand())] * 3))
