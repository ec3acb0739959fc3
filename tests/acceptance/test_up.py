"""From upload to callback through real processes, and what happens when they are killed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from producer.contract import Stage
from producer.record.keyspace import callback_line, endpoint_name
from tests.acceptance.conftest import (
    PATIENCE_S,
    SECRET,
    Instance,
    check_outcomes,
    enqueue_all,
    eventually,
    fill,
)
from tests.support import wait_until
from worker.demo.webhook_receiver import Receiver

Make = Callable[..., Instance]


def decided(instance: Instance, expected: dict[str, str]) -> int:
    """How many of these uploads have left the queue."""
    with instance.store() as store:
        avatars = store.get_many(list(expected))
    return sum(avatar is not None and avatar.state != "queued" for avatar in avatars)


def some_decided(instance: Instance, expected: dict[str, str], least: int) -> None:
    """Wait until the work on these uploads is under way."""
    eventually(lambda: decided(instance, expected) >= least, f"{least} are decided")


def test_200_mixed_uploads_enqueued_three_times_give_200_verdicts_and_callbacks(
    shared: Instance, web_tier: Receiver
) -> None:
    """Good and damaged pictures all end in their one right record and one verified callback."""
    expected = fill(shared, "mixed", 200)
    for _ in range(3):
        enqueue_all(shared, expected)
    check_outcomes(shared, web_tier, expected)
    status = shared.run("status", "--json", "mixed-0000", "nobody")
    known, unknown = json.loads(status.stdout)
    assert known["upload_id"] == "mixed-0000"
    assert known["seq"] > 10**6, "it begins with the time"
    assert (unknown["state"], status.returncode) == ("unknown", 1)


def test_a_look_at_the_processes_says_which_is_which(shared: Instance) -> None:
    """They are copies of one process, and Celery would give each another name of its own."""
    for role, title in (("moderate", b"avatarmod worker moderate"), ("io", b"avatarmod worker io")):
        line = Path(f"/proc/{shared.pid_of(role)}/cmdline").read_bytes()
        assert line.rstrip(b"\0") == title


def test_a_worker_killed_in_mid_batch_loses_nothing(shared: Instance, web_tier: Receiver) -> None:
    """SIGKILL of the moderate worker, twice: the supervisor starts it again, all are decided."""
    expected = fill(shared, "killed", 80)
    enqueue_all(shared, expected)
    for least in (8, 30):
        some_decided(shared, expected, least)
        os.kill(shared.pid_of("moderate"), signal.SIGKILL)
    check_outcomes(shared, web_tier, expected)


def test_an_io_worker_killed_loses_no_callback(shared: Instance, web_tier: Receiver) -> None:
    """SIGKILL of the io worker while it delivers: every callback still arrives, same id."""
    expected = fill(shared, "io", 40)
    before = len(web_tier.received)
    enqueue_all(shared, expected)
    eventually(lambda: len(web_tier.received) >= before + 5, "some callbacks arrive")
    os.kill(shared.pid_of("io"), signal.SIGKILL)
    check_outcomes(shared, web_tier, expected, exactly_once=False)


def test_a_killed_io_worker_gives_its_places_at_an_endpoint_back(make_instance: Make) -> None:
    """Callbacks in its hands hold all of them, and come free with a lease of seconds."""
    answers, asked = threading.Event(), threading.Semaphore(0)

    def hang() -> bool:
        asked.release()
        answers.wait(PATIENCE_S)
        return False

    with Receiver(SecretStr(SECRET), fails=hang) as slow:
        instance = make_instance(AVATARMOD_CALLBACK_URL=slow.url, AVATARMOD_LEASE_S="4")
        instance.start()
        expected = fill(instance, "held", 20)
        enqueue_all(instance, expected)
        for _ in range(4):
            assert asked.acquire(timeout=PATIENCE_S)
        killed = instance.pid_of("io")
        with instance.store() as store:
            line = callback_line(endpoint_name(slow.url))
            leases: Any = store.redis.zrange(store.key("lease", line), 0, -1, withscores=True)
            now_s = store.now()
        assert 1 <= len(leases) <= 4
        assert max(until_s for _, until_s in leases) - now_s <= 4
        os.kill(killed, signal.SIGKILL)
        answers.set()
        check_outcomes(instance, slow, expected, exactly_once=False)


def test_valkey_killed_in_mid_run_loses_nothing(shared: Instance, web_tier: Receiver) -> None:
    """SIGKILL of the server: it comes back on its append-only file and the work goes on."""
    expected = fill(shared, "valkey", 60)
    enqueue_all(shared, expected)
    some_decided(shared, expected, 8)
    killed = shared.valkey_pid()
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: "broker_died" in shared.log.read_text(), "it is noticed")
    check_outcomes(shared, web_tier, expected, exactly_once=False)
    assert shared.valkey_pid() != killed


def test_deleted_messages_lose_nothing(shared: Instance, web_tier: Receiver) -> None:
    """Every message of the broker deleted, again and again: the ticker rings, all are decided."""
    expected = fill(shared, "deleted", 40)
    with shared.producer() as producer, shared.store() as store:
        for upload_id in expected:
            producer.enqueue(upload_id)
            for key in store.redis.scan_iter("avatarmod:celery:*"):
                if "_kombu.binding" not in str(key):
                    store.redis.delete(key)
    check_outcomes(shared, web_tier, expected)


def test_a_rolling_restart_during_load_loses_and_doubles_nothing(
    shared: Instance, web_tier: Receiver
) -> None:
    """Workers are told to stop one after the other while uploads keep coming."""
    expected = fill(shared, "rolling", 80)
    with shared.producer() as producer:
        for number, upload_id in enumerate(expected):
            producer.enqueue(upload_id)
            if number % 40 == 39:
                for role in ("moderate", "io"):
                    os.kill(shared.pid_of(role), signal.SIGTERM)
                    time.sleep(0.3)
    check_outcomes(shared, web_tier, expected)


def test_a_stop_under_load_is_quick_and_the_next_start_finishes(
    make_instance: Make, web_tier: Receiver
) -> None:
    """SIGTERM gives back within seconds, nobody is counted as dead, nothing is lost or doubled."""
    instance = make_instance()
    instance.start()
    expected = fill(instance, "stopped", 60)
    enqueue_all(instance, expected)
    some_decided(instance, expected, 8)
    started_s = time.monotonic()
    assert instance.stop() == 0, instance.tail()
    assert time.monotonic() - started_s < 25
    assert "worker_killed" not in instance.log.read_text()
    instance.start()
    with instance.store() as store:
        assert store.redis.hgetall(store.key("crashes", Stage.MODERATE)) == {}
    check_outcomes(instance, web_tier, expected)


def test_a_killed_supervisor_leaves_nothing_in_the_way(
    make_instance: Make, web_tier: Receiver
) -> None:
    """SIGKILL of `avatarmod up` itself: the next one starts on the same folder and finishes."""
    instance = make_instance()
    instance.start()
    expected = fill(instance, "orphaned", 40)
    enqueue_all(instance, expected)
    orphan = instance.valkey_pid()
    assert instance.process is not None
    instance.process.kill()
    instance.process.wait()
    instance.start()
    assert instance.valkey_pid() != orphan
    check_outcomes(instance, web_tier, expected, exactly_once=False)


def test_the_log_says_what_became_of_every_upload(shared: Instance, web_tier: Receiver) -> None:
    """One line a verdict and a delivery, with the upload's id; Celery leaves the log to us."""
    expected = fill(shared, "logged", 4)
    enqueue_all(shared, expected)
    check_outcomes(shared, web_tier, expected)

    def said(name: str) -> set[str]:
        lines = shared.log.read_text().splitlines(keepends=True)
        events = [json.loads(line) for line in lines if line.startswith("{") and line[-1] == "\n"]
        return {event["upload_id"] for event in events if event["event"] == name}

    # Another process may have told the web tier before this one writes its line.
    for name in ("verdict_reached", "callback_delivered"):
        wait_until(lambda n=name: said(n) >= set(expected), 30, f"{name} of every upload")
