"""JPEG with profiles of many tags and of tables that readers choose among."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import numpy as np

from tests.witness.files import profiles
from tests.witness.files.drawn import hills
from tests.witness.files.jpeg import encode, icc, with_segments

#: What a tag may be that nobody reads.
_TEXT = b"text\0\0\0\0a\0\0\0"

#: Nodes of a table in each direction; the library's own shortcut has 33.
_NODES = 11

Colour = tuple[float, float, float]


def files() -> Iterator[tuple[str, bytes]]:
    """All kinds."""
    base = encode(hills())
    for name, profile in odd().items():
        yield f"icc-{name}.jpg", with_segments(base, icc(profile))


def odd() -> dict[str, bytes]:
    """Profiles by name; their tables let the colours change places."""
    plain, tables = profiles.PLAIN, {b"A2B0": to_lab(turned), b"A2B1": to_lab(turned)}
    floats = {b"D2B0": to_xyz_in_floats(), b"D2B1": to_xyz_in_floats()}
    return {
        **{f"tags-{count}": crowded(count) for count in (90, 110, 250, 1100)},
        "tables": with_tags(in_lab(plain), tables),
        "tables-alone": with_tags(in_lab(without_matrix(plain)), tables),
        "tables-and-floats": with_tags(in_lab(without_matrix(plain)), {**tables, **floats}),
        "floats": with_tags(plain, floats),
        "tables-torn": with_tags(in_lab(plain), {b"A2B0": to_lab(torn)}),
        "tables-to-xyz": with_tags(plain, {b"A2B0": to_xyz(turned)}),
    }


def with_tags(profile: bytes, more: dict[bytes, bytes]) -> bytes:
    """The same with more tags in front."""
    return written(profile, [*more.items(), *tags_of(profile)])


def without_matrix(profile: bytes) -> bytes:
    """The same without what a picture could be shown by but for tables."""
    return written(profile, [each for each in tags_of(profile) if each[0][1:] != b"XYZ"])


def crowded(count: int) -> bytes:
    """A profile that lets the colours change places, with so many tags in front."""
    return with_tags(profiles.PERMUTED, {struct.pack(">I", n + 1): _TEXT for n in range(count)})


def in_lab(profile: bytes) -> bytes:
    """The same with tables that lead to Lab."""
    return profile[:20] + b"Lab " + profile[24:]


def tags_of(profile: bytes) -> list[tuple[bytes, bytes]]:
    """Its tags in order."""
    (count,) = struct.unpack_from(">I", profile, 128)
    entries = [struct.unpack_from(">4sII", profile, 132 + 12 * n) for n in range(count)]
    return [(name, profile[start : start + length]) for name, start, length in entries]


def written(profile: bytes, tags: list[tuple[bytes, bytes]]) -> bytes:
    """The same with these tags."""
    table, body = struct.pack(">I", len(tags)), b""
    start = 132 + 12 * len(tags)
    for name, content in tags:
        table += struct.pack(">4sII", name, start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    return struct.pack(">I", start + len(body)) + profile[4:128] + table + body


# -- tables --------------------------------------------------------------------------------------


def turned(red: float, green: float, blue: float) -> Colour:
    """Colours of one place in another, in sRGB's light."""
    return blue**2.2, red**2.2, green**2.2


def torn(red: float, green: float, blue: float) -> Colour:
    """Every second node is white and those between are black."""
    return (float(round((red + green + blue) * (_NODES - 1)) % 2),) * 3


def to_lab(change: Callable[[float, float, float], Colour]) -> bytes:
    """A table of 16 bits. Source: ICC.1:2001-04, 6.5.7."""

    def node(*colour: float) -> bytes:
        lab = (65280 * value for value in lab_of(*change(*colour)))
        return struct.pack(">3H", *map(round, lab))

    return _table(node)


def lab_of(*light: float) -> tuple[float, ...]:
    """Lab of sRGB's light, each from 0 to 1."""
    xyz = profiles.SRGB @ np.array(light) / np.array([0.9642, 1.0, 0.8249])
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lab = (116 * y - 16) / 100, (500 * (x - y) + 128) / 255, (200 * (y - z) + 128) / 255
    return tuple(float(np.clip(value, 0, 1)) for value in lab)


def to_xyz(change: Callable[[float, float, float], Colour]) -> bytes:
    """The same to XYZ."""

    def node(*colour: float) -> bytes:
        xyz = profiles.SRGB @ np.array(change(*colour))
        return struct.pack(">3H", *(round(float(each) * 32768) for each in xyz))

    return _table(node)


def _table(node: Callable[..., bytes]) -> bytes:
    line = struct.pack(">2H", 0, 65535) * 3
    levels = [number / (_NODES - 1) for number in range(_NODES)]
    nodes = (node(red, green, blue) for red in levels for green in levels for blue in levels)
    head = b"mft2" + bytes(4) + bytes([3, 3, _NODES, 0])
    head += struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536) + struct.pack(">HH", 2, 2)
    return head + line + b"".join(nodes) + line


def to_xyz_in_floats() -> bytes:
    """A matrix that lets every colour stay. Source: ICC.1:2022, 10.17."""
    numbers = struct.pack(">12f", *profiles.SRGB.ravel(), 0, 0, 0)
    element = b"matf" + bytes(4) + struct.pack(">HH", 3, 3) + numbers
    return b"mpet" + bytes(4) + struct.pack(">HHIII", 3, 3, 1, 24, len(element)) + element
