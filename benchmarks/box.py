"""A small machine inside this one: one core, so much memory, and a watch on who takes how much.

Memory is held by a control group where this user may make one (version 2, else 1), else every
process gets an address space limit and the sum is only measured. What is reported: the kernel's own
peak of each process (VmHWM), and for the total the sum of proportional set sizes, because processes
share pages; sampled, so a peak shorter than a sample may be missed in the total.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Self

CGROUPS = Path("/sys/fs/cgroup")

#: Seconds between two looks at the memory of all processes.
SAMPLE_S = 0.25

#: Part of the command line -> what the process is called in reports, most telling first.
NAMES = {
    "worker.image.child": "decode",
    "worker moderate": "moderate",
    "worker io": "io",
    "producer.cli api": "api",
    "avatarmod api": "api",
    "avatarmod template": "template",
    "producer.cli up": "supervisor",
    "valkey": "valkey",
    "redis-server": "valkey",
}


class Box:
    """Where the stack lives; use as a context manager, then `start`."""

    def __init__(self, memory_bytes: int, core: int) -> None:
        self.memory_bytes = memory_bytes
        self.core = core
        self._group: Path | None = None
        self._is_v2 = (CGROUPS / "cgroup.controllers").exists()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        parent = CGROUPS if self._is_v2 else CGROUPS / "memory"
        group = parent / f"avatarmod-box-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            self._group = group
            limit = "memory.max" if self._is_v2 else "memory.limit_in_bytes"
            (group / limit).write_text(str(self.memory_bytes))
        if self._group and not self._holds():
            self._remove()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._remove()

    @property
    def how(self) -> str:
        """By which means the memory is held."""
        if self._group is None:
            return "an address space limit for each process; the sum is measured, not held"
        return f"a control group, version {2 if self._is_v2 else 1}"

    def start(
        self, command: Sequence[str], env: Mapping[str, str], log: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Start a process inside; its children stay inside."""

        def enter() -> None:
            os.sched_setaffinity(0, {self.core})
            if self._group is not None:
                (self._group / "cgroup.procs").write_text(str(os.getpid()))
            else:
                resource.setrlimit(resource.RLIMIT_AS, (2 * self.memory_bytes,) * 2)

        self._process = subprocess.Popen(
            command,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=enter,
        )
        return self._process

    def group_peak_mb(self) -> float | None:
        """What the control group held at most, with the files that the kernel keeps in memory."""
        if self._group is None:
            return None
        name = "memory.peak" if self._is_v2 else "memory.max_usage_in_bytes"
        try:
            return int((self._group / name).read_text()) / 2**20
        except OSError:
            return None

    def kills(self) -> int:
        """Processes ended by the kernel because memory ran out."""
        if self._group is None:
            return 0
        name = "memory.events" if self._is_v2 else "memory.oom_control"
        found = re.search(r"^oom_kill (\d+)", (self._group / name).read_text(), re.MULTILINE)
        return int(found[1]) if found else 0

    def _holds(self) -> bool:
        assert self._group is not None
        limit = "memory.max" if self._is_v2 else "memory.limit_in_bytes"
        with contextlib.suppress(OSError, ValueError):
            return int((self._group / limit).read_text()) == self.memory_bytes
        return False

    def _remove(self) -> None:
        if self._group is not None:
            with contextlib.suppress(OSError):
                self._group.rmdir()
            self._group = None


class MemoryWatch:
    """Samples a process and all its descendants in a thread; use as a context manager."""

    def __init__(self, root_pid: int) -> None:
        self.root_pid = root_pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        #: Process name -> its largest resident set, in MiB.
        self.peak_mb: dict[str, float] = {}
        #: Process name -> its proportional share when the total was largest, in MiB.
        self.at_peak_mb: dict[str, float] = {}
        self.peak_total_mb = 0.0
        self.swap_mb = 0.0
        #: The moderate worker's private memory now, in MiB.
        self.moderate_mb = 0.0
        #: Names -> process ids seen under it.
        self.pids: dict[str, set[int]] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self._look()

    def _look(self) -> None:
        shares: dict[str, float] = {}
        swap_mb = 0.0
        for pid in descendants(self.root_pid):
            with contextlib.suppress(OSError, KeyError):
                name = name_of(pid)
                status = _numbers(Path(f"/proc/{pid}/status"))
                self.pids.setdefault(name, set()).add(pid)
                self.peak_mb[name] = max(self.peak_mb.get(name, 0.0), status["VmHWM"] / 1024)
                shares[name] = shares.get(name, 0.0) + _share_kb(pid, status) / 1024
                swap_mb += status["VmSwap"] / 1024
        self.moderate_mb = shares.get("moderate", 0.0)
        self.swap_mb = max(self.swap_mb, swap_mb)
        if sum(shares.values()) > self.peak_total_mb:
            self.peak_total_mb, self.at_peak_mb = sum(shares.values()), shares


def _share_kb(pid: int, status: dict[str, int]) -> int:
    """Proportional set size; where only root may know it the resident set, which is more."""
    try:
        return _numbers(Path(f"/proc/{pid}/smaps_rollup"))["Pss"]
    except PermissionError:
        return status["VmRSS"]


def descendants(root_pid: int) -> Iterator[int]:
    """A process and all that came of it, by the process table."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    waiting = [root_pid]
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting += children.get(pid, [])


def cpu_seconds(root_pid: int) -> dict[str, float]:
    """Processor time so far by name; of children that ended, their parent's account counts.

    Source: proc(5), fields 14 to 17 of /proc/PID/stat.
    """
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    used: dict[str, float] = {}
    for pid in descendants(root_pid):
        with contextlib.suppress(OSError, ValueError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            name = name_of(pid)
            used[name] = used.get(name, 0.0) + sum(map(int, fields[11:15])) * tick_s
    return used


def name_of(pid: int) -> str:
    """What a process of the stack is called."""
    line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return next((name for part, name in NAMES.items() if part in line), "other")


def _numbers(path: Path) -> dict[str, int]:
    """Lines such as `VmHWM:  1234 kB` as numbers."""
    return {
        name: int(value)
        for name, value in re.findall(r"^(\w+):\s+(\d+) kB$", path.read_text(), re.MULTILINE)
    }
