"""Faults under load, then the accounts: is every upload decided once, and was everybody told?

Starts the real thing (Valkey, moderate and io worker under the supervisor), enqueues at a steady
rate, kills and breaks parts by a seeded plan, waits for quiet, and checks every single upload:

- its record ends in exactly one final state, or held for a person, or dead with a dead letter;
- its transitions in the ledger are legal, numbered without a gap up to the record's own number, and
  a final verdict stands there exactly once;
- every transition's callback was received at least once, signed, under one id of its own;
- nothing is left in a lease or due, and the ledger has drained every event into SQL.

Run: make chaos, or .venv/bin/python benchmarks/chaos.py --quick | --minutes 60 --rate 28
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import redis
from PIL import Image
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.chaos_checks import Accounts
from benchmarks.chaos_faults import Behaviour, Faults, ReviewStub
from producer.connect import connect_store
from producer.enqueue import Producer
from producer.errors import ModerationError
from producer.images import Images
from producer.logs import quiet_logging
from producer.settings import load_settings
from producer.store import Store
from worker import samples
from worker.ledger import Ledger
from worker.receiver import Receiver
from worker.settings import WorkerSettings
from worker.supervisor import Supervisor

LEASE_S = 5.0

#: Seconds after its start at which a quick run's load ends, and at which it must be quiet.
QUICK_LOAD_S, QUICK_QUIET_S = 22.0, 45.0

#: Seconds of load without a new fault before the end, so that the last kill is seen to heal.
CALM_S = 3.0


def main() -> int:
    options = _options()
    quiet_logging()
    console = Console(stderr=options.json)
    token = "hf_chaos"
    secret = SecretStr("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())
    receiver_behaviour = Behaviour()
    provider = ReviewStub(token)
    started_s = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="chaos-") as folder,
        Receiver(secret, fails=receiver_behaviour.fails) as receiver,
    ):
        os.environ.update(_environment(folder, receiver.url, secret, provider.url, token))
        settings = load_settings(WorkerSettings)
        with Supervisor(settings) as supervisor:
            stop = threading.Event()
            watcher = threading.Thread(target=supervisor.run_until, args=(stop,), daemon=True)
            watcher.start()
            store = connect_store(settings)
            load = Load(settings, store, options.rate, options.seed)
            faults = Faults(
                supervisor,
                store,
                receiver_behaviour,
                provider.behaviour,
                load.accepted,
                load.enqueue_again,
                options.seed,
            )
            seconds = options.minutes * 60
            if options.quick:
                seconds = max(6.0, started_s + QUICK_LOAD_S - time.monotonic())
            console.print(f"{seconds:.0f} s of load at {options.rate}/s, seed {options.seed}")
            _run(load, faults, seconds, options.every, console)
            faults.heal()
            limit_s = started_s + QUICK_QUIET_S - time.monotonic() if options.quick else 900.0
            quiet_s = _wait_for_quiet(store, console, limit_s)
            violations = _check(settings, store, receiver, load.accepted, quiet_s)
            states = Counter(
                str(a.state) if a else "missing" for a in store.get_many(load.accepted)
            )
            stop.set()
            watcher.join()
            store.redis.close()
            if options.quick:
                _kill_all(supervisor)
    provider.close()
    result = {
        "uploads": len(load.accepted),
        "faults": sum(faults.count.values()),
        "violations": sum(len(ids) for ids in violations.values()),
        "seed": options.seed,
        "seconds": round(time.monotonic() - started_s, 1),
    }
    _report(console, result, faults, states, violations, quiet_s, receiver, provider)
    if options.json:
        print(json.dumps(result))
    return 1 if result["violations"] else 0


def _kill_all(supervisor: Supervisor) -> None:
    """End at once: the accounts are closed and nothing here is wanted any more."""
    for pid in supervisor.pids().values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _check(
    settings: WorkerSettings,
    store: Store,
    receiver: Receiver,
    accepted: list[str],
    quiet_s: float | None,
) -> dict[str, list[str]]:
    """The accounts; that it never became quiet is a violation of its own."""
    ledger = Ledger.open(settings)
    try:
        violations = Accounts(store, ledger, receiver.received).check(accepted)
    finally:
        ledger.close()
    if quiet_s is None:
        violations["never quiet"] = ["see above"]
    return violations


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="finish within 50 seconds")
    parser.add_argument("--minutes", type=float, default=5.0, help="length of the load")
    parser.add_argument("--rate", type=float, default=28.0, help="uploads a second")
    parser.add_argument("--every", type=float, default=1.4, help="seconds between two faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def _environment(
    folder: str, callback: str, secret: SecretStr, provider: str, token: str
) -> dict[str, str]:
    """The stack's settings: short times, so that a run of seconds sees what hours would."""
    return {
        "AVATARMOD_DATA_FOLDER": folder,
        "AVATARMOD_LOG_LEVEL": "error",
        "AVATARMOD_LOG_FORMAT": "json",
        "AVATARMOD_LEASE_S": str(LEASE_S),
        "AVATARMOD_CALLBACK_URL": callback,
        "AVATARMOD_CALLBACK_SECRETS": secret.get_secret_value(),
        "AVATARMOD_CALLBACK_SCHEDULE_S": "1,1,2,2,3,3,5,5,10,10,20",
        "AVATARMOD_PRIVATE_NETWORKS": "127.0.0.0/8",
        "AVATARMOD_REVIEW_DOMESTIC": "huggingface",
        "AVATARMOD_REVIEW_CROSS_BORDER": "domestic:huggingface",
        "AVATARMOD_HUGGINGFACE_ENDPOINT": provider,
        "AVATARMOD_HUGGINGFACE_TOKEN": token,
        "AVATARMOD_HUGGINGFACE_RATE_PER_S": "50",
        "AVATARMOD_REVIEW_RETRY_BASE_S": "0.5",
        "AVATARMOD_REVIEW_BREAKER_OPEN_S": "2",
        "AVATARMOD_REVIEW_TIMEOUT_S": "3",
        "AVATARMOD_THREADS": "1",
        "AVATARMOD_MICRO_BATCH": "1",
        "AVATARMOD_API_PORT": "0",
    }


class Load:
    """Steady enqueueing; an upload counts as accepted when enqueue returned."""

    def __init__(self, settings: WorkerSettings, store: Store, rate: float, seed: int) -> None:
        self.accepted: list[str] = []
        self._rate = rate
        self._rng = np.random.default_rng(seed)
        self._producer = Producer.connect(settings)
        self._images = Images(settings)
        self._gray = [samples.encode(samples.dunes(n, 0.5, 2), "JPEG") for n in range(40)]
        self._whole = samples.encode(samples.landscape(), "JPEG")

    def enqueue_next(self) -> None:
        """One more upload; while Redis is away the same id is tried again."""
        upload_id = f"chaos/{len(self.accepted):07d}"
        self._images.put(upload_id, self._picture())
        while True:
            with contextlib.suppress(ModerationError):
                self.enqueue_again(upload_id)
                self.accepted.append(upload_id)
                return
            time.sleep(0.1)

    def enqueue_again(self, upload_id: str) -> None:
        """The same id as a web tier that is not sure would."""
        self._producer.enqueue(upload_id, upload_id)

    def pace(self, started_s: float) -> None:
        """Sleep until the next upload is due."""
        due_s = started_s + len(self.accepted) / self._rate
        time.sleep(max(0.0, due_s - time.monotonic()))

    def _picture(self) -> bytes:
        kind = self._rng.random()
        if kind < 0.06:
            return self._gray[int(self._rng.integers(len(self._gray)))]
        if kind < 0.11:
            return self._whole[: int(self._rng.integers(1, len(self._whole) - 100))]
        if kind < 0.16:
            return self._whole
        colour = tuple(int(v) for v in self._rng.integers(0, 256, 3))
        return samples.encode(Image.new("RGB", (96, 96), colour), "PNG")


def _run(load: Load, faults: Faults, seconds: float, every_s: float, console: Console) -> None:
    started_s = time.monotonic()
    next_fault_s = started_s + every_s
    next_line_s = started_s + 30
    while time.monotonic() - started_s < seconds:
        load.enqueue_next()
        load.pace(started_s)
        now_s = time.monotonic()
        if now_s >= next_fault_s and now_s < started_s + seconds - CALM_S:
            next_fault_s = now_s + every_s
            faults.inject()
        if now_s >= next_line_s:
            next_line_s = now_s + 30
            console.print(
                f"{now_s - started_s:6.0f} s  {len(load.accepted)} uploads, "
                f"{sum(faults.count.values())} faults"
            )


def _wait_for_quiet(store: Store, console: Console, limit_s: float) -> float | None:
    """Seconds until nothing is due, leased, undecided or undrained; None: that did not come."""
    started_s = time.monotonic()
    busy: dict[str, Any] = {}
    while time.monotonic() - started_s < limit_s:
        with contextlib.suppress(redis.RedisError, OSError):
            open_counts = store.open_counts()
            busy = {line: w for line in store.lines() if any((w := store.waiting(line)).values())}
            busy |= {s: n for s in ("queued", "reviewing") if (n := open_counts[s])}
            if waiting := int(store.redis.xlen(store.key("events"))):
                busy["events not in the ledger"] = waiting
            if not busy:
                return time.monotonic() - started_s
        time.sleep(0.2)
    console.print(f"[red]not quiet after {limit_s:g} s:[/] {busy}")
    return None


def _report(
    console: Console,
    result: dict[str, Any],
    faults: Faults,
    states: Counter[str],
    violations: dict[str, list[str]],
    quiet_s: float | None,
    receiver: Receiver,
    provider: ReviewStub,
) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("fault", "times", "median recovery", "longest"):
        table.add_column(name, justify="left" if name == "fault" else "right")
    for name, times in sorted(faults.count.items()):
        table.add_row(name, str(times), "", "")
    for name, seconds in sorted(faults.recovery_s.items()):
        table.add_row(
            f"  recovery after {name}",
            str(len(seconds)),
            f"{np.median(seconds):.1f} s",
            f"{max(seconds):.1f} s",
        )
    console.print(table)
    console.print(f"states: {dict(states)}")
    console.print(
        f"callbacks received: {len(receiver.received)}; pictures paid for: {len(provider.calls)}, "
        f"calls answered: {sum(provider.calls.values())}"
    )
    console.print("quiet after the load: " + ("never" if quiet_s is None else f"{quiet_s:.1f} s"))
    for name, ids in violations.items():
        console.print(f"[red]{len(ids)} x {name}[/]: {', '.join(ids[:5])}")
    console.print(
        f"[bold]{result['uploads']} uploads, {result['faults']} faults, "
        f"{result['violations']} violations[/] in {result['seconds']} s (seed {result['seed']}, "
        f"lease {LEASE_S:g} s, appendfsync always)"
    )


if __name__ == "__main__":
    raise SystemExit(main())
