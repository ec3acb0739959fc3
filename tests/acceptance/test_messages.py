"""Messages that no version of ours sends: a real worker answers or drops them, and lives."""

from __future__ import annotations

import json

from producer.connect import find_redis_url, make_celery
from producer.contract import TASK_NAMES, Stage
from tests.acceptance.conftest import Instance, check_outcomes, fill
from worker.receiver import Receiver


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
