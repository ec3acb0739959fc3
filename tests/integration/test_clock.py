"""The clock of Redis' host steps: a real server under libfaketime, moved while it runs."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from producer.connect import redis_client
from producer.contract import AvatarState, Stage
from producer.record.store import Store
from tests.support import change, claim, places, put_back, submit, wait_until
from worker.duties.alarms import evaluate
from worker.duties.facts import gather
from worker.process.valkey import server_binary
from worker.review.leave import Admitted, Refused
from worker.review.limits import Limits
from worker.settings import WorkerSettings

LIBRARY = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


class Server:
    """A server whose clock can be set."""

    def __init__(self, folder: Path) -> None:
        self.url = f"unix://{folder / 's.sock'}"
        self._offset = folder / "offset"
        self.set(0)
        env = {
            **os.environ,
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        command = [server_binary(), "--port", "0", "--unixsocket", str(folder / "s.sock")]
        self.process = subprocess.Popen(
            [*command, "--dir", str(folder), "--save", ""],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def set(self, seconds: int) -> None:
        """So many seconds ahead of this machine."""
        self._offset.write_text(f"{seconds:+d}\n")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server on this machine's time."""
    if not LIBRARY.exists():
        if os.environ.get("CI"):
            pytest.fail("apt-get install faketime")
        pytest.skip("apt-get install faketime")
    server = Server(tmp_path)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait(10)


@pytest.fixture
def store(server: Server) -> Iterator[Store]:
    """A store there."""
    client = redis_client(server.url)

    def answers() -> bool:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False

    wait_until(answers, 30, "the server answers")
    yield Store(client, "clock", record_ttl_s=3600.0)
    client.close()


def codes(store: Store, tmp_path: Path) -> set[str]:
    settings = WorkerSettings(redis_url=SecretStr("redis://unused"), data_folder=tmp_path)
    return {alarm.code for alarm in evaluate(gather(store, settings), settings)}


def test_time_never_falls_and_nothing_waits_for_an_hour(
    server: Server, store: Store, tmp_path: Path
) -> None:
    """Set back by an hour: leases, retries, bells and locks end in twice their time at most."""
    settings = WorkerSettings(redis_url=SecretStr("redis://unused"), data_folder=tmp_path)
    limits = Limits(*store.limits_client(), settings, lambda: 0.5)
    for name in ("leased", "later", "fresh"):
        submit(store, name)
    claim(store, lease_s=2.0)
    put_back(store, "later", delay_s=2.0)
    put_back(store, "fresh")
    assert store.take_bell(Stage.MODERATE)
    assert store.hold_duty("", "dead", ttl_s=2)
    assert isinstance(limits.admit("ab" * 32, ["fake"], opinions=0), Admitted)
    before = store.now()
    server.set(-3600)
    after = store.now()
    assert before - 1 <= after <= before + 5
    assert "clock_set_back" in codes(store, tmp_path)
    deadline_s = time.monotonic() + 12
    found: set[str] = set()
    while found != {"leased", "later", "fresh"} and time.monotonic() < deadline_s:
        store.hold_duty("", "alive", ttl_s=2)
        found |= {lease.item for lease in claim(store, token="second", lease_s=60.0)}
        time.sleep(0.2)
    assert found == {"leased", "later", "fresh"}
    assert store.hold_duty("", "alive", ttl_s=2), "the dead one's lock ended"
    wait_until(lambda: store.take_bell(Stage.MODERATE), 30, "the bell can be rung again")
    refused = limits.admit("cd" * 32, ["fake"], opinions=0)
    assert isinstance(refused, Admitted) or refused.delay_s < 10  # type: ignore[union-attr]
    same = limits.admit("ab" * 32, ["fake"], opinions=0)
    assert isinstance(same, Refused)
    assert same.delay_s < 10


def test_the_true_time_comes_back(server: Server, store: Store, tmp_path: Path) -> None:
    """The clock is set right again: our lead goes, and the alarm with it; time did not fall."""
    seen = [store.now()]
    server.set(-3600)
    seen.append(store.now())
    time.sleep(1.2)
    server.set(0)
    for _ in range(3):
        seen.append(store.now())
        time.sleep(1.1)
    assert seen == sorted(seen)
    told, now = store.clock()
    assert now - told < 1
    assert not {"clock_set_back", "clocks_differ"} & codes(store, tmp_path)


def test_a_step_forward_costs_nobody_a_verdict(
    server: Server, store: Store, tmp_path: Path
) -> None:
    """Every lease looks expired; each is given once more, alone, and one verdict counts."""
    for number in range(5):
        submit(store, f"u{number}")
    mine = claim(store, lease_s=30.0, token="first")
    server.set(3600)
    assert "clocks_differ" in codes(store, tmp_path)
    taken = claim(store, lease_s=30.0, token="second")
    assert [lease.crashes for lease in taken] == [1]
    kept = store.renew(Stage.MODERATE, [lease.item for lease in mine], lease_s=30.0, token="first")
    assert kept == 4
    assert claim(store, token="third") == []
    results = [
        store.advance([change(store, f"u{n}", AvatarState.APPROVED, leaves=Stage.MODERATE)])[0]
        for n in range(5)
    ]
    assert all(result.applied for result in results)
    assert places(store, taken[0].item) == []
