"""Send pictures through the queue of a running instance and wait for what comes of them.

Used by `scan` and `demo`: the same road as a web tier's, with the bytes put into the image store.
"""

from __future__ import annotations

import dataclasses
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from producer.client import Producer
from producer.contract import NO_CALLBACK, Avatar, AvatarState
from producer.errors import ModerationError, QueueFull
from producer.images import Images
from worker.tools.files import pieces

#: States in which nothing more happens by itself.
SETTLED = frozenset(AvatarState) - {AvatarState.QUEUED, AvatarState.REVIEWING}

#: Uploads looked up in one round trip while waiting.
LOOK_UP = 500


@dataclasses.dataclass(frozen=True)
class Sample:
    """One picture to send: how it is called in the table, and how to read it."""

    name: str
    read: Callable[[], bytes]


@dataclasses.dataclass
class Passage:
    """One picture's passage; `error` says why it could not even be enqueued, empty: not tried."""

    sample: Sample
    upload_id: str
    avatar: Avatar | None = None
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """The row that `--json` prints."""
        avatar = self.avatar
        return {
            "upload_id": self.upload_id,
            "file": self.sample.name,
            "state": str(avatar.state) if avatar else "failed" if self.error else "unsent",
            "probability": avatar.probability if avatar else None,
            "raw_score": avatar.raw_score if avatar else None,
            "reason": avatar.reason if avatar else self.error,
            "decided_by": avatar.decided_by if avatar else "",
            "latency_s": round(avatar.updated_at - avatar.created_at, 4) if avatar else None,
        }


def send_all(
    producer: Producer,
    images: Images,
    samples: Sequence[Sample],
    *,
    on_settled: Callable[[int], object],
    stop: threading.Event,
    callback_url: str | None = NO_CALLBACK,
    idle_timeout_s: float = 120.0,
) -> tuple[list[Passage], float]:
    """Enqueue every sample and wait until each has settled.

    Args:
        producer: enqueues.
        images: where the bytes are put.
        samples: what to send.
        on_settled: told how many have settled in all, as it grows.
        stop: give up waiting.
        callback_url: who hears of it: nobody, since no web tier knows these ids; None: as
            configured.
        idle_timeout_s: give up when nothing settles for this long; what is left stays in the queue.

    Returns:
        The passages in the order of the samples, and the seconds from first to last.
    """
    run_id = secrets.token_hex(4)
    passages = [Passage(s, f"scan/{run_id}/{n:06d}") for n, s in enumerate(samples)]
    started_s = time.monotonic()
    waiter = _Waiter(producer, passages, on_settled, stop, idle_timeout_s)
    for passage in passages:
        if stop.is_set():
            break
        _enqueue(producer, images, passage, stop, callback_url)
        waiter.look(at_most_every_s=0.25)
    waiter.wait()
    return passages, time.monotonic() - started_s


def _enqueue(
    producer: Producer,
    images: Images,
    passage: Passage,
    stop: threading.Event,
    callback_url: str | None,
) -> None:
    name = passage.upload_id
    while True:
        try:
            images.put(name, passage.sample.read())
            answer = producer.enqueue(passage.upload_id, name, callback_url=callback_url)
            passage.avatar = answer.avatar
            return
        except QueueFull:
            if stop.wait(0.5):
                return
        except (ModerationError, OSError) as error:
            passage.error = str(error)
            return


class _Waiter:
    """Polls the records of what has not settled yet."""

    def __init__(
        self,
        producer: Producer,
        passages: Sequence[Passage],
        on_settled: Callable[[int], object],
        stop: threading.Event,
        idle_timeout_s: float,
    ) -> None:
        self._producer = producer
        self._passages = passages
        self._on_settled = on_settled
        self._stop = stop
        self._idle_timeout_s = idle_timeout_s
        self._settled: set[str] = set()
        self._looked_s = 0.0
        self._progress_s = time.monotonic()

    def look(self, *, at_most_every_s: float) -> int:
        """Read open records once; returns how many uploads are still open."""
        open_ = [p for p in self._passages if p.avatar and p.upload_id not in self._settled]
        if time.monotonic() - self._looked_s < at_most_every_s:
            return len(open_)
        self._looked_s = time.monotonic()
        for chunk in pieces(open_, LOOK_UP):
            avatars = self._producer.store.get_many([p.upload_id for p in chunk])
            for passage, avatar in zip(chunk, avatars, strict=True):
                passage.avatar = avatar or passage.avatar
                if avatar is not None and avatar.state in SETTLED:
                    self._settled.add(passage.upload_id)
                    self._progress_s = time.monotonic()
        self._on_settled(len(self._settled) + sum(1 for p in self._passages if p.error))
        return len(open_)

    def wait(self) -> None:
        """Until all have settled, nothing moves any more, or stop."""
        self._progress_s = time.monotonic()
        while self.look(at_most_every_s=0) and not self._stop.wait(0.05):
            if time.monotonic() - self._progress_s > self._idle_timeout_s:
                return


def clean_up(images: Images, passages: Sequence[Passage]) -> None:
    """Remove the copies of what is decided; what a person must still see stays."""
    for passage in passages:
        if passage.avatar is not None and passage.avatar.is_final:
            images.remove(passage.upload_id)


def summarise(
    passages: Sequence[Passage], seconds: float, *, interrupted: bool = False
) -> dict[str, Any]:
    """Counts by outcome; `failed` is what was not enqueued, is dead, or did not settle in time.

    Where somebody interrupted, what was not sent or still waits is `unfinished` instead.
    """
    states = [p.avatar.state if p.avatar else None for p in passages]
    gray = {AvatarState.REVIEWING, AvatarState.HELD}
    counts = {
        "approved": states.count(AvatarState.APPROVED),
        "gray": sum(state in gray for state in states),
        "blocked": states.count(AvatarState.BLOCKED),
        "rejected": states.count(AvatarState.REJECTED),
    }
    settled = sum(counts.values())
    left = sum(p.avatar.state == AvatarState.QUEUED if p.avatar else not p.error for p in passages)
    unfinished = left if interrupted else 0
    return {
        **counts,
        "failed": len(passages) - settled - unfinished,
        "unfinished": unfinished,
        "images_per_second": round(settled / seconds, 2) if seconds > 0 else 0.0,
    }
