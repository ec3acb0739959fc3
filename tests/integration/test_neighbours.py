"""Costly uploads delay nobody but themselves: a real loop, a slow decoder and slow hosts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from producer.contract import Priority, Stage
from producer.errors import NeedsLonger, StorageUnavailable
from producer.record.store import FAR, SLOW, Store
from tests.integration.test_batch import CLEAR, Bench, StubPicture, picture
from tests.support import TOKEN, claim, places, submit, wait_until

#: First byte of a file that needs a long look.
COSTLY = 1


class Drained:
    """A loop that runs in a thread while uploads come in."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.looks: list[tuple[bool, bytes]] = []
        self.let_go = threading.Event()
        plain = bench.decoder.decode

        def decode(data: bytes, *, patient: bool = False, prints: bool = False) -> StubPicture:
            if data[0] == COSTLY:
                self.looks.append((patient, data))
                if not patient:
                    time.sleep(0.02)
                    raise NeedsLonger("a first look was not enough")
                self.let_go.wait(20)
            return plain(data)

        bench.decoder.decode = decode  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self.bench.stop.is_set():
            self.bench.run()
            time.sleep(0.02)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self.let_go.set()
        self.bench.stop.set()
        self._thread.join(20)

    def passes(self, upload_id: str, within_s: float = 4.0, **fields: object) -> None:
        """A good upload that comes now is decided in time."""
        self.bench.upload(upload_id, picture(CLEAR, hash(upload_id) % 2**31), **fields)
        wait_until(lambda: self.bench.state(upload_id)[0] == "approved", within_s, upload_id)


@pytest.fixture
def drained(store: Store) -> Iterator[Drained]:
    """Twenty costly uploads before anybody else's."""
    bench = Bench(store)
    drained = Drained(bench)
    yield drained
    drained.end()
    bench.drain.close()


def costly(number: int) -> bytes:
    return picture(COSTLY, number)


def test_costly_pictures_wait_in_a_lane_of_their_own(drained: Drained) -> None:
    """Twelve of them delay a later upload by their first looks only, and none is lost."""
    bench = drained.bench
    for number in range(12):
        bench.upload(f"costly{number}", costly(number))
    drained.start()
    drained.passes("good")
    assert bench.state("costly0")[0] == "queued"
    lane = bench.store.keys.due(Stage.MODERATE, SLOW)
    wait_until(
        lambda: bench.store.redis.zcard(lane) >= 10,
        30,
        "all but what is looked at now wait in the lane",
    )
    drained.let_go.set()
    for number in range(12):
        wait_until(
            lambda n=number: bench.state(f"costly{n}")[0] == "approved", 30, f"costly{number}"
        )
    assert [patient for patient, _ in drained.looks].count(True) == 12


def test_only_one_costly_picture_is_looked_at_at_a_time(drained: Drained) -> None:
    """What needs much memory does not run beside its like."""
    bench = drained.bench
    for number in range(6):
        bench.upload(f"costly{number}", costly(number))
    drained.start()
    wait_until(lambda: [p for p, _ in drained.looks].count(True) == 1, 30, "one long look")
    drained.passes("good")
    assert [patient for patient, _ in drained.looks].count(True) == 1


def test_an_urgent_upload_is_taken_although_hands_are_full(store: Store) -> None:
    """With eight and more slow fetches in hand it has a claim, a thread and a decoder."""
    bench = Bench(store)
    hang = threading.Event()

    def fetch(_image: str, upload_id: str) -> bytes:
        if upload_id.startswith("stuck"):
            hang.wait(20)
        return bench.files[upload_id]

    bench.fetch = fetch
    drained = Drained(bench)
    for number in range(40):
        bench.upload(f"stuck{number}", picture(CLEAR, number))
    drained.start()
    try:
        wait_until(lambda: bench.store.waiting(Stage.MODERATE)["leased"] >= 8, 30, "hands are full")
        drained.passes("urgent", priority=Priority.HIGH)
        assert bench.state("stuck0")[0] == "queued"
    finally:
        hang.set()
        drained.end()
        bench.drain.close()


class TestAddresses:
    """Hosts that keep us waiting keep nobody else waiting."""

    @pytest.fixture
    def tarpits(self, store: Store) -> Iterator[Drained]:
        """Sixty pictures at hosts that never answer."""
        bench = Bench(store)
        self.hang = threading.Event()

        def fetch(image: str, upload_id: str) -> bytes:
            if "tarpit" in image:
                self.hang.wait(20)
                raise StorageUnavailable("no answer")
            return bench.files[upload_id]

        bench.fetch = fetch
        drained = Drained(bench)
        yield drained
        self.hang.set()
        drained.end()
        bench.drain.close()

    @pytest.mark.parametrize("hosts", [1, 60])
    def test_sixty_silent_addresses_delay_nobody_for_long(
        self, tarpits: Drained, hosts: int
    ) -> None:
        """Neither the pictures of the image store, nor those of other hosts at once or later."""
        bench = tarpits.bench
        for number in range(60):
            submit(bench.store, f"t{number}", image=f"https://tarpit{number % hosts}.example/a")
        tarpits.start()
        tarpits.passes("stored", within_s=6.0)
        tarpits.passes(
            "urgent", within_s=2.0, priority=Priority.HIGH, image="https://web.example/u"
        )
        if hosts == 1:
            tarpits.passes("other", within_s=6.0, image="https://web.example/b")

    def test_a_host_that_did_not_answer_is_asked_for_one_picture_at_a_time(
        self, tarpits: Drained, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The others wait in Redis, not in our hands, and none is lost."""
        monkeypatch.setattr("worker.moderation.prepare.AWAY_S", 0.1)
        bench = tarpits.bench
        submit(bench.store, "first", image="https://tarpit.example/a")
        tarpits.start()
        wait_until(lambda: bench.store.waiting(Stage.MODERATE)["leased"] == 1, 30, "it is fetched")
        time.sleep(0.2)
        self.hang.set()
        wait_until(
            lambda: bench.store.waiting(Stage.MODERATE)["leased"] == 0, 30, "it is postponed"
        )
        self.hang.clear()
        for number in range(10):
            submit(bench.store, f"t{number}", image="https://tarpit.example/a")
        wait_until(
            lambda: sum(places(bench.store, f"t{n}") == [] for n in range(10)) == 9, 30, "set aside"
        )
        assert bench.store.redis.zcard(bench.store.keys.due(Stage.MODERATE, FAR)) == 9


def test_a_suspect_does_not_wait_for_what_takes_long(drained: Drained) -> None:
    """What is looked at in the background is given back, so that hands become empty for it."""
    bench = drained.bench
    bench.upload("costly", costly(0))
    drained.start()
    wait_until(lambda: (True, costly(0)) in drained.looks, 30, "a long look")
    bench.upload("suspect", picture(CLEAR, 7))
    bench.store.redis.zrem(bench.store.keys.due(Stage.MODERATE, Priority.NORMAL), "suspect")
    bench.store.redis.zadd(bench.store.key("lease", Stage.MODERATE), {"suspect": 1.0})
    wait_until(lambda: bench.state("suspect")[0] == "approved", 30, "the suspect is decided")
    assert bench.state("costly")[0] == "queued"


def test_a_stop_leaves_a_costly_picture_in_its_lane(drained: Drained) -> None:
    """The next worker need not find out again that it is slow."""
    bench = drained.bench
    bench.upload("costly", costly(0))
    drained.start()
    wait_until(lambda: (True, costly(0)) in drained.looks, 30, "a long look")
    bench.stop.set()
    wait_until(lambda: not bench.store.waiting(Stage.MODERATE)["leased"], 30, "it is given back")
    assert claim(bench.store) == []
    assert [lease.item for lease in claim(bench.store, lanes=[SLOW])] == ["costly"]


@pytest.mark.parametrize("lane", [SLOW, FAR])
def test_what_was_set_aside_is_taken_though_nothing_else_is_due(store: Store, lane: str) -> None:
    """A loop that ended while it was not due yet takes it at the next doorbell."""
    bench = Bench(store)
    bench.upload("aside", picture(CLEAR, 3), image="https://web.example/a")
    [lease] = claim(store)
    store.put_back(Stage.MODERATE, lease.item, token=TOKEN, priority=lane, delay_s=0)
    assert bench.run() == 1
    assert bench.state("aside")[0] == "approved"
    bench.drain.close()
