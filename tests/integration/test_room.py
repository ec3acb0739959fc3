"""A Redis whose memory is full: uploads are refused first, and what was accepted goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from producer.client import Producer
from producer.connect import redis_client
from producer.contract import AvatarState, Stage, Upload
from producer.errors import StorageFull
from producer.metrics import RETRIES, Recorder
from producer.record.room import FULL_SHARE, memory_share
from producer.record.store import Store
from producer.settings import Settings, load_settings
from tests.support import TOKEN, change, claim, put_back, submit
from worker.duties.sweeper import Sweeper
from worker.process.valkey import EmbeddedValkey


class NoBells:
    """A broker that nobody listens to."""

    def ring(self, stage: Stage) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    """A Valkey of these tests' own, whose memory they limit."""
    valkey = EmbeddedValkey(tmp_path_factory.mktemp("small"))
    valkey.start()
    client = redis_client(valkey.url)
    client.config_set("appendfsync", "no")
    yield client
    client.close()
    valkey.stop()


@pytest.fixture
def small(server: redis.Redis) -> Iterator[Store]:
    """A store on an empty server with room for some 5,500 uploads.

    Far from 4,096 and 8,192, where tables of Redis double at once.
    """
    server.config_set("maxmemory", 0)
    server.flushall()
    limit(server, 3 * 2**20)
    yield Store(server, "small")
    server.config_set("maxmemory", 0)


def limit(server: redis.Redis, room_bytes: int) -> None:
    """Let so much more be used than is used now."""
    server.config_set("maxmemory", int(server.info("memory")["used_memory"]) + room_bytes)  # type: ignore[index]


def make_producer(store: Store, folder: Path) -> Producer:
    """A producer on that store."""
    settings = load_settings(Settings, data_folder=folder)
    return Producer(store, NoBells(), settings)  # type: ignore[arg-type]


def test_uploads_are_refused_while_there_is_room_for_verdicts(small: Store, tmp_path: Path) -> None:
    """From nine tenths on, with an error that says what is full; a known id is still answered."""
    producer = make_producer(small, tmp_path)
    accepted: list[str] = []
    refused: StorageFull | None = None
    while refused is None:
        ids = [f"upload/{len(accepted) + n:06d}" for n in range(10)]
        answers = producer.enqueue_many([Upload(i, None, None, "normal", None) for i in ids])
        accepted += [i for i, a in zip(ids, answers, strict=True) if not isinstance(a, Exception)]
        refused = next((a for a in answers if isinstance(a, StorageFull)), None)
        assert len(accepted) < 20_000
    assert "Redis is full: 9" in str(refused)
    assert refused.retry_after_s
    assert FULL_SHARE <= memory_share(small.server_facts()) < 1.0
    assert producer.enqueue(accepted[0]).created is False
    leases = claim(small)
    done = small.advance([change(small, lease.item, AvatarState.BLOCKED) for lease in leases])
    assert [change.applied for change in done] == [True] * 32
    small.redis.config_set("maxmemory", 0)
    small.room = type(small.room)(small.base)
    assert producer.enqueue("later").created


def test_what_makes_room_works_without_any(small: Store, server: redis.Redis) -> None:
    """Claims, leases, ended callbacks, signs of life, alarms and the ledger's drain."""
    for number in range(40):
        submit(small, f"u{number}")
    [first, *rest] = claim(small)
    told = change(small, first.item, AvatarState.BLOCKED, leaves=Stage.MODERATE)
    small.advance([told])
    limit(server, -200_000)
    with pytest.raises(redis.OutOfMemoryError):
        small.redis.set("anything", 1)
    with pytest.raises(redis.OutOfMemoryError):
        small.try_to_write()
    assert len(claim(small)) == 8
    ids = [lease.item for lease in rest]
    assert small.renew(Stage.MODERATE, ids, lease_s=30.0, token=TOKEN) == 31
    assert put_back(small, ids[0])
    line = next(line for line in small.lines() if line.startswith("callback:"))
    [callback] = claim(small, line)
    entry = small.outbox.get(callback.item)
    assert entry is not None
    assert small.outbox.end(entry, token=TOKEN, detail={})
    recorder, drained = Recorder(), threading.Event()
    recorder.count(RETRIES, "moderate", "Any")
    sweeper = Sweeper(
        store=small,
        ring=lambda stage: None,
        name="io@here:1",
        facts=lambda: {"name": "io@here:1", "role": "io", "stages": ["callback"]},
        stop=threading.Event(),
        recorder=recorder,
        duties={"ledger": drained.set},
    )
    sweeper.tick()
    assert drained.is_set()
    assert [worker["role"] for worker in small.workers()] == ["io"]
    small.alarms.put("redis_full", {"severity": "critical"})
    assert small.events.forget(small.events.last_id()) > 40
    with pytest.raises(redis.OutOfMemoryError):
        small.advance([change(small, ids[1], AvatarState.BLOCKED, leaves=Stage.MODERATE)])
    server.config_set("maxmemory", 0)
    [done] = small.advance([change(small, ids[1], AvatarState.BLOCKED, leaves=Stage.MODERATE)])
    assert done.applied
