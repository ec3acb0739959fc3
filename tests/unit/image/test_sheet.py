"""Small pictures for people: which frames are drawn, how large, and that nothing else leaves."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tests.unit.pictures import animate, encode
from worker.image.containers.formats import DecodeLimits
from worker.image.frames import Frames
from worker.image.sheet import _spread, sheet

#: A grey for each frame, far enough apart that JPEG keeps them apart.
STEP = 24


def greys(count: int, size: tuple[int, int] = (64, 64)) -> bytes:
    """An animation whose frame number is in its colour."""
    frames = [Image.new("RGB", size, (n * STEP,) * 3) for n in range(count)]
    return animate(frames, "GIF", duration_ms=[100 * (n + 1) for n in range(count)])


def drawn(data: bytes, **asked: int) -> tuple[Image.Image | None, list[float]]:
    side_px = asked.get("side_px", 32)
    frames = Frames(data, DecodeLimits(), side_px)
    jpeg, lengths = sheet(frames, asked.get("frame", 0), "", side_px, asked.get("most", 1))
    return (Image.open(io.BytesIO(jpeg)) if jpeg else None), lengths


def levels(row: Image.Image, side_px: int) -> list[int]:
    """Which frame each square of a row shows."""
    pixels = np.asarray(row.convert("L"))
    middles = range(side_px // 2, row.width, side_px)
    return [round(int(pixels[side_px // 2, x]) / STEP) for x in middles]


def test_a_still_picture_keeps_its_shape() -> None:
    """Its longest side as asked for; what is smaller is not made larger."""
    still = encode(Image.new("RGB", (300, 150), "red"), "PNG")
    image, lengths = drawn(still, side_px=100)
    assert image is not None
    assert (image.size, lengths) == ((100, 50), [])
    small, _ = drawn(encode(Image.new("RGB", (20, 10)), "PNG"), side_px=100)
    assert small is not None
    assert small.size == (20, 10)


def test_a_still_picture_has_no_row() -> None:
    assert drawn(encode(Image.new("RGB", (9, 9)), "PNG"), most=12) == (None, [])


def test_one_of_an_animation_is_its_worst() -> None:
    """Also where the record names a frame that the file does not have."""
    for frame, shown in ((0, 0), (3, 3), (99, 4)):
        image, _ = drawn(greys(5), frame=frame)
        assert image is not None
        assert levels(image, 32) == [shown]


def test_a_row_has_every_frame_of_a_short_one() -> None:
    """In order, each as long as the file says, over grey where it is not square."""
    row, lengths = drawn(greys(4, (64, 32)), most=12, side_px=32)
    assert row is not None
    assert row.size == (4 * 32, 32)
    assert levels(row, 32) == [0, 1, 2, 3]
    assert lengths == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert abs(int(np.asarray(row.convert("L"))[2, 16]) - 128) < 12


def test_a_row_of_a_long_one_has_the_worst_and_the_whole_length() -> None:
    """Frames at even distances; each stands for those after it."""
    row, lengths = drawn(greys(10), most=4, frame=9, side_px=32)
    assert row is not None
    shown = levels(row, 32)
    assert (len(shown), shown[0], shown[-1]) == (4, 0, 9)
    assert sum(lengths) == pytest.approx(sum(0.1 * (n + 1) for n in range(10)))


@pytest.mark.parametrize("count", [1, 2, 5, 12, 13, 100, 1000])
@pytest.mark.parametrize("most", [1, 2, 4, 12])
def test_the_first_and_the_worst_are_always_there(count: int, most: int) -> None:
    """Whichever the worst is; in order, and never more than asked for."""
    for worst in {0, 1, count // 3, count - 2, count - 1} & set(range(count)):
        chosen = _spread(count, worst, most)
        assert worst in chosen
        assert chosen == sorted(set(chosen))
        assert len(chosen) == min(count, most)
        assert chosen[0] == 0 or most == 1


def test_nothing_of_the_file_but_pixels_leaves() -> None:
    """No comment, profile or position; a JPEG, whatever it was."""
    image = Image.new("RGB", (64, 64), "blue")
    exif = Image.Exif()
    exif[0x010E] = "a secret place"
    data = encode(image, "JPEG", exif=exif, comment=b"a secret word")
    frames = Frames(data, DecodeLimits(), 32)
    jpeg, _ = sheet(frames, 0, "", 32, 1)
    assert b"secret" not in jpeg
    small = Image.open(io.BytesIO(jpeg))
    assert (small.format, dict(small.getexif()), small.info.get("icc_profile")) == (
        "JPEG",
        {},
        None,
    )
