"""What growing gives and costs: `python benchmarks/scale_out.py [--quick] [--json]`.

- steps: processor time of Valkey's single thread, commands and bytes for each step of an upload:
  enqueue, moderate (with an engine that costs nothing), callback, ledger; callbacks a second of one
  io worker and rows a second into the ledger;
- queue: 1 to 4 processes of the moderating loop with that engine, and producers beside them: how
  near Valkey's thread comes to its limit;
- model: one and two real moderate workers with the default bundle, each pinned to a core.

Costs are processor time, which other work on the machine hardly moves; rates are by the clock, and
all processes of a part share the allowed cores. `benchmarks/capacity.py --costs FILE` reads what
`--json` prints.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import base64
import http.server
import json
import os
import secrets
import signal
import subprocess
import tempfile
import threading
import time
import types
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.box import descendants
from benchmarks.through_queue import MANY, Bench, NullDecoder, NullEngine, _picture
from producer.client import Producer
from producer.connect import redis_client
from producer.contract import Stage, Upload
from producer.doorbell import Bells
from producer.images import Images
from producer.logs import quiet_logging
from producer.metrics import Recorder
from producer.networks import parse_networks
from producer.record.endpoints import Endpoints
from producer.record.store import Store
from producer.settings import load_settings
from worker.callback import CallbackSender, CallbackStep, callback_rooms
from worker.consumer import LineDrain
from worker.ledger.writer import Ledger
from worker.outcomes import Outcomes
from worker.process.valkey import EmbeddedValkey
from worker.settings import WorkerSettings

#: Seconds that the web tier of the callbacks takes to answer.
WEB_TIER_S = 0.02

#: Uploads that producers keep waiting for the consumers.
BACKLOG = 2_000

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    options = _options()
    quiet_logging()
    if options.role:
        return ROLES[options.role](options)
    report: dict[str, Any] = {"cores": sorted(os.sched_getaffinity(0)), "bundle": "open-nsfw"}
    with tempfile.TemporaryDirectory(prefix="scale-out-") as name:
        folder = Path(name)
        with Site(folder / "steps") as site:
            report["steps"] = steps(site, folder, 400 if options.quick else 2_000, options)
        with Site(folder / "queue") as site:
            report["queue"] = queue(site, 2.0 if options.quick else 8.0, options.quick)
        if not options.no_model:
            with Site(folder / "model") as site:
                report["model"] = model(site, folder / "model", 60 if options.quick else 300)
    if options.json:
        print(json.dumps(report))
    else:
        _print(report)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="finish within 50 seconds")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--no-model", action="store_true", help="leave the real workers out")
    parser.add_argument("--postgresql", default="", help="URL of an empty database to drain into")
    parser.add_argument("--role", choices=ROLES, help=argparse.SUPPRESS)
    parser.add_argument("--redis", default="", help=argparse.SUPPRESS)
    parser.add_argument("--prefix", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


class Site:
    """A Valkey, and the processor time, commands and bytes that it has used."""

    def __init__(self, folder: Path) -> None:
        self._server = EmbeddedValkey(folder / "valkey")

    def __enter__(self) -> Site:
        self._server.start()
        self.url = self._server.url
        self.redis = redis_client(self.url)
        self.store = Store(self.redis)
        return self

    def __exit__(self, *_: object) -> None:
        self.redis.close()
        self._server.stop()

    @property
    def pid(self) -> int:
        """Process id of Valkey."""
        assert self._server.pid is not None
        return self._server.pid

    def used(self) -> dict[str, float]:
        """So far: seconds of its main thread, commands with those of scripts, bytes both ways."""
        stats: Any = self.redis.info("stats")
        calls: Any = self.redis.info("commandstats")
        main = Path(f"/proc/{self.pid}/task/{self.pid}/schedstat").read_text().split()[0]
        return {
            "valkey_s": int(main) / 1e9,
            "commands": sum(entry["calls"] for entry in calls.values()),
            "bytes_in": stats["total_net_input_bytes"],
            "bytes_out": stats["total_net_output_bytes"],
        }

    def decided(self) -> int:
        """Transitions since the beginning."""
        counts: Any = self.redis.hgetall(self.store.key("counts"))
        return sum(int(n) for state, n in counts.items() if not state.startswith("last_"))


def steps(site: Site, folder: Path, count: int, options: argparse.Namespace) -> dict[str, Any]:
    """Cost of each step for one upload: `valkey_ms`, `client_ms`, commands, bytes, rate."""
    found: dict[str, Any] = {}
    web_tier = _spawn("web-tier", site, pipe=True)
    assert web_tier.stdout is not None
    callback_url = web_tier.stdout.readline().decode().strip()
    bench = Bench(types.SimpleNamespace(url=site.url, pid=site.pid), folder, callback_url)  # type: ignore[arg-type]
    drain = bench._drain(NullDecoder(), NullEngine(), lambda _, upload_id: upload_id.encode())
    stop = threading.Event()

    def measure(name: str, number: int, work: Callable[[], object]) -> None:
        before, cpu_s, started_s = site.used(), time.process_time(), time.perf_counter()
        work()
        seconds, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
        used = {key: value - before[key] for key, value in site.used().items()}
        print(f"{name}: {number} in {seconds:.1f} s", file=sys.stderr)
        found[name] = {
            "valkey_ms": round(used["valkey_s"] / number * 1e3, 4),
            "client_ms": round(cpu_s / number * 1e3, 4),
            "commands": round(used["commands"] / number, 1),
            "bytes_in": round(used["bytes_in"] / number),
            "bytes_out": round(used["bytes_out"] / number),
            "per_s": round(number / seconds),
        }

    ids = bench._ids(count)
    bench._enqueue(ids[:MANY])
    drain.drain(stop)  # Scripts are loaded, connections made.
    single = bench._ids(count // 4)
    measure("enqueue", len(single), lambda: bench._one_by_one(single))
    measure("enqueue_many", count - MANY, lambda: bench._enqueue(ids[MANY:]))
    total = count - MANY + len(single)
    measure("moderate", total, lambda: drain.drain(stop))
    drain.close()
    send = callbacks(site, folder)
    measure("callback", total + MANY, lambda: send(stop))
    found["callback"]["web_tier_s"] = WEB_TIER_S
    web_tier.terminate()
    web_tier.wait()
    events: Any = site.redis.xrange(site.store.key("events"))
    found["events"] = round(len(events) / (total + MANY), 2)
    databases = {"sqlite": f"sqlite:///{folder / 'ledger.sqlite3'}"}
    if options.postgresql:
        databases["postgresql"] = options.postgresql
    for kind, url in databases.items():
        site.redis.delete(site.store.key("events"))
        for stream_id, fields in events:
            site.redis.xadd(site.store.key("events"), fields, id=stream_id)
        ledger = Ledger.open(load_settings(WorkerSettings, ledger_url=url, data_folder=folder))
        measure(f"ledger_{kind}", len(events), partial(_drain_all, ledger, site.store))
        ledger.close()
    return found


def _drain_all(ledger: Ledger, store: Store) -> None:
    while ledger.drain(store):
        continue


def callbacks(site: Site, folder: Path) -> Callable[[threading.Event], int]:
    """What an io worker does for callbacks, with its default threads; ends when none is left."""
    settings = load_settings(WorkerSettings, data_folder=folder)
    endpoints = Endpoints(site.store, disable_after_s=settings.callback_disable_after_s)
    step = CallbackStep(
        store=site.store,
        sender=CallbackSender(
            load_settings(WorkerSettings, callback_secrets=_secret()).callback_secrets,
            allowed=parse_networks(("127.0.0.0/8",)),
            timeout_s=settings.callback_timeout_s,
        ),
        outcomes=Outcomes(site.store, Recorder()),
        endpoints=endpoints,
        schedule_s=settings.callback_schedule_s,
        stop=threading.Event(),
        recorder=Recorder(),
    )
    return LineDrain(
        store=site.store,
        lines=lambda: callback_rooms(endpoints.due(), settings.callback_concurrency),
        handle=step.handle,
        threads=settings.callback_threads,
        lease_s=settings.lease_s,
    ).drain


def _secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


#: fsync policy, producers and consumers of each run; the quick ones first.
QUEUE_RUNS = (
    ("everysec", 1, 1),
    ("everysec", 2, 4),
    ("everysec", 1, 2),
    ("everysec", 2, 3),
    ("always", 2, 4),
)


def queue(site: Site, seconds: float, quick: bool) -> list[dict[str, Any]]:
    """The moderating loop in several processes, producers beside them, for some seconds each."""
    found = []
    for fsync, producers, consumers in QUEUE_RUNS[:2] if quick else QUEUE_RUNS:
        site.redis.flushall()
        site.redis.config_set("appendfsync", fsync)
        load = [_spawn("produce", site, prefix=f"p{n}") for n in range(producers)]
        work = [_spawn("consume", site) for _ in range(consumers)]
        while site.decided() < 200:
            time.sleep(0.05)
        pids = [process.pid for process in (*load, *work)]
        before, cpu_s, decided = site.used(), _cpu_s(pids), site.decided()
        started_s = time.perf_counter()
        time.sleep(seconds)
        used = {key: value - before[key] for key, value in site.used().items()}
        cpu_s, decided = _cpu_s(pids) - cpu_s, site.decided() - decided
        wall_s = time.perf_counter() - started_s
        for process in (*load, *work):
            process.kill()
            process.wait()
        print(f"{consumers} consumers: {decided} in {wall_s:.1f} s", file=sys.stderr)
        found.append(
            {
                "appendfsync": fsync,
                "producers": producers,
                "consumers": consumers,
                "uploads_per_s": round(decided / wall_s),
                "valkey_thread_share": round(used["valkey_s"] / wall_s, 3),
                "valkey_ms": round(used["valkey_s"] / decided * 1e3, 4),
                "clients_ms": round(cpu_s / decided * 1e3, 3),
            }
        )
    return found


def model(site: Site, folder: Path, count: int) -> dict[str, Any]:
    """Uploads a second of one and of two real workers, pinned; Valkey is on the last core."""
    cores = sorted(os.sched_getaffinity(0))
    found: dict[str, Any] = {"uploads": count}
    settings = load_settings(WorkerSettings, redis_url=site.url, data_folder=folder)
    images = Images(settings)
    producer = Producer(site.store, Bells.connect(site.store, settings), settings)
    os.sched_setaffinity(site.pid, {cores[-1]})
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for number, core in enumerate(cores[:2], 1):
            workers.append(_start_worker(site, folder, core))
            _wait(
                lambda n=number: len(site.store.workers()) >= n,  # type: ignore[misc]
                "the worker is ready",
            )
            found[str(number)] = _through(site, producer, images, workers, count * number, number)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()
    if "2" in found:
        found["ratio"] = round(found["2"]["uploads_per_s"] / found["1"]["uploads_per_s"], 2)
        found["ratio_by_cpu"] = round(2 * found["1"]["worker_ms"] / found["2"]["worker_ms"], 2)
    return found


def _start_worker(site: Site, folder: Path, core: int) -> subprocess.Popen[bytes]:
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith("AVATARMOD_")},
        "AVATARMOD_REDIS_URL": site.url,
        "AVATARMOD_DATA_FOLDER": str(folder),
        "AVATARMOD_THREADS": "1",
        "AVATARMOD_LOG_LEVEL": "error",
        "MALLOC_ARENA_MAX": "2",
    }
    command = ["taskset", "-c", str(core), sys.executable, "-m", "producer.cli", "worker"]
    return subprocess.Popen([*command, "moderate"], cwd=ROOT, env=env)


def _through(
    site: Site,
    producer: Producer,
    images: Images,
    workers: Sequence[subprocess.Popen[bytes]],
    count: int,
    seed: int,
) -> dict[str, Any]:
    """A burst; the rate is taken between the first and the last tenth of the verdicts."""
    ids = [f"model-{seed}-{number:05d}" for number in range(count)]
    for number, upload_id in enumerate(ids):
        images.put(upload_id, _picture(seed * 100_000 + number))
    site.redis.delete(site.store.key("events"))
    before, cpu_s = site.used(), _cpu_s([w.pid for w in workers])
    for start in range(0, count, MANY):
        producer.enqueue_many([Upload(one) for one in ids[start : start + MANY]])
    _wait(lambda: site.store.open_counts()["queued"] == 0, "all are decided")
    cpu_s = _cpu_s([worker.pid for worker in workers]) - cpu_s
    valkey_s = site.used()["valkey_s"] - before["valkey_s"]
    events: Any = site.redis.xrange(site.store.key("events"))
    done = [fields for _, fields in events if fields.get("from")]
    at_s = np.sort([float(fields["at"]) for fields in done])
    ages_s = [float(fields["at"]) - float(fields["created_at"]) for fields in done]
    low, high = count // 10, count - count // 10 - 1
    seconds = float(at_s[-1] - min(float(fields["created_at"]) for fields in done))
    return {
        "uploads": count,
        "uploads_per_s": round((high - low) / (at_s[high] - at_s[low]), 2),
        "seconds": round(seconds, 2),
        # How much of their cores the workers got; less than 1 where others work there too.
        "core_share": round(cpu_s / seconds / len(workers), 3),
        "age_p50_s": round(float(np.percentile(ages_s, 50)), 2),
        "age_p99_s": round(float(np.percentile(ages_s, 99)), 2),
        "worker_ms": round(cpu_s / count * 1e3, 2),
        "valkey_ms": round(valkey_s / count * 1e3, 3),
    }


def _wait(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + 300
    while not condition():
        if time.monotonic() > deadline_s:
            raise SystemExit(f"{what}: not within 300 s")
        time.sleep(0.05)


def _cpu_s(pids: Sequence[int]) -> float:
    """Processor seconds of processes and what they started, whatever has ended included."""
    ticks = 0
    for root in pids:
        for pid in descendants(root):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


# -- roles: this file again, as a process of its own -------------------------------------------


def _spawn(
    role: str, site: Site, prefix: str = "", *, pipe: bool = False
) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--role", role, "--redis", site.url, "--prefix", prefix]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE if pipe else None)


def _consume(options: argparse.Namespace) -> int:
    server = types.SimpleNamespace(url=options.redis, pid=None)
    bench = Bench(server, Path("/nonexistent"))  # type: ignore[arg-type]
    drain = bench._drain(NullDecoder(), NullEngine(), lambda _, upload_id: upload_id.encode())
    stop = threading.Event()
    while True:
        if not drain.drain(stop):
            time.sleep(0.005)


def _produce(options: argparse.Namespace) -> int:
    settings = load_settings(WorkerSettings, redis_url=options.redis, max_backlog=1_000_000)
    store = Store(redis_client(options.redis))
    producer = Producer(store, Bells.connect(store, settings), settings)
    number = 0
    while True:
        if store.waiting(Stage.MODERATE)["waiting"] > BACKLOG:
            time.sleep(0.01)
            continue
        ids = [f"{options.prefix}-{number + n}" for n in range(MANY)]
        number += MANY
        producer.enqueue_many([Upload(one) for one in ids])


def _web_tier(_: argparse.Namespace) -> int:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            time.sleep(WEB_TIER_S)
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Stay silent."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}/verdict", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server.serve_forever()
    return 0


ROLES: dict[str, Callable[[argparse.Namespace], int]] = {
    "consume": _consume,
    "produce": _produce,
    "web-tier": _web_tier,
}


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    rows = [
        ("for one upload", [{"step": k, **v} for k, v in report["steps"].items() if k != "events"]),
        ("moderating loop, an engine that costs nothing", report["queue"]),
        (
            f"real workers, {report['bundle']}",
            [{"workers": n, **v} for n, v in report.get("model", {}).items() if n in ("1", "2")],
        ),
    ]
    for title, lines in rows:
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        names = list(dict.fromkeys(name for line in lines for name in line))
        for name in names:
            table.add_column(name, justify="right")
        for line in lines:
            table.add_row(*(str(line.get(name, "")) for name in names))
        console.print(table, "")


if __name__ == "__main__":
    raise SystemExit(main())
