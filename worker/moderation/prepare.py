"""Bytes, hash and views of uploads, made in threads ahead of the model.

What one upload costs must not be paid by its neighbours. Pictures that lie at an address of their
own have threads of their own, few of them for one host. Every file gets a short look first; one
that needs longer is set aside and comes back alone, in the background. Urgent uploads have a thread
for each step whatever else waits.
"""

from __future__ import annotations

import collections
import hashlib
import queue
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from producer.contract import Priority, Region
from producer.errors import StorageUnavailable
from producer.image_references import host_of
from producer.tracing import span
from worker.moderation.decide import Prepared
from worker.moderation.pool import Pool

#: Decoded pictures that may wait for the model, besides the micro-batch that it takes next.
#: A picture of many frames is 28 MB for the recommended model (64 views of 384 px).
READY_AHEAD = 2

#: Threads for addresses, as a multiple of those for the image store: they mostly wait.
ADDRESS_THREADS = 3

#: Uploads in hand whose pictures lie at addresses, in all and at one host.
MAX_AT_ADDRESSES, MAX_AT_HOST = 48, 24

#: Seconds after which an upload that found no place is looked at again; up to the second number
#: where its host keeps us waiting.
NO_PLACE_S, SHUNNED_S = 1.0, 30.0

#: Seconds of fetching after which an upload no longer counts as one that the model gets soon.
AWAY_S = 1.0

#: Seconds for which a host that did not answer in time is asked for one picture at a time.
SHUN_S = 60.0

#: Bytes of fetched files that may wait to be decoded before further fetches wait.
MAX_WAITING_BYTES = 16 * 2**20


class Decoder(Protocol):
    """Bytes to views; see worker/image/decoder.py."""

    def decode(self, data: bytes, *, patient: bool = False, prints: bool = False) -> Any:
        """Decode one picture or raise InvalidInput; NeedsLonger only where not `patient`."""


class Preparer:
    """The threads, and what is known of hosts; one per process.

    Args:
        fetch: image reference and upload id to bytes.
        decoder: bytes to views, in a child process.
        known: what is known of a content (its hash and region) already.
        wants_prints: whether there are pictures that others may look like.
        fetch_threads: pictures fetched from the image store at the same time.
    """

    def __init__(
        self,
        fetch: Callable[[str, str], bytes],
        decoder: Decoder,
        known: Callable[[str, Region], dict[str, str] | None],
        wants_prints: Callable[[], bool],
        fetch_threads: int,
    ) -> None:
        self.fetch = fetch
        self.decoder = decoder
        self.known = known
        self.wants_prints = wants_prints
        self.near = Pool(fetch_threads, "fetch", spare=1)
        self.far = Pool(ADDRESS_THREADS * fetch_threads, "address", spare=1, per_key=fetch_threads)
        self.first_looks = Pool(1, "decode")
        self.slow = Pool(1, "decode-slow")
        self._shunned: dict[str, float] = {}

    def close(self) -> None:
        """Stop the threads."""
        for pool in (self.near, self.far, self.first_looks, self.slow):
            pool.close()

    def note_answer(self, host: str, took_s: float, error: BaseException | None) -> None:
        """Remember a host that kept us waiting for nothing, forget one that answered."""
        if isinstance(error, StorageUnavailable) and took_s > AWAY_S:
            self._shunned[host] = time.monotonic() + SHUN_S
        elif error is None:
            self._shunned.pop(host, None)

    def is_shunned(self, host: str) -> bool:
        """Whether a host is asked for one picture at a time."""
        return self._shunned.get(host, 0.0) > time.monotonic()


class Preparation:
    """What is being prepared in one drain.

    Args:
        preparer: the threads.
        micro_batch: pictures that the model takes at once.
    """

    def __init__(self, preparer: Preparer, micro_batch: int) -> None:
        self._p = preparer
        # None where there is news of another kind.
        self._ready: queue.SimpleQueue[Prepared | None] = queue.SimpleQueue()
        # Taken before decoding, given back when the model takes the picture.
        self._room = threading.Semaphore(micro_batch + READY_AHEAD)
        self._abandoned = threading.Event()
        self._lock = threading.Lock()
        self._hosts: collections.Counter[str] = collections.Counter()
        self._fetching: dict[str, float] = {}
        self._waiting_bytes = 0

    def abandon(self) -> None:
        """Stop preparing; what is under way ends unheard."""
        self._abandoned.set()

    # -- places --------------------------------------------------------------------------------

    def has_place(self, host: str) -> bool:
        """Whether one more picture of a host may be fetched now."""
        with self._lock:
            here = self._hosts[host]
            if self._hosts.total() >= MAX_AT_ADDRESSES or here >= MAX_AT_HOST:
                return False
            return not here or not self._p.is_shunned(host)

    def no_place_s(self, host: str) -> float:
        """When an upload that found no place is worth another look, in seconds from now."""
        return random.uniform(NO_PLACE_S, SHUNNED_S if self._p.is_shunned(host) else NO_PLACE_S)

    def places(self) -> int:
        """How many more pictures may be fetched from addresses now."""
        with self._lock:
            return MAX_AT_ADDRESSES - self._hosts.total()

    def away(self) -> int:
        """How many uploads wait for a host that keeps us waiting."""
        oldest_s = time.monotonic() - AWAY_S
        with self._lock:
            return sum(since_s < oldest_s for since_s in self._fetching.values())

    def far_ids(self) -> list[str]:
        """Uploads whose pictures are fetched from addresses now."""
        with self._lock:
            return list(self._fetching)

    # -- steps ---------------------------------------------------------------------------------

    def start(self, prepared: Prepared, *, patient: bool) -> None:
        """Fetch and decode in threads; the end comes out of `take`."""
        host, urgent = host_of(prepared.avatar.image), _is_urgent(prepared)
        if not host:
            self._p.near.submit(lambda: self._do(prepared, patient), urgent=urgent)
            return
        with self._lock:
            self._hosts[host] += 1
            self._fetching[prepared.avatar.upload_id] = time.monotonic()
        self._p.far.submit(lambda: self._do_far(prepared, patient, host), urgent=urgent, key=host)

    def put(self, prepared: Prepared) -> None:
        """What needs no preparation."""
        self._ready.put(prepared)

    def look_up(self) -> None:
        """Let whoever waits in `take` see to something else."""
        self._ready.put(None)

    def take(self, timeout_s: float) -> Prepared:
        """The next upload that is ready; makes room for another picture to be decoded.

        Raises:
            queue.Empty: nothing was ready in time, or `look_up` was called.
        """
        prepared = self._ready.get(timeout=timeout_s)
        if prepared is None:
            raise queue.Empty
        if prepared.picture is not None:
            self._room.release()
        return prepared

    def is_empty(self) -> bool:
        """Whether nothing is ready."""
        return self._ready.empty()

    def _do_far(self, prepared: Prepared, patient: bool, host: str) -> None:
        started_s = time.monotonic()
        try:
            self._do(prepared, patient)
        finally:
            with self._lock:
                self._hosts[host] -= 1
                self._fetching.pop(prepared.avatar.upload_id, None)
            self._p.note_answer(host, time.monotonic() - started_s, prepared.error)

    def _do(self, prepared: Prepared, patient: bool) -> None:
        """In a fetch thread: bytes, hash, what is known of this content."""
        while self._waiting_bytes > MAX_WAITING_BYTES and not _is_urgent(prepared):
            if self._abandoned.wait(0.05):
                return
        if self._abandoned.is_set():
            return
        avatar = prepared.avatar
        try:
            with span("fetch", upload_id=avatar.upload_id):
                data = self._p.fetch(avatar.image, avatar.upload_id)
                prepared.sha256 = hashlib.sha256(data).hexdigest()
                prepared.known = self._p.known(prepared.sha256, avatar.region)
        except Exception as error:  # noqa: BLE001 - the edge of one upload; retry.decide sorts it
            prepared.error = error
        if prepared.error is not None or prepared.known is not None:
            self._ready.put(prepared)
            return
        self._count(len(data))
        pool = self._p.slow if patient else self._p.first_looks
        pool.submit(lambda: self._decode(prepared, data, patient), urgent=_is_urgent(prepared))

    def _decode(self, prepared: Prepared, data: bytes, patient: bool) -> None:
        """In a decoding thread: views, once the model has room for them."""
        try:
            while not self._room.acquire(timeout=0.5):
                if self._abandoned.is_set():
                    return
            if self._abandoned.is_set():
                return
            try:
                with span("decode", upload_id=prepared.avatar.upload_id):
                    prints = self._p.wants_prints()
                    prepared.picture = self._p.decoder.decode(data, patient=patient, prints=prints)
            except Exception as error:  # noqa: BLE001 - the edge of one upload
                self._room.release()
                prepared.error = error
            self._ready.put(prepared)
        finally:
            self._count(-len(data))

    def _count(self, by: int) -> None:
        with self._lock:
            self._waiting_bytes += by


def _is_urgent(prepared: Prepared) -> bool:
    return prepared.avatar.priority == Priority.HIGH
