"""Workers as copies of one process that has imported what they have in common.

What is imported is then in memory once instead of once a worker, and a worker starts in the time
that its own parts take. `Template` is the supervisor's side; `main` runs in the process that is
copied, which has one thread, reads no settings and opens nothing, so that a copy is as good as a
process of its own. When it ends, the kernel ends the copies, see supervised.py.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any

from setproctitle import setproctitle

from producer.errors import ConfigurationError
from producer.tracing import plain_redis
from worker.process.supervised import follow_supervisor
from worker.resources import hide_memory

#: What a worker that holds the model imports: it starts first and takes longest, so its copy is
#: made as soon as these are there.
_FIRST = ("producer.cli", "worker.commands.worker", "worker.app", "worker.roles.moderate")

#: What workers import; what is not installed is left out.
_COMMON = (*_FIRST, "worker.roles.io", "worker.ledger.drain", "worker.ledger.queries")

_TEMPLATE = "import sys; sys.path[:] = {path!r}; from worker.process.copies import main; main({fd})"

_STOPS = (signal.SIGTERM, signal.SIGINT)

#: What is settled when a process begins, for all its copies.
ENVIRONMENT = {
    # A process with several threads cannot be copied safely: NumPy's BLAS must not start its own.
    "OPENBLAS_NUM_THREADS": "1",
    # Each further arena keeps what its threads freed; these threads mostly wait.
    "MALLOC_ARENA_MAX": "2",
    "PYTHONUNBUFFERED": "1",
}

#: Seconds for the template to import and to answer on a slow, busy machine.
_ANSWER_TIMEOUT_S = 60.0
#: Seconds between two looks at which copies have ended.
_LOOK_EVERY_S = 0.1
#: Seconds between two looks while the end of a copy is waited for.
_WAIT_STEP_S = 0.05


class Copy:
    """One worker; what the supervisor uses of `subprocess.Popen`."""

    def __init__(self, pid: int, look: Callable[[], None]) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._look = look

    def poll(self) -> int | None:
        """Its exit code, that of `Popen`; None while it runs."""
        if self.returncode is None:
            self._look()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it still runs after so many seconds.
        """
        deadline_s = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline_s is not None and time.monotonic() > deadline_s:
                raise subprocess.TimeoutExpired(f"worker {self.pid}", timeout or 0.0)
            time.sleep(_WAIT_STEP_S)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal if it still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class Template:
    """The process that workers are copied from; started anew when it was lost."""

    def __init__(self) -> None:
        """Prepare."""
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Connection | None = None
        self._copies: dict[int, Copy] = {}

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it if it does not run; it imports while others do something else."""
        if self._link is not None:
            return
        self._link, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _TEMPLATE.format(path=sys.path, fd=theirs.fileno())],
                env={**ENVIRONMENT, **os.environ, "OPENBLAS_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def copy(self, arguments: Sequence[str], env: Mapping[str, str]) -> Copy:
        """Start a worker.

        Args:
            arguments: of the command `avatarmod`.
            env: its whole environment.

        Raises:
            ConfigurationError: no process can be started.
        """
        for _ in range(2):
            self.start()
            if (pid := self._ask({"arguments": list(arguments), "env": dict(env)})) is not None:
                copy = Copy(pid, self._look)
                self._copies[pid] = copy
                return copy
            self.stop()
        raise ConfigurationError("no worker process can be started; the log above says why")

    def stop(self) -> None:
        """End it, and what was copied from it."""
        if self._process is None or self._link is None:
            return
        self._link.close()
        self._process.kill()
        self._process.wait()
        self._process = self._link = None
        for pid, copy in self._copies.items():
            # Nobody can tell how it ends any more, so it ends now.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            copy.returncode = -signal.SIGKILL
        self._copies.clear()

    def _ask(self, request: dict[str, Any]) -> int | None:
        """The new copy's process id; None when the template is lost."""
        assert self._link is not None
        deadline_s = time.monotonic() + _ANSWER_TIMEOUT_S
        try:
            self._link.send_bytes(json.dumps(request).encode())
            while self._link.poll(max(0.0, deadline_s - time.monotonic())):
                answer = json.loads(self._link.recv_bytes())
                if "started" in answer:
                    return int(answer["started"])
                self._note_end(answer)
        except (OSError, EOFError):
            pass
        return None

    def _look(self) -> None:
        """Note which copies have ended; when the template has, all are ended."""
        if self._link is None:
            return
        try:
            while self._link.poll():
                self._note_end(json.loads(self._link.recv_bytes()))
        except (OSError, EOFError):
            self.stop()

    def _note_end(self, answer: dict[str, int]) -> None:
        copy = self._copies.pop(answer["ended"], None)
        if copy is not None:
            copy.returncode = answer["code"]


def main(fd: int) -> None:
    """Import, then become each worker that is asked for, in a copy."""
    link = Connection(fd)
    setproctitle("avatarmod template")
    # Its environment holds what the copies' do.
    hide_memory()
    # A stop is for the supervisor to decide: a service manager signals the whole group.
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)
    before = dict(os.environ)
    # Imports make little garbage, and looking for it takes a fifth of their time.
    gc.disable()
    left = [*_COMMON]
    while True:
        _tell_ends(link)
        if not link.poll(0 if left else _LOOK_EVERY_S):
            _import_next(left)
            continue
        try:
            request = json.loads(link.recv_bytes())
        except (OSError, EOFError):
            return
        is_first = request["arguments"][-1] == "moderate"
        while not {*left}.isdisjoint(_FIRST if is_first else _COMMON):
            _import_next(left)
        # What modules settle when they are imported, such as that nothing is reported to anybody.
        settled = {name: value for name, value in os.environ.items() if before.get(name) != value}
        # What stops a copy waits until the copy no longer ignores it.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        pid = os.fork()
        if pid == 0:
            link.close()
            _become(request["arguments"], request["env"] | settled)
            return
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        link.send_bytes(json.dumps({"started": pid}).encode())


def _import_next(left: list[str]) -> None:
    if left:
        with contextlib.suppress(ImportError), plain_redis():
            importlib.import_module(left.pop(0))


def _tell_ends(link: Connection) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            link.send_bytes(json.dumps({"ended": pid, "code": code}).encode())


def _become(arguments: list[str], env: dict[str, str]) -> None:
    """Run the command `avatarmod` as if it had been started so."""
    # The collector must not write into what copies share.
    gc.freeze()
    gc.enable()
    os.setsid()
    setproctitle(" ".join(["avatarmod", *arguments]))
    os.environ.clear()
    os.environ.update(env)
    follow_supervisor()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    sys.argv = ["avatarmod", *arguments]
    from producer.cli import main as run

    run()
