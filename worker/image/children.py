"""The processes that files are decoded in: which of them does what, and when one is replaced.

A child that crashes, hangs or asks for too much memory is replaced; the file is tried once more in
a fresh child, so that what one file left behind never costs the next one its avatar, and is then
refused.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

from producer.errors import (
    DecoderUnavailable,
    ImageTooLarge,
    ImageTooSlow,
    NeedsLonger,
)
from producer.texts import say
from worker.image.child_process import Child, ChildLost
from worker.image.containers.formats import DecodeLimits
from worker.image.room import Room
from worker.image.views import ViewOptions

#: Seconds between two attempts to end what may just be starting.
_KILL_EVERY_S = 0.02


class Children:
    """Some children with the same limits; each does one file at a time."""

    def __init__(
        self,
        limits: DecodeLimits,
        options: ViewOptions,
        count: int,
        room: Room,
        *,
        background: bool = False,
    ) -> None:
        self._limits = limits
        self._room = room
        self._background = background
        self._closing = threading.Event()
        self._idle: queue.LifoQueue[Child] = queue.LifoQueue()
        self._all = [Child(limits, options, background=background) for _ in range(count)]
        for child in self._all:
            self._idle.put(child)

    def pids(self) -> list[int]:
        """Of those that run now."""
        return [child.pid for child in self._all if child.pid is not None]

    def start(self) -> None:
        """Start every one of them now."""
        with self._held() as children:
            for child in children:
                child.start()

    def close(self) -> None:
        """End them, after the files in hand; in the background at once."""
        if self._background:
            self._closing.set()
            while self._idle.qsize() < len(self._all):
                for child in self._all:
                    child.kill()
                time.sleep(_KILL_EVERY_S)
        with self._held() as children:
            for child in children:
                child.stop()
        self._closing.clear()

    def ask(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        """Have a file decoded, a second time in a fresh child where the first was lost."""
        self._check_size(data)
        with self._one() as child:
            header, payload = self._ask_twice(child, {**request, "has_room": False}, data)
            if "needs_room" not in header:
                return header, payload
            with contextlib.ExitStack() as held:
                if not held.enter_context(self._room.taken(0)):
                    # What waits shall take no memory meanwhile.
                    child.stop()
                    turn = self._room.taken(child.clock_s, self._closing)
                    if not held.enter_context(turn):
                        raise DecoderUnavailable(
                            say("other large pictures are still being decoded")
                        )
                return self._ask_twice(child, {**request, "has_room": True}, data)

    def _ask_twice(
        self, child: Child, request: dict[str, Any], data: bytes
    ) -> tuple[dict[str, Any], bytes]:
        try:
            return child.ask_well(request, data)
        except ChildLost:
            # The next child is a fresh one: only what fails there too is the file's fault.
            if self._closing.is_set():
                raise DecoderUnavailable(say("the decoder was closed")) from None
        try:
            return child.ask_well(request, data)
        except ChildLost as lost:
            raise lost.verdict from lost

    def look(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        """Have a file decoded if that is easy.

        Raises:
            NeedsLonger: it is not, or it ended the child, whatever that means; or it is large and
                another large one is being decoded.
        """
        self._check_size(data)
        try:
            with self._one() as child:
                header, payload = child.ask({**request, "has_room": False}, data)
                if "needs_room" in header:
                    with self._room.taken(0) as is_taken:
                        if not is_taken:
                            raise NeedsLonger("another large picture is being decoded")
                        header, payload = child.ask({**request, "has_room": True}, data)
        except (ChildLost, ImageTooSlow) as error:
            raise NeedsLonger(f"a first look was not enough: {error}") from error
        if "unfinished" in header or "exhausted" in header:
            raise NeedsLonger("a first look was not enough")
        return header, payload

    def _check_size(self, data: bytes) -> None:
        if len(data) > self._limits.max_bytes:
            raise ImageTooLarge(
                f"the file has {len(data):,} bytes; at most {self._limits.max_bytes:,} are accepted"
            )

    @contextlib.contextmanager
    def _one(self) -> Iterator[Child]:
        child = self._idle.get()
        try:
            yield child
        finally:
            if self._background:
                child.stop()
            self._idle.put(child)

    @contextlib.contextmanager
    def _held(self) -> Iterator[list[Child]]:
        children = [self._idle.get() for _ in self._all]
        try:
            yield children
        finally:
            for child in children:
                self._idle.put(child)
