"""Gain maps, in JPEG (XMP, ISO 21496-1), AVIF and HEIC: usual ones, and ones that show at once."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pillow_heif
from PIL import Image

from tests.witness.files.avif import SRGB, Item, box, boxes, coded, full, irot, ispe, pixi
from tests.witness.files.drawn import Pixels, letter, sand
from tests.witness.files.jpeg import encode, segment, with_segments
from tests.witness.files.rare.avif import one_link

_XMP, _ISO = b"http://ns.adobe.com/xap/1.0/\0", b"urn:iso:std:iso:ts:21496:-1\0"
_ADOBE = "http://ns.adobe.com/hdr-gain-map/1.0/"
_CONTAINER = "http://ns.google.com/photos/1.0/container/"
#: As phones write them.
USUAL = {
    "BaseRenditionIsHDR": "False", "GainMapMin": "-1", "GainMapMax": "3", "Gamma": "1",
    "OffsetSDR": "0.015625", "OffsetHDR": "0.015625", "HDRCapacityMin": "0", "HDRCapacityMax": "3",
}  # fmt: skip
#: What makes a map show on ordinary screens: a first picture for better ones, or nothing to reach.
REVERSED = {**USUAL, "BaseRenditionIsHDR": "True"}
BELOW = {**USUAL, "HDRCapacityMin": "-3", "HDRCapacityMax": "-1"}


def mask() -> Pixels:
    """The map: a letter that is lit up on a ground that is not."""
    return np.repeat(np.where(letter(), 230, 64)[..., None], 3, axis=2).astype(np.uint8)


def jpegs() -> Iterator[tuple[str, bytes]]:
    """Those in JPEG."""
    for name, values in (("usual", USUAL), ("reversed", REVERSED), ("below", BELOW)):
        yield f"gain-{name}.jpg", with_map(xmp(values))
        yield f"gain-{name}-elements.jpg", with_map(xmp(values, as_elements=True))
        yield f"gain-{name}-iso.jpg", with_map(iso(values))
    hidden = xmp(BELOW).decode().replace("hdr-gain-map", "hdr-&#103;ain-map").encode()
    yield "gain-hidden-word.jpg", with_map(hidden)
    head, text = xmp(BELOW)[: len(_XMP)], xmp(BELOW)[len(_XMP) :]
    yield "gain-utf-16.jpg", with_map(head + text.decode().encode("utf-16"))
    yield "gain-table-only.jpg", with_map(xmp(BELOW), has_directory=False)
    yield "gain-directory-only.jpg", with_map(xmp(BELOW), has_table=False)
    yield "gain-filled.jpg", with_map(xmp(BELOW), before=b"\xff" * 5)
    yield "gain-bare.jpg", with_map(xmp(BELOW), before=b"\xff\x01")
    yield "gain-garbage.jpg", with_map(xmp(BELOW), before=b"garbage")
    yield "gain-two.jpg", with_map(xmp(USUAL)) + with_map(xmp(BELOW))


def avifs() -> Iterator[tuple[str, bytes]]:
    """Those in AVIF."""
    for name, values in (("usual", USUAL), ("reversed", REVERSED)):
        yield f"gain-{name}.avif", avif(values)


# -- JPEG ----------------------------------------------------------------------------------------


def _described(spaces: str, inside: str = "") -> bytes:
    space = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
    return (
        f"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='{space}'><rdf:Description"
        f" rdf:about='' xmlns:hdrgm='{_ADOBE}' hdrgm:Version='1.0' {spaces}>{inside}"
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def xmp(values: dict[str, str], *, as_elements: bool = False) -> bytes:
    """What a map's XMP segment says."""
    if as_elements:
        listed = {
            name: "<rdf:Seq>" + f"<rdf:li>{value}</rdf:li>" * 3 + "</rdf:Seq>"
            if name.startswith(("Gain", "Gamma", "Offset")) else value
            for name, value in values.items()
        }  # fmt: skip
        return _XMP + _described(
            "", "".join(f"<hdrgm:{name}>{text}</hdrgm:{name}>" for name, text in listed.items())
        )
    return _XMP + _described(" ".join(f"hdrgm:{name}='{each}'" for name, each in values.items()))


def iso(values: dict[str, str]) -> bytes:
    """The same in binary."""
    return _ISO + _metadata(values)


def _metadata(values: dict[str, str]) -> bytes:
    numbers = {name: float(value) for name, value in values.items() if value[0] not in "TF"}
    reach = [numbers["HDRCapacityMin"], numbers["HDRCapacityMax"]]
    names = ("GainMapMin", "GainMapMax", "Gamma", "OffsetSDR", "OffsetHDR")
    if values["BaseRenditionIsHDR"] == "True":
        reach.reverse()
    told = [max(0.0, each) for each in reach] + [numbers[name] for name in names]
    return struct.pack(">HHB", 0, 0, 0x40) + b"".join(
        struct.pack(">iI", round(each * 4096), 4096) for each in told
    )


def with_map(
    about: bytes, picture: Pixels | None = None, levels: Pixels | None = None,
    *, before: bytes = b"", has_table: bool = True, has_directory: bool = True,
) -> bytes:  # fmt: skip
    """Sand, or another picture, with the letter as its map; `about` is the map's own segment."""
    picture = sand() if picture is None else picture
    marker = 0xE2 if about.startswith(_ISO) else 0xE1
    own = before + segment(marker, about)
    second = with_segments(encode(mask() if levels is None else levels), own)
    items = "".join(
        f"<rdf:li rdf:parseType='Resource'><Container:Item Item:Semantic='{name}'"
        f" Item:Mime='image/jpeg'{more}/></rdf:li>"
        for name, more in (("Primary", ""), ("GainMap", f" Item:Length='{len(second)}'"))
    )
    spaces = f"xmlns:Container='{_CONTAINER}' xmlns:Item='{_CONTAINER}item/'"
    inside = f"<Container:Directory><rdf:Seq>{items}</rdf:Seq></Container:Directory>"
    said = segment(0xE1, _XMP + (_described(spaces, inside) if has_directory else _described("")))
    said += segment(0xE2, _ISO + bytes(4))

    def first(size: int, offset: int) -> bytes:
        table = segment(0xE2, b"MPF\0" + _table(size, len(second), offset)) if has_table else b""
        return with_segments(encode(picture), said + table)

    draft = first(0, 0)
    at = draft.find(b"MPF\0") + 4
    return first(len(draft), len(draft) - at) + second


def _table(first_bytes: int, second_bytes: int, offset: int) -> bytes:
    """Two pictures. Source: CIPA DC-007, 5.2."""
    tags = (
        struct.pack(">HHI4s", 0xB000, 7, 4, b"0100")
        + struct.pack(">HHII", 0xB001, 4, 1, 2)
        + struct.pack(">HHII", 0xB002, 7, 32, 50)
    )
    entries = struct.pack(">IIIHH", 0x30000, first_bytes, 0, 0, 0)
    entries += struct.pack(">IIIHH", 0, second_bytes, offset, 0, 0)
    return b"MM\0*" + struct.pack(">IH", 8, 3) + tags + bytes(4) + entries


# -- HEIC ----------------------------------------------------------------------------------------


def heics() -> Iterator[tuple[str, bytes]]:
    """Those in HEIC, by ISO's derived picture, in Apple's way, and both."""
    picture, levels = _hevc(sand()), _hevc(mask(), number=2)
    apple = _hevc(mask(), full(b"auxC", b"urn:com:apple:photo:2020:aux:hdrgainmap\0"), number=2)
    linked = replace(apple, references=((b"auxl", 1),))
    yield "usual.heic", _heic(picture, levels, derived(USUAL))
    yield "usual-apple.heic", _heic(picture, linked)
    yield "usual-both.heic", _heic(picture, linked, derived(USUAL))
    yield "reversed.heic", _heic(picture, levels, derived(REVERSED))
    yield "two.heic", _heic(picture, linked, _hevc(mask(), number=4), derived(USUAL, 4))
    yield "of-another.heic", _heic(picture, replace(apple, references=((b"auxl", 3),)))
    yield "missing.heic", _heic(picture, derived(USUAL))
    yield "version-1.heic", _heic(picture, levels, derived(USUAL, version=1))
    turned = replace(linked, properties=(*linked.properties, irot(1)))
    yield "turned.heic", _heic(picture, turned)


def derived(values: dict[str, str], levels: int = 2, version: int = 0) -> Item:
    """The better alternative of item 1, by the map in another one."""
    body = bytes([version]) + _metadata(values)
    links = ((b"dimg", 1), (b"dimg", levels))
    return Item(3, body, (ispe(), pixi(), SRGB), b"tmap", links)


def _heic(*items: Item) -> bytes:
    return one_link([*items], brand=b"heic", brands=(b"heic", b"mif1"))


def _hevc(picture: Pixels, *more: bytes, number: int = 1) -> Item:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(picture)).save(buffer, quality=90)
    top = dict(boxes(buffer.getvalue()))
    parts = dict(boxes(dict(boxes(dict(boxes(top[b"meta"][4:]))[b"iprp"]))[b"ipco"]))
    height_px, width_px = picture.shape[:2]
    properties = (ispe(width_px, height_px), pixi(), box(b"hvcC", parts[b"hvcC"]), *more)
    return Item(number, top[b"mdat"], properties, b"hvc1", hidden=number > 1)


# -- AVIF ----------------------------------------------------------------------------------------


def avif(values: dict[str, str]) -> bytes:
    """Sand with the letter as its map, by a derived picture that is the better alternative."""
    data = one_link([coded("sand", SRGB), coded("letter", number=2, hidden=True), derived(values)])
    group = full(b"altr", struct.pack(">IIII", 100, 2, 3, 1))
    meta = data.index(b"meta") - 4
    (length,) = struct.unpack_from(">I", data, meta)
    more, brand = box(b"grpl", group), b"tmap"
    grown = bytearray(data[meta : meta + length] + more)
    struct.pack_into(">I", grown, 0, len(grown))
    at = grown.index(b"iloc") + 12
    for number in range(3):
        place = at + 14 * number + 6
        (was,) = struct.unpack_from(">I", grown, place)
        struct.pack_into(">I", grown, place, was + len(more) + len(brand))
    head = struct.pack(">I", meta + len(brand)) + data[4:meta] + brand
    return head + bytes(grown) + data[meta + length :]
