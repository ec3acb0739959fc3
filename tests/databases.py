"""Database servers of Debian's packages, for the tests of several tiers.

Each runs on a Unix socket in a temporary folder, as the user `nobody` where the tests run as root.
Absent servers skip on a laptop and fail in CI.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa


@dataclasses.dataclass(frozen=True)
class MariaDb:
    """A server with the empty database `avatarmod`, whose user root has no password."""

    url: str
    socket: Path


def binary(name: str, *folders: str) -> str:
    """Where a server's program is."""
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


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def as_nobody(command: list[str]) -> list[str]:
    """Database servers refuse to run as root."""
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]


def own(folder: Path) -> bool:
    """Give a folder to `nobody` where we are root; whether we are."""
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
def server(
    command: list[str], url: str, sock: Path, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A server, from its first answer to its end."""
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


@contextlib.contextmanager
def mariadb(folder: Path) -> Iterator[MariaDb]:
    """A MariaDB with its data in `folder`."""
    install, mariadbd = binary("mariadb-install-db"), binary("mariadbd", "/usr/sbin")
    root = own(folder)
    wrap: Callable[[list[str]], list[str]] = as_nobody if root else list
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
    with server(wrap(command), base.format("mysql"), sock, folder / "log"):
        engine = sa.create_engine(base.format("mysql"), poolclass=sa.NullPool)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE DATABASE avatarmod")
        yield MariaDb(base.format("avatarmod"), sock)
