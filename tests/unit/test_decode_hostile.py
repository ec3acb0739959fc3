"""Files made to hurt: each ends in pixels or in a refusal, quickly, and the decoder lives on."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from producer.errors import CorruptImage, ImageBomb, InvalidInput, UnsupportedImage
from tests.unit.pictures import STRETCH, animate, blotches, chunk, encode, gif_of, png, png_of
from worker.image.containers import read as declare
from worker.image.decoder import DecodeLimits, Decoder, Picture, ViewOptions

pytestmark = pytest.mark.process

BOMB = zlib.compress(bytes(60 * 2**20), 9)


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(DecodeLimits(), ViewOptions(spec=STRETCH)) as decoder:
        yield decoder


def test_a_png_bomb_is_refused_before_it_is_inflated() -> None:
    """Dimensions above the limits end it at the header."""
    for width_px, height_px in ((50_000, 50_000), (2**31 - 1, 2**31 - 1), (16_000, 16_000)):
        with pytest.raises(ImageBomb, match=str(width_px)):
            declare(png_of(width_px, height_px, BOMB), DecodeLimits())


def test_pixels_beyond_the_declared_size_are_not_inflated(decoder: Decoder) -> None:
    """A small picture whose pixel stream goes on for 60 MB is the small picture."""
    pixels = zlib.compress(
        b"".join(b"\0" + bytes(range(30)) for _ in range(10)) + bytes(60 * 2**20)
    )
    assert decoder.decode(png_of(10, 10, pixels)).width_px == 10


def test_a_size_of_zero_is_refused(decoder: Decoder) -> None:
    """Nothing to see is not a picture."""
    with pytest.raises(CorruptImage, match="shows nothing"):
        decoder.decode(png_of(0, 10, b""))


@pytest.mark.parametrize(
    "bomb",
    [
        chunk(b"iCCP", b"name\0\0" + BOMB),
        chunk(b"zTXt", b"name\0\0" + BOMB),
        chunk(b"iTXt", b"name\0\1\0\0\0" + BOMB),
    ],
)
@pytest.mark.parametrize("place", ["chunks", "after"])
def test_bombs_in_metadata_do_no_harm(decoder: Decoder, bomb: bytes, place: str) -> None:
    """Compressed profiles and texts end in pixels or a refusal, not in 60 MB."""
    outcome(decoder, png(np.zeros((8, 8, 3)), colour_type=2, **{place: bomb}))


def test_a_gif_with_ten_thousand_frames_is_refused() -> None:
    """Counting frames costs no decoding."""
    with pytest.raises(ImageBomb, match="more than the 1000 frames"):
        declare(gif_of(10, 10, frame_count=10_000), DecodeLimits())


def test_many_middling_frames_are_refused_together() -> None:
    """The pixels of all frames together have a limit."""
    with pytest.raises(ImageBomb, match="million pixels together"):
        declare(gif_of(4000, 4000, frame_count=30), DecodeLimits())


def test_a_gif_that_claims_the_largest_canvas_is_refused() -> None:
    """65535 x 65535 is refused by its header."""
    with pytest.raises(ImageBomb, match="65535 x 65535"):
        declare(gif_of(65535, 65535), DecodeLimits())


def test_a_gif_frame_of_any_size_costs_no_more_than_the_limits() -> None:
    """Later frames are clipped to the screen, but each is decoded whole."""
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 60_000, 60_000, 0) + b"\x02\x02\x4c\x01\x00"
    with pytest.raises(ImageBomb, match="60000 x 60000"):
        declare(gif_of(10, 10, trailer=frame + b"\x3b"), DecodeLimits())


def test_an_apng_may_not_promise_more_frames_than_it_has() -> None:
    """A huge frame count is a bomb, a wrong one is damage."""
    for frames, error in ((2**31 - 1, ImageBomb), (3, CorruptImage)):
        control = chunk(b"acTL", struct.pack(">II", frames, 0))
        with pytest.raises(error, match="frames"):
            declare(png(np.zeros((8, 8, 3)), colour_type=2, chunks=control), DecodeLimits())


def test_an_apng_frame_outside_the_picture_is_refused() -> None:
    """Frames must lie within the canvas."""
    control = chunk(b"acTL", struct.pack(">II", 1, 0)) + chunk(
        b"fcTL", struct.pack(">IIIIIHHBB", 0, 2**31 - 1, 8, 0, 0, 1, 10, 0, 0)
    )
    with pytest.raises(CorruptImage, match="outside"):
        declare(png(np.zeros((8, 8, 3)), colour_type=2, chunks=control), DecodeLimits())


def test_a_webp_that_lies_about_its_canvas_is_refused() -> None:
    """The extended header's canvas counts, whatever the picture inside."""
    data = encode(blotches(40, 40).convert("RGBA"), "WebP", exif=b"Exif\0\0x")
    at = data.index(b"VP8X") + 12
    lying = data[:at] + b"\xff\x3f\x00\xff\x3f\x00" + data[at + 6 :]
    with pytest.raises(ImageBomb, match="16384 x 16384"):
        declare(lying, DecodeLimits())


def test_a_webp_whose_canvas_and_picture_differ_ends_cleanly(decoder: Decoder) -> None:
    """A canvas of another size than the picture in it is pixels or damage."""
    data = encode(blotches(40, 40).convert("RGBA"), "WebP", exif=b"Exif\0\0x")
    at = data.index(b"VP8X") + 12
    outcome(decoder, data[:at] + b"\xff\x03\x00\xff\x03\x00" + data[at + 6 :])


def test_a_jpeg_with_thousands_of_scans_is_refused() -> None:
    """A few bytes a scan would cost a pass over the picture each."""
    data = encode(blotches(64, 64), "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    with pytest.raises(ImageBomb, match="scans"):
        declare(data[:at] + data[at:-2] * 3000 + b"\xff\xd9", DecodeLimits())


def test_a_jpeg_that_claims_a_huge_size_is_refused() -> None:
    """The size of the frame header counts."""
    data = bytearray(encode(blotches(64, 64), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(ImageBomb, match="65535 x 65535"):
        declare(bytes(data), DecodeLimits())


def test_a_bmp_that_claims_a_huge_size_is_refused() -> None:
    """Also upside down."""
    data = bytearray(encode(blotches(20, 20), "BMP"))
    data[18:26] = struct.pack("<ii", 60_000, -60_000)
    with pytest.raises(ImageBomb, match="60000 x 60000"):
        declare(bytes(data), DecodeLimits())


def test_a_strip_is_refused() -> None:
    """What is fifty times as long as wide cannot be shown as an avatar."""
    with pytest.raises(UnsupportedImage, match="strip of 10 x 512"):
        declare(encode(blotches(10, 512), "PNG"), DecodeLimits())


def test_polyglots_are_the_picture_that_they_show(decoder: Decoder) -> None:
    """What follows or hides in a picture is never run, and the picture is judged."""
    script = b"=1;alert(1)//"
    gif = encode(blotches(48, 48), "GIF")
    comment = b"\x21\xfe" + bytes([len(script)]) + script + b"\0"
    at = gif.index(b"\x21") if b"\x21" in gif[:800] else gif.index(b"\x2c", 13 + 768)
    assert decoder.decode(gif[:at] + comment + gif[at:] + b"/*" + script).format == "GIF"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("evil.js", script * 50)
    jpeg = encode(blotches(48, 48), "JPEG")
    assert decoder.decode(jpeg + archive.getvalue()).format == "JPEG"
    with pytest.raises(UnsupportedImage, match="ZIP"):
        decoder.decode(archive.getvalue() + jpeg)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WebP"])
def test_sixty_kilobytes_of_exif_nonsense_do_no_harm(decoder: Decoder, name: str) -> None:
    """Metadata that cannot be read turns nothing and costs nothing."""
    noise = random.Random(0).randbytes(60_000)
    header = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"
    for exif in (header + noise, header + b"\x01\x12\0\x03\xff\xff\xff\xff" * 5000):
        data = encode(blotches(50, 40), name, exif=exif)
        assert decoder.decode(data).format == name


def test_a_hidden_frame_is_looked_at(decoder: Decoder) -> None:
    """One different frame among ninety equal ones, shown for no time, is among the views."""
    calm, other = Image.new("RGB", (64, 64), (30, 90, 200)), blotches(64, 64)
    for at in (1, 44, 89):
        frames = [calm.copy() for _ in range(90)]
        # Encoders merge equal frames unless something differs.
        for number, frame in enumerate(frames):
            frame.putpixel((number % 64, number // 64), (31, 91, 201))
        frames[at] = other
        durations = [100] * 90
        durations[at] = 0
        picture = decoder.decode(animate(frames, "PNG", durations))
        assert picture.frame_count == 90
        assert at in [view.frame for view in picture.views]
        assert len(picture.views) <= 2


def outcome(decoder: Decoder, data: bytes) -> Picture | None:
    """Decode or be refused, within the time that any file may take."""
    start_s = time.monotonic()
    picture = None
    with contextlib.suppress(InvalidInput):
        picture = decoder.decode(data)
    assert time.monotonic() - start_s < 60
    return picture
