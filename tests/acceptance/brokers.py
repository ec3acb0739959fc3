"""Servers of other deployments than ours: Redis under Sentinel, and RabbitMQ.

Each server stands at a `Place`: the loopback of this machine, or a host of hosts.py.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import quote

import redis

from tests.support import wait_until
from worker.process.valkey import server_binary

#: Where Debian keeps the start script that runs as any user.
RABBITMQ_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")

#: Seconds for any of these servers to do what it is asked on a busy machine.
PATIENCE_S = 120.0


def free_port() -> int:
    """A port of the loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Place(Protocol):
    """Where a server runs: the address that others reach it under, and how to start it there."""

    address: str

    def command(self, arguments: list[str]) -> list[str]:
        """What starts a program in this place."""


class Loopback:
    """This machine, reached by nobody else."""

    address = "127.0.0.1"

    def command(self, arguments: list[str]) -> list[str]:
        """The program itself."""
        return arguments


class Servers:
    """Processes that end with the context, each with a log of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for name in list(self.processes):
            self.kill(name)

    def spawn(self, name: str, command: list[str], env: dict[str, str] | None = None) -> None:
        """Start a process in a session of its own."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=self.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """SIGKILL one process and whatever it started in its session."""
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def tail(self, name: str) -> str:
        """The end of one log."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]


class SentinelGroup(Servers):
    """A master, replicas and three Sentinels, all behind passwords; a context manager.

    Args:
        folder: for their data and logs.
        servers: the master's place, then those of its replicas.
        sentinels: the places of `s1` to `s3`.
    """

    MASTER = "avatars"
    PASSWORD = "p@ss/w:rd#1"
    SENTINEL_PASSWORD = "watch&men"

    def __init__(
        self,
        folder: Path,
        servers: Mapping[str, Place] | None = None,
        sentinels: Mapping[str, Place] | None = None,
    ) -> None:
        super().__init__(folder)
        self.binary = shutil.which("redis-server") or server_binary()
        servers = servers or dict.fromkeys(("one", "two"), Loopback())
        sentinels = sentinels or dict.fromkeys(("s1", "s2", "s3"), Loopback())
        self.first, *self.replicas = servers
        self.sentinels = tuple(sentinels)
        self.places: dict[str, Place] = {**servers, **sentinels}
        self.ports = {name: free_port() for name in self.places}

    @property
    def url(self) -> str:
        """As an operator would write it into AVATARMOD_REDIS_URL."""
        hosts = ",".join(
            f"{self.places[name].address}:{self.ports[name]}" for name in self.sentinels
        )
        return (
            f"redis+sentinel://:{quote(self.PASSWORD, safe='')}@{hosts}/0?master={self.MASTER}"
            f"&sentinel_password={quote(self.SENTINEL_PASSWORD, safe='')}"
        )

    def __enter__(self) -> SentinelGroup:
        self.start_server(self.first)
        for name in self.replicas:
            self.start_server(name, replica_of=self.first)
        wait_until(self._is_replicating, PATIENCE_S, "the replicas are in step")
        for name in self.sentinels:
            self._start_sentinel(name)
        wait_until(self._all_know_all, PATIENCE_S, "the Sentinels know each other")
        return self

    def start_server(self, name: str, replica_of: str = "") -> None:
        """Start, or start again on the same data, one Redis."""
        config = self.folder / f"{name}.conf"
        if not config.exists():
            folder = self.folder / name
            folder.mkdir()
            lines = [
                f"port {self.ports[name]}",
                f"bind {self.places[name].address}",
                f'dir "{folder}"',
                "appendonly yes",
                "appendfsync everysec",
                'save ""',
                "repl-diskless-sync-delay 0",
                f'requirepass "{self.PASSWORD}"',
                f'masterauth "{self.PASSWORD}"',
            ]
            if replica_of:
                master = self.places[replica_of].address
                lines.append(f"replicaof {master} {self.ports[replica_of]}")
            config.write_text("\n".join(lines) + "\n")
        self.spawn(name, self.places[name].command([self.binary, str(config)]))

    def _start_sentinel(self, name: str) -> None:
        config = self.folder / f"{name}.conf"
        config.write_text(
            f"port {self.ports[name]}\n"
            f"bind {self.places[name].address}\n"
            f'dir "{self.folder}"\n'
            f'requirepass "{self.SENTINEL_PASSWORD}"\n'
            f"sentinel monitor {self.MASTER} {self.places[self.first].address}"
            f" {self.ports[self.first]} 2\n"
            f'sentinel auth-pass {self.MASTER} "{self.PASSWORD}"\n'
            f"sentinel down-after-milliseconds {self.MASTER} 2000\n"
            f"sentinel failover-timeout {self.MASTER} 10000\n"
        )
        self.spawn(name, self.places[name].command([self.binary, str(config), "--sentinel"]))

    def ask(self, name: str, *command: str) -> Any:
        """One command to one server or Sentinel."""
        password = self.SENTINEL_PASSWORD if name in self.sentinels else self.PASSWORD
        with redis.Redis(
            host=self.places[name].address,
            port=self.ports[name],
            password=password,
            socket_timeout=5,
            decode_responses=True,
        ) as client:
            return client.execute_command(*command)

    def master(self) -> str:
        """Which server the Sentinels call the master."""
        _, port = self.ask(self.sentinels[0], "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.MASTER)
        return next(name for name, known in self.ports.items() if known == int(port))

    def role(self, name: str) -> str:
        """`master` or `slave`, as the server itself says; empty while it does not answer."""
        with contextlib.suppress(redis.RedisError):
            return str(self.ask(name, "ROLE")[0])
        return ""

    def _is_replicating(self) -> bool:
        with contextlib.suppress(redis.RedisError):
            return all(self.ask(name, "ROLE")[3] == "connected" for name in self.replicas)
        return False

    def _all_know_all(self) -> bool:
        with contextlib.suppress(redis.RedisError):
            for name in self.sentinels:
                answer = self.ask(name, "SENTINEL", "MASTER", self.MASTER)
                facts = answer if isinstance(answer, dict) else _pairs(answer)
                if int(facts["num-other-sentinels"]) != len(self.sentinels) - 1:
                    return False
                if int(facts["num-slaves"]) != len(self.replicas):
                    return False
            return True
        return False


def _pairs(flat: list[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


class RabbitMQ(Servers):
    """Debian's RabbitMQ on a folder and ports of its own; a context manager.

    Args:
        folder: for its data and logs.
        place: where it listens.
    """

    PASSWORD = "carrots-4-all"

    def __init__(self, folder: Path, place: Place | None = None) -> None:
        super().__init__(folder)
        self.place = place or Loopback()
        self.port = free_port()
        (folder / "plugins").write_text("[].")
        (folder / "rabbit.conf").write_text(
            f"default_user = avatars\ndefault_pass = {self.PASSWORD}\n"
        )
        self.env = {
            **os.environ,
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(free_port()),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbit.conf"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_NODENAME": f"avatarmod-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": self.place.address,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_PLUGINS_EXPAND_DIR": str(folder / "expand"),
            # One scheduler that sleeps when idle: the tests need no more.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
        }

    @property
    def url(self) -> str:
        """As an operator would write it into AVATARMOD_BROKER_URL."""
        return f"amqp://avatars:{self.PASSWORD}@{self.place.address}:{self.port}//"

    def __enter__(self) -> RabbitMQ:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, _)
        # The port mapper that Erlang started beside it.
        command = self.place.command(["epmd", "-kill"])
        subprocess.run(command, env=self.env, capture_output=True, check=False)

    def start(self) -> None:
        """Start, or start again on the same data, and wait until it accepts connections.

        Raises:
            AssertionError: it ended or did not come up; with the end of its log.
        """
        self.spawn("rabbitmq", self.place.command([str(RABBITMQ_SERVER)]), self.env)
        deadline_s = time.monotonic() + PATIENCE_S
        while not self._accepts():
            assert self.processes["rabbitmq"].poll() is None, self.tail("rabbitmq")
            assert time.monotonic() < deadline_s, self.tail("rabbitmq")
            time.sleep(0.2)

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.place.address, self.port)) == 0
