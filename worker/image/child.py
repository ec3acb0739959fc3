"""The process in which hostile files are decoded; started by `decoder.Decoder`, one file at a time.

Reads requests from a socket and answers each with JSON and raw pixels: what a broken codec may have
taken over must not be trusted by the worker. Before the first file it gives up all but computing
(see sandbox.py). It ends when the socket closes, when its parent is gone, and by the kernel's hand
when a file takes too much processor time. Imports neither onnxruntime nor Celery.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from producer.installed import how_to_install
from worker.image import sandbox

#: Bytes of JSON in a request or an answer; a thousand views would not need it.
MAX_HEADER_BYTES = 2**20

#: Seconds between looks at whether the parent still lives.
_PARENT_CHECK_S = 5.0

#: Processor seconds beyond a first look after which the kernel ends what no Python code can end.
_GRACE_S = 0.5

#: Pixels of all frames together that no first look decodes in time and in its memory, so that none
#: is begun. Source: four bytes a pixel of the 128 MB, and what codecs need besides.
_FIRST_LOOK_PX = 24_000_000

#: How many times the processor limit a safe copy may take: what was decoded within it is encoded.
_COPY_FACTOR = 2

#: How much less of the processor a slow picture gets where others want it.
_BACKGROUND_NICE = 10

#: What the libraries import when a file first needs it; no file can be opened then.
_LATE_IMPORTS = (
    "PIL.ExifTags", "PIL.ImageChops", "PIL.ImageCms", "PIL.ImageColor", "PIL.ImageDraw",
    "PIL.ImageMath", "PIL.ImageMode", "PIL.ImageOps", "PIL.ImagePalette", "PIL.ImageSequence",
    "PIL.JpegPresets", "PIL.MpoImagePlugin", "PIL.TiffImagePlugin", "PIL.TiffTags",
    "PIL._imagingcms", "PIL._imagingmath", "PIL._webp", "PIL._avif", "PIL.WebPImagePlugin",
    "encodings.ascii", "encodings.latin_1", "encodings.utf_8", "encodings.utf_16",
    "encodings.utf_16_be", "encodings.utf_16_le", "colorsys", "fractions", "traceback",
)  # fmt: skip


def main(fd: int) -> None:
    """Serve one parent until it hangs up."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # A stop is for the parent to decide: a service manager signals the whole group.
        signal.signal(number, signal.SIG_IGN)
    link = Connection(fd)
    greeting, _ = _receive(link, MAX_HEADER_BYTES)
    try:
        from worker.image import frames, preprocess, prints, safe_copy, sheet, shown, views
        from worker.image.containers import formats
    except ImportError as error:
        _send(link, {"error": f"{error}; {how_to_install('worker')}"})
        return
    limits = formats.DecodeLimits(**greeting["limits"])
    spec = preprocess.InputSpec.from_dict(greeting["options"].pop("spec"))
    second = greeting["options"].pop("second_spec")
    second_spec = second and preprocess.InputSpec.from_dict(second)
    options = views.ViewOptions(spec=spec, second_spec=second_spec, **greeting["options"])
    frames.prepare_codecs()
    for name in _LATE_IMPORTS:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    warnings.simplefilter("ignore")
    if greeting["background"]:
        with contextlib.suppress(OSError):
            os.nice(_BACKGROUND_NICE)
    lacking = sandbox.confine(limits.memory_bytes, fd)
    _send(link, {"ready": True})
    decoding = _Decoding(limits, options, frames, views, shown, safe_copy, prints, sheet)
    while True:
        request, data = _receive(link, limits.max_bytes)
        if request["op"] == "attempt":
            worked = sandbox.attempts(limits.memory_bytes)
            _send(link, {"lacking": lacking, "worked": [name for name in worked if worked[name]]})
            continue
        timeout_s = limits.timeout_s * (_COPY_FACTOR if request["op"] == "safe_copy" else 1)
        try:
            with _processor_limit(timeout_s, request["first_look_s"]):
                header, payload = decoding.answer(request, data)
        except _FirstLookOver:
            header, payload = {"unfinished": True}, []
        del data
        _send(link, header, payload)


class _Decoding:
    """What one request becomes."""

    def __init__(
        self,
        limits: Any,
        options: Any,
        frames: Any,
        views: Any,
        shown: Any,
        safe_copy: Any,
        prints: Any,
        sheet: Any,
    ) -> None:
        self._limits = limits
        self._options = options
        self._frames = frames
        self._views = views
        self._shown = shown
        self._safe_copy = safe_copy
        self._prints = prints
        self._sheet = sheet

    def answer(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], list[Any]]:
        from producer.errors import InvalidInput

        try:
            if request["op"] == "normalise":
                return {}, [self._normalise(request, data)]
            if request["op"] == "sheet":
                return self._draw(request, data)
            if request["op"] == "safe_copy":
                frames = self._open(request, data, request["max_side_px"])
                copy, width_px, height_px = self._safe_copy.encode(frames, request["max_side_px"])
                return {"width": width_px, "height": height_px}, [copy]
            if request["op"] == "prints":
                return self._keep(request, data)
            return self._decode(request, data)
        except InvalidInput as error:
            return {"refused": type(error).__name__, "message": str(error)}, []
        except _NeedsRoom:
            return {"needs_room": True}, []
        except MemoryError as error:
            message = "decoding this file takes too much memory"
            if error.__cause__ is not None:
                message += f", or it is damaged: {str(error.__cause__)[:200]}"
            return {"exhausted": True, "message": message}, []
        except ImportError as error:
            # Ours: what a file may need must be imported before files are out of reach.
            return {"broken": f"the decoding process lacks {error.name}"}, []
        except Exception as error:  # noqa: BLE001 - a file must never take the process with it
            message = (
                f"the decoder cannot make sense of this file ({type(error).__name__}: {error})"
            )
            return {"refused": "CorruptImage", "message": message}, []

    def _open(self, request: dict[str, Any], data: bytes, short_side_px: int) -> Any:
        """A file's frames, before anything of them is decoded.

        Raises:
            _NeedsRoom, _FirstLookOver: none should be decoded now.
        """
        frames = self._frames.Frames(data, self._limits, short_side_px)
        pixels = frames.declared.width_px * frames.declared.height_px
        if request["first_look_s"] and pixels * len(frames) > _FIRST_LOOK_PX:
            raise _FirstLookOver
        if not request["has_room"] and self._limits.is_large(pixels, len(frames)):
            raise _NeedsRoom
        return frames

    def _decode(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], list[Any]]:
        frames = self._open(request, data, self._views.short_side_needed_px(self._options))
        printer = self._prints.Printer() if request["prints"] else None
        looked, flat, unseen = self._views.look(frames, self._options, printer)
        header = {
            "format": frames.format,
            "width_px": frames.declared.width_px,
            "height_px": frames.declared.height_px,
            "frame_count": len(frames),
            "flat": flat,
            "unseen": unseen,
            "prints": [digest.hex() for digest in printer.hashes] if printer else [],
            "pixels": printer.pixels(frames) if printer else "",
            "views": [{**_without_pixels(view), "sizes": _sizes(view)} for view in looked],
        }
        parts = [pixels for view in looked for pixels in _pixels(view)]
        return header, [memoryview(pixels).cast("B") for pixels in parts]

    def _keep(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], list[Any]]:
        frames = self._open(request, data, self._views.short_side_needed_px(self._options))
        hashes, pixels = self._prints.keep(frames, request["frame"], request["background"])
        return {"prints": [digest.hex() for digest in hashes], "pixels": pixels}, []

    def _draw(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], list[Any]]:
        asked = (request["frame"], request["background"], request["side_px"], request["most"])
        frames = self._open(request, data, request["side_px"])
        jpeg, durations_s = self._sheet.sheet(frames, *asked)
        return {"durations_s": durations_s}, [jpeg]

    def _normalise(self, request: dict[str, Any], data: bytes) -> bytes:
        frames = self._open(request, data, 1024)
        frame = frames.read(min(request["frame"], len(frames) - 1))
        written: bytes = self._shown.normalise(frame, request["background"])
        return written


def _without_pixels(view: Any) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(view)} - {"pixels", "second"}
    return {name: getattr(view, name) for name in names}


def _pixels(view: Any) -> list[Any]:
    return [view.pixels] if view.second is None else [view.pixels, view.second]


def _sizes(view: Any) -> list[tuple[int, int]]:
    """(height, width) of each of its arrays."""
    return [pixels.shape[:2] for pixels in _pixels(view)]


class _NeedsRoom(Exception):
    """Raised before a picture is decoded that may only be where no other large one is."""


class _FirstLookOver(BaseException):
    """Raised wherever the decoding stands when its first, short budget is spent."""


@contextlib.contextmanager
def _processor_limit(seconds_s: float, first_look_s: float) -> Iterator[None]:
    """Let the kernel end this process after so much processor time; no Python code needs to run.

    A first look ends sooner, and by an exception where Python code runs at all, which saves the
    process.
    """
    is_first_look = 0 < first_look_s < seconds_s
    running = True

    def stop(*_: object) -> None:
        if running:
            raise _FirstLookOver

    if is_first_look:
        signal.signal(signal.SIGVTALRM, stop)
        signal.setitimer(signal.ITIMER_VIRTUAL, first_look_s)
    signal.setitimer(signal.ITIMER_PROF, first_look_s + _GRACE_S if is_first_look else seconds_s)
    try:
        yield
    finally:
        running = False
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)


def _receive(link: Connection, max_bytes: int) -> tuple[dict[str, Any], bytes]:
    parent = os.getppid()
    while not link.poll(_PARENT_CHECK_S):
        if os.getppid() != parent:
            sys.exit(0)
    try:
        return json.loads(link.recv_bytes(MAX_HEADER_BYTES)), link.recv_bytes(max_bytes)
    except (EOFError, OSError):
        sys.exit(0)


def _send(link: Connection, header: dict[str, Any], payload: list[Any] | None = None) -> None:
    try:
        link.send_bytes(json.dumps(header).encode())
        link.send_bytes(b"".join(payload or []))
    except OSError:
        sys.exit(0)
