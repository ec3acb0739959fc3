"""PNG: chunks in the wrong place, twice, too long or damaged; colour keys, palettes, depths."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from tests.unit.pictures import chunk, orientation_exif
from tests.witness.files import profiles
from tests.witness.files.drawn import Pixels, grey, hills, letter, quantised, sand, smiley

SIGNATURE = b"\x89PNG\r\n\x1a\n"
IEND = chunk(b"IEND", b"")


def header(width_px: int, height_px: int, depth: int, colour: int, interlace: int = 0) -> bytes:
    """IHDR."""
    return chunk(
        b"IHDR", struct.pack(">IIBBBBB", width_px, height_px, depth, colour, 0, 0, interlace)
    )


def scanlines(samples: Pixels, depth: int = 8) -> bytes:
    """Unfiltered rows as they stand before compression."""
    if depth < 8:
        per_byte = 8 // depth
        padded = np.pad(samples, ((0, 0), (0, -samples.shape[1] % per_byte)))
        shifts = np.arange(per_byte)[::-1] * depth
        groups = padded.reshape(len(padded), -1, per_byte).astype(np.uint16) << shifts
        samples = groups.sum(axis=2).astype(np.uint8)
    kind = ">u2" if depth == 16 else "u1"
    return b"".join(b"\0" + row.astype(kind).tobytes() for row in samples)


def text_less(parts: list[bytes]) -> bytes:
    """Signature and these chunks."""
    return SIGNATURE + b"".join(parts)


def idat(samples: Pixels, depth: int = 8) -> bytes:
    """The pixels in one chunk."""
    return chunk(b"IDAT", zlib.compress(scanlines(samples, depth), 9))


def iccp(profile: bytes, name: bytes = b"test", method: int = 0) -> bytes:
    """A profile's chunk."""
    return chunk(b"iCCP", name + b"\0" + bytes([method]) + zlib.compress(profile))


def gama(value: int) -> bytes:
    """Gamma times 100,000."""
    return chunk(b"gAMA", struct.pack(">I", value))


def chrm(*values: int) -> bytes:
    """White, red, green, blue; x and y times 100,000."""
    return chunk(b"cHRM", struct.pack(">8I", *values))


_SRGB_CHRM = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
_PERMUTED_CHRM = (31270, 32900, 15000, 6000, 64000, 33000, 30000, 60000)

#: What could change or hide a picture, by name.
HIDERS = {
    "gama-dark": gama(450),
    "gama-light": gama(2_000_000),
    "iccp-flat": iccp(profiles.FLAT),
    "iccp-permuted": iccp(profiles.PERMUTED),
    "chrm-permuted": chrm(*_PERMUTED_CHRM) + gama(45455),
    "cicp-pq": chunk(b"cICP", bytes([9, 16, 0, 1])),
    "cicp-linear": chunk(b"cICP", bytes([1, 8, 0, 1])),
    "srgb": chunk(b"sRGB", b"\0"),
    "trns-key": chunk(b"tRNS", struct.pack(">3H", 240, 240, 240)),
    "exif-turned": chunk(b"eXIf", orientation_exif(6)[6:]),
    "exif-mirrored": chunk(b"eXIf", orientation_exif(2)[6:]),
}
_HARMLESS = {
    "gama": gama(45455),
    "iccp": iccp(profiles.PLAIN),
    "chrm": chrm(*_SRGB_CHRM),
    "cicp": chunk(b"cICP", bytes([1, 13, 0, 1])),
    "srgb": chunk(b"sRGB", b"\1"),
    "trns": chunk(b"tRNS", struct.pack(">3H", 1, 2, 3)),
    "exif": chunk(b"eXIf", orientation_exif(1)[6:]),
}


def _bad_crc(part: bytes) -> bytes:
    return part[:-1] + bytes([part[-1] ^ 255])


def _again(part: bytes, body: bytes) -> bytes:
    return chunk(part[4:8], body)


def _places(name: str, extra: bytes) -> Iterator[tuple[str, list[bytes]]]:
    picture = smiley() if name == "trns-key" else sand()
    head = header(96, 96, 8, 2)
    body = zlib.compress(scanlines(picture), 9)
    one, two = chunk(b"IDAT", body[:400]), chunk(b"IDAT", body[400:])
    palette = chunk(b"PLTE", bytes(range(96)))
    harmless = _HARMLESS.get(name.split("-")[0], b"")
    first = extra[: 12 + struct.unpack(">I", extra[:4])[0]]
    content = first[8:-4]
    yield "in-place", [head, extra, one, two]
    yield "after-pixels", [head, one, two, extra]
    yield "between-pixels", [head, one, extra, two]
    yield "before-header", [extra, head, one, two]
    yield "after-end", [head, one, two, IEND, extra]
    yield "after-palette", [head, palette, extra, one, two]
    yield "before-palette", [head, extra, palette, one, two]
    yield "twice-last", [head, harmless, extra, one, two]
    yield "twice-first", [head, extra, harmless, one, two]
    yield "bad-crc", [head, _bad_crc(first), one, two]
    yield "bad-crc-then-harmless", [head, _bad_crc(first), harmless, one, two]
    yield "too-long", [head, _again(first, content + b"\0"), one, two]
    yield "too-short", [head, _again(first, content[:-1]), one, two]
    yield "too-short-then-whole", [head, _again(first, content[:-1]), extra, one, two]
    yield "empty-then-whole", [head, _again(first, b""), extra, one, two]


def files() -> Iterator[tuple[str, bytes]]:
    """All kinds."""
    for name, extra in HIDERS.items():
        for place, parts in _places(name, extra):
            yield f"{name}-{place}.png", text_less([*parts, IEND])
    yield from _colours()
    yield from _profiles()
    yield from _transparency()
    yield from _palettes()
    yield from _structure()


def _plain(parts: list[bytes], picture: Pixels | None = None) -> bytes:
    return text_less(
        [header(96, 96, 8, 2), *parts, idat(sand() if picture is None else picture), IEND]
    )


def _colours() -> Iterator[tuple[str, bytes]]:
    for value in (0, 1, 10, 15, 16, 100, 1000, 10000, 22727, 43000, 47000, 55000, 100000, 220000,
                  1_000_000, 10_000_000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):  # fmt: skip
        yield f"gama-{value}.png", _plain([gama(value)])
    for pair in (
        "cicp-linear iccp-flat",
        "iccp-flat srgb",
        "srgb iccp-flat",
        "srgb gama-dark",
        "gama-dark srgb",
        "gama-dark iccp-permuted",
        "chrm-permuted srgb",
        "cicp-pq gama-dark",
        "cicp-linear srgb",
        "gama-dark chrm-permuted",
    ):
        left, right = pair.split()
        yield f"{left}-and-{right}.png", _plain([HIDERS[left], HIDERS[right]])
    yield "cicp-srgb-and-iccp-flat.png", _plain([_HARMLESS["cicp"], HIDERS["iccp-flat"]])
    for matrix in (0, 1, 2, 9):
        for transfer in (1, 2, 4, 8, 11, 13, 14, 16, 18, 99):
            body = bytes([1, transfer, matrix, 1])
            yield f"cicp-{transfer}-{matrix}.png", _plain([chunk(b"cICP", body)])
    for primaries in (0, 2, 5, 9, 11, 12, 22, 250):
        body = bytes([primaries, 13, 0, 1])
        yield f"cicp-primaries-{primaries}.png", _plain([chunk(b"cICP", body)])
    yield "cicp-narrow.png", _plain([chunk(b"cICP", bytes([1, 13, 0, 0]))])
    for name, values in (
        ("permuted", _PERMUTED_CHRM),
        ("zero", (0,) * 8),
        ("no-white", (0, 0, *_SRGB_CHRM[2:])),
        ("line", (31270, 32900, 10000, 10000, 20000, 20000, 30000, 30000)),
        ("huge", (31270, 32900, 0x80000000, 1, 30000, 60000, 15000, 6000)),
        ("other-white", (60000, 30000, *_SRGB_CHRM[2:])),
    ):
        yield f"chrm-{name}-alone.png", _plain([chrm(*values)])
        yield f"chrm-{name}-gamma.png", _plain([gama(45455), chrm(*values)])
        yield f"chrm-{name}-srgb.png", _plain([chunk(b"sRGB", b"\0"), chrm(*values)])
    for intent in (0, 1, 3, 4, 255):
        yield f"srgb-{intent}-gamma.png", _plain([chunk(b"sRGB", bytes([intent])), gama(450)])
        yield f"srgb-{intent}-light.png", _plain([chunk(b"sRGB", bytes([intent])), gama(10_000)])
    for body in (b"", b"\0\0"):
        yield f"srgb-of-{len(body)}-light.png", _plain([chunk(b"sRGB", body), gama(10_000)])
    large = np.asarray(np.kron(smiley(), np.ones((10, 10, 1))), dtype=np.uint8)
    stripes = large.copy()
    stripes[::2] //= 4
    for name, extra in (
        ("gamma", gama(450)),
        ("profile", iccp(profiles.icc_profile(profiles.SRGB, 4.0))),
    ):
        yield (
            f"large-stripes-{name}.png",
            text_less([header(960, 960, 8, 2), extra, idat(stripes), IEND]),
        )


def _profiles() -> Iterator[tuple[str, bytes]]:
    for name, profile in profiles.odd().items():
        yield f"iccp-{name}.png", _plain([iccp(profile)])
        alpha = np.dstack([sand(), np.full((96, 96), 255, np.uint8)])
        parts = [header(96, 96, 8, 6), iccp(profile), idat(alpha), IEND]
        if name in ("flat", "grey-space", "permuted"):
            yield f"iccp-{name}-rgba.png", text_less(parts)
        levels = [header(96, 96, 8, 0), iccp(profile), idat(grey(sand())), IEND]
        if name in ("flat", "grey-space", "grey-space-rgb-curves", "permuted", "cmyk-space"):
            yield f"iccp-{name}-on-grey.png", text_less(levels)
            pairs = np.dstack([grey(sand()), np.full((96, 96), 255, np.uint8)])
            yield (
                f"iccp-{name}-on-grey-alpha.png",
                text_less([header(96, 96, 8, 4), iccp(profile), idat(pairs), IEND]),
            )
            indices, palette = quantised(sand())
            parts = [iccp(profile), chunk(b"PLTE", palette), idat(indices), IEND]
            yield f"iccp-{name}-on-palette.png", text_less([header(96, 96, 8, 3), *parts])
    flat = zlib.compress(profiles.FLAT)
    for name, body in (
        ("no-name", b"\0\0" + flat),
        ("long-name", b"n" * 79 + b"\0\0" + flat),
        ("too-long-name", b"n" * 80 + b"\0\0" + flat),
        ("spaces-name", b" a  b \0\0" + flat),
        ("odd-name", b"\x7f\x81\0\0" + flat),
        ("method-1", b"x\0\1" + flat),
        ("not-terminated", b"x" + flat),
        ("cut-stream", b"x\0\0" + flat[:-8]),
        ("bad-adler", b"x\0\0" + flat[:-4] + b"abcd"),
        ("more-behind", b"x\0\0" + flat + b"behind"),
        ("second-stream", b"x\0\0" + flat + zlib.compress(b"again")),
        ("stored", b"x\0\0" + zlib.compress(profiles.FLAT, 0)),
        ("empty-stream", b"x\0\0" + zlib.compress(b"")),
        ("no-stream", b"x\0\0"),
    ):
        yield f"iccp-{name}.png", _plain([chunk(b"iCCP", body)])
        yield f"iccp-{name}-then-plain.png", _plain([chunk(b"iCCP", body), _HARMLESS["iccp"]])


def _transparency() -> Iterator[tuple[str, bytes]]:
    trns = struct.Struct(">3H").pack
    wide = sand().astype(np.uint16) * 257
    wide[letter()] = (200 * 257 + 1, 200 * 257, 200 * 257)
    hidden = np.where(
        (np.indices((96, 96)).sum(axis=0) % 2 == 0)[..., None], wide, (51400, 51400, 51401)
    )
    for name, key in (
        ("low-byte", (51400, 51400, 51400)),
        ("exact", (51400, 51400, 51401)),
        ("eight", (200, 200, 200)),
    ):
        parts = [header(96, 96, 16, 2), chunk(b"tRNS", trns(*key)), idat(hidden, 16), IEND]
        yield f"rgb16-key-{name}.png", text_less(parts)
        parts = [
            header(96, 96, 16, 0),
            chunk(b"tRNS", struct.pack(">H", key[0])),
            idat(hidden[..., 0], 16),
            IEND,
        ]
        yield f"grey16-key-{name}.png", text_less(parts)
    for name, key in (
        ("high-bits", (0x1F0, 240, 240)),
        ("exact", (240, 240, 240)),
        ("other", (1, 2, 3)),
    ):
        yield f"rgb8-key-{name}.png", _plain([chunk(b"tRNS", trns(*key))], smiley())
    for depth in (1, 2, 4, 8):
        top = 2**depth - 1
        levels = (grey(smiley()) // 2 ** (8 - depth)).astype(np.uint8)
        for name, key in (
            ("top", top),
            ("zero", 0),
            ("beyond", top + 1),
            ("scaled", 255),
            ("high", 0x100 | top),
        ):
            parts = [
                header(96, 96, depth, 0),
                chunk(b"tRNS", struct.pack(">H", key)),
                idat(levels, depth),
                IEND,
            ]
            yield f"grey{depth}-key-{name}.png", text_less(parts)
    indices, palette = quantised(smiley(), 8)
    for name, alpha in (
        ("short", b"\0"),
        ("whole", bytes(range(0, 256, 32))),
        ("long", bytes(300)),
        ("none", b""),
        ("clear", bytes(8)),
    ):
        yield (
            f"palette-alpha-{name}.png",
            text_less(
                [
                    header(96, 96, 8, 3),
                    chunk(b"PLTE", palette),
                    chunk(b"tRNS", alpha),
                    idat(indices),
                    IEND,
                ]
            ),
        )
        yield (
            f"palette-alpha-{name}-early.png",
            text_less(
                [
                    header(96, 96, 8, 3),
                    chunk(b"tRNS", alpha),
                    chunk(b"PLTE", palette),
                    idat(indices),
                    IEND,
                ]
            ),
        )
    for colour, channels in ((4, 2), (6, 4)):
        pixels = np.dstack([smiley(), np.full((96, 96), 255, np.uint8)])[..., -channels:]
        yield (
            f"key-in-type-{colour}.png",
            text_less(
                [header(96, 96, 8, colour), chunk(b"tRNS", trns(240, 240, 240)), idat(pixels), IEND]
            ),
        )
    alpha = np.dstack([sand(), np.where(letter(), 255, 0).astype(np.uint8)])
    yield "colours-below-alpha-0.png", text_less([header(96, 96, 8, 6), idat(alpha), IEND])
    alpha = np.dstack([np.zeros((96, 96, 3), np.uint8), 255 - grey(sand())])
    yield "picture-in-alpha.png", text_less([header(96, 96, 8, 6), idat(alpha), IEND])
    faint = np.dstack([hills(), np.full((96, 96), 12, np.uint8)])
    yield "faint-alpha.png", text_less([header(96, 96, 8, 6), idat(faint), IEND])


def _palettes() -> Iterator[tuple[str, bytes]]:
    indices, palette = quantised(sand(), 64)
    head = header(96, 96, 8, 3)
    beyond = np.where(letter(), 200, np.where(grey(smiley()) > 127, 60, 250)).astype(np.uint8)
    for entries in (1, 2, 61, 64):
        parts = [head, chunk(b"PLTE", palette[: 3 * entries]), idat(beyond), IEND]
        yield f"index-beyond-{entries}.png", text_less(parts)
    yield (
        "palette-twice.png",
        text_less([head, chunk(b"PLTE", palette), chunk(b"PLTE", bytes(192)), idat(indices), IEND]),
    )
    yield (
        "palette-twice-other.png",
        text_less([head, chunk(b"PLTE", bytes(192)), chunk(b"PLTE", palette), idat(indices), IEND]),
    )
    yield "palette-late.png", text_less([head, idat(indices), chunk(b"PLTE", palette), IEND])
    yield "palette-none.png", text_less([head, idat(indices), IEND])
    yield (
        "palette-odd-length.png",
        text_less([head, chunk(b"PLTE", palette + b"x"), idat(indices), IEND]),
    )
    yield (
        "palette-too-long.png",
        text_less([head, chunk(b"PLTE", palette + bytes(3 * 240)), idat(indices), IEND]),
    )
    for depth in (1, 2, 4):
        few, table = quantised(smiley(), 2**depth)
        yield (
            f"palette{depth}.png",
            text_less([header(96, 96, depth, 3), chunk(b"PLTE", table), idat(few, depth), IEND]),
        )
        yield (
            f"palette{depth}-too-long.png",
            text_less(
                [header(96, 96, depth, 3), chunk(b"PLTE", table + palette), idat(few, depth), IEND]
            ),
        )
        yield (
            f"palette{depth}-beyond.png",
            text_less(
                [header(96, 96, depth, 3), chunk(b"PLTE", table[:3]), idat(few, depth), IEND]
            ),
        )


def _structure() -> Iterator[tuple[str, bytes]]:
    head, end = header(96, 96, 8, 2), IEND
    pixels, other = idat(sand()), idat(hills())
    body = zlib.compress(scanlines(sand()), 9)
    rows = scanlines(sand())
    yield "header-twice.png", text_less([head, header(96, 96, 8, 0), pixels, end])
    yield "header-other-size.png", text_less([header(48, 48, 8, 2), head, pixels, end])
    yield "pixels-twice.png", text_less([head, pixels, other, end])
    yield (
        "pixels-apart.png",
        text_less(
            [
                head,
                chunk(b"IDAT", body[:500]),
                chunk(b"tEXt", b"a\0b"),
                chunk(b"IDAT", body[500:]),
                end,
            ]
        ),
    )
    yield "pixels-empty-first.png", text_less([head, chunk(b"IDAT", b""), pixels, end])
    yield "more-rows.png", text_less([head, chunk(b"IDAT", zlib.compress(rows + rows)), end])
    yield (
        "fewer-rows.png",
        text_less([head, chunk(b"IDAT", zlib.compress(rows[: len(rows) // 2])), end]),
    )
    yield "bad-adler.png", text_less([head, chunk(b"IDAT", body[:-4] + b"abcd"), end])
    yield "bad-crc-pixels.png", text_less([head, _bad_crc(pixels), end])
    yield "bad-crc-pixels-then-good.png", text_less([head, _bad_crc(other), pixels, end])
    yield "bad-crc-header.png", text_less([_bad_crc(head), pixels, end])
    yield "bad-crc-end.png", text_less([head, pixels, _bad_crc(end)])
    yield "no-end.png", text_less([head, pixels])
    yield "cut.png", text_less([head, pixels])[:-3000]
    yield "cut-in-crc.png", text_less([head, pixels])[:-2]
    yield "behind-end.png", text_less([head, pixels, end]) + b"GIF89a" + bytes(200)
    yield "png-behind-end.png", text_less([head, pixels, end]) + text_less([head, other, end])
    yield "unknown-critical.png", text_less([head, chunk(b"ABCD", b"x"), pixels, end])
    yield "unknown-ancillary.png", text_less([head, chunk(b"abCd", b"x"), pixels, end])
    yield "odd-chunk-name.png", text_less([head, chunk(b"a1c\xff", b"x"), pixels, end])
    yield "filter-9.png", text_less([head, chunk(b"IDAT", zlib.compress(b"\x09" + rows[1:])), end])
    for interlace in (1, 2):
        yield (
            f"interlace-{interlace}-lie.png",
            text_less([header(96, 96, 8, 2, interlace), pixels, end]),
        )
    wide = np.concatenate([hills(), sand(), hills()], axis=1)
    yield "wide-3-to-1.png", text_less([header(288, 96, 8, 2), idat(wide), end])
    tall = np.concatenate([hills(), sand(), hills()], axis=0)
    yield "tall-1-to-3.png", text_less([header(96, 288, 8, 2), idat(tall), end])
    side = np.concatenate([hills()[:, :30], sand(), hills()[:, :30]], axis=1)
    yield "wide-1.6-to-1.png", text_less([header(156, 96, 8, 2), idat(side), end])
    strip = np.concatenate([hills()] * 3 + [sand()] + [hills()] * 3, axis=1)
    yield "wide-7-to-1.png", text_less([header(672, 96, 8, 2), idat(strip), end])
    for depth, kind in ((16, 2), (16, 0), (16, 4), (16, 6)):
        levels = sand().astype(np.uint16) * 257
        planes = {
            2: levels,
            0: levels[..., 0],
            4: levels[..., :2],
            6: np.dstack([levels, levels[..., 0]]),
        }
        yield (
            f"depth-16-type-{kind}.png",
            text_less([header(96, 96, depth, kind), idat(planes[kind], 16), end]),
        )
    for depth, colour in ((4, 2), (3, 0), (8, 1), (8, 5), (16, 3), (32, 2)):
        yield (
            f"header-depth-{depth}-type-{colour}.png",
            text_less([header(96, 96, depth, colour), pixels, end]),
        )
    ramp = np.broadcast_to(np.linspace(0, 255, 1200).astype(np.uint8)[:, None], (1200, 1200))
    yield "gradient-1200.png", text_less([header(1200, 1200, 8, 0), idat(ramp), end])
