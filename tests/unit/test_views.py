"""Which views of a picture are scored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.unit.pictures import SHORT_SIDE, STRETCH, animate, blotches, encode
from worker.formats import DecodeLimits
from worker.frames import Frames, prepare_codecs
from worker.pixels import fit
from worker.views import View, ViewOptions, look, spread


@pytest.fixture(autouse=True)
def _codecs() -> None:
    prepare_codecs()


def looked(data: bytes, **options: Any) -> tuple[list[View], str | None]:
    """Look at a file with the stretching rule unless told otherwise."""
    chosen = ViewOptions(**{"spec": STRETCH, **options})
    return look(Frames(data, DecodeLimits(), 768), chosen)


def names(views: list[View]) -> list[tuple[str, str]]:
    """Background and crop of each view."""
    return [(view.background, view.crop) for view in views]


def test_a_plain_picture_is_seen_as_the_bundle_says() -> None:
    """The only view is what `fit` makes of the whole picture."""
    image = blotches(300, 200)
    (view,), _ = looked(encode(image, "PNG"))
    assert np.array_equal(view.pixels, fit(image, STRETCH))
    assert (view.background, view.crop, view.frame, view.shown_share) == ("", "whole", 0, 1.0)


# -- transparency --------------------------------------------------------------------------------


def test_a_picture_that_only_white_shows_is_seen() -> None:
    """Black shapes on nothing are invisible on black and drawn on white."""
    image = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((20, 30, 80, 60), fill=(0, 0, 0, 255))
    views, _ = looked(encode(image, "PNG"))
    assert names(views) == [("white", "whole")]


def test_two_pictures_in_one_are_both_seen() -> None:
    """Grey levels and alpha can be mixed so that white and black show different pictures."""
    on_white = np.asarray(blotches(80, 80, 1).convert("L")) / 2 + 127.5
    on_black = np.asarray(blotches(80, 80, 2).convert("L")) / 2
    alpha = 255 - (on_white - on_black)
    grey = np.where(alpha > 0, on_black * 255 / np.maximum(alpha, 1), 0)
    image = Image.merge(
        "LA", [Image.fromarray(layer.clip(0, 255).astype(np.uint8)) for layer in (grey, alpha)]
    )
    views, _ = looked(encode(image, "PNG"))
    assert names(views) == [("white", "whole"), ("black", "whole")]
    expected = [
        fit(Image.fromarray(layer.astype(np.uint8)).convert("RGB"), STRETCH)
        for layer in (on_white, on_black)
    ]
    for view, pixels in zip(views, expected, strict=True):
        assert np.abs(view.pixels.astype(int) - pixels).max() <= 3


def test_faint_transparency_is_scored_once() -> None:
    """Where white and black look alike, one of them is enough."""
    image = blotches(80, 80).convert("RGBA")
    image.putalpha(250)
    views, _ = looked(encode(image, "PNG"))
    assert names(views) == [("white", "whole")]


def test_colours_under_full_transparency_are_seen_where_nothing_else_is() -> None:
    """A picture that appears when a program drops transparency does not pass as empty."""
    image = blotches(80, 80).convert("RGBA")
    image.putalpha(0)
    views, flat = looked(encode(image, "PNG"))
    assert names(views) == [("dropped", "whole")]
    assert flat is None


def test_an_empty_picture_is_a_single_colour() -> None:
    """Nothing visible and nothing hidden."""
    views, flat = looked(encode(Image.new("RGBA", (80, 80), (9, 9, 9, 0)), "PNG"))
    assert len(views) == 1
    assert flat == "single colour"


def test_hidden_colours_are_seen_beside_visible_ones_when_asked_for() -> None:
    """For sites that re-encode and drop transparency."""
    image = blotches(80, 80).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((80, 80)).point(lambda a: 255 * (a > 127)))
    data = encode(image, "PNG")
    assert ("dropped", "whole") not in names(looked(data)[0])
    assert names(looked(data, hidden_colours=True)[0])[-1] == ("dropped", "whole")


def test_one_background_can_be_chosen() -> None:
    """A site that is always dark need not score white."""
    image = blotches(80, 80).convert("RGBA")
    image.putalpha(100)
    assert names(looked(encode(image, "PNG"), backgrounds="black")[0]) == [("black", "whole")]


# -- animation -----------------------------------------------------------------------------------


def test_equal_frames_are_scored_once() -> None:
    """A blinking pixel is no second picture."""
    frames = [blotches(100, 100) for _ in range(5)]
    for number, frame in enumerate(frames):
        frame.putpixel((number, 0), (90, 90, 90))
    views, _ = looked(animate(frames, "WebP"))
    assert [(view.frame, view.shown_share) for view in views] == [(0, 1.0)]


@pytest.mark.parametrize("name", ["GIF", "PNG", "WebP", "AVIF"])
def test_no_more_frames_than_allowed_and_the_ends_among_them(name: str) -> None:
    """Thirty different frames give eight, with the first and the last."""
    frames = [blotches(60, 60, seed) for seed in range(30)]
    views, _ = looked(animate(frames, name))
    indices = [view.frame for view in views]
    assert len(indices) == 8
    assert indices == sorted(indices)
    assert {0, 29} <= set(indices)
    assert sum(view.shown_share for view in views) == pytest.approx(1.0)


def test_the_share_says_how_long_a_frame_is_shown() -> None:
    """One frame for nine seconds, one for a second."""
    views, _ = looked(animate([blotches(50, 50, 1), blotches(50, 50, 2)], "WebP", [9000, 1000]))
    assert [round(view.shown_share, 2) for view in views] == [0.9, 0.1]


def test_a_hidden_default_picture_of_an_apng_is_seen() -> None:
    """Programs that do not know APNG show it; others never do."""
    frames = [blotches(50, 50, seed) for seed in range(3)]
    data = encode(
        frames[0], "PNG", save_all=True, append_images=frames[1:], default_image=True, duration=50
    )
    views, _ = looked(data)
    assert [view.frame for view in views] == [0, 1, 2]
    assert views[0].shown_share == 0


def test_animated_avif_is_seen_frame_by_frame() -> None:
    """Its frames and durations come from the library."""
    frames = [blotches(64, 64, seed) for seed in range(3)]
    views, _ = looked(animate(frames, "AVIF", 200))
    assert [view.frame for view in views] == [0, 1, 2]


def test_spreading_finds_the_odd_one_out() -> None:
    """Whatever its place and however short it is shown."""
    thumbs = np.zeros((500, 6), dtype=np.int16)
    thumbs[:, 0] = np.arange(500) % 10
    thumbs[377] = 200
    durations_s = np.full(500, 0.1)
    durations_s[377] = 0
    assert 377 in [index for index, _ in spread(thumbs, durations_s, 8)]


def test_views_have_a_limit() -> None:
    """Frames, backgrounds and crops multiply; an upload must not cost a minute."""
    frames = []
    for seed in range(12):
        frame = blotches(60, 150, seed).convert("RGBA")
        frame.putalpha(blotches(60, 150, seed + 50).convert("L"))
        frames.append(frame)
    views, _ = looked(animate(frames, "WebP"), served_crop="both", spec=SHORT_SIDE)
    assert len(views) == 16
    assert {view.crop for view in views} == {"whole"}
    assert len({view.frame for view in views}) == 8


# -- shapes --------------------------------------------------------------------------------------


def test_what_a_crop_would_leave_out_is_seen() -> None:
    """A cropping bundle sees long pictures padded, and very long ones also at both ends."""
    crops = [
        {view.crop for view in looked(encode(blotches(*size), "PNG"), spec=SHORT_SIDE)[0]}
        for size in ((140, 100), (170, 100), (100, 330))
    ]
    assert crops == [{"whole"}, {"whole", "padded"}, {"whole", "padded", "start", "end"}]


def test_a_stretching_bundle_sees_very_long_pictures_undistorted_too() -> None:
    """The whole is squeezed to a third; its ends are not."""
    image = blotches(300, 100)
    views, _ = looked(encode(image, "PNG"))
    assert [view.crop for view in views] == ["whole", "start", "end"]
    assert np.array_equal(views[1].pixels, fit(image.crop((0, 0, 100, 100)), STRETCH))


def test_padding_keeps_the_proportions() -> None:
    """Instead of the bundle's own rule, where the operator wants it."""
    (view,), _ = looked(
        encode(Image.new("RGB", (150, 100), (250, 0, 0)), "PNG"), pad_to_square=True
    )
    assert view.pixels[5, 112].tolist() == [128, 128, 128]
    assert view.pixels[112, 112].tolist() == [250, 0, 0]


def test_served_crops_are_seen_beside_the_whole() -> None:
    """The centre square and the circle in it, where they show something else."""
    views, _ = looked(encode(blotches(180, 100), "PNG"), served_crop="both")
    assert [view.crop for view in views] == ["whole", "square", "round"]
    assert views[2].pixels[2, 2].tolist() == [255, 255, 255]
    square, _ = looked(encode(blotches(100, 100), "PNG"), served_crop="square")
    assert [view.crop for view in square] == ["whole"]


def test_a_single_pixel_is_a_picture() -> None:
    """The smallest file there is."""
    views, flat = looked(encode(Image.new("RGB", (1, 1), (200, 0, 0)), "PNG"))
    assert views[0].pixels[100, 100].tolist() == [200, 0, 0]
    assert flat == "single colour"


def test_a_round_crop_of_nothing_is_not_scored() -> None:
    """Black shapes over black stay nothing when cut to a circle."""
    image = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((20, 30, 80, 60), fill=(0, 0, 0, 255))
    views, _ = looked(encode(image, "PNG"), served_crop="both")
    assert {view.background for view in views} == {"white"}
