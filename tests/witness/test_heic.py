"""No browser at hand shows HEIC: libheif's own program is the witness of what it shows."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from tests.unit.pictures import blotches
from tests.witness.coverage import SPEC, most_apart
from worker.image.containers.formats import DecodeLimits
from worker.image.frames import Frames, prepare_codecs
from worker.image.preprocess import fit
from worker.image.shown import over

_PROGRAM = shutil.which("heif-dec") or shutil.which("heif-convert")

pytestmark = pytest.mark.skipif(
    _PROGRAM is None, reason="libheif's program is needed; on Debian: libheif-examples"
)


def _written(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=90, **options)
    return buffer.getvalue()


def _turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = blotches(120, 80)
    image.info["exif"] = exif.tobytes()
    return _written(image)


def _clear() -> Image.Image:
    image = blotches(96, 64).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


FILES = {
    "plain": _written(blotches(96, 64)),
    "odd": _written(blotches(95, 63)),
    "grey": _written(blotches(96, 64).convert("L")),
    "clear": _written(_clear()),
    "finer colours": _written(blotches(96, 64), chroma="444"),
    **{f"turned {orientation}": _turned(orientation) for orientation in range(1, 9)},
}


@pytest.mark.parametrize("name", FILES)
def test_libheifs_own_program_shows_the_same(name: str, tmp_path: Path) -> None:
    """Size, turns and transparency; colours to within what codecs round."""
    prepare_codecs()
    file, out = tmp_path / "in.heic", tmp_path / "out.png"
    file.write_bytes(FILES[name])
    assert _PROGRAM is not None
    subprocess.run([_PROGRAM, file, out], check=True, capture_output=True, env=dict(os.environ))
    shown = Image.open(out).convert("RGBA")
    frame = Frames(FILES[name], DecodeLimits(), 10**6).read(0)
    assert frame.image.size == shown.size
    white = (255, 255, 255)
    mine = fit(over(frame.image, white), SPEC)
    assert most_apart(mine, fit(over(shown, white), SPEC)) < 6
    assert (np.asarray(shown)[..., 3].min() < 5) is (name == "clear")
