"""Whether a picture is one that was decided before, or looks like one; the workers' side.

The truth is the log in Redis (producer/record/memory.py). Each worker follows it at most once a
second; what it has read is searched in this process. What is found is looked up in Redis before it
counts, so that nothing forgotten is ever held against a picture. The hashes lie in a file that the
processes of one machine share, written anew by one of them when much has been added.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import filelock
import structlog

from producer.contract import AvatarState
from producer.record.memory import PAGE, Memory, Remembered
from producer.settings import Settings
from worker.memory.index import Index, Item, place_of

log = structlog.get_logger()

#: Seconds for which what was read of the log is trusted.
FOLLOW_EVERY_S = 1.0

#: Pictures beside the shared file from which it is written anew.
MOST_BESIDE = 1000

#: Look-alikes that are looked up, the nearest first; more say nothing more.
MOST_ASKED = 32

#: Approved pictures that somebody's picture is compared with; reading them takes a second.
MOST_APPROVED = 20_000


@dataclasses.dataclass(frozen=True)
class Found:
    """What was decided of an earlier picture.

    Attributes:
        entry: the earlier one.
        distance: bits by which their hashes differ.
        is_same: it has the same pixels, so the same holds for both; else it is only like it.
    """

    entry: Remembered
    distance: int
    is_same: bool


class PictureMemory:
    """Follows the log and finds pictures in it. Safe to share between threads.

    Args:
        memory: the log.
        path: of the file that processes share.
    """

    def __init__(self, memory: Memory, path: Path) -> None:
        self._memory = memory
        self._path = path
        self._lock = threading.Lock()
        self._followed_s = -FOLLOW_EVERY_S
        self._origin = ""
        self._begin()

    def _begin(self) -> None:
        self._file_id: tuple[int, int] | None = None
        self._shared = Index.of([])
        self._beside: list[Item] = []
        self._recent = Index.of([])

    def is_empty(self) -> bool:
        """Whether nothing is remembered, so that pictures need no hashes.

        Raises:
            redis.RedisError: the log cannot be read.
        """
        shared, recent = self._follow()
        return not len(shared) and not len(recent)

    def find(self, prints: tuple[bytes, ...], pixels: str, sha256: str) -> Found | None:
        """The decision that a picture falls under; None where there is none.

        The nearest one counts; one on a list of harmless pictures keeps farther ones from it.

        Args:
            prints: perceptual hashes of what it shows.
            pixels: name of its pixels.
            sha256: of its bytes.

        Raises:
            redis.RedisError: the log cannot be read.
        """
        indexes = self._follow()
        # The newest word on the same pixels counts.
        same = [place for index in indexes for place in index.with_pixels(pixels)][::-1]
        for entry in self._memory.at(same) if same else ():
            if entry is not None and entry.prints.pixels == pixels and entry.state != "harmless":
                return Found(entry, 0, True)
        near = _near(indexes, prints)
        return self._nearest(near, sha256) if near else None

    def alike(self, prints: Sequence[bytes], pixels: str, limit: int) -> list[Found]:
        """What a person may want to see of what is remembered, whatever was decided of it.

        Of approved pictures, which nothing is held against, the newest are compared.

        Args:
            prints: perceptual hashes of what is looked for.
            pixels: name of its pixels; empty where only hashes are known.
            limit: most to return, the nearest first.

        Raises:
            redis.RedisError: the log cannot be read.
        """
        indexes = self._follow()
        entries = self._memory.newest(MOST_APPROVED)
        approved = [_whole_item(entry) for entry in entries if entry.state == "approved"]
        near = _near((*indexes, Index.of(approved)), prints)
        near |= {place: 0 for index in indexes for place in index.with_pixels(pixels)}
        places = sorted(near, key=lambda place: near[place])
        found = zip(places, self._memory.at(places[:MOST_ASKED]), strict=False)
        return [
            Found(entry, near[place], bool(pixels) and entry.prints.pixels == pixels)
            for place, entry in found
            if entry is not None
        ][:limit]

    def _nearest(self, near: dict[str, int], sha256: str) -> Found | None:
        places = sorted(near, key=lambda place: near[place])[:MOST_ASKED]
        entries = self._memory.at(places)
        found = [
            (near[place], entry.state != "harmless", entry)
            for place, entry in zip(places, entries, strict=True)
            if entry is not None and entry.state != AvatarState.APPROVED
        ]
        found.sort(key=lambda one: one[:2])
        cleared = self._memory.cleared([entry.key for _, _, entry in found], sha256)
        for (distance, _, entry), is_cleared in zip(found, cleared, strict=True):
            if is_cleared:
                continue
            return None if entry.state == "harmless" else Found(entry, distance, False)
        return None

    # -- following -----------------------------------------------------------------------------

    def _follow(self) -> tuple[Index, Index]:
        """Read what was added to the log, if it is time; what is searched then."""
        with self._lock:
            if time.monotonic() - self._followed_s < FOLLOW_EVERY_S:
                return self._shared, self._recent
            if (origin := self._memory.origin()) != self._origin:
                # Another memory, as after a loss of Redis; its places may be earlier ones.
                self._origin = origin
                self._begin()
            self._reopen()
            before = self._last
            while page := self._memory.after(self._last, PAGE):
                self._beside += [item_of(entry) for entry in page]
                if len(self._beside) >= max(MOST_BESIDE, len(self._shared) // 20):
                    self._share()
            if self._last != before:
                self._recent = Index.of(self._beside)
            self._followed_s = time.monotonic()
            return self._shared, self._recent

    @property
    def _last(self) -> str:
        return self._beside[-1].id if self._beside else self._shared.last

    def _reopen(self) -> None:
        """Take the file that another process has written since."""
        try:
            stat = os.stat(self._path)
        except OSError:
            return
        file_id = (stat.st_ino, stat.st_mtime_ns)
        if file_id == self._file_id:
            return
        self._file_id = file_id
        found = Index.open(self._path)
        if found is None or found.origin != self._origin:
            return
        self._shared = found
        last = place_of(found.last)
        self._beside = [item for item in self._beside if place_of(item.id) > last]
        self._recent = Index.of(self._beside)

    def _share(self) -> None:
        """Write the file anew, unless another process is at it."""
        self._recent = Index.of(self._beside)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(f"{self._path}.lock", blocking=False):
                joined = Index.joined([self._shared, self._recent])
                dataclasses.replace(joined, origin=self._origin).save(self._path)
            self._reopen()
        except filelock.Timeout:
            self._reopen()
        except OSError as error:
            log.warning("memory_not_shared", message=str(error)[:200])
            self._shared = Index.joined([self._shared, self._recent])
            self._beside, self._recent = [], Index.of([])


def _near(indexes: Sequence[Index], prints: Sequence[bytes]) -> dict[str, int]:
    """Places of pictures that look like one, with the fewest bits by which they differ."""
    near: dict[str, int] = {}
    for digest in prints:
        for index in indexes:
            for place, distance in index.near(digest).items():
                near[place] = min(distance, near.get(place, distance))
    return near


def item_of(entry: Remembered) -> Item:
    """What is searched of an entry: an approval covers its own pixels only."""
    item = _whole_item(entry)
    return dataclasses.replace(item, hashes=()) if entry.state == AvatarState.APPROVED else item


def _whole_item(entry: Remembered) -> Item:
    return Item(id=entry.id, pixels=entry.prints.pixels, hashes=entry.prints.hashes)


def rebuild(memory: Memory, path: Path) -> int:
    """Write the file anew from the log, without what was forgotten; returns how many pictures."""
    origin, last, parts = memory.origin(), "", [Index.of([])]
    while page := memory.after(last, PAGE):
        parts.append(Index.of([item_of(entry) for entry in page]))
        last = page[-1].id
    index = dataclasses.replace(Index.joined(parts), origin=origin)
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{path}.lock"):
        index.save(path)
    return len(index)


def shared_file(settings: Settings) -> Path:
    """Where the processes of this machine share their hashes."""
    return settings.data_folder / "memory" / f"{settings.namespace}.index"
