"""What the queue costs: `python benchmarks/through_queue.py [--bundle FOLDER] [--quick] [--json]`.

Everything, Valkey included, is pinned to one core, as on the smallest machine that this is for.

- enqueue: one producer, one upload at a time and 100 in one round trip;
- consume: the moderate worker's loop (claim, read, judge, commit) with a decoder and an engine that
  cost nothing; together with enqueueing this is the overhead of the queue for one image;
- through the queue: the real engine and decoder; rounds of uploads through the whole loop and the
  same pictures through the engine alone take turns, so that a slow moment of the machine hits both;
- memory: what Valkey holds for each upload that is not decided yet, and how long it takes to come
  back with them after a kill (`--records`);
- callbacks: the real processes at one upload a second, from enqueue to the web tier's receipt, and
  the peak memory of each process.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
import base64
import contextlib
import dataclasses
import json
import os
import secrets
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from pydantic import SecretStr

from producer.client import Producer
from producer.connect import redis_client
from producer.contract import Stage, Upload
from producer.doorbell import Bells
from producer.images import Images
from producer.logs import quiet_logging
from producer.metrics import Recorder
from producer.record.store import Store
from producer.settings import load_settings
from worker.demo import pictures as samples
from worker.demo.webhook_receiver import Receiver
from worker.image.decoder import DecodeLimits, Decoder
from worker.image.views import ViewOptions
from worker.model.bundle import Bundle
from worker.model.engine import Engine
from worker.moderation.batch import BatchKnobs, ModerateDrain
from worker.moderation.policy import Policy
from worker.outcomes import Outcomes
from worker.process.supervisor import Supervisor
from worker.process.valkey import EmbeddedValkey
from worker.settings import WorkerSettings

#: What a healthy queue may cost, in milliseconds an image, and the least share of the engine's own
#: throughput that must come through it.
GOAL_OVERHEAD_MS, GOAL_SHARE = 3.0, 0.95

#: Uploads of one round trip of `enqueue_many`.
MANY = 100


@dataclasses.dataclass(frozen=True)
class NullScore:
    """A clear verdict."""

    raw_score: float = 0.01
    probability: float = 0.01


@dataclasses.dataclass(frozen=True)
class NullView:
    """One pixel."""

    pixels: Any = dataclasses.field(default_factory=lambda: np.zeros((1, 1, 3), np.uint8))
    frame: int = 0
    background: str = ""
    crop: str = "whole"


@dataclasses.dataclass(frozen=True)
class NullPicture:
    """A picture with one view of one pixel."""

    views: tuple[NullView, ...] = (NullView(),)
    flat: str | None = None
    is_small: bool = False
    unseen: str = ""


class NullDecoder:
    """Costs nothing."""

    def decode(self, data: bytes, *, patient: bool = False, prints: bool = False) -> NullPicture:
        """Whatever the bytes are."""
        return NullPicture()


class NullEngine:
    """Costs nothing."""

    micro_batch = 8

    def score(self, pixels: Any, cut_offs: Sequence[float] = ()) -> list[NullScore]:
        """Clear, all of them."""
        return [NullScore() for _ in pixels]


class TimedEngine:
    """The real engine, with the processor seconds that its calls took."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.micro_batch = engine.micro_batch
        self.cpu_s = 0.0

    def score(self, pixels: Any, cut_offs: Sequence[float] = ()) -> Sequence[Any]:
        """As the engine does; it runs in the calling thread."""
        started_s = time.thread_time()
        scores = self._engine.score(pixels, cut_offs)
        self.cpu_s += time.thread_time() - started_s
        return scores


def main() -> int:
    options = _options()
    quiet_logging()
    core = options.core if options.core is not None else max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    report: dict[str, Any] = {"core": core, "bundle": options.bundle}
    with tempfile.TemporaryDirectory(prefix="through-queue-") as folder:
        with _server(Path(folder) / "bare") as server:
            bare = Bench(server, Path(folder))
            count = 1_000 if options.quick else 5_000
            report |= bare.enqueue_rates(count)
            report |= bare.consume_rate(count)
            report["overhead_ms_per_image"] = round(
                1e3 / report["enqueue_many_per_s"] + 1e3 / report["consume_per_s"], 3
            )
            report["overhead_cpu_ms_per_image"] = round(
                report["enqueue_many_cpu_ms"] + report["consume_cpu_ms"], 3
            )
            if not options.no_engine:
                report |= bare.share_of_engine(
                    options, options.seconds or (12.0 if options.quick else 120.0)
                )
        if options.records:
            with _server(Path(folder) / "full") as server:
                report |= Bench(server, Path(folder)).memory(server, options.records)
        if not options.no_latency:
            report |= latency(Path(folder) / "stack", options, 6 if options.quick else 60)
    if options.json:
        print(json.dumps(report))
    else:
        _print(report)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="open-nsfw", help="name or folder; random weights do")
    parser.add_argument(
        "--models-folder", type=Path, default=load_settings(WorkerSettings).models_folder
    )
    parser.add_argument("--seconds", type=float, help="of rounds with the engine (default: 120)")
    parser.add_argument("--round", type=int, default=0, help="uploads of one round (default: 32)")
    parser.add_argument("--core", type=int, help="core to pin to (default: the last allowed)")
    parser.add_argument("--records", type=int, default=0, help="fill Valkey with so many uploads")
    parser.add_argument("--no-engine", action="store_true", help="leave the real engine out")
    parser.add_argument("--no-latency", action="store_true", help="leave the real processes out")
    parser.add_argument("--quick", action="store_true", help="finish within 50 seconds")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


class Bench:
    """A producer and a moderating loop in this process, on a Valkey of their own."""

    def __init__(self, server: EmbeddedValkey, folder: Path, callback_url: str = "") -> None:
        self._server = server
        self._settings = load_settings(
            WorkerSettings,
            redis_url=server.url,
            data_folder=folder,
            max_backlog=1_000_000,
            callback_url=callback_url,
        )
        self._store = Store(redis_client(server.url), self._settings.namespace)
        bells = Bells.connect(self._store, self._settings)
        self._producer = Producer(self._store, bells, self._settings)
        self._images = Images(self._settings)
        self._stop = threading.Event()
        self._number = 0

    def enqueue_rates(self, count: int) -> dict[str, float]:
        """Uploads a second: one at a time, many at a time, and both with fsync once a second."""
        found: dict[str, float] = {}
        for suffix, policy in (("_everysec", "everysec"), ("", "always")):
            self._store.redis.config_set("appendfsync", policy)
            ids = self._ids(count)
            found |= self._rate(f"enqueue{suffix}", count, partial(self._one_by_one, ids))
            ids = self._ids(count)
            found |= self._rate(f"enqueue_many{suffix}", count, partial(self._enqueue, ids))
        return found

    def consume_rate(self, count: int) -> dict[str, float]:
        """Verdicts a second of the loop when decoding and scoring cost nothing."""
        drain = self._drain(NullDecoder(), NullEngine(), lambda _, upload_id: upload_id.encode())
        # What the enqueueing left is consumed first, unmeasured.
        drain.drain(self._stop)
        found: dict[str, float] = {}
        for suffix, policy in (("_everysec", "everysec"), ("", "always")):
            self._store.redis.config_set("appendfsync", policy)
            self._enqueue(self._ids(count))
            found |= self._rate(f"consume{suffix}", count, lambda: drain.drain(self._stop))
        drain.close()
        left = self._store.waiting(Stage.MODERATE)
        assert not any(left.values()), left
        return found

    def _rate(self, name: str, count: int, work: Callable[[], object]) -> dict[str, float]:
        """`<name>_per_s` by the clock, `<name>_cpu_ms` an upload of this process and Valkey."""
        pids = [os.getpid(), self._server.pid]
        cpu_s, started_s = _cpu_s(pids), time.perf_counter()
        work()
        seconds = time.perf_counter() - started_s
        return {
            f"{name}_per_s": round(count / seconds),
            f"{name}_cpu_ms": round((_cpu_s(pids) - cpu_s) / count * 1e3, 3),
        }

    def _one_by_one(self, ids: list[str]) -> None:
        for upload_id in ids:
            self._producer.enqueue(upload_id)

    def share_of_engine(self, options: argparse.Namespace, seconds: float) -> dict[str, Any]:
        """Rounds through the queue and through the engine alone, in turns on the same core."""
        size = options.round or (8 if options.quick else 32)
        engine = Engine(Bundle.load(options.bundle, options.models_folder), threads=1)
        spec = engine.bundle.input
        limits = DecodeLimits(**self._settings.decode_limits())  # type: ignore[arg-type]
        decoder = Decoder(limits, ViewOptions(spec=spec, flat_rule=False))
        timed = TimedEngine(engine)
        drain = self._drain(decoder, timed, self._images.fetch, engine.bundle.id)
        cut_offs = Policy().boundaries()
        wall: dict[str, list[float]] = {"engine": [], "decode": [], "queue": []}
        cpu: dict[str, list[float]] = {"engine": [], "decode": [], "queue": []}

        spoilt: list[str] = []

        def measure(name: str, work: Callable[[], object]) -> None:
            children = decoder.child_pids()
            pids = [os.getpid(), self._server.pid, *children]
            cpu_s, started_s = _cpu_s(pids), time.perf_counter()
            work()
            if decoder.child_pids() != children:
                # The decoder replaced its process, as it does now and then: whose time is not told.
                spoilt.append(name)
                cpu_s, pids = 0.0, []
            wall[name].append((time.perf_counter() - started_s) / size)
            cpu[name].append((_cpu_s(pids) - cpu_s) / size)

        deadline_s = time.perf_counter() + seconds
        while time.perf_counter() < deadline_s or len(wall["queue"]) < 3:
            engine_cpu_s = timed.cpu_s
            ids = self._ids(size)
            files = [_picture(self._number + n) for n in range(len(ids))]
            for upload_id, data in zip(ids, files, strict=True):
                self._images.put(upload_id, data)
            decoded: list[Any] = []
            measure("decode", lambda f=files, d=decoded: d.extend(map(decoder.decode, f)))  # type: ignore[misc]
            views = [p.views[0].pixels for p in decoded]

            def alone(rows: list[Any] = views, step: int = engine.micro_batch) -> None:
                for start in range(0, len(rows), step):
                    engine.score(np.stack(rows[start : start + step]), cut_offs)

            measure("engine", alone)

            def through(ids: list[str] = ids) -> None:
                self._enqueue(ids)
                assert drain.drain(self._stop) == len(ids)

            measure("queue", through)
            assert all(a and a.decided_by == "model" for a in self._store.get_many(ids))
            if spoilt:
                spoilt.clear()
                for rounds in (*wall.values(), *cpu.values()):
                    rounds.pop()
                timed.cpu_s = engine_cpu_s
        drain.close()
        decoder.close()
        inside_s = timed.cpu_s / len(wall["queue"]) / size
        return {
            **_shares(engine, wall, cpu),
            "engine_in_queue_cpu_ms": round(inside_s * 1e3, 2),
            "rest_of_queue_cpu_ms": round(
                (statistics.mean(cpu["queue"]) - statistics.mean(cpu["decode"]) - inside_s) * 1e3, 2
            ),
        }

    def memory(self, server: EmbeddedValkey, count: int) -> dict[str, float]:
        """Bytes an undecided upload with an image URL, with and without its event."""
        client = self._store.redis
        client.config_set("appendfsync", "everysec")
        before = int(client.info("memory")["used_memory"])
        ids = [f"user-{number:08d}@2026-11-22T10:00:00Z" for number in range(count)]
        for start in range(0, count, MANY):
            url = "https://images.example.org/avatars/original/"
            self._producer.enqueue_many(
                [Upload(one, f"{url}{one}.jpg") for one in ids[start : start + MANY]]
            )
        full = int(client.info("memory")["used_memory"]) - before
        events = int(client.memory_usage(self._store.key("events"), samples=0) or 0)
        assert server.pid is not None
        server_mb, started_s = _peak_mb(server.pid), time.perf_counter()
        os.kill(server.pid, signal.SIGKILL)
        while server.is_running():
            time.sleep(0.01)
        server.start()
        return {
            "records": count,
            "bytes_per_record_and_event": round(full / count),
            "bytes_per_record": round((full - events) / count),
            "server_peak_rss_mb": server_mb,
            "back_after_kill_s": round(time.perf_counter() - started_s, 1),
        }

    def _ids(self, count: int) -> list[str]:
        start, self._number = self._number, self._number + count
        return [f"bench-{number:08d}" for number in range(start, start + count)]

    def _enqueue(self, ids: list[str]) -> None:
        for start in range(0, len(ids), MANY):
            self._producer.enqueue_many([Upload(one) for one in ids[start : start + MANY]])

    def _drain(
        self, decoder: Any, engine: Any, fetch: Callable[[str, str], bytes], bundle_id: str = "null"
    ) -> ModerateDrain:
        settings = self._settings
        return ModerateDrain(
            store=self._store,
            outcomes=Outcomes(self._store, Recorder()),
            fetch=fetch,
            decoder=decoder,
            engine=engine,
            policy=Policy(),
            drawn_probability=lambda _: 0.0,
            has_reviewers=lambda _: False,
            recorder=Recorder(),
            knobs=BatchKnobs(
                batch_size=settings.batch_size,
                batch_wait_s=0.0,
                lease_s=settings.lease_s,
                fetch_threads=settings.fetch_threads,
                bundle_id=bundle_id,
            ),
        )


def _picture(seed: int) -> bytes:
    """A drawn landscape of its own, 256 pixels wide: an avatar as it is uploaded."""
    image = samples.landscape(seed).resize((256, 256))
    return samples.encode(image, "JPEG", quality=85)


def _shares(
    engine: Engine, wall: dict[str, list[float]], cpu: dict[str, list[float]]
) -> dict[str, Any]:
    def ms(times: list[float]) -> float:
        return round(statistics.median(times) * 1e3, 2)

    per_round = list(zip(wall["engine"], wall["queue"], wall["decode"], strict=True))
    cpu_round = list(zip(cpu["engine"], cpu["queue"], cpu["decode"], strict=True))
    return {
        "engine_bundle": engine.bundle.id,
        "micro_batch": engine.micro_batch,
        "rounds": len(per_round),
        "engine_ms": ms(wall["engine"]),
        "decode_ms": ms(wall["decode"]),
        "queue_ms": ms(wall["queue"]),
        "engine_cpu_ms": ms(cpu["engine"]),
        "decode_cpu_ms": ms(cpu["decode"]),
        "queue_cpu_ms": ms(cpu["queue"]),
        "share_of_engine": round(statistics.median(e / q for e, q, _ in per_round), 3),
        "share_of_engine_and_decoding": round(
            statistics.median((e + d) / q for e, q, d in per_round), 3
        ),
        "cpu_share_of_engine": round(statistics.median(e / q for e, q, _ in cpu_round), 3),
        "cpu_share_of_engine_and_decoding": round(
            statistics.median((e + d) / q for e, q, d in cpu_round), 3
        ),
    }


def _cpu_s(pids: Sequence[int | None]) -> float:
    """Processor seconds that these processes have used so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def latency(folder: Path, options: argparse.Namespace, count: int) -> dict[str, Any]:
    """Seconds from enqueue to receipt at one upload a second, and each process's peak memory."""
    secret = SecretStr("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())
    with Receiver(secret) as receiver:
        os.environ.update(
            {
                "AVATARMOD_DATA_FOLDER": str(folder),
                "AVATARMOD_BUNDLE": str(options.bundle),
                "AVATARMOD_MODELS_FOLDER": str(options.models_folder),
                "AVATARMOD_ALLOW_RANDOM_WEIGHTS": "true",
                "AVATARMOD_THREADS": "1",
                "AVATARMOD_LOG_LEVEL": "error",
                "AVATARMOD_CALLBACK_URL": receiver.url,
                "AVATARMOD_CALLBACK_SECRETS": secret.get_secret_value(),
                "AVATARMOD_PRIVATE_NETWORKS": "127.0.0.0/8",
                "AVATARMOD_API_PORT": "0",
            }
        )
        settings = load_settings(WorkerSettings)
        with Supervisor(settings) as supervisor:
            producer, images = Producer.connect(settings), Images(settings)
            times = [_told_after_s(producer, images, receiver, n) for n in range(count + 1)][1:]
            memory = {name: _peak_mb(pid) for name, pid in _family(supervisor.pids()).items()}
            producer.store.close()
    return {
        "latency_uploads": count,
        "latency_median_s": round(statistics.median(times), 3),
        "latency_worst_s": round(max(times), 3),
        "peak_rss_mb": memory,
    }


def _told_after_s(producer: Producer, images: Images, receiver: Receiver, number: int) -> float:
    """One upload, then the rest of its second."""
    upload_id = f"latency-{number}"
    images.put(upload_id, _picture(number))
    started_s = time.perf_counter()
    producer.enqueue(upload_id)
    while not any(r.data["upload_id"] == upload_id for r in receiver.received[-3:]):
        if time.perf_counter() - started_s > 30:
            raise SystemExit(f"{upload_id} was not told within 30 s")
        time.sleep(0.001)
    told_s = time.perf_counter() - started_s
    time.sleep(max(0.0, 1.0 - told_s))
    return told_s


def _family(pids: dict[str, int]) -> dict[str, int]:
    """These processes and their children (the ones that decode), by name."""
    # What workers are copied from is theirs already.
    pids = {name: pid for name, pid in pids.items() if name != "template"}
    found = dict(pids)
    for name, pid in pids.items():
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found[f"{name}'s decoder"] = int(child)
    return found


def _peak_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    kb = next(line.split()[1] for line in text.splitlines() if line.startswith("VmHWM:"))
    return round(int(kb) / 1024, 1)


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("measure", "value", "goal"):
        table.add_column(name, justify="left" if name == "measure" else "right")
    goals = {
        "overhead_ms_per_image": f"<= {GOAL_OVERHEAD_MS:g}",
        "overhead_cpu_ms_per_image": f"<= {GOAL_OVERHEAD_MS:g}",
        "share_of_engine": f">= {GOAL_SHARE:g}",
    }
    for name, value in report.items():
        if isinstance(value, dict):
            for part, number in value.items():
                table.add_row(f"{name}: {part}", str(number), "")
        else:
            table.add_row(name, str(value), goals.get(name, ""))
    Console().print(table)


if __name__ == "__main__":
    raise SystemExit(main())
