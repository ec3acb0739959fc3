"""The rate of a provider, measured where it counts: never above it, and used to the full."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from producer.contract import Stage
from producer.record.store import Lease, Store
from tests.providers.stub import Call, Response, Stub
from tests.providers.support import PREFIX, ask, settings, tiny_jpeg
from tests.providers.wires import TencentWire
from tests.support import claim, put_back, submit
from worker.consumer import LineDrain, Room
from worker.review.answers import Wait
from worker.review.router import Router

pytestmark = pytest.mark.process


class Crew:
    """Threads that take pictures on time, as the review stage does, until each has its answer."""

    def __init__(self, router: Router, pictures: int, jpeg: Callable[[int], bytes]) -> None:
        self._router = router
        self._jpeg = jpeg
        self._due = [(0.0, number) for number in range(pictures)]
        self._left = pictures
        self._lock = threading.Condition()

    def run(self, threads: int) -> None:
        """Until nothing is left."""
        crew = [threading.Thread(target=self._work) for _ in range(threads)]
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join(90)

    def _work(self) -> None:
        while (number := self._take()) is not None:
            answer = ask(self._router, number, jpeg=lambda n=number: self._jpeg(n))
            with self._lock:
                if isinstance(answer, Wait):
                    heapq.heappush(self._due, (time.monotonic() + answer.delay_s, number))
                else:
                    self._left -= 1
                self._lock.notify_all()

    def _take(self) -> int | None:
        with self._lock:
            while self._left:
                if self._due and self._due[0][0] <= time.monotonic():
                    return heapq.heappop(self._due)[1]
                wait_s = self._due[0][0] - time.monotonic() if self._due else 1.0
                self._lock.wait(max(0.001, wait_s))
            return None


def arrivals(
    valkey: redis.Redis, pictures: int, jpeg: Callable[[int], bytes], **values: Any
) -> list[float]:
    """When each call reached the provider, in seconds; sixteen threads ask."""
    wire, times = TencentWire(), list[float]()

    def respond(call: Call) -> Response:
        times.append(call.at_s)
        return wire.respond(call)

    with Stub(respond) as stub:
        given = {"review_domestic": ("tencent",), **wire.settings(stub.url), **values}
        router = Router(settings(**given), valkey, PREFIX)
        Crew(router, pictures, jpeg).run(16)
        router.close()
    assert len(times) == pictures
    return sorted(times)


def most_within(times: list[float], seconds: float) -> int:
    """Most calls in any stretch so long."""
    return max(sum(start <= at < start + seconds for at in times) for start in times)


def holds(look: Callable[[], bool]) -> bool:
    """Whether it is so in one of eight tries.

    The stub's clock is a thread's: a busy machine notes a call late now and then. A limiter that is
    wrong is wrong each time.
    """
    return any(look() for _ in range(8))


def test_slow_beginnings_do_not_crowd_the_rate(valkey: redis.Redis) -> None:
    """Ten calls that were let in long before they go out do not meet the next ten."""

    def jpeg(number: int) -> bytes:
        time.sleep(0.9 if number < 10 else 0.0)
        return tiny_jpeg()

    def look() -> bool:
        valkey.flushall()
        times = arrivals(valkey, 25, jpeg, tencent_rate_per_s=10.0, tencent_concurrency=30)
        return most_within(times, 1.0) <= 10

    assert holds(look)


def test_the_rate_is_used_to_the_full(valkey: redis.Redis) -> None:
    """One call after the other, each as soon as the rate allows, whoever waits."""

    def look() -> bool:
        valkey.flushall()
        times = arrivals(valkey, 8, lambda _: tiny_jpeg(), tencent_rate_per_s=0.99)
        gaps_s = [b - a for a, b in itertools.pairwise(times)]
        return min(gaps_s) >= 1 / 0.99 and times[-1] - times[0] < 7 * 1.06 * 1.06

    assert holds(look)


def test_what_is_due_soon_is_taken_on_time(valkey: redis.Redis) -> None:
    """Not by the next tick: a provider's place lasts no second."""

    def look() -> bool:
        valkey.flushall()
        store = Store(valkey, "rate")
        submit(store, "later")
        taken: list[float] = []

        def handle(line: str, lease: Lease, token: str) -> None:
            taken.append(time.monotonic())
            store.drop(line, lease.item, token=token)

        claim(store)
        put_back(store, "later", delay_s=0.7)
        due_s = time.monotonic() + 0.7
        drain = LineDrain(
            store=store,
            lines=lambda: {Stage.MODERATE.value: Room()},
            handle=handle,
            threads=2,
            lease_s=10.0,
            next_s=lambda: store.depth(Stage.MODERATE).next_s,
        )
        assert drain.drain(threading.Event()) == 1
        drain.close()
        return due_s - 0.1 <= taken[0] < due_s + 0.3

    assert holds(look)
