"""Which views of a picture are scored."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.unit.pictures import SHORT_SIDE, STRETCH, animate, blotches, encode
from worker.image.containers.formats import DecodeLimits
from worker.image.decoder import Decoder
from worker.image.frames import Frames, prepare_codecs
from worker.image.preprocess import fit
from worker.image.shown import View
from worker.image.views import ViewOptions, look

#: What makes `STRETCH` the rule of a smaller model.
SMALL: dict[str, Any] = {"width_px": 96, "height_px": 96, "resize_px": 96}


@pytest.fixture(autouse=True)
def _codecs() -> None:
    prepare_codecs()


def looked(data: bytes, **options: Any) -> tuple[list[View], str | None]:
    """Look at a file with the stretching rule unless told otherwise."""
    chosen = ViewOptions(**{"spec": STRETCH, **options})
    return look(Frames(data, DecodeLimits(), 768), chosen)[:2]


def names(views: list[View]) -> list[tuple[str, str]]:
    """Background and crop of each view."""
    return [(view.background, view.crop) for view in views]


def test_a_plain_picture_is_seen_as_the_bundle_says() -> None:
    """The only view is what `fit` makes of the whole picture."""
    image = blotches(300, 200)
    (view,), _ = looked(encode(image, "PNG"))
    assert np.array_equal(view.pixels, fit(image, STRETCH))
    assert (view.background, view.crop, view.frame) == ("", "whole", 0)


# -- transparency --------------------------------------------------------------------------------


def test_a_picture_that_only_white_shows_is_seen() -> None:
    """Black shapes on nothing are invisible on black and drawn on white."""
    image = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((20, 30, 80, 60), fill=(0, 0, 0, 255))
    views, _ = looked(encode(image, "PNG"))
    assert names(views) == [("white", "whole")]


def test_two_pictures_in_one_are_both_seen() -> None:
    """Grey levels and alpha can be mixed so that each page shows a picture of its own."""
    on_white = np.asarray(blotches(80, 80, 1).convert("L")) / 2 + 127.5
    on_black = np.asarray(blotches(80, 80, 2).convert("L")) / 2
    alpha = 255 - (on_white - on_black)
    grey = np.where(alpha > 0, on_black * 255 / np.maximum(alpha, 1), 0)
    image = Image.merge(
        "LA", [Image.fromarray(layer.clip(0, 255).astype(np.uint8)) for layer in (grey, alpha)]
    )
    views, _ = looked(encode(image, "PNG"))
    assert names(views) == [("white", "whole"), ("black", "whole"), ("grey", "whole")]
    expected = [
        fit(Image.fromarray(layer.astype(np.uint8)).convert("RGB"), STRETCH)
        for layer in (on_white, on_black, (on_white + on_black) / 2)
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


def test_an_empty_picture_is_left_to_the_model() -> None:
    """Nothing visible and nothing hidden; no rule speaks where transparency changed the picture."""
    views, flat = looked(encode(Image.new("RGBA", (80, 80), (9, 9, 9, 0)), "PNG"))
    assert len(views) == 1
    assert flat is None


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


def veiled(hidden: np.ndarray, mask: np.ndarray) -> Image.Image:
    """A picture that shows its mask over white and black, and what it hides over grey.

    Args:
        hidden: (h, w) 0..1.
        mask: (h, w) 0..1.
    """
    over_white = 0.5 + 0.5 * np.clip(0.5 + 0.15 * hidden + 0.35 * mask, 0, 1)
    over_black = 0.5 * np.clip(0.5 + 0.15 * hidden - 0.35 * mask, 0, 1)
    alpha = 1 - (over_white - over_black)
    grey = np.where(alpha > 0.01, over_black / np.maximum(alpha, 0.01), 0)
    planes = np.stack([grey, grey, grey, alpha], axis=-1)
    return Image.fromarray((np.clip(planes, 0, 1) * 255).astype(np.uint8), "RGBA")


def test_what_cancels_out_over_white_and_black_is_seen_over_grey() -> None:
    """Half transparent pixels show a third picture on a page of another colour."""
    rows, columns = np.mgrid[0:224, 0:224]
    hidden = np.sign(np.sin(rows / 20))
    views, _ = looked(encode(veiled(hidden, np.sign(np.sin(columns / 20))), "PNG"))
    assert [view.background for view in views] == ["white", "black", "grey"]

    def alike(view: View) -> float:
        return float(abs(np.corrcoef(view.pixels[..., 0].ravel(), hidden.ravel())[0, 1]))

    white, black, grey = map(alike, views)
    assert max(white, black) < 0.5 < 0.8 < grey, (white, black, grey)


def test_soft_edges_and_pictures_over_a_chosen_page_need_no_grey() -> None:
    """An outline is no picture; who chose a page has no grey one."""
    image = blotches(80, 80).convert("RGBA")
    alpha = Image.new("L", (320, 320))
    ImageDraw.Draw(alpha).ellipse((20, 20, 300, 300), fill=255)
    image.putalpha(alpha.resize((80, 80), Image.Resampling.BICUBIC))
    assert names(looked(encode(image, "PNG"))[0]) == [("white", "whole"), ("black", "whole")]
    image.putalpha(100)
    assert names(looked(encode(image, "PNG"), backgrounds="white")[0]) == [("white", "whole")]


# -- animation -----------------------------------------------------------------------------------


def test_equal_frames_are_scored_once() -> None:
    """A blinking pixel is no second picture."""
    frames = [blotches(100, 100) for _ in range(5)]
    for number, frame in enumerate(frames):
        frame.putpixel((number, 0), (90, 90, 90))
    views, _ = looked(animate(frames, "WebP"))
    assert [view.frame for view in views] == [0]


@pytest.mark.parametrize("name", ["GIF", "PNG", "WebP"])
def test_every_different_frame_is_scored(name: str) -> None:
    """Thirty different frames give thirty views."""
    data = animate([blotches(60, 60, seed) for seed in range(30)], name)
    found = look(Frames(data, DecodeLimits(), 768), ViewOptions(spec=STRETCH))
    assert [view.frame for view in found.views] == list(range(30))
    assert found.unseen == ""


@pytest.mark.parametrize("name", ["GIF", "PNG", "WebP"])
def test_frames_that_are_not_scored_are_told(name: str) -> None:
    """Where a setting allows fewer, those shown longest are scored and the rest is said."""
    frames = [blotches(60, 60, seed) for seed in range(12)]
    data = animate(frames, name, [100] * 9 + [900, 800, 100])
    options = ViewOptions(spec=STRETCH, max_frames=2)
    found = look(Frames(data, DecodeLimits(), 768), options)
    assert [view.frame for view in found.views] == [9, 10]
    assert (found.unseen, found.flat) == ("unseen_frames", None)


def test_a_hidden_default_picture_of_an_apng_is_seen() -> None:
    """Programs that do not know APNG show it; others never do."""
    frames = [blotches(50, 50, seed) for seed in range(3)]
    data = encode(
        frames[0], "PNG", save_all=True, append_images=frames[1:], default_image=True, duration=50
    )
    views, _ = looked(data)
    assert [view.frame for view in views] == [0, 1, 2]


def test_animated_avif_is_seen_frame_by_frame() -> None:
    """Its frames and durations come from the library."""
    frames = [blotches(64, 64, seed) for seed in range(3)]
    views, _ = looked(animate(frames, "AVIF", 200))
    assert [view.frame for view in views if not view.background] == [0, 1, 2]
    # Chromium shows moving pictures with more contrast.
    assert {view.background for view in views} == {"", "/widened"}


def test_views_have_a_limit() -> None:
    """Frames, backgrounds and crops multiply; an upload must not cost a minute."""
    frames = []
    for seed in range(12):
        frame = blotches(60, 150, seed).convert("RGBA")
        frame.putalpha(blotches(60, 150, seed + 50).convert("L"))
        frames.append(frame)
    options = ViewOptions(spec=SHORT_SIDE, served_crop="both", max_views=16)
    views, _, unseen = look(Frames(animate(frames, "WebP"), DecodeLimits(), 768), options)
    assert len(views) == 16
    assert {view.crop for view in views} == {"whole"}
    assert unseen == "unseen_frames"


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
    assert [view.crop for view in views] == ["whole", "square", "start", "end"]
    assert np.array_equal(views[1].pixels, fit(image.crop((100, 0, 200, 100)), STRETCH))
    assert np.array_equal(views[2].pixels, fit(image.crop((0, 0, 100, 100)), STRETCH))


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


@pytest.mark.parametrize("pad_to_square", [False, True])
def test_a_second_bundle_sees_the_same_views_in_its_own_way(pad_to_square: bool) -> None:
    """One decoding for both: each crop once more, by the second input rule."""
    image = blotches(500, 200)
    plain, _ = looked(encode(image, "PNG"), pad_to_square=pad_to_square)
    both, _ = looked(
        encode(image, "PNG"), second_spec=replace(STRETCH, **SMALL), pad_to_square=pad_to_square
    )
    assert names(both) == names(plain)
    for one, other in zip(plain, both, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
        assert one.second_pixels is one.pixels
        assert other.second_pixels.shape == (96, 96, 3)
    whole = both[0].second_pixels
    padded = replace(STRETCH, **SMALL, resize="pad", fill=128)
    rule = padded if pad_to_square else replace(STRETCH, **SMALL)
    assert np.array_equal(whole, fit(image, rule))


@pytest.mark.process
def test_a_second_bundles_pixels_come_out_of_the_child() -> None:
    """Each view with both of its arrays, in order."""
    spec = replace(STRETCH, **SMALL)
    image = blotches(500, 200)
    with Decoder(DecodeLimits(), ViewOptions(spec=STRETCH, second_spec=spec)) as decoder:
        views = decoder.decode(encode(image, "PNG")).views
    assert len(views) > 2
    assert {view.pixels.shape for view in views} == {(STRETCH.height_px, STRETCH.width_px, 3)}
    assert np.array_equal(views[0].second_pixels, fit(image, spec))
    assert views[0].second_pixels.shape == (96, 96, 3)


def test_what_is_faint_is_scored_where_it_looks_like_nothing() -> None:
    """Of two frames that look alike, one of them empty, the model gets the other."""
    empty = Image.new("RGB", (96, 96), (200, 200, 200))
    faint = Image.blend(empty, blotches(96, 96), 0.06)
    for frames in ([empty, faint], [faint, empty], [empty, faint, blotches(96, 96, 5)]):
        views, _ = looked(animate(frames, "PNG", 100), flat_rule=False)
        apart = [np.abs(view.pixels.astype(int) - fit(faint, STRETCH)).max() for view in views]
        assert min(apart) <= 2


def test_a_faint_picture_over_white_is_scored_beside_an_empty_one() -> None:
    """Readings of one frame likewise."""
    image = blotches(64, 64).convert("RGBA")
    image.putalpha(Image.new("L", image.size, 9))
    views, _ = looked(encode(image, "PNG"))
    assert {view.background for view in views} >= {"white", "black"}
