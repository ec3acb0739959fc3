"""Profiles that browsers read and the colour library does not, or otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from tests.witness.files.drawn import hills
from tests.witness.files.jpeg import encode, icc, with_segments
from tests.witness.files.rare.profiles import odd
from worker.image.containers.formats import DecodeLimits
from worker.image.frames import Frame, Frames

PROFILES = odd()


def opened(name: str) -> tuple[Frame, list[str]]:
    """Hills with this profile, and the doubts."""
    data = with_segments(encode(hills()), icc(PROFILES[name]))
    frames = Frames(data, DecodeLimits(), 10**6)
    return frames.read(0), frames.doubts


@pytest.mark.parametrize(("count", "is_doubted"), [(90, False), (110, True), (250, True)])
def test_a_profile_with_more_tags_than_the_library_reads_is_doubted(
    count: int, is_doubted: bool
) -> None:
    """Browsers apply it."""
    assert bool(opened(f"tags-{count}")[1]) is is_doubted


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


def test_tables_that_tear_like_colours_apart_are_doubted() -> None:
    """Browsers read between their nodes in another way than the library."""
    assert opened("tables-torn")[1] == [
        "colours that look the same in the file and are shown apart"
    ]
