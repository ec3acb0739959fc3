"""Hostile bytes -> pixels, at arm's length: every file is decoded in a child process.

`Decoder` owns the children. It hands a file over a socket, waits for the pixels and reads the
answer as data only. A child that crashes, hangs or asks for too much memory is replaced; the file
is tried once more in a fresh child, so that what one file left behind never costs the next one its
avatar, and is then refused. Nothing that a file does reaches the worker itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from producer import errors
from producer.errors import (
    CorruptImage,
    DecoderUnavailable,
    ImageTooLarge,
    ImageTooSlow,
    InvalidInput,
)
from worker.decode_child import LENGTHS
from worker.formats import DecodeLimits
from worker.views import Background, Crop, View, ViewOptions

__all__ = ["Background", "Crop", "DecodeLimits", "Decoder", "Picture", "View", "ViewOptions"]

#: Short side below which scores and the style head mean less.
SMALL_SIDE_PX = 80
#: How many times the processor limit a file may take by the clock: a busy machine is not its fault.
_CLOCK_FACTOR = 4.0
#: Seconds for a child to import its libraries on a slow, busy machine.
_START_TIMEOUT_S = 60.0
#: Pictures after which a child is replaced: fragmented memory must not add up to a refusal.
_PICTURES_PER_CHILD = 1_000
#: Bytes of JSON in an answer; a thousand views would not need it.
_MAX_HEADER_BYTES = 2**20

_CHILD = "import sys; sys.path[:] = {path!r}; from worker.decode_child import main; main({fd})"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What an upload turned out to be.

    Attributes:
        format: for example `PNG`.
        width_px: as declared, before it is turned upright.
        height_px: as declared.
        frame_count: 1 for a still picture.
        views: what is to be scored, never empty.
        flat: why no model is needed, for example `single colour`; None where one is.
    """

    format: str
    width_px: int
    height_px: int
    frame_count: int
    views: list[View]
    flat: str | None

    @property
    def is_small(self) -> bool:
        """Whether a model sees mostly what scaling made up; see docs/quality.md."""
        return min(self.width_px, self.height_px) < SMALL_SIDE_PX


class Decoder:
    """Decodes files in child processes; safe to use from several threads."""

    def __init__(self, limits: DecodeLimits, options: ViewOptions, workers: int = 1) -> None:
        """Prepare; children start when first needed, or with `start`."""
        self._limits = limits
        self._idle: queue.LifoQueue[_Child] = queue.LifoQueue()
        self._children = [_Child(limits, options) for _ in range(workers)]
        for child in self._children:
            self._idle.put(child)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def start(self) -> None:
        """Start every child now.

        Raises:
            DecoderUnavailable: a child cannot be started; says why.
        """
        with self._all_children() as children:
            for child in children:
                child.start()

    def close(self) -> None:
        """Wait for pictures under way and end the children; another `decode` starts new ones."""
        with self._all_children() as children:
            for child in children:
                child.stop()

    def child_pids(self) -> list[int]:
        """Process ids of the children that run now, for status pages and tests."""
        return [child.pid for child in self._children if child.pid is not None]

    def decode(self, data: bytes) -> Picture:
        """Return what is to be scored.

        Raises:
            InvalidInput: the file is refused: `ImageTooLarge`, `UnsupportedImage`, `CorruptImage`,
                `ImageBomb` or `ImageTooSlow`.
            DecoderUnavailable: no child process can be started or kept alive.
        """
        header, payload = self._ask({"op": "decode"}, data)
        try:
            return Picture(
                format=str(header["format"]),
                width_px=int(header["width_px"]),
                height_px=int(header["height_px"]),
                frame_count=int(header["frame_count"]),
                flat=header["flat"],
                views=list(_unpack(header["views"], payload)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptImage("the file makes the decoder answer nonsense") from error

    def normalise(self, data: bytes, *, frame: int = 0, background: Background = "") -> bytes:
        """Return the JPEG that review providers are sent.

        Args:
            data: the file.
            frame: the frame that scored worst.
            background: what that view was put over; "" puts transparency over grey.

        Returns:
            Short side at least 256 px, long side at most 1024 px, under 180,000 bytes.

        Raises:
            InvalidInput, DecoderUnavailable: as `decode`.
        """
        request = {"op": "normalise", "frame": frame, "background": background}
        return bytes(self._ask(request, data)[1])

    def _ask(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytearray]:
        if len(data) > self._limits.max_bytes:
            raise ImageTooLarge(
                f"the file has {len(data):,} bytes; at most {self._limits.max_bytes:,} are accepted"
            )
        with self._child() as child:
            try:
                return child.ask(request, data)
            except _ChildLost:
                # The next child is a fresh one: only what fails there too is the file's fault.
                pass
            try:
                return child.ask(request, data)
            except _ChildLost as lost:
                raise lost.verdict from lost

    @contextlib.contextmanager
    def _child(self) -> Iterator[_Child]:
        child = self._idle.get()
        try:
            yield child
        finally:
            self._idle.put(child)

    @contextlib.contextmanager
    def _all_children(self) -> Iterator[list[_Child]]:
        with contextlib.ExitStack() as held:
            yield [held.enter_context(self._child()) for _ in self._children]


def _unpack(views: list[dict[str, Any]], payload: bytearray) -> Iterator[View]:
    at = 0
    for view in views:
        shape = (int(view.pop("height")), int(view.pop("width")), 3)
        count = shape[0] * shape[1] * shape[2]
        pixels = np.frombuffer(payload, np.uint8, count, offset=at).reshape(shape)
        at += count
        yield View(pixels=pixels, **view)


class _ChildLost(Exception):
    """Raised when a child had to be replaced; `verdict` is what to say if it happens again."""

    def __init__(self, verdict: errors.ModerationError) -> None:
        super().__init__(str(verdict))
        self.verdict = verdict


class _Child:
    """One decoding process and the socket to it; used by one thread at a time."""

    def __init__(self, limits: DecodeLimits, options: ViewOptions) -> None:
        self._limits = limits
        self._greeting = {"limits": asdict(limits), "options": asdict(options)}
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._pictures = 0

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        if self._process is not None:
            return
        ours, theirs = socket.socketpair()
        with theirs:
            code = _CHILD.format(path=sys.path, fd=theirs.fileno())
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-c", code],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    # Ctrl-C on a terminal is for the worker, which ends its children itself.
                    start_new_session=True,
                    # No secret of the worker is within reach of a hostile file.
                    env=_child_environment(),
                )
            except OSError as error:
                ours.close()
                raise DecoderUnavailable(f"no decoding process can be started: {error}") from error
        self._link, self._pictures = ours, 0
        self._greet()

    def _greet(self) -> None:
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        try:
            self._send(self._greeting, b"", deadline_s)
            header, _ = self._receive(deadline_s)
        except (OSError, EOFError, ValueError) as error:
            status = self._end()
            raise DecoderUnavailable(
                f"the decoding process ended while starting ({status})"
            ) from error
        if "error" in header:
            self.stop()
            raise DecoderUnavailable(f"the decoding process cannot start: {header['error']}")

    def ask(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytearray]:
        """Have one file decoded.

        Raises:
            InvalidInput: the child refused the file.
            ImageTooSlow: it took more than the processor time allowed.
            DecoderUnavailable: no child starts, or the machine is too busy to tell.
            _ChildLost: the child crashed or ran out of memory; the next one will be fresh.
        """
        self.start()
        deadline_s = time.monotonic() + _CLOCK_FACTOR * self._limits.timeout_s
        try:
            self._send(request, data, deadline_s)
            header, payload = self._receive(deadline_s)
        except TimeoutError as error:
            self.stop()
            raise DecoderUnavailable(
                f"a picture was not decoded within {_CLOCK_FACTOR * self._limits.timeout_s:g} s "
                "by the clock although it did not use its processor time: the machine is too busy"
            ) from error
        except ValueError as error:
            # What still runs has been taken over or confused.
            self.stop()
            raise _ChildLost(CorruptImage("the file makes the decoder answer nonsense")) from error
        except (OSError, EOFError) as error:
            raise self._judge(self._end()) from error
        self._pictures += 1
        if header.get("exhausted"):
            self.stop()
            raise _ChildLost(errors.ImageBomb(header["message"]))
        if self._pictures >= _PICTURES_PER_CHILD:
            self.stop()
        if "refused" in header:
            raise _refusal(header)
        return header, payload

    def _judge(self, status: int) -> Exception:
        if status == -signal.SIGPROF:
            return ImageTooSlow(
                f"decoding took more than {self._limits.timeout_s:g} s of processor time"
            )
        if status == -signal.SIGKILL:
            return _ChildLost(
                DecoderUnavailable(
                    "the decoding process was killed twice; is the machine short of memory?"
                )
            )
        name = signal.Signals(-status).name if status < 0 else f"status {status}"
        return _ChildLost(CorruptImage(f"the file crashes the decoder ({name})"))

    def _send(self, header: dict[str, Any], data: bytes, deadline_s: float) -> None:
        assert self._link is not None
        text = json.dumps(header).encode() if header else b""
        self._link.settimeout(max(0.001, deadline_s - time.monotonic()))
        self._link.sendall(LENGTHS.pack(len(text), len(data)) + text)
        self._link.sendall(data)

    def _receive(self, deadline_s: float) -> tuple[dict[str, Any], bytearray]:
        header_bytes, data_bytes = LENGTHS.unpack(self._read(LENGTHS.size, deadline_s))
        if header_bytes > _MAX_HEADER_BYTES or data_bytes > self._limits.memory_bytes:
            raise ValueError("the decoding process answers nonsense")
        header = json.loads(self._read(header_bytes, deadline_s))
        return header, self._read(data_bytes, deadline_s)

    def _read(self, length: int, deadline_s: float) -> bytearray:
        assert self._link is not None
        buffer = bytearray(length)
        view = memoryview(buffer)
        while view:
            self._link.settimeout(max(0.001, deadline_s - time.monotonic()))
            count = self._link.recv_into(view)
            if not count:
                raise EOFError("the decoding process ended")
            view = view[count:]
        return buffer

    def stop(self) -> None:
        """End the process; the next `ask` starts another."""
        if self._process is not None:
            self._process.kill()
            self._end()

    def _end(self) -> int:
        assert self._process is not None
        assert self._link is not None
        self._link.close()
        try:
            status = self._process.wait(timeout=_CLOCK_FACTOR)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._process = self._link = None
        return status


def _child_environment() -> dict[str, str]:
    libraries = os.environ.get("LD_LIBRARY_PATH")
    return {
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
        "LANG": "C.UTF-8",
        **({"LD_LIBRARY_PATH": libraries} if libraries else {}),
    }


def _refusal(header: dict[str, Any]) -> InvalidInput:
    kind = getattr(errors, header["refused"], CorruptImage)
    if not (isinstance(kind, type) and issubclass(kind, InvalidInput)):
        kind = CorruptImage
    return kind(str(header["message"])[:500])
