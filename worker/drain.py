"""Empties lines whose steps are slow network calls: review and callback.

Claims no more than there are free threads, renews what is in hand, gives back what a stop leaves.
"""

from __future__ import annotations

import concurrent.futures
import random
import threading
import time
from collections.abc import Callable

import redis

from producer.store import Lease, Store

#: Seconds to wait for a free thread before looking at stop and leases again.
POLL_S = 0.5


class LineDrain:
    """Works on one kind of line with a few threads.

    Args:
        store: where items are claimed.
        lines: the lines to take from and, for each, the most items of it that may be in all
            processes' hands (0: any); asked before every round.
        handle: does one item under a token; must end its lease in every case, and not raise.
        threads: items in hand at once in this process.
        lease_s: how long an item may be held without a sign of life.
    """

    def __init__(
        self,
        *,
        store: Store,
        lines: Callable[[], dict[str, int]],
        handle: Callable[[str, Lease, str], None],
        threads: int,
        lease_s: float,
    ) -> None:
        self._store = store
        self._lines = lines
        self._handle = handle
        self._threads = threads
        self._lease_s = lease_s
        self._token = f"{random.getrandbits(64):016x}"
        self._pool = concurrent.futures.ThreadPoolExecutor(threads, "line")

    def close(self) -> None:
        """Stop the threads; what they do goes on to its end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def drain(self, stop: threading.Event) -> int:
        """Work until nothing is due or `stop` is set; returns how many items were handled.

        After `stop`, items in hand are finished, nothing new is taken.
        """
        in_hand: dict[concurrent.futures.Future[None], tuple[str, str]] = {}
        handled = 0
        renewed_s = time.monotonic()
        while True:
            failure: redis.RedisError | None = None
            try:
                if time.monotonic() - renewed_s > self._lease_s / 3:
                    renewed_s = time.monotonic()
                    self._renew(list(in_hand.values()))
                if not stop.is_set():
                    self._claim(in_hand)
            except redis.RedisError as error:
                # What is in hand goes on, and keeps its leases once Redis is back.
                failure = error
            if not in_hand:
                if failure is not None:
                    raise failure
                return handled
            done, _ = concurrent.futures.wait(
                in_hand, POLL_S, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                del in_hand[future]
                handled += 1
                future.result()

    def _claim(self, in_hand: dict[concurrent.futures.Future[None], tuple[str, str]]) -> None:
        """Fill the free threads, the lines in turn so that none starves."""
        lines = list(self._lines().items())
        random.shuffle(lines)
        for line, most_leased in lines:
            free = self._threads - len(in_hand)
            if free <= 0:
                break
            share = max(1, free // len(lines)) if len(lines) > 1 else free
            for lease in self._store.claim(
                line,
                share,
                lease_s=self._lease_s,
                token=self._token,
                most_leased=most_leased,
            ):
                future = self._pool.submit(self._handle, line, lease, self._token)
                in_hand[future] = (line, lease.item)

    def _renew(self, in_hand: list[tuple[str, str]]) -> None:
        for line in {line for line, _ in in_hand}:
            items = [item for other, item in in_hand if other == line]
            self._store.renew(line, items, lease_s=self._lease_s, token=self._token)
