"""`avatarmod up`: the broker if embedded, the workers, one log stream, one clean end.

Children are real processes in sessions of their own; this process restarts what dies, with growing
pauses, and on SIGTERM or Ctrl-C stops the workers first, so that they give back or finish what they
hold, and the broker last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import redis
import structlog

from producer.connect import check_redis, redis_client
from producer.environment import ENV_PREFIX
from producer.errors import ConfigurationError
from producer.record.store import Store
from worker.process.copies import ENVIRONMENT, Copy, Template
from worker.process.instance import READY_TIMEOUT_S, alone_on, findable
from worker.process.supervised import SUPERVISED
from worker.process.valkey import EmbeddedValkey
from worker.resources import release_memory
from worker.settings import WorkerSettings

if TYPE_CHECKING:
    from producer.web.first_start import Access

log = structlog.get_logger()

#: Seconds for a worker to finish or give back what it holds, before it is killed.
STOP_TIMEOUT_S = 30.0

#: Seconds before a child that died is started again: the first pause, doubled up to the longest.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0

#: Seconds between two attempts to start a broker that does not stay.
VALKEY_PAUSE_S = 2.0

#: Free bytes without which the broker is not started again: it would end at its first write.
NEEDED_DISK_BYTES = 16 * 2**20

#: Seconds between two looks at the children's signs of life.
LOOK_EVERY_S = 2.0

#: Seconds without a sign of life, after which a child that runs is killed and started again. The
#: sign itself counts for 15 seconds, and loading the model may take `READY_TIMEOUT_S`.
FROZEN_S = 30.0

#: Seconds of life after which a death counts as the first one again.
HEALTHY_S = 5.0

#: What the `api` extra installs; without it, workers run alone.
API_PACKAGES = ("fastapi", "uvicorn", "jinja2", "argon2", "prometheus_client")

#: Exit code of a child whose configuration is wrong; starting it again cannot help.
EXIT_CONFIGURATION = 2


@dataclasses.dataclass
class Child:
    """One supervised process."""

    name: str
    #: Arguments of the command `avatarmod`.
    arguments: list[str]
    env: dict[str, str] = dataclasses.field(default_factory=dict)
    process: Copy | subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    pause_s: float = FIRST_PAUSE_S
    start_again_s: float = 0.0
    #: When it last showed life.
    seen_s: float = 0.0


class Supervisor:
    """Everything one machine runs. Use as a context manager, then `run_until`."""

    def __init__(
        self,
        settings: WorkerSettings,
        env: Mapping[str, str] | None = None,
        stop: threading.Event | None = None,
        template: Template | None = None,
    ) -> None:
        """Plan the processes.

        Args:
            settings: of this instance.
            env: added to the children's environment.
            stop: set while everything still starts, it ends the start.
            template: what workers are copied from, where it runs already.
        """
        self.settings = settings
        self._stop = stop or threading.Event()
        self._valkey = (
            None if settings.redis_url else EmbeddedValkey(settings.data_folder / "valkey")
        )
        self._env = {
            **ENVIRONMENT,
            **os.environ,
            **(env or {}),
            SUPERVISED: "1",
        }
        self._template = template or Template()
        self._children = [Child(name, arguments) for name, arguments in self._commands()]
        self._valkey_again_s = 0.0
        self._disk_is_full = False
        self._store: Store | None = None
        self._looked_s = 0.0
        #: What the first start made; to be shown once.
        self.access: Access | None = None
        self._stack = contextlib.ExitStack()

    def _commands(self) -> Iterator[tuple[str, list[str]]]:
        for number in range(1, self.settings.moderate_processes + 1):
            yield (f"moderate-{number}" if number > 1 else "moderate"), ["worker", "moderate"]
        yield "io", ["worker", "io"]
        if self.settings.api_port != 0 and all(map(importlib.util.find_spec, API_PACKAGES)):
            yield "api", ["api"]

    @property
    def redis_url(self) -> str:
        """The broker's address, embedded or not."""
        if self._valkey is not None:
            return self._valkey.url
        assert self.settings.redis_url is not None
        return self.settings.redis_url.get_secret_value()

    def pids(self) -> dict[str, int]:
        """Process ids of what runs now, by name; for measurements and fault tests."""
        pids = {c.name: c.process.pid for c in self._children if c.process is not None}
        if self._valkey is not None and self._valkey.pid is not None:
            pids["valkey"] = self._valkey.pid
        if self._template.pid is not None:
            pids["template"] = self._template.pid
        return pids

    def set_env(self, name: str, value: str, *, only: str) -> None:
        """Change one child's environment from its next start on; for fault tests."""
        for child in self._children:
            if child.name == only:
                child.env[name] = value

    # -- life ----------------------------------------------------------------------------------

    def __enter__(self) -> Supervisor:
        """Start everything and wait until every worker is ready.

        Raises:
            ConfigurationError: something cannot start; whatever had started is stopped again.
        """
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the workers, then the broker."""
        self._stack.close()

    def _start(self) -> None:
        folder = self.settings.data_folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._stack.enter_context(alone_on(folder))
        except OSError as error:
            raise ConfigurationError(
                f"{ENV_PREFIX}DATA_FOLDER: {folder} cannot be used ({error.strerror}); name a "
                "folder that this user may write to"
            ) from None
        self._template.start()
        self._stack.callback(self._template.stop)
        if self._valkey is not None:
            self._valkey.start()
            self._stack.callback(self._valkey.stop)
        client = redis_client(self.redis_url)
        self._stack.callback(client.close)
        check_redis(client, self.settings.namespace)
        self._env[f"{ENV_PREFIX}REDIS_URL"] = self.redis_url
        # The address of a configured Redis may hold a password; only the embedded one is written.
        embedded = self.redis_url if self._valkey is not None else ""
        self._stack.enter_context(findable(folder, embedded))
        self._stack.callback(self._stop_children)
        store = Store(client, self.settings.namespace)
        for child in self._children:
            if child.name == "api":
                from producer.web.first_start import ensure_access

                self.access = ensure_access(store, self.settings.data_folder)
            self._spawn(child)
        self._wait_ready(store)
        self._store = store
        release_memory()

    def _spawn(self, child: Child) -> None:
        child.started_s = time.monotonic()
        if not any(child.env.values()):
            child.process = self._template.copy(child.arguments, self._env)
            return
        # An environment of its own may concern what happens before any import.
        child.process = subprocess.Popen(
            [sys.executable, "-m", "producer.cli", *child.arguments],
            env={**self._env, **child.env},
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            start_new_session=True,
        )

    def _wait_ready(self, store: Store) -> None:
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline_s:
            if self._stop.is_set():
                raise KeyboardInterrupt
            self._refuse_misconfigured()
            ready = {fact["pid"] for fact in store.workers()}
            if all(c.process is not None and c.process.pid in ready for c in self._children):
                return
            time.sleep(0.05)
        raise ConfigurationError(
            f"the workers were not ready within {READY_TIMEOUT_S:g} s; the log above says why"
        )

    def _refuse_misconfigured(self) -> None:
        for child in self._children:
            code = child.process.poll() if child.process else None
            if code == EXIT_CONFIGURATION:
                raise _misconfigured(child)
            if code is not None:
                raise ConfigurationError(
                    f"the {child.name} worker ended with code {code}; the log above says why"
                )

    def run_until(self, stop: threading.Event) -> None:
        """Watch the children until `stop` is set; a child that died is started again.

        Raises:
            ConfigurationError: a child says that its configuration is wrong.
        """
        while not stop.wait(0.2):
            self.watch()

    def watch(self) -> None:
        """One look at every child."""
        now_s = time.monotonic()
        if (
            self._valkey is not None
            and not self._valkey.is_running()
            and now_s >= self._valkey_again_s
        ):
            self._valkey_again_s = now_s + VALKEY_PAUSE_S
            self._start_valkey_again(self._valkey)
        self._end_frozen(now_s)
        for child in self._children:
            if child.process is not None and child.process.poll() is not None:
                if child.process.returncode == EXIT_CONFIGURATION:
                    raise _misconfigured(child)
                if now_s - child.started_s > HEALTHY_S:
                    child.pause_s = FIRST_PAUSE_S
                # A worker leaves with code 0 of its own will, for example after a promotion.
                say = log.error if child.process.returncode else log.info
                say(
                    "worker_died" if child.process.returncode else "worker_left",
                    worker=child.name,
                    code=child.process.returncode,
                    restart_in_s=child.pause_s,
                )
                child.process = None
                child.start_again_s = now_s + child.pause_s
                child.pause_s = min(2 * child.pause_s, LONGEST_PAUSE_S)
            elif child.process is None and now_s >= child.start_again_s:
                self._spawn(child)

    def _end_frozen(self, now_s: float) -> None:
        """Kill a child that lives and has shown no life for long; `watch` starts it again.

        While Redis does not answer, nobody can show life and nobody is judged.
        """
        if self._store is None or now_s - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now_s
        try:
            here = socket.gethostname()
            alive = {fact["pid"] for fact in self._store.workers() if fact["host"] == here}
        except redis.RedisError:
            alive = {child.process.pid for child in self._children if child.process}
        for child in self._children:
            if child.process is None or child.process.pid in alive:
                child.seen_s = now_s
                continue
            has_lived = child.seen_s > child.started_s
            silent_s = now_s - (child.seen_s if has_lived else child.started_s + READY_TIMEOUT_S)
            if silent_s > FROZEN_S:
                log.error("worker_frozen", worker=child.name, silent_s=round(silent_s))
                child.process.kill()

    def _start_valkey_again(self, valkey: EmbeddedValkey) -> None:
        """On the same data; it ends by itself when it cannot write, so first there must be room."""
        folder = self.settings.data_folder
        free = shutil.disk_usage(folder).free
        if free < NEEDED_DISK_BYTES:
            if not self._disk_is_full:
                self._disk_is_full = True
                log.error(
                    "disk_full",
                    folder=str(folder),
                    free_mb=round(free / 2**20, 1),
                    needed_mb=NEEDED_DISK_BYTES // 2**20,
                    action="make room; the broker starts again by itself, nothing is lost",
                )
            return
        self._disk_is_full = False
        log.error("broker_died", action="starting it again on the same data")
        try:
            valkey.start()
        except (ConfigurationError, OSError, redis.RedisError) as error:
            log.error("broker_not_started", message=str(error)[:300], again_in_s=VALKEY_PAUSE_S)

    def _stop_children(self) -> None:
        running = [c for c in self._children if c.process is not None and c.process.poll() is None]
        for child in running:
            assert child.process is not None
            child.process.send_signal(signal.SIGTERM)
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        for child in running:
            assert child.process is not None
            try:
                child.process.wait(max(0.1, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.error("worker_killed", worker=child.name, after_s=STOP_TIMEOUT_S)
                child.process.kill()
                child.process.wait()

    def facts(self) -> dict[str, Any]:
        """What the banner says: broker, bundle, data folder."""
        client = redis_client(self.redis_url)
        try:
            workers = Store(client, self.settings.namespace).workers()
        finally:
            client.close()
        # Of an instance that ended a moment ago the store still remembers the last signs of life.
        ours = {child.process.pid for child in self._children if child.process is not None}
        store = "embedded Valkey" if self._valkey is not None else "configured Redis"
        broker = "a broker of its own, records in the " if self.settings.broker_url else ""
        return {
            "broker": broker + store,
            "workers": [worker for worker in workers if worker.get("pid") in ours],
            "data": str(self.settings.data_folder),
            "access": self.access,
        }


def _misconfigured(child: Child) -> ConfigurationError:
    return ConfigurationError(
        f"the configuration of the {child.name} worker is wrong; the log above says what to "
        "correct. Starting it again would not help, so everything stops; nothing is lost"
    )


def stop_on_signals() -> threading.Event:
    """An event that Ctrl-C or SIGTERM sets; a second Ctrl-C interrupts at once."""
    stop = threading.Event()

    def on_signal(number: int, _frame: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    return stop
