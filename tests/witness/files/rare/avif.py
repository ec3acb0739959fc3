"""AVIF: grids, overlays, derived items, layers, depths, transparency of other size and range."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from tests.witness.files.avif import (
    SRGB,
    Item,
    box,
    boxes,
    clap,
    coded,
    full,
    imir,
    irot,
    ispe,
    nclx,
    pixi,
    still,
    whole,
)
from tests.witness.files.drawn import hills, letter, sand, smiley

_ALPHA = full(b"auxC", b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0")


def files() -> Iterator[tuple[str, bytes]]:
    """All kinds."""
    yield from _derived()
    yield from _transparency()
    yield from _properties()
    yield from _streams()


def _grid(rows: int, columns: int, width_px: int, height_px: int, number: int = 1) -> Item:
    body = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width_px, height_px)
    links = tuple((b"dimg", 10 + n) for n in range(rows * columns))
    return Item(number, body, (ispe(width_px, height_px), pixi(), SRGB), b"grid", links)


def _derived() -> Iterator[tuple[str, bytes]]:
    tiles = [
        coded(name, SRGB, number=10 + n, hidden=True) for n, name in enumerate(("hills", "sand"))
    ]
    for name, grid in (
        ("across", _grid(1, 2, 192, 96)),
        ("down", _grid(2, 1, 96, 192)),
        ("cut", _grid(1, 2, 150, 80)),
        ("too-large", _grid(1, 2, 300, 96)),
        ("missing", _grid(1, 3, 288, 96)),
    ):
        yield f"grid-{name}.avif", one_link([grid, *tiles])
    turned = _grid(1, 2, 192, 96)
    turned = Item(1, turned.data, (*turned.properties, irot(1)), b"grid", turned.references)
    yield "grid-turned.avif", one_link([turned, *tiles])
    odd = [tiles[0], Item(11, tiles[1].data, (*tiles[1].properties, irot(2)), hidden=True)]
    yield "grid-tile-turned.avif", one_link([_grid(1, 2, 192, 96), *odd])
    over = struct.pack(">BBHHHHHHiiii", 0, 0, 0, 0, 0, 65535, 96, 96, 0, 0, 30, 30)
    links = ((b"dimg", 10), (b"dimg", 11))
    yield (
        "overlay.avif",
        one_link([Item(1, over, (ispe(), pixi(), SRGB), b"iovl", links), *tiles]),
    )
    same = Item(1, b"", (ispe(), pixi(), irot(1)), b"iden", ((b"dimg", 10),))
    yield "identity.avif", one_link([same, tiles[0]])
    yield (
        "tone-map.avif",
        one_link([coded("sand", SRGB), Item(2, bytes(40), (ispe(),), b"tmap", ((b"dimg", 1),))]),
    )


def one_link(items: list[Item], **options: Any) -> bytes:
    """As `still`, with one reference box an item and kind."""
    data = still([Item(**{**vars(item), "references": ()}) for item in items], **options)
    links = []
    for item in items:
        for kind in dict.fromkeys(kind for kind, _ in item.references):
            to = [target for each, target in item.references if each == kind]
            links.append(box(kind, struct.pack(f">HH{len(to)}H", item.number, len(to), *to)))
    if not links:
        return data
    iref = full(b"iref", *links)
    top = list(boxes(data))
    meta = dict(top)[b"meta"]
    inner = []
    for kind, body in boxes(meta[4:]):
        if kind == b"iloc":
            count = struct.unpack(">H", body[6:8])[0]
            shifted = bytearray(body)
            for n in range(count):
                at = 8 + 14 * n + 6
                (place,) = struct.unpack_from(">I", shifted, at)
                struct.pack_into(">I", shifted, at, place + len(iref))
            body = bytes(shifted)
        inner.append(box(kind, body))
    return b"".join(
        box(kind, meta[:4], *inner, iref) if kind == b"meta" else box(kind, body)
        for kind, body in top
    )


def _transparency() -> Iterator[tuple[str, bytes]]:
    link = ((b"auxl", 1),)
    mask = coded("letter", _ALPHA, number=2, references=link)
    for level in (0, 8, 16, 40, 128, 235, 245, 255):
        even = np.full((96, 96), level, np.uint8)
        for label, is_full in (("full", True), ("narrow", False)):
            data = _grey(even, is_full)
            item = Item(2, data[1], (ispe(), pixi(1), data[0], _ALPHA), references=link)
            yield f"alpha-{level}-{label}.avif", still([coded("sand", SRGB), item])
    ramp = np.tile(np.linspace(0, 255, 96).astype(np.uint8), (96, 1))
    for label, is_full in (("full", True), ("narrow", False)):
        data = _grey(ramp, is_full)
        item = Item(2, data[1], (ispe(), pixi(1), data[0], _ALPHA), references=link)
        yield f"alpha-ramp-{label}.avif", still([coded("smiley", SRGB), item])
        told = Item(2, data[1], (*item.properties, nclx(1, 13, 6, not is_full)), references=link)
        yield f"alpha-ramp-{label}-other-told.avif", still([coded("smiley", SRGB), told])
    small = coded("letter", _ALPHA, number=2, side_px=48, references=link)
    yield "alpha-small.avif", still([coded("sand", SRGB), small])
    colourful = coded("smiley", _ALPHA, number=2, references=link)
    yield "alpha-in-colour.avif", still([coded("sand", SRGB), colourful])
    yield (
        "alpha-twice.avif",
        still([coded("sand", SRGB), mask, coded("smiley", _ALPHA, number=3, references=link)]),
    )
    cropped = Item(2, mask.data, (*mask.properties, clap(48, 48)), references=link)
    yield "alpha-cropped.avif", still([coded("sand", SRGB), cropped])
    yield (
        "alpha-hidden.avif",
        still(
            [coded("sand", SRGB), coded("letter", _ALPHA, number=2, references=link, hidden=True)]
        ),
    )
    yield "alpha-and-turn.avif", still([coded("sand", SRGB, irot(1), imir(0)), mask])
    yield "alpha-and-crop.avif", still([coded("sand", SRGB, clap(60, 40)), mask])


def _properties() -> Iterator[tuple[str, bytes]]:
    for quarters in range(4):
        for axis in range(2):
            item = coded("smiley", SRGB, clap(40, 60, 8, -6), irot(quarters), imir(axis))
            yield f"crop-turn-{quarters}-mirror-{axis}.avif", still([item])
    for name, extra in (
        ("light-level", box(b"clli", struct.pack(">HH", 1000, 400))),
        ("operating-point", box(b"a1op", b"\1")),
        ("layer", box(b"lsel", struct.pack(">H", 0))),
        ("layer-sizes", box(b"a1lx", b"\0" + struct.pack(">HHH", 100, 100, 100))),
        ("pixel-aspect", box(b"pasp", struct.pack(">II", 3, 1))),
        ("description", box(b"udes", bytes(8))),
        ("pixi-two", pixi(1)),
    ):
        yield f"property-{name}.avif", still([coded("sand", SRGB, extra)])
    layer = frozenset((b"av1C", b"lsel"))
    yield (
        "layer-1.avif",
        still([coded("sand", SRGB, box(b"lsel", struct.pack(">H", 1)), essential=layer)]),
    )
    group = box(b"grpl", full(b"altr", struct.pack(">IIII", 100, 2, 2, 1)))
    two = still([coded("sand", SRGB), coded("hills", SRGB, number=2)])
    yield "alternatives.avif", two.replace(b"mdat", b"mdat") + group


def _streams() -> Iterator[tuple[str, bytes]]:
    for sampling in ("4:2:0", "4:2:2", "4:4:4", "4:0:0"):
        yield f"sampling-{sampling.replace(':', '')}.avif", whole([smiley()], subsampling=sampling)
        yield (
            f"narrow-{sampling.replace(':', '')}.avif",
            whole([sand()], subsampling=sampling, range="limited"),
        )
    clear = np.dstack([sand(), np.where(letter(), 255, 90)]).astype(np.uint8)
    for options in ({"alpha_premultiplied": True}, {"range": "limited"}, {"quality": 20}):
        label = "-".join(options)
        yield f"rgba-{label}.avif", whole([clear], **options)
    tiles: dict[str, Any] = {"tile_rows": 1, "tile_cols": 1}
    yield "tiles.avif", whole([np.tile(hills(), (2, 2, 1))], **tiles)
    odd = np.ascontiguousarray(sand()[:95, :93])
    yield "odd-size.avif", whole([odd])
    yield "turned-by-exif.avif", whole([sand()], exif=_exif(6))


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def _grey(levels: np.ndarray, is_full: bool) -> tuple[bytes, bytes]:
    """Configuration box and AV1 data of levels, coded in full or in video range."""
    buffer = io.BytesIO()
    Image.fromarray(np.dstack([levels] * 3)).save(
        buffer, "AVIF", quality=95, speed=9, max_threads=1, subsampling="4:0:0",
        range="full" if is_full else "limited",
    )  # fmt: skip
    top = dict(boxes(buffer.getvalue()))
    parts = dict(boxes(dict(boxes(dict(boxes(top[b"meta"][4:]))[b"iprp"]))[b"ipco"]))
    return box(b"av1C", parts[b"av1C"]), top[b"mdat"]
