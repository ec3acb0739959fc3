"""Faults under load, then the accounts: is every upload decided once, and was everybody told?

Starts the real thing (Valkey, moderate and io worker, API, under the supervisor), enqueues at a
steady rate while two people decide what is held, kills and breaks parts by a seeded plan, waits for
quiet, and checks every single upload from outside (SQL, callbacks, GET) and in Redis:

- its record ends in exactly one final state, or held for a person, or dead with a dead letter;
- its transitions in the ledger are legal and numbered without a gap, no seq comes twice, one final
  verdict stands there exactly once; where Redis was emptied, a new story begins with a higher seq;
- every transition's callback was received at least once, signed, under one id of its own;
- what a person was told is decided is in the ledger, holds for the same picture, and nothing of it
  is half done;
- nothing is left in a lease or due, and the ledger has drained every event into SQL;
- budget, ledger, metric and report agree on the money that was paid, to the fen.

As root on Linux the data folder lies on a small disk of its own, which a fault fills; with faketime
installed a fault sets Redis' clock back.
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
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import redis
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.chaos_checks import Accounts, money_books
from benchmarks.chaos_faults import FAKETIME, Faults
from benchmarks.chaos_people import People
from benchmarks.chaos_servers import Behaviour, ReviewStub
from benchmarks.chaos_web_tier import WebTier, free_port
from benchmarks.nasty import KINDS, NastyReceiver
from producer.connect import connect_store
from producer.logs import quiet_logging
from producer.record.endpoints import Endpoints
from producer.record.keyspace import callback_line, endpoint_name
from producer.record.store import Store
from producer.settings import load_settings
from worker.demo.webhook_receiver import Receiver
from worker.ledger.writer import Ledger
from worker.process import valkey
from worker.process.supervisor import Supervisor
from worker.settings import WorkerSettings

LEASE_S = 5.0

#: Seconds after its start at which a quick run's load ends, and at which it must be quiet.
QUICK_LOAD_S, QUICK_QUIET_S = 22.0, 45.0

#: Size of the disk that is filled.
DISK = "2g"

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
    api_port = free_port()
    started_s = time.monotonic()
    with (
        _disk() as (folder, disk),
        Receiver(secret, fails=receiver_behaviour.fails) as receiver,
        contextlib.ExitStack() as stack,
    ):
        nasty = [stack.enter_context(NastyReceiver(kind)).url for kind in KINDS]
        os.environ.update(
            _environment(folder, receiver.url, secret, provider.url, token, nasty, api_port)
        )
        settings = load_settings(WorkerSettings)
        clock = _clock(folder)
        with Supervisor(settings) as supervisor, contextlib.ExitStack() as watching:
            watching.enter_context(_watched(supervisor))
            store = connect_store(settings)
            api = f"http://127.0.0.1:{api_port}"
            web_tier = WebTier(settings, options.rate, options.seed, nasty, api)
            people = People(folder, {"AVATARMOD_REDIS_URL": supervisor.redis_url})
            stack.callback(people.stop)
            faults = Faults(
                supervisor,
                store,
                receiver_behaviour,
                provider.behaviour,
                web_tier,
                people,
                options.seed,
                lease_s=LEASE_S,
                disk=disk,
                clock=clock,
            )
            seconds = options.minutes * 60
            if options.quick:
                seconds = max(6.0, started_s + QUICK_LOAD_S - time.monotonic())
            console.print(f"{seconds:.0f} s of load at {options.rate}/s, seed {options.seed}")
            _run(web_tier, people, faults, seconds, options.every, console)
            faults.heal()
            people.stop()
            web_tier.bring_again(faults.lost)
            shut_off = _shut_off(store, nasty)
            limit_s = started_s + QUICK_QUIET_S - time.monotonic() if options.quick else 900.0
            quiet_s = _wait_for_quiet(store, console, limit_s, shut_off)
            _forget(store, nasty)
            violations = _check(settings, store, receiver, web_tier, people, faults, quiet_s)
            states = Counter(
                str(a.state) if a else "forgotten" for a in store.get_many(web_tier.accepted)
            )
            watching.close()
            store.redis.close()
            if options.quick:
                _kill_all(supervisor)
    provider.close()
    result = {
        "uploads": len(web_tier.accepted),
        "faults": sum(faults.count.values()),
        "violations": sum(len(ids) for ids in violations.values()),
        "seed": options.seed,
        "seconds": round(time.monotonic() - started_s, 1),
    }
    console.print(
        f"restored: {dict(faults.restored)}; brought again: {len(web_tier.brought_again)} of "
        f"{len(faults.lost)} that the ledger had not heard of in full"
    )
    _report(console, result, faults, states, violations, quiet_s, receiver, provider)
    if options.json:
        print(json.dumps(result))
    return 1 if result["violations"] else 0


@contextlib.contextmanager
def _watched(supervisor: Supervisor) -> Iterator[None]:
    """What dies is started again, until here."""
    stop = threading.Event()
    watcher = threading.Thread(target=supervisor.run_until, args=(stop,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


@contextlib.contextmanager
def _disk() -> Iterator[tuple[Path, Path | None]]:
    """A data folder, and the disk of its own on which it lies, where we may make one."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as place:
        disk = Path(place)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "chaos", place]
        is_ours = os.geteuid() == 0 and subprocess.run(mount, check=False).returncode == 0
        try:
            folder = disk / "data"
            folder.mkdir()
            yield folder, disk if is_ours else None
        finally:
            if is_ours:
                subprocess.run(["umount", "--lazy", place], check=False)


def _clock(folder: Path) -> Path | None:
    """Let the embedded Valkey tell the time that a file says; None where that cannot be."""
    if not FAKETIME.exists():
        return None
    offset, server = folder / "clock", folder / "valkey-server"
    offset.write_text("+0\n")
    server.write_text(
        "#!/bin/sh\n"
        f"LD_PRELOAD={FAKETIME} FAKETIME_TIMESTAMP_FILE={offset} FAKETIME_CACHE_DURATION=1 "
        f'DONT_FAKE_MONOTONIC=1 exec {valkey.server_binary()} "$@"\n'
    )
    server.chmod(0o700)
    valkey.server_binary = lambda: str(server)
    return offset


def _kill_all(supervisor: Supervisor) -> None:
    """End at once: the accounts are closed and nothing here is wanted any more."""
    for pid in supervisor.pids().values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _shut_off(store: Store, urls: Sequence[str]) -> set[str]:
    """Send nothing more to the nasty receivers; returns their lines."""
    names = {endpoint_name(url) for url in urls}
    for name in names:
        store.redis.hset(store.keys.endpoint(name), "disabled", "given up")
    return {callback_line(name) for name in names}


def _forget(store: Store, urls: Sequence[str]) -> None:
    """Give up what waits for the nasty receivers, as an operator would."""
    endpoints = Endpoints(store, disable_after_s=float("inf"))
    for url in urls:
        deadline_s = time.monotonic() + 60
        while not endpoints.forget(endpoint_name(url), drop=True)[0]:
            assert time.monotonic() < deadline_s, f"{url} cannot be forgotten"
            time.sleep(0.2)


def _check(
    settings: WorkerSettings,
    store: Store,
    receiver: Receiver,
    web_tier: WebTier,
    people: People,
    faults: Faults,
    quiet_s: float | None,
) -> dict[str, list[str]]:
    """The accounts; that it never became quiet is a violation of its own."""
    ledger_file = settings.data_folder / "ledger.sqlite3"
    ledger = Ledger.open(settings)
    try:
        accounts = Accounts(
            store, ledger_file, receiver.received, web_tier, faults.lost, people.words()
        )
        violations = accounts.check(web_tier.accepted)
        violations |= faults.complaints
        for which, books in money_books(store, ledger, ledger_file, settings).items():
            if max(books.values()) - min(books.values()) > 0.005:
                named = [f"{name}: {yuan:.4f}" for name, yuan in books.items()]
                violations[f"books of money differ {which}"] = named
            if not books["ledger"] and which == "of the whole run":
                violations["no gray picture was reviewed"] = ["see the pictures of WebTier"]
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
    folder: Path,
    callback: str,
    secret: SecretStr,
    provider: str,
    token: str,
    nasty: Sequence[str],
    api_port: int,
) -> dict[str, str]:
    """The stack's settings: short times, so that a run of seconds sees what hours would."""
    return {
        "AVATARMOD_DATA_FOLDER": str(folder),
        "AVATARMOD_LOG_LEVEL": "error",
        "AVATARMOD_LOG_FORMAT": "json",
        "AVATARMOD_LEASE_S": str(LEASE_S),
        "AVATARMOD_CALLBACK_URL": callback,
        "AVATARMOD_CALLBACK_SECRETS": secret.get_secret_value(),
        "AVATARMOD_CALLBACK_SCHEDULE_S": "1,1,2,2,3,3,5,5,10,10,20",
        "AVATARMOD_PRIVATE_NETWORKS": "127.0.0.0/8",
        "AVATARMOD_CALLBACK_TIMEOUT_S": "4",
        "AVATARMOD_CALLBACK_ALLOWED_URLS": ",".join(nasty),
        "AVATARMOD_HUGGINGFACE_YUAN_PER_1000": "1.5",
        "AVATARMOD_REVIEW_DAILY_YUAN": "",
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
        "AVATARMOD_API_PORT": str(api_port),
        "AVATARMOD_API_RATE_PER_S": "1000",
        "AVATARMOD_LEDGER_BUFFER_EVENTS": "300",
    }


def _run(
    web_tier: WebTier,
    people: People,
    faults: Faults,
    seconds: float,
    every_s: float,
    console: Console,
) -> None:
    started_s = time.monotonic()
    next_fault_s = started_s + every_s
    next_line_s = started_s + 30
    while time.monotonic() - started_s < seconds:
        web_tier.enqueue_next()
        web_tier.pace(started_s)
        people.watch()
        now_s = time.monotonic()
        if now_s >= next_fault_s and now_s < started_s + seconds - CALM_S:
            next_fault_s = now_s + every_s
            faults.inject()
        if now_s >= next_line_s:
            next_line_s = now_s + 30
            console.print(
                f"{now_s - started_s:6.0f} s  {len(web_tier.accepted)} uploads, "
                f"{sum(faults.count.values())} faults"
            )


def _wait_for_quiet(
    store: Store, console: Console, limit_s: float, shut_off: set[str]
) -> float | None:
    """Seconds until nothing is due, leased, undecided or undrained; None: that did not come."""
    started_s = time.monotonic()
    busy: dict[str, Any] = {}
    while time.monotonic() - started_s < limit_s:
        with contextlib.suppress(redis.RedisError, OSError):
            open_counts = store.open_counts()
            lines = set(store.lines()) - shut_off
            busy = {line: w for line in lines if any((w := store.waiting(line)).values())}
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
