"""Does the API stand twenty kinds of abuse at once? Nothing but the API and its Redis, on one core.

Twenty kinds of clients, each from an address of its own, keep sending what no client should: heads
without an end, forms that stop half-way, endless bodies, odd charsets, floods of wrong keys and
passwords, hundreds of idle connections. Meanwhile `/healthz` is asked 20 times a second. Promised:
99 of 100 answers within half a second, and memory at the end within 20 % of what it was after the
first fifth of the time.

Run: .venv/bin/python benchmarks/abuse.py [--seconds 60] [--json]
"""

from __future__ import annotations

import argparse
import base64
import collections
import contextlib
import json
import multiprocessing
import os
import random
import secrets
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pydantic import SecretStr

from benchmarks.box import Box, descendants, name_of
from benchmarks.small_box import environment, wait_until_ready
from producer.logs import quiet_logging

#: What is promised.
HEALTH_P99_S, MEMORY_GROWTH = 0.5, 1.2

#: Questions to `/healthz` a second.
ASK_PER_S = 20.0

#: Seconds between two rounds of one kind.
PAUSE_S = 0.2

HOST = b"host: a\r\n"
FORM = b"content-type: application/x-www-form-urlencoded\r\n"
MULTIPART = b"content-type: multipart/form-data; boundary=x\r\n"


class Client:
    """One kind of abuser, at an address of its own."""

    def __init__(self, number: int, address: tuple[str, int], key: str) -> None:
        self.source = f"127.{number + 1}.0.1"
        self.address = address
        self.key = f"x-api-key: {key}\r\n".encode()
        self.rng = random.Random(number)
        self.open: list[socket.socket] = []

    def send(self, *parts: bytes, keep: bool = False, read: bool = True) -> None:
        """One connection: send, perhaps read what comes, close or leave it open."""
        client = socket.create_connection(self.address, 5, source_address=(self.source, 0))
        client.settimeout(2)
        with contextlib.suppress(OSError):
            for part in parts:
                client.sendall(part)
            if read and not keep:
                while client.recv(65536):
                    continue
        if not keep:
            client.close()
            return
        self.open.append(client)
        if len(self.open) > 100:
            self.open.pop(0).close()

    def post(self, path: str, headers: bytes, body: bytes, length: int | None = None) -> None:
        """A whole request, or one whose body is shorter than it says."""
        head = b"POST %s HTTP/1.1\r\n" % path.encode() + HOST + headers
        head += b"content-length: %d\r\n\r\n" % (len(body) if length is None else length)
        self.send(head, body, keep=length is not None)


def _uploads(count: int) -> bytes:
    return json.dumps({"uploads": [{"upload_id": "../" * 50, "image": "x" * 900}] * count}).encode()


def _form(client: Client) -> bytes:
    name = b"n%d" % client.rng.randrange(10**9)
    return b"form_token=x&name=" + name + b"&password=wrong-password&next=/console"


JSON = b"content-type: application/json\r\n"

#: Kind -> one round of it.
KINDS: dict[str, Callable[[Client], None]] = {
    "half a request line": lambda c: c.send(b"GET /hea", keep=True),
    "a head without an end": lambda c: c.send(b"GET / HTTP/1.1\r\nx: " + b"a" * 300_000),
    "a thousand headers": lambda c: c.send(
        b"GET / HTTP/1.1\r\n" + b"".join(b"x%d: 1\r\n" % n for n in range(1000)) + b"\r\n"
    ),
    "headers drop by drop": lambda c: c.send(b"GET / HTTP/1.1\r\n", HOST, b"x: ", keep=True),
    "idle connections": lambda c: c.send(keep=True),
    "a very long path": lambda c: c.send(b"GET /" + b"a/" * 100_000 + b" HTTP/1.1\r\n\r\n"),
    "half a form": lambda c: c.post("/console/sign-in", FORM, b"name=" + b"a" * 9000, 60_000),
    "a large form": lambda c: c.post("/console/sign-in", FORM, b"name=" + b"a" * 2**20),
    "an odd charset": lambda c: c.post(
        "/console/sign-in",
        MULTIPART.replace(b"boundary", b"charset=punycode; boundary"),
        b"a" * 2**20,
    ),
    "half a picture": lambda c: c.post(
        "/v1/uploads", c.key + MULTIPART, b"--x\r\n" + b"a" * 99_999, 10**6
    ),
    "a part of many headers": lambda c: c.post(
        "/v1/uploads", c.key + MULTIPART, b"--x\r\n" + b"h: 1\r\n" * 20_000 + b"\r\n"
    ),
    "an endless body": lambda c: c.send(
        b"POST /v1/uploads HTTP/1.1\r\n"
        + HOST
        + c.key
        + JSON
        + b"transfer-encoding: chunked\r\n\r\n",
        *[b"10000\r\n" + b"a" * 65536 + b"\r\n"] * 40,
    ),
    "a length that is a lie": lambda c: c.post("/v1/uploads", c.key + JSON, b"{}", 10**12),
    "deep JSON": lambda c: c.post("/v1/uploads", c.key + JSON, b"[" * 100_000),
    "a hundred bad uploads": lambda c: c.post("/v1/uploads", c.key + JSON, _uploads(100)),
    "wrong keys": lambda c: c.post("/v1/uploads", b"x-api-key: avm_wrong\r\n" + JSON, b"{}"),
    "guessed passwords": lambda c: c.post("/console/sign-in", FORM, _form(c)),
    "long polls": lambda c: c.send(
        b"GET /v1/avatars/nobody?wait=30 HTTP/1.1\r\n"
        + HOST
        + c.key
        + b'if-none-match: "1"\r\n\r\n',
        keep=True,
    ),
    "TLS and noise": lambda c: c.send(b"\x16\x03\x01\x02\x00" + c.rng.randbytes(4000)),
    "answers that nobody reads": lambda c: c.send(
        *[b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n"] * 30, keep=True
    ),
}


def abuse(address: tuple[str, int], key: str, stop: Any, rounds: Any) -> None:
    """All kinds at once, each in threads of its own; runs in a process of its own."""

    def run(number: int, kind: Callable[[Client], None]) -> None:
        client = Client(number, address, key)
        while not stop.is_set():
            with contextlib.suppress(OSError):
                kind(client)
            with rounds.get_lock():
                rounds[number] += 1
            stop.wait(PAUSE_S)

    threads = [
        threading.Thread(target=run, args=(number, kind), daemon=True)
        for number, kind in enumerate(KINDS.values())
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    stop.wait()


def main() -> int:
    quiet_logging()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of abuse")
    parser.add_argument("--bundle", default="open-nsfw", help="name or folder; random weights do")
    parser.add_argument("--models-folder", type=Path, default=Path("models"))
    parser.add_argument("--memory-mb", type=int, default=2048, help="memory of the box")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    console = Console(stderr=True)
    cores = sorted(os.sched_getaffinity(0))
    secret = SecretStr("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())
    with (
        tempfile.TemporaryDirectory(prefix="abuse-") as folder,
        Box(options.memory_mb * 2**20, cores[-1]) as box,
        (Path(folder) / "up.log").open("wb") as log,
    ):
        os.sched_setaffinity(0, set(cores[:-1]) or set(cores))
        env = environment(folder, options.models_folder, "", secret)
        env |= {"AVATARMOD_BUNDLE": options.bundle, "AVATARMOD_LOG_LEVEL": "error"}
        process = box.start([sys.executable, "-m", "producer.cli", "up"], env, log)
        url = httpx.URL(wait_until_ready(process, Path(folder)))
        result = _measure((url.host, url.port or 80), process.pid, Path(folder), options.seconds)
    worst = ", ".join(f"{kind} {n}" for kind, n in result["rounds"].items())
    console.print(
        f"{len(KINDS)} kinds, rounds of each: {worst}\n"
        f"/healthz: {result['asked']} asked, {result['failed']} failed, p50 {result['p50_s']} s, "
        f"p99 {result['p99_s']} s, slowest {result['max_s']} s (promised: p99 {HEALTH_P99_S:g} s)\n"
        f"memory of the API: {result['memory_before_mb']} MB before, "
        f"{result['memory_early_mb']} MB after a fifth, {result['memory_end_mb']} MB at the end, "
        f"{result['memory_peak_mb']} MB at most\n"
        + ("[green]kept[/]" if result["kept"] else "[red]not kept[/]")
    )
    if options.json:
        print(json.dumps(result))
    return 0 if result["kept"] else 1


def _measure(address: tuple[str, int], up_pid: int, folder: Path, seconds: float) -> dict[str, Any]:
    api_pid = next(pid for pid in descendants(up_pid) if name_of(pid) == "api")
    key = (folder / "api-key").read_text().strip()
    before_mb = _rss_mb(api_pid)
    rounds = multiprocessing.Array("l", len(KINDS))
    stop = multiprocessing.Event()
    abuser = multiprocessing.Process(target=abuse, args=(address, key, stop, rounds), daemon=True)
    abuser.start()
    took_s: list[float] = []
    memory_mb: list[float] = []
    failures: collections.Counter[str] = collections.Counter()
    started_s = time.monotonic()
    # As a load balancer's probe: a fresh connection each.
    limits = httpx.Limits(max_keepalive_connections=0)
    client = httpx.Client(timeout=10, trust_env=False, limits=limits)
    url = f"http://{address[0]}:{address[1]}/healthz"
    while (passed_s := time.monotonic() - started_s) < seconds:
        asked_s = time.monotonic()
        try:
            fault = str(client.get(url).status_code)
        except httpx.HTTPError as error:
            fault = type(error).__name__
        if fault != "200":
            failures[fault] += 1
        took_s.append(time.monotonic() - asked_s)
        memory_mb.append(_rss_mb(api_pid))
        time.sleep(max(0.0, passed_s + 1 / ASK_PER_S - (time.monotonic() - started_s)))
    stop.set()
    abuser.join(5)
    abuser.terminate()
    fifth = len(memory_mb) // 5
    early_mb, end_mb = max(memory_mb[: fifth + 1]), max(memory_mb[-fifth:])
    p50_s, p99_s = np.percentile(took_s, [50, 99])
    return {
        "seconds": seconds,
        "rounds": dict(zip(KINDS, rounds[:], strict=True)),
        "asked": len(took_s),
        "failed": dict(failures),
        "p50_s": round(float(p50_s), 3),
        "p99_s": round(float(p99_s), 3),
        "max_s": round(max(took_s), 3),
        "memory_before_mb": round(before_mb, 1),
        "memory_early_mb": round(early_mb, 1),
        "memory_end_mb": round(end_mb, 1),
        "memory_peak_mb": round(max(memory_mb), 1),
        "kept": bool(p99_s <= HEALTH_P99_S and not failures and end_mb <= MEMORY_GROWTH * early_mb),
    }


def _rss_mb(pid: int) -> float:
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    sys.exit(main())
