"""Threads that keep a place for what is urgent and do little for one key at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.support import wait_until
from worker.moderation.pool import Pool


class Works:
    """Pieces of work that run until they are let go."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.end = threading.Event()

    def of(self, name: str) -> object:
        def work() -> None:
            self.begun.append(name)
            self.end.wait(10)

        return work


@pytest.fixture
def works() -> Iterator[Works]:
    works = Works()
    yield works
    works.end.set()


def test_urgent_work_begins_although_every_thread_is_busy(works: Works) -> None:
    """A spare thread does nothing else, however much waits."""
    pool = Pool(2, "test", spare=1)
    for number in range(8):
        pool.submit(works.of(f"n{number}"))  # type: ignore[arg-type]
    wait_until(lambda: len(works.begun) == 2, 30, "both threads are busy")
    pool.submit(works.of("urgent"), urgent=True)  # type: ignore[arg-type]
    wait_until(lambda: "urgent" in works.begun, 30, "the urgent one begins")
    assert len(works.begun) == 3
    pool.close()


def test_one_key_takes_only_its_share(works: Works) -> None:
    """Others pass what waits for a busy host; each is done in the end."""
    pool = Pool(4, "test", per_key=2)
    for number in range(10):
        pool.submit(works.of(f"slow{number}"), key="slow")  # type: ignore[arg-type]
    pool.submit(works.of("other"), key="other")  # type: ignore[arg-type]
    wait_until(lambda: len(works.begun) == 3, 30, "three run")
    assert sorted(works.begun) == ["other", "slow0", "slow1"]
    works.end.set()
    wait_until(lambda: len(works.begun) == 11, 30, "all are done")
    pool.close()


def test_urgent_work_is_first_among_what_waits(works: Works) -> None:
    """Without a spare thread it waits for one piece of work, not for all."""
    pool = Pool(1, "test")
    pool.submit(works.of("first"))  # type: ignore[arg-type]
    wait_until(lambda: works.begun == ["first"], 30, "the first begins")
    for name, urgent in (("second", False), ("urgent", True)):
        pool.submit(works.of(name), urgent=urgent)  # type: ignore[arg-type]
    works.end.set()
    wait_until(lambda: len(works.begun) == 3, 30, "all are done")
    assert works.begun == ["first", "urgent", "second"]
    pool.close()


def test_a_closed_pool_begins_nothing(works: Works) -> None:
    """What waits is forgotten."""
    pool = Pool(1, "test")
    pool.submit(works.of("first"))  # type: ignore[arg-type]
    wait_until(lambda: works.begun == ["first"], 30, "the first begins")
    pool.submit(works.of("second"))  # type: ignore[arg-type]
    pool.close()
    pool.submit(works.of("third"))  # type: ignore[arg-type]
    works.end.set()
    assert works.begun == ["first"]
