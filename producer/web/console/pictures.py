"""Pictures for people: drawn anew, by threads and within a time of their own.

The bytes may lie at an address that hangs. A look at such a picture must take neither the threads
that answer requests nor the patience of whoever looks; that it failed is remembered.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Iterable
from typing import TypeVar

from producer.contract import Avatar, is_upload_id
from producer.errors import ModerationError, StorageUnavailable
from producer.record.store import Store
from producer.web.console.cache import TimedCache
from producer.web.console.dependencies import Pictures
from producer.web.limits import Slots

#: Threads that fetch and draw, and looks that wait for them.
THREADS, MAX_LOOKS = 4, 32

#: Look-ups of a picture at once, each of which starts a process; seconds that one may take.
MAX_LOOK_UPS, LOOK_UP_S = 1, 60.0

#: Seconds that one look may take; the first one of all starts a helper process.
DEADLINE_S = 15.0

#: Seconds for which a picture that could not be shown is not tried again.
FAILED_S = 60.0

#: Seconds for which it is known what a person was shown.
SEEN_S = 3600.0

#: Longest side of a small picture, of a frame in a row, and how many frames a row has at most.
SMALL_PX, FRAME_PX, MOST_FRAMES = 320, 160, 12

T = TypeVar("T")

#: A JPEG, the hash of the bytes it was drawn from, and the seconds that each frame is shown.
Look = tuple[bytes, str, tuple[float, ...]]


class Looks:
    """Asks for pictures without holding anybody up; each is fetched once at a time."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures
        self._pool = concurrent.futures.ThreadPoolExecutor(THREADS, thread_name_prefix="pictures")
        self._slots = Slots(MAX_LOOKS)
        self._look_ups = Slots(MAX_LOOK_UPS)
        self._failed = TimedCache(FAILED_S)
        self._seen = TimedCache(SEEN_S)
        self._running: dict[str, asyncio.Future[Look]] = {}

    async def safe_jpeg(self, avatar: Avatar, who: str) -> bytes:
        """The picture of an upload as a JPEG of ours, for a person.

        Raises:
            ModerationError: it is gone, no picture, or takes too long.
            NoSlot: too many are looked at.
        """
        jpeg, sha256, _ = await self._look(avatar, "", self._whole)
        self._seen.put(f"{who} {avatar.upload_id}", sha256)
        return jpeg

    async def small_jpeg(self, avatar: Avatar, who: str) -> bytes:
        """The same, small."""
        jpeg, sha256, _ = await self._look(avatar, "small", self._small)
        self._seen.put(f"{who} {avatar.upload_id}", sha256)
        return jpeg

    async def frames(self, avatar: Avatar) -> tuple[bytes, tuple[float, ...]]:
        """Frames of an animation in a row of squares and their seconds; nothing of a still picture.

        Raises:
            ModerationError, NoSlot: as `safe_jpeg`.
        """
        jpeg, _, durations_s = await self._look(avatar, "frames", self._frames)
        return jpeg, durations_s

    async def look_up(self, ask: Callable[[], T]) -> T:
        """Ask what is known of a picture; see `Parts.look_up`.

        Raises:
            ModerationError: it takes too long, or what `ask` raises.
            NoSlot: somebody looks another one up.
        """
        with self._look_ups.take():
            work = asyncio.wrap_future(self._pool.submit(ask))
            try:
                return await asyncio.wait_for(work, LOOK_UP_S)
            except TimeoutError:
                raise StorageUnavailable("the answer did not come in time") from None

    def _whole(self, avatar: Avatar) -> Look:
        return (*self._pictures.safe_jpeg(avatar), ())

    def _small(self, avatar: Avatar) -> Look:
        return self._pictures.sheet(avatar, SMALL_PX)

    def _frames(self, avatar: Avatar) -> Look:
        return self._pictures.sheet(avatar, FRAME_PX, MOST_FRAMES)

    async def _look(self, avatar: Avatar, how: str, draw: Callable[[Avatar], Look]) -> Look:
        name = f"{avatar.upload_id} {avatar.seq} {how}"
        if (known := self._failed.peek(name)) is not None:
            raise known
        with self._slots.take():
            try:
                drawing = asyncio.shield(self._draw(name, avatar, draw))
                return await asyncio.wait_for(drawing, DEADLINE_S)
            except TimeoutError:
                raise StorageUnavailable("the picture did not come in time") from None

    def seen(self, upload_id: str, who: str) -> str:
        """The hash of the picture that a person was shown last; empty for none of late."""
        return self._seen.peek(f"{who} {upload_id}") or ""

    def _draw(
        self, name: str, avatar: Avatar, draw: Callable[[Avatar], Look]
    ) -> asyncio.Future[Look]:
        if name not in self._running:
            work = self._pool.submit(draw, avatar)
            self._running[name] = asyncio.wrap_future(work)
            self._running[name].add_done_callback(lambda done: self._drawn(name, done))
        return self._running[name]

    def _drawn(self, name: str, done: asyncio.Future[Look]) -> None:
        del self._running[name]
        error = None if done.cancelled() else done.exception()
        if isinstance(error, ModerationError):
            self._failed.put(name, error)

    def close(self) -> None:
        """Begin nothing any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def shown_of(store: Store, ids: Iterable[str]) -> set[str]:
    """Those of some ids, of uploads or not, whose pictures can be asked for."""
    wanted = [one for one in dict.fromkeys(ids) if is_upload_id(one)]
    found = store.get_many(wanted) if wanted else []
    return {avatar.upload_id for avatar in found if avatar}
