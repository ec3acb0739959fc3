"""What operators and review providers are shown: the rendition that was scored, and only pixels."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from tests.unit.pictures import STRETCH, animate, blotches, encode, icc_profile, orientation_exif
from tests.unit.test_colours import SRGB_TO_XYZ
from worker.image.containers.formats import DecodeLimits
from worker.image.frames import Frames
from worker.image.shown import normalise
from worker.image.views import ViewOptions, look

SECRET = b"only for my friends"


def normalised(data: bytes, background: str = "", frame: int = 0) -> Image.Image:
    """The JPEG of one view."""
    written = normalise(Frames(data, DecodeLimits(), 1024).read(frame), background)
    assert SECRET not in written
    image = Image.open(io.BytesIO(written))
    assert not {"comment", "exif", "icc_profile", "xmp"} & set(image.info)
    return image


def _comment(data: bytes) -> bytes:
    return data[:2] + b"\xff\xfe" + struct.pack(">H", len(SECRET) + 2) + SECRET + data[2:]


@pytest.mark.parametrize("background", ["", "white", "/stored"])
def test_no_comment_survives(background: str) -> None:
    """JPEG and GIF comments, EXIF and profiles stay here."""
    picture = blotches(300, 300)
    profile = icc_profile(SRGB_TO_XYZ, 2.2)
    jpeg = encode(picture, "JPEG", exif=orientation_exif(3) + SECRET, icc_profile=profile)
    normalised(_comment(jpeg), background)
    normalised(encode(picture, "GIF", comment=SECRET), background)
    normalised(encode(picture, "PNG", exif=orientation_exif(3) + SECRET), background)
    normalised(encode(picture, "WebP", exif=orientation_exif(3) + SECRET), background)


def test_every_view_can_be_shown_to_people() -> None:
    """The name that the record keeps of a view gives that view's colours, turn and ground."""
    profile = icc_profile(SRGB_TO_XYZ[:, [1, 0, 2]], 2.2)
    red = Image.new("RGB", (300, 300), (250, 0, 0))
    red.paste((250, 120, 0), (0, 0, 300, 90))
    data = encode(red, "JPEG", quality=95, icc_profile=profile)
    found = look(Frames(data, DecodeLimits(), 768), ViewOptions(spec=STRETCH))
    assert [view.background for view in found.views] == ["", "/stored"]
    for view in found.views:
        image = normalised(data, view.background).resize((224, 224))
        assert np.abs(np.asarray(image).astype(int) - view.pixels).mean() < 6


def test_a_turn_that_only_some_make_can_be_shown() -> None:
    """Its name is the EXIF orientation."""
    data = encode(blotches(300, 200), "WebP", exif=orientation_exif(6))
    assert normalised(data).size == (384, 256)
    assert normalised(data, "/turned-6").size == (256, 384)


def test_names_of_older_records_still_work() -> None:
    """A name that is not known shows what browsers show."""
    clear = animate([Image.new("RGBA", (300, 300), (0, 0, 0, 0))] * 2, "PNG")
    for background, level in (("white", 255), ("black", 0), ("", 128), ("white/no-such", 255)):
        assert abs(normalised(clear, background).getpixel((150, 150))[0] - level) <= 2
