"""Profiles that browsers read and the colour library does not, or otherwise."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.witness.files.drawn import hills
from tests.witness.files.jpeg import encode, icc, with_segments
from tests.witness.files.rare import tables
from tests.witness.files.rare.profiles import odd
from worker.image.containers import icc as icc_reader
from worker.image.containers.formats import DecodeLimits
from worker.image.frames import Frame, Frames

PROFILES = odd()


def opened(name: str) -> tuple[Frame, list[str]]:
    """Hills with this profile, and the doubts."""
    data = with_segments(encode(hills()), icc(PROFILES[name]))
    frames = Frames(data, DecodeLimits(), 10**6)
    return frames.read(0), frames.doubts


@pytest.mark.parametrize(("count", "is_doubted"), [(90, False), (110, False), (250, True)])
def test_a_profile_is_read_whatever_tags_it_has_or_doubted(count: int, is_doubted: bool) -> None:
    """Browsers apply it, the library has no place for so many."""
    frame, doubts = opened(f"tags-{count}")
    assert bool(doubts) is is_doubted
    assert ("stored" in frame.renditions) is not is_doubted


def test_tables_with_a_matrix_are_read_each_way_and_not_doubted() -> None:
    """Two tables are left out together where only the matrix is read."""
    frame, doubts = opened("tables")
    assert not doubts
    assert {"", "icc-matrix", "stored"} <= set(frame.renditions)


def test_tables_of_floating_point_change_nothing() -> None:
    """No browser reads them; the library would prefer them."""
    for name, other in (("tables-and-floats", "tables-alone"), ("floats", "tags-90")):
        frame, doubts = opened(name)
        assert not doubts
        alike = np.array_equal(np.asarray(frame.image), np.asarray(opened(other)[0].image))
        assert alike is (name == "tables-and-floats")
    assert "icc-matrix" not in opened("floats")[0].renditions


def test_tables_to_xyz_are_doubted() -> None:
    """Chromium takes them for half as light, which shows what others clip."""
    assert opened("tables-to-xyz")[1] == ["a colour profile that viewers read in different ways"]


TABLES = dict(tables.files())


#: Those that every program reads alike, or in ways that are scored.
LIKE = ("plain-9", "plain-33", "inks-apart", "curve-")
HIDING = ("in-curve", "grey-in-curve", "version-4", "corners-2", "corners-9", "inks-corners")


@pytest.mark.parametrize("name", [name for name in TABLES if name.startswith(LIKE + HIDING)])
def test_what_browsers_see_between_nodes_is_what_the_library_sees_or_doubted(name: str) -> None:
    """Hidden in a curve, or seen by who looks at all nodes around a colour, or plain to see."""
    frames = Frames(TABLES[name], DecodeLimits(), 10**6)
    frames.read(0)
    reason = "colours that browsers read from tables in another way"
    assert (reason in frames.doubts) is name.startswith(HIDING)


def test_tables_are_looked_up_in_all_nodes_around_a_colour() -> None:
    """Half of the way along the greys, six of eight corners are white, which the library skips."""
    table = icc_reader.table_of(tables.of_tables(tables.lut(2, tables.corners)), b"A2B0")
    assert table is not None
    levels = np.array([[0, 0, 0], [255, 0, 255], [255, 255, 255], [127, 127, 127]], np.uint8)
    for shown in (table.shown(levels), table.shown_baked(levels)):
        # The lightness of three quarters is a level of 184.
        expected = [[0] * 3, [255] * 3, [0] * 3, [184] * 3]
        assert np.abs(shown.astype(int) - expected).max() <= 3


@pytest.mark.parametrize(
    ("name", "is_doubted"),
    [
        ("deep-steep", True),
        ("deep-hole", True),
        ("deep-gamma", True),
        ("deep-plain", False),
        ("bright-2", False),
        ("bright-20", True),
    ],
)
def test_levels_that_are_too_fine_or_too_bright_for_the_library_are_doubted(
    name: str, is_doubted: bool
) -> None:
    """It has 256 levels and numbers up to eight; browsers show what lies between and beyond."""
    frames = Frames(TABLES[f"{name}.png"], DecodeLimits(), 10**6)
    frames.read(0)
    assert bool(frames.doubts) is is_doubted


def test_a_profile_without_black_is_shown_without_black() -> None:
    """The library would stretch it to black; 0.2 of the light is a level of 124."""
    frame = Frames(TABLES["curve-2.png"], DecodeLimits(), 10**6).read(0)
    assert np.asarray(frame.image).min() in range(120, 126)


def test_of_a_large_picture_no_pixel_is_safe_from_being_looked_at() -> None:
    """Every second row shows a face by the curve; which pixels are tried, the picture decides."""
    face = np.asarray(
        Image.fromarray(tables.hidden()).resize((1100, 1100), Image.Resampling.NEAREST)
    )
    for rows in (slice(0, None, 2), slice(1, None, 2)):
        striped = np.full_like(face, tables.HIDDEN + 1)
        striped[rows] = face[rows]
        profile = tables.of_tables(tables.lut(9, tables.plain, curve=tables.hiding_curve()))
        frames = Frames(tables.painted(striped, profile), DecodeLimits(), 10**6)
        frames.read(0)
        assert frames.doubts


def test_four_inks_are_shown_with_and_without_black() -> None:
    """Chromium makes them three colours and applies the profile to those, Firefox does not."""
    frame = Frames(TABLES["inks-apart-2.jpg"], DecodeLimits(), 10**6).read(0)
    assert {"", "icc-no-black", "stored"} <= set(frame.renditions)
