"""Empties lines whose steps are slow network calls: review and callback.

Claims no more than there are free threads, renews what is in hand, gives back what a stop leaves.
What takes long moves aside, so that it costs the others nothing.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import redis

from producer.record.store import Lease, Store

#: Seconds to wait for a free thread before looking at stop and leases again.
POLL_S = 0.5

#: Seconds of the shortest wait, where items become due one right after the other.
SHORTEST_S = 0.005

#: Seconds before an item is due within which a drain waits for it instead of ending.
SOON_S = 1.5

#: Seconds after which an item that is in hand counts as slow.
SLOW_S = 0.5


@dataclasses.dataclass(frozen=True)
class Room:
    """How much of a line may be in hand.

    Args:
        most: items in all processes' hands together; 0 for any.
        aside: it is known to be slow: only in the places for such.
    """

    most: int = 0
    aside: bool = False


class Follow(NamedTuple):
    """How the next item of a line is taken by the step that ends one; see `Leases.claim`."""

    lease_s: float
    most_leased: int


@dataclasses.dataclass
class _Hand:
    """One item that a thread works on; where items follow each other, one after the other."""

    line: str
    item: str
    aside: bool
    since_s: float
    handled: int = 0

    def is_slow(self, now_s: float) -> bool:
        return self.aside or now_s - self.since_s > SLOW_S


class LineDrain:
    """Works on one kind of line with a few threads.

    Args:
        store: where items are claimed.
        lines: the lines to take from, with their room; asked before every round.
        handle: does one item under a token; must end its lease in every case, and not raise.
        follows: `handle` takes a fourth argument, how to take the next item of the line with the
            end of this one (None: not at all), and returns its lease. So a place goes on without
            waiting for the loop, as long as `lines` names the line and no other waits for a place.
        threads: items in hand at once in this process.
        lease_s: how long an item may be held without a sign of life.
        aside: places beside these for what is slow, so that it takes none of the threads; 0 where
            slow and quick need not be told apart.
        next_s: seconds until the next item is due, None for never; only where items are to be
            taken on time, not by the next tick.
    """

    def __init__(
        self,
        *,
        store: Store,
        lines: Callable[[], dict[str, Room]],
        handle: Callable[..., Lease | None] | Callable[..., None],
        threads: int,
        lease_s: float,
        aside: int = 0,
        follows: bool = False,
        next_s: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._store = store
        self._next_s = next_s
        self._lines = lines
        self._handle = handle
        self._follows = follows
        #: As of the last look: the room of each line, and whether one has nothing in hand for want
        #: of a place.
        self._rooms: dict[str, Room] = {}
        self._is_crowded = False
        self._threads = threads
        self._aside = aside
        self._lease_s = lease_s
        self._token = f"{random.getrandbits(64):016x}"
        self._pool = concurrent.futures.ThreadPoolExecutor(threads + aside, "line")
        #: Whatever the loop waits for: an item that is done, or None when it is to look again.
        self._news: queue.SimpleQueue[concurrent.futures.Future[None] | None] = queue.SimpleQueue()

    def close(self) -> None:
        """Stop the threads; what they do goes on to its end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def look(self) -> None:
        """Let a `drain` that is under way claim at once; something may have become due."""
        self._news.put(None)

    def drain(self, stop: threading.Event) -> int:
        """Work until nothing is due or `stop` is set; returns how many items were handled.

        After `stop`, items in hand are finished, nothing new is taken.
        """
        in_hand: dict[concurrent.futures.Future[None], _Hand] = {}
        handled = 0
        renewed_s = time.monotonic()
        while True:
            failure: redis.RedisError | None = None
            next_s: float | None = None
            try:
                if time.monotonic() - renewed_s > self._lease_s / 3:
                    renewed_s = time.monotonic()
                    self._renew(list(in_hand.values()))
                if not stop.is_set():
                    self._claim(in_hand)
                    next_s = self._next_s()
            except redis.RedisError as error:
                # What is in hand goes on, and keeps its leases once Redis is back.
                failure = error
            if not in_hand and failure is not None:
                raise failure
            if not in_hand and (next_s is None or next_s > SOON_S):
                return handled
            for future in self._done(POLL_S if next_s is None else _within(next_s)):
                handled += in_hand.pop(future).handled
                future.result()

    def _done(self, timeout_s: float) -> list[concurrent.futures.Future[None]]:
        """Wait for news; the items that are done by then."""
        done = []
        with contextlib.suppress(queue.Empty):
            news = self._news.get(timeout=timeout_s)
            while True:
                if news is not None:
                    done.append(news)
                news = self._news.get_nowait()
        return done

    def _claim(self, in_hand: dict[concurrent.futures.Future[None], _Hand]) -> None:
        """Fill the free places, the lines in turn so that none starves."""
        rooms = self._rooms = self._lines()
        hungry = list(rooms)
        random.shuffle(hungry)
        while hungry:
            now_s = time.monotonic()
            stuck = {hand.line for hand in in_hand.values() if hand.is_slow(now_s)}
            aside = [n for n in hungry if self._aside and (rooms[n].aside or n in stuck)]
            quick = [n for n in hungry if n not in aside]
            limits = {
                **_shares(quick, self._free(in_hand, aside=False)),
                **_shares(aside, self._free(in_hand, aside=True)),
            }
            claims = [(line, limit, rooms[line].most) for line, limit in limits.items()]
            found = self._store.claim_each(claims, lease_s=self._lease_s, token=self._token)
            hungry = []
            for (line, limit, _), leases in zip(claims, found, strict=True):
                for lease in leases:
                    hand = _Hand(line, lease.item, line in aside, time.monotonic())
                    future = self._pool.submit(self._work, hand, lease)
                    in_hand[future] = hand
                    future.add_done_callback(self._news.put)
                if len(leases) == limit:
                    hungry.append(line)
        ordinary = {line for line, room in rooms.items() if not room.aside}
        waiting = ordinary.difference(hand.line for hand in in_hand.values())
        self._is_crowded = bool(waiting) and self._free(in_hand, aside=False) <= 0

    def _work(self, hand: _Hand, lease: Lease | None) -> None:
        """One item, and those of its line that follow it."""
        while lease is not None:
            hand.item, hand.since_s = lease.item, time.monotonic()
            follow = (self._follow(hand.line),) if self._follows else ()
            lease = self._handle(hand.line, lease, self._token, *follow)
            hand.handled += 1

    def _follow(self, line: str) -> Follow | None:
        """How the next of a line is taken, while it had something due and room at the last look."""
        room = self._rooms.get(line)
        if room is None or room.aside or self._is_crowded:
            return None
        return Follow(self._lease_s, room.most)

    def _free(self, in_hand: dict[concurrent.futures.Future[None], _Hand], *, aside: bool) -> int:
        """Places for what is slow, or for the rest, which leaves its place when it proves slow."""
        now_s = time.monotonic()
        slow = sum(hand.is_slow(now_s) for hand in in_hand.values()) if self._aside else 0
        if aside:
            return self._aside - slow
        quick = len(in_hand) - slow
        return min(self._threads - quick, self._threads + self._aside - len(in_hand))

    def _renew(self, in_hand: list[_Hand]) -> None:
        for line in {hand.line for hand in in_hand}:
            items = [hand.item for hand in in_hand if hand.line == line]
            self._store.renew(line, items, lease_s=self._lease_s, token=self._token)


def _within(next_s: float) -> float:
    """How long to wait for news while an item is to become due."""
    return min(POLL_S, max(SHORTEST_S, next_s))


def _shares(lines: Sequence[str], free: int) -> dict[str, int]:
    """Free places given out to lines in their order: as many for each, or one for the first."""
    share = max(1, free // len(lines)) if lines else 0
    return dict.fromkeys(lines[: max(0, free)], share)
