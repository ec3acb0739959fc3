"""One process that files are decoded in, as its parent sees it: started, asked, watched and judged.

A file goes over a socket and its answer is read as data only.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

from producer import errors
from producer.errors import (
    CorruptImage,
    DecoderUnavailable,
    ImageBomb,
    ImageTooSlow,
    InvalidInput,
)
from producer.texts import of_error, say
from worker.image.child import MAX_HEADER_BYTES
from worker.image.containers.formats import DecodeLimits
from worker.image.views import ViewOptions
from worker.resources import hide_memory

#: How many times the processor limit a file may take by the clock: a busy machine is not its fault.
_CLOCK_FACTOR = 4.0
#: The same for a child in the background, which gets what others leave.
_BACKGROUND_CLOCK_FACTOR = 30.0
#: Seconds by the clock that a file may take in any case.
_MIN_CLOCK_S = 10.0
#: Seconds for a child to import its libraries on a slow, busy machine.
_START_TIMEOUT_S = 60.0
#: Seconds that a process which hung up may take to be gone.
_END_S = 4.0
#: Seconds between two looks at a child's clock.
_WATCH_EVERY_S = 0.5
#: Pictures after which a child is replaced: fragmented memory must not add up to a refusal.
_PICTURES_PER_CHILD = 1_000
_CHILD = "import sys; sys.path[:] = {path!r}; from worker.image.child import main; main({fd})"


class ChildLost(Exception):
    """Raised when a child had to be replaced; `verdict` is what to say if it happens again."""

    def __init__(self, verdict: errors.ModerationError) -> None:
        super().__init__(str(verdict))
        self.verdict = verdict


class Child:
    """One decoding process and the socket to it; used by one thread at a time."""

    def __init__(
        self, limits: DecodeLimits, options: ViewOptions, *, background: bool = False
    ) -> None:
        self._limits = limits
        factor = _BACKGROUND_CLOCK_FACTOR if background else _CLOCK_FACTOR
        #: Seconds by the clock that a file may take.
        self.clock_s = max(_MIN_CLOCK_S, factor * limits.timeout_s)
        self._greeting = {
            "limits": asdict(limits),
            "options": asdict(options),
            "background": background,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Connection | None = None
        self._pictures = 0
        self._deadline_s = math.inf
        self._is_late = False

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        process = self._process
        return None if process is None else process.pid

    def start(self) -> None:
        """Start it if it does not run.

        Raises:
            DecoderUnavailable: it cannot be started; says why.
        """
        if self._process is not None:
            return
        # What this process knows must not be readable by what it starts.
        hide_memory()
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
                raise DecoderUnavailable(
                    say("no decoding process can be started: {error}", error=of_error(error))
                ) from error
        self._link, self._pictures = Connection(ours.detach()), 0
        watch = threading.Thread(
            target=self._watch, args=(self._process,), name="watch", daemon=True
        )
        watch.start()
        self._greet()

    def _greet(self) -> None:
        try:
            with self._clock(_START_TIMEOUT_S):
                header, _ = self._exchange(self._greeting, b"")
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            status = self._end()
            raise DecoderUnavailable(
                say("the decoding process ended while starting ({status})", status=status)
            ) from error
        if "error" in header:
            self.stop()
            raise DecoderUnavailable(
                say("the decoding process cannot start: {error}", error=header["error"])
            )

    def ask(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        """Have one file decoded.

        Raises:
            InvalidInput: the child refused the file.
            ImageTooSlow: it took more than the processor time allowed.
            DecoderUnavailable: no child starts, or the machine is too busy to tell.
            ChildLost: the child crashed; the next one will be fresh.
        """
        self.start()
        try:
            with self._clock(self.clock_s):
                header, payload = self._exchange(request, data)
        except TimeoutError as error:
            self.stop()
            raise DecoderUnavailable(
                say(
                    "a picture was not decoded within {limit:g} s by the clock although it "
                    "did not use its processor time: the machine is too busy",
                    limit=self.clock_s,
                )
            ) from error
        except ValueError as error:
            # What still runs has been taken over or confused.
            self.stop()
            raise ChildLost(CorruptImage("the file makes the decoder answer nonsense")) from error
        except (OSError, EOFError) as error:
            raise self._judge(self._end()) from error
        self._pictures += 1
        if self._pictures >= _PICTURES_PER_CHILD:
            self.stop()
        if "broken" in header:
            raise DecoderUnavailable(str(header["broken"])[:200])
        if "refused" in header:
            raise _refusal(header)
        return header, payload

    def ask_well(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        """As `ask`; a child that ran out of memory is lost too, for that may be its own fault."""
        header, payload = self.ask(request, data)
        if header.get("exhausted"):
            self.stop()
            raise ChildLost(ImageBomb(str(header["message"])[:500]))
        return header, payload

    def _judge(self, status: int) -> Exception:
        if status == -signal.SIGPROF:
            return ImageTooSlow(
                f"decoding took more than {self._limits.timeout_s:g} s of processor time"
            )
        if status == -signal.SIGKILL:
            return ChildLost(
                DecoderUnavailable(
                    say("the decoding process was killed twice; is the machine short of memory?")
                )
            )
        name = signal.Signals(-status).name if status < 0 else f"status {status}"
        return ChildLost(CorruptImage(f"the file crashes the decoder ({name})"))

    @contextlib.contextmanager
    def _clock(self, seconds: float) -> Iterator[None]:
        """Kill the child when the time is over, so that no read or write waits for it any longer.

        Raises:
            TimeoutError: that happened.
        """
        self._is_late, self._deadline_s = False, time.monotonic() + seconds
        try:
            yield
        except (OSError, EOFError) as error:
            if self._is_late:
                raise TimeoutError(f"no answer within {seconds:g} s") from error
            raise
        finally:
            self._deadline_s = math.inf

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """In a thread of its own, as long as a process lives: end it when its time is over."""
        while self._process is process:
            if time.monotonic() > self._deadline_s:
                self._is_late = True
                process.kill()
            time.sleep(_WATCH_EVERY_S)

    def _exchange(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        """Send one request and read its answer.

        Raises:
            ValueError: the answer is longer than any answer may be, or no JSON.
            OSError, EOFError: the child is gone.
        """
        assert self._link is not None
        self._link.send_bytes(json.dumps(request).encode())
        self._link.send_bytes(data)
        header = json.loads(self._read(MAX_HEADER_BYTES))
        if not isinstance(header, dict):
            raise ValueError("the decoding process answers nonsense")
        return header, self._read(self._limits.memory_bytes)

    def _read(self, max_bytes: int) -> bytes:
        assert self._link is not None
        try:
            return self._link.recv_bytes(max_bytes)
        except OSError as error:
            if str(error) == "bad message length":  # multiprocessing's words for "too long"
                raise ValueError("the decoding process answers nonsense") from error
            raise

    def kill(self) -> None:
        """End the process from any thread; whoever waits for it hears of it."""
        process = self._process
        if process is not None:
            process.kill()

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
            status = self._process.wait(timeout=_END_S)
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
        # Large blocks go back to the system: one file's remains must not count against the next.
        "MALLOC_MMAP_THRESHOLD_": str(4 * 2**20),
        "LANG": "C.UTF-8",
        **({"LD_LIBRARY_PATH": libraries} if libraries else {}),
    }


def _refusal(header: dict[str, Any]) -> InvalidInput:
    kind = getattr(errors, header["refused"], CorruptImage)
    if not (isinstance(kind, type) and issubclass(kind, InvalidInput)):
        kind = CorruptImage
    return kind(str(header["message"])[:500])
