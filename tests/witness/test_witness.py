"""What Chromium and Firefox show of made files is scored; what is not would be found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.unit.pictures import animate, blotches, encode
from tests.witness.browsers import Painted, Shown, Witnesses, installed
from tests.witness.coverage import compare, default_decoder, most_apart, watch
from tests.witness.files import FORMATS
from tests.witness.files.drawn import hills, sand, smiley
from tests.witness.files.gif import control, part, screen
from tests.witness.mutation import mutated
from worker.image.decoder import Decoder

#: Every so many made files are shown here; `make witness` shows them all.
_EVERY = 9


@pytest.fixture(scope="module")
def witnesses() -> Iterator[Witnesses]:
    """The browsers of this machine."""
    if len(installed()) < 2:
        message = "chromium and firefox-esr are needed; on Debian: apt-get install them"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with Witnesses() as running:
        yield running


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    """As a worker runs it."""
    with default_decoder() as running:
        yield running


@pytest.mark.browser
@pytest.mark.parametrize("name", FORMATS)
def test_what_browsers_show_of_odd_files_is_scored(
    name: str, witnesses: Witnesses, decoder: Decoder
) -> None:
    """Chunks late, twice, impossible; frames hidden; colours falsified: each in every format."""
    files = list(FORMATS[name]())[::_EVERY]
    findings = list(watch(files, witnesses, decoder))
    uncovered = {finding.name: finding.unlike for finding in findings if finding.is_uncovered}
    assert not uncovered
    assert sum(finding.is_shown for finding in findings) > len(findings) / 2


@pytest.mark.browser
def test_what_browsers_show_of_other_peoples_test_files_is_scored(
    witnesses: Witnesses, decoder: Decoder
) -> None:
    """Those that suites.py fetched into the folder that the environment names."""
    folder = os.environ.get("AVATARMOD_TEST_SUITES", "")
    if not folder:
        pytest.skip("AVATARMOD_TEST_SUITES names no folder; see tests/witness/suites.py")
    files = [(path.name, path.read_bytes()) for path in sorted(Path(folder).iterdir())]
    assert len(files) > 500
    findings = watch(files, witnesses, decoder)
    assert not [finding.name for finding in findings if finding.is_uncovered]


@pytest.mark.browser
def test_every_frame_of_an_animation_is_read_back(witnesses: Witnesses) -> None:
    """Composed as the browser composes it, with its time."""
    frames = [blotches(64, 48, seed) for seed in range(3)]
    ((_, shown),) = witnesses.show([animate(frames, "GIF", duration_ms=200)])
    assert {browser.browser for browser in shown} == {"chromium", "firefox"}
    for browser in shown:
        still, *moving = browser.pictures
        assert (still.width_px, still.height_px, len(moving)) == (64, 48, 3)
        assert [frame.duration_s for frame in moving] == [0.2, 0.2, 0.2]
        for frame, original in zip(moving, frames, strict=True):
            off = frame.pixels[..., :3].astype(np.int16) - np.asarray(original)
            assert np.abs(off).mean() < 12


def test_a_thing_shown_that_is_not_scored_is_found(decoder: Decoder) -> None:
    """Another picture, a part over black, a late frame: each makes the file uncovered."""
    data = encode(blotches(96, 96), "PNG")
    true = np.asarray(blotches(96, 96).convert("RGBA"))
    half = true.copy()
    half[20:60, 20:60, 3] = 0
    for pixels, is_uncovered in (
        (true, False),
        (np.dstack([sand(), true[..., 3]]), True),
        (half, True),
    ):
        shown = [Shown(browser="one", pictures=[painted(true), painted(pixels, 0.1)])]
        assert compare("a file", data, shown, decoder).is_uncovered is is_uncovered


def test_a_middle_that_is_not_scored_is_found() -> None:
    """Pictures are compared box by box, so a small part counts as much as the whole."""
    picture = np.asarray(hills(224)).copy()
    other = picture.copy()
    other[100:112, 100:112] = smiley(12)
    assert most_apart(picture, picture) == 0
    assert most_apart(picture, other) > 60


def test_what_is_refused_or_gray_is_not_uncovered(decoder: Decoder) -> None:
    """Only what could be approved counts."""
    tiles = [part(np.asarray(blotches(16, 16, seed)), 64) for seed in range(70)]
    many = screen(16, 16) + b"".join(control(5) + tile.at() for tile in tiles) + b"\x3b"
    shown = [
        Shown(browser="one", pictures=[painted(np.dstack([sand(32), sand(32)[..., :1] | 255]))])
    ]
    finding = compare("many frames", many, shown, decoder)
    assert finding.unlike
    assert finding.picture is not None
    assert finding.picture.unseen == "unseen_frames"
    assert not finding.is_uncovered
    assert not compare("no picture", b"nothing", shown, decoder).is_uncovered


def test_mutations_can_be_made_again() -> None:
    """The same seed gives the same files, another seed others; most differ from each other."""
    one, again, other = (dict(mutated(70, seed, "gif", "webp")) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    assert len(set(one.values())) > 60


def painted(pixels: np.ndarray, duration_s: float = -1) -> Painted:
    """As a browser would post it."""
    height_px, width_px = pixels.shape[:2]
    return Painted(
        pixels=pixels.astype(np.uint8),
        width_px=width_px,
        height_px=height_px,
        duration_s=duration_s,
    )
