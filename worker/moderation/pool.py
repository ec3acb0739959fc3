"""Threads that do what is urgent first, and few things for the same key at a time."""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class _Job:
    work: Callable[[], object]
    key: str


class Pool:
    """Runs work in a few daemon threads; what it raises must be caught by the work itself.

    Args:
        threads: for everything.
        name: of the threads.
        spare: threads besides, for urgent work only.
        per_key: most pieces of work with the same key at a time, urgent ones not counted; 0: any.
    """

    def __init__(self, threads: int, name: str, *, spare: int = 0, per_key: int = 0) -> None:
        self._most = {True: spare, False: threads}
        self._name = name
        self._per_key = per_key
        self._jobs: dict[bool, collections.deque[_Job]] = {
            True: collections.deque(),
            False: collections.deque(),
        }
        self._running: collections.Counter[str] = collections.Counter()
        self._started = {True: 0, False: 0}
        self._idle = {True: 0, False: 0}
        self._changed = threading.Condition()
        self._closed = False

    def submit(self, work: Callable[[], object], *, urgent: bool = False, key: str = "") -> None:
        """Have something done; the most urgent and then the oldest comes first."""
        with self._changed:
            self._jobs[urgent].append(_Job(work, key))
            self._start(spare=False)
            if urgent:
                self._start(spare=True)
            self._changed.notify_all()

    def close(self) -> None:
        """Start nothing more; what runs goes on to its end."""
        with self._changed:
            self._closed = True
            for jobs in self._jobs.values():
                jobs.clear()
            self._changed.notify_all()

    def _start(self, *, spare: bool) -> None:
        if self._started[spare] < self._most[spare] and not self._idle[spare]:
            self._started[spare] += 1
            threading.Thread(target=self._run, args=(spare,), name=self._name, daemon=True).start()

    def _run(self, spare: bool) -> None:
        while (job := self._next(spare)) is not None:
            job.work()
            with self._changed:
                self._running[job.key] -= 1
                self._changed.notify_all()

    def _next(self, spare: bool) -> _Job | None:
        with self._changed:
            self._idle[spare] += 1
            try:
                while not self._closed:
                    job = self._pick(spare)
                    if job is not None:
                        self._running[job.key] += 1
                        return job
                    self._changed.wait()
                return None
            finally:
                self._idle[spare] -= 1

    def _pick(self, spare: bool) -> _Job | None:
        if self._jobs[True]:
            return self._jobs[True].popleft()
        if spare:
            return None
        for number, job in enumerate(self._jobs[False]):
            if not self._per_key or self._running[job.key] < self._per_key:
                del self._jobs[False][number]
                return job
        return None
