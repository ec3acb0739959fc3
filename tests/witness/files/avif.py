"""AVIF: transforms, colour properties, items and sequences, put together box by box."""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from tests.witness.files import profiles
from tests.witness.files.apng import timelines
from tests.witness.files.drawn import Pixels, hills, letter, sand, smiley
from tests.witness.files.jpeg import turn


def box(kind: bytes, *bodies: bytes) -> bytes:
    """A box."""
    body = b"".join(bodies)
    return struct.pack(">I", len(body) + 8) + kind + body


def full(kind: bytes, *bodies: bytes, version: int = 0, flags: int = 0) -> bytes:
    """A box with version and flags."""
    return box(kind, struct.pack(">I", version << 24 | flags), *bodies)


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kinds and bodies of the boxes in `data`."""
    at = 0
    while at + 8 <= len(data):
        size = struct.unpack(">I", data[at : at + 4])[0] or len(data) - at
        yield data[at + 4 : at + 8], data[at + 8 : at + size]
        at += size


def whole(frames: list[Pixels], **options: Any) -> bytes:
    """A file by Pillow."""
    first, *rest = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": rest} if rest else {}
    first.save(buffer, "AVIF", **{"quality": 85, "speed": 9, "max_threads": 1, **more, **options})
    return _timeless(buffer.getvalue())


def _timeless(data: bytes) -> bytes:
    """The same without the times of writing, so that a seed always gives the same files."""
    timeless = bytearray(data)
    for kind in (b"mvhd", b"tkhd", b"mdhd"):
        at = data.find(kind)
        while at >= 0:
            length = 16 if data[at + 4] else 8
            timeless[at + 8 : at + 8 + length] = bytes(length)
            at = data.find(kind, at + 4)
    return bytes(timeless)


@functools.cache
def _coded(name: str, side_px: int = 96) -> tuple[bytes, bytes]:
    """Configuration box and AV1 data of one of the drawn pictures."""
    picture = {"sand": sand, "hills": hills, "smiley": smiley}.get(name)
    pixels = picture(side_px) if picture else np.dstack([np.where(letter(), 255, 40)] * 3)
    top = dict(
        boxes(
            whole([pixels.astype(np.uint8)], subsampling="4:0:0" if name == "letter" else "4:2:0")
        )
    )
    parts = dict(boxes(dict(boxes(dict(boxes(top[b"meta"][4:]))[b"iprp"]))[b"ipco"]))
    return box(b"av1C", parts[b"av1C"]), top[b"mdat"]


@dataclass(frozen=True)
class Item:
    """One item: its coded data or other content, and its properties in order."""

    number: int
    data: bytes
    properties: tuple[bytes, ...] = ()
    kind: bytes = b"av01"
    references: tuple[tuple[bytes, int], ...] = ()
    essential: frozenset[bytes] = field(default=frozenset((b"av1C", b"irot", b"imir", b"clap")))
    hidden: bool = False


def ispe(width_px: int = 96, height_px: int = 96) -> bytes:
    """Size of an item."""
    return full(b"ispe", struct.pack(">II", width_px, height_px))


def pixi(channels: int = 3) -> bytes:
    """Depth of each channel."""
    return full(b"pixi", bytes([channels]) + b"\x08" * channels)


def nclx(primaries: int, transfer: int, matrix: int, is_full: bool = True) -> bytes:
    """Colours by numbers."""
    return box(b"colr", b"nclx", struct.pack(">HHHB", primaries, transfer, matrix, is_full << 7))


def prof(profile: bytes, kind: bytes = b"prof") -> bytes:
    """Colours by profile."""
    return box(b"colr", kind, profile)


def clap(width: int, height: int, x: int = 0, y: int = 0, under: int = 1) -> bytes:
    """Clean aperture; offsets of its centre from the picture's."""
    return box(b"clap", struct.pack(">IIIIiIiI", width, under, height, under, x, under, y, under))


def irot(quarters: int) -> bytes:
    """Turn against the clock."""
    return box(b"irot", bytes([quarters]))


def imir(axis: int) -> bytes:
    """Mirror."""
    return box(b"imir", bytes([axis]))


SRGB = nclx(1, 13, 6)


def coded(name: str, *more: bytes, number: int = 1, side_px: int = 96, **options: Any) -> Item:
    """An item of a drawn picture; `more` follows the usual properties."""
    configuration, data = _coded(name, side_px)
    channels = 1 if name == "letter" else 3
    return Item(
        number, data, (ispe(side_px, side_px), pixi(channels), configuration, *more), **options
    )


def still(
    items: Iterable[Item],
    primary: int = 1,
    *,
    brand: bytes = b"avif",
    brands: tuple[bytes, ...] = (b"avif", b"mif1", b"miaf"),
    more: bytes = b"",
    groups: bytes = b"",
) -> bytes:
    """A whole file; the property table holds each distinct property once."""
    items = list(items)
    table = list(dict.fromkeys(each for item in items for each in item.properties))
    entries = []
    for item in items:
        marks = [
            (0x80 if each[4:8] in item.essential else 0) | (table.index(each) + 1)
            for each in item.properties
        ]
        entries.append(struct.pack(">HB", item.number, len(marks)) + bytes(marks))
    ipma = full(b"ipma", struct.pack(">I", len(items)), *entries)
    infos = [
        full(
            b"infe",
            struct.pack(">HH", item.number, 0),
            item.kind,
            b"\0" + (b"application/rdf+xml\0" if item.kind == b"mime" else b""),
            version=2,
            flags=item.hidden,
        )
        for item in items
    ]
    iinf = full(b"iinf", struct.pack(">H", len(items)), *infos)
    links = [
        box(kind, struct.pack(">HHH", item.number, 1, to))
        for item in items
        for kind, to in item.references
    ]
    iref = full(b"iref", *links) if links else b""
    ftyp = box(b"ftyp", brand, bytes(4), *brands)

    def meta(start: int) -> bytes:
        places, at = [], start
        for item in items:
            places.append(struct.pack(">HHHII", item.number, 0, 1, at, len(item.data)))
            at += len(item.data)
        iloc = full(b"iloc", b"\x44\0", struct.pack(">H", len(items)), *places)
        handler = full(b"hdlr", bytes(4), b"pict", bytes(13))
        iprp = box(b"iprp", box(b"ipco", *table), ipma)
        pitm = full(b"pitm", struct.pack(">H", primary))
        return full(b"meta", handler, pitm, iloc, iinf, iref, iprp, groups)

    start = len(ftyp) + len(meta(0)) + len(more) + 8
    return ftyp + meta(start) + more + box(b"mdat", *(item.data for item in items))


def files() -> Iterator[tuple[str, bytes]]:
    """All kinds."""
    yield from _transforms()
    yield from _colours()
    yield from _items()
    yield from _sequences()


def _transforms() -> Iterator[tuple[str, bytes]]:
    for quarters in range(4):
        yield f"turn-{quarters}.avif", still([coded("sand", SRGB, irot(quarters))])
    for axis in (0, 1):
        yield f"mirror-{axis}.avif", still([coded("sand", SRGB, imir(axis))])
        yield f"turn-1-mirror-{axis}.avif", still([coded("sand", SRGB, irot(1), imir(axis))])
        yield f"mirror-{axis}-turn-1.avif", still([coded("sand", SRGB, imir(axis), irot(1))])
    yield "turn-twice.avif", still([coded("sand", SRGB, irot(1), irot(3))])
    yield "turn-high-bits.avif", still([coded("sand", SRGB, irot(0x05))])
    yield (
        "turn-not-essential.avif",
        still([coded("sand", SRGB, irot(1), essential=frozenset((b"av1C",)))]),
    )
    plain = frozenset((b"av1C",))
    for name, crop in (
        ("centre", clap(48, 48)),
        ("corner", clap(40, 40, -28, -28)),
        ("odd", clap(33, 47, 3, -5)),
        ("halves", clap(97, 97, -28, 13, 2)),
        ("whole", clap(96, 96)),
        ("beyond", clap(200, 200)),
        ("outside", clap(40, 40, 90, 0)),
        ("zero", clap(0, 40)),
        ("under-0", clap(40, 40, 0, 0, 0)),
        ("strip", clap(96, 20, 0, 30)),
    ):
        item = coded("smiley", SRGB, crop)
        yield f"clap-{name}.avif", still([item])
        yield (
            f"clap-{name}-not-essential.avif",
            still([coded("smiley", SRGB, crop, essential=plain)]),
        )
        yield f"clap-{name}-turned.avif", still([coded("smiley", SRGB, crop, irot(1))])
    yield "clap-behind-turn.avif", still([coded("smiley", SRGB, irot(1), clap(40, 20, -10, -30))])
    yield "pasp.avif", still([coded("sand", SRGB, box(b"pasp", struct.pack(">II", 2, 1)))])
    yield (
        "unknown-essential.avif",
        still([coded("sand", SRGB, box(b"abcd", b"x"), essential=frozenset((b"av1C", b"abcd")))]),
    )
    exif = Item(2, bytes(4) + turn(6), kind=b"Exif", references=((b"cdsc", 1),))
    yield "exif-turned.avif", still([coded("sand", SRGB), exif])
    yield "exif-and-turn.avif", still([coded("sand", SRGB, irot(2)), exif])
    xmp = Item(2, b"<a tiff:Orientation='6'/>", kind=b"mime", references=((b"cdsc", 1),))
    yield "xmp-turned.avif", still([coded("sand", SRGB), xmp])


def _colours() -> Iterator[tuple[str, bytes]]:
    for name, profile in profiles.odd().items():
        yield f"profile-{name}.avif", still([coded("sand", prof(profile), SRGB)])
    flat = profiles.FLAT
    for label, colours in (
        ("none", ()),
        ("profile-alone", (prof(flat),)),
        ("profile-then-numbers", (prof(flat), nclx(1, 8, 6))),
        ("numbers-then-profile", (nclx(1, 8, 6), prof(flat))),
        ("profile-twice", (prof(profiles.PLAIN), prof(flat))),
        ("profile-twice-other", (prof(flat), prof(profiles.PLAIN))),
        ("numbers-twice", (SRGB, nclx(1, 8, 6))),
        ("numbers-twice-other", (nclx(1, 8, 6), SRGB)),
        ("restricted", (prof(flat, b"rICC"),)),
        ("unknown", (prof(flat, b"abcd"), SRGB)),
        ("narrow", (nclx(1, 13, 6, False),)),
        ("short", (box(b"colr", b"nclx\0\1"),)),
    ):
        yield f"colour-{label}.avif", still([coded("sand", *colours)])
    for transfer in (1, 2, 4, 5, 8, 11, 13, 14, 16, 18):
        yield f"transfer-{transfer}.avif", still([coded("sand", nclx(1, transfer, 6))])
    for primaries in (2, 5, 9, 11, 12, 22):
        yield f"primaries-{primaries}.avif", still([coded("sand", nclx(primaries, 13, 6))])
    for matrix in (0, 1, 2, 5, 8, 9, 12, 14):
        yield f"matrix-{matrix}.avif", still([coded("sand", nclx(1, 13, matrix))])


def _items() -> Iterator[tuple[str, bytes]]:
    alpha = full(b"auxC", b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0")
    link = ((b"auxl", 1),)
    mask = coded("letter", alpha, number=2, references=link)
    yield "plain.avif", still([coded("sand", SRGB)])
    yield "alpha.avif", still([coded("sand", SRGB), mask])
    yield "alpha-premultiplied.avif", still([coded("sand", SRGB, references=((b"prem", 2),)), mask])
    yield "alpha-not-linked.avif", still([coded("sand", SRGB), coded("letter", alpha, number=2)])
    yield (
        "alpha-no-type.avif",
        still([coded("sand", SRGB), coded("letter", number=2, references=link)]),
    )
    other = full(b"auxC", b"urn:mpeg:hevc:2015:auxid:1\0")
    yield (
        "alpha-hevc-type.avif",
        still([coded("sand", SRGB), coded("letter", other, number=2, references=link)]),
    )
    depth = full(b"auxC", b"urn:mpeg:mpegB:cicp:systems:auxiliary:depth\0")
    yield (
        "depth.avif",
        still([coded("sand", SRGB), coded("letter", depth, number=2, references=link)]),
    )
    small = coded("letter", alpha, number=2, references=link)
    yield (
        "alpha-turned.avif",
        still(
            [
                coded("sand", SRGB),
                Item(2, small.data, (*small.properties, irot(1)), references=link),
            ]
        ),
    )
    two = [coded("hills", SRGB), coded("sand", SRGB, number=2)]
    yield "primary-2.avif", still(two, 2)
    yield "primary-1.avif", still(two, 1)
    yield "primary-9.avif", still(two, 9)
    yield (
        "thumbnail.avif",
        still([coded("sand", SRGB), coded("hills", SRGB, number=2, references=((b"thmb", 1),))]),
    )
    yield "same-number.avif", still([coded("hills", SRGB), coded("sand", SRGB)])
    yield "primary-hidden.avif", still([coded("sand", SRGB, hidden=True)])
    for name, size in (
        ("smaller", ispe(48, 48)),
        ("larger", ispe(200, 200)),
        ("other", ispe(96, 40)),
        ("zero", ispe(0, 0)),
    ):
        item = coded("sand", SRGB)
        yield f"size-{name}.avif", still([Item(1, item.data, (size, *item.properties[1:]))])
    item = coded("sand", SRGB)
    yield "size-twice.avif", still([Item(1, item.data, (ispe(48, 48), *item.properties))])
    yield "no-size.avif", still([Item(1, item.data, item.properties[1:])])
    yield "no-configuration.avif", still([Item(1, item.data, (*item.properties[:2], SRGB))])
    yield (
        "two-pictures-in-item.avif",
        still([Item(1, item.data + _coded("hills")[1], item.properties)]),
    )
    yield "cut.avif", still([item])[:-800]
    grid = Item(
        1,
        struct.pack(">BBBBHH", 0, 0, 1, 0, 192, 96),
        (ispe(192, 96), pixi(), SRGB),
        b"grid",
        ((b"dimg", 2), (b"dimg", 3)),
    )
    tiles = [
        coded("hills", SRGB, number=2, hidden=True),
        coded("sand", SRGB, number=3, hidden=True),
    ]
    yield "grid-two-references.avif", still([grid, *tiles])
    for brand, brands in (
        (b"mif1", (b"mif1", b"avif")),
        (b"avis", (b"avif", b"avis")),
        (b"heic", (b"avif", b"mif1")),
        (b"abcd", (b"avif",)),
        (b"avif", ()),
        (b"avif", (b"heic",)),
        (b"mif1", (b"mif1", b"miaf")),
    ):
        yield (
            f"brand-{brand.decode()}-{len(brands)}-{(brands or (b'none',))[0].decode()}.avif",
            still([item], brand=brand, brands=brands),
        )
    yield "free-boxes.avif", still([item], more=box(b"free", bytes(40)))
    yield "meta-twice.avif", still([item]) + dict_box(still([coded("hills", SRGB)]), b"meta")
    wide = whole([np.concatenate([hills(), sand(), hills()], axis=1)])
    yield "wide.avif", wide
    yield "rgba.avif", whole([np.dstack([sand(), np.where(letter(), 255, 30)]).astype(np.uint8)])
    yield "pillow.avif", whole([hills()])
    yield "pillow-444.avif", whole([smiley()], subsampling="4:4:4")


def dict_box(data: bytes, kind: bytes) -> bytes:
    """One box of a file, whole."""
    return box(kind, dict(boxes(data))[kind])


def moving(frames: list[Pixels], times_ms: list[int]) -> bytes:
    """An animation in full colour: Firefox enlarges halved colour more coarsely than others."""
    return whole(frames, duration=times_ms, subsampling="4:4:4")


def _sequences() -> Iterator[tuple[str, bytes]]:
    for name, line in timelines():
        frames = [picture for picture, _ in line][:12]
        if name not in ("one-of-40", "long-among-40", "same-but-one"):
            times = [max(1, delay) * 10 for _, delay in line]
            yield f"time-{name}.avif", moving(frames, times)
    sequence = moving([hills(64), sand(64)], [20, 600])
    yield "sequence.avif", sequence
    yield "sequence-brand-avif.avif", sequence.replace(b"ftypavis", b"ftypavif", 1)
    only = sequence.replace(b"avis", b"abcd")
    yield "sequence-no-brand.avif", only
    yield "sequence-no-track.avif", sequence.replace(b"moov", b"free", 1)
    yield "sequence-no-meta.avif", sequence.replace(b"meta", b"free", 1)
