"""Messages that no version of ours sends: a real worker answers or drops them, and lives."""

from __future__ import annotations

import json
import os
import signal

from producer.connect import find_redis_url
from producer.contract import TASK_NAMES, Stage
from producer.doorbell import make_celery
from tests.acceptance.conftest import Instance, check_outcomes, eventually, fill
from worker.demo.webhook_receiver import Receiver


def test_strange_messages_do_not_kill_a_worker(shared: Instance, web_tier: Receiver) -> None:
    """Unknown arguments, unknown tasks, a foreign serializer, no message at all."""
    pids = {role: shared.pid_of(role) for role in ("moderate", "io")}
    settings = shared.settings()
    app = make_celery(settings, find_redis_url(settings))
    for stage in Stage:
        app.send_task(TASK_NAMES[stage], args=["x", 1], kwargs={"lane": "y"}, queue=stage.value)
        app.send_task("avatarmod.hologram", queue=stage.value)
        app.send_task(TASK_NAMES[stage], args=["z"], queue=stage.value, serializer="pickle")
    with shared.store() as store:
        for stage in Stage:
            line = f"{settings.namespace}:celery:{stage}"
            strange = {"body": "!", "headers": {}, "properties": {"delivery_tag": "t"}}
            store.redis.lpush(line, json.dumps(strange))
    expected = fill(shared, "strange", 20)
    with shared.producer() as producer:
        for upload_id in expected:
            producer.enqueue(upload_id)
    check_outcomes(shared, web_tier, expected)
    assert {role: shared.pid_of(role) for role in pids} == pids, shared.tail()
    app.close()


def test_uploads_by_the_stream_are_decided_though_io_is_killed(
    shared: Instance, web_tier: Receiver
) -> None:
    """SIGKILL of the io worker while it takes them over: each has its one verdict all the same."""
    expected = fill(shared, "stream", 60)
    with shared.store() as store:
        for upload_id in expected:
            store.redis.xadd(store.key("intake"), {"upload_id": upload_id})
        os.kill(shared.pid_of("io"), signal.SIGKILL)
        store.redis.xadd(store.key("intake"), {"upload_id": "stream 1"})
        eventually(lambda: store.intake.facts()[0] == 0, "all are taken over")
        assert [refusal["upload_id"] for refusal in store.intake.refusals(10)] == ["stream 1"]
    check_outcomes(shared, web_tier, expected, exactly_once=False)
