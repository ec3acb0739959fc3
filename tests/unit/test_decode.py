"""The decoder from outside: files in, views or a refusal out."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
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
    NeedsLonger,
    UnsupportedImage,
)
from tests.unit.pictures import STRETCH, animate, blotches, encode, gif_of
from worker.image.decoder import DecodeLimits, Decoder, ViewOptions
from worker.image.preprocess import fit

pytestmark = pytest.mark.process

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
        (encode(blotches(64, 64), "PNG")[:-30], CorruptImage, "truncated"),
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


@pytest.mark.parametrize("kind", ["lossy", "with transparency", "lossless"])
def test_webp_of_4096_px_is_read(decoder: Decoder, kind: str) -> None:
    """The largest that the format's encoders meet in practice fits into the child's memory."""
    image = blotches(256, 256).resize((4096, 4096), Image.Resampling.NEAREST)
    expected = fit(image, STRETCH).astype(int)
    if kind == "with transparency":
        image.putalpha(Image.linear_gradient("L").resize((4096, 4096)))
    data = encode(image, "WebP", lossless=kind == "lossless", method=1, quality=20)
    picture = decoder.decode(data)
    assert (picture.width_px, picture.height_px) == (4096, 4096)
    if kind == "with transparency":
        assert [view.background for view in picture.views] == ["white", "black", "grey"]
    else:
        assert np.abs(picture.views[0].pixels - expected).mean() < 8


@pytest.mark.parametrize("name", ["PNG", "WebP", "JPEG"])
def test_a_smooth_gradient_of_1440_px_is_read(decoder: Decoder, name: str) -> None:
    """A small file of many pixels is no bomb where the pixels are within the limits."""
    ramp = np.linspace(0, 255, 1440)
    pixels = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], 128.0), -1)
    options = {"lossless": True} if name == "WebP" else {}
    picture = decoder.decode(encode(Image.fromarray(pixels.astype(np.uint8)), name, **options))
    assert (picture.width_px, picture.height_px) == (1440, 1440)
    assert not picture.unseen


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
    monkeypatch.setattr("worker.image.child_process._CHILD", _child_that_dies_of_a_file(crash))
    decoder = Decoder(LIMITS, ViewOptions(spec=STRETCH))
    with decoder, pytest.raises(CorruptImage, match=r"crashes the decoder \(SIGSEGV"):
        decoder.decode(b"x")


def test_a_child_that_is_killed_twice_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without memory must not reject pictures for good."""
    killed = "import os; os.kill(os.getpid(), 9)"
    monkeypatch.setattr("worker.image.child_process._CHILD", _child_that_dies_of_a_file(killed))
    decoder = Decoder(LIMITS, ViewOptions(spec=STRETCH))
    with decoder, pytest.raises(DecoderUnavailable, match="short of memory"):
        decoder.decode(b"x")


def test_a_child_that_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation is not blamed on pictures."""
    monkeypatch.setattr("worker.image.child_process._CHILD", "raise SystemExit(3)  # {path} {fd}")
    decoder = Decoder(LIMITS, ViewOptions(spec=STRETCH))
    with decoder, pytest.raises(DecoderUnavailable, match=r"while starting \(3\)"):
        decoder.decode(b"x")


def test_an_answer_that_is_no_answer_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A codec that was taken over cannot make the worker allocate or unpickle."""
    lie = "import os, time; os.write({fd}, b'\\x7f\\xff\\xff\\xff'); time.sleep(60)"
    monkeypatch.setattr("worker.image.child_process._CHILD", _child_that_dies_of_a_file(lie))
    with (
        Decoder(LIMITS, ViewOptions(spec=STRETCH)) as decoder,
        pytest.raises(CorruptImage, match="nonsense"),
    ):
        decoder.decode(b"x")


def _child_that_dies_of_a_file(code: str) -> str:
    return (
        "import sys; sys.path[:] = {path!r}\n"
        "from multiprocessing.connection import Connection\n"
        "from worker.image import child as decode_child\n"
        "link = Connection({fd}); decode_child._receive(link, 2**20)\n"
        "decode_child._send(link, dict(ready=True)); decode_child._receive(link, 2**20)\n" + code
    )


def test_an_answer_that_never_ends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that promises bytes and sends none of them is ended by the clock."""
    monkeypatch.setattr("worker.image.child_process._MIN_CLOCK_S", 1.0)
    stall = "import os, time; os.write({fd}, b'\\0\\0\\0\\x09{{'); time.sleep(60)"
    monkeypatch.setattr("worker.image.child_process._CHILD", _child_that_dies_of_a_file(stall))
    decoder = Decoder(replace(LIMITS, timeout_s=0.1), ViewOptions(spec=STRETCH))
    with decoder, pytest.raises(DecoderUnavailable, match="by the clock"):
        decoder.decode(b"x")


def test_what_the_child_lacks_is_not_the_files_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that was not imported in time refuses no picture for good."""
    broken = "decode_child._send(link, dict(broken='the decoding process lacks x'))"
    monkeypatch.setattr("worker.image.child_process._CHILD", _child_that_dies_of_a_file(broken))
    with (
        Decoder(LIMITS, ViewOptions(spec=STRETCH)) as decoder,
        pytest.raises(DecoderUnavailable, match="lacks x"),
    ):
        decoder.decode(b"x")


@pytest.fixture(scope="module")
def two_step_decoder() -> Iterator[Decoder]:
    """As a worker has it."""
    with Decoder(LIMITS, ViewOptions(spec=STRETCH), first_look=True) as decoder:
        yield decoder


class TestFirstLook:
    """Most files are done in half a second; what is not goes on elsewhere, with its full limits."""

    def test_an_ordinary_picture_is_done_at_once(self, two_step_decoder: Decoder) -> None:
        """And a damaged one is refused at once."""
        decoder = two_step_decoder
        assert decoder.decode(encode(blotches(400, 400), "JPEG")).format == "JPEG"
        with pytest.raises(CorruptImage):
            decoder.decode(encode(blotches(400, 400), "PNG")[:5000])

    @pytest.mark.parametrize("kind", ["time", "memory"])
    def test_a_costly_one_needs_longer_and_gets_it(
        self, two_step_decoder: Decoder, kind: str
    ) -> None:
        """The same child goes on with the next file, so that a flood costs no restarts."""
        decoder = two_step_decoder
        if kind == "time":
            costly = gif_of(2000, 2000, frame_count=25)
        else:
            costly = encode(Image.new("RGBA", (6000, 6000), (1, 2, 3, 255)), "PNG")
        decoder.decode(encode(blotches(60, 60), "PNG"))
        [before] = decoder.child_pids()
        with pytest.raises(NeedsLonger):
            decoder.decode(costly)
        assert decoder.decode(encode(blotches(60, 60), "PNG")).format == "PNG"
        assert decoder.child_pids() == [before]
        assert decoder.decode(costly, patient=True).views
        assert decoder.child_pids() == [before], "the other child lives for one picture"

    @pytest.mark.parametrize(
        ("format_name", "options"),
        [
            ("JPEG", {"progressive": True, "subsampling": 0}),
            ("JPEG", {}),
            ("WEBP", {"lossless": True, "method": 0}),
            ("WEBP", {"quality": 50, "method": 0}),
            ("AVIF", {"speed": 10}),
            ("PNG", {"compress_level": 1}),
            ("GIF", {}),
            ("BMP", {}),
        ],
    )
    def test_lack_of_memory_is_no_damage(self, format_name: str, options: dict[str, Any]) -> None:
        """Codecs say of both the same; only what fails with the full limits is refused."""
        few_colours = blotches(400, 400).quantize(16).convert("RGB")
        image = few_colours.resize((3000, 3000), Image.Resampling.NEAREST)
        data = encode(image, format_name, **options)
        limits = replace(LIMITS, max_bytes=40 * 2**20)
        little = replace(limits, memory_bytes=40 * 2**20)
        with Decoder(little, ViewOptions(spec=STRETCH), first_look=True) as decoder:
            with contextlib.suppress(NeedsLonger):
                assert decoder.decode(data).views
            with contextlib.suppress(ImageBomb):
                assert decoder.decode(data, patient=True).views
        with Decoder(limits, ViewOptions(spec=STRETCH)) as decoder:
            assert decoder.decode(data).views

    def test_a_crash_decides_nothing_yet(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It may have been the file before; the second look has a fresh child."""
        crash = "import os; os.kill(os.getpid(), 11)"
        monkeypatch.setattr("worker.image.child_process._CHILD", _child_that_dies_of_a_file(crash))
        with Decoder(LIMITS, ViewOptions(spec=STRETCH), first_look=True) as decoder:
            with pytest.raises(NeedsLonger, match="SIGSEGV"):
                decoder.decode(b"x")
            with pytest.raises(CorruptImage, match="SIGSEGV"):
                decoder.decode(b"x", patient=True)

    def test_closing_does_not_wait_for_the_background(self) -> None:
        """A worker that stops gives the upload back instead."""
        slow = gif_of(3000, 3000, frame_count=30)
        decoder = Decoder(
            replace(LIMITS, timeout_s=60.0), ViewOptions(spec=STRETCH), first_look=True
        )
        with ThreadPoolExecutor(1) as pool:
            under_way = pool.submit(decoder.decode, slow, patient=True)
            while not decoder.child_pids():
                time.sleep(0.01)
            started_s = time.monotonic()
            decoder.close()
            assert time.monotonic() - started_s < 30
            with pytest.raises(DecoderUnavailable):
                under_way.result()


class TestLargePictures:
    """One at a time, whichever process of the machine decodes it; small ones never wait."""

    LARGE = encode(Image.new("RGB", (3000, 3000), (9, 8, 7)), "PNG")
    SMALL = encode(blotches(200, 200), "PNG")

    def test_they_take_turns(self, tmp_path: Path) -> None:
        """A first look goes on later, a long one waits for its turn."""
        turns = tmp_path / "turns.lock"
        limits = replace(LIMITS, turns=str(turns))
        with Decoder(limits, ViewOptions(spec=STRETCH), first_look=True) as decoder:
            with ThreadPoolExecutor(1) as pool:
                with filelock.FileLock(turns):
                    waiting = pool.submit(decoder.decode, self.LARGE, patient=True)
                    with pytest.raises(NeedsLonger, match="another large picture"):
                        decoder.decode(self.LARGE)
                    assert decoder.decode(self.SMALL).views
                    assert not waiting.done()
                assert waiting.result(60).views
            assert decoder.decode(self.LARGE).views

    def test_many_frames_are_large_together(self, tmp_path: Path) -> None:
        """Each is small, and all of them take as much."""
        turns = tmp_path / "turns.lock"
        limits = replace(LIMITS, turns=str(turns))
        with Decoder(limits, ViewOptions(spec=STRETCH)) as decoder, ThreadPoolExecutor(1) as pool:
            with filelock.FileLock(turns):
                few = decoder.decode(gif_of(600, 600, frame_count=20))
                assert few.frame_count == 20
                many = pool.submit(decoder.decode, gif_of(600, 600, frame_count=200))
                with pytest.raises(FutureTimeout):
                    many.result(1.0)
            assert many.result(60).frame_count == 200

    def test_what_waits_is_given_back_at_the_end(self, tmp_path: Path) -> None:
        """A worker that stops does not wait for other processes."""
        turns = tmp_path / "turns.lock"
        decoder = Decoder(
            replace(LIMITS, turns=str(turns)), ViewOptions(spec=STRETCH), first_look=True
        )
        with ThreadPoolExecutor(1) as pool, filelock.FileLock(turns):
            waiting = pool.submit(decoder.decode, self.LARGE, patient=True)
            while not decoder.child_pids():
                time.sleep(0.01)
            decoder.close()
            with pytest.raises(DecoderUnavailable):
                waiting.result(60)

    def test_a_place_that_cannot_be_written_stops_nobody(self, tmp_path: Path) -> None:
        """Turns save memory; a picture is decoded without them, too."""
        limits = replace(LIMITS, turns=str(tmp_path / "absent" / "turns.lock"))
        with Decoder(limits, ViewOptions(spec=STRETCH)) as decoder:
            assert decoder.decode(self.LARGE).views


def test_the_child_knows_no_secret_and_loads_no_model() -> None:
    """Its environment is bare, and neither onnxruntime nor Celery is imported."""
    with Decoder(LIMITS, ViewOptions(spec=STRETCH)) as decoder:
        decoder.start()
        process = Path("/proc") / str(child_of(decoder))
        # Only root can read them at all; see test_sandbox.py.
        with contextlib.suppress(PermissionError):
            environment = (process / "environ").read_text()
            assert "AVATARMOD" not in environment
            assert "HOME=" not in environment
            assert "onnxruntime" not in (process / "maps").read_text()


def test_the_child_ends_with_its_parent() -> None:
    """A worker that is killed leaves no process behind."""
    script = (
        "import sys, time; from worker.image.decoder import *\n"
        "from tests.unit.pictures import STRETCH\n"
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
