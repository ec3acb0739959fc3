"""AVIF and HEIC: the primary picture, its transparency, and how it is cropped, turned and coloured.

Decoders get a small file written anew with the coded pixels and nothing else; cropping and turning
are done here. Source: ISO/IEC 23008-12 (HEIF), AV1 Image File Format 1.1, ISO/IEC 23000-22 (MIAF).
"""

from __future__ import annotations

import functools
import io
import math
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from pi_heif.as_plugin import HeifImageFile
from PIL import AvifImagePlugin, Image

from producer.errors import CorruptImage, UnsupportedImage
from worker.image.containers import avif_sequence, gain
from worker.image.containers.boxes import Box, Item, Meta, box, full_box, walk
from worker.image.containers.contents import Cel, Contents, Parts, exif_orientation, require
from worker.image.containers.formats import DecodeLimits
from worker.image.containers.gain import Gain, GainMap
from worker.image.containers.profiles import named_profile

#: Properties that decoding needs; they are copied as they are.
_CODING = frozenset({b"ispe", b"pixi", b"av1C", b"hvcC", b"auxC"})
#: Properties that only say what is done with the decoded picture, in the order in which it is done.
_GEOMETRY = (b"clap", b"irot", b"imir")
#: Properties that change nothing that anybody sees.
_HARMLESS = frozenset({b"pasp", b"clli", b"mdcv", b"cclv", b"amve", b"rloc", b"udes", b"altt"})
_KNOWN = frozenset({*_CODING, *_GEOMETRY, b"colr", b"pasp"})
_ALPHA_NAMES = (
    avif_sequence.ALPHA_NAME,
    b"urn:mpeg:hevc:2015:auxid:1\0",
    b"urn:mpeg:avc:2015:auxid:1\0",
)
#: Source: Apple, "Applying Apple HDR effect to your photos".
_APPLE_MAP = b"hdrgainmap"
#: Quarter turns against the clock -> EXIF orientation.
_ROTATIONS = {1: 8, 2: 3, 3: 6}
#: Mirror axis -> EXIF orientation. Source: ISO/IEC 23008-12:2022, 6.5.12.
_MIRRORS = {0: 4, 1: 2}
#: Tiles of one picture; a phone's have 48.
_MAX_TILES = 1_024


def read_avif(data: bytes, limits: DecodeLimits) -> Contents:
    """Walk an AVIF file, still or animated; see `containers.read`."""
    return _read(data, limits, "AVIF", b"av01")


def read_heic(data: bytes, limits: DecodeLimits) -> Contents:
    """Walk a HEIC file; see `containers.read`."""
    return _read(data, limits, "HEIC", b"hvc1")


def _read(data: bytes, limits: DecodeLimits, name: str, codec: bytes) -> Contents:
    parts = Parts(name)
    try:
        found: dict[bytes, Box] = {}
        doubts = []
        for each in walk(data, 0, len(data), parts):
            if each.kind in (b"meta", b"moov") and each.kind in found:
                doubts.append(f"two {each.kind.decode()} boxes")
                continue
            found.setdefault(each.kind, each)
        is_sequence = name == "AVIF" and data[8:12] == b"avis"
        if is_sequence and b"moov" in found:
            return avif_sequence.read(data, found, parts, limits, doubts)
        if b"moov" in found:
            doubts.append("a picture and a film in one")
        require(b"meta" in found, f"the {name} file has no picture")
        meta = Meta(data, found[b"meta"], parts, _KNOWN)
        meta.doubts += doubts
        return _Still(meta, limits, name, codec).contents()
    except CorruptImage as error:
        raise CorruptImage(f"the {name} file is damaged: {error}") from error


class _Still:
    """The primary item of a file and what belongs to it."""

    def __init__(self, meta: Meta, limits: DecodeLimits, name: str, codec: bytes) -> None:
        self._meta = meta
        self._limits = limits
        self._name = name
        self._codec = codec
        self._doubts = meta.doubts
        self._primary = meta.items[meta.primary]
        self._other_alphas: list[str] = []

    def contents(self) -> Contents:
        item = self._primary
        self._check(item)
        width_px, height_px = self._size(item)
        turns = self._turns(item)
        minimal = self._minimal()
        return Contents(
            format=self._name,
            width_px=width_px,
            height_px=height_px,
            frames=(
                Cel(
                    decode=functools.partial(_decode, self._name, minimal),
                    width_px=width_px,
                    height_px=height_px,
                ),
            ),
            profiles=self._profiles(item),
            crop=self._crop(item, width_px, height_px),
            turns=turns,
            other_turns=self._other_turns(turns),
            other_alphas=tuple(dict.fromkeys(self._other_alphas)),
            gain_map=self._gain_map(item),
            is_deep=self._meta.is_deep,
            doubts=self._doubts,
        )

    def _check(self, item: Item) -> None:
        if item.kind not in (self._codec, b"grid") or item.unknown_essential:
            raise UnsupportedImage(f"the {self._name} file is of a kind that browsers do not show")
        for kind, _ in item.properties:
            if kind not in (*_CODING, *_GEOMETRY, *_HARMLESS, b"colr"):
                self._doubts.append("properties that are not known")
        for kind in (b"ispe", *_GEOMETRY):
            if len(item.all(kind)) > 1:
                self._doubts.append(f"two {kind.decode()} properties")
        order = [_GEOMETRY.index(kind) for kind, _ in item.properties if kind in _GEOMETRY]
        if order != sorted(order):
            self._doubts.append("turns in an unusual order")
        if b"thmb" in item.references:
            self._doubts.append("a thumbnail of another picture in its place")
        if b"prem" in item.references:
            self._doubts.append("colours that are multiplied already")

    def _gain_map(self, item: Item) -> GainMap | None:
        """By ISO's derived picture or in Apple's way; doubted where it is unlike phones'."""
        found = list(self._gains())
        if not found:
            return None
        plain = [(levels, each) for levels, each in found if levels and each and each.is_usual]
        levels = plain[0][0] if plain else item
        is_usual = (
            # Chromium lights up or dims AVIF by it; few programs write one.
            self._name == "HEIC"
            and len(plain) == len(found)
            and all(each is levels for each, _ in plain)
            and levels.kind in (self._codec, b"grid")
            and not item.all(b"clap")
            and all(levels.all(kind) in ([], item.all(kind)) for kind in _GEOMETRY)
        )
        if not is_usual or math.prod(self._size(levels)) > math.prod(self._size(item)):
            self._doubts.append("a gain map")
            return None
        writer = _Writer(self._meta, self._name)
        minimal = writer.file(self._add(writer, levels))
        gains = dict.fromkeys(each for _, each in plain)
        return GainMap(tuple(gains), functools.partial(_decode, self._name, minimal))

    def _gains(self) -> Iterator[tuple[Item | None, Gain | None]]:
        """The levels of each gain map and what they mean, as far as that is plain."""
        items = self._meta.items
        for each in items.values():
            if each.kind == b"tmap":
                of, *more = each.references.get(b"dimg", [-1])
                body = self._meta.bytes_of(each)
                levels = items.get(more[0]) if of == self._meta.primary and len(more) == 1 else None
                yield levels, gain.of_iso(body[1:]) if body[:1] == b"\0" else None
            if any(_APPLE_MAP in body for body in each.all(b"auxC")):
                is_mine = each.references.get(b"auxl") == [self._meta.primary]
                yield each if is_mine else None, gain.OF_APPLE

    def _size(self, item: Item) -> tuple[int, int]:
        sizes = item.all(b"ispe")
        require(sizes, "its size is missing")
        width_px, height_px = struct.unpack_from(">II", sizes[0], 4)
        self._limits.check_size(width_px, height_px)
        return width_px, height_px

    # -- geometry --------------------------------------------------------------------------------

    def _crop(self, item: Item, width_px: int, height_px: int) -> tuple[int, int, int, int] | None:
        """The clean aperture in whole pixels. Source: ISO/IEC 14496-12, 12.1.4."""
        bodies = item.all(b"clap")
        if not bodies:
            return None
        numbers = struct.unpack_from(">IIIIiIiI", bodies[0])
        if not all(numbers[1::2]):
            self._doubts.append("a crop that makes no sense")
            return None
        width, height, across, down = (
            Fraction(numbers[at], numbers[at + 1]) for at in range(0, 8, 2)
        )
        left, top = (width_px - width) / 2 + across, (height_px - height) / 2 + down
        values = (left, top, left + width, top + height)
        if not all(value.denominator == 1 for value in values):
            self._doubts.append("a crop between pixels")
        box_px = tuple(int(value) for value in values)
        if (
            not 0 <= box_px[0] < box_px[2] <= width_px
            or not 0 <= box_px[1] < box_px[3] <= height_px
        ):
            self._doubts.append("a crop that makes no sense")
            return None
        return box_px  # type: ignore[return-value]

    def _turns(self, item: Item) -> tuple[int, ...]:
        turns = []
        for body in item.all(b"irot")[:1]:
            turns.append(_ROTATIONS.get(body[0] & 3, 1))
        for body in item.all(b"imir")[:1]:
            turns.append(_MIRRORS[body[0] & 1])
        return tuple(turn for turn in turns if turn != 1)

    def _other_turns(self, turns: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """EXIF may turn the picture too, for programs that do not know better."""
        others = []
        for item in self._meta.items.values():
            if item.kind == b"Exif" and self._meta.primary in item.references.get(b"cdsc", ()):
                body = self._meta.bytes_of(item)
                (skip,) = struct.unpack_from(">I", body)
                orientation, _ = exif_orientation(body[4 + skip :])
                turned = () if orientation == 1 else (orientation,)
                if turned and turned != turns:
                    others.append(turned)
        return tuple(others)

    # -- colours ---------------------------------------------------------------------------------

    def _profiles(self, item: Item) -> tuple[tuple[str, bytes], ...]:
        found: list[tuple[str, bytes]] = []
        named = None
        # Chromium asks the first tile where the grid does not tell.
        bodies = item.all(b"colr") or self._first_coded(item).all(b"colr")
        for body in bodies:
            if body[:4] in (b"prof", b"rICC"):
                found.insert(0, ("icc", body[4:]))
            elif body[:4] == b"nclx":
                named = struct.unpack_from(">HH", body, 4)
        if len(bodies) - len(found) > 1 or len(found) > 1:
            self._doubts.append("two colour spaces of one kind")
        if named is None and self._name == "AVIF" and not found:
            named = self._colours_of_stream(item)
        if named is not None:
            profile = named_profile(*named)
            if profile is None:
                self._doubts.append("colours that are not understood")
            else:
                found.append(("nclx", profile))
        return tuple(found)

    def _colours_of_stream(self, item: Item) -> tuple[int, int] | None:
        """Without a colour box, the coded stream tells."""
        signalled = self._signalled(item)
        if signalled is None:
            self._doubts.append("colours that are not told")
            return None
        return signalled.primaries, signalled.transfer

    def _signalled(self, item: Item) -> avif_sequence.Signalled | None:
        # Not what its configuration box repeats: browsers decode without that.
        return avif_sequence.signalled(self._meta.bytes_of(self._first_coded(item)))

    def _first_coded(self, item: Item) -> Item:
        return self._meta.items[self._tiles(item)[0]] if item.kind == b"grid" else item

    # -- the file for the decoder ----------------------------------------------------------------

    def _minimal(self) -> bytes:
        writer = _Writer(self._meta, self._name)
        number = self._add(writer, self._primary)
        tiles = set(self._tiles(self._primary)) if self._primary.kind == b"grid" else set()
        alphas = [
            item
            for item in self._meta.items.values()
            if any(body[4:].startswith(_ALPHA_NAMES) for body in item.all(b"auxC"))
        ]
        if any(not tiles.isdisjoint(item.references.get(b"auxl", ())) for item in alphas):
            # Chromium puts it together, as it does with the colours.
            self._doubts.append("a transparency of single tiles")
        alphas = [item for item in alphas if self._meta.primary in item.references.get(b"auxl", ())]
        if len(alphas) > 1:
            self._doubts.append("two transparencies")
        for item in alphas:
            self._read_alpha(item)
            alpha = self._add(writer, item)
            writer.refer(b"auxl", alpha, [number])
        return writer.file(number)

    def _read_alpha(self, item: Item) -> None:
        """Chromium scales levels of the full range, Firefox does not scale narrow ones."""
        if any(kind in _GEOMETRY for kind, _ in item.properties):
            self._doubts.append("a transparency that is turned or cropped by itself")
        if item.unknown_essential:
            # Chromium leaves it out, Firefox does not.
            self._doubts.append("a transparency with properties that are not known")
        if self._name != "AVIF":
            return
        if not any(body[4:].startswith(_ALPHA_NAMES[:1]) for body in item.all(b"auxC")):
            self._doubts.append("a transparency that was named for another format")
        signalled = self._signalled(item)
        if signalled is None or signalled.is_full:
            self._other_alphas.append("wider")
        if signalled is None or not signalled.is_full:
            self._other_alphas.append("narrower")

    def _add(self, writer: _Writer, item: Item) -> int:
        self._size(item)
        number = writer.add(item)
        configuration = b"".join(self._first_coded(item).all(b"av1C"))
        if self._name == "AVIF" and avif_sequence.are_at_odds(configuration, self._signalled(item)):
            self._doubts.append("colours where the file says that there are none")
        if item.kind == b"grid":
            tiles = [self._meta.items[tile] for tile in self._tiles(item)]
            for tile in tiles:
                self._size(tile)
            writer.refer(b"dimg", number, [writer.add(tile) for tile in tiles])
        return number

    def _tiles(self, item: Item) -> list[int]:
        tiles = item.references.get(b"dimg", [])
        require(0 < len(tiles) <= _MAX_TILES, "it has no tiles, or too many")
        for tile in tiles:
            require(
                tile in self._meta.items and self._meta.items[tile].kind == self._codec,
                "a tile is missing",
            )
        return tiles


class _Writer:
    """Writes the few items of one picture into a file of its own."""

    def __init__(self, meta: Meta, name: str) -> None:
        self._meta = meta
        self._name = name
        self._kinds: list[bytes] = []
        self._bodies: list[bytes] = []
        self._properties: list[list[int]] = []
        self._known: dict[tuple[bytes, bytes], int] = {}
        self._references: list[bytes] = []

    def add(self, item: Item) -> int:
        self._kinds.append(item.kind)
        self._bodies.append(self._meta.bytes_of(item))
        kept = [each for each in item.properties if each[0] in _CODING]
        kept += [(b"colr", body) for body in item.all(b"colr")[:4] if body[:4] == b"nclx"][:1]
        self._properties.append(
            [self._known.setdefault(each, len(self._known) + 1) for each in kept]
        )
        return len(self._kinds)

    def refer(self, kind: bytes, source: int, targets: list[int]) -> None:
        ids = struct.pack(f">HH{len(targets)}H", source, len(targets), *targets)
        self._references.append(box(kind, ids))

    def file(self, primary: int) -> bytes:
        brand = b"avif" if self._name == "AVIF" else b"heic"
        head = box(b"ftyp", brand, bytes(4), brand, b"mif1", b"miaf")
        place = len(head) + len(self._meta_box(primary, 0)) + 8
        return head + self._meta_box(primary, place) + box(b"mdat", *self._bodies)

    def _meta_box(self, primary: int, place: int) -> bytes:
        entries, places = [], []
        for number, (kind, body) in enumerate(zip(self._kinds, self._bodies, strict=True), 1):
            entries.append(full_box(b"infe", 2, 0, struct.pack(">HH", number, 0), kind, b"\0"))
            places.append(struct.pack(">HHHII", number, 0, 1, place, len(body)))
            place += len(body)
        count = struct.pack(">H", len(entries))
        references = [full_box(b"iref", 0, 0, *self._references)] if self._references else []
        return full_box(
            b"meta", 0, 0,
            full_box(b"hdlr", 0, 0, bytes(4), b"pict", bytes(13)),
            full_box(b"pitm", 0, 0, struct.pack(">H", primary)),
            full_box(b"iloc", 0, 0, b"\x44\0", count, *places),
            full_box(b"iinf", 0, 0, count, *entries),
            *references,
            box(b"iprp", self._ipco(), self._ipma()),
        )  # fmt: skip

    def _ipco(self) -> bytes:
        return box(b"ipco", *(box(kind, body) for kind, body in self._known))

    def _ipma(self) -> bytes:
        rows = [struct.pack(">I", len(self._properties))]
        coding = {number for (kind, _), number in self._known.items() if kind in (b"av1C", b"hvcC")}
        for number, properties in enumerate(self._properties, 1):
            rows.append(struct.pack(">HB", number, len(properties)))
            rows += [struct.pack(">H", each | 0x8000 * (each in coding)) for each in properties]
        return full_box(b"ipma", 0, 1, *rows)


def _decode(name: str, minimal: bytes) -> Image.Image:
    reader: Any = AvifImagePlugin.AvifImageFile if name == "AVIF" else HeifImageFile
    image: Image.Image = reader(io.BytesIO(minimal))
    image.load()
    return image
