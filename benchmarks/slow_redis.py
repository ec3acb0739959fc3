"""What a long way to Redis costs: verdicts a second behind a delaying proxy.

Of the moderating loop alone, whose engine and decoder cost nothing or as long as the default model
takes (`--engine-ms`); or, with `--workers N`, of N moderate workers and an io worker as `avatarmod
up` starts them, with the default model, up to the callbacks that a receiver got.
Run: python benchmarks/slow_redis.py [--workers 1] [--rtt-ms 0 50 100] [--uploads 400]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import multiprocessing
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pydantic import SecretStr

from benchmarks.through_queue import NullDecoder, NullEngine, NullScore
from producer.connect import redis_client
from producer.contract import Avatar, AvatarState, Stage
from producer.logs import quiet_logging
from producer.metrics import Recorder
from producer.record.store import Store
from worker.demo import pictures as samples
from worker.demo.webhook_receiver import Receiver
from worker.moderation.batch import BatchKnobs, ModerateDrain
from worker.moderation.policy import Policy
from worker.outcomes import Outcomes
from worker.process.valkey import EmbeddedValkey


class SlowEngine(NullEngine):
    """Takes some time for each view, as a model does."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def score(self, pixels: Any, cut_offs: Sequence[float] = ()) -> list[NullScore]:
        """Clear, all of them."""
        time.sleep(self._seconds * len(pixels))
        return super().score(pixels, cut_offs)


async def _relay(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float, counts: Any
) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while data := await reader.read(2**20):
            if counts is not None:
                counts.value += 1
            loop.call_later(delay_s, writer.write, data)
    loop.call_later(delay_s, writer.close)


def _proxy(path: str, rtt_s: float, port: Any, counts: Any) -> None:
    """Pass on to a Unix socket, half of the round trip later each way; count requests."""

    async def serve() -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            inner_reader, inner_writer = await asyncio.open_unix_connection(path)
            await asyncio.gather(
                _relay(reader, inner_writer, rtt_s / 2, counts),
                _relay(inner_reader, writer, rtt_s / 2, None),
            )

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        port.value = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    asyncio.run(serve())


@contextlib.contextmanager
def far_away(path: str, rtt_s: float) -> Iterator[tuple[str, Any]]:
    """Address of a proxy in a process of its own, and the count of requests that it passed on."""
    port, counts = multiprocessing.Value("i", 0), multiprocessing.Value("i", 0)
    process = multiprocessing.Process(target=_proxy, args=(path, rtt_s, port, counts), daemon=True)
    process.start()
    while not port.value:
        time.sleep(0.01)
    yield f"redis://127.0.0.1:{port.value}/0", counts
    process.kill()


def measure(server: EmbeddedValkey, rtt_s: float, uploads: int, engine_s: float) -> dict[str, Any]:
    """Uploads that are due already, from the first claim to the last verdict."""
    with redis_client(server.url) as near:
        near.flushall()
        path = str(near.connection_pool.connection_kwargs["path"])
        avatars = [
            Avatar(upload_id=f"u{n}", state=AvatarState.QUEUED, seq=1, callback_url="none")
            for n in range(uploads)
        ]
        Store(near).submit_many(avatars, max_backlog=10**6)
    with far_away(path, rtt_s) as (url, counts), redis_client(url) as client:
        store = Store(client)
        drain = ModerateDrain(
            store=store,
            outcomes=Outcomes(store, Recorder()),
            fetch=lambda _, upload_id: upload_id.encode(),
            decoder=NullDecoder(),
            engine=SlowEngine(engine_s),
            policy=Policy().alone(),
            drawn_probability=lambda pixels: 0.0,
            has_reviewers=lambda region: False,
            recorder=Recorder(),
            knobs=BatchKnobs(
                batch_size=32, batch_wait_s=0.0, lease_s=30.0, fetch_threads=8, bundle_id="null"
            ),
        )
        before, started_s = counts.value, time.perf_counter()
        drain.drain(multiprocessing.Event())  # type: ignore[arg-type]
        seconds = time.perf_counter() - started_s
        drain.close()
        assert not any(store.waiting(Stage.MODERATE).values())
        return {
            "rtt_ms": round(rtt_s * 1e3),
            "verdicts_per_s": round(uploads / seconds, 1),
            "round_trips_per_verdict": round((counts.value - before) / uploads, 2),
        }


def measure_workers(
    server: EmbeddedValkey, rtt_s: float, uploads: int, moderate: int
) -> dict[str, Any]:
    """From the first enqueued upload to the last verdict, and to the last callback received."""
    secret = SecretStr("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slow-workers-")))
        receiver = stack.enter_context(Receiver(secret))
        near = stack.enter_context(redis_client(server.url))
        near.flushall()
        path = str(near.connection_pool.connection_kwargs["path"])
        url, counts = stack.enter_context(far_away(path, rtt_s))
        store = Store(near)
        images = folder / "images"
        images.mkdir()
        for number in range(uploads):
            picture = samples.landscape(number)
            (images / f"u{number}").write_bytes(samples.encode(picture, "JPEG"))
        for role in (*["moderate"] * moderate, "io"):
            stack.callback(_start_worker(role, folder, url, secret, receiver.url).kill)
        while len(store.workers()) < moderate + 1:
            time.sleep(0.1)
        before, started_s = counts.value, time.perf_counter()
        avatars = [
            Avatar(upload_id=f"u{n}", state=AvatarState.QUEUED, seq=1, callback_url=receiver.url)
            for n in range(uploads)
        ]
        store.submit_many(avatars, max_backlog=10**6)
        while store.open_counts()["queued"]:
            time.sleep(0.05)
        decided_s = time.perf_counter() - started_s
        while len({got.data["upload_id"] for got in receiver.received}) < uploads:
            time.sleep(0.05)
        told_s = time.perf_counter() - started_s
        return {
            "rtt_ms": round(rtt_s * 1e3),
            "verdicts_per_s": round(uploads / decided_s, 1),
            "callbacks_per_s": round(uploads / told_s, 1),
            "requests_per_upload": round((counts.value - before) / uploads, 2),
        }


def _start_worker(
    role: str, folder: Path, url: str, secret: SecretStr, callback: str
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "producer.cli", "worker", role],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
            "AVATARMOD_REDIS_URL": url,
            "AVATARMOD_DATA_FOLDER": str(folder),
            "AVATARMOD_LOG_LEVEL": "error",
            "AVATARMOD_CALLBACK_URL": callback,
            "AVATARMOD_CALLBACK_SECRETS": secret.get_secret_value(),
            "AVATARMOD_PRIVATE_NETWORKS": "127.0.0.0/8",
            "AVATARMOD_THREADS": "1",
            "AVATARMOD_MICRO_BATCH": "1",
        },
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rtt-ms", type=float, nargs="+", default=[0.0, 50.0, 100.0])
    parser.add_argument("--uploads", type=int, default=400)
    parser.add_argument("--engine-ms", type=float, default=0.0, help="what scoring a view takes")
    parser.add_argument("--workers", type=int, default=0, help="so many real ones, and callbacks")
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    options = parser.parse_args()
    quiet_logging()
    with tempfile.TemporaryDirectory(prefix="slow-redis-") as folder:
        server = EmbeddedValkey(Path(folder))
        server.start()
        try:
            rows = [
                measure_workers(server, rtt / 1e3, options.uploads, options.workers)
                if options.workers
                else measure(server, rtt / 1e3, options.uploads, options.engine_ms / 1e3)
                for rtt in options.rtt_ms
            ]
        finally:
            server.stop()
    if options.json:
        print(json.dumps(rows))
    else:
        for row in rows:
            print(", ".join(f"{name} {value}" for name, value in row.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
