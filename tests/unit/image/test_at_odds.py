"""Files of which two readers, each right in its own way, would show two pictures."""

from __future__ import annotations

import struct

import pytest

from producer.errors import UnsupportedImage
from tests.unit.pictures import blotches, encode
from tests.witness.files.avif import SRGB, coded, still
from tests.witness.files.rare import avif_at_odds
from tests.witness.files.rare.jpeg import directories
from worker.image import containers
from worker.image.containers.contents import exif_orientation
from worker.image.containers.formats import DecodeLimits
from worker.image.frames import Frames


def opened(data: bytes) -> tuple[list[str], list[str]]:
    """Names of the renditions of the first frame, and the doubts."""
    frames = Frames(data, DecodeLimits(), 10**6)
    return list(frames.read(0).renditions), frames.doubts


@pytest.mark.parametrize("name", ["icon", "cursor"])
@pytest.mark.parametrize("brand", [b"avif", b"heic"])
def test_a_first_box_as_long_as_an_icons_signature_is_an_icon(name: str, brand: bytes) -> None:
    """Browsers look for icons before AVIF and show that one; no reader of ours sees the file."""
    data = avif_at_odds.icon(name).replace(b"ftypavif", b"ftyp" + brand)
    with pytest.raises(UnsupportedImage, match=name):
        containers.read(data, DecodeLimits())


def test_a_first_box_of_another_length_is_no_icon() -> None:
    """As all programs write it."""
    plain = still([coded("sand", SRGB)])
    (length,) = struct.unpack_from(">I", plain)
    assert length not in (256, 512)
    assert opened(plain) == ([""], [])


def test_a_list_of_pictures_that_is_not_as_long_as_it_says_is_doubted() -> None:
    """Chromium leaves out the transparency that stands behind its end, Firefox does not."""
    files = dict(avif_at_odds.files())
    for name in ("list-lies--1.avif", "list-lies-1.avif"):
        assert opened(files[name])[1]


def test_transparency_of_single_tiles_is_doubted() -> None:
    """Chromium puts it together; a grid without any is read."""
    assert opened(avif_at_odds.clear_tiles()) == ([""], [])
    for clear in ((10, 11), (11,)):
        assert opened(avif_at_odds.clear_tiles(*clear))[1] == ["a transparency of single tiles"]


def test_transparency_with_a_property_that_is_not_known_is_doubted() -> None:
    """Chromium leaves it out, Firefox does not."""
    data = dict(avif_at_odds.files())["alpha-not-known.avif"]
    assert opened(data)[1] == ["a transparency with properties that are not known"]


def test_a_picture_that_is_preferred_to_the_primary_one_is_doubted() -> None:
    """Chromium shows the first of alternatives."""
    assert opened(avif_at_odds.alternatives(1, 2)) == ([""], [])
    assert opened(avif_at_odds.alternatives(3, 1)) == ([""], [])
    (doubt,) = opened(avif_at_odds.alternatives(2, 1))[1]
    assert "preferred" in doubt


def test_colours_that_tiles_tell_are_scored_where_the_grid_tells_none() -> None:
    """Chromium follows the first tile, Firefox does not."""
    renditions, doubts = opened(avif_at_odds.told_by_tiles())
    assert len(renditions) > 1
    assert not doubts


def test_colours_of_a_film_that_are_told_otherwise_are_doubted() -> None:
    """Firefox goes by the still picture beside it, Chromium by the stream."""
    assert opened(avif_at_odds.plain_film())[1] == []
    assert opened(avif_at_odds.film_told(0, 1, 8, 6))[1] == [
        "a film that has other colours than the picture beside it"
    ]
    assert len(opened(avif_at_odds.film_told(1, 1, 13, 0))[1]) == 2


def test_every_picture_of_a_film_is_asked_how_it_is_coded() -> None:
    """Chromium follows each."""
    plain, other = bytes([1, 13, 6]), bytes([1, 13, 8])
    assert opened(avif_at_odds.film_of_stills(plain, plain))[1] == []
    for told in ((plain, other), (other, plain), (other, other)):
        (doubt,) = opened(avif_at_odds.film_of_stills(*told))[1]
        assert "another way" in doubt


def test_colours_that_are_called_grey_are_doubted() -> None:
    """Firefox believes the configuration box."""
    for data in (still([coded("sand", SRGB)]), avif_at_odds.plain_film()):
        assert opened(data)[1] == []
        (doubt,) = opened(avif_at_odds.called_grey(data))[1]
        assert "there are none" in doubt


def test_two_transparencies_of_one_picture_are_doubted() -> None:
    """Which of them hides what is for each reader to choose."""
    data = dict(avif_at_odds.files())["alpha-twice-listed-otherwise.avif"]
    assert opened(data)[1] == ["two transparencies"]


@pytest.mark.parametrize(
    ("name", "renditions", "is_doubted"),
    [
        ("linear", ["", "stored"], False),
        ("linear-configured-plain", ["", "stored"], False),
        ("plain-configured-linear", [""], False),
        ("plain-then-linear", [""], True),
        ("linear-then-plain", [""], True),
    ],
)
def test_colours_are_those_of_the_coded_stream(
    name: str, renditions: list[str], is_doubted: bool
) -> None:
    """Not what its configuration box repeats; headers that differ are doubted."""
    found, doubts = opened(avif_at_odds.stream(*avif_at_odds.STREAMS[name]))
    assert found == renditions
    assert bool(doubts) is is_doubted


@pytest.mark.parametrize("name", avif_at_odds.FILMS)
def test_a_second_film_is_transparency_by_every_sign_or_doubted(name: str) -> None:
    """Browsers go by its handler, by its link or by its name, each by another."""
    doubts = opened(avif_at_odds.film(*avif_at_odds.FILMS[name]))[1]
    assert bool(doubts) is (name != "clear")


def test_an_animation_of_pillows_is_not_doubted() -> None:
    """Opaque and transparent."""
    opaque = blotches(240, 180)
    clear = opaque.convert("RGBA")
    clear.putalpha(100)
    for image in (opaque, clear):
        moving = encode(image, "AVIF", save_all=True, append_images=[image.rotate(180)])
        assert opened(moving)[1] in (
            [],
            ["a film so small that the size of its colour samples is seen"],
        )


BLOCKS = dict(directories())


@pytest.mark.parametrize("name", BLOCKS)
def test_an_orientation_in_a_directory_within_is_doubted(name: str) -> None:
    """Firefox reads it, Chromium does not."""
    orientation, is_plain = exif_orientation(BLOCKS[name])
    assert is_plain is name.startswith(("private-same", "directory-"))
    if is_plain:
        assert orientation == (6 if name == "private-same" else 1)


@pytest.mark.parametrize("depth", [8, 10, 12])
def test_pictures_of_more_than_256_levels_are_known(depth: int) -> None:
    """By what the list of properties says of them, or the codec's own box."""
    data = still([coded("sand", SRGB)])
    at = data.index(b"pixi") + 9
    told = data[:at] + bytes([depth] * 3) + data[at + 3 :]
    assert containers.read(told, DecodeLimits()).is_deep is (depth > 8)
    at = data.index(b"av1C") + 6
    flagged = data[:at] + bytes([data[at] | (0x40 if depth > 8 else 0)]) + data[at + 1 :]
    assert containers.read(flagged, DecodeLimits()).is_deep is (depth > 8)
