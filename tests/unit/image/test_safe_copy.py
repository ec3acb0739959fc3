"""A safe copy holds what was scored, and nothing else of the file that it was made from."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from producer.errors import CorruptImage
from tests.unit.pictures import STRETCH, animate, blotches, encode, icc_profile, orientation_exif
from worker.image import containers, safe_copy
from worker.image.decoder import DecodeLimits, Decoder, ViewOptions
from worker.image.frames import Frames

LIMITS = DecodeLimits()

#: Columns are the primaries of a space whose red and green are each other's.
SWAPPED = np.array([[0.385, 0.436, 0.143], [0.717, 0.222, 0.061], [0.097, 0.014, 0.714]])


def copy(data: bytes, max_side_px: int = 1024) -> bytes:
    """The copy of a file, checked as the worker checks it."""
    written, width_px, height_px = safe_copy.encode(Frames(data, LIMITS, max_side_px), max_side_px)
    safe_copy.check(written)
    with Image.open(io.BytesIO(written)) as image:
        assert image.size == (width_px, height_px)
    return written


def read(data: bytes) -> Image.Image:
    """A copy as Pillow shows it."""
    return Image.open(io.BytesIO(data))


def shown(data: bytes) -> Image.Image:
    """The rendition that the model is given."""
    return Frames(data, LIMITS, 10_000).read(0).image


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of two pictures in levels."""
    assert one.size == other.size
    pair = [np.asarray(image.convert("RGB"), dtype=np.int16) for image in (one, other)]
    return float(np.abs(pair[0] - pair[1]).mean())


def appended_zip() -> bytes:
    """An archive that programs find at the end of any file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("payload.html", "<script>alert(1)</script>")
    return buffer.getvalue()


def laden(name: str) -> bytes:
    """A picture with all that may hang on one: position, comment, profile, an archive behind it."""
    exif = Image.Exif()
    exif[0x010E] = "secret-description"
    exif[0x8825] = {1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 36.0)}
    image = blotches(300, 200)
    profile = icc_profile(SWAPPED, 2.2)
    if name == "JPEG":
        data = encode(image, name, exif=exif, icc_profile=profile, comment=b"secret" * 10_000)
        return data + appended_zip()
    return encode(image, name, exif=exif, icc_profile=profile) + appended_zip()


@pytest.mark.parametrize("name", ["JPEG", "PNG"])
def test_nothing_but_pixels_survives(name: str) -> None:
    """Position, description, comment, colour profile and archive are gone; ours reads no doubt."""
    data = laden(name)
    written = copy(data)
    for leftover in (b"secret", b"Exif", b"ICC_PROFILE", b"PK\x03\x04", b"script", b"desc"):
        assert leftover not in written
    contents = containers.read(written, LIMITS)
    assert (contents.profiles, contents.turns, contents.crop, contents.doubts) == ((), (), None, [])
    image = read(written)
    assert not image.getexif()
    assert "icc_profile" not in image.info
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(written))


def test_five_megabytes_of_comment_are_gone() -> None:
    """The copy is about as large as its picture."""
    comment = b"\xff\xfe\xff\xff" + b"c" * 65_533
    data = encode(blotches(300, 200), "JPEG")
    data = data[:2] + comment * 80 + data[2:]
    assert len(data) > 5_000_000
    assert len(copy(data)) < 100_000


@pytest.mark.parametrize("name", ["JPEG", "PNG"])
def test_colours_are_those_that_were_scored(name: str) -> None:
    """The profile is applied to the pixels, not dropped."""
    data = laden(name)
    written = read(copy(data))
    assert difference(written, shown(data)) < 3
    assert difference(written, read(data)) > 20


def test_a_turned_picture_is_upright() -> None:
    """Orientation is applied, once."""
    data = encode(blotches(300, 200), "JPEG", exif=orientation_exif(6))
    written = read(copy(data))
    assert written.size == (200, 300)
    assert difference(written, shown(data)) < 3


def test_the_longest_side_is_as_set_and_nothing_is_enlarged() -> None:
    """Proportions stay."""
    assert read(copy(encode(blotches(3000, 1500), "JPEG"), 256)).size == (256, 128)
    assert read(copy(encode(blotches(120, 90), "JPEG"), 256)).size == (120, 90)
    large = encode(blotches(3000, 1500), "JPEG")
    small = shown(large).resize((256, 128), Image.Resampling.LANCZOS)
    assert difference(read(copy(large, 256)), small) < 3


def test_transparency_stays_and_hides_nothing() -> None:
    """What is seen is equal; what is fully transparent has no colours of its own left."""
    image = blotches(200, 200).convert("RGBA")
    alpha = np.tile(np.linspace(0, 255, 200).astype(np.uint8), (200, 1))
    alpha[:, :60] = 0
    image.putalpha(Image.fromarray(alpha))
    data = encode(image, "PNG")
    written = read(copy(data))
    assert (written.format, written.mode) == ("WEBP", "RGBA")
    assert np.abs(np.asarray(written)[..., 3].astype(int) - alpha).max() <= 1
    for ground in ("white", "black"):
        page = Image.new("RGBA", image.size, ground)
        pair = [Image.alpha_composite(page, each) for each in (image, written)]
        assert difference(*pair) < 3
    assert np.asarray(written)[:, :48, :3].std() < 2


def test_few_colours_are_exact() -> None:
    """A letter tile has no blur around its letter."""
    image = Image.new("RGB", (128, 128), (30, 120, 200))
    image.paste((255, 255, 255), (40, 30, 88, 98))
    written = read(copy(encode(image, "PNG")))
    assert (written.format, difference(written, image)) == ("WEBP", 0)


@pytest.mark.parametrize("name", ["GIF", "WebP", "PNG"])
def test_an_animation_keeps_its_frames_and_their_times(name: str) -> None:
    """One for one, in order."""
    frames = [blotches(120, 80, seed) for seed in range(5)]
    times_ms = [50, 120, 300, 70, 1000]
    data = animate(frames, name, times_ms)
    written = copy(data)
    contents = containers.read(written, LIMITS)
    assert contents.format == "WebP"
    assert [round(1000 * cel.duration_s) for cel in contents.frames] == times_ms
    original, copied = Frames(data, LIMITS, 10_000), Frames(written, LIMITS, 10_000)
    for index in range(5):
        scored = original.read(index).image.copy()
        # The dots that a GIF mixes its colours from cost the most.
        assert difference(copied.read(index).image, scored) < (9 if name == "GIF" else 6)
    image = read(written)
    assert getattr(image, "n_frames", 1) == 5


@pytest.mark.parametrize(
    ("name", "loop", "plays"),
    [
        ("GIF", 0, 0), ("GIF", 2, 3), ("GIF", None, 1), ("PNG", 0, 0), ("PNG", 2, 2),
        ("WebP", 0, 0), ("WebP", 5, 5), ("GIF", 65535, 65535), ("PNG", 2**20, 65535),
    ],
)  # fmt: skip
def test_an_animation_is_shown_as_often_as_the_upload(
    name: str, loop: int | None, plays: int
) -> None:
    """GIF says how often again, the others how often in all; 0 is without end."""
    frames = [blotches(40, 30, seed) for seed in range(2)]
    options = {} if loop is None else {"loop": loop}
    data = encode(frames[0], name, save_all=True, append_images=frames[1:], **options)
    assert containers.read(copy(data), LIMITS).plays == plays


def test_a_transparent_animation_stays_transparent() -> None:
    """Frames replace each other, so that none shines through the next."""
    frames = []
    for left in (0, 40, 80):
        image = Image.new("RGBA", (120, 60))
        image.paste(blotches(40, 60, left), (left, 0))
        frames.append(image)
    data = animate(frames, "PNG", 100, disposal=1, blend=0)
    image = read(copy(data))
    for index, left in enumerate((0, 40, 80)):
        image.seek(index)
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
        assert alpha[:, left : left + 40].min() == 255
        assert np.delete(alpha, np.s_[left : left + 40], axis=1).max() == 0


def test_the_picture_that_only_other_programs_show_is_left_out() -> None:
    """Browsers do not show it, so a copy of what they show has only the animation."""
    hidden, *frames = [blotches(100, 100, seed) for seed in range(4)]
    data = animate([hidden, *frames], "PNG", 100, default_image=True)
    written = containers.read(copy(data), LIMITS)
    assert len(written.frames) == 3


def test_a_long_animation_shrinks_instead_of_growing_without_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pixels and bytes have limits; every frame is still there."""
    data = animate([blotches(200, 200, seed) for seed in range(10)], "WebP", 100)
    monkeypatch.setattr(safe_copy, "_MAX_FRAME_PIXELS", 10 * 100 * 100)
    image = read(copy(data))
    assert (max(image.size), getattr(image, "n_frames", 1)) == (100, 10)
    monkeypatch.setattr(safe_copy, "MAX_BYTES", 10_000)
    written = copy(data)
    assert len(written) <= 10_000
    assert getattr(read(written), "n_frames", 1) == 10


def test_the_same_file_gives_the_same_copy() -> None:
    """Its hash can be told before it is served, and checked afterwards."""
    for data in (laden("JPEG"), animate([blotches(90, 90, n) for n in range(3)], "GIF")):
        assert len({hashlib.sha256(copy(data)).hexdigest() for _ in range(3)}) == 1


def test_a_copy_is_judged_as_its_original_would_be() -> None:
    """Making a copy of the copy changes nothing but codec loss."""
    data = laden("PNG")
    once = copy(data)
    assert difference(read(copy(once)), read(once)) < 2


GOOD = encode(blotches(40, 40), "JPEG")
GOOD_WEBP = encode(blotches(40, 40), "WebP")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        b"<html>",
        GOOD[:-2],
        GOOD + b"PK\x03\x04",
        GOOD[:2] + b"\xff\xfe\x00\x06evil" + GOOD[2:],
        GOOD[:2] + b"\xff\xe1\x00\x08Exif\0\0" + GOOD[2:],
        GOOD[:-2] + b"\xff\xe1\x00\x02\xff\xd9",
        GOOD_WEBP + b"x",
        GOOD_WEBP[:-10],
        GOOD_WEBP[:4]
        + (len(GOOD_WEBP) + 4).to_bytes(4, "little")
        + GOOD_WEBP[8:]
        + b"EXIF\0\0\0\0",
        b"RIFF\x04\0\0\0WEBP",
        GOOD + bytes(safe_copy.MAX_BYTES),
    ],
)
def test_what_a_taken_over_child_might_send_is_refused(data: bytes) -> None:
    """The worker writes nothing but pixels, whatever the child says."""
    with pytest.raises(ValueError, match=r"."):
        safe_copy.check(data)


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(LIMITS, ViewOptions(spec=STRETCH)) as decoder:
        yield decoder


@pytest.mark.process
def test_it_is_made_at_arms_length(decoder: Decoder) -> None:
    """The child writes the same bytes, with what it has imported before it was confined."""
    transparent = Image.new("RGBA", (50, 50))
    transparent.paste(blotches(20, 20), (5, 5))
    for data in (
        laden("JPEG"),
        encode(blotches(90, 90), "AVIF"),
        encode(transparent, "PNG"),
        animate([blotches(90, 90, n) for n in range(3)], "GIF"),
    ):
        written, media_type, width_px, height_px = decoder.safe_copy(data, 64)
        assert written == copy(data, 64)
        assert media_type in (safe_copy.JPEG, safe_copy.WEBP)
        assert max(width_px, height_px) <= 64


@pytest.mark.process
@pytest.mark.parametrize("kind", ["photo", "drawing", "transparent", "animation"])
def test_the_first_picture_of_a_child_has_a_copy(kind: str) -> None:
    """Every writer is there before the child is confined."""
    transparent = Image.new("RGBA", (50, 50))
    transparent.paste(blotches(20, 20), (5, 5))
    data = {
        "photo": encode(blotches(90, 90), "PNG"),
        "drawing": encode(Image.new("RGB", (90, 90), "red"), "PNG"),
        "transparent": encode(transparent, "PNG"),
        "animation": animate([blotches(90, 90, n) for n in range(3)], "GIF"),
    }[kind]
    with Decoder(LIMITS, ViewOptions(spec=STRETCH)) as fresh:
        assert fresh.safe_copy(data, 64)[0] == copy(data, 64)


@pytest.mark.process
def test_what_is_no_picture_has_no_copy(decoder: Decoder) -> None:
    """The refusal is the decoder's own."""
    with pytest.raises(CorruptImage):
        decoder.safe_copy(encode(blotches(90, 90), "PNG")[:-300], 64)
