"""Gain maps: what screens that can do more than white show is seen too, or doubted."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.unit.image.test_containers import opened
from tests.unit.pictures import STRETCH, blotches, encode
from tests.witness.files.drawn import hills, letter, sand
from tests.witness.files.jpeg import exif, segment, turn, with_segments
from tests.witness.files.rare import gain
from worker.image.containers.formats import DecodeLimits
from worker.image.decoder import Decoder
from worker.image.frames import Frames
from worker.image.views import ViewOptions, look

FILES = dict(gain.jpegs())


def mean(image: Image.Image, where: npt.NDArray[np.bool_]) -> float:
    """Mean level of a part of a picture."""
    return float(np.asarray(image.convert("RGB"))[where].mean())


@pytest.mark.parametrize("name", ["usual", "usual-elements", "usual-iso"])
def test_a_usual_map_is_applied_and_not_doubted(name: str) -> None:
    """Level 64 of -1 to 3 stops changes nothing, 230 adds 2.6: the letter stands out."""
    frame, doubts = opened(FILES[f"gain-{name}.jpg"])
    assert not doubts
    assert list(frame.renditions) == ["", "lit", "lit-dim"]
    assert not frame.is_plain
    inside = np.asarray(Image.fromarray(letter()).resize((96, 96)))
    base, lit, dim = frame.renditions.values()
    assert abs(mean(lit, ~inside) - mean(base, ~inside)) < 4
    assert mean(lit, inside) > mean(base, inside) + 60
    assert mean(dim, ~inside) < mean(base, ~inside) - 40


@pytest.mark.parametrize(
    "name", [name for name in FILES if "usual" not in name and "directory" not in name]
)
def test_a_map_that_ordinary_screens_may_show_is_doubted(name: str) -> None:
    """Reversed, in reach of every screen, hidden from a search for words, or one of two."""
    assert opened(FILES[name])[1] == ["a gain map of an unusual kind"]


def test_what_only_the_map_shows_is_a_view() -> None:
    """Hills drawn by light that is added to nearly even darkness; and above white, to white."""
    dark = np.full((96, 96, 3), 13, np.uint8)
    white = np.full((96, 96, 3), 255, np.uint8)
    about = gain.xmp({**gain.USUAL, "GainMapMin": "0", "GainMapMax": "6"})
    for ground in (dark, white):
        frames = Frames(gain.with_map(about, ground, hills()), DecodeLimits(), 10**6)
        looked = look(frames, ViewOptions(spec=STRETCH))
        assert not looked.unseen
        assert looked.flat is None
        assert max(float(view.pixels.std()) for view in looked.views) > 25


def test_maps_are_turned_with_their_picture() -> None:
    """By the picture's own orientation."""
    ramp = np.tile(np.linspace(0, 255, 96).astype(np.uint8)[:, None, None], (1, 96, 3))
    even = np.full((96, 96, 3), 60, np.uint8)
    data = with_segments(gain.with_map(gain.xmp(gain.USUAL), even, ramp), exif(turn(3)))
    frame, doubts = opened(data)
    assert not doubts
    lit = np.asarray(frame.renditions["lit"]).astype(int)
    assert lit[5].mean() > lit[-5].mean() + 50


def test_a_map_of_other_size_and_in_grey_is_stretched() -> None:
    """Phones write a quarter of each side."""
    small = np.asarray(Image.fromarray(gain.mask()).resize((24, 24)))
    frame, doubts = opened(gain.with_map(gain.xmp(gain.USUAL), levels=small))
    assert not doubts
    assert {image.size for image in frame.renditions.values()} == {(96, 96)}


def test_pictures_behind_and_inside_that_are_no_maps_change_nothing() -> None:
    """Thumbnails, previews and a second photograph."""
    base = encode(Image.fromarray(sand()), "JPEG", quality=90)
    other = encode(blotches(64, 64), "JPEG")
    for data in (base + other, with_segments(base, exif(turn(1) + other)), base + other[:50]):
        frame, doubts = opened(data)
        assert not doubts
        assert list(frame.renditions) == [""]


def test_metadata_of_two_kinds_that_differ_are_both_followed() -> None:
    """Which of them counts hangs on what the first picture announces."""
    weak = gain.iso({**gain.USUAL, "GainMapMax": "0.5"})
    both = gain.with_map(gain.xmp(gain.USUAL), before=segment(0xE2, weak))
    frame, doubts = opened(both)
    assert not doubts
    first, other = (np.asarray(frame.renditions[name]).astype(int) for name in ("lit", "lit-2"))
    assert other.mean() > first.mean() + 3
    same = gain.with_map(gain.xmp(gain.USUAL), before=segment(0xE2, gain.iso(gain.USUAL)))
    assert list(opened(same)[0].renditions) == ["", "lit", "lit-dim"]


@pytest.mark.process
def test_a_confined_child_sees_what_is_lit_and_hands_it_to_reviewers() -> None:
    """It can import nothing more, and has the memory of a first look."""
    levels = np.asarray(blotches(1000, 750, 1))
    data = gain.with_map(gain.xmp(gain.USUAL), np.asarray(blotches(4000, 3000)), levels)
    with Decoder(DecodeLimits(), ViewOptions(spec=STRETCH), first_look=True) as decoder:
        picture = decoder.decode(data)
        assert {view.background for view in picture.views} > {"", "/lit"}
        lit = Image.open(io.BytesIO(decoder.normalise(data, background="/lit")))
        base = Image.open(io.BytesIO(decoder.normalise(data)))
        assert np.asarray(lit).mean() > np.asarray(base).mean() + 10
        assert decoder.safe_copy(data, 512)[1:] == ("image/jpeg", 512, 384)


def test_a_damaged_map_is_doubted() -> None:
    """Cut short, it leaves its picture whole."""
    data = FILES["gain-usual.jpg"]
    assert opened(data[:-200])[1] == ["a gain map that is damaged"]


def test_numbers_that_no_camera_writes_are_doubted() -> None:
    """Told twice, in another way, beyond all screens, or none."""
    usual = gain.xmp(gain.USUAL)
    for old, new in (
        (b"GainMapMax='3'", b"GainMapMax='300'"),
        (b"GainMapMax='3'", b"GainMapMax='nan'"),
        (b"GainMapMax='3'", b"GainMapMax='3' hdrgm:GainMapMax='1'"),
        (b"GainMapMax='3'", b"GainMapMax='1,2,3'"),
        (b"Gamma='1'", b"Gamma='0'"),
        (b"HDRCapacityMin='0'", b"HDRCapacityMin='3'"),
        (b"rdf:about=''", b"rdf:about='' xmpNote:HasExtendedXMP='x'"),
    ):
        assert usual.count(old) == 1
        assert opened(gain.with_map(usual.replace(old, new)))[1]


def test_gain_maps_of_avif_are_doubted() -> None:
    """Chromium applies them; hardly any program writes them."""
    for _, data in gain.avifs():
        assert opened(data)[1] == ["a gain map"]


HEICS = dict(gain.heics())


@pytest.mark.parametrize("name", HEICS)
def test_maps_of_heic_are_seen_or_doubted(name: str) -> None:
    """No browser shows HEIC, but phones do, and light the picture up."""
    frame, doubts = opened(HEICS[name])
    if not name.startswith("usual"):
        assert doubts == ["a gain map"]
        return
    assert not doubts
    inside = np.asarray(Image.fromarray(letter()).resize((96, 96)))
    assert mean(frame.renditions["lit"], inside) > mean(frame.image, inside) + 60
    assert ("lit-2" in frame.renditions) is (name == "usual-both.heic")
