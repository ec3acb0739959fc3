"""How the time of everyday questions grows with what is kept: records, remembered pictures, ledger.

Fills a Valkey of its own and a SQLite ledger through the product's own code, then measures the
console's pages (without their few seconds of cache), `report`, the sweeper's tick, a claim and a
look into the memory of pictures. A larger ledger holds copies of the first one's uploads under
other ids, written by SQL. Each figure is the median of `--rounds`, the worst beside it, and the
processor time, which also holds on a machine that does other things.

    python -m benchmarks.growth [--quick] [--json] [--records 10000 300000] [--rows 300000 5000000]
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from fastapi.testclient import TestClient
from pydantic import SecretStr

from producer.connect import connect_store
from producer.contract import Avatar, AvatarState, Priority, Stage
from producer.logs import quiet_logging
from producer.metrics import Recorder
from producer.record.store import Store, Transition
from producer.web.app import create_app
from producer.web.console.cache import TimedCache
from producer.web.console.context import COOKIE
from producer.web.users import Role, Users
from worker.commands.api import build_parts, build_services
from worker.duties.alarm_duty import AlarmDuty
from worker.duties.sweeper import Sweeper
from worker.ledger.database import write_transaction
from worker.ledger.schema import events, sum_marks, sums, uploads
from worker.ledger.sums import Amounts
from worker.ledger.writer import Ledger
from worker.memory.memory import PictureMemory
from worker.process.valkey import EmbeddedValkey
from worker.settings import WorkerSettings
from worker.tools.files import pieces
from worker.tools.report import make_report

PASSWORD = "correct horse battery"

#: Uploads of one call to Redis, and events of one to the ledger.
PIECE = 500

#: Of 1,000 uploads: these wait for a person, these for the model; the rest is decided.
HELD, QUEUED = 5, 3

#: Of the ledger's uploads the first ones have reasons that no later one has; more of them have ids
#: that begin otherwise.
RARE, OLD = 100, 3_000

#: Days over which the ledger's events are spread.
DAYS = 90

PAGES = {
    "overview, 24 hours": "",
    "overview, 30 days": "?period=30d",
    "review, one by one": "/review",
    "review, grid": "/grid",
    "uploads": "/uploads",
    "uploads, blocked": "/uploads?state=blocked",
    "uploads in a state that none is in": "/uploads?state=rejected",
    "uploads, a common reason": "/uploads?reason=clear",
    "uploads, a rare reason": "/uploads?reason=second_veto",
    "uploads, blocked as minor": "/uploads?reason=minor",
    "uploads, a state and a reason that never meet": "/uploads?state=blocked&reason=clear",
    "uploads, ids that begin with u/ (all)": "/uploads?q=u/",
    "uploads, ids that begin with u/12": "/uploads?q=u/12",
    "uploads, ids that begin with old (the oldest 3,000)": "/uploads?q=old/",
    "uploads by hash": f"/uploads?q={hashlib.sha256(b'8').hexdigest()}",
    "a person": "/people/person-7",
    "one upload": "/uploads/u/7",
    "dead letters": "/dead-letters",
    "providers": "/providers",
    "thresholds": "/thresholds",
    "activity": "/activity",
}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--records", type=int, nargs="+", default=[10_000, 300_000])
    parser.add_argument("--rows", type=int, nargs="+", default=[300_000, 5_000_000])
    parser.add_argument("--memory", type=int, default=100_000, help="remembered pictures")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="2,000 of each, to see that it works")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.records, args.rows, args.memory, args.rounds = [1_000, 2_000], [2_000, 6_000], 2_000, 2
    quiet_logging()
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        found = measure(args, Path(folder))
    print(json.dumps(found, indent=2) if args.json else as_table(found))


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Fill step by step, and measure after each."""
    server = EmbeddedValkey(folder / "valkey")
    server.start()
    try:
        settings = WorkerSettings(
            data_folder=folder, redis_url=SecretStr(server.url), report_timezone="UTC"
        )
        ledger = Ledger.open(settings)
        store, now = connect_store(settings), time.time()
        # The cost of each write to the disk is not what is asked here.
        store.redis.config_set("appendfsync", "no")
        runs, records, rows = [], 0, 0
        steps = [(n, args.rows[0]) for n in args.records]
        steps += [(args.records[-1], n) for n in args.rows[1:]]
        for n, (want_records, want_rows) in enumerate(steps):
            say(f"filling: {want_records:,} records, {want_rows:,} rows")
            fill_records(store, records, want_records)
            if not rows:
                rows = fill_ledger(ledger, want_rows, now)
            elif want_rows > rows:
                rows = copy_ledger(ledger, rows, want_rows)
            if n == 0:
                fill_memory(store, args.memory)
            records = want_records
            times = dict(questions(settings, ledger, store, args.rounds))
            runs.append({"records": records, "rows": rows, "times_ms": times})
            # With what the measurement itself wrote.
            rows = ledger.last_id()
        ledger.close()
        store.close()
    finally:
        server.stop()
    return {"machine": machine(), "memory": args.memory, "runs": runs}


# -- filling -----------------------------------------------------------------------------------


def fill_records(store: Store, have: int, want: int) -> None:
    """Uploads as the web tier and the workers make them; every piece in one round trip each."""
    for piece in pieces(iter(range(have, want)), PIECE):
        avatars = [
            Avatar(upload_id=f"u/{n}", state=AvatarState.QUEUED, seq=1, subject=f"person-{n // 3}")
            for n in piece
        ]
        made = [avatar for _, avatar in store.submit_many(avatars, max_backlog=10**7)]
        store.advance([decided(a) for a, n in zip(made, piece, strict=True) if n % 1000 >= QUEUED])
        # The ledger gets rows of its own.
        store.events.guard(0)


def decided(avatar: Avatar) -> Transition:
    """What the model or nobody said of an upload."""
    number = int(avatar.upload_id.partition("/")[2])
    is_held = number % 1000 < QUEUED + HELD
    probability = 0.5 if is_held else 0.99 if number % 50 == 9 else 0.01
    to = (
        AvatarState.HELD if is_held else AvatarState("blocked" if probability > 0.9 else "approved")
    )
    said = {
        "probability": str(probability),
        "raw_score": str(probability),
        "reason": "gray" if is_held else "clear",
        "decided_by": "" if is_held else "model",
        "sha256": sha256(number),
    }
    return Transition(avatar=avatar, to=to, fields=said, leaves=Stage.MODERATE, detail=said)


def fill_ledger(ledger: Ledger, want: int, now: float) -> int:
    """Events of uploads of the last days, the oldest first; three or four each."""
    rng, have, number = random.Random(0), 0, 0
    while have < want:
        entries: list[tuple[str, dict[str, str]]] = []
        while len(entries) < 2 * PIECE:
            at = now - DAYS * 86400 * (1 - (have + len(entries)) / want)
            entries += story(number, at, rng)
            number += 1
        ledger.write(entries)
        have += len(entries)
    return have


def copy_ledger(ledger: Ledger, have: int, want: int) -> int:
    """All that there is as often as it takes, of the same times: sums are so many times higher."""
    copies = round(want / have)
    for n in range(1, copies):
        names = dict.fromkeys(("stream_id", "upload_id"), f".{have + n}")
        with write_transaction(ledger.engine) as connection:
            copy_rows(connection, events, events.c.id, have, n * have, names)
            copy_rows(connection, uploads, uploads.c.event_id, have, n * have, names)
    with write_transaction(ledger.engine) as connection:
        amounts = {name: sums.c[name] * copies for name in Amounts._fields}
        connection.execute(sa.update(sums).values(amounts))
        connection.execute(sa.update(sum_marks).values(last_id=copies * have))
    return copies * have


def copy_rows(
    connection: sa.Connection,
    table: sa.Table,
    number: sa.ColumnElement[int],
    last: int,
    further: int,
    names: dict[str, str],
) -> None:
    """All up to a number, under numbers so much higher, and with something added to other names."""
    values = [
        c + further if c is number else c + names[c.name] if c.name in names else c for c in table.c
    ]
    chosen = sa.select(*values).where(number <= last).order_by(number)
    connection.execute(table.insert().from_select(list(table.c.keys()), chosen))


def story(number: int, at: float, rng: random.Random) -> Iterator[tuple[str, dict[str, str]]]:
    """One upload's events: accepted, looked at, maybe decided by a person, its callback."""
    p = round(rng.betavariate(0.15, 3.0), 4)
    to, reason = (
        ("approved", "clear" if number >= RARE else "second_veto")
        if p < 0.05
        else ("blocked", "explicit")
        if p >= 0.95
        else ("held", "gray")
    )
    look = {
        "probability": p,
        "raw_score": p,
        "bundle": "bench@1",
        "policy": "1",
        "reason": reason,
        "sha256": sha256(number),
    }
    steps = [
        ("", "queued", {}, 0.0),
        ("queued", to, {**look, "decided_by": "model"}, rng.gammavariate(2, 0.3)),
    ]
    if to == "held":
        verdict = "blocked" if rng.random() < p else "approved"
        said = {**look, "decided_by": f"operator:{rng.choice(('ann', 'eve', 'kim'))}"}
        said |= {"reason": "overruled"}
        if verdict == "blocked":
            said |= {"block_reason": "minor" if number < RARE else "nudity"}
        steps.append(("held", verdict, said, rng.gammavariate(2, 1800)))
    site = "old" if number < OLD else "u"
    base = {"upload_id": f"{site}/{number}", "created_at": f"{at:.3f}"}
    for seq, (before, after, detail, wait_s) in enumerate(steps, 1):
        fields = {
            "from": before,
            "to": after,
            "at": f"{at + wait_s:.3f}",
            "detail": json.dumps(detail),
        }
        yield f"{int(at * 1000)}-{number * 10 + seq}", {
            **base, **fields, "kind": "transition", "seq": str(seq)
        }  # fmt: skip
    ended = {"from": "", "to": "delivered", "at": f"{at + wait_s + 0.1:.3f}", "detail": "{}"}
    yield f"{int(at * 1000)}-{number * 10}", {
        **base, **ended, "kind": "callback", "seq": str(len(steps))
    }  # fmt: skip


def fill_memory(store: Store, count: int) -> None:
    """Entries of a list, with random hashes."""
    rng = random.Random(1)
    store.memory.add_listed((rng.randbytes(32), "blocked", "") for _ in range(count))
    store.events.guard(0)


def sha256(number: int) -> str:
    """Of a picture that some share."""
    return hashlib.sha256(str(number // 2 * 2).encode()).hexdigest()


# -- measuring ---------------------------------------------------------------------------------


def questions(
    settings: WorkerSettings, ledger: Ledger, store: Store, rounds: int
) -> Iterator[tuple[str, list[float]]]:
    """(question, what `clock` gives)."""
    timed = functools.partial(clock, rounds=rounds)
    yield from pages(settings, timed)
    yield "report, as made", timed(lambda: make_report(ledger, settings, "day", 14))
    new = (story(n, time.time(), random.Random(n)) for n in itertools.count(time.time_ns()))
    write = lambda: ledger.write([e for each in itertools.islice(new, 100) for e in each])  # noqa: E731
    yield "ledger, events of 100 uploads written", timed(write)
    env = {**os.environ, "AVATARMOD_DATA_FOLDER": str(settings.data_folder)}
    command = [sys.executable, "-m", "producer.cli", "report"]
    run = functools.partial(subprocess.run, command, env=env, check=True, capture_output=True)
    yield "avatarmod report, with its start", timed(run)
    duty = AlarmDuty(store, settings, lambda: [], None)
    sweeper = Sweeper(
        store=store,
        ring=lambda _stage: None,
        name="bench",
        facts=lambda: {"role": "moderate", "stages": list(Stage)},
        stop=threading.Event(),
        recorder=Recorder(),
        duties={"alarms": duty},
    )
    yield "sweeper's tick", timed(sweeper.tick)

    back: dict[str, Any] = {"priority": Priority.NORMAL, "delay_s": 0.0, "token": "bench"}

    def claim() -> None:
        for one in store.claim(Stage.MODERATE, 32, lease_s=60, token="bench"):
            store.put_back(Stage.MODERATE, one.item, **back)

    yield "claim of 32, and each given back", timed(claim)
    memory = PictureMemory(store.memory, settings.data_folder / "memory.bin")
    yield "memory of pictures, first read", clock(memory.is_empty, rounds=1)
    prints = (random.Random(2).randbytes(32),)
    yield "memory of pictures, one look", timed(lambda: memory.find(prints, "", "0" * 64))


def pages(
    settings: WorkerSettings, timed: Callable[[Callable[[], Any]], list[float]]
) -> Iterator[tuple[str, list[float]]]:
    """The console's pages for somebody who is signed in."""
    services = build_services(settings)
    parts = build_parts(settings, services)
    with TestClient(create_app(services, parts), base_url="http://testserver") as client:
        state = client.app.state  # type: ignore[attr-defined]
        state.console = console = dataclasses.replace(state.console, cache=TimedCache(-1))
        user = Users(services.store).save("bench", Role.OPERATOR, PASSWORD)
        client.cookies.set(COOKIE, console.sessions.start(user))
        for name, path in PAGES.items():

            def get(path: str = path) -> None:
                answer = client.get(f"/console{path}", follow_redirects=False)
                assert answer.status_code == 200, (path, answer.status_code)

            yield name, timed(get)
    parts.close()
    services.images.close()


def clock(call: Callable[[], Any], *, rounds: int) -> list[float]:
    """[median by the clock, worst, median of processor time here and in children]: milliseconds."""
    times, worked = [], []
    for _ in range(rounds):
        started_s, before = time.perf_counter(), os.times()
        call()
        times.append((time.perf_counter() - started_s) * 1000)
        worked.append((sum(os.times()[:4]) - sum(before[:4])) * 1000)
    found = (statistics.median(times), max(times), statistics.median(worked))
    return [round(value, 2) for value in found]


def machine() -> str:
    """Processor and cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next(
        (one.partition(":")[2].strip() for one in lines if one.startswith("model name")), ""
    )
    return f"{name}, {os.cpu_count()} cores"


def as_table(found: dict[str, Any]) -> str:
    """For docs/performance.md."""
    runs = found["runs"]
    heads = [f"{run['records']:,} records, {run['rows']:,} rows" for run in runs]
    lines = [
        f"{found['machine']}; {found['memory']:,} remembered pictures",
        "Milliseconds: median by the clock, worst, median of processor time without Valkey's.",
        "",
        f"| | {' | '.join(heads)} |",
        f"|---|{'--:|' * len(runs)}",
    ]
    for name in runs[0]["times_ms"]:
        cells = ("{:,.1f}, {:,.1f}, {:,.0f}".format(*run["times_ms"][name]) for run in runs)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def say(text: str) -> None:
    """Progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
