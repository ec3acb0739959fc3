"""ICC profiles read as browsers read them: curves, matrices, and tables between their nodes.

The colour library has shortcuts and rules of its own where a profile is odd. Pure.

Source: ICC.1:2022, chapter 10; ICC.1:2001-04, 6.5.7 and 6.5.8; skcms, which draws for Chromium.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from worker.image.containers.profiles import (
    COLUMNS,
    CURVES,
    D50,
    SRGB,
    header,
    levels_of,
    of_curves,
    tags_of,
)

Floats = npt.NDArray[np.floating]
#: Gives the values of a curve at arguments from 0 to 1.
Curve = Callable[[Floats], Floats]

#: Nodes in each direction of what Firefox turns tables into, by channels. Source: qcms.
_BAKED_NODES = {1: 256, 3: 33, 4: 17}
#: Pixels that are looked up at once.
_STEP_PX = 1 << 15
_MOST_ENTRIES = 1 << 20
#: Times white that all colours together may give.
_MOST_LIGHT = 7.0
#: Steps of a level that are looked at, and how far apart, from 0 to 1, they may be shown.
_FINE, _FAR = 32, 0.045


def rebuilt(profile: bytes, *, is_grey: bool) -> bytes | None:
    """The same with nothing but what browsers read of its curves and matrix, for three channels.

    Returns:
        None where it has none, or where they cannot be read.
    """
    tags = tags_of(profile)
    levels = np.linspace(0, 1, 256).astype(np.float32)
    try:
        names = (b"kTRC",) * 3 if is_grey else CURVES
        curves = [_curve(tags[name])[0](levels) for name in names]
        columns = [struct.unpack_from(">3i", tags[name], 8) for name in COLUMNS if not is_grey]
    except (KeyError, ValueError, struct.error):
        return None
    to_xyz = SRGB.to_xyz() if is_grey else np.array(columns).T / 65536
    most = [float(np.abs(curve).max()) for curve in curves]
    light = np.abs(np.linalg.inv(SRGB.to_xyz()) @ (to_xyz * most)).sum(axis=1)
    # Not of numbers either; the library's own overflow from eight on.
    return of_curves(curves, to_xyz) if light.max() < _MOST_LIGHT else None


def is_uneven(profile: bytes) -> bool:
    """Whether its curves show what differs by less than one of 256 levels far apart."""
    tags = tags_of(profile) if header(profile) else {}
    levels = np.linspace(0, 1, 256 * _FINE + 1).astype(np.float32)
    for name in (b"kTRC", *CURVES):
        try:
            light = _curve(tags[name])[0](levels).clip(0, 1)
        except (KeyError, ValueError, struct.error):
            continue
        steps = levels_of(light)[:-1].reshape(256, _FINE)
        if np.ptp(steps, axis=1).max() > _FAR:
            return True
    return False


def _curve(body: bytes) -> tuple[Curve, int]:
    """A curve and how many bytes it takes."""
    (count,) = struct.unpack_from(">I", body, 8)
    if body[:4] == b"curv":
        if count > _MOST_ENTRIES:
            raise ValueError("a curve of unusual size")
        entries = np.array(struct.unpack_from(f">{count}H", body, 12)).astype(np.float32)
        length = 12 + 2 * count
        if count < 2:
            gamma = float(entries[0]) / 256 if count else 1.0
            return lambda levels: levels**gamma, length
        return functools.partial(_between, entries / 65535), length
    (kind,) = struct.unpack_from(">H", body, 8)
    if body[:4] != b"para" or kind > 4:
        raise ValueError("a curve of a kind that is not known")
    names = ("g", "gab", "gabc", "gabcd", "gabcdef")[kind]
    numbers = struct.unpack_from(f">{len(names)}i", body, 12)
    given = dict(zip(names, (each / 65536 for each in numbers), strict=True))
    a, b = given.get("a", 1.0), given.get("b", 0.0)
    if kind in (1, 2):
        given |= {"d": -b / a if a else 0.0, "f": given.get("c", 0.0), "c": 0.0}
        given["e"] = given["f"]
    g, c, d, e, f = (given.get(name, 0.0) for name in "gcdef")

    def parametric(levels: Floats) -> Floats:
        high: Floats = np.maximum(a * levels + b, 0) ** g + e
        return np.where(levels >= d, high, c * levels + f)

    return parametric, 12 + 4 * len(names)


def _between(entries: Floats, levels: Floats) -> Floats:
    places = np.linspace(0, 1, len(entries))
    return np.interp(levels, places, entries).astype(np.float32)


@dataclass(frozen=True)
class Table:
    """A way from levels to the colours of a connection space.

    Attributes:
        before: a curve a channel.
        nodes: (n, ..., n, 3) from 0 to 1; None where three channels go on as they are.
        steps: what comes after, one behind the other.
        connection: `Lab ` or `XYZ `, whose values are given from 0 to 1.
        scale: times which these are.
    """

    before: list[Curve]
    nodes: Floats | None
    steps: tuple[Callable[[Floats], Floats], ...]
    connection: bytes
    scale: float

    @property
    def channels(self) -> int:
        """Of the file's pixels."""
        return len(self.before)

    def shown(self, levels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """SRGB of 8-bit levels, (n, channels) to (n, 3), each looked up by itself."""
        return _in_steps(lambda part: self._levels(part / np.float32(255)), levels)

    def shown_baked(self, levels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The same by way of a coarse table of results, as Firefox does it."""
        count = _BAKED_NODES[self.channels]
        line = np.linspace(0, 1, count, dtype=np.float32)
        grid = np.stack(np.meshgrid(*[line] * self.channels, indexing="ij"), axis=-1)
        nodes = _in_steps(self._levels, grid.reshape(-1, self.channels)).astype(np.float32)
        nodes = nodes.reshape(*grid.shape[:-1], 3)
        return _in_steps(lambda part: _looked_up(nodes, part / np.float32(255)), levels)

    def _levels(self, values: Floats) -> Floats:
        values = np.stack(
            [curve(values[:, at]) for at, curve in enumerate(self.before)], axis=1
        ).clip(0, 1)
        if self.nodes is not None:
            values = _looked_up(self.nodes, values)
        for step in self.steps:
            values = step(values)
        values = values * np.float32(self.scale)
        xyz = (
            _from_lab(values) if self.connection == b"Lab " else values * np.float32(65535 / 32768)
        )
        light = xyz @ np.linalg.inv(SRGB.to_xyz()).T.astype(np.float32)
        return levels_of(light.clip(0, 1)) * np.float32(255)


def _in_steps(
    change: Callable[[Floats], Floats], values: npt.NDArray[np.uint8] | Floats
) -> npt.NDArray[np.uint8]:
    parts = [
        change(values[at : at + _STEP_PX].astype(np.float32))
        for at in range(0, len(values), _STEP_PX)
    ]
    return np.concatenate(parts).round().clip(0, 255).astype(np.uint8)


def _looked_up(nodes: Floats, values: Floats) -> Floats:
    """Between all nodes around a colour, each as much as it is near: (n, channels) to (n, 3)."""
    channels = values.shape[1]
    counts = np.array(nodes.shape[:channels])
    places = values * (counts - 1).astype(np.float32)
    low = np.minimum(places.astype(np.intp), counts - 2)
    share = places - low
    strides = np.append(np.cumprod(counts[:0:-1])[::-1], 1)
    first, flat = low @ strides, nodes.reshape(-1, nodes.shape[-1])
    result = np.zeros((len(values), nodes.shape[-1]), np.float32)
    for corner in np.ndindex(*(2,) * channels):
        weight = np.where(corner, share, 1 - share).prod(axis=1, dtype=np.float32)
        result += weight[:, None] * flat[first + np.dot(corner, strides)]
    return result


def _from_lab(values: Floats) -> Floats:
    y = (values[:, 0] * 100 + 16) / 116
    x = y + (values[:, 1] * 255 - 128) / 500
    z = y - (values[:, 2] * 255 - 128) / 200
    cubes = np.stack([x, y, z], axis=1)
    linear: Floats = np.where(cubes > 24 / 116, cubes**3, (cubes - 16 / 116) * 108 / 841)
    return linear * D50.astype(np.float32)


def table_of(profile: bytes, name: bytes) -> Table | None:
    """The table of this name, None where it cannot be read."""
    body = tags_of(profile).get(name, b"")
    kind, connection = body[:4], profile[20:24]
    if connection not in (b"Lab ", b"XYZ "):
        return None
    try:
        if kind in (b"mft1", b"mft2"):
            return _lut(body, 1 if kind == b"mft1" else 2, connection)
        return _lut_of_version_4(body, connection) if kind == b"mAB " else None
    except (ValueError, IndexError, struct.error):
        return None


def _lut(body: bytes, width: int, connection: bytes) -> Table:
    channels, outputs, count = body[8:11]
    entries = struct.unpack_from(">HH", body, 48) if width == 2 else (256, 256)
    _require(channels in _BAKED_NODES and outputs == 3 and count > 1 and min(entries) > 1)
    at = 52 if width == 2 else 48
    before, at = _numbers(body, at, width, channels, entries[0])
    nodes, at = _numbers(body, at, width, count**channels, outputs)
    after, at = _numbers(body, at, width, outputs, entries[1])
    return Table(
        [functools.partial(_between, each) for each in before],
        nodes.reshape(*[count] * channels, outputs),
        (_through([functools.partial(_between, each) for each in after]),),
        connection,
        65535 / 65280 if width == 2 and connection == b"Lab " else 1.0,
    )


def _lut_of_version_4(body: bytes, connection: bytes) -> Table:
    channels, outputs = body[8:10]
    _require(channels in _BAKED_NODES and outputs == 3)
    last, matrix, middle, table, first = struct.unpack_from(">5I", body, 12)
    nodes = None
    if table:
        counts = list(body[table : table + channels])
        width = body[table + 16]
        total = int(np.prod(counts, dtype=np.int64))
        _require(width in (1, 2) and min(counts) > 1 and first)
        nodes = _numbers(body, table + 20, width, total, outputs)[0].reshape(*counts, outputs)
    _require(table or channels == 3)
    steps = []
    if matrix:
        _require(middle)
        numbers = np.array(struct.unpack_from(">12i", body, matrix), np.float32) / 65536
        times, plus = numbers[:9].reshape(3, 3).T, numbers[9:]
        steps = [_through(_curves(body, middle, 3)), lambda values: values @ times + plus]
    before = _curves(body, first, channels) if table else [lambda levels: levels] * channels
    steps.append(_through(_curves(body, last, 3)))
    return Table(before, nodes, tuple(steps), connection, 1.0)


def _numbers(body: bytes, at: int, width: int, rows: int, columns: int) -> tuple[Floats, int]:
    end = at + rows * columns * width
    _require(end <= len(body))
    values = np.frombuffer(body[at:end], ">u2" if width == 2 else "u1").astype(np.float32)
    return values.reshape(rows, columns) / np.float32(256**width - 1), end


def _curves(body: bytes, at: int, count: int) -> list[Curve]:
    found = []
    for _ in range(count):
        curve, length = _curve(body[at:])
        found.append(curve)
        at += length + -length % 4
    return found


def _through(curves: list[Curve]) -> Callable[[Floats], Floats]:
    def step(values: Floats) -> Floats:
        values = values.clip(0, 1)
        return np.stack([curve(values[:, at]) for at, curve in enumerate(curves)], axis=1)

    return step


def _require(condition: object) -> None:
    if not condition:
        raise ValueError("a table of a kind that is not known")
