"""Every decision, durable, in SQL: drained from the stream of events in Redis, exactly once.

The drain reads a piece of the stream, commits it in one transaction and only then trims the stream.
Killed in between, it reads the same events again; their stream ids are known by then and they are
left out. While SQL is away the events wait in Redis and moderation goes on.

Input: `events` of producer/store.py. Output: the table of ledger_table.py, about which
ledger_reads.py answers every question. Importing this module needs SQLAlchemy but neither numpy
nor onnxruntime.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis
import sqlalchemy as sa
import structlog
from sqlalchemy import exc

from producer.errors import ConfigurationError, LedgerUnavailable
from producer.settings import Settings
from producer.store import Store
from worker.ledger_counts import MICRO
from worker.ledger_reads import LedgerReads
from worker.ledger_table import events
from worker.sqlite_wal import WAIT_S, use_wal

log = structlog.get_logger()

#: Events of one transaction.
DRAIN_EVENTS = 1_000

#: Rows deleted in one transaction when their time is over.
EXPIRE_ROWS = 1_000

#: Seconds between two looks for rows whose time is over.
EXPIRE_EVERY_S = 3600.0

#: Seconds between two log lines that say the same.
SAY_AGAIN_S = 60.0

#: Seconds that a server may take to accept a connection.
CONNECT_TIMEOUT_S = 5

#: Seconds that one statement may take.
STATEMENT_TIMEOUT_S = 30

#: Where the migrations lie, beside this file.
MIGRATIONS = Path(__file__).parent / "migrations"

#: The last migration; a test holds it equal to the files.
HEAD = "0001"

#: SQLAlchemy's name of the driver that we install for each kind of server.
DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
}

#: Settings value that leaves the events in Redis.
OFF = "off"

#: Number of the lock under which only one process migrates at a time.
MIGRATION_LOCK = 7_302_645


class Ledger(LedgerReads):
    """Writes and reads. Safe to share between threads."""

    @classmethod
    def open(cls, settings: Settings) -> Ledger:
        """Connect, and bring the tables up to this version.

        Raises:
            ConfigurationError: the address cannot be used, a driver is not installed, or the tables
                are of a newer version than this program.
            LedgerUnavailable: the database does not answer.
        """
        engine = make_engine(settings)
        try:
            with _translated(engine.url):
                migrate(engine)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, settings.namespace)

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    def drain(self, store: Store, max_events: int = DRAIN_EVENTS) -> int:
        """Move up to `max_events` events from Redis into SQL; returns how many left the stream.

        Raises:
            LedgerUnavailable: nothing was committed; the events are still in Redis.
        """
        entries = store.events.first(max_events)
        if not entries:
            return 0
        rows = [to_row(self.namespace, stream_id, fields) for stream_id, fields in entries]
        with _translated(self.engine.url), write_transaction(self.engine) as connection:
            known = set(
                connection.scalars(
                    sa.select(events.c.stream_id).where(
                        events.c.namespace == self.namespace,
                        events.c.stream_id.in_([stream_id for stream_id, _ in entries]),
                    )
                )
            )
            fresh = [row for row in rows if row["stream_id"] not in known]
            if fresh:
                connection.execute(sa.insert(events), fresh)
        store.events.forget(entries[-1][0])
        return len(entries)

    def expire(self, before: float) -> int:
        """Delete events older than `before` (seconds since the epoch), a piece at a time."""
        total = 0
        oldest = (
            sa.select(events.c.id)
            .where(events.c.namespace == self.namespace, events.c.at < before)
            .order_by(events.c.at)
            .limit(EXPIRE_ROWS)
        )
        with _translated(self.engine.url):
            while True:
                with write_transaction(self.engine) as connection:
                    ids = list(connection.scalars(oldest))
                    connection.execute(sa.delete(events).where(events.c.id.in_(ids)))
                total += len(ids)
                if len(ids) < EXPIRE_ROWS:
                    return total


class LedgerDrain:
    """A sweeper's duty: each call wakes a thread that drains until the stream is empty.

    In a thread of its own, because a database that hangs must not hold up the doorbells. Two
    processes may drain at the same moment, when the sweeper's lock changes hands: the unique stream
    id lets one of them commit.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._ledger: Ledger | None = None
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._said_s = -math.inf
        self._expired_s = -math.inf
        make_engine(settings).dispose()

    def __call__(self) -> None:
        """Wake the thread; starts it with the first call."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
            self._thread.start()
        self._wake.set()

    def close(self, timeout_s: float = 5.0) -> None:
        """Drain once more what the last verdicts left, and stop."""
        self._stop.set()
        if self._thread is not None:
            self._wake.set()
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            self._drain_all()
            if self._stop.is_set():
                break
        if self._ledger is not None:
            self._ledger.close()

    def _drain_all(self) -> None:
        try:
            if self._ledger is None:
                self._ledger = Ledger.open(self._settings)
            while self._ledger.drain(self._store) == DRAIN_EVENTS:
                continue
            self._expire(self._ledger)
        except (LedgerUnavailable, ConfigurationError, redis.RedisError) as error:
            self._say("ledger_waits", error)
        except Exception as error:  # noqa: BLE001 - the events are safe in Redis; try again
            self._say("ledger_failed", error)

    def _expire(self, ledger: Ledger) -> None:
        if time.monotonic() - self._expired_s < EXPIRE_EVERY_S:
            return
        self._expired_s = time.monotonic()
        gone = ledger.expire(self._store.now() - self._settings.ledger_retention_days * 86400)
        if gone:
            log.info("ledger_expired", events=gone)

    def _say(self, event: str, error: Exception) -> None:
        if time.monotonic() - self._said_s < SAY_AGAIN_S:
            return
        self._said_s = time.monotonic()
        log.error(event, error=type(error).__name__, message=str(error)[:300])


# -- from an event to a row --------------------------------------------------------------------


def to_row(namespace: str, stream_id: str, fields: dict[str, str]) -> dict[str, Any]:
    """One event of the stream as a row; what is unreadable stays in `detail`, never refused."""
    try:
        detail = json.loads(fields.get("detail") or "{}")
    except ValueError:
        detail = {"unreadable": fields.get("detail", "")}
    if not isinstance(detail, dict):
        detail = {"value": detail}
    paid = [o for o in detail.get("opinions") or [] if _is_paid(o, detail)]
    at = _number(fields.get("at")) or int(stream_id.partition("-")[0]) / 1000
    created_at = _number(fields.get("created_at"))
    decided_by = str(detail.get("decided_by", ""))
    row = {
        "namespace": namespace,
        "stream_id": stream_id,
        "kind": fields.get("kind", "unknown"),
        "upload_id": fields.get("upload_id", ""),
        "seq": int(_number(fields.get("seq")) or 0),
        "from_state": fields.get("from", ""),
        "to_state": fields.get("to", ""),
        "at": at,
        "created_at": created_at,
        "region": fields.get("region") or str(detail.get("region", "")),
        "sha256": fields.get("sha256") or str(detail.get("sha256", "")),
        "probability": _number(detail.get("probability")),
        "raw_score": _number(detail.get("raw_score")),
        "style": str(detail.get("style", "")),
        "bundle": str(detail.get("bundle", "")),
        "policy": str(detail.get("policy", "")),
        "decided_by": decided_by,
        "tier": decided_by.partition(":")[0],
        "reason": str(detail.get("reason", "")),
        "provider": str(paid[-1].get("provider", "")) if paid else "",
        "provider_calls": len(paid),
        "cost_microyuan": sum(round((_number(o.get("cost_yuan")) or 0) * MICRO) for o in paid),
        "latency_s": None if created_at is None else round(at - created_at, 6),
        "step_s": _number(detail.get("waited_s")),
        "detail": json.dumps(detail),
    }
    return {name: _fitting(name, value) for name, value in row.items()}


def _is_paid(opinion: Any, detail: dict[str, Any]) -> bool:
    return isinstance(opinion, dict) and not detail.get("reused")


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _fitting(name: str, value: Any) -> Any:
    """Cut to the column's width and drop NUL, which PostgreSQL refuses: a row must never be."""
    if not isinstance(value, str):
        return value
    length = getattr(events.c[name].type, "length", None)
    return value.replace("\x00", "")[:length]


# -- connecting --------------------------------------------------------------------------------


def ledger_url(settings: Settings) -> sa.URL:
    """The configured database, or a SQLite file in the data folder.

    Raises:
        ConfigurationError: the address is malformed, of an unknown kind, or `off`.
    """
    text = settings.ledger_url.get_secret_value() if settings.ledger_url else ""
    if text == OFF:
        raise ConfigurationError("the ledger is switched off by AVATARMOD_LEDGER_URL=off")
    if not text:
        return sa.URL.create("sqlite", database=str(settings.data_folder / "ledger.sqlite3"))
    try:
        url = sa.make_url(text)
    except exc.ArgumentError:
        # The address may hold a password and is not repeated.
        raise ConfigurationError(
            "AVATARMOD_LEDGER_URL is no database address; write it like "
            "postgresql://user:password@host/avatarmod, mysql://... or sqlite:////path/file"
        ) from None
    kind = url.drivername.partition("+")[0]
    if kind != "sqlite" and kind not in DRIVERS:
        raise ConfigurationError(
            f"AVATARMOD_LEDGER_URL: {kind!r} is not known; use postgresql, mysql, mariadb or sqlite"
        )
    return url.set(drivername=DRIVERS.get(url.drivername, url.drivername))


def make_engine(settings: Settings) -> sa.Engine:
    """An engine that has not connected yet.

    Raises:
        ConfigurationError: the address cannot be used, or its driver is not installed.
    """
    url = ledger_url(settings)
    kind = url.get_backend_name()
    if kind == "sqlite":
        return _sqlite_engine(url)
    options: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_S}
    if kind == "postgresql":
        options["options"] = f"-c statement_timeout={STATEMENT_TIMEOUT_S * 1000}"
    else:
        options |= {"read_timeout": STATEMENT_TIMEOUT_S, "write_timeout": STATEMENT_TIMEOUT_S}
    try:
        return sa.create_engine(
            url, pool_size=2, max_overflow=3, pool_pre_ping=True, connect_args=options
        )
    except ModuleNotFoundError as error:
        extra = "postgresql" if kind == "postgresql" else "mysql"
        raise ConfigurationError(
            f"a {kind} ledger needs the Python package {error.name!r}; install it with: "
            f"pip install 'avatar-moderation[{extra}]'"
        ) from error


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    if url.database:
        folder = Path(url.database).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"the ledger's folder {folder} cannot be made: {error.strerror}"
            ) from error
    engine = sa.create_engine(url, connect_args={"timeout": WAIT_S})

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        # SQLAlchemy begins transactions itself, see below; the driver must not.
        connection.isolation_level = None
        # What was trimmed from Redis must survive a power cut here.
        use_wal(connection, synchronous="FULL")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


@contextlib.contextmanager
def write_transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that takes SQLite's write lock at its start, not half-way."""
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        yield connection


@contextlib.contextmanager
def _translated(url: sa.URL) -> Iterator[None]:
    """SQLAlchemy's errors in our words; without the statement, which holds data."""
    try:
        yield
    except (exc.DBAPIError, exc.TimeoutError) as error:
        cause = getattr(error, "orig", None) or error
        where = url.host or url.database or "its socket"
        raise LedgerUnavailable(
            f"the ledger's database ({url.get_backend_name()} at {where}) did not do it: "
            f"{type(cause).__name__}: {str(cause).splitlines()[0][:200] if str(cause) else ''}"
        ) from error


# -- migrations --------------------------------------------------------------------------------


def migrate(engine: sa.Engine) -> None:
    """Bring the tables up to this version; several processes may try at once.

    Raises:
        ConfigurationError: the tables are of a newer version than this program.
    """
    if _revision(engine) == HEAD:
        return  # without importing Alembic, which takes time and memory
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}
    with _migration_lock(engine), write_transaction(engine) as connection:
        present = _revision(engine)
        if present is not None and present not in known:
            raise ConfigurationError(
                f"the ledger's tables are of revision {present}, newer than this program knows "
                f"({HEAD}); upgrade the program, or restore a backup of the ledger"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _revision(engine: sa.Engine) -> str | None:
    """The tables' revision, or None in an empty database."""
    if not sa.inspect(engine).has_table("alembic_version"):
        return None
    with engine.connect() as connection:
        found = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return None if found is None else str(found)


@contextlib.contextmanager
def _migration_lock(engine: sa.Engine) -> Iterator[None]:
    """Held on a connection of its own, so that it outlives the commit that it protects.

    SQLite needs none: a write transaction there shuts out every other.
    """
    lock: sa.Select[Any]
    unlock: sa.Select[Any]
    if engine.dialect.name == "postgresql":
        lock = sa.select(sa.func.pg_advisory_lock(MIGRATION_LOCK))
        unlock = sa.select(sa.func.pg_advisory_unlock(MIGRATION_LOCK))
    elif engine.dialect.name in ("mysql", "mariadb"):
        name = f"avatarmod-{MIGRATION_LOCK}"
        lock = sa.select(sa.func.get_lock(name, STATEMENT_TIMEOUT_S - 5))
        unlock = sa.select(sa.func.release_lock(name))
    else:
        yield
        return
    with engine.connect() as connection:
        connection.execute(lock)
        try:
            yield
        finally:
            connection.execute(unlock)
