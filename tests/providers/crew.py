"""Several processes that work off gray uploads as the review task does: claim, ask, come back.

The due times are a sorted set, as in the store; a refused upload is put back with the delay the
router named, and nothing else is tried before that.
"""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import redis

from producer.contract import Region
from tests.providers.support import PREFIX, settings, sha, tiny_jpeg
from worker.review.answers import Answered, Wait
from worker.review.router import Router

CLAIM = """
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1)
if #due == 1 then redis.call('ZREM', KEYS[1], due[1]) end
return due
"""


def put_in(client: redis.Redis, uploads: Mapping[str, str]) -> None:
    """Make uploads due now.

    Args:
        client: of the shared Valkey.
        uploads: content name by upload id; equal names are identical pictures.
    """
    client.hset("content", mapping=dict(uploads))
    client.zadd("due", dict.fromkeys(uploads, 0))
    client.set("left", len(uploads))


def results(client: redis.Redis) -> dict[str, dict[str, Any]]:
    """What became of each upload."""
    return {name: json.loads(text) for name, text in client.hgetall("result").items()}


def run_crew(
    socket_path: str, values: Mapping[str, Any], *, processes: int, limit_s: float
) -> None:
    """Work until nothing is left; fails when that takes longer than `limit_s`."""
    context = multiprocessing.get_context("spawn")
    crew = [
        context.Process(target=_work, args=(socket_path, dict(values), limit_s))
        for _ in range(processes)
    ]
    for process in crew:
        process.start()
    for process in crew:
        process.join(limit_s + 30)
    assert [process.exitcode for process in crew] == [0] * processes


def _work(socket_path: str, values: dict[str, Any], limit_s: float) -> None:
    with redis.Redis(unix_socket_path=socket_path, decode_responses=True) as client:
        router = Router(settings(**values), client, PREFIX)
        client.incr("ready")
        while int(client.get("ready") or 0) < 2:
            time.sleep(0.01)
        threads = [
            threading.Thread(target=_loop, args=(client, router, time.monotonic() + limit_s))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert int(client.get("left") or 0) == 0
        router.close()


def _loop(client: redis.Redis, router: Router, end_s: float) -> None:
    claim = client.register_script(CLAIM)
    while int(client.get("left") or 0) > 0 and time.monotonic() < end_s:
        due: Sequence[str] = claim(keys=["due"])
        if due:
            _step(client, router, due[0])
        else:
            time.sleep(0.02)


def _step(client: redis.Redis, router: Router, upload: str) -> None:
    client.setnx("started", time.time())
    record = json.loads(client.hget("record", upload) or "{}")
    client.hincrby("asked", upload, 1)
    answer = router.review(
        upload_id=upload,
        seq=2,
        sha256=sha(client.hget("content", upload)),
        region=Region.DOMESTIC,
        jpeg=tiny_jpeg,
        probability=0.5,
        waiting_since_s=0.0,
        tried=record.get("tried", ()),
    )
    if isinstance(answer, Wait):
        client.hset("record", upload, json.dumps({"tried": answer.tried}))
        client.zadd("due", {upload: time.time() + answer.delay_s})
        return
    result = {"kind": type(answer).__name__, "reason": getattr(answer, "reason", "")}
    if isinstance(answer, Answered):
        result |= {
            "decision": str(answer.opinion.decision),
            "provider": answer.opinion.provider,
            "reused": answer.opinion.reused,
        }
    client.hset("result", upload, json.dumps(result))
    client.decr("left")


def ask_once(socket_path: str, values: dict[str, Any], content: str) -> None:
    """One question, in a process of its own that may be killed over it."""
    with redis.Redis(unix_socket_path=socket_path, decode_responses=True) as client:
        Router(settings(**values), client, PREFIX).review(
            upload_id="u",
            seq=2,
            sha256=sha(content),
            region=Region.DOMESTIC,
            jpeg=tiny_jpeg,
            probability=0.5,
            waiting_since_s=0.0,
            tried=(),
        )
