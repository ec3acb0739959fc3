"""The moderating loop: claim up to 32 uploads, fetch and decode ahead, score in micro-batches.

Input is the line `moderate` of the store; output are transitions. Every upload has its own outcome:
a damaged picture is rejected alone, a store that does not answer postpones one upload, an error of
the model ends the uploads of one micro-batch one by one. Fetching and decoding run in threads ahead
of the model, bounded, so the model rarely waits and memory does not grow with the batch.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import redis
import structlog

from producer.contract import Avatar, AvatarState, Priority, Region, Stage
from producer.errors import WorkerKilled
from producer.metrics import LATENCY, Recorder
from producer.store import Advanced, Lease, Store, Transition, write_patiently
from producer.tracing import span
from worker import retry
from worker.judging import Engine, Judge, Prepared
from worker.outcomes import Outcomes
from worker.policy import Policy

log = structlog.get_logger()

#: Decoded pictures that may wait for the model, besides the micro-batch that it takes next.
#: A picture of many frames is 7 MB for the recommended model (16 views of 384 px).
READY_AHEAD = 2

#: Claim more while fewer uploads than this are in hand, so that the model never runs dry.
LOW_WATER = 8

#: Seconds that a verdict may wait for others to be written with it, while the model has more to do.
#: A write costs 1 ms of processor time, alone or with others (`benchmarks/through_queue.py`).
WRITE_EVERY_S = 0.2

#: Seconds after which a record that this version cannot read is looked at again.
UNREADABLE_WAIT_S = 60.0


class Decoder(Protocol):
    """Bytes to views; see decode.py."""

    def decode(self, data: bytes) -> Any:
        """Decode one picture or raise InvalidInput."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchKnobs:
    """How much is taken at once; see the settings of the same names."""

    batch_size: int
    batch_wait_s: float
    lease_s: float
    fetch_threads: int
    bundle_id: str
    views_id: str = ""


class ModerateDrain:
    """Empties the line `moderate`. One per process; `drain` is called for every doorbell.

    Args:
        store: where uploads are claimed and verdicts written.
        outcomes: what happens after an error.
        fetch: image reference and upload id to bytes.
        decoder: bytes to views, in a child process.
        engine: views to scores.
        policy: scores to verdict.
        drawn_probability: a view's pixels to 0..1; asked only when it matters.
        has_reviewers: whether a cloud provider is configured for a region.
        recorder: counts.
        knobs: sizes and times.
    """

    def __init__(
        self,
        *,
        store: Store,
        outcomes: Outcomes,
        fetch: Callable[[str, str], bytes],
        decoder: Decoder,
        engine: Engine,
        policy: Policy,
        drawn_probability: Callable[[Any], float],
        has_reviewers: Callable[[Region], bool],
        recorder: Recorder,
        knobs: BatchKnobs,
    ) -> None:
        self._store = store
        self._outcomes = outcomes
        self._fetch = fetch
        self._decoder = decoder
        self._engine = engine
        self._recorder = recorder
        self._knobs = knobs
        self._judge = Judge(
            store=store,
            engine=engine,
            policy=policy,
            drawn_probability=drawn_probability,
            has_reviewers=has_reviewers,
            callback_url=outcomes.callback_url,
            recorder=recorder,
            bundle_id=knobs.bundle_id,
            views_id=knobs.views_id,
        )
        self._pool = concurrent.futures.ThreadPoolExecutor(knobs.fetch_threads, "fetch")
        # A write waits for Redis' disk; the model goes on meanwhile.
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "commit")
        self._token = f"{random.getrandbits(64):016x}"

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._writer.shutdown(wait=False)

    def drain(self, stop: threading.Event) -> int:
        """Work until nothing is due or `stop` is set; returns how many uploads were decided.

        What is in hand when `stop` is set and not scored yet is given back, due at once.
        """
        return _Run(self, stop).run()


class _Run:
    """One drain: what is in hand and what is ready for the model."""

    def __init__(self, owner: ModerateDrain, stop: threading.Event) -> None:
        self._o = owner
        self._knobs = owner._knobs
        self._store = owner._store
        self._stop = stop
        self._in_hand: dict[str, Avatar] = {}
        self._ready: queue.SimpleQueue[Prepared] = queue.SimpleQueue()
        # Taken before decoding, given back when the model takes the picture.
        self._room = threading.Semaphore(owner._engine.micro_batch + READY_AHEAD)
        self._alone = False
        self._abandoned = threading.Event()
        self._renewed_s = time.monotonic()
        self._decided = 0
        # Verdicts to be written, and the write that is under way with the uploads it is about.
        self._verdicts: list[Transition] = []
        self._judged: list[Avatar] = []
        self._wrote_s = time.monotonic()
        self._writing: tuple[concurrent.futures.Future[None], list[Avatar]] | None = None

    def run(self) -> int:
        try:
            claimed = self._claim(linger=True)
            while (claimed or self._in_hand) and not self._stop.is_set():
                if self._in_hand:
                    self._finish(self._collect())
                    self._renew()
                claimed = self._has_room() and self._claim(linger=False)
            self._settle()
        finally:
            self._give_back()
        return self._decided

    # -- taking --------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        """Whether to take more; nothing is put beside an upload whose holder died."""
        return not self._in_hand or (not self._alone and len(self._in_hand) < LOW_WATER)

    def _claim(self, *, linger: bool) -> bool:
        """Take what is due; returns whether there was anything."""
        leases = self._claim_once(self._knobs.batch_size)
        self._alone = any(lease.crashes for lease in leases)
        if len(leases) == self._knobs.batch_size:
            # More may be due than one process takes; before the fetches, or they would delay it.
            self._o._pool.submit(self._o._outcomes.call_help, Stage.MODERATE)
        self._accept(leases)
        missing = self._knobs.batch_size - len(leases)
        if linger and leases and missing and self._knobs.batch_wait_s and not self._alone:
            self._stop.wait(self._knobs.batch_wait_s)
            self._accept(self._claim_once(missing))
        return bool(leases)

    def _claim_once(self, limit: int, lanes: Iterable[Priority] | None = None) -> list[Lease]:
        options: dict[str, Any] = {} if lanes is None else {"lanes": tuple(lanes)}
        return self._store.claim(
            Stage.MODERATE,
            limit,
            lease_s=self._knobs.lease_s,
            token=self._o._token,
            busy=bool(self._in_hand),
            **options,
        )

    def _accept(self, leases: list[Lease]) -> None:
        """Start fetching what was claimed; drop what has been decided elsewhere."""
        started_s = time.monotonic()
        for lease, avatar in zip(leases, self._read(leases), strict=True):
            if avatar is None or avatar.state != AvatarState.QUEUED:
                self._store.drop(Stage.MODERATE, lease.item, token=self._o._token)
                continue
            self._in_hand[lease.item] = avatar
            prepared = Prepared(lease, avatar, started_s)
            if lease.crashes >= retry.MAX_CRASHES:
                prepared.error = WorkerKilled(
                    f"the worker process died {lease.crashes} times with this upload in its hands"
                )
                self._finish([prepared])
            else:
                self._o._pool.submit(self._prepare, prepared)

    def _read(self, leases: list[Lease]) -> list[Avatar | None]:
        """The records of what was claimed; one that cannot be read is left to a newer version."""
        try:
            return self._store.get_many([lease.item for lease in leases]) if leases else []
        except (ValueError, KeyError) as error:
            if len(leases) > 1:
                return [avatar for lease in leases for avatar in self._read([lease])]
            log.error("record_unreadable", upload_id=leases[0].item, message=str(error)[:200])
            self._store.put_back(
                Stage.MODERATE,
                leases[0].item,
                token=self._o._token,
                priority=Priority.NORMAL,
                delay_s=UNREADABLE_WAIT_S,
            )
            return [None]

    def _prepare(self, prepared: Prepared) -> None:
        """In a fetch thread: bytes, hash, what is known of this content, views."""
        if self._abandoned.is_set():
            return
        try:
            with span("prepare", upload_id=prepared.avatar.upload_id):
                self._fetch_and_decode(prepared)
        except Exception as error:  # noqa: BLE001 - the edge of one upload; retry.decide sorts it
            prepared.error = error
        self._ready.put(prepared)

    def _fetch_and_decode(self, prepared: Prepared) -> None:
        avatar = prepared.avatar
        data = self._o._fetch(avatar.image, avatar.upload_id)
        prepared.sha256 = hashlib.sha256(data).hexdigest()
        prepared.known = self._o._judge.known(prepared.sha256, avatar.region)
        if prepared.known is not None:
            return
        while not self._room.acquire(timeout=0.5):
            if self._abandoned.is_set():
                return
        try:
            prepared.picture = self._o._decoder.decode(data)
        except BaseException:
            self._room.release()
            raise

    # -- scoring -------------------------------------------------------------------------------

    def _collect(self) -> list[Prepared]:
        """Wait for prepared uploads, up to one micro-batch of views."""
        try:
            if self._ready.empty():
                self._settle()
            prepared = [self._take(0.5 if self._in_hand else 0.0)]
        except queue.Empty:
            return []
        views = prepared[0].view_count
        while views < self._o._engine.micro_batch:
            try:
                prepared.append(self._take(0.0))
            except queue.Empty:
                break
            views += prepared[-1].view_count
        return prepared

    def _take(self, timeout_s: float) -> Prepared:
        """The next upload that is ready; makes room for another picture to be decoded."""
        prepared = self._ready.get(timeout=timeout_s)
        if prepared.picture is not None:
            self._room.release()
        return prepared

    def _finish(self, batch: list[Prepared]) -> None:
        """Decide some uploads; written with others, or when the model has nothing to do."""
        if not batch:
            return
        with span(
            "moderate",
            upload_id=[prepared.avatar.upload_id for prepared in batch],
            uploads=len(batch),
            views=sum(prepared.view_count for prepared in batch),
        ):
            self._verdicts += self._judge(batch)
        self._judged += [prepared.avatar for prepared in batch]
        if time.monotonic() - self._wrote_s >= WRITE_EVERY_S:
            self._write()

    def _judge(self, batch: list[Prepared]) -> list[Transition]:
        """Score what must be scored; one change for each upload that is decided now."""
        judge = self._o._judge
        scores = judge.score([p for p in batch if p.error is None and p.known is None])
        transitions: list[Transition] = []
        for prepared in batch:
            if self._in_hand.get(prepared.avatar.upload_id) is not prepared.avatar:
                continue
            try:
                if prepared.error is not None:
                    raise prepared.error
                transitions.append(judge.decide(prepared, scores))
            except Exception as error:  # noqa: BLE001 - the edge of one upload
                change = self._o._outcomes.after_error(
                    prepared.avatar,
                    Stage.MODERATE,
                    error,
                    token=self._o._token,
                    stop=self._stop,
                    sha256=prepared.sha256,
                )
                if change is None:
                    self._let_go(prepared.avatar)
                else:
                    transitions.append(change)
        return transitions

    # -- writing back --------------------------------------------------------------------------

    def _write(self) -> None:
        """Start to write what is decided, after the write that is under way."""
        self._wait_for_write()
        if self._judged:
            write = self._o._writer.submit(self._commit, self._verdicts)
            self._writing = write, self._judged
            self._verdicts, self._judged, self._wrote_s = [], [], time.monotonic()

    def _settle(self) -> None:
        """Write all that is decided and wait for it; its uploads are out of our hands then.

        Raises:
            redis.RedisError: a write failed; its uploads are still in hand.
        """
        self._write()
        self._wait_for_write()

    def _wait_for_write(self) -> None:
        if self._writing is None:
            return
        (write, avatars), self._writing = self._writing, None
        write.result()
        for avatar in avatars:
            self._let_go(avatar)

    def _let_go(self, avatar: Avatar) -> None:
        """Out of our hands, unless it was postponed and claimed anew in a slow write."""
        if self._in_hand.get(avatar.upload_id) is avatar:
            del self._in_hand[avatar.upload_id]

    def _commit(self, transitions: list[Transition]) -> None:
        """In the writing thread: one round trip for some verdicts."""
        if not transitions:
            return
        results: list[Advanced] = write_patiently(
            lambda: self._store.advance(transitions), self._stop
        )
        self._o._outcomes.wake(transitions)
        for transition, result in zip(transitions, results, strict=True):
            if result.applied:
                self._decided += 1
                waited_s = max(0.0, time.time() - transition.avatar.created_at)
                self._o._recorder.observe(LATENCY, waited_s, transition.to)
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

    # -- leases --------------------------------------------------------------------------------

    def _renew(self) -> None:
        if time.monotonic() - self._renewed_s < self._knobs.lease_s / 3:
            return
        self._renewed_s = time.monotonic()
        self._store.renew(
            Stage.MODERATE,
            list(self._in_hand),
            lease_s=self._knobs.lease_s,
            token=self._o._token,
        )

    def _give_back(self) -> None:
        """What is still in hand becomes due again at once; another worker may take it."""
        self._abandoned.set()
        with contextlib.suppress(redis.RedisError):
            self._settle()
        for upload_id, avatar in self._in_hand.items():
            try:
                self._store.put_back(
                    Stage.MODERATE,
                    upload_id,
                    token=self._o._token,
                    priority=avatar.priority,
                    delay_s=0,
                    keep_crashes=True,
                )
            except redis.RedisError:
                return  # the leases run out by themselves
        self._in_hand.clear()
