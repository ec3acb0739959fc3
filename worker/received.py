"""Deletes pictures that came in through the API once they are old, from the folder store.

`producer/api/uploads.py` puts them under received/<day>/. A picture whose upload is still open
(queued, reviewing, held or dead) stays until that is decided, however old it is. In S3 a lifecycle
rule of the bucket does this; see docs/operations.md.

Keys, behind the store's prefix:

    received:swept      string  somebody has looked; expires after `EVERY_S`
"""

from __future__ import annotations

import datetime
import os
import posixpath
import threading
from collections.abc import Iterator
from pathlib import Path

import redis
import structlog

from producer.contract import AvatarState
from producer.images import RECEIVED
from producer.store import Store

log = structlog.get_logger()

#: Seconds between two looks, by whichever process.
EVERY_S = 3600

#: States in which a worker or a person must still see the picture.
OPEN_STATES = (AvatarState.QUEUED, AvatarState.REVIEWING, AvatarState.HELD, AvatarState.DEAD)

#: Records asked for in one round trip.
PAGE = 500


class ReceivedDuty:
    """Looks once an hour, in a thread of its own, for many files take longer than a tick.

    Args:
        store: which uploads are open, and what day it is.
        folder: the image store's.
        retention_days: full days that a picture is kept after the day it came in; at least 1.
        stop: ends a look early.
    """

    def __init__(
        self, store: Store, folder: Path, *, retention_days: int, stop: threading.Event
    ) -> None:
        self._store = store
        self._folder = folder / RECEIVED
        self._retention = datetime.timedelta(days=retention_days)
        self._stop = stop

    def __call__(self) -> None:
        """Start a look, unless there was one within the hour."""
        key = self._store.key(RECEIVED, "swept")
        if self._store.redis.set(key, "1", nx=True, ex=EVERY_S):
            threading.Thread(target=self._look, name="received", daemon=True).start()

    def _look(self) -> None:
        try:
            removed = self.sweep()
        except redis.RedisError as error:
            log.warning("received_not_swept", error=type(error).__name__)
            return
        if removed:
            log.info("received_swept", pictures=removed, older_than_days=self._retention.days)

    def sweep(self) -> int:
        """Delete what is old and not open; returns how many files went.

        Raises:
            redis.RedisError: it is not known what is open; nothing was deleted.
        """
        today = datetime.datetime.fromtimestamp(self._store.now(), datetime.UTC).date()
        days = list(self._days_before(today - self._retention))
        if not days:
            return 0
        kept = self._open_pictures()
        removed = 0
        for day in days:
            try:
                removed += self._sweep_day(day, kept)
            except OSError as error:
                log.warning("received_not_swept", day=day.name, message=error.strerror)
        return removed

    def _sweep_day(self, day: Path, kept: set[str]) -> int:
        removed = 0
        for name in os.listdir(day):
            if self._stop.is_set():
                return removed
            if f"{RECEIVED}/{day.name}/{name}" not in kept:
                (day / name).unlink(missing_ok=True)
                removed += 1
        if not os.listdir(day):
            day.rmdir()
        return removed

    def _days_before(self, first_kept: datetime.date) -> Iterator[Path]:
        """Folders of older days; what has no day's name is none of ours."""
        if not self._folder.is_dir():
            return
        with os.scandir(self._folder) as entries:
            for entry in entries:
                day = _day_of(entry.name)
                if day and day < first_kept and entry.is_dir(follow_symlinks=False):
                    yield Path(entry.path)

    def _open_pictures(self) -> set[str]:
        """Names in the image store that open uploads refer to, as of one moment."""
        client = self._store.redis
        # One transaction: an upload that moves between two states is in one of them.
        pipe = client.pipeline(transaction=True)
        for state in OPEN_STATES:
            pipe.zrange(self._store.key("open", state), 0, -1)
        ids = [upload_id for members in pipe.execute() for upload_id in members]
        names: set[str] = set()
        for start in range(0, len(ids), PAGE):
            pipe = client.pipeline(transaction=False)
            for upload_id in ids[start : start + PAGE]:
                pipe.hget(self._store.key("avatar", upload_id), "image")
            names.update(posixpath.normpath(image) for image in pipe.execute() if image)
        return names


def _day_of(name: str) -> datetime.date | None:
    try:
        day = datetime.date.fromisoformat(name)
    except ValueError:
        return None
    return day if day.isoformat() == name else None
