"""The record of every upload in Redis: how it begins and comes back; the rest it gathers.

The record is the truth. What changes it is in `transitions.py`, what must still happen to it in
`leases.py`; what a transition leaves behind is in `outbox.py` (callbacks) and `events.py` (the
ledger's); `keyspace.py` lists all keys.
"""

from __future__ import annotations

import dataclasses
import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis
from redis import Redis

from producer.contract import (
    Avatar,
    AvatarState,
    Stage,
    public_url,
)
from producer.record.audits import Audits
from producer.record.base import Base, Step
from producer.record.changes import LISTED_S, Changes
from producer.record.copies import Copies
from producer.record.copying import Copying
from producer.record.data_set import DataSets
from producer.record.events import Events
from producer.record.forgetting import Forgetting
from producer.record.intake import Intake
from producer.record.keyspace import FAR, LANES, OPEN_STATES, SLOW, callback_line
from producer.record.leases import Lease, Leases
from producer.record.memory import Memory
from producer.record.outbox import Outbox
from producer.record.records import Records
from producer.record.room import Room
from producer.record.subjects import Subjects
from producer.record.tables import ALIVE_S, Tables
from producer.record.transitions import Advanced, Transition, Transitions

__all__ = [
    "ALIVE_S",
    "FAR",
    "LANES",
    "OPEN_STATES",
    "SLOW",
    "Advanced",
    "Lease",
    "Store",
    "Transition",
    "write_patiently",
]

#: Seconds that replicas may take to confirm an upload.
REPLICAS_S = 2.0

#: Seconds that a decided outcome waits for Redis to come back.
PATIENCE_S = 120.0

#: States of uploads that are in the lists of those with the same picture, where they are restored.
HAVE_LISTS = frozenset({AvatarState.HELD, AvatarState.APPROVED, AvatarState.BLOCKED})

T = TypeVar("T")


class Store(Transitions, Records, Leases, Tables):
    """Reads and changes records. Safe to share between threads.

    Redis errors pass through as `redis.RedisError`; a caller at a task's edge retries.

    Args:
        client: the connections.
        namespace: first part of every key.
        record_ttl_s: how long a final record is kept.
        replicas: how many must hold an upload before `submit` returns.
        default_callback_url: who hears of uploads without an address while no worker has said so.
    """

    def __init__(
        self,
        client: Redis,
        namespace: str = "avatarmod",
        *,
        record_ttl_s: float = 2592000.0,
        replicas: int = 0,
        default_callback_url: str = "",
    ) -> None:
        base = Base(client, namespace, record_ttl_s=record_ttl_s)
        super().__init__(base)
        self._replicas = replicas
        self._default_callback_url = default_callback_url
        self._default_read: tuple[float, str] = (-math.inf, "")
        self.keys = base.keys
        self.events = Events(base)
        self.outbox = Outbox(base)
        self.changes = Changes(base)
        self.copies = Copies(base)
        self.copying = Copying(base)
        self.room = Room(base)
        self.memory = Memory(base)
        self.audits = Audits(base)
        self.data_sets = DataSets(base)
        self.subjects = Subjects(base)
        self.forgetting = Forgetting(base, self.outbox)
        self.intake = Intake(base)

    @property
    def redis(self) -> Redis:
        """The connections; for tests and benchmarks only."""
        return self.base.redis

    def key(self, *parts: str) -> str:
        """Full name of a key; for tests and benchmarks only."""
        return self.keys.name(*parts)

    @property
    def prefix(self) -> str:
        """What every key begins with."""
        return self.keys.prefix

    @property
    def record_ttl_s(self) -> float:
        """How long a final record is kept, in seconds."""
        return self.base.record_ttl_s

    def now(self) -> float:
        """Seconds since the epoch by the Redis server's clock, the only clock that counts."""
        return self.base.now()

    def clock(self) -> tuple[float, float]:
        """(what the server's clock tells, what time it is for us), seconds since the epoch."""
        return self.base.clock()

    def close(self) -> None:
        """Close the connections."""
        self.base.redis.close()

    def limits_client(self) -> tuple[Redis, str]:
        """Connections and prefix for the shared limits of the review providers."""
        return self.base.redis, self.keys.prefix

    # -- accepting -----------------------------------------------------------------------------

    def submit(self, avatar: Avatar, *, max_backlog: int) -> tuple[str, Avatar]:
        """Create the record and its due entry in one step.

        Returns:
            `("created" | "exists" | "full" | "no_room", record)`; with "exists" the record as it
            stands, with the last two the one that was not accepted: the backlog is at its limit,
            or Redis' memory is (`Room.lack` says it).
        """
        return self.submit_many([avatar], max_backlog=max_backlog)[0]

    def submit_many(
        self, avatars: Sequence[Avatar], *, max_backlog: int
    ) -> list[tuple[str, Avatar]]:
        """`submit` for several, each atomic by itself, in one round trip; order is kept.

        Raises:
            redis.TimeoutError: too few replicas confirmed it in time; the master has it.
        """
        if not avatars:
            return []
        if self.room.lack():
            present = self.get_many([avatar.upload_id for avatar in avatars])
            return [
                ("exists", record) if record else ("no_room", avatar)
                for avatar, record in zip(avatars, present, strict=True)
            ]
        steps = [self._submission(avatar, max_backlog) for avatar in avatars]
        answers = self.base.run_all(steps, self._wait_for_replicas if self._replicas else None)
        if self._replicas and int(answers[-1]) < self._replicas:
            raise redis.TimeoutError(f"{answers[-1]} of {self._replicas} replicas confirmed")
        found = [(str(outcome), int(seq)) for outcome, _, seq in answers[: len(avatars)]]
        self.base.note_seq(max(seq for _, seq in found))
        known = [a.upload_id for a, (o, _) in zip(avatars, found, strict=True) if o == "exists"]
        records = dict(zip(known, self.get_many(known), strict=True)) if known else {}
        return [
            (outcome, records.get(avatar.upload_id) or dataclasses.replace(avatar, seq=seq or 1))
            for avatar, (outcome, seq) in zip(avatars, found, strict=True)
        ]

    def _submission(self, avatar: Avatar, max_backlog: int) -> Step:
        fields = avatar.to_hash()
        for given_by_script in ("state", "seq", "created_at", "updated_at", "attempts"):
            fields.pop(given_by_script, None)
        keys = self.keys
        return Step(
            "submit",
            [
                keys.avatar(avatar.upload_id),
                keys.due(Stage.MODERATE, avatar.priority),
                keys.open(AvatarState.QUEUED),
                keys.open(AvatarState.REVIEWING),
                keys.events,
                keys.callback_default,
                keys.data_set,
                keys.subjects,
                keys.subject(avatar.subject),
            ],
            {
                "id": avatar.upload_id,
                "max_backlog": max_backlog,
                "record_ttl_s": self.record_ttl_s,
                "detail": json.dumps(_accepted(avatar)),
                "fields": fields,
                **self.base.beginning(),
            },
        )

    def _wait_for_replicas(self, pipe: Any) -> None:
        # WAIT counts from this connection's last write: with one of our own it also covers
        # a record that an earlier try wrote over another connection.
        pipe.set(self.keys.replicated, 1)
        pipe.wait(self._replicas, int(REPLICAS_S * 1000))

    def restore(self, avatar: Avatar, *, after_seq: int, detail: dict[str, Any]) -> bool:
        """Bring back an upload that Redis lost, as the ledger knew it.

        Args:
            avatar: queued, held or final; who hears of it is told of the last two.
            after_seq: the last seq that is known of it.
            detail: goes into the ledger; JSON-ready.

        Returns:
            False when there is a record of this id.
        """
        while True:
            seq = max(self.data_sets.next_seq(), after_seq + 1)
            outcome = self.base.run_all([self._restoration(avatar, seq, detail)])[0]
            if outcome != "again":
                return str(outcome) == "restored"

    def _restoration(self, avatar: Avatar, seq: int, detail: dict[str, Any]) -> Step:
        fields, keys = avatar.to_hash(), self.keys
        for given_by_script in ("state", "seq", "updated_at"):
            fields.pop(given_by_script, None)
        is_queued = avatar.state == AvatarState.QUEUED
        before = dataclasses.replace(avatar, seq=seq - 1)
        callback = None if is_queued else self._callback(before, avatar.state, {})
        item, endpoint = (callback["item"], callback["endpoint"]) if callback else ("", "")
        return Step(
            "restore",
            [
                keys.avatar(avatar.upload_id),
                keys.due(Stage.MODERATE, avatar.priority),
                keys.open(avatar.state),
                keys.events,
                keys.callback_default,
                keys.callback(item),
                keys.due(callback_line(endpoint), avatar.priority),
                keys.endpoints,
                keys.data_set,
                keys.changes,
                keys.same(avatar.sha256, "waiting"),
                keys.same(avatar.sha256, "decided"),
                keys.appeals,
            ],
            {
                "id": avatar.upload_id,
                "changes_s": LISTED_S,
                "seq": seq,
                "state": avatar.state,
                "is_due": is_queued,
                "is_open": not avatar.is_final,
                "has_content": bool(avatar.sha256) and avatar.state in HAVE_LISTS,
                "keep_s": self.record_ttl_s,
                "appeals": bool(avatar.appealed_from) and avatar.state == AvatarState.HELD,
                "ttl_s": self.record_ttl_s if avatar.is_final else None,
                "detail": json.dumps(detail),
                "fields": fields,
                "callback": callback,
                **self.base.beginning(),
            },
        )

    def overrule_anew(self, sha256: str, said: dict[str, str]) -> bool:
        """Keep what an operator said of a content; False where something is said already."""
        return bool(self.base.redis.set(self.keys.overrule(sha256), json.dumps(said), nx=True))

    def forget_after(self, upload_id: str, ttl_s: float) -> None:
        """Let a record go earlier than usual; to be called once it is final."""
        pipe = self.base.redis.pipeline(transaction=False)
        pipe.expire(self.keys.avatar(upload_id), int(ttl_s))
        pipe.zadd(self.keys.copies, {upload_id: self.now() + ttl_s}, xx=True)
        pipe.execute()


def write_patiently(write: Callable[[], T], stop: threading.Event) -> T:
    """Write an outcome that is already decided, waiting for Redis to come back.

    Raises:
        redis.RedisError: it did not, or `stop` was set; the lease runs out and the step is redone.
    """
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return write()
        except (
            redis.ConnectionError,
            redis.TimeoutError,
            redis.BusyLoadingError,
            redis.OutOfMemoryError,
        ):
            if stop.is_set() or time.monotonic() > deadline_s:
                raise
            time.sleep(0.25)


def _accepted(avatar: Avatar) -> dict[str, Any]:
    """What the ledger keeps of an upload's arrival; an address may hold a secret."""
    detail: dict[str, Any] = {"region": avatar.region, "priority": avatar.priority}
    for name in ("image", "callback_url"):
        address = getattr(avatar, name)
        if address and address == public_url(address):
            detail[name] = address
        elif address:
            detail[f"{name}_has_secret"] = True
    return detail
