"""The ledger's database: its address, its connections, its migrations."""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from producer.errors import ConfigurationError, LedgerUnavailable
from producer.installed import how_to_install
from producer.settings import Settings
from producer.texts import say
from worker.ledger.sqlite import WAIT_S, use_wal

#: Seconds that a server may take to accept a connection.
CONNECT_TIMEOUT_S = 5

#: Seconds that one statement may take.
STATEMENT_TIMEOUT_S = 30

#: Where the migrations lie, beside this file.
MIGRATIONS = Path(__file__).parent / "migrations"

#: The last migration; a test holds it equal to the files.
HEAD = "0003"

#: SQLAlchemy's name of the driver that we install for each kind of server.
DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
}

#: Number of the lock under which only one process migrates at a time.
MIGRATION_LOCK = 7_302_645


def ledger_url(settings: Settings) -> sa.URL:
    """The configured database, or a SQLite file in the data folder.

    Raises:
        ConfigurationError: the address is malformed, of an unknown kind, or `off`.
    """
    if not settings.has_ledger:
        raise ConfigurationError("the ledger is switched off by AVATARMOD_LEDGER_URL=off")
    text = settings.ledger_url.get_secret_value() if settings.ledger_url else ""
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
            + how_to_install(extra)
        ) from error


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    if url.database:
        folder = Path(url.database).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                say(
                    "the ledger's folder {folder} cannot be made: {why}",
                    folder=str(folder),
                    why=error.strerror,
                )
            ) from error
    engine = sa.create_engine(url, connect_args={"timeout": WAIT_S})
    # Whoever leaves it open does not leave its files open: Python 3.13 warns of that.
    weakref.finalize(engine, engine.pool.dispose)

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
def translated(url: sa.URL) -> Iterator[None]:
    """SQLAlchemy's errors in our words; without the statement, which holds data."""
    try:
        yield
    except (exc.DBAPIError, exc.TimeoutError) as error:
        cause = getattr(error, "orig", None) or error
        where = url.host or url.database or "its socket"
        raise LedgerUnavailable(
            say(
                "the ledger's database ({kind} at {where}) did not do it: {error}: {words}",
                kind=url.get_backend_name(),
                where=where,
                error=type(cause).__name__,
                words=str(cause).splitlines()[0][:200] if str(cause) else "",
            )
        ) from error


# -- migrations --------------------------------------------------------------------------------


def migrate(engine: sa.Engine) -> None:
    """Bring the tables up to this version; several processes may try at once.

    Raises:
        ConfigurationError: the tables are of a newer version than this program.
    """
    if revision_of(engine) == HEAD:
        return  # without importing Alembic, which takes time and memory
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}
    with (
        _migration_lock(engine),
        _patient(engine) as patient,
        write_transaction(patient) as connection,
    ):
        present = revision_of(engine)
        if present is not None and present not in known:
            raise ConfigurationError(
                say(
                    "the ledger's tables are of revision {present}, newer than this program knows "
                    "({known}); upgrade the program, or restore a backup of the ledger",
                    present=present,
                    known=HEAD,
                )
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def revision_of(engine: sa.Engine) -> str | None:
    """The tables' revision, or None in an empty database."""
    if not sa.inspect(engine).has_table("alembic_version"):
        return None
    with engine.connect() as connection:
        found = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return None if found is None else str(found)


@contextlib.contextmanager
def _patient(engine: sa.Engine) -> Iterator[sa.Engine]:
    """The same database without a limit to a statement: an index over millions of rows takes long.

    SQLite has none.
    """
    if engine.dialect.name == "sqlite":
        yield engine
        return
    found = sa.create_engine(engine.url, poolclass=sa.NullPool)
    yield found
    found.dispose()


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
