"""Network namespaces stand in for hosts: real processes that meet over a network and nothing else.

Each host has interfaces, a loopback, an address and a host name of its own; a bridge joins them.
The process of the tests is a host too, at the bridge's own address: it is the web tier. A host can
be cut off while its processes live, as when a cable is pulled.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote

import redis

from producer.settings import Settings, load_settings
from tests.acceptance.brokers import Servers, free_port
from tests.acceptance.conftest import PATIENCE_S, SECRET, WebTierSide
from tests.support import wait_until
from worker.demo.webhook_receiver import Receiver
from worker.process.valkey import server_binary

#: Every name that we give to the kernel: the prefix, the process that made it, the host's number.
NAME = re.compile(r"^avm(\d+)(?:-\w+)?$")


@functools.cache
def why_not() -> str:
    """What keeps this machine from having hosts; empty when nothing does."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not shutil.which("ip"):
        return "there is no `ip`; on Debian: apt install iproute2"
    probe = f"avm{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "delete", probe], capture_output=True)
    return f"the kernel refuses: {made.stderr.strip()}" if made.returncode else ""


class Host:
    """One network namespace on the bridge; a `Place` for servers."""

    def __init__(self, name: str, namespace: str, address: str) -> None:
        self.name = name
        self.address = address
        #: Also the name of our end of its cable.
        self.namespace = namespace

    def command(self, arguments: list[str]) -> list[str]:
        """What starts a program on this host, under the host's own name."""
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name]
        return ["ip", "netns", "exec", self.namespace, *named, *arguments]

    def cut(self) -> None:
        """Pull the cable."""
        _ip("link", "set", self.namespace, "down")

    def mend(self) -> None:
        """Put it back."""
        _ip("link", "set", self.namespace, "up")


class Lan:
    """A bridge and the hosts on it; a context manager that leaves nothing behind."""

    def __init__(self) -> None:
        self._bridge = f"avm{os.getpid()}"
        self._hosts: dict[str, Host] = {}
        self._net = ""

    @property
    def address(self) -> str:
        """Where the hosts reach this process."""
        return f"{self._net}.1"

    def __enter__(self) -> Lan:
        remove_leftovers()
        self._net = _unused_net()
        _ip("link", "add", self._bridge, "type", "bridge", "forward_delay", "0")
        _ip("address", "add", f"{self.address}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for host in self._hosts.values():
            # A namespace goes when its last socket is gone; its cable need not stay so long.
            _ip("link", "delete", host.namespace)
            _remove_namespace(host.namespace)
        _ip("link", "delete", self._bridge)

    def host(self, name: str) -> Host:
        """The host of that name, made when it is first asked for."""
        if name not in self._hosts:
            number = len(self._hosts) + 2
            namespace = f"avm{os.getpid()}-{number}"
            host = Host(name, namespace, f"{self._net}.{number}")
            _ip("netns", "add", namespace)
            peer = ["peer", "name", "eth0", "netns", namespace]
            _ip("link", "add", namespace, "type", "veth", *peer)
            self._hosts[name] = host
            _ip("link", "set", namespace, "master", self._bridge, "up")
            _ip("-n", namespace, "link", "set", "lo", "up")
            _ip("-n", namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
            _ip("-n", namespace, "link", "set", "eth0", "up")
        return self._hosts[name]


def remove_leftovers() -> None:
    """End and delete what a killed run left: namespaces, their processes and links."""
    for line in _ip("netns", "list").splitlines():
        name = line.split()[0]
        if _is_leftover(name):
            _remove_namespace(name)
    for link in json.loads(_ip("-json", "link")):
        if _is_leftover(link["ifname"]):
            # It goes with its namespace, which may be just now.
            _ip("link", "delete", link["ifname"], gone="Cannot find device")


def _is_leftover(name: str) -> bool:
    match = NAME.match(name)
    return bool(match) and not Path(f"/proc/{match[1]}").exists()


def _remove_namespace(namespace: str) -> None:
    gone = "No such file"
    for pid in _ip("netns", "pids", namespace, gone=gone).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    _ip("netns", "delete", namespace, gone=gone)


def _ip(*arguments: str, gone: str = "") -> str:
    """What `ip` says; nothing when it says that what it should work on is `gone`."""
    run = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if gone and gone in run.stderr:
        return ""
    assert run.returncode == 0, f"ip {' '.join(arguments)}: {run.stderr.strip()}"
    return run.stdout


def _unused_net() -> str:
    """The first three numbers of a /24 that this machine has no address in."""
    taken = _ip("-brief", "address")
    return next(net for n in range(250) if f" {(net := f'198.18.{n}')}." not in taken)


class PictureServer:
    """The web tier's own pictures over HTTP, as a site serves them; a context manager."""

    def __init__(self, address: str) -> None:
        self.pictures: dict[str, bytes] = {}
        pictures = self.pictures

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                data = pictures.get(unquote(self.path.removeprefix("/")))
                self.send_response(404 if data is None else 200)
                self.send_header("content-length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Stay silent."""

        self._server = http.server.ThreadingHTTPServer((address, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{address}:{self._server.server_address[1]}"

    def __enter__(self) -> PictureServer:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Valkey(Servers):
    """One server with a password on a host of its own."""

    PASSWORD = "p@ss/w:rd#2"

    def __init__(self, folder: Path, host: Host) -> None:
        super().__init__(folder)
        self._host = host
        self._port = free_port()
        self.url = f"redis://:p%40ss%2Fw%3Ard%232@{host.address}:{self._port}/0"

    def __enter__(self) -> Valkey:
        config = self.folder / "valkey.conf"
        config.write_text(
            f'port {self._port}\nbind {self._host.address}\ndir "{self.folder}"\n'
            f'appendonly yes\nappendfsync everysec\nsave ""\nrequirepass "{self.PASSWORD}"\n'
        )
        self.spawn("valkey", self._host.command([server_binary(), str(config)]))
        with redis.Redis.from_url(self.url) as client:
            wait_until(lambda: _answers(client), PATIENCE_S, "Valkey answers")
        return self


def _answers(client: redis.Redis) -> bool:
    with contextlib.suppress(redis.RedisError):
        return bool(client.ping())
    return False


class Fleet(Servers, WebTierSide):
    """Workers on hosts, each with a data folder of its own, against one Redis.

    Args:
        folder: for data folders and logs.
        web_tier: hears of verdicts.
        network: where pictures and callbacks are, which is a private one.
        env: added to the environment of every worker and of our own producer.
    """

    def __init__(self, folder: Path, web_tier: Receiver, network: str, **env: str) -> None:
        super().__init__(folder)
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("AVATARMOD_")},
            "AVATARMOD_CALLBACK_URL": web_tier.url,
            "AVATARMOD_CALLBACK_SECRETS": SECRET,
            "AVATARMOD_PRIVATE_NETWORKS": network,
            "AVATARMOD_THREADS": "1",
            "AVATARMOD_MICRO_BATCH": "4",
            "AVATARMOD_LEASE_S": "3",
            "AVATARMOD_LOG_FORMAT": "json",
            # Events stay where the test can count them.
            "AVATARMOD_LEDGER_URL": "off",
            "PYTHONUNBUFFERED": "1",
            **env,
        }

    def start(self, **roles: Host) -> None:
        """Start a worker for each name, and wait until all are ready.

        Args:
            roles: name of the worker to its host; a name that begins with `io` is an io worker,
                any other a moderate worker.
        """
        for name, host in roles.items():
            role = "io" if name.startswith("io") else "moderate"
            command = [sys.executable, "-m", "producer.cli", "worker", role]
            data = self.folder / f"{name}-data"
            data.mkdir(exist_ok=True)
            env = {**self.env, "AVATARMOD_DATA_FOLDER": str(data)}
            self.spawn(name, host.command(command), env)
        for name in roles:
            wait_until(lambda name=name: self._is_ready(name), PATIENCE_S, f"{name} is ready")

    def _is_ready(self, name: str) -> bool:
        assert self.processes[name].poll() is None, self.tail(name)
        return any(line["event"] == "worker_ready" for line in self.log(name))

    def stop(self, name: str) -> None:
        """SIGTERM, and wait for the end."""
        process = self.processes.pop(name)
        process.terminate()
        assert process.wait(PATIENCE_S) == 0, self.tail(name)

    def log(self, name: str) -> list[dict[str, Any]]:
        """What one worker has logged, whole lines only."""
        text = (self.folder / f"{name}.log").read_text(errors="replace")
        whole = text[: text.rfind("\n") + 1]
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]

    def said(self, name: str, event: str) -> list[str]:
        """Uploads that one worker has logged an event of, each time that it has."""
        return [line["upload_id"] for line in self.log(name) if line["event"] == event]

    def tail(self, name: str = "") -> str:
        """The end of one log, or of all."""
        if name:
            return super().tail(name)
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"-- {log.stem}\n{super(Fleet, self).tail(log.stem)}" for log in logs)

    def settings(self) -> Settings:
        """Settings of a web tier on the network."""
        names = ["redis_url", "broker_url", "redis_replicas", "namespace", "callback_url"]
        names += ["private_networks"]
        variables = {name: f"AVATARMOD_{name.upper()}" for name in names}
        given = {n: self.env[v] for n, v in variables.items() if v in self.env}
        return load_settings(Settings, **given)
