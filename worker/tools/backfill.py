"""Pictures that exist already, behind everything that is uploaded now: listed, sent, followed.

The list and what became of each item lie in one SQLite file, so the work goes on where it was
killed. Sending is safe to repeat: an id that the queue knows is not accepted a second time. Items
wait in the low lane, which workers touch only when nothing else is due.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Self

import redis
import structlog
from filelock import FileLock, Timeout

from producer.client import Producer
from producer.contract import Avatar, AvatarState, Priority, Upload, is_upload_id
from producer.errors import ConfigurationError, InvalidInput, QueueFull, StorageUnavailable
from worker.ledger.sqlite import open_file
from worker.tools.files import pieces
from worker.tools.send_and_wait import SETTLED

log = structlog.get_logger()

#: Items enqueued or looked up in one round trip.
PIECE = 100

#: Items listed in one transaction.
LISTED_PIECE = 5_000

#: Most items in the queue at once, whatever the window.
MOST_IN_QUEUE = 10_000

#: Seconds between two looks at gray items whose copies wait.
GRAY_EVERY_S = 5.0

#: Seconds between two looks at what has settled.
LOOK_EVERY_S = 0.25

#: Seconds to wait for the lock: whoever only looks holds it for a moment.
LOCK_WAIT_S = 0.3

#: Seconds until the next try while Redis or the image store is away.
OUTAGE_WAIT_S = 2.0

#: Seconds over which the rate for the time left is measured.
RATE_WINDOW_S = 60.0

SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS items (
    number INTEGER PRIMARY KEY, upload_id TEXT NOT NULL UNIQUE, image TEXT NOT NULL,
    region TEXT NOT NULL, step TEXT NOT NULL DEFAULT 'waiting', outcome TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS items_by_step ON items (step, number);
"""


@dataclasses.dataclass(frozen=True)
class Item:
    """One picture: the id that it gets, where it lies, whose region counts (empty: the default)."""

    upload_id: str
    image: str
    region: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """How far it is. `left_s` is None while the rate is not known."""

    total: int
    settled: int
    in_queue: int
    per_s: float
    left_s: float | None
    paused: bool


class BackfillFile:
    """The list on disk. Items go from `waiting` over `sent` to `settled`, or are `refused`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = open_file(path)
        self._db.executescript(SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._db.close()

    def fact(self, name: str) -> str:
        """Something noted about the whole; empty where nothing was."""
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else ""

    def note(self, name: str, value: str) -> None:
        """Note something about the whole."""
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def list_items(self, source: str, items: Iterable[Item]) -> None:
        """Take the list down once; a listing that was killed begins anew and adds what is missing.

        Raises:
            ConfigurationError: the file belongs to another source.
        """
        known = self.fact("source")
        if known and known != source:
            raise ConfigurationError(
                f"backfill {self.path.stem!r} is of {known}; give this one another --name"
            )
        self.note("source", source)
        if self.fact("listed"):
            return
        for piece in pieces(items, LISTED_PIECE):
            self._db.execute("BEGIN")
            self._db.executemany(
                "INSERT OR IGNORE INTO items (upload_id, image, region) VALUES (?, ?, ?)",
                [(item.upload_id, item.image, item.region) for item in piece],
            )
            self._db.execute("COMMIT")
        self.note("listed", "yes")

    def items(self, step: str, limit: int) -> list[Item]:
        """The first items that stand at a step."""
        rows = self._db.execute(
            "SELECT upload_id, image, region FROM items WHERE step = ? ORDER BY number LIMIT ?",
            (step, limit),
        )
        return [Item(*row) for row in rows]

    def gray(self) -> list[Item]:
        """Settled items that were not decided for good when they were looked at last."""
        rows = self._db.execute(
            "SELECT upload_id, image, region FROM items WHERE step = 'settled' "
            "AND outcome IN ('reviewing', 'held', 'dead') ORDER BY number"
        )
        return [Item(*row) for row in rows]

    def sample(self, count: int) -> list[Item]:
        """Items spread evenly over the list."""
        total = sum(self.counts().values())
        count = min(count, total)
        numbers = [1 + total * n // count for n in range(count)]
        marks = ",".join("?" * len(numbers))
        rows = self._db.execute(
            f"SELECT upload_id, image, region FROM items WHERE number IN ({marks})",
            numbers,
        )
        return [Item(*row) for row in rows]

    def move(self, step: str, outcomes: dict[str, str]) -> None:
        """Put items at a step, each with what is known of it."""
        self._db.execute("BEGIN")
        self._db.executemany(
            "UPDATE items SET step = ?, outcome = ? WHERE upload_id = ?",
            [(step, outcome, upload_id) for upload_id, outcome in outcomes.items()],
        )
        self._db.execute("COMMIT")

    def counts(self) -> Counter[str]:
        """Items by step."""
        return Counter(dict(self._db.execute("SELECT step, COUNT(*) FROM items GROUP BY step")))

    @property
    def is_finished(self) -> bool:
        """Whether every item has settled or was refused."""
        counts = self.counts()
        return bool(self.fact("listed")) and not counts["waiting"] and not counts["sent"]

    def outcomes(self) -> Counter[str]:
        """Settled and refused items by outcome."""
        rows = self._db.execute(
            "SELECT outcome, COUNT(*) FROM items WHERE step IN ('settled', 'refused') "
            "GROUP BY outcome"
        )
        return Counter(dict(rows))


class Backfill:
    """Sends a list through the queue until every item has settled.

    Args:
        file: the list.
        producer: enqueues.
        per_s: most items sent a second; None: as fast as they settle.
        window: most items in the queue at once: few enough that a pause takes effect at once.
        put: copies a picture into the image store where the workers cannot reach it, else None.
        forget: removes such a copy once its picture is decided for good.
        callback_url: who hears of the verdicts; None: the web tier, as configured.
        stop: ends the run; it goes on with the next one.
    """

    def __init__(
        self,
        file: BackfillFile,
        producer: Producer,
        *,
        per_s: float | None,
        window: int,
        put: Callable[[Item], None] | None,
        forget: Callable[[Item], object],
        callback_url: str | None = None,
        stop: threading.Event,
    ) -> None:
        self._callback_url = callback_url
        self._file = file
        self._producer = producer
        self._per_s = per_s
        self._window = window
        self._put = put
        self._forget = forget
        self._stop = stop
        self._budget = 1.0
        self._gray_s = -math.inf
        self._refilled_s = time.monotonic()
        self._settled: deque[tuple[float, int]] = deque()

    def run(self, on_progress: Callable[[Progress], object]) -> bool:
        """Work until everything has settled (True) or `stop` is set (False)."""
        while not self._stop.is_set():
            try:
                self._look()
                self._look_at_gray()
                counts = self._file.counts()
                paused = bool(self._file.fact("paused"))
                on_progress(self._progress(counts, paused))
                if not counts["waiting"] and not counts["sent"]:
                    return True
                if not paused and self._send(self._window - counts["sent"]):
                    continue
                self._stop.wait(LOOK_EVERY_S)
            except (redis.RedisError, StorageUnavailable) as error:
                log.warning("backfill_waits", error=type(error).__name__, message=str(error)[:200])
                self._stop.wait(OUTAGE_WAIT_S)
        return False

    def _send(self, room: int) -> int:
        """Enqueue what fits; returns how many were accepted."""
        # A run before may have had a larger window.
        items = self._file.items("waiting", max(0, min(room, PIECE, self._allowed())))
        if not items:
            return 0
        refused: dict[str, str] = {}
        ready = [item for item in items if self._is_ready(item, refused)]
        uploads = [
            Upload(
                upload_id=item.upload_id,
                image=item.image,
                region=item.region or None,
                priority=Priority.LOW,
                callback_url=self._callback_url,
            )
            for item in ready
        ]
        sent: dict[str, str] = {}
        for item, answer in zip(ready, self._producer.enqueue_many(uploads), strict=True):
            if isinstance(answer, InvalidInput):
                refused[item.upload_id] = answer.code
            elif isinstance(answer, QueueFull):
                continue
            elif isinstance(answer, Exception):
                raise answer
            else:
                sent[item.upload_id] = ""
        self._file.move("sent", sent)
        self._file.move("refused", refused)
        self._budget -= len(sent) + len(refused)
        return len(sent) + len(refused)

    def _is_ready(self, item: Item, refused: dict[str, str]) -> bool:
        if self._put is None:
            return True
        try:
            self._put(item)
        except OSError:
            refused[item.upload_id] = "unreadable"
            return False
        return True

    def _allowed(self) -> int:
        """How many may be sent now."""
        if self._per_s is None:
            return PIECE
        now = time.monotonic()
        self._budget = min(
            max(1.0, self._per_s), self._budget + (now - self._refilled_s) * self._per_s
        )
        self._refilled_s = now
        return int(self._budget)

    def _look(self) -> None:
        """Note what has settled; what Redis does not know was never seen settled: it goes again."""
        settled: dict[str, str] = {}
        unknown: dict[str, str] = {}
        for item, avatar in self._records(self._file.items("sent", MOST_IN_QUEUE)):
            if avatar is None:
                unknown[item.upload_id] = ""
            elif avatar.state in SETTLED or avatar.state == AvatarState.REVIEWING:
                # A gray one is counted as done here: its second opinion may take hours.
                settled[item.upload_id] = avatar.state.value
                if self._put is not None and avatar.is_final:
                    self._forget(item)
        if unknown:
            log.warning("backfill_sends_again", uploads=len(unknown), why="Redis knows them not")
            self._file.move("waiting", unknown)
        if settled:
            self._file.move("settled", settled)
            self._settled.append((time.monotonic(), len(settled)))

    def _look_at_gray(self) -> None:
        """Remove the copies of what was gray and is decided for good, and note the decision."""
        if self._put is None or time.monotonic() - self._gray_s < GRAY_EVERY_S:
            return
        self._gray_s = time.monotonic()
        decided: dict[str, str] = {}
        for item, avatar in self._records(self._file.gray()):
            if avatar is not None and avatar.is_final:
                self._forget(item)
                decided[item.upload_id] = avatar.state.value
        if decided:
            self._file.move("settled", decided)

    def _records(self, items: list[Item]) -> Iterator[tuple[Item, Avatar | None]]:
        for piece in pieces(items, PIECE):
            ids = [item.upload_id for item in piece]
            yield from zip(piece, self._producer.store.get_many(ids), strict=True)

    def _progress(self, counts: Counter[str], paused: bool) -> Progress:
        now = time.monotonic()
        while self._settled and now - self._settled[0][0] > RATE_WINDOW_S:
            self._settled.popleft()
        done = sum(number for _, number in self._settled)
        span_s = max(now - self._settled[0][0], LOOK_EVERY_S) if self._settled else 0.0
        per_s = done / span_s if span_s else 0.0
        left = counts["waiting"] + counts["sent"]
        return Progress(
            total=sum(counts.values()),
            settled=counts["settled"] + counts["refused"],
            in_queue=counts["sent"],
            per_s=per_s,
            left_s=None if paused or not per_s else left / per_s,
            paused=paused,
        )


@contextlib.contextmanager
def only_one(path: Path, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Keep a second process off the same backfill; a killed one lets go by dying.

    Raises:
        ConfigurationError: another process works on it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_suffix(".lock"), timeout=wait_s):
            yield
    except Timeout:
        raise ConfigurationError(
            "this backfill runs already in another process; see it with --status"
        ) from None


def is_running(path: Path) -> bool:
    """Whether a process works on the backfill whose file this is."""
    try:
        with only_one(path, wait_s=0):
            return False
    except ConfigurationError:
        return True


def remove(path: Path) -> None:
    """Delete a backfill's file; the caller holds `only_one`."""
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm", f"{path.stem}.lock"):
        path.with_name(name).unlink(missing_ok=True)


def item_id(prefix: str, path: str) -> str:
    """The upload id of a picture: prefix and path where they may stand in an id, else a hash."""
    plain = prefix + path
    if is_upload_id(plain):
        return plain
    return prefix + hashlib.sha256(path.encode()).hexdigest()[:32]
