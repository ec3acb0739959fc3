"""Other deployments by configuration alone: Redis under Sentinel, RabbitMQ as the broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator

import pytest

from producer.client import Producer
from producer.connect import redis_client
from producer.errors import StorageUnavailable
from producer.settings import Settings, load_settings
from tests.acceptance.brokers import RABBITMQ_SERVER, RabbitMQ, SentinelGroup
from tests.acceptance.conftest import Instance, check_outcomes, eventually, fill
from tests.acceptance.test_up import some_decided
from worker.demo.webhook_receiver import Receiver

Make = Callable[..., Instance]


@pytest.fixture(scope="module")
def sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelGroup]:
    """A group whose Sentinels know each other."""
    with SentinelGroup(tmp_path_factory.mktemp("sentinel")) as group:
        yield group


def enqueue_until_accepted(producer: Producer, upload_ids: Iterable[str]) -> int:
    """Enqueue as a web tier does that tries again; returns how often it had to."""
    retries = 0
    for upload_id in upload_ids:
        deadline_s = time.monotonic() + 90
        while True:
            try:
                producer.enqueue(upload_id)
                break
            except StorageUnavailable:
                assert time.monotonic() < deadline_s, "Redis does not come back"
                retries += 1
                time.sleep(0.2)
    return retries


def test_an_upload_that_no_replica_has_is_not_accepted(sentinels: SentinelGroup) -> None:
    """With AVATARMOD_REDIS_REPLICAS=1 a frozen replica refuses uploads, and they can be retried."""
    settings = load_settings(
        Settings, redis_url=sentinels.url, redis_replicas=1, namespace="frozen"
    )
    producer = Producer.connect(settings)
    replica = sentinels.processes["two"].pid
    os.kill(replica, signal.SIGSTOP)
    try:
        for _ in range(2):
            with pytest.raises(StorageUnavailable):
                producer.enqueue("a")
    finally:
        os.kill(replica, signal.SIGCONT)
    eventually(lambda: not _is_refused(producer, "a"), "the replica is back in step")
    producer.store.redis.close()


def _is_refused(producer: Producer, upload_id: str) -> bool:
    try:
        producer.enqueue(upload_id)
    except StorageUnavailable:
        return True
    return False


def test_a_sentinel_fail_over_loses_no_accepted_upload(
    sentinels: SentinelGroup, make_instance: Make, web_tier: Receiver
) -> None:
    """The master is killed under load: what was accepted before and after is decided and told."""
    instance = make_instance(
        AVATARMOD_REDIS_URL=sentinels.url,
        AVATARMOD_REDIS_REPLICAS="1",
        AVATARMOD_NAMESPACE="failover",
    )
    instance.start()
    before, after = fill(instance, "before", 60), fill(instance, "after", 40)
    with instance.producer() as producer:
        enqueue_until_accepted(producer, before)
    some_decided(instance, before, 5)
    old = sentinels.master()
    sentinels.kill(old)
    new = {"one": "two", "two": "one"}[old]
    eventually(lambda: sentinels.role(new) == "master", "the replica is promoted")
    # One server of two is gone, so a replica can confirm only once it is back.
    sentinels.start_server(old)
    eventually(lambda: sentinels.role(old) == "slave", "the old master follows the new one")
    with instance.producer() as producer:
        enqueue_until_accepted(producer, after)
    check_outcomes(instance, web_tier, before | after, exactly_once=False)
    log = instance.log.read_text()
    assert SentinelGroup.PASSWORD not in log
    assert SentinelGroup.SENTINEL_PASSWORD not in log


@pytest.fixture(scope="module")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """A RabbitMQ of this module's own."""
    if not RABBITMQ_SERVER.exists():
        pytest.skip("RabbitMQ is not installed; on Debian: apt install rabbitmq-server")
    with RabbitMQ(tmp_path_factory.mktemp("rabbitmq")) as server:
        yield server


def test_rabbitmq_killed_in_mid_run_loses_nothing(
    rabbitmq: RabbitMQ, valkey_url: str, make_instance: Make, web_tier: Receiver
) -> None:
    """Doorbells go over RabbitMQ; while it is away uploads are accepted, then all are decided."""
    instance = make_instance(
        AVATARMOD_REDIS_URL=valkey_url,
        AVATARMOD_BROKER_URL=rabbitmq.url,
        AVATARMOD_NAMESPACE="rabbit",
    )
    instance.start()
    before, during = fill(instance, "before-rabbit", 60), fill(instance, "during-rabbit", 20)
    with instance.producer() as producer:
        enqueue_until_accepted(producer, before)
        some_decided(instance, before, 5)
        with redis_client(valkey_url) as client:
            assert not list(client.scan_iter("rabbit:celery:*")), "no message goes over Redis"
        rabbitmq.kill("rabbitmq")
        started_s = time.monotonic()
        assert enqueue_until_accepted(producer, during) == 0
        assert time.monotonic() - started_s < 30, "enqueueing does not wait for the broker"
        rabbitmq.start()
        check_outcomes(instance, web_tier, before | during)
    assert RabbitMQ.PASSWORD not in instance.log.read_text()


def test_an_unreachable_broker_is_said_in_one_line_without_its_password() -> None:
    """A Sentinel that is not there: `avatarmod doctor` names the place and keeps the secrets."""
    run = subprocess.run(
        [sys.executable, "-m", "producer.cli", "doctor"],
        env={
            "PATH": os.environ["PATH"],
            "AVATARMOD_REDIS_URL": "redis+sentinel://:hunter2@127.0.0.1:1/0?master=avatars",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert run.returncode == 1
    assert "avatars" in run.stdout
    assert "hunter2" not in run.stdout + run.stderr
    assert "Traceback" not in run.stderr


def test_doctor_says_that_the_broker_is_away_and_keeps_its_password(valkey_url: str) -> None:
    """Redis answers, RabbitMQ does not: critical, with the place and without the secret."""
    run = subprocess.run(
        [sys.executable, "-m", "producer.cli", "doctor", "--json"],
        env={
            "PATH": os.environ["PATH"],
            "AVATARMOD_REDIS_URL": valkey_url,
            "AVATARMOD_BROKER_URL": "amqp://avatars:hunter2@127.0.0.1:1//",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert run.returncode == 1
    [broker] = [check for check in json.loads(run.stdout)["checks"] if check["name"] == "broker"]
    assert broker["status"] == "critical"
    assert "127.0.0.1:1" in broker["message"]
    assert "hunter2" not in run.stdout + run.stderr
