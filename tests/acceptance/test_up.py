"""From upload to callback through real processes, and what happens when they are killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable

from producer.contract import Stage
from tests.acceptance.conftest import Instance, check_outcomes, eventually, fill
from worker.receiver import Receiver

Make = Callable[..., Instance]


def decided(instance: Instance) -> int:
    """How many uploads have left the queue."""
    with instance.store() as store:
        counts = store.redis.hgetall(store.key("counts"))
    return sum(int(n) for state, n in counts.items() if state != "last_transition_at")  # type: ignore[union-attr]


def enqueue_all(instance: Instance, upload_ids: list[str]) -> None:
    """Enqueue as a web tier does."""
    with instance.producer() as producer:
        for upload_id in upload_ids:
            producer.enqueue(upload_id)


def test_200_mixed_uploads_enqueued_three_times_give_200_verdicts_and_callbacks(
    make_instance: Make, receiver: Receiver
) -> None:
    """Good and damaged pictures all end in their one right record and one verified callback."""
    with make_instance(AVATARMOD_LEASE_S="30") as instance:
        expected = fill(instance, 200)
        for _ in range(3):
            enqueue_all(instance, list(expected))
        check_outcomes(instance, receiver, expected)
        status = instance.run("status", "--json", "upload-0000", "nobody")
        known, unknown = json.loads(status.stdout)
        assert (known["upload_id"], known["seq"]) == ("upload-0000", 2)
        assert (unknown["state"], status.returncode) == ("unknown", 1)
        assert instance.stop() == 0


def test_a_worker_killed_in_mid_batch_loses_nothing(
    make_instance: Make, receiver: Receiver
) -> None:
    """SIGKILL of the moderate worker, twice: the supervisor starts it again, all are decided."""
    with make_instance() as instance:
        expected = fill(instance, 100)
        enqueue_all(instance, list(expected))
        for least in (8, 40):
            eventually(lambda least=least: decided(instance) >= least, "some are decided")
            os.kill(instance.pid_of("moderate"), signal.SIGKILL)
        check_outcomes(instance, receiver, expected)


def test_an_io_worker_killed_loses_no_callback(make_instance: Make, receiver: Receiver) -> None:
    """SIGKILL of the io worker while it delivers: every callback still arrives, same id."""
    with make_instance() as instance:
        expected = fill(instance, 60)
        enqueue_all(instance, list(expected))
        eventually(lambda: len(receiver.received) >= 5, "some callbacks arrive")
        os.kill(instance.pid_of("io"), signal.SIGKILL)
        check_outcomes(instance, receiver, expected, exactly_once=False)


def test_valkey_killed_in_mid_run_loses_nothing(make_instance: Make, receiver: Receiver) -> None:
    """SIGKILL of the server: it comes back on its append-only file and the work goes on."""
    with make_instance() as instance:
        expected = fill(instance, 80)
        enqueue_all(instance, list(expected))
        eventually(lambda: decided(instance) >= 8, "some are decided")
        killed = instance.valkey_pid()
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: instance.log.read_text().count("broker_died"), "it is noticed")
        check_outcomes(instance, receiver, expected, exactly_once=False)
        assert instance.valkey_pid() != killed


def test_deleted_messages_lose_nothing(make_instance: Make, receiver: Receiver) -> None:
    """Every key of the broker deleted, again and again: the ticker rings, all are decided."""
    with make_instance() as instance:
        expected = fill(instance, 60)
        with instance.producer() as producer, instance.store() as store:
            for upload_id in expected:
                producer.enqueue(upload_id)
                for key in store.redis.scan_iter("avatarmod:celery:*"):
                    if "_kombu.binding" not in str(key):
                        store.redis.delete(key)
        check_outcomes(instance, receiver, expected)


def test_a_stop_under_load_is_quick_and_the_next_start_finishes(
    make_instance: Make, receiver: Receiver
) -> None:
    """SIGTERM gives back within seconds, nobody is counted as dead, nothing is lost or doubled."""
    instance = make_instance()
    instance.start()
    expected = fill(instance, 80)
    enqueue_all(instance, list(expected))
    eventually(lambda: decided(instance) >= 8, "some are decided")
    started_s = time.monotonic()
    assert instance.stop() == 0, instance.tail()
    assert time.monotonic() - started_s < 25
    assert "worker_killed" not in instance.log.read_text()
    instance.start()
    with instance.store() as store:
        assert store.redis.hgetall(store.key("crashes", Stage.MODERATE)) == {}
    check_outcomes(instance, receiver, expected)


def test_a_rolling_restart_during_load_loses_and_doubles_nothing(
    make_instance: Make, receiver: Receiver
) -> None:
    """Workers are told to stop one after the other while uploads keep coming."""
    with make_instance() as instance:
        expected = fill(instance, 90)
        with instance.producer() as producer:
            for number, upload_id in enumerate(expected):
                producer.enqueue(upload_id)
                if number % 30 == 29:
                    for role in ("moderate", "io"):
                        os.kill(instance.pid_of(role), signal.SIGTERM)
                        time.sleep(0.3)
        check_outcomes(instance, receiver, expected)


def test_a_killed_supervisor_leaves_nothing_in_the_way(
    make_instance: Make, receiver: Receiver
) -> None:
    """SIGKILL of `avatarmod up` itself: the next one starts on the same folder and finishes."""
    instance = make_instance()
    instance.start()
    expected = fill(instance, 40)
    enqueue_all(instance, list(expected))
    orphan = instance.valkey_pid()
    assert instance.process is not None
    instance.process.kill()
    instance.process.wait()
    instance.start()
    assert instance.valkey_pid() != orphan
    check_outcomes(instance, receiver, expected, exactly_once=False)
