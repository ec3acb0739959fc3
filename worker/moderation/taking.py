"""Claims uploads and reads their records in a thread of its own, for the model must not wait.

Each question costs two round trips to Redis, which may be far away. One is under way at a time.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog

from producer.contract import Avatar, Priority, Stage
from producer.record.store import LANES, Lease, Store

log = structlog.get_logger()

#: Seconds after which a record that this version cannot read is looked at again.
UNREADABLE_WAIT_S = 60.0


@dataclasses.dataclass(frozen=True)
class Wish:
    """Up to `limit` uploads of some lanes."""

    limit: int
    lanes: Iterable[str] = LANES


@dataclasses.dataclass(frozen=True)
class Taken:
    """What one wish brought: leases and, in their order, the records."""

    wish: Wish
    leases: list[Lease]
    avatars: list[Avatar | None]

    @property
    def is_suspect(self) -> bool:
        """Whether an upload is among them whose holder died with it; it came alone."""
        return any(lease.crashes for lease in self.leases)


class Taker:
    """Takes from the line `moderate` under one token; asked and heard by one thread."""

    def __init__(self, store: Store, *, lease_s: float, token: str) -> None:
        self._store = store
        self._lease_s = lease_s
        self._token = token
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "claim")
        self._asked: concurrent.futures.Future[list[Taken]] | None = None

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(wait=False)

    @property
    def is_asking(self) -> bool:
        """Whether a question was not heard yet."""
        return self._asked is not None

    def ask(self, wishes: Sequence[Wish], *, busy: bool, tell: Callable[[], object]) -> None:
        """Begin to take; `tell` is called when there is something to hear.

        Args:
            wishes: with positive limits; for who is not busy, the first that brings anything.
            busy: see `Store.claim`.
            tell: called in the other thread.
        """
        self._asked = self._thread.submit(self._take_all, list(wishes), busy)
        self._asked.add_done_callback(lambda asked: _has_news(asked) and tell())

    def hear(self, *, wait: bool) -> list[Taken]:
        """What was taken; empty where there is no answer yet, and not to be waited for.

        Raises:
            redis.RedisError: Redis did not answer.
        """
        if self._asked is None or not (wait or self._asked.done()):
            return []
        asked, self._asked = self._asked, None
        return asked.result()

    def _take_all(self, wishes: list[Wish], busy: bool) -> list[Taken]:
        """Who is busy gets all in one round trip, and no suspect; else what comes first."""
        held: dict[str, Any] = {"lease_s": self._lease_s, "token": self._token}
        if busy:
            asked = [(wish.limit, wish.lanes) for wish in wishes]
            found = self._store.claim_beside(Stage.MODERATE, asked, **held)
            return self._read_all(zip(wishes, found, strict=True))
        for wish in wishes:
            leases = self._store.claim(Stage.MODERATE, wish.limit, lanes=wish.lanes, **held)
            if leases:
                return self._read_all([(wish, leases)])
        return []

    def _read_all(self, found: Iterable[tuple[Wish, list[Lease]]]) -> list[Taken]:
        taken = [(wish, leases) for wish, leases in found if leases]
        avatars = iter(self._read([lease for _, leases in taken for lease in leases]))
        return [
            Taken(wish, leases, list(itertools.islice(avatars, len(leases))))
            for wish, leases in taken
        ]

    def _read(self, leases: list[Lease]) -> list[Avatar | None]:
        """The records of what was claimed; one that cannot be read is left to a newer version."""
        if not leases:
            return []
        try:
            return self._store.get_many([lease.item for lease in leases])
        except (ValueError, KeyError) as error:
            if len(leases) > 1:
                return [avatar for lease in leases for avatar in self._read([lease])]
            log.error("record_unreadable", upload_id=leases[0].item, message=str(error)[:200])
            self._store.put_back(
                Stage.MODERATE,
                leases[0].item,
                token=self._token,
                priority=Priority.NORMAL,
                delay_s=UNREADABLE_WAIT_S,
            )
            return [None]


def _has_news(asked: concurrent.futures.Future[list[Taken]]) -> bool:
    return asked.exception() is not None or bool(asked.result())
