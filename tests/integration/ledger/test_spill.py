"""SQL is away for long: people are told, events wait in a file, and nothing is dropped."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from producer.record.store import Store
from producer.settings import Settings
from tests.integration.ledger.conftest import drop_tables, upload
from tests.support import submit, wait_until
from worker.duties.alarms import MANY_EVENTS, evaluate
from worker.duties.facts import gather
from worker.ledger import database, spill
from worker.ledger import drain as ledger_drain
from worker.ledger.drain import LedgerDrain
from worker.ledger.schema import events
from worker.ledger.writer import Ledger
from worker.settings import WorkerSettings
from worker.tools.checks_running import _ledger

Make = Callable[[Settings], LedgerDrain]

Away = tuple[WorkerSettings, Callable[[], object], Callable[[], object]]


@pytest.fixture(params=["sqlite", "postgresql"])
def away(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Away]:
    """Settings, what takes the database away, and what brings it back."""
    if request.param == "sqlite":
        path = tmp_path / "ledger.sqlite3"
        locks: list[sqlite3.Connection] = []

        def leave() -> None:
            locks.append(sqlite3.connect(path, isolation_level=None, check_same_thread=False))
            locks[-1].execute("BEGIN IMMEDIATE")

        def come() -> None:
            locks.pop().close()

        url = SecretStr(f"sqlite:///{path}")
        settings = WorkerSettings(data_folder=tmp_path, ledger_url=url, ledger_buffer_events=20)
        yield settings, leave, come
        for lock in locks:
            lock.close()
        return
    url = request.getfixturevalue("postgresql_url")
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    drop_tables(engine)
    place = sa.make_url(url).query
    [socket] = Path(str(place["host"])).glob(".s.PGSQL.*[0-9]")
    hidden = socket.with_name("hidden")

    def leave_server() -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        socket.rename(hidden)

    settings = WorkerSettings(
        data_folder=tmp_path, ledger_url=SecretStr(url), ledger_buffer_events=20
    )
    yield settings, leave_server, lambda: hidden.rename(socket)
    if hidden.exists():
        hidden.rename(socket)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "PIECE", 10)
    monkeypatch.setattr(ledger_drain, "FAULT_S", 0.0)
    monkeypatch.setattr(database, "WAIT_S", 0.1)


@pytest.fixture
def make_drain(store: Store) -> Iterator[Make]:
    """Makes what moves events; to be called by hand."""
    made: list[LedgerDrain] = []

    def make(settings: Settings) -> LedgerDrain:
        made.append(LedgerDrain(settings, store))
        return made[-1]

    yield make
    for drain in made:
        drain._spill.close()
        if drain._ledger is not None:
            drain._ledger.close()


def rows(settings: Settings) -> list[tuple[str, int]]:
    """(upload, seq) as the ledger has them, in its order."""
    book = Ledger.open(settings)
    with book.engine.connect() as connection:
        query = sa.select(events.c.upload_id, events.c.seq).order_by(events.c.id)
        found = [(str(row[0]), int(row[1])) for row in connection.execute(query)]
    book.close()
    return found


def test_events_wait_in_a_file_and_come_in_order(
    away: Away, store: Store, make_drain: Make
) -> None:
    """Beyond what Redis shall hold; each is there once, in the order that it happened."""
    settings, leave, come = away
    upload(store, "before")
    drain = make_drain(settings)
    drain._drain_all()
    leave()
    for number in range(60):
        upload(store, f"u{number}")
    drain._drain_all()
    assert store.events.count() <= 20
    assert not drain._spill.is_empty()
    assert drain.fault
    come()
    drain._drain_all()
    assert drain._spill.is_empty()
    assert store.events.count() == 0
    assert store.events.dropped() == 0
    assert drain.fault == ""
    names = ["before", *(f"u{number}" for number in range(60))]
    assert rows(settings) == [(name, seq) for name in names for seq in (1, 2)]


def test_people_are_told_and_the_doctor_looks_at_sql(away: Away, store: Store) -> None:
    """From 10,000 waiting events on, or when a worker has met the fault for a minute."""
    settings, leave, come = away
    Ledger.open(settings).close()
    assert _ledger(store, settings).status == "fine"
    pipe = store.redis.pipeline(transaction=False)
    for _ in range(MANY_EVENTS):
        pipe.xadd(store.key("events"), {"kind": "audit"})
    pipe.execute()
    [alarm] = [a for a in evaluate(gather(store, settings), settings) if a.code == "ledger_behind"]
    assert alarm.severity == "critical"
    assert "10000" in alarm.message.replace(",", "")
    leave()
    check = _ledger(store, settings)
    come()
    assert check.status == "critical"
    assert "10,000 events wait" in check.message


def test_a_worker_says_what_is_wrong_with_sql(store: Store, tmp_path: Path) -> None:
    """In its sign of life, from where alarms take it."""
    settings = WorkerSettings(data_folder=tmp_path, ledger_buffer_events=20)
    store.show_life("io", {"stages": [], "ledger_fault": "the database is away"})
    [alarm] = [a for a in evaluate(gather(store, settings), settings) if a.code == "ledger_behind"]
    assert "the database is away" in alarm.message


def test_a_full_disk_is_said_and_nothing_leaves_redis(
    away: Away, store: Store, make_drain: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a line may be written; it counts as nothing, and all comes in later."""
    settings, leave, come = away
    drain = make_drain(settings)
    drain._drain_all()
    leave()
    for number in range(30):
        upload(store, f"u{number}")
    real = os.write
    sent: list[int] = []

    def full(descriptor: int, data: bytes) -> int:
        sent.append(len(data))
        if len(sent) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, bytes(data)[:700])

    monkeypatch.setattr(spill.os, "write", full)
    drain._drain_all()
    monkeypatch.setattr(spill.os, "write", real)
    assert store.events.count() == 60
    assert "No space left" in drain.fault
    drain._drain_all()
    assert store.events.count() <= 20
    come()
    drain._drain_all()
    assert rows(settings) == [(f"u{number}", seq) for number in range(30) for seq in (1, 2)]


def test_killed_at_any_moment_nothing_is_lost_or_doubled(
    store: Store, tmp_path: Path, make_drain: Make
) -> None:
    """Kill -9 while it spills and while it brings in, again and again."""
    sql = tmp_path / "sql"
    settings = WorkerSettings(
        data_folder=tmp_path, ledger_url=SecretStr(f"sqlite:///{sql}/ledger.sqlite3")
    )
    server = store.redis.connection_pool.connection_kwargs["path"]
    code = (
        "import sys, redis\n"
        "from pathlib import Path\n"
        "from pydantic import SecretStr\n"
        "from producer.record.store import Store\n"
        "from worker.ledger import drain as ledger_drain, spill\n"
        "from worker.settings import WorkerSettings\n"
        "spill.PIECE = 10\n"
        "client = redis.Redis(unix_socket_path=sys.argv[1], decode_responses=True)\n"
        "url = SecretStr(sys.argv[3])\n"
        "settings = WorkerSettings(\n"
        "    data_folder=Path(sys.argv[2]), ledger_url=url, ledger_buffer_events=20)\n"
        "drain = ledger_drain.LedgerDrain(settings, Store(client))\n"
        "print('ready', flush=True)\n"
        "while True: drain._drain_all()\n"
    )
    url = f"sqlite:///{sql}/ledger.sqlite3"
    command = [sys.executable, "-c", code, str(server), str(tmp_path), url]
    number = 0
    for turn in range(6):
        if turn % 2 == 0:
            if sql.is_dir():
                sql.rename(tmp_path / "hidden")
            sql.write_text("away")
        else:
            sql.unlink()
            if (tmp_path / "hidden").exists():
                (tmp_path / "hidden").rename(sql)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(80):
            submit(store, f"u{number:03d}")
            number += 1
        time.sleep(0.02 * turn)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    drain = make_drain(settings)
    drain._drain_all()
    wait_until(lambda: store.events.count() == 0, 30, "all is drained")
    assert sorted(rows(settings)) == [(f"u{n:03d}", 1) for n in range(number)]
