"""The decoder from outside: files in, views or a refusal out."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from producer.errors import (
    CorruptImage,
    DecoderUnavailable,
    ImageBomb,
    ImageTooLarge,
    ImageTooSlow,
    InvalidInput,
    UnsupportedImage,
)
from tests.unit.pictures import STRETCH, animate, blotches, encode, gif_of
from worker.decode import DecodeLimits, Decoder, ViewOptions

LIMITS = DecodeLimits(max_bytes=2 * 2**20)


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(LIMITS, ViewOptions(spec=STRETCH)) as decoder:
        yield decoder


@pytest.mark.parametrize("name", ["PNG", "JPEG", "GIF", "WebP", "BMP", "AVIF"])
def test_an_ordinary_picture_becomes_one_view(decoder: Decoder, name: str) -> None:
    """Every accepted format gives one view of the bundle's size."""
    picture = decoder.decode(encode(blotches(200, 160), name))
    assert (picture.format, picture.width_px, picture.height_px) == (name, 200, 160)
    assert [view.pixels.shape for view in picture.views] == [(224, 224, 3)]
    assert picture.flat is None


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", CorruptImage, "empty"),
        (b"%PDF-1.7 ...", UnsupportedImage, "a PDF document; send JPEG"),
        (b"<?xml version='1.0'?><svg xmlns='x'/>", UnsupportedImage, "an SVG drawing"),
        (b"8BPS\0\1", UnsupportedImage, "a Photoshop file"),
        (b"\x01\x02\x03\x04", UnsupportedImage, "not a picture"),
        (b"x" * (2 * 2**20 + 1), ImageTooLarge, "2,097,153 bytes"),
        (encode(blotches(64, 64), "PNG")[:-9], CorruptImage, "truncated"),
        (encode(blotches(64, 64), "JPEG")[:900], CorruptImage, "truncated"),
        (encode(Image.new("1", (17_000, 10)), "PNG"), ImageBomb, "17000 x 10"),
    ],
)
def test_what_is_no_usable_picture_is_refused_with_its_reason(
    decoder: Decoder, data: bytes, error: type[Exception], words: str
) -> None:
    """Each kind of refusal has its class and says what is wrong."""
    with pytest.raises(error, match=words):
        decoder.decode(data)


@pytest.fixture(scope="module")
def heic() -> bytes:
    """A HEIC file; only the encoder of the development extra writes them."""
    buffer = io.BytesIO()
    pillow_heif.from_pillow(blotches(96, 64)).save(buffer)
    return buffer.getvalue()


def test_heic_is_accepted_and_refused_when_cut(decoder: Decoder, heic: bytes) -> None:
    """HEIC becomes a view; half a file does not."""
    assert decoder.decode(heic).format == "HEIC"
    with pytest.raises(CorruptImage, match="HEIC"):
        decoder.decode(heic[: len(heic) // 2])


@pytest.mark.parametrize("name", ["PNG", "JPEG", "GIF", "WebP", "BMP", "AVIF"])
def test_a_truncated_file_is_refused_wherever_it_ends(decoder: Decoder, name: str) -> None:
    """No part of a file that was not received in full is judged."""
    data = encode(blotches(90, 70), name)
    for part in (0.05, 0.3, 0.6, 0.9, 0.99):
        with pytest.raises(InvalidInput):
            decoder.decode(data[: int(len(data) * part)])


def test_a_gif_without_its_end_mark_is_accepted(decoder: Decoder) -> None:
    """Old programs leave it out and browsers show the picture."""
    assert decoder.decode(encode(blotches(40, 40), "GIF")[:-1]).format == "GIF"


def test_several_threads_get_their_own_pictures() -> None:
    """Answers are not mixed up between callers."""
    colours = [(250, 10 * number, 0) for number in range(12)]
    files = [encode(Image.new("RGB", (80, 80), colour), "PNG") for colour in colours]
    options = ViewOptions(spec=STRETCH)
    with Decoder(LIMITS, options, workers=2) as decoder, ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(decoder.decode, files))
    assert [tuple(picture.views[0].pixels[9, 9]) for picture in pictures] == colours


def test_the_normalised_picture_suits_every_provider(decoder: Decoder) -> None:
    """Small ones grow, large ones shrink, strips are padded, noise stays under the size."""
    noise = np.random.default_rng(0).integers(0, 255, (1500, 1500, 3), dtype=np.uint8)
    for image in (
        blotches(80, 80),
        blotches(3000, 2000),
        blotches(900, 80),
        Image.fromarray(noise),
    ):
        written = decoder.normalise(encode(image, "PNG" if image.width < 1000 else "JPEG"))
        result = Image.open(io.BytesIO(written))
        assert result.format == "JPEG"
        assert min(result.size) >= 256
        assert max(result.size) <= 1024
        assert len(written) < 180_000


def test_the_normalised_picture_shows_the_frame_and_background_asked_for(decoder: Decoder) -> None:
    """The provider sees what the model scored worst."""
    data = animate([Image.new("RGB", (300, 300), (0, 0, 250)), blotches(300, 300)], "WebP")
    blue = Image.open(io.BytesIO(decoder.normalise(data, frame=0)))
    assert blue.getpixel((150, 150))[2] > 200
    clear = encode(Image.new("RGBA", (300, 300), (0, 0, 0, 0)), "PNG")
    for background, level in (("white", 255), ("black", 0), ("", 128)):
        shown = Image.open(io.BytesIO(decoder.normalise(clear, background=background)))
        assert abs(shown.getpixel((150, 150))[0] - level) <= 2


# -- the child process ---------------------------------------------------------------------------


def child_of(decoder: Decoder) -> int:
    """Process id of the only child."""
    return decoder.child_pids()[0]


def test_a_killed_child_costs_nobody_a_picture() -> None:
    """The file is decoded by the next child."""
    with Decoder(LIMITS, ViewOptions(spec=STRETCH)) as decoder:
        decoder.start()
        first = child_of(decoder)
        os.kill(first, signal.SIGKILL)
        assert decoder.decode(encode(blotches(80, 80), "PNG")).format == "PNG"
        assert child_of(decoder) != first


def test_a_slow_file_is_refused_and_the_next_one_is_not() -> None:
    """The kernel ends a child that uses more processor time than allowed."""
    limits = replace(LIMITS, timeout_s=0.4)
    slow = gif_of(2000, 2000, frame_count=70)
    with Decoder(limits, ViewOptions(spec=STRETCH)) as decoder:
        decoder.start()
        with pytest.raises(ImageTooSlow, match=r"0\.4 s of processor time"):
            decoder.decode(slow)
        assert decoder.decode(encode(blotches(60, 60), "JPEG")).format == "JPEG"


def test_memory_has_a_limit_of_its_own() -> None:
    """A file within the pixel limits that needs too much memory is refused, in the child."""
    limits = replace(LIMITS, memory_bytes=64 * 2**20)
    hungry = encode(Image.new("RGBA", (5000, 5000), (1, 2, 3, 4)), "PNG")
    with Decoder(limits, ViewOptions(spec=STRETCH)) as decoder:
        with pytest.raises(ImageBomb, match="memory"):
            decoder.decode(hungry)
        assert decoder.decode(encode(blotches(60, 60), "JPEG")).format == "JPEG"


def test_a_child_that_always_crashes_is_the_files_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two fresh children that die of one file refuse it and name the signal."""
    crash = "import os; os.kill(os.getpid(), 11)"
    monkeypatch.setattr("worker.decode._CHILD", _child_that_dies_of_a_file(crash))
    decoder = Decoder(LIMITS, ViewOptions(spec=STRETCH))
    with decoder, pytest.raises(CorruptImage, match=r"crashes the decoder \(SIGSEGV"):
        decoder.decode(b"x")


def test_a_child_that_is_killed_twice_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without memory must not reject pictures for good."""
    killed = "import os; os.kill(os.getpid(), 9)"
    monkeypatch.setattr("worker.decode._CHILD", _child_that_dies_of_a_file(killed))
    decoder = Decoder(LIMITS, ViewOptions(spec=STRETCH))
    with decoder, pytest.raises(DecoderUnavailable, match="short of memory"):
        decoder.decode(b"x")


def test_a_child_that_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation is not blamed on pictures."""
    monkeypatch.setattr("worker.decode._CHILD", "raise SystemExit(3)  # {path} {fd}")
    decoder = Decoder(LIMITS, ViewOptions(spec=STRETCH))
    with decoder, pytest.raises(DecoderUnavailable, match=r"while starting \(3\)"):
        decoder.decode(b"x")


def test_an_answer_that_is_no_answer_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A codec that was taken over cannot make the worker allocate or unpickle."""
    lie = "link.sendall(decode_child.LENGTHS.pack(2**31, 2**60)); import time; time.sleep(60)"
    monkeypatch.setattr("worker.decode._CHILD", _child_that_dies_of_a_file(lie))
    with (
        Decoder(LIMITS, ViewOptions(spec=STRETCH)) as decoder,
        pytest.raises(CorruptImage, match="nonsense"),
    ):
        decoder.decode(b"x")


def _child_that_dies_of_a_file(code: str) -> str:
    return (
        "import sys, socket; sys.path[:] = {path!r}; from worker import decode_child\n"
        "link = socket.socket(fileno={fd}); decode_child._receive(link)\n"
        "decode_child._send(link, dict(ready=True)); decode_child._receive(link)\n" + code
    )


def test_the_child_knows_no_secret_and_loads_no_model() -> None:
    """Its environment is bare, and neither onnxruntime nor Celery is imported."""
    with Decoder(LIMITS, ViewOptions(spec=STRETCH)) as decoder:
        decoder.start()
        process = Path("/proc") / str(child_of(decoder))
        environment = (process / "environ").read_text()
        libraries = (process / "maps").read_text()
    assert "AVATARMOD" not in environment
    assert "HOME=" not in environment
    assert "onnxruntime" not in libraries


def test_the_child_ends_with_its_parent() -> None:
    """A worker that is killed leaves no process behind."""
    script = (
        "import sys, time; from worker.decode import *; from tests.unit.pictures import STRETCH\n"
        "d = Decoder(DecodeLimits(), ViewOptions(spec=STRETCH)); d.start()\n"
        "print(d.child_pids()[0], flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent:
        child = int(parent.stdout.readline())
        parent.kill()
    deadline_s = time.monotonic() + 10
    while _runs(child):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_the_child_leaves_stop_signals_to_its_parent() -> None:
    """Ctrl-C and a service manager's SIGTERM do not interrupt a picture."""
    with Decoder(LIMITS, ViewOptions(spec=STRETCH)) as decoder:
        decoder.start()
        child = child_of(decoder)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(child, number)
        assert decoder.decode(encode(blotches(60, 60), "PNG")).format == "PNG"
        assert child_of(decoder) == child
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        state = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
