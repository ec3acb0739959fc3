"""Profiles that hide a picture between the nodes of their tables, or in curves before these."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import numpy as np

from tests.witness.files import profiles
from tests.witness.files.drawn import Pixels, grey, hills, smiley
from tests.witness.files.jpeg import icc
from tests.witness.files.png import IEND, gama, header, iccp, idat, text_less
from tests.witness.files.rare.jpeg import encode_inks
from tests.witness.files.rare.profiles import (
    in_lab,
    lab_of,
    tags_of,
    with_tags,
    without_matrix,
    written,
)

Node = Callable[..., tuple[float, float, float]]

#: The level that a curve makes black; no table of the library's has a node there.
HIDDEN = 130


def files() -> Iterator[tuple[str, bytes]]:
    """All kinds."""
    levels = grey(hills())
    greys = np.dstack([levels] * 3)
    for count in (2, 3, 9, 33):
        for name, node in NODES.items():
            profile = of_tables(lut(count, node))
            yield f"{name}-{count}.png", painted(hills(), profile)
            yield f"{name}-{count}-greys.png", painted(greys, profile)
    for label, width in (("", 2), ("-bytes", 1)):
        hiding = lut(9, plain, curve=hiding_curve(), width=width)
        for end, base in (("", profiles.PLAIN), ("-alone", without_matrix(profiles.PLAIN))):
            profile = with_tags(in_lab(base), {b"A2B0": hiding})
            yield f"in-curve{label}{end}.png", painted(hidden(), profile)
    version_4 = profiles.version(of_tables(lut_of_version_4(2, corners)), 4)
    yield "version-4.png", painted(greys, version_4)
    one_level = hidden()[..., 0]
    tags = [(b"A2B0", lut(9, plain, 1, hiding_curve())), *tags_of(profiles.GREY_FLAT)[:1]]
    yield "grey-in-curve.png", painted(one_level, in_lab(written(profiles.GREY_FLAT, tags)))
    for name, content in CURVES.items():
        yield f"curve-{name}.png", painted(hills(), _with_curve(content))
    yield from _deep()
    for times in (2, 4, 20):
        yield (
            f"bright-{times}.png",
            painted(hills(), profiles.icc_profile(profiles.SRGB * times, 2.2)),
        )
    inks = np.dstack([255 - greys, 255 - levels])
    for count in (2, 7):
        for name, node in INKS.items():
            profile = of_inks(lut(count, node, 4))
            data = encode_inks(inks)
            yield f"inks-{name}-{count}.jpg", data[:2] + icc(profile) + data[2:]


def _deep() -> Iterator[tuple[str, bytes]]:
    """Of 16 bits, of which the last eight show what the first do not."""
    faint = hills().astype(np.uint16)
    steep = _with_curve(_para(0, 0.12))
    entries = [40_000] * 4096
    entries[2000:2005] = [0] * 5
    hole = _with_curve(_curv(*entries))
    levels = np.where(smiley() < 150, 2002 * 16, 2012 * 16).astype(np.uint16)
    for name, extra, picture in (
        ("steep", iccp(steep), faint),
        ("hole", iccp(hole), levels),
        ("gamma", gama(200_000), faint),
        ("plain", iccp(profiles.PERMUTED), faint * 257),
    ):
        head = header(96, 96, 16, 2)
        yield f"deep-{name}.png", text_less([head, extra, idat(picture, 16), IEND])


def _with_curve(content: bytes) -> bytes:
    tags = tags_of(profiles.PLAIN)
    return written(
        profiles.PLAIN, [(tag, content if tag[1:] == b"TRC" else body) for tag, body in tags]
    )


def painted(picture: Pixels, profile: bytes) -> bytes:
    """A PNG of colours or greys with a profile."""
    kind = 2 if picture.ndim == 3 else 0
    head = header(picture.shape[1], picture.shape[0], 8, kind)
    return text_less([head, iccp(profile), idat(picture), IEND])


def hidden() -> Pixels:
    """A face in a level that nobody tells from the next."""
    levels = np.where(grey(smiley()) < 150, HIDDEN, HIDDEN + 1).astype(np.uint8)
    return np.dstack([levels] * 3)


def hiding_curve() -> np.ndarray:
    """Levels as they are but for one."""
    curve = np.linspace(0, 1, 256)
    curve[HIDDEN] = 0
    return curve


def plain(*levels: float) -> tuple[float, float, float]:
    """Colours, or greys, as they are."""
    return tuple(level**2.2 for level in (levels * 3)[:3])  # type: ignore[return-value]


def corners(*levels: float) -> tuple[float, float, float]:
    """All greys black and all colours white, which is seen between nodes alone."""
    return (0.0 if len(set(levels[:3])) == 1 else 1.0,) * 3


def squares(*levels: float) -> tuple[float, float, float]:
    """Every second node white, for tables of three."""
    return (float(round(2 * sum(levels)) % 2),) * 3


def apart(*levels: float) -> tuple[float, float, float]:
    """White where the first ink and black differ: Chromium prints without black."""
    return (float(abs(levels[0] - levels[3]) > 0.4),) * 3


NODES: dict[str, Node] = {"plain": plain, "corners": corners, "squares": squares}
INKS: dict[str, Node] = {"corners": corners, "apart": apart}


def of_tables(table: bytes) -> bytes:
    """A profile for colours with it and nothing else."""
    tags = {b"A2B0": table, b"A2B1": table}
    return with_tags(in_lab(without_matrix(profiles.PLAIN)), tags)


def of_inks(table: bytes) -> bytes:
    """A printer's."""
    profile = written(profiles.PLAIN, [(b"A2B0", table), (b"A2B1", table)])
    return in_lab(profiles.kind(profiles.space(profile, b"CMYK"), b"prtr"))


def _nodes(count: int, node: Node, channels: int) -> np.ndarray:
    line = np.linspace(0, 1, count)
    grid = np.stack(np.meshgrid(*[line] * channels, indexing="ij"), axis=-1)
    return np.array([lab_of(*node(*levels)) for levels in grid.reshape(-1, channels)])


def lut(
    count: int, node: Node, channels: int = 3, curve: np.ndarray | None = None, width: int = 2
) -> bytes:
    """A table of 8 or 16 bits to Lab. Source: ICC.1:2001-04, 6.5.7 and 6.5.8."""
    curve = np.linspace(0, 1, 256) if curve is None else curve
    kind, number, most = (b"mft2", ">u2", 65535) if width == 2 else (b"mft1", "u1", 255)
    line = np.linspace(0, 1, 256)
    # The Lab of 16 bits ends at 65,280.
    nodes = _nodes(count, node, channels) * (65280 / 65535 if width == 2 else 1)
    head = kind + bytes(4) + bytes([channels, 3, count, 0])
    head += struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    head += struct.pack(">HH", 256, 256) if width == 2 else b""
    parts = [*[curve] * channels, nodes, *[line] * 3]
    return head + b"".join((part * most).round().astype(number).tobytes() for part in parts)


def lut_of_version_4(count: int, node: Node) -> bytes:
    """The same with matrix and curves between. Source: ICC.1:2022, 10.12."""
    line = b"curv" + bytes(8)
    matrix = struct.pack(">12i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536, 0, 0, 0)
    nodes = (_nodes(count, node, 3) * 65535).round().astype(">u2").tobytes()
    table = bytes([count] * 3).ljust(16, b"\0") + b"\2\0\0\0" + nodes
    table += bytes(-len(table) % 4)
    places = 32, 32 + 36, 68 + 48, 116 + 36, 152 + len(table)
    head = b"mAB " + bytes(4) + b"\3\3\0\0" + struct.pack(">5I", *places)
    return head + line * 3 + matrix + line * 3 + table + line * 3


def _para(kind: int, *numbers: float) -> bytes:
    values = (round(number * 65536) for number in numbers)
    return b"para" + struct.pack(f">IHH{len(numbers)}i", 0, kind, 0, *values)


def _curv(*entries: int) -> bytes:
    return b"curv" + struct.pack(f">II{len(entries)}H", 0, len(entries), *entries)


#: Curves of every form; some leave no level black, some turn the picture into its negative.
CURVES = {
    "0": _para(0, 1 / 200),
    "1": _para(1, 2.2, 1.4, -0.4),
    "1-falls": _para(1, 2.2, -1, 1),
    "1-without-a": _para(1, 2.2, 0, 0.5),
    "2": _para(2, 2.2, 1, -0.3, 0.2),
    "3": _para(3, 2.2, 1, 0, 0, 0.5),
    "3-falls": _para(3, 2.4, 1, 0, -3, 0.5),
    "4": _para(4, 2.4, 1, 0, 0.2, 0.4, 0.3, 0.5),
    "4-bright": _para(4, 1, 1, 0, 1, 0.5, 1, 1),
    "5": _para(5, 1),
    "none": _curv(),
    "one": _curv(25),
    "zero": _curv(0),
    "falls": _curv(65535, 0),
    "even": _curv(30000, 30000),
    "peak": _curv(0, 65535, 0),
}
