"""A Redis that is full under a running instance: workers live on, and nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from itertools import count

from producer.contract import Upload
from producer.errors import ModerationError, StorageFull
from tests.acceptance.conftest import Instance, eventually, picture
from worker.demo.webhook_receiver import Receiver


def test_a_full_redis_stops_uploads_and_nothing_else(
    make_instance: Callable[..., Instance], web_tier: Receiver
) -> None:
    """Refused from 90 % on; without any room no worker dies; with room again all is decided."""
    instance = make_instance()
    del instance.env["AVATARMOD_LEDGER_URL"]
    instance.start()
    # A store without any picture would be a fault of the operator, and uploads would wait.
    instance.put_image("one", picture(1))
    pids = {role: instance.pid_of(role) for role in ("moderate", "io")}

    def signal_all(number: int) -> None:
        for pid in pids.values():
            os.kill(pid, number)

    with instance.store() as store, instance.producer() as producer:

        def used() -> int:
            return int(store.redis.info("memory")["used_memory"])  # type: ignore[index]

        store.redis.config_set("maxmemory", used() + 2**20)
        signal_all(signal.SIGSTOP)
        accepted: list[str] = []
        numbers = count()
        refused = False
        while not refused:
            ids = [f"full-{next(numbers):05d}" for _ in range(20)]
            answers = producer.enqueue_many([Upload(i, None, None, "normal", None) for i in ids])
            for upload_id, answer in zip(ids, answers, strict=True):
                if isinstance(answer, StorageFull):
                    refused = True
                else:
                    assert not isinstance(answer, ModerationError), answer
                    accepted.append(upload_id)
        assert len(accepted) > 500
        store.redis.config_set("maxmemory", 2**20)
        signal_all(signal.SIGCONT)
        connections: list[int] = []
        for _ in range(12):
            time.sleep(1)
            connections.append(len(store.redis.client_list()))
        assert max(connections) < connections[0] + 12, "tries to listen leave connections behind"
        assert {role: instance.pid_of(role) for role in pids} == pids, instance.tail()
        store.redis.config_set("maxmemory", used() + 3 * 2**20)
        eventually(lambda: not any(store.open_counts().values()), "all are decided")
        eventually(lambda: store.events.count() == 0, "the ledger has all events")
        eventually(
            lambda: {r.data["upload_id"] for r in web_tier.received} >= set(accepted),
            "the web tier has heard of all",
        )
        assert producer.enqueue("full-later").created
    assert {role: instance.pid_of(role) for role in pids} == pids, instance.tail()
