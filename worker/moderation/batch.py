"""The moderating loop: claim up to 32 uploads, fetch and decode ahead, score in micro-batches.

Input is the line `moderate` of the store; output are transitions. Every upload has its own outcome:
a damaged picture is rejected alone, a store that does not answer postpones one upload, an error of
the model ends the uploads of one micro-batch one by one. Fetching and decoding run in threads ahead
of the model (prepare.py), bounded, so the model rarely waits and memory does not grow with the
batch. What takes long goes back to Redis, into a lane of its own, and is taken from there as there
is a place for it; urgent uploads are always taken.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import redis
import structlog

from producer.contract import Avatar, AvatarState, Priority, Region, Stage
from producer.errors import NeedsLonger, WorkerKilled
from producer.image_references import host_of
from producer.metrics import Recorder
from producer.record.store import (
    FAR,
    LANES,
    SLOW,
    Store,
    Transition,
)
from producer.texts import say
from producer.tracing import span
from worker import retry
from worker.memory.memory import PictureMemory
from worker.moderation.decide import Judge, Prepared
from worker.moderation.policy import Policy
from worker.moderation.prepare import Decoder, Preparation, Preparer
from worker.moderation.second import Engine, SecondModel
from worker.moderation.taking import Taken, Taker, Wish
from worker.moderation.writing import Writer, Writing
from worker.outcomes import Outcomes

log = structlog.get_logger()

#: Claim more while fewer uploads than this are on their way to the model, so that it never runs
#: dry. What waits for a slow host or needs a long look does not count.
LOW_WATER = 16

#: Urgent uploads that are taken even beyond that.
URGENT_ROOM = 8

#: Seconds between two looks for urgent uploads, and for what was set aside, while hands are full.
LOOK_EVERY_S = 0.25


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
        second: the model that looks too, where the policy asks it.
        memory: what was decided of pictures that look the same; None where nobody asks.
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
        second: SecondModel | None = None,
        memory: PictureMemory | None = None,
    ) -> None:
        self._store = store
        self._outcomes = outcomes
        self._engine = engine
        self._knobs = knobs
        self._judge = Judge(
            store=store,
            engine=engine,
            policy=policy,
            drawn_probability=drawn_probability,
            has_reviewers=has_reviewers,
            recorder=recorder,
            bundle_id=knobs.bundle_id,
            views_id=knobs.views_id,
            second=second,
            memory=memory,
        )
        self._preparer = Preparer(
            fetch, decoder, self._judge.known, self._judge.wants_prints, knobs.fetch_threads
        )
        self._writer = Writer(store, outcomes, recorder)
        self._token = f"{random.getrandbits(64):016x}"
        self._taker = Taker(store, lease_s=knobs.lease_s, token=self._token)

    def close(self) -> None:
        """Stop the threads."""
        self._preparer.close()
        self._taker.close()
        self._writer.close()

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
        # Of these, what is looked at in the background, at most one.
        self._slow: set[str] = set()
        self._preparation = Preparation(owner._preparer, owner._engine.micro_batch)
        self._look_at_s = 0.0
        self._alone = False
        self._renewed_s = time.monotonic()
        self._writing = Writing(
            owner._writer, stop, let_go=self._let_go, tell=self._preparation.look_up
        )

    def run(self) -> int:
        try:
            claimed = self._claim_first()
            while (claimed or self._in_hand) and not self._stop.is_set():
                if self._in_hand:
                    self._finish(self._collect())
                    self._renew()
                claimed = self._claim_more()
            self._writing.finish()
        finally:
            self._give_back()
        return self._writing.decided

    # -- taking --------------------------------------------------------------------------------

    def _claim_first(self) -> bool:
        """Take what is due, and wait a little for more where a batch is not full."""
        claimed = self._claim_more()
        missing = self._knobs.batch_size - len(self._in_hand)
        if claimed and missing > 0 and self._knobs.batch_wait_s and not self._alone:
            self._stop.wait(self._knobs.batch_wait_s)
            self._ask([Wish(missing)])
            self._accept_all(wait=True)
        return claimed

    def _claim_more(self) -> bool:
        """Take what there is room for; nothing is put beside an upload whose holder died.

        Beside what is in hand it is asked for now and accepted once it has come.
        """
        if self._in_hand and self._alone:
            return False
        if self._o._taker.is_asking:
            claimed = self._accept_all(wait=not self._in_hand)
            if claimed or self._in_hand:
                return claimed
        self._ask(self._wishes())
        return self._accept_all(wait=not self._in_hand)

    def _wishes(self) -> list[Wish]:
        """What there is room for: uploads in turn, urgent ones however many others are in hand."""
        # What is decided and not written yet is still in hand.
        soon = len(self._in_hand) - len(self._slow) - self._preparation.away() - len(self._writing)
        wishes = [Wish(self._knobs.batch_size)] if soon < LOW_WATER else []
        now_s = time.monotonic()
        if not self._in_hand or now_s >= self._look_at_s:
            self._look_at_s = now_s + LOOK_EVERY_S
            urgent = sum(avatar.priority == Priority.HIGH for avatar in self._in_hand.values())
            if soon >= LOW_WATER:
                wishes.append(Wish(URGENT_ROOM - urgent, [Priority.HIGH]))
            # What was set aside comes back as there is a place for it.
            if not self._make_way():
                wishes += [] if self._slow else [Wish(1, [SLOW])]
                wishes.append(Wish(self._preparation.places(), [FAR]))
        return wishes

    def _ask(self, wishes: list[Wish]) -> None:
        wishes = [wish for wish in wishes if wish.limit > 0]
        if wishes:
            busy = bool(self._in_hand)
            self._o._taker.ask(wishes, busy=busy, tell=self._preparation.look_up)

    def _accept_all(self, *, wait: bool) -> bool:
        """Take in hand what has come; returns whether there was anything."""
        taken = self._o._taker.hear(wait=wait)
        for found in taken:
            self._alone = (self._alone and bool(self._in_hand)) or found.is_suspect
            if found.wish.lanes == LANES and len(found.leases) == self._knobs.batch_size:
                # More may be due than one process takes.
                self._o._writer.ring(self._o._outcomes.call_help, Stage.MODERATE)
            self._accept(found)
        return bool(taken)

    def _make_way(self) -> bool:
        """Give up what takes long while an upload waits to be alone; whether one does."""
        long = [*self._slow, *self._preparation.far_ids()]
        if not long or not self._store.has_expired(Stage.MODERATE):
            return False
        for upload_id in long:
            if upload_id in self._in_hand:
                self._set_aside(self._in_hand[upload_id], SLOW if upload_id in self._slow else FAR)
        return True

    def _set_aside(self, avatar: Avatar, lane: str, delay_s: float = 0.0) -> None:
        """Out of our hands into a lane of its own, where it delays nobody."""
        self._store.put_back(
            Stage.MODERATE,
            avatar.upload_id,
            token=self._o._token,
            priority=lane,
            delay_s=delay_s,
            keep_crashes=True,
        )
        self._let_go(avatar)

    def _accept(self, taken: Taken) -> None:
        """Start fetching what was claimed; drop what has been decided elsewhere."""
        started_s = time.monotonic()
        for lease, avatar in zip(taken.leases, taken.avatars, strict=True):
            if avatar is None or avatar.state != AvatarState.QUEUED:
                self._store.drop(Stage.MODERATE, lease.item, token=self._o._token)
                continue
            self._in_hand[lease.item] = avatar
            prepared = Prepared(lease, avatar, started_s)
            if lease.crashes >= retry.MAX_CRASHES:
                prepared.error = WorkerKilled(
                    say(
                        "the worker process died {crashes} times with this upload in its hands",
                        crashes=lease.crashes,
                    )
                )
                self._finish([prepared])
            else:
                self._prepare(prepared, patient=taken.wish.lanes == [SLOW])

    def _prepare(self, prepared: Prepared, *, patient: bool) -> None:
        """Have an upload fetched and decoded, or set it aside where its host has no place."""
        avatar = prepared.avatar
        host = host_of(avatar.image)
        if host and avatar.priority != Priority.HIGH and not self._preparation.has_place(host):
            self._set_aside(avatar, FAR, self._preparation.no_place_s(host))
            return
        if patient:
            self._slow.add(avatar.upload_id)
        self._preparation.start(prepared, patient=patient)

    # -- scoring -------------------------------------------------------------------------------

    def _collect(self) -> list[Prepared]:
        """Wait for prepared uploads, up to one micro-batch of views."""
        try:
            if self._preparation.is_empty():
                self._writing.use_idleness()
            prepared = [self._preparation.take(LOOK_EVERY_S if self._in_hand else 0.0)]
        except queue.Empty:
            return []
        views = prepared[0].view_count
        while views < self._o._engine.micro_batch:
            try:
                prepared.append(self._preparation.take(0.0))
            except queue.Empty:
                break
            views += prepared[-1].view_count
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
            verdicts = self._judge(batch)
        self._writing.add(verdicts, [prepared.avatar for prepared in batch])

    def _judge(self, batch: list[Prepared]) -> list[Transition]:
        """Score what must be scored; one change for each upload that is decided now."""
        judge = self._o._judge
        scores = judge.score([p for p in batch if p.error is None and p.known is None])
        transitions: list[Transition] = []
        for prepared in batch:
            if self._in_hand.get(prepared.avatar.upload_id) is not prepared.avatar:
                continue
            if isinstance(prepared.error, NeedsLonger):
                self._go_on_slowly(prepared)
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

    def _go_on_slowly(self, prepared: Prepared) -> None:
        """A first look was not enough; a suspect is alone and may as well be done with now."""
        if prepared.lease.crashes:
            prepared.error = None
            self._prepare(prepared, patient=True)
        else:
            self._set_aside(prepared.avatar, SLOW)

    def _let_go(self, avatar: Avatar) -> None:
        """Out of our hands, unless it was postponed and claimed anew in a slow write."""
        if self._in_hand.get(avatar.upload_id) is avatar:
            del self._in_hand[avatar.upload_id]
            self._slow.discard(avatar.upload_id)

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
        self._preparation.abandon()
        with contextlib.suppress(redis.RedisError):
            for taken in self._o._taker.hear(wait=True):
                found = zip(taken.leases, taken.avatars, strict=True)
                self._in_hand.update({lease.item: a for lease, a in found if a is not None})
        with contextlib.suppress(redis.RedisError):
            self._writing.finish()
        for upload_id, avatar in self._in_hand.items():
            try:
                self._store.put_back(
                    Stage.MODERATE,
                    upload_id,
                    token=self._o._token,
                    priority=SLOW if upload_id in self._slow else avatar.priority,
                    delay_s=0,
                    keep_crashes=True,
                )
            except redis.RedisError:
                return  # the leases run out by themselves
        self._in_hand.clear()
