"""The process in which hostile files are decoded; started by `decode.Decoder`, one file at a time.

Reads requests from a socket and answers each with JSON and raw pixels: what a broken codec may have
taken over must not be trusted by the worker. It ends when the socket closes, when its parent is
gone, and by the kernel's hand when a file takes too much processor time.
Imports neither onnxruntime nor Celery.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import struct
import sys
import warnings
from typing import Any

#: Request: length of the JSON header, length of the file. Reply: the same, with the pixels.
LENGTHS = struct.Struct("<IQ")

#: Seconds between looks at whether the parent still lives.
_PARENT_CHECK_S = 5.0


def main(fd: int) -> None:
    """Serve one parent until it hangs up."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # A stop is for the parent to decide: a service manager signals the whole group.
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=fd) as link:
        greeting, _ = _receive(link)
        try:
            from worker import formats, frames, pixels, views
        except ImportError as error:
            _send(link, {"error": f"{error}; install avatar-moderation[worker]"})
            return
        limits = formats.DecodeLimits(**greeting["limits"])
        spec = pixels.InputSpec.from_dict(greeting["options"].pop("spec"))
        options = views.ViewOptions(spec=spec, **greeting["options"])
        frames.prepare_codecs()
        warnings.simplefilter("ignore")
        _restrict(limits.memory_bytes)
        _send(link, {"ready": True})
        decoding = _Decoding(limits, options, frames, views)
        while True:
            request, data = _receive(link)
            with _processor_limit(limits.timeout_s):
                header, payload = decoding.answer(request, bytes(data))
            del data
            _send(link, header, payload)


class _Decoding:
    """What one request becomes."""

    def __init__(self, limits: Any, options: Any, frames: Any, views: Any) -> None:
        self._limits = limits
        self._options = options
        self._frames = frames
        self._views = views

    def answer(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], list[Any]]:
        from producer.errors import InvalidInput

        try:
            if request["op"] == "normalise":
                return {}, [self._normalise(request, data)]
            return self._decode(data)
        except InvalidInput as error:
            return {"refused": type(error).__name__, "message": str(error)}, []
        except MemoryError:
            message = "decoding this file takes too much memory"
            return {"exhausted": True, "message": message}, []
        except Exception as error:  # noqa: BLE001 - a file must never take the process with it
            message = (
                f"the decoder cannot make sense of this file ({type(error).__name__}: {error})"
            )
            return {"refused": "CorruptImage", "message": message}, []

    def _decode(self, data: bytes) -> tuple[dict[str, Any], list[Any]]:
        needed_px = self._views.short_side_needed_px(self._options.spec)
        frames = self._frames.Frames(data, self._limits, needed_px)
        looked, flat = self._views.look(frames, self._options)
        header = {
            "format": frames.format,
            "width_px": frames.declared.width_px,
            "height_px": frames.declared.height_px,
            "frame_count": len(frames),
            "flat": flat,
            "views": [
                {**_without_pixels(view), "height": len(view.pixels), "width": view.pixels.shape[1]}
                for view in looked
            ],
        }
        return header, [memoryview(view.pixels).cast("B") for view in looked]

    def _normalise(self, request: dict[str, Any], data: bytes) -> bytes:
        frames = self._frames.Frames(data, self._limits, 1024)
        frame = frames.read(min(request["frame"], len(frames) - 1))
        written: bytes = self._views.normalise(frame, request["background"])
        return written


def _without_pixels(view: Any) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(view) if field.name != "pixels"]
    return {name: getattr(view, name) for name in names}


def _restrict(memory_bytes: int) -> None:
    """Take from this process what decoding does not need."""
    try:
        import resource
    except ImportError:  # Windows has no such limits; the parent's clock still holds.
        return
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/statm") as statm:
            own_bytes = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (own_bytes + memory_bytes,) * 2)
    for name, value in (("RLIMIT_CORE", 0), ("RLIMIT_FSIZE", 0), ("RLIMIT_NOFILE", 32)):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(getattr(resource, name), (value, value))


@contextlib.contextmanager
def _processor_limit(seconds_s: float) -> Any:
    """Let the kernel end this process after so much processor time; no Python code needs to run."""
    signal.setitimer(signal.ITIMER_PROF, seconds_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _receive(link: socket.socket) -> tuple[dict[str, Any], bytearray]:
    header_bytes, data_bytes = LENGTHS.unpack(_read(link, LENGTHS.size))
    header = json.loads(_read(link, header_bytes)) if header_bytes else {}
    return header, _read(link, data_bytes)


def _read(link: socket.socket, length: int) -> bytearray:
    buffer = bytearray(length)
    view = memoryview(buffer)
    parent = os.getppid()
    link.settimeout(_PARENT_CHECK_S)
    while view:
        try:
            count = link.recv_into(view)
        except TimeoutError:
            if os.getppid() != parent:
                sys.exit(0)
            continue
        except OSError:
            sys.exit(0)
        if not count:
            sys.exit(0)
        view = view[count:]
    return buffer


def _send(link: socket.socket, header: dict[str, Any], payload: list[Any] | None = None) -> None:
    text = json.dumps(header).encode()
    parts = payload or []
    link.settimeout(None)
    try:
        link.sendall(LENGTHS.pack(len(text), sum(len(part) for part in parts)) + text)
        for part in parts:
            link.sendall(part)
    except OSError:
        sys.exit(0)
