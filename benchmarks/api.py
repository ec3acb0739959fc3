"""Measures POST /v1/uploads with wrk, then kills the API under load and counts what it accepted.

    python benchmarks/api.py [--seconds 10] [--connections 16] [--json]

A whole `avatarmod up` runs with an embedded Valkey that writes every upload to disk before it is
confirmed (appendfsync always), and without moderate workers, so that only the API is measured.
`per_core` divides by the processor time that the API process itself took.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import secrets
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from producer.connect import redis_client
from producer.record.store import Store
from worker.process.supervisor import Supervisor
from worker.settings import WorkerSettings

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Processor seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def wrk(url: str, key: str, *, seconds: int, connections: int, batch: int) -> dict[str, float]:
    """One run; raises when a request was refused."""
    run = f"bench-{secrets.token_hex(3)}"
    env = {**os.environ, "KEY": key, "RUN": run, "BATCH": str(batch)}
    command = [
        "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency",
        "-s", str(Path(__file__).with_name("api.lua")), url,
    ]  # fmt: skip
    text = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text:
        raise SystemExit(text)
    numbers = {
        name: re.search(pattern, text)
        for name, pattern in {
            "rps": r"Requests/sec:\s+([\d.]+)",
            "p50": r"50%\s+([\d.]+)(us|ms|s)",
            "p99": r"99%\s+([\d.]+)(us|ms|s)",
        }.items()
    }
    scale = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
    found: dict[str, float] = {}
    for name, match in numbers.items():
        assert match is not None, text
        unit = scale[match[2]] if match.lastindex == 2 else 1.0
        found[name] = float(match[1]) * unit
    return found


def measure(supervisor: Supervisor, url: str, key: str, args: Any, batch: int) -> dict[str, Any]:
    """Requests a second, latencies, and the API's own processor time, for one size of batch."""
    pid = supervisor.pids()["api"]
    before_s, started_s = cpu_s(pid), time.monotonic()
    found = wrk(url, key, seconds=args.seconds, connections=args.connections, batch=batch)
    used_s, wall_s = cpu_s(pid) - before_s, time.monotonic() - started_s
    uploads = found["rps"] * batch * args.seconds
    return {
        "batch": batch,
        "requests_per_s": round(found["rps"], 1),
        "uploads_per_s": round(found["rps"] * batch, 1),
        "uploads_per_s_per_core": round(uploads / used_s, 1),
        "api_cpu": round(used_s / wall_s, 3),
        "p50_s": round(found["p50"], 5),
        "p99_s": round(found["p99"], 5),
    }


def kill_under_load(
    supervisor: Supervisor, url: str, key: str, store: Store, kills: int
) -> dict[str, int]:
    """Kill -9 the API again and again while clients send; every confirmed upload must be there."""
    confirmed: list[str] = []
    stop = threading.Event()
    run = secrets.token_hex(3)

    def send(number: int) -> None:
        http = httpx.Client(headers={"x-api-key": key}, timeout=5, trust_env=False)
        count = 0
        while not stop.is_set():
            count += 1
            upload_id = f"kill-{run}/{number}/{count}"
            body = {"upload_id": upload_id, "image": "x.png"}
            try:
                answer = http.post(f"{url}/v1/uploads", json=body)
                if answer.status_code == 202:
                    confirmed.append(upload_id)
            except httpx.HTTPError:
                time.sleep(0.05)

    threads = [threading.Thread(target=send, args=(n,), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(kills):
        time.sleep(3)
        pid = supervisor.pids().get("api")
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        deadline_s = time.monotonic() + 15
        while time.monotonic() < deadline_s and supervisor.pids().get("api") in (None, pid):
            supervisor.watch()
            time.sleep(0.05)
    time.sleep(3)
    stop.set()
    for thread in threads:
        thread.join(10)
    lost = [u for u, avatar in zip(confirmed, store.get_many(confirmed), strict=True) if not avatar]
    return {"kills": kills, "confirmed": len(confirmed), "lost": len(lost)}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        env = {
            "AVATARMOD_DATA_FOLDER": folder,
            "AVATARMOD_API_RATE_PER_S": "1000000",
            "AVATARMOD_API_BURST": "1000000",
            "AVATARMOD_MAX_BACKLOG": "10000000",
            "AVATARMOD_LOG_LEVEL": "error",
            "AVATARMOD_LEDGER_URL": "off",
            "AVATARMOD_CALLBACK_SECRETS": "whsec_" + base64.b64encode(bytes(32)).decode(),
        }
        settings = WorkerSettings(data_folder=Path(folder), moderate_processes=0)
        with Supervisor(settings, env) as supervisor:
            url = next(w["url"] for w in supervisor.facts()["workers"] if w["role"] == "api")
            key = (Path(folder) / "api-key").read_text().strip()
            runs = [measure(supervisor, url, key, args, batch) for batch in (1, 100)]
            status = Path(f"/proc/{supervisor.pids()['api']}/status").read_text()
            rss_kb = int(re.findall(r"VmHWM:\s+(\d+)", status)[0])
            client = redis_client(supervisor.redis_url)
            kill = kill_under_load(supervisor, url, key, Store(client), args.kills)
            client.close()
    result = {"runs": runs, "api_peak_rss_mb": round(rss_kb / 1024, 1), "kill": kill}
    if args.json:
        print(json.dumps(result))
        return
    for run in runs:
        print(
            f"batch {run['batch']:>3}: {run['requests_per_s']:>8,.0f} requests/s, "
            f"{run['uploads_per_s']:>9,.0f} uploads/s, {run['uploads_per_s_per_core']:>9,.0f} "
            f"uploads/s per core, p50 {run['p50_s'] * 1000:.1f} ms, "
            f"p99 {run['p99_s'] * 1000:.1f} ms"
        )
    print(f"API peak resident memory: {result['api_peak_rss_mb']} MB")
    print(f"{kill['kills']} kills under load: {kill['confirmed']} confirmed, {kill['lost']} lost")


if __name__ == "__main__":
    main()
