"""Waiting for verdicts without polling: one thread follows the stream of transitions.

Whoever waits registers an upload id; the thread wakes them when an event about it appears. The
record is looked at again every second all the same, so a missed event costs a second, never an
answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable

import redis
import structlog
from starlette.concurrency import run_in_threadpool

from producer.contract import Avatar
from producer.record.store import Store

log = structlog.get_logger()

#: Seconds after which a record is looked at again although no event came.
LOOK_AGAIN_S = 1.0

#: Seconds that one read of the stream waits.
BLOCK_S = 1.0


class Follower:
    """Wakes waiting requests; the thread works only while somebody waits."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._somebody = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)

    def start(self) -> None:
        """Start following; to be called inside the event loop that the requests run in."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def release(self) -> None:
        """Let everybody who waits go within a second, with the record as it stands."""
        self._stop.set()
        self._somebody.set()

    def stop(self) -> None:
        """End the thread, within a second."""
        self.release()
        self._thread.join(2 * BLOCK_S)

    async def wait(
        self, upload_id: str, is_enough: Callable[[Avatar | None], bool], timeout_s: float
    ) -> Avatar | None:
        """The record as soon as `is_enough` says so, or as it stands when the time is over."""
        deadline_s = time.monotonic() + timeout_s
        event = asyncio.Event()
        self._waiting.setdefault(upload_id, set()).add(event)
        self._somebody.set()
        try:
            while True:
                event.clear()
                avatar = await run_in_threadpool(self._store.get, upload_id)
                left_s = deadline_s - time.monotonic()
                if is_enough(avatar) or left_s <= 0 or self._stop.is_set():
                    return avatar
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), min(left_s, LOOK_AGAIN_S))
        finally:
            waiting = self._waiting[upload_id]
            waiting.discard(event)
            if not waiting:
                del self._waiting[upload_id]
            if not self._waiting:
                self._somebody.clear()

    def _follow(self) -> None:
        place = ""
        while not self._stop.is_set():
            if not self._somebody.is_set():
                place = ""
                self._somebody.wait()
                continue
            try:
                place = self._read(place or self._store.events.last_id())
            except redis.RedisError as error:
                log.warning("follower_waits", error=type(error).__name__)
                self._stop.wait(BLOCK_S)

    def _read(self, place: str) -> str:
        entries = self._store.events.after(place, wait_s=BLOCK_S, limit=500)
        if not entries:
            return place
        assert self._loop is not None
        upload_ids = {fields["upload_id"] for _, fields in entries}
        if self._waiting.keys() & upload_ids:
            self._loop.call_soon_threadsafe(self._wake, upload_ids)
        return entries[-1][0]

    def _wake(self, upload_ids: set[str]) -> None:
        for upload_id in upload_ids:
            for event in self._waiting.get(upload_id, ()):
                event.set()
