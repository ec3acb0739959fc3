"""The whole stack on one core and 2 GB: does it fit, how fast is it, does it stay flat?

Starts `avatarmod up` (Valkey, moderate, io, API with console) pinned to one core, with memory held,
on a bundle of the recommended model's true architecture with random weights; speed and memory do
not depend on the values, so its verdicts mean nothing. With `--bundle open-nsfw --models-folder F`
it is the default pair of models, if F has the second. The load and the web tier that receives the
callbacks run outside of the box. Four parts, one after the other:

- steady: one upload a second, by HTTP; gives `p50_s` and `p99_s`, from before the request until the
  callback has arrived;
- burst: so many uploads at once; gives `seconds` and `images_per_second`, from the first enqueue
  until the last callback;
- day: 24 hours' rates, each hour compressed to seconds, by HTTP, while somebody reads the console;
- worst: pictures at the limits of pixels, frames and bytes, all at once.

Run: .venv/bin/python benchmarks/small_box.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import platformdirs
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.box import Box, MemoryWatch, cpu_seconds
from benchmarks.box_pictures import Pictures, worst_pictures
from producer.client import Producer
from producer.connect import connect_store
from producer.contract import Upload
from producer.errors import ModerationError
from producer.images import Images
from producer.logs import quiet_logging
from producer.settings import Settings, load_settings
from worker.demo.webhook_receiver import Receiver
from worker.settings import WorkerSettings

ROOT = Path(__file__).resolve().parents[1]

#: Uploads a second of an avatar service's day, hour by hour; the mean is 1.
DAY = [0.4, 0.2, 0.1, 0.1, 0.1, 0.2, 0.4, 0.7, 1.0, 1.2, 1.3, 1.4]
DAY += [1.6, 1.4, 1.2, 1.1, 1.1, 1.2, 1.4, 1.8, 2.2, 1.9, 1.3, 0.7]

#: Seconds for the stack to load, and for any part of the load to be decided.
START_TIMEOUT_S, QUIET_TIMEOUT_S = 180.0, 3600.0


def main() -> int:
    quiet_logging()
    options = _options()
    console = Console(stderr=True)
    models = options.models_folder or make_bundle(options.cache, console)
    secret = SecretStr("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())
    cores = sorted(os.sched_getaffinity(0))
    with (
        tempfile.TemporaryDirectory(prefix="small-box-") as folder,
        TimedReceiver(secret) as receiver,
        Box(options.memory_mb * 2**20, cores[-1]) as box,
        (Path(folder) / "up.log").open("wb") as log,
    ):
        # The load must not slow down what it measures.
        os.sched_setaffinity(0, set(cores[:-1]) or set(cores))
        env = {
            **environment(folder, models, receiver.url, secret),
            "AVATARMOD_BUNDLE": options.bundle,
            "AVATARMOD_DECODE_MEMORY_BYTES": str(options.decode_memory_mb * 2**20),
        }
        console.print(f"core {cores[-1]}; {options.memory_mb} MB held by {box.how}")
        process = box.start([sys.executable, "-m", "producer.cli", "up"], env, log)
        try:
            with MemoryWatch(process.pid) as watch:
                base_url = wait_until_ready(process, Path(folder))
                load = Load(Path(folder), base_url, receiver)
                result = run(load, watch, options, console)
        except (RuntimeError, TimeoutError, httpx.HTTPError, ModerationError) as error:
            log_end = (Path(folder) / "up.log").read_text(errors="replace")[-3000:]
            console.print(f"[red]{error}[/]\n{log_end}", markup=True, highlight=False)
            return 1
        died = _report(console, result, box, watch)
    if options.json:
        print(json.dumps(result))
    return 1 if died else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small parts; finishes in a minute")
    parser.add_argument("--uploads", type=int, help="size of the burst (5000; quick: 50)")
    parser.add_argument("--worst", type=int, help="pictures at the limits (32; quick: 3)")
    parser.add_argument("--bundle", default="box", help="in the folder; box: random weights")
    parser.add_argument("--models-folder", type=Path, help="where bundles of your own lie")
    parser.add_argument("--memory-mb", type=int, default=2048, help="memory of the box")
    parser.add_argument(
        "--decode-memory-mb",
        type=int,
        default=WorkerSettings.model_fields["decode_memory_bytes"].default // 2**20,
        help="what decoding one picture may take (default: the setting's own)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--cache",
        type=Path,
        default=platformdirs.user_cache_path("avatarmod") / "benchmarks",
        help="where the bundle is kept between runs",
    )
    options = parser.parse_args()
    options.uploads = options.uploads or (50 if options.quick else 5000)
    options.worst = options.worst or (3 if options.quick else 32)
    return options


def make_bundle(cache: Path, console: Console) -> Path:
    """The models folder with a bundle named `box`; made once, in a process of its own."""
    models = cache / "models"
    if not (models / "box" / "model.json").exists():
        console.print(f"making a bundle of random weights in {models} (once)")
        models.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "scripts/export_onnx.py", "--random-weights"]
        command += ["--models-folder", str(models), "--out", str(models / "box"), "--force"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return models


def environment(folder: str, models: Path, callback: str, secret: SecretStr) -> dict[str, str]:
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith("AVATARMOD_")},
        "PYTHONPATH": str(ROOT),
        "AVATARMOD_DATA_FOLDER": folder,
        "AVATARMOD_MODELS_FOLDER": str(models),
        "AVATARMOD_BUNDLE": "box",
        "AVATARMOD_ALLOW_RANDOM_WEIGHTS": "true",
        "AVATARMOD_LOG_LEVEL": "warning",
        "AVATARMOD_CALLBACK_URL": callback,
        "AVATARMOD_CALLBACK_SECRETS": secret.get_secret_value(),
        "AVATARMOD_PRIVATE_NETWORKS": "127.0.0.0/8",
        "AVATARMOD_API_PORT": str(_free_port()),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(process: subprocess.Popen[bytes], folder: Path) -> str:
    """The API's address."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise RuntimeError(f"avatarmod up ended with code {process.returncode}")
        if "Ready." in (folder / "up.log").read_text(errors="replace"):
            workers = connect_store(load_settings(Settings, data_folder=folder)).workers()
            return str(next(worker["url"] for worker in workers if worker["role"] == "api"))
        time.sleep(0.1)
    raise TimeoutError(f"the stack was not ready within {START_TIMEOUT_S:g} s")


class TimedReceiver(Receiver):
    """Notes when each upload's first callback came."""

    def __init__(self, secret: SecretStr) -> None:
        super().__init__(secret)
        self.arrived_s: dict[str, float] = {}
        self.states: dict[str, str] = {}

    def _take(self, body: bytes, headers: dict[str, str]) -> int:
        now_s = time.monotonic()
        status = super()._take(body, headers)
        data = json.loads(body)["data"]
        self.arrived_s.setdefault(data["upload_id"], now_s)
        self.states[data["upload_id"]] = data["state"]
        self.received.clear()
        return status


class Load:
    """The web tier outside of the box."""

    def __init__(self, folder: Path, base_url: str, receiver: TimedReceiver) -> None:
        settings = load_settings(Settings, data_folder=folder)
        self.producer = Producer.connect(settings)
        self._images = Images(settings)
        self._receiver = receiver
        key = (folder / "api-key").read_text().strip()
        headers = {"authorization": f"Bearer {key}"}
        self.http = httpx.Client(base_url=base_url, headers=headers, timeout=60)
        self.pictures = Pictures()
        self.sent_s: dict[str, float] = {}

    def post(self, upload_id: str) -> None:
        """One upload with its bytes through the API."""
        picture = self.pictures.next()
        self.sent_s[upload_id] = time.monotonic()
        files = {"image": ("avatar", picture)}
        self.http.post("/v1/uploads", data={"upload_id": upload_id}, files=files).raise_for_status()

    def enqueue(self, items: Iterable[tuple[str, bytes]]) -> list[str]:
        """Many uploads as a web tier that shares the image store does it."""
        ids = []
        for upload_id, picture in items:
            self._images.put(upload_id, picture)
            ids.append(upload_id)
        for start in range(0, len(ids), 100):
            part = ids[start : start + 100]
            now_s = time.monotonic()
            answers = self.producer.enqueue_many([Upload(one, image=one) for one in part])
            for answer in answers:
                if isinstance(answer, ModerationError):
                    raise answer
            self.sent_s.update(dict.fromkeys(part, now_s))
        return ids

    def wait_for(self, ids: Iterable[str], tell: Callable[[int], None] = lambda _: None) -> None:
        """Until each has had a callback.

        Raises:
            TimeoutError: some have not.
        """
        missing = set(ids)
        deadline_s = time.monotonic() + QUIET_TIMEOUT_S
        while missing := missing - self._receiver.arrived_s.keys():
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{len(missing)} uploads had no callback, {min(missing)} first")
            tell(len(missing))
            time.sleep(0.05)

    @property
    def arrived_s(self) -> dict[str, float]:
        """When each upload's first callback came."""
        return self._receiver.arrived_s

    def latencies_s(self, ids: Iterable[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """From before the request until the callback."""
        return np.array([self._receiver.arrived_s[i] - self.sent_s[i] for i in ids])

    def states(self, ids: Iterable[str]) -> dict[str, int]:
        """How many became what."""
        counts: dict[str, int] = {}
        for upload_id in ids:
            state = self._receiver.states[upload_id]
            counts[state] = counts.get(state, 0) + 1
        return counts


def run(
    load: Load, watch: MemoryWatch, options: argparse.Namespace, console: Console
) -> dict[str, Any]:
    """All four parts; the result as `--json` prints it."""
    steady = _paced(load, "steady", [1.0], 5 if options.quick else 60)
    p50_s, p99_s = np.percentile(load.latencies_s(steady), [50, 99])
    console.print(f"steady: {len(steady)} uploads at 1/s, p50 {p50_s:.3f} s, p99 {p99_s:.3f} s")
    seconds = _burst(load, watch, options.uploads, console)
    day = _paced(load, "day", DAY, 0.2 if options.quick else 5.0, reads=True)
    day_s = np.percentile(load.latencies_s(day), [50, 99])
    console.print(f"day: {len(day)} uploads, p50 {day_s[0]:.3f} s, p99 {day_s[1]:.3f} s")
    _worst(load, watch, options.worst, console)
    return {
        "uploads": options.uploads,
        "seconds": round(seconds, 1),
        "images_per_second": round(options.uploads / seconds, 2),
        "peak_mb": {name: round(mb, 1) for name, mb in sorted(watch.peak_mb.items())},
        "peak_total_mb": round(watch.peak_total_mb, 1),
        "p50_s": round(float(p50_s), 3),
        "p99_s": round(float(p99_s), 3),
    }


def _paced(
    load: Load, name: str, rates: list[float], step_s: float, *, reads: bool = False
) -> list[str]:
    """Uploads at a rate that changes every `step_s` seconds, until all are decided."""
    ids: list[str] = []
    stop = threading.Event()
    reader = threading.Thread(target=_read_pages, args=(load.http, stop), daemon=True)
    if reads:
        reader.start()
    for rate in rates:
        started_s = time.monotonic()
        for number in range(max(1, math.ceil(rate * step_s))):
            time.sleep(max(0.0, started_s + number / rate - time.monotonic()))
            ids.append(f"{name}/{len(ids):05d}")
            load.post(ids[-1])
        time.sleep(max(0.0, started_s + step_s - time.monotonic()))
    load.wait_for(ids)
    stop.set()
    return ids


def _read_pages(http: httpx.Client, stop: threading.Event) -> None:
    while not stop.wait(2.0):
        for path in ("/readyz", "/metrics", "/console/sign-in"):
            http.get(path)


def _burst(load: Load, watch: MemoryWatch, count: int, console: Console) -> float:
    """Seconds from the first enqueue until the last callback."""
    marks: dict[int, float] = {}

    def tell(missing: int) -> None:
        tenth = 10 - math.ceil(10 * missing / count)
        if tenth not in marks and tenth > 0:
            marks[tenth] = watch.moderate_mb
            console.print(
                f"burst: {tenth * 10:>3} %, moderate worker {watch.moderate_mb:.0f} MB, "
                f"all {watch.peak_total_mb:.0f} MB at most"
            )

    before, started_s = cpu_seconds(watch.root_pid), time.monotonic()
    ids = load.enqueue((f"burst/{n:05d}", load.pictures.next()) for n in range(count))
    console.print(f"burst: {count} enqueued in {time.monotonic() - started_s:.1f} s")
    load.wait_for(ids, tell)
    seconds = max(load.arrived_s[i] for i in ids) - started_s
    median_s, last_s = np.percentile(load.latencies_s(ids), [50, 99])
    console.print(
        f"burst: decided in {seconds:.1f} s, {count / seconds:.1f} images/s; waited p50 "
        f"{median_s:.1f} s, p99 {last_s:.1f} s; {load.states(ids)}"
    )
    used = {n: s - before.get(n, 0.0) for n, s in cpu_seconds(watch.root_pid).items()}
    parts = ", ".join(f"{name} {1000 * s / count:.1f}" for name, s in sorted(used.items()))
    console.print(
        f"burst: the core was ours for {sum(used.values()) / seconds:.0%} of the time; "
        f"milliseconds of it an image: {parts}; all {1000 * sum(used.values()) / count:.1f}"
    )
    return seconds


def _worst(load: Load, watch: MemoryWatch, count: int, console: Console) -> None:
    before_mb = watch.peak_total_mb
    started_s = time.monotonic()
    ids = load.enqueue((f"worst/{n:02d}", data) for n, data in enumerate(worst_pictures(count)))
    load.wait_for(ids)
    console.print(
        f"worst: {count} pictures at the limits in {time.monotonic() - started_s:.1f} s; "
        f"{load.states(ids)}; peak {before_mb:.0f} -> {watch.peak_total_mb:.0f} MB"
    )


def _report(console: Console, result: dict[str, Any], box: Box, watch: MemoryWatch) -> bool:
    """Print for people; returns whether something died or swapped."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("process", "peak RSS", "share at the total's peak"):
        table.add_column(name, justify="left" if name == "process" else "right")
    for name, mb in result["peak_mb"].items():
        table.add_row(name, f"{mb:.0f} MB", f"{watch.at_peak_mb.get(name, 0):.0f} MB")
    table.add_row("[bold]all", "", f"[bold]{result['peak_total_mb']:.0f} MB")
    console.print(table)
    died = {n for n, pids in watch.pids.items() if len(pids) > 1 and n not in ("decode", "other")}
    group_mb = box.group_peak_mb()
    held = f"; the control group's peak with cached files {group_mb:.0f} MB" if group_mb else ""
    console.print(
        f"{result['images_per_second']} images/s; swap {watch.swap_mb:.0f} MB; killed for memory: "
        f"{box.kills()}; started anew: {', '.join(sorted(died)) or 'none'}{held}"
    )
    return bool(died or box.kills())


if __name__ == "__main__":
    raise SystemExit(main())
