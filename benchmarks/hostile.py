"""Do hostile uploads delay or lose anybody's? Ten kinds of them beside good ones, on one core.

Starts `avatarmod up` pinned to one core and sends hostile uploads of ten kinds, a fifth of them at
once: pictures that are slow, huge, bombs, damaged in ways that break decoders, quadratic, of 4,096
frames, of 50 megapixels, and addresses that never end an answer, redirect for ever or lie about
their length. Beside them come two good uploads a second and one call of `/classify` a second.
Promised: of the good ones 95 in 100 have their callback within 3 seconds, `/classify` answers 99 of
100 calls within its deadline, and every hostile upload ends in a verdict or in a dead letter. A
host that does not answer is tried again for hours in real life; here three times.

Run: .venv/bin/python benchmarks/hostile.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import base64
import collections
import functools
import io
import itertools
import json
import os
import random
import secrets
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from pydantic import SecretStr
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.box import Box, MemoryWatch
from benchmarks.box_pictures import with_comment
from benchmarks.small_box import Load, TimedReceiver, environment, wait_until_ready
from producer.connect import connect_store
from producer.contract import AvatarState, Stage
from producer.errors import ModerationError
from producer.logs import quiet_logging
from producer.record.store import FAR, LANES, SLOW, Store
from producer.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[1]

#: What is promised.
GOOD_P95_S, CLASSIFY_SHARE = 3.0, 0.99

#: Good uploads a second, and calls of `/classify`.
GOOD_PER_S, CLASSIFY_PER_S = 2.0, 1.0

#: What a Python process of the stack does before all else: three attempts instead of eight hours.
SHORT_SCHEDULE = """
import sys
if not sys.flags.isolated:
    import worker.retry
    worker.retry.STORAGE_SCHEDULE_S = (1.0, 2.0)
"""


# -- hostile files and hosts ---------------------------------------------------------------------


def _encoded(image: Image.Image, format_name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


@functools.cache
def _slow() -> bytes:
    """An animation at the limit of all pixels together, each frame a canvas of its own."""
    frames = [Image.new("P", (1000, 1000), n % 2) for n in range(280)]
    for number, frame in enumerate(frames):
        frame.putpalette([0, 90, 200, 10, 100, 210, *([0] * 762)])
        frame.putpixel((number, number), 1 - number % 2)
    return _encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)


@functools.cache
def _many_frames() -> bytes:
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\x00"
    control = b"\x21\xf9\x04" + struct.pack("<BHBB", 0, 10, 0, 0)
    head = b"GIF89a" + struct.pack("<HHBBB", 64, 64, 0x80, 0, 0) + bytes(6)
    return head + (control + frame) * 4096 + b"\x3b"


@functools.cache
def _fifty_megapixels() -> bytes:
    ramp = np.add.outer(np.arange(7000) // 28, np.arange(7100) // 29).astype(np.uint8)
    return _encoded(
        Image.fromarray(np.dstack([ramp, ramp.T[:7000, :7000].max() - ramp, ramp])), "PNG"
    )


def _bomb() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    size = struct.pack(">IIBBBBB", 16000, 16000, 8, 6, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(2**20), 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + pixels + chunk(b"IEND", b"")


@functools.cache
def _sound(format_name: str) -> bytes:
    cells = np.random.default_rng(1).integers(0, 255, (12, 12, 3), dtype=np.uint8)
    picture = Image.fromarray(cells).resize((400, 400), Image.Resampling.BICUBIC)
    return _encoded(picture, format_name)


def _crash(rng: random.Random) -> bytes:
    """A sound file with some bytes turned, where decoders have had their faults."""
    data = bytearray(_sound(rng.choice(["WEBP", "AVIF", "JPEG"])))
    for _ in range(rng.randint(1, 40)):
        data[rng.randrange(32, len(data))] = rng.randrange(256)
    return bytes(data)


#: Kind -> a file that is never the same twice.
FILES: dict[str, Callable[[random.Random], bytes]] = {
    "slow": lambda rng: with_comment(_slow(), str(rng.random())),
    "huge": lambda rng: b"\xff\xd8\xff" + rng.randbytes(11 * 2**20),
    "bomb": lambda rng: with_comment(_bomb(), str(rng.random())),
    "crash": _crash,
    "quadratic": lambda rng: b"\xff\xd8" + b"\xff" * 60_000 + rng.randbytes(8),
    "4096-frame": lambda rng: with_comment(_many_frames(), str(rng.random())),
    "50-megapixel": lambda rng: with_comment(_fifty_megapixels(), str(rng.random())),
}


class _Hosts(BaseHTTPRequestHandler):
    """Addresses that never end, never arrive or lie."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        kind = self.path.strip("/").partition("/")[0]
        try:
            getattr(self, f"_{kind}")()
        except OSError:
            self.close_connection = True

    def _tarpit(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n")
        for _ in range(600):
            self.wfile.write(b"\xff")
            time.sleep(0.5)

    def _redirect(self) -> None:
        self.send_response(302)
        self.send_header("location", self.path + "x")
        self.send_header("content-length", "0")
        self.end_headers()

    def _liar(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n" + _sound("JPEG")[:500])
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay silent."""


ADDRESSES = ("tarpit", "redirect", "liar")
KINDS = (*FILES, *ADDRESSES)


# -- the load ------------------------------------------------------------------------------------


class Attack:
    """Sends the hostile uploads: a fifth at once, the others evenly over the time."""

    def __init__(self, load: Load, port: int, count: int, seconds: float) -> None:
        self._load = load
        self._port = port
        self._seconds = seconds
        self._rng = random.Random(1)
        self.ids = [f"hostile/{KINDS[n % len(KINDS)]}/{n:05d}" for n in range(count)]
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        at_once = len(self.ids) // 5
        rest = len(self.ids) - at_once
        started_s = time.monotonic()
        for number, upload_id in enumerate(self.ids):
            due_s = max(0, number - at_once) * self._seconds / rest
            time.sleep(max(0.0, started_s + due_s - time.monotonic()))
            self._send(upload_id)

    def _send(self, upload_id: str) -> None:
        kind = upload_id.split("/")[1]
        if kind in FILES:
            self._load.enqueue([(upload_id, FILES[kind](self._rng))])
            return
        # Every tarpit is a host of its own, as far as anybody can tell.
        host = f"127.{self._rng.randrange(1, 250)}.{self._rng.randrange(1, 250)}.1"
        address = f"http://{host}:{self._port}/{kind}/{self._rng.random()}"
        self._load.producer.enqueue(upload_id, image=address)


class Visitors:
    """Good uploads and calls of `/classify`, evenly over the time."""

    def __init__(self, load: Load, seconds: float) -> None:
        self._load = load
        self._seconds = seconds
        self.ids: list[str] = []
        self.calls: list[tuple[int, float]] = []
        self.threads = [
            threading.Thread(target=self._upload, daemon=True),
            threading.Thread(target=self._classify, daemon=True),
        ]

    def _paced(self, per_s: float) -> Iterator[int]:
        started_s = time.monotonic()
        for number in itertools.count():
            time.sleep(max(0.0, started_s + number / per_s - time.monotonic()))
            if time.monotonic() - started_s > self._seconds:
                return
            yield number

    def _upload(self) -> None:
        for number in self._paced(GOOD_PER_S):
            self.ids += self._load.enqueue([(f"good/{number:05d}", self._load.pictures.next())])

    def _classify(self) -> None:
        for _ in self._paced(CLASSIFY_PER_S):
            started_s = time.monotonic()
            files = {"file": ("avatar", self._load.pictures.next())}
            status = self._load.http.post("/classify", files=files).status_code
            self.calls.append((status, time.monotonic() - started_s))


def main() -> int:
    quiet_logging()
    options = _options()
    console = Console(stderr=True)
    # This process is a web tier too: it names addresses of this machine.
    os.environ["AVATARMOD_PRIVATE_NETWORKS"] = "127.0.0.0/8"
    secret = SecretStr("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())
    cores = sorted(os.sched_getaffinity(0))
    hosts = ThreadingHTTPServer(("", 0), _Hosts)
    hosts.daemon_threads = True
    threading.Thread(target=hosts.serve_forever, daemon=True).start()
    with (
        tempfile.TemporaryDirectory(prefix="hostile-") as folder,
        TimedReceiver(secret) as receiver,
        Box(options.memory_mb * 2**20, cores[-1]) as box,
        (Path(folder) / "up.log").open("wb") as log,
    ):
        os.sched_setaffinity(0, set(cores[:-1]) or set(cores))
        (Path(folder) / "sitecustomize.py").write_text(SHORT_SCHEDULE)
        env = {
            **environment(folder, options.models_folder, receiver.url, secret),
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
            "AVATARMOD_BUNDLE": options.bundle,
            "AVATARMOD_IMAGE_TIMEOUT_S": "3" if options.quick else "10",
        }
        process = box.start([sys.executable, "-m", "producer.cli", "up"], env, log)
        try:
            with MemoryWatch(process.pid) as watch:
                base_url = wait_until_ready(process, Path(folder))
                store = connect_store(load_settings(Settings, data_folder=Path(folder)))
                load = Load(Path(folder), base_url, receiver)
                result = _run(load, store, hosts.server_address[1], options, console)
            result["peak_total_mb"] = round(watch.peak_total_mb, 1)
        except (RuntimeError, TimeoutError, httpx.HTTPError, ModerationError) as error:
            log_end = (Path(folder) / "up.log").read_text(errors="replace")[-3000:]
            console.print(f"[red]{error}[/]\n{log_end}", highlight=False)
            return 1
    hosts.shutdown()
    _tell(console, result)
    if options.json:
        print(json.dumps(result))
    return 0 if result["kept"] else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="40 uploads; within a minute")
    parser.add_argument("--uploads", type=int, help="hostile uploads (1000; quick: 40)")
    parser.add_argument("--seconds", type=float, help="of load (600; quick: 18)")
    parser.add_argument("--bundle", default="open-nsfw", help="name or folder; random weights do")
    parser.add_argument("--models-folder", type=Path, default=Path("models"))
    parser.add_argument("--memory-mb", type=int, default=2048, help="memory of the box")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    options.uploads = options.uploads or (40 if options.quick else 1000)
    options.seconds = options.seconds or (18.0 if options.quick else 600.0)
    options.settle_s = 10.0 if options.quick else 3600.0
    return options


def _run(
    load: Load, store: Store, port: int, options: argparse.Namespace, console: Console
) -> dict[str, Any]:
    # What is drawn once must not be drawn while it is measured.
    for kind in FILES.values():
        kind(random.Random(0))
    attack = Attack(load, port, options.uploads, options.seconds)
    visitors = Visitors(load, options.seconds)
    threads = [attack.thread, *visitors.threads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    console.print(f"{len(attack.ids)} hostile and {len(visitors.ids)} good uploads were sent")
    deadline_s = time.monotonic() + options.settle_s
    while time.monotonic() < deadline_s and _open(store, [*attack.ids, *visitors.ids]):
        time.sleep(1.0)
    arrived = load.arrived_s
    late_s = time.monotonic()
    took_s = [arrived.get(one, late_s) - load.sent_s[one] for one in visitors.ids]
    answered = sum(status < 500 for status, _ in visitors.calls)
    outcomes: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for upload_id, avatar in zip(attack.ids, store.get_many(attack.ids), strict=True):
        what = f"{avatar.state}: {avatar.reason}".removesuffix(": ") if avatar else "no record"
        outcomes[upload_id.split("/")[1]][what] += 1
    still_open = _open(store, attack.ids)
    lost = [one for one in still_open if not _waits(store, one)]
    p50_s, p95_s = np.percentile(took_s, [50, 95])
    result: dict[str, Any] = {
        "hostile": len(attack.ids),
        "hostile_open": len(still_open),
        "hostile_lost": len(lost),
        "outcomes": {kind: dict(found) for kind, found in sorted(outcomes.items())},
        "good": len(visitors.ids),
        "good_p50_s": round(float(p50_s), 2),
        "good_p95_s": round(float(p95_s), 2),
        "good_max_s": round(max(took_s), 2),
        "good_p95_by_minute_s": [
            round(float(np.percentile(took_s[first : first + 120], 95)), 2)
            for first in range(0, len(took_s), 120)
        ],
        "classify_calls": len(visitors.calls),
        "classify_answered": answered,
        "classify_max_s": round(max(seconds for _, seconds in visitors.calls), 2),
    }
    result["kept"] = bool(
        p95_s <= GOOD_P95_S
        and answered >= CLASSIFY_SHARE * len(visitors.calls)
        and not lost
        and (options.quick or not still_open)
    )
    return result


def _open(store: Store, ids: list[str]) -> list[str]:
    """Uploads that nothing has decided yet."""
    waiting = (AvatarState.QUEUED, AvatarState.REVIEWING)
    found = zip(ids, store.get_many(ids), strict=True)
    return [one for one, avatar in found if avatar is None or avatar.state in waiting]


def _waits(store: Store, upload_id: str) -> bool:
    """Whether an undecided upload is in a lane or in somebody's hands."""
    keys = [store.keys.due(Stage.MODERATE, lane) for lane in (*LANES, SLOW, FAR)]
    keys.append(store.key("lease", Stage.MODERATE))
    return any(store.redis.zscore(key, upload_id) is not None for key in keys)


def _tell(console: Console, result: dict[str, Any]) -> None:
    for kind, found in result["outcomes"].items():
        console.print(f"{kind:>12}: " + ", ".join(f"{n} {what}" for what, n in found.items()))
    console.print(
        f"good uploads: p50 {result['good_p50_s']} s, p95 {result['good_p95_s']} s, "
        f"slowest {result['good_max_s']} s (promised: p95 {GOOD_P95_S:g} s)\n"
        f"/classify: {result['classify_answered']} of {result['classify_calls']} answered, "
        f"slowest {result['classify_max_s']} s\n"
        f"hostile: {result['hostile_open']} still open, {result['hostile_lost']} lost; "
        f"memory {result['peak_total_mb']} MB at most\n"
        + ("[green]kept[/]" if result["kept"] else "[red]not kept[/]")
    )


if __name__ == "__main__":
    sys.exit(main())
