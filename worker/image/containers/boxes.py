"""Boxes of the ISO base media file format and the items that AVIF and HEIC keep in them.

Source: ISO/IEC 14496-12 (boxes) and 23008-12 (items, properties).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from producer.errors import CorruptImage, UnsupportedImage
from worker.image.containers.contents import Parts, require


class Box(NamedTuple):
    """One box: its type and where its content begins and ends."""

    kind: bytes
    start: int
    end: int


def walk(data: bytes, start: int, end: int, parts: Parts) -> Iterator[Box]:
    """Yield the boxes in a stretch of a file."""
    while start < end:
        parts.count()
        size, kind = struct.unpack_from(">I4s", data, start)
        content = start + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, content)
            content += 8
        elif size == 0:
            size = end - start
        require(content - start <= size <= end - start, "a box of the file is damaged")
        yield Box(kind, content, start + size)
        start += size


@dataclass
class Item:
    """One item: coded pixels, a grid of such or metadata."""

    kind: bytes = b""
    extents: list[tuple[int, int]] = field(default_factory=list)
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    unknown_essential: bool = False
    references: dict[bytes, list[int]] = field(default_factory=dict)

    def all(self, kind: bytes) -> list[bytes]:
        """Contents of its properties of one type."""
        return [body for name, body in self.properties if name == kind]


class Meta:
    """The `meta` box of a file, read strictly."""

    def __init__(self, data: bytes, box: Box, parts: Parts, known: frozenset[bytes]) -> None:
        """Read it.

        Args:
            data: the file.
            box: where it is.
            parts: counts what is read.
            known: properties that may be essential.
        """
        self.data = data
        self.items: dict[int, Item] = {}
        self.primary = 0
        self.doubts: list[str] = []
        self._parts = parts
        self._known = known
        self._idat: Box | None = None
        found: dict[bytes, Box] = {}
        for part in walk(data, box.start + 4, box.end, parts):
            if part.kind in found and part.kind in _READ:
                self.doubts.append(f"two {part.kind.decode()} boxes")
                continue
            found[part.kind] = part
        self._idat = found.get(b"idat")
        for kind in _READ:
            if kind in found:
                _READ[kind](self, found[kind])
        require(self.primary in self.items, "the file does not say which picture it shows")

    @property
    def is_deep(self) -> bool:
        """Whether a picture has more than 256 levels.

        Source: AV1-ISOBMFF, 2.3.3; ISO/IEC 14496-15, 8.3.2.1; ISO/IEC 23008-12, 6.5.6.
        """
        properties = [each for item in self.items.values() for each in item.properties]
        return any(
            (kind == b"pixi" and body[5:6] > b"\x08")
            or (kind == b"av1C" and int.from_bytes(body[2:3], "big") & 0x40)
            or (kind == b"hvcC" and int.from_bytes(body[17:18], "big") & 7)
            for kind, body in properties
        )

    def bytes_of(self, item: Item) -> bytes:
        """The content of an item."""
        pieces = []
        for start, length in item.extents:
            require(start >= 0 and start + length <= len(self.data), "the file is truncated")
            pieces.append(self.data[start : start + length])
        require(pieces, "a picture of the file has no content")
        return b"".join(pieces)

    def _item(self, number: int) -> Item:
        return self.items.setdefault(number, Item())

    def _full(self, box: Box) -> tuple[int, int, int]:
        """Version, flags and where the rest begins."""
        (head,) = struct.unpack_from(">I", self.data, box.start)
        return head >> 24, head & 0xFFFFFF, box.start + 4

    def _pitm(self, box: Box) -> None:
        version, _, at = self._full(box)
        (self.primary,) = struct.unpack_from(">I" if version else ">H", self.data, at)

    def _iinf(self, box: Box) -> None:
        version, _, at = self._full(box)
        start = at + (4 if version else 2)
        entries = list(walk(self.data, start, box.end, self._parts))
        if len(entries) != int.from_bytes(self.data[at:start], "big"):
            # Chromium reads as many as it says, Firefox all.
            self.doubts.append("a list of pictures that is not as long as it says")
        for entry in entries:
            entry_version, _, start = self._full(entry)
            if entry.kind != b"infe" or entry_version < 2:
                raise UnsupportedImage("the file lists its pictures in a form that is not known")
            form, skip = (">H", 4) if entry_version == 2 else (">I", 6)
            (number,) = struct.unpack_from(form, self.data, start)
            item = self._item(number)
            if item.kind:
                self.doubts.append("two pictures of one number")
            item.kind = self.data[start + skip : start + skip + 4]

    def _iloc(self, box: Box) -> None:
        version, _, at = self._full(box)
        sizes = int.from_bytes(self.data[at : at + 2], "big")
        widths = [sizes >> shift & 15 for shift in (12, 8, 4, 0)]
        reader = _Reader(self.data, at + 2, box.end)
        for _ in range(reader.take(4 if version == 2 else 2)):
            self._parts.count()
            item = self._item(reader.take(4 if version == 2 else 2))
            method = reader.take(2) & 15 if version else 0
            source = reader.take(2)
            base = reader.take(widths[2])
            if method > 1 or source or item.extents:
                raise UnsupportedImage("the file keeps its pixels in a place that is not known")
            for _ in range(reader.take(2)):
                self._parts.count()
                if version:
                    reader.take(widths[3])
                start, length = base + reader.take(widths[0]), reader.take(widths[1])
                item.extents.append(self._place(method, start, length))

    def _place(self, method: int, start: int, length: int) -> tuple[int, int]:
        if method == 0:
            return start, length or len(self.data) - start
        if self._idat is None or self._idat.start + start + length > self._idat.end:
            raise CorruptImage("the file is truncated")
        return self._idat.start + start, length or self._idat.end - self._idat.start - start

    def _iref(self, box: Box) -> None:
        version, _, at = self._full(box)
        width = 4 if version else 2
        for part in walk(self.data, at, box.end, self._parts):
            reader = _Reader(self.data, part.start, part.end)
            item = self._item(reader.take(width))
            targets = [reader.take(width) for _ in range(reader.take(2))]
            if part.kind in item.references:
                self.doubts.append("two references of one kind")
            item.references.setdefault(part.kind, targets)

    def _iprp(self, box: Box) -> None:
        properties: list[tuple[bytes, bytes]] = []
        for part in walk(self.data, box.start, box.end, self._parts):
            if part.kind == b"ipco":
                properties += [
                    (each.kind, self.data[each.start : each.end])
                    for each in walk(self.data, part.start, part.end, self._parts)
                ]
            elif part.kind == b"ipma":
                self._ipma(part, properties)

    def _ipma(self, box: Box, properties: list[tuple[bytes, bytes]]) -> None:
        version, flags, at = self._full(box)
        reader = _Reader(self.data, at, box.end)
        width = 2 if flags & 1 else 1
        for _ in range(reader.take(4)):
            self._parts.count()
            item = self._item(reader.take(4 if version else 2))
            if item.properties:
                self.doubts.append("two lists of properties")
            for _ in range(reader.take(1)):
                self._parts.count()
                value = reader.take(width)
                is_essential, index = value >> (8 * width - 1), value & (1 << 8 * width - 1) - 1
                if not index:
                    continue
                require(index <= len(properties), "a property of the picture is missing")
                item.properties.append(properties[index - 1])
                if is_essential and properties[index - 1][0] not in self._known:
                    item.unknown_essential = True

    def _grpl(self, box: Box) -> None:
        """Of alternatives, Chromium shows the first; maps of light are looked at elsewhere."""
        for part in walk(self.data, box.start, box.end, self._parts):
            if part.kind != b"altr":
                continue
            _, _, at = self._full(part)
            reader = _Reader(self.data, at + 4, part.end)
            numbers = [reader.take(4) for _ in range(reader.take(4))]
            before = numbers[: numbers.index(self.primary)] if self.primary in numbers else []
            if any(self.items[number].kind != b"tmap" for number in before if number in self.items):
                self.doubts.append("another picture that is preferred to the primary one")


_READ = {
    b"pitm": Meta._pitm,
    b"iinf": Meta._iinf,
    b"iloc": Meta._iloc,
    b"iref": Meta._iref,
    b"iprp": Meta._iprp,
    b"grpl": Meta._grpl,
}


class _Reader:
    """Big-endian numbers one after the other."""

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self._data, self._at, self._end = data, at, end

    def take(self, width: int) -> int:
        self._at += width
        require(self._at <= self._end, "a box of the file is truncated")
        return int.from_bytes(self._data[self._at - width : self._at], "big")


def box(kind: bytes, *bodies: bytes) -> bytes:
    """Write one box."""
    body = b"".join(bodies)
    return struct.pack(">I4s", len(body) + 8, kind) + body


def full_box(kind: bytes, version: int, flags: int, *bodies: bytes) -> bytes:
    """Write one box with version and flags."""
    return box(kind, struct.pack(">I", version << 24 | flags), *bodies)
