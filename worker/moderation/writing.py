"""Writes verdicts in a thread of its own, for the model must not wait for Redis' disk."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import threading
import time
from collections.abc import Callable, Sequence

import structlog

from producer.contract import Avatar
from producer.metrics import LATENCY, Recorder
from producer.record.store import Advanced, Store, Transition, write_patiently
from worker.outcomes import Outcomes

log = structlog.get_logger()

#: Seconds that a verdict may wait for others to be written with it, while the model has more to do.
#: A write costs 1 ms of processor time, alone or with others (`benchmarks/through_queue.py`).
WRITE_EVERY_S = 0.2


class Writer:
    """The two threads of a process: one writes, one rings for the stages that come next."""

    def __init__(self, store: Store, outcomes: Outcomes, recorder: Recorder) -> None:
        self._store = store
        self._outcomes = outcomes
        self._recorder = recorder
        self._commits = concurrent.futures.ThreadPoolExecutor(1, "commit")
        # No verdict need wait for a doorbell.
        self._ringer = concurrent.futures.ThreadPoolExecutor(1, "ring")

    def close(self) -> None:
        """Stop the threads."""
        self._commits.shutdown(wait=False)
        self._ringer.shutdown(wait=False)

    def ring(self, what: Callable[..., object], *given: object) -> None:
        """Have somebody woken, soon."""
        self._ringer.submit(what, *given)

    def write(
        self, transitions: Sequence[Transition], stop: threading.Event
    ) -> concurrent.futures.Future[int]:
        """Begin to write, in one round trip; the answer is how many uploads were decided."""
        return self._commits.submit(self._commit, transitions, stop)

    def _commit(self, transitions: Sequence[Transition], stop: threading.Event) -> int:
        if not transitions:
            return 0
        results = write_patiently(lambda: self._store.advance(transitions), stop)
        self.ring(self._outcomes.wake, transitions)
        for transition, result in zip(transitions, results, strict=True):
            self._note(transition, result)
        return sum(result.applied for result in results)

    def _note(self, transition: Transition, result: Advanced) -> None:
        if result.applied:
            waited_s = max(0.0, time.time() - transition.avatar.created_at)
            self._recorder.observe(LATENCY, waited_s, transition.to)
            log.info(
                "verdict_reached",
                upload_id=transition.avatar.upload_id,
                state=transition.to.value,
                reason=transition.fields.get("reason", ""),
                probability=transition.fields.get("probability"),
            )
        else:
            # Our lease ran out, or Redis took the verdict and its answer was lost.
            log.info(
                "verdict_superseded",
                upload_id=transition.avatar.upload_id,
                state=result.state,
                seq=result.seq,
            )


@dataclasses.dataclass
class _Batch:
    """Verdicts to be written, and the uploads that are out of our hands with them."""

    verdicts: list[Transition] = dataclasses.field(default_factory=list)
    judged: list[Avatar] = dataclasses.field(default_factory=list)


class Writing:
    """What one drain has decided and not written yet; at most one write is under way.

    Args:
        writer: writes.
        stop: ends the patience with a Redis that is away.
        let_go: called for every upload whose verdict is written.
        tell: called in the other thread once a write has ended.
    """

    def __init__(
        self,
        writer: Writer,
        stop: threading.Event,
        *,
        let_go: Callable[[Avatar], None],
        tell: Callable[[], object],
    ) -> None:
        self._writer = writer
        self._stop = stop
        self._let_go = let_go
        self._tell = tell
        self._next = _Batch()
        self._under_way: tuple[concurrent.futures.Future[int], _Batch] | None = None
        self._began_s = time.monotonic()
        self.decided = 0

    def __len__(self) -> int:
        """How many uploads are decided and still in hand."""
        return len(self._next.judged) + (len(self._under_way[1].judged) if self._under_way else 0)

    def add(self, verdicts: Sequence[Transition], judged: Sequence[Avatar]) -> None:
        """Write these soon, with others."""
        self._next.verdicts += verdicts
        self._next.judged += judged
        if time.monotonic() - self._began_s >= WRITE_EVERY_S:
            self.begin()

    def use_idleness(self) -> None:
        """The model has nothing to do: write what is decided, unless a write is under way."""
        if self._under_way is None or self._under_way[0].done():
            self.begin()

    def begin(self) -> None:
        """Start to write what is decided, after the write that is under way."""
        self._wait()
        if self._next.judged:
            write = self._writer.write(self._next.verdicts, self._stop)
            write.add_done_callback(lambda _: self._tell())
            self._under_way = write, self._next
            self._next, self._began_s = _Batch(), time.monotonic()

    def finish(self) -> None:
        """Write all that is decided and wait for it; its uploads are out of our hands then.

        Raises:
            redis.RedisError: a write failed; its uploads are still in hand.
        """
        self.begin()
        self._wait()

    def _wait(self) -> None:
        if self._under_way is None:
            return
        (write, batch), self._under_way = self._under_way, None
        self.decided += write.result()
        for avatar in batch.judged:
            self._let_go(avatar)
