"""BMP: header sizes, masks, alpha, profiles, run lengths, palettes."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from tests.witness.files import profiles
from tests.witness.files.drawn import Pixels, grey, hills, letter, quantised, sand, smiley

RGB, RLE8, RLE4, MASKS, JPEG, PNG, ALPHA_MASKS = range(7)
_SRGB, _WINDOWS, _LINKED, _EMBEDDED = b"BGRs", b" niW", b"KNIL", b"DEBM"


def rows(samples: Pixels, top_down: bool = False) -> bytes:
    """Rows of bytes, each padded to four."""
    ordered = samples if top_down else samples[::-1]
    return b"".join(row.tobytes() + bytes(-len(row.tobytes()) % 4) for row in ordered)


def core(width_px: int, height_px: int, bits: int) -> bytes:
    """The oldest header."""
    return struct.pack("<IHHHH", 12, width_px, height_px, 1, bits)


def info(
    width_px: int,
    height_px: int,
    bits: int,
    *,
    compression: int = RGB,
    colours: int = 0,
    size: int = 40,
    more: bytes = b"",
    planes: int = 1,
) -> bytes:
    """The usual header, longer ones with `more`."""
    head = struct.pack(
        "<IiiHHIIiiII",
        size,
        width_px,
        height_px,
        planes,
        bits,
        compression,
        0,
        2835,
        2835,
        colours,
        0,
    )
    return (head + more).ljust(size, b"\0")


def file(
    head: bytes, body: bytes, between: bytes = b"", offset: int | None = None, behind: bytes = b""
) -> bytes:
    """Headers, what stands between, pixels."""
    start = 14 + len(head) + len(between) if offset is None else offset
    whole = head + between + body + behind
    return b"BM" + struct.pack("<IHHI", 14 + len(whole), 0, 0, start) + whole


def blue_first(picture: Pixels) -> Pixels:
    """As BMP orders colours."""
    return np.ascontiguousarray(picture[..., ::-1])


def masks(*values: int) -> bytes:
    """Bit masks."""
    return struct.pack(f"<{len(values)}I", *values)


def table(palette: bytes) -> bytes:
    """RGB triples as BGR0."""
    colours = np.frombuffer(palette, np.uint8).reshape(-1, 3)[:, ::-1]
    return np.pad(colours, ((0, 0), (0, 1))).tobytes()


def files() -> Iterator[tuple[str, bytes]]:
    """All kinds."""
    yield from _plain()
    yield from _alpha()
    yield from _profiles()
    yield from _palettes()
    yield from _run_lengths()


def _plain() -> Iterator[tuple[str, bytes]]:
    body = rows(blue_first(sand()))
    yield "core.bmp", file(core(96, 96, 24), body)
    for size in (40, 52, 56, 64, 108, 124):
        yield f"header-{size}.bmp", file(info(96, 96, 24, size=size), body)
    for size in (16, 41, 200):
        yield (
            f"header-{size}.bmp",
            file(
                info(96, 96, 24, size=max(size, 40))[:4].replace(b"(", bytes([size]))
                + info(96, 96, 24)[4:].ljust(size - 4, b"\0"),
                body,
            ),
        )
    yield "top-down.bmp", file(info(96, -96, 24), rows(blue_first(sand()), True))
    yield "negative-width.bmp", file(info(-96, 96, 24), body)
    yield "cut.bmp", file(info(96, 96, 24), body)[:-9000]
    yield "offset-0.bmp", file(info(96, 96, 24), body, offset=0)
    yield "offset-in-header.bmp", file(info(96, 96, 24), body, offset=30)
    yield "offset-later.bmp", file(info(96, 96, 24), bytes(3000) + body, offset=54 + 3000)
    yield "offset-beyond.bmp", file(info(96, 96, 24), body, offset=10**6)
    yield "planes-0.bmp", file(info(96, 96, 24, planes=0), body)
    yield "planes-3.bmp", file(info(96, 96, 24, planes=3), body)
    yield "bits-48.bmp", file(info(96, 96, 48), body * 2)
    yield (
        "wide.bmp",
        file(
            info(288, 96, 24), rows(blue_first(np.concatenate([hills(), sand(), hills()], axis=1)))
        ),
    )
    picture = sand()
    five = (
        ((picture[..., 0] >> 3).astype("<u2") << 10)
        | ((picture[..., 1] >> 3).astype("<u2") << 5)
        | (picture[..., 2] >> 3)
    )
    yield "sixteen.bmp", file(info(96, 96, 16), rows(five.astype("<u2")))
    for name, values in (
        ("565", (0xF800, 0x07E0, 0x001F)),
        ("555", (0x7C00, 0x03E0, 0x001F)),
        ("swapped", (0x001F, 0x03E0, 0x7C00)),
        ("one-bit", (0x4000, 0x0200, 0x0010)),
        ("zero", (0, 0, 0)),
        ("overlap", (0x7FFF, 0x03E0, 0x001F)),
        ("holes", (0x5400, 0x02A0, 0x0015)),
        ("beyond", (0xF80000, 0x07E0, 0x001F)),
    ):
        body16 = rows(five.astype("<u2"))
        yield (
            f"sixteen-{name}.bmp",
            file(info(96, 96, 16, compression=MASKS), body16, masks(*values)),
        )
        yield (
            f"sixteen-{name}-56.bmp",
            file(info(96, 96, 16, compression=MASKS, size=56, more=masks(*values, 0x8000)), body16),
        )


def _alpha() -> Iterator[tuple[str, bytes]]:
    wave = np.dstack([blue_first(sand()), np.where(letter(), 255, 90)]).astype(np.uint8)
    none = np.dstack([blue_first(sand()), np.zeros((96, 96))]).astype(np.uint8)
    dots = np.random.default_rng(0).integers(0, 256, (96, 96)) < grey(sand())
    black = np.dstack([np.zeros((96, 96, 3)), np.where(dots, 0, 128)]).astype(np.uint8)
    usual = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    for name, pixels in (("wave", wave), ("none", none), ("dots", black)):
        body = rows(pixels)
        yield f"alpha-{name}-rgb.bmp", file(info(96, 96, 32), body)
        yield (
            f"alpha-{name}-masks.bmp",
            file(info(96, 96, 32, compression=MASKS), body, masks(*usual[:3])),
        )
        yield (
            f"alpha-{name}-masks-4.bmp",
            file(info(96, 96, 32, compression=ALPHA_MASKS), body, masks(*usual)),
        )
        for size in (52, 56, 108, 124):
            for kind in (RGB, MASKS):
                for label, mask in (
                    ("all", 0xFF000000),
                    ("one", 0x80000000),
                    ("low", 0x01000000),
                    ("none", 0),
                    ("blue", 0xFF),
                ):
                    head = info(
                        96,
                        96,
                        32,
                        compression=kind,
                        size=size,
                        more=masks(*usual[:3], mask)[: size - 40],
                    )
                    yield f"alpha-{name}-{size}-{kind}-{label}.bmp", file(head, body)


def _profiles() -> Iterator[tuple[str, bytes]]:
    body = rows(blue_first(sand()))
    usual = masks(0xFF0000, 0xFF00, 0xFF, 0)
    chosen = (
        "flat",
        "permuted",
        "grey-space",
        "version-5",
        "version-4",
        "cut",
        "size-longer",
        "class-scanner",
        "empty",
    )
    for name, profile in profiles.odd().items():
        if name not in chosen:
            continue
        at = 124 + len(body)
        for label, size, place, space in (
            ("embedded", len(profile), at, _EMBEDDED),
            ("linked", len(profile), at, _LINKED),
            ("srgb", len(profile), at, _SRGB),
            ("size-0", 0, at, _EMBEDDED),
            ("beyond", len(profile), at + 5000, _EMBEDDED),
            ("size-more", len(profile) + 500, at, _EMBEDDED),
        ):
            more = usual + space + bytes(48) + struct.pack("<IIII", 4, place, size, 0)
            yield (
                f"profile-{name}-{label}.bmp",
                file(info(96, 96, 24, size=124, more=more), body, behind=profile),
            )
        more = usual + _EMBEDDED + bytes(48) + struct.pack("<IIII", 4, 124, len(profile), 0)
        yield (
            f"profile-{name}-before-pixels.bmp",
            file(info(96, 96, 24, size=124, more=more), body, profile),
        )
    point = lambda *values: struct.pack("<3I", *(round(value * 2**30) for value in values))  # noqa: E731
    srgb = ((0.4124, 0.2126, 0.0193), (0.3576, 0.7152, 0.1192), (0.1805, 0.0722, 0.9505))
    for name, order, gamma in (
        ("plain", (0, 1, 2), 2.2),
        ("permuted", (1, 2, 0), 2.2),
        ("dark", (0, 1, 2), 9.0),
        ("light", (0, 1, 2), 0.1),
    ):
        ends = b"".join(point(*srgb[index]) for index in order)
        curve = struct.pack("<I", round(gamma * 65536)) * 3
        for size in (108, 124):
            more = usual + bytes(4) + ends + curve
            yield (
                f"calibrated-{name}-{size}.bmp",
                file(info(96, 96, 24, size=size, more=more), body),
            )


def _palettes() -> Iterator[tuple[str, bytes]]:
    indices, palette = quantised(sand(), 256)
    few, small = quantised(smiley(), 16)
    yield "palette.bmp", file(info(96, 96, 8), rows(indices), table(palette))
    yield (
        "palette-core.bmp",
        file(
            core(96, 96, 8),
            rows(indices),
            np.frombuffer(palette, np.uint8).reshape(-1, 3)[:, ::-1].tobytes(),
        ),
    )
    for colours in (1, 100, 256, 300, 2**31):
        yield (
            f"palette-{colours}-used.bmp",
            file(info(96, 96, 8, colours=colours), rows(indices), table(palette)),
        )
    short = table(palette[:60])
    yield "palette-short.bmp", file(info(96, 96, 8, colours=20), rows(indices), short)
    yield (
        "palette-overlapped.bmp",
        file(info(96, 96, 8), rows(indices), table(palette), offset=54 + 400),
    )
    yield (
        "palette-later.bmp",
        file(info(96, 96, 8, colours=256), rows(indices), table(palette) + bytes(400)),
    )
    four = (few[:, ::2] << 4) | few[:, 1::2]
    yield (
        "palette-4.bmp",
        file(info(96, 96, 4, colours=16), rows(four.astype(np.uint8)), table(small)),
    )
    yield (
        "palette-4-short.bmp",
        file(info(96, 96, 4, colours=3), rows(four.astype(np.uint8)), table(small[:9])),
    )
    one = np.packbits(letter(), axis=1)
    for name, colours in (
        ("black-white", b"\0\0\0\xff\xff\xff"),
        ("white-black", b"\xff\xff\xff\0\0\0"),
        ("colours", b"\xb0\x88\x7a\x20\x30\xf0"),
    ):
        yield f"palette-1-{name}.bmp", file(info(96, 96, 1, colours=2), rows(one), table(colours))
    yield (
        "palette-2.bmp",
        file(
            info(96, 96, 2, colours=4),
            rows(np.packbits(letter(), axis=1).repeat(2, axis=1)),
            table(small[:12]),
        ),
    )
    yield (
        "palette-on-24.bmp",
        file(info(96, 96, 24, colours=10), rows(blue_first(sand())), bytes(40)),
    )


def _run_lengths() -> Iterator[tuple[str, bytes]]:
    indices, palette = quantised(smiley(), 16)
    line = [b"\0\x60" + row.tobytes() + b"\0\0" for row in indices[::-1]]
    whole = b"".join(line) + b"\0\1"
    head = info(96, 96, 8, compression=RLE8, colours=16)
    colours = table(palette)
    for name, body in (
        ("plain", whole),
        ("early-end", b"".join(line[:40]) + b"\0\1"),
        (
            "early-end-of-line",
            b"".join(row[: 2 + 40].replace(b"\0\x60", b"\0\x28", 1) + b"\0\0" for row in line)
            + b"\0\1",
        ),
        (
            "skip",
            b"\0\2\x14\x14"
            + b"".join(b"\0\x28" + row.tobytes()[:40] + b"\0\0\0\2\x14\0" for row in indices[:60])
            + b"\0\1",
        ),
        ("skip-far", b"\0\2\xff\xff" + whole),
        ("only-skip", b"\0\2\x50\x50\x05\3\0\1"),
        ("no-end", b"".join(line)),
        ("cut", whole[:3000]),
        ("run-beyond", b"\xff\3" * 200 + b"\0\1"),
        ("index-beyond", b"\x60\xc8\0\0" * 96 + b"\0\1"),
        ("nothing", b"\0\1"),
    ):
        yield f"rle8-{name}.bmp", file(head, body, colours)
        turned = info(96, -96, 8, compression=RLE8, colours=16)
        if name in ("plain", "skip"):
            yield f"rle8-{name}-top-down.bmp", file(turned, body, colours)
    four = (
        b"".join(b"\x60" + bytes([row[48] << 4 | row[20]]) + b"\0\0" for row in indices[::-1])
        + b"\0\1"
    )
    yield "rle4.bmp", file(info(96, 96, 4, compression=RLE4, colours=16), four, colours)
    yield (
        "rle4-skip.bmp",
        file(info(96, 96, 4, compression=RLE4, colours=16), b"\0\2\x10\x10" + four, colours),
    )
    yield "rle8-on-4.bmp", file(info(96, 96, 4, compression=RLE8, colours=16), whole, colours)
    yield "embedded-jpeg.bmp", file(info(96, 96, 0, compression=JPEG), b"\xff\xd8\xff" + bytes(300))
