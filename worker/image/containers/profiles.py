"""ICC profiles: what a file's colours mean, in the one form that everything is turned into.

PNG's gAMA and cHRM and the code points of cICP and nclx become profiles written here, so that the
colour library is the only thing that converts. Pure.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Point = tuple[float, float]
Matrix = npt.NDArray[np.float64]

#: White of the connection space. Source: ICC.1:2022, 7.2.16.
D50 = np.array([0.9642, 1.0, 0.8249])
#: Source: ICC.1:2022, annex E (Bradford).
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
#: How far a chromaticity may be off and is still the same to the eye.
_SAME_POINT = 0.01
#: Entries of a curve that is written as a table.
_CURVE_ENTRIES = 4096


@dataclass(frozen=True)
class Chromaticities:
    """CIE x and y of the white point and the primaries."""

    white: Point
    red: Point
    green: Point
    blue: Point

    @property
    def are_srgb(self) -> bool:
        """Whether nobody would see a difference to sRGB."""
        mine = np.array([self.white, self.red, self.green, self.blue])
        theirs = np.array([SRGB.white, SRGB.red, SRGB.green, SRGB.blue])
        return bool(np.abs(mine - theirs).max() < _SAME_POINT)

    @property
    def are_usable(self) -> bool:
        """Whether they span a space and every coordinate lies in the diagram."""
        points = (self.white, self.red, self.green, self.blue)
        if not all(0 <= x <= 1 and 0 < y <= 1 and x + y <= 1 for x, y in points):
            return False
        try:
            return bool(np.isfinite(self.to_xyz()).all())
        except np.linalg.LinAlgError:
            return False

    def to_xyz(self) -> Matrix:
        """Linear RGB to XYZ at D50, primaries in columns.

        Source: SMPTE RP 177; ICC.1:2022, annex E.
        """
        primaries = np.stack([_xyz(*point) for point in (self.red, self.green, self.blue)], axis=1)
        white = _xyz(*self.white)
        linear = primaries * np.linalg.solve(primaries, white)
        cone = (_BRADFORD @ D50) / (_BRADFORD @ white)
        adapted: Matrix = np.linalg.inv(_BRADFORD) @ np.diag(cone) @ _BRADFORD @ linear
        return adapted


def _xyz(x: float, y: float) -> Matrix:
    return np.array([x / y, 1.0, (1 - x - y) / y])


_D65 = (0.3127, 0.3290)
SRGB = Chromaticities(_D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_BT601_525 = Chromaticities(_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070))
#: Source: ITU-T H.273, table 2 (colour primaries).
_PRIMARIES = {
    1: SRGB,
    2: SRGB,
    4: Chromaticities((0.310, 0.316), (0.67, 0.33), (0.21, 0.71), (0.14, 0.08)),
    5: Chromaticities(_D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: _BT601_525,
    7: _BT601_525,
    8: Chromaticities((0.310, 0.316), (0.681, 0.319), (0.243, 0.692), (0.145, 0.049)),
    9: Chromaticities(_D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    11: Chromaticities((0.314, 0.351), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    12: Chromaticities(_D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    22: Chromaticities(_D65, (0.630, 0.340), (0.295, 0.605), (0.155, 0.077)),
}
#: Transfer functions that differ from sRGB's by less than what viewers differ among themselves:
#: BT.709 and its relatives, unspecified, and sRGB itself. Source: ITU-T H.273, table 3.
_LIKE_SRGB = frozenset({1, 2, 6, 13, 14, 15})
#: Transfer function -> exponent that gives linear light.
_EXPONENTS = {4: 2.2, 5: 2.8, 8: 1.0}


def named_profile(primaries: int, transfer: int) -> bytes | None:
    """The profile of code points; b"" where they are sRGB, None where they are not understood.

    High dynamic range is not: every viewer maps it in its own way.
    """
    chromaticities = _PRIMARIES.get(primaries)
    if chromaticities is None or (transfer not in _LIKE_SRGB and transfer not in _EXPONENTS):
        return None
    exponent = _EXPONENTS.get(transfer)
    if exponent is None and chromaticities.are_srgb:
        return b""
    return _matrix_profile(exponent, chromaticities)


def gamma_profile(gamma: float | None, chromaticities: Chromaticities | None) -> bytes:
    """The profile of PNG's gAMA (None: sRGB's curve) and cHRM (None: sRGB's)."""
    return _matrix_profile(None if gamma is None else 1 / gamma, chromaticities or SRGB)


def light_of(levels: Matrix) -> Matrix:
    """Linear light of sRGB's levels, both from 0 to 1. Source: IEC 61966-2-1."""
    low, high = levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4
    return np.where(levels <= 0.04045, low, high)


def levels_of(light: Matrix) -> Matrix:
    """The reverse."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


@functools.lru_cache(maxsize=32)
def _matrix_profile(exponent: float | None, chromaticities: Chromaticities) -> bytes:
    levels = np.linspace(0, 1, _CURVE_ENTRIES)
    light = light_of(levels) if exponent is None else levels**exponent
    return of_curves([light] * 3, chromaticities.to_xyz())


def of_curves(curves: Sequence[npt.NDArray[np.floating]], to_xyz: Matrix) -> bytes:
    """The profile of three curves, each any number of values, and a matrix."""
    # Entries end at 1, a matrix does not.
    most = [max(1.0, float(curve.max())) for curve in curves]
    columns = (to_xyz * most).T.clip(-30_000, 30_000)
    tags = [(b"wtpt", _xyz_tag(D50))]
    tags += [(name, _xyz_tag(column)) for name, column in zip(COLUMNS, columns, strict=True)]
    for name, curve, top in zip(CURVES, curves, most, strict=True):
        entries = np.round((curve / top).clip(0, 1) * 65535).astype(">u2")
        tags.append((name, b"curv" + struct.pack(">II", 0, len(entries)) + entries.tobytes()))
    return _write(tags)


COLUMNS, CURVES = (b"rXYZ", b"gXYZ", b"bXYZ"), (b"rTRC", b"gTRC", b"bTRC")


def _xyz_tag(values: Matrix) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(float(v) * 65536) for v in values))


def _write(tags: list[tuple[bytes, bytes]]) -> bytes:
    """Source: ICC.1:2001-04 (version 2.4), chapters 6.1 and 6.2."""
    body, table, places = b"", struct.pack(">I", len(tags)), dict[bytes, int]()
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags:
        if content not in places:
            places[content] = start + len(body)
            body += content + bytes(-len(content) % 4)
        table += struct.pack(">4sII", name, places[content], len(content))
    header = struct.pack(
        ">I4sI4s4s4s12s4s28s12s48s",
        start + len(body), bytes(4), 0x02400000, b"mntr", b"RGB ", b"XYZ ", bytes(12), b"acsp",
        bytes(28), struct.pack(">3i", 63190, 65536, 54061), bytes(48),
    )  # fmt: skip
    return header + table + body


# -- profiles that a file brings -----------------------------------------------------------------

TABLES = frozenset({b"A2B0", b"A2B1", b"A2B2"})
#: With those of floating point, which the colour library prefers and no browser reads.
_ALL_TABLES = TABLES | {b"D2B0", b"D2B1", b"D2B2", b"D2B3"}
#: Tags that are looked at; the colour library refuses profiles with half as many, browsers do not.
_MOST_TAGS = 200


@dataclass(frozen=True)
class Header:
    """What decides whether a browser uses a profile, and how."""

    version: int
    space: bytes
    connection: bytes
    tags: frozenset[bytes]

    @property
    def has_tables(self) -> bool:
        """Whether colours go through tables, which programs choose among differently."""
        return bool(self.tags & TABLES)

    @property
    def table_of_browsers(self) -> bytes:
        """The one that browsers look into; empty where there is none."""
        return next((name for name in (b"A2B0", b"A2B1") if name in self.tags), b"")

    @property
    def has_matrix(self) -> bool:
        """Whether it can be used without its tables."""
        return {*COLUMNS, *CURVES} <= self.tags

    @property
    def is_plain(self) -> bool:
        """Whether no tag asks for more than the colour library does, or is scaled otherwise.

        Chromium takes tables to XYZ for half as light as others do.
        """
        return b"cicp" not in self.tags and not (self.has_tables and self.connection == b"XYZ ")


def header(profile: bytes) -> Header | None:
    """Read the header of a profile; None for what is none, which browsers ignore."""
    if len(profile) < 132 or profile[36:40] != b"acsp":
        return None
    (size,) = struct.unpack_from(">I", profile)
    (count,) = struct.unpack_from(">I", profile, 128)
    if size > len(profile) or 132 + 12 * count > len(profile):
        return None
    tags = (profile[132 + 12 * at : 136 + 12 * at] for at in range(min(count, _MOST_TAGS)))
    return Header(profile[8], profile[16:20], profile[20:24], frozenset(tags))


def tags_of(profile: bytes) -> dict[bytes, bytes]:
    """What its tags hold, the first of each name."""
    (count,) = struct.unpack_from(">I", profile, 128)
    found: dict[bytes, bytes] = {}
    for number in range(min(count, _MOST_TAGS)):
        name, start, length = struct.unpack_from(">4sII", profile, 132 + 12 * number)
        found.setdefault(name, profile[start : start + length])
    return found


def with_tables(profile: bytes, names: Collection[bytes]) -> bytes:
    """The profile without tables but these."""
    (count,) = struct.unpack_from(">I", profile, 128)
    changed = bytearray(profile)
    for number in range(min(count, _MOST_TAGS)):
        at = 132 + 12 * number
        if bytes(changed[at : at + 4]) in _ALL_TABLES - {*names}:
            # Two tags of one name would make the profile damaged.
            changed[at : at + 4] = b"n%03d" % number
    return bytes(changed)
