"""Deletes what is over: pictures that came in through the API, and safe copies without a record.

`producer/web/api/uploads.py` puts them under received/<day>/. A picture whose upload is still open
(queued, reviewing, held or dead) stays until that is decided, however old it is. In S3 a lifecycle
rule of the bucket does this; see docs/operations.md. Safe copies go from a bucket too.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import posixpath
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import redis
import structlog

from producer.errors import StorageUnavailable
from producer.images import BACKFILL, RECEIVED
from producer.record.store import Store

log = structlog.get_logger()

#: Seconds between two looks, by whichever process.
EVERY_S = 3600

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
        if self._store.start_sweep_of_received(every_s=EVERY_S):
            threading.Thread(target=self._look, name="received", daemon=True).start()

    def _look(self) -> None:
        try:
            removed = self.sweep() + self.sweep_copies()
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

    def sweep_copies(self) -> int:
        """Delete a backfill's copies that are old and whose uploads are not open.

        Raises:
            redis.RedisError: it is not known what is open; nothing was deleted.
        """
        root = self._folder.parent
        before = self._store.now() - self._retention.total_seconds()
        old = [path for path in (root / BACKFILL).rglob("*") if _is_older(path, before)]
        kept = self._open_pictures() if old else set()
        gone = [path for path in old if path.relative_to(root).as_posix() not in kept]
        for path in gone:
            with contextlib.suppress(OSError):
                path.unlink()
        return len(gone)

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
        ids = self._store.all_open_ids()
        names: set[str] = set()
        for start in range(0, len(ids), PAGE):
            images = self._store.images_of(ids[start : start + PAGE])
            names.update(posixpath.normpath(image) for image in images if image)
        return names


class CopiesDuty:
    """Looks once an hour for safe copies whose records' time is over, in a thread of its own.

    Args:
        store: which records are gone.
        remove: deletes the copy of an upload.
        stop: ends a look early.
    """

    def __init__(
        self, store: Store, remove: Callable[[str], object], *, stop: threading.Event
    ) -> None:
        self._store = store
        self._remove = remove
        self._stop = stop

    def __call__(self) -> None:
        """Start a look, unless there was one within the hour."""
        if self._store.copies.start_sweep(every_s=EVERY_S):
            threading.Thread(target=self._look, name="copies", daemon=True).start()

    def _look(self) -> None:
        try:
            removed = self.sweep()
        except (redis.RedisError, StorageUnavailable) as error:
            log.warning("copies_not_swept", error=type(error).__name__, message=str(error)[:200])
            return
        if removed:
            log.info("copies_swept", copies=removed)

    def sweep(self) -> int:
        """Delete the copies of uploads whose records are gone; returns how many.

        Raises:
            StorageUnavailable: one was not deleted; it is the first of the next look.
        """
        removed = 0
        while upload_ids := self._store.copies.over(PAGE):
            for upload_id in upload_ids:
                if self._stop.is_set():
                    return removed
                self._remove(upload_id)
                removed += 1
        return removed


def _is_older(path: Path, before: float) -> bool:
    try:
        return path.is_file() and path.stat().st_mtime < before
    except OSError:
        return False


def _day_of(name: str) -> datetime.date | None:
    try:
        day = datetime.date.fromisoformat(name)
    except ValueError:
        return None
    return day if day.isoformat() == name else None
