"""The record of every upload in Redis, and each step that changes it: one Lua script a step.

The record is the truth; a message on the broker only says "look now". What must still happen waits
in a due set and is worked on under a lease; see `lua/` for the scripts. What a transition leaves
behind is in `outbox.py` (callbacks) and `events.py` (the ledger's).

Keys, all behind the prefix `{namespace}:` (the braces keep them in one Redis Cluster slot):

    avatar:<upload id>          hash    the record; expires `record_ttl_s` after it became final
    open:<state>                zset    ids in queued, reviewing, held, dead; score: since when
    due:<line>:<priority>       zset    items that wait for a worker; score: when they are due
    lease:<line>                zset    items in a worker's hands; score: when the lease runs out
    holder:<line>               hash    item -> token of the worker that has it
    crashes:<line>              hash    item -> how many holders died with it
    callback:<id>#<seq>         hash    one callback; deleted when delivered
    endpoints                   set     callback endpoints; each is the line callback:<name>
    endpoint:<name>             hash    how it is doing; see endpoints.py
    dead                        zset    dead letters; see dead_letters.py
    events                      stream  every transition and callback, until the ledger has it
    events:dropped              string  how many events the memory guard removed unread
    counts                      hash    transitions by state since the beginning
    workers                     hash    process -> its last sign of life (JSON)
    replicated                  string  written before each wait for replicas
    bell:<stage>                string  a doorbell message is on its way; two seconds
    verdict:<sha256>:<...>      string  what was judged of this content so; `record_ttl_s`
    overrule:<sha256>           string  what an operator said of this content; for ever

A *line* is a stage's name, or `callback:<endpoint>`: one slow endpoint cannot hold the others.
"""

from __future__ import annotations

import dataclasses
import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from typing import Any, TypeVar, cast

import redis
from redis.commands.core import Script

from producer.contract import (
    FINAL_STATES,
    Avatar,
    AvatarState,
    Priority,
    Stage,
)
from producer.events import Events
from producer.outbox import Outbox, callback_line, describe, endpoint_name

#: Most urgent first; the order in which a claim empties them.
LANES = (Priority.HIGH, Priority.NORMAL, Priority.LOW)

#: Seconds that a doorbell keeps others from ringing; a lost message costs this and one tick.
BELL_S = 2

#: Seconds after which a process without a sign of life counts as gone.
ALIVE_S = 15

#: Seconds that replicas may take to confirm an upload.
REPLICAS_S = 2.0

#: Seconds that a decided outcome waits for Redis to come back.
PATIENCE_S = 120.0

T = TypeVar("T")

#: Files in `lua/`, each one atomic step.
SCRIPTS = (
    "submit",
    "claim",
    "renew",
    "put_back",
    "transition",
    "end_callback",
    "replay_callback",
    "guard_events",
)

#: States with an index, because somebody still has to act on them.
OPEN_STATES = tuple(state for state in AvatarState if state not in FINAL_STATES)


@dataclasses.dataclass(frozen=True)
class Lease:
    """One item in our hands; `crashes` counts earlier holders that died with it."""

    item: str
    crashes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transition:
    """One change of one upload, as a worker or an operator wants it.

    Args:
        avatar: the record as it was read; its state and seq must still hold.
        to: the new state.
        fields: record fields to set, by name.
        leaves: the line whose lease ends with this transition.
        enters: the stage that acts next, if any, after `delay_s` seconds.
        detail: goes into the ledger beside the transition; JSON-ready.
        callback_url: who hears of it; empty for nobody.
        bury: a dead letter to write (JSON-ready), or None.
        unbury: remove the upload's dead letter (a replay).
        remember: (key, JSON) of a verdict to keep for the same content; a convenience that is not
            part of the atomic step.
    """

    avatar: Avatar
    to: AvatarState
    fields: dict[str, str] = dataclasses.field(default_factory=dict)
    leaves: Stage | None = None
    enters: Stage | None = None
    delay_s: float = 0.0
    detail: dict[str, Any] = dataclasses.field(default_factory=dict)
    callback_url: str = ""
    bury: dict[str, Any] | None = None
    unbury: bool = False
    remember: tuple[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class Advanced:
    """What came of a transition: `applied`, or the present state that stood against it."""

    applied: bool
    state: str
    seq: int


class Store:
    """Reads and changes records. Safe to share between threads.

    Redis errors pass through as `redis.RedisError`; a caller at a task's edge retries.

    Args:
        client: the connections.
        namespace: first part of every key.
        record_ttl_s: how long a final record is kept.
        replicas: how many must hold an upload before `submit` returns.
    """

    def __init__(
        self,
        client: redis.Redis,
        namespace: str = "avatarmod",
        *,
        record_ttl_s: float = 2592000.0,
        replicas: int = 0,
    ) -> None:
        self.redis = client
        self._replicas = replicas
        self.prefix = f"{{{namespace}}}:"
        self.record_ttl_s = record_ttl_s
        folder = resources.files("producer") / "lua"
        self._scripts = {
            name: client.register_script((folder / f"{name}.lua").read_text()) for name in SCRIPTS
        }
        self.events = Events(self)

    @property
    def outbox(self) -> Outbox:
        """The callbacks."""
        # Not kept: a cycle would hold the connections until the garbage collector comes.
        return Outbox(self)

    def key(self, *parts: str) -> str:
        """Full name of a key."""
        return self.prefix + ":".join(parts)

    def script(self, name: str) -> Script:
        """One atomic step, by the name of its file in `lua/`."""
        return self._scripts[name]

    # -- records -------------------------------------------------------------------------------

    def submit(self, avatar: Avatar, *, max_backlog: int) -> tuple[str, Avatar]:
        """Create the record and its due entry in one step.

        Returns:
            `("created" | "exists" | "full", record)`; with "exists" the record as it stands, with
            "full" the one that was not accepted.
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
        pipe = self.redis.pipeline(transaction=False)
        for avatar in avatars:
            self._queue_submit(pipe, avatar, max_backlog)
        if self._replicas:
            # WAIT counts from this connection's last write: with one of our own it also covers
            # a record that an earlier try wrote over another connection.
            pipe.set(self.key("replicated"), 1)
            pipe.wait(self._replicas, int(REPLICAS_S * 1000))
        answers = pipe.execute()
        if self._replicas and int(answers[-1]) < self._replicas:
            raise redis.TimeoutError(f"{answers[-1]} of {self._replicas} replicas confirmed")
        outcomes = [str(outcome) for outcome, _, _ in answers[: len(avatars)]]
        known = [a.upload_id for a, o in zip(avatars, outcomes, strict=True) if o == "exists"]
        records = dict(zip(known, self.get_many(known), strict=True)) if known else {}
        return [
            (outcome, records.get(avatar.upload_id) or avatar)
            for avatar, outcome in zip(avatars, outcomes, strict=True)
        ]

    def _queue_submit(self, pipe: Any, avatar: Avatar, max_backlog: int) -> None:
        fields = avatar.to_hash()
        for given_by_script in ("state", "seq", "created_at", "updated_at", "attempts"):
            fields.pop(given_by_script, None)
        upload_id = avatar.upload_id
        self._scripts["submit"](
            keys=[
                self.key("avatar", upload_id),
                self.due(Stage.MODERATE, avatar.priority),
                self.key("open", AvatarState.QUEUED),
                self.key("open", AvatarState.REVIEWING),
                self.key("events"),
            ],
            args=[upload_id, max_backlog, json.dumps(_accepted(avatar)), *_flat(fields)],
            client=pipe,
        )

    def get(self, upload_id: str) -> Avatar | None:
        """The record, or None where there is none."""
        return self.get_many([upload_id])[0]

    def get_many(self, upload_ids: Sequence[str]) -> list[Avatar | None]:
        """Records in the order asked for, one round trip."""
        pipe = self.redis.pipeline(transaction=False)
        for upload_id in upload_ids:
            pipe.hgetall(self.key("avatar", upload_id))
        return [
            Avatar.from_hash(upload_id, fields) if fields else None
            for upload_id, fields in zip(upload_ids, pipe.execute(), strict=True)
        ]

    def advance(self, transitions: Sequence[Transition]) -> list[Advanced]:
        """Apply transitions, each atomic by itself, in one round trip; order is kept."""
        if not transitions:
            return []
        pipe = self.redis.pipeline(transaction=False)
        for transition in transitions:
            self._queue_transition(pipe, transition)
        for transition in transitions:
            if transition.remember is not None:
                key, verdict = transition.remember
                pipe.set(key, verdict, ex=math.ceil(self.record_ttl_s))
        answers = pipe.execute()[: len(transitions)]
        return [Advanced(bool(ok), state, int(seq)) for ok, state, seq in answers]

    def _queue_transition(self, pipe: Any, change: Transition) -> None:
        avatar = change.avatar
        leaves = change.leaves or Stage.MODERATE
        enters = change.enters or leaves
        seq = avatar.seq + 1
        callback_item = f"{avatar.upload_id}#{seq}" if change.callback_url else ""
        endpoint = endpoint_name(change.callback_url) if change.callback_url else ""
        buried = avatar.upload_id if change.bury is not None or change.unbury else ""
        self._scripts["transition"](
            keys=[
                self.key("avatar", avatar.upload_id),
                self.key("events"),
                self.key("counts"),
                self.key("open", avatar.state),
                self.key("open", change.to),
                self.key("lease", leaves),
                self.key("holder", leaves),
                self.key("crashes", leaves),
                self.due(leaves, avatar.priority),
                self.due(enters, avatar.priority),
                self.key("callback", callback_item),
                self.due(callback_line(endpoint), avatar.priority),
                self.key("endpoints"),
                self.key("dead"),
                self.key("dead", buried),
            ],
            args=[
                avatar.upload_id,
                avatar.seq,
                avatar.state,
                change.to,
                change.delay_s,
                int(change.enters is not None),
                self.record_ttl_s if change.to in FINAL_STATES else 0,
                json.dumps(change.detail),
                callback_item,
                endpoint,
                change.callback_url,
                json.dumps(_public_data(avatar, change)) if callback_item else "",
                buried,
                json.dumps(change.bury) if change.bury is not None else "",
                2 * len(change.fields),
                *_flat(change.fields),
            ],
            client=pipe,
        )

    def overruled(self, sha256: str) -> dict[str, str] | None:
        """What an operator said of this content: `state` and record fields; None for nothing."""
        text = self.redis.get(self.key("overrule", sha256)) if sha256 else None
        return dict(json.loads(cast("str", text))) if text else None

    def forget_after(self, upload_id: str, ttl_s: float) -> None:
        """Let a record go earlier than usual; to be called once it is final."""
        self.redis.expire(self.key("avatar", upload_id), int(ttl_s))

    # -- leases --------------------------------------------------------------------------------

    def claim(
        self,
        line: str,
        limit: int,
        *,
        lease_s: float,
        token: str,
        most_leased: int = 0,
        lanes: Iterable[Priority] = LANES,
        busy: bool = False,
    ) -> list[Lease]:
        """Take up to `limit` due items of a line; an item whose holder died comes alone.

        Args:
            line: a stage, or `callback_line(endpoint)`.
            limit: most items to take.
            lease_s: seconds until others may take them.
            token: names this holder in `renew`, `put_back` and `end_callback`.
            most_leased: most items of this line in all workers' hands together; 0 for any.
            lanes: the priorities to take from, most urgent first.
            busy: the holder has items in hand that one whose holder died must not endanger; while
                such an item waits, nothing is given, so that the hands become empty.
        """
        found = self._scripts["claim"](
            keys=[
                self.key("lease", line),
                self.key("holder", line),
                self.key("crashes", line),
                *(self.due(line, lane) for lane in lanes),
            ],
            args=[limit, lease_s, token, most_leased, int(busy)],
        )
        return [
            Lease(item, int(crashes)) for item, crashes in zip(found[::2], found[1::2], strict=True)
        ]

    def renew(self, line: str, items: Sequence[str], *, lease_s: float, token: str) -> int:
        """Lengthen our leases; returns how many were still ours."""
        if not items:
            return 0
        return int(
            self._scripts["renew"](
                keys=[self.key("lease", line), self.key("holder", line)],
                args=[lease_s, token, *items],
            )
        )

    def put_back(
        self,
        line: str,
        item: str,
        *,
        token: str,
        priority: Priority,
        delay_s: float,
        fields: dict[str, str] | None = None,
        keep_crashes: bool = False,
    ) -> bool:
        """Make an item due again after `delay_s` seconds, and set fields of its hash.

        Returns:
            False when the lease was no longer ours; nothing was changed then.
        """
        entity = self.key("callback" if line.startswith(Stage.CALLBACK) else "avatar", item)
        return self._put_back(
            line, item, token, self.due(line, priority), delay_s, entity, fields, keep_crashes
        )

    def drop(self, line: str, item: str, *, token: str) -> bool:
        """End the lease of an item that has nothing left to do on this line."""
        return self._put_back(
            line, item, token, self.due(line, Priority.NORMAL), -1, self.key("avatar"), None, False
        )

    def _put_back(
        self,
        line: str,
        item: str,
        token: str,
        due: str,
        delay_s: float,
        entity: str,
        fields: dict[str, str] | None,
        keep_crashes: bool,
    ) -> bool:
        return bool(
            self._scripts["put_back"](
                keys=[
                    self.key("lease", line),
                    self.key("holder", line),
                    self.key("crashes", line),
                    due,
                    entity,
                ],
                args=[item, token, delay_s, int(keep_crashes), *_flat(fields or {})],
            )
        )

    # -- doorbells and depth -------------------------------------------------------------------

    def take_bell(self, stage: Stage) -> bool:
        """Whether the caller should send a doorbell now (nobody did in the last two seconds)."""
        return bool(self.redis.set(self.key("bell", stage), 1, nx=True, ex=BELL_S))

    def answer_bell(self, stage: Stage) -> None:
        """A worker woke up: whatever is enqueued from now on rings again."""
        self.redis.delete(self.key("bell", stage))

    def lines(self) -> list[str]:
        """Every line that can hold work."""
        return [
            Stage.MODERATE,
            Stage.REVIEW,
            *(callback_line(endpoint) for endpoint in self.outbox.endpoints()),
        ]

    def due_lines(self) -> list[str]:
        """Lines with an item that is due now or whose lease ran out."""
        lines, now = self.lines(), self.now()
        pipe = self.redis.pipeline(transaction=False)
        for line in lines:
            pipe.zcount(self.key("lease", line), "-inf", now)
            for lane in LANES:
                pipe.zcount(self.due(line, lane), "-inf", now)
        counts = pipe.execute()
        width = 1 + len(LANES)
        return [
            line
            for number, line in enumerate(lines)
            if any(counts[number * width : (number + 1) * width])
        ]

    def waiting(self, line: str) -> dict[str, int]:
        """How many items of a line wait (`due` or later) and how many are `leased`."""
        pipe = self.redis.pipeline(transaction=False)
        pipe.zcard(self.key("lease", line))
        for lane in LANES:
            pipe.zcard(self.due(line, lane))
        leased, *waiting = pipe.execute()
        return {"waiting": sum(waiting), "leased": leased}

    def open_counts(self) -> dict[str, int]:
        """How many uploads stand in each state that somebody still has to act on."""
        pipe = self.redis.pipeline(transaction=False)
        for state in OPEN_STATES:
            pipe.zcard(self.key("open", state))
        return dict(zip(map(str, OPEN_STATES), pipe.execute(), strict=True))

    # -- workers -------------------------------------------------------------------------------

    def show_life(self, name: str, facts: dict[str, Any]) -> None:
        """Say that this process lives; to be repeated well within `ALIVE_S`."""
        self.redis.hset(self.key("workers"), name, json.dumps({**facts, "at": self.now()}))

    def end_life(self, name: str) -> None:
        """Say that this process ends."""
        self.redis.hdel(self.key("workers"), name)

    def workers(self) -> list[dict[str, Any]]:
        """What every living process said last, by name; forgets those that fell silent."""
        oldest = self.now() - ALIVE_S
        said = cast("dict[str, str]", self.redis.hgetall(self.key("workers")))
        facts = {name: json.loads(text) for name, text in said.items()}
        silent = [name for name, fact in facts.items() if fact["at"] < oldest]
        if silent:
            self.redis.hdel(self.key("workers"), *silent)
        return [fact for name, fact in sorted(facts.items()) if name not in silent]

    def now(self) -> float:
        """Seconds since the epoch by the Redis server's clock, the only clock that counts."""
        seconds, micros = self.redis.time()
        return seconds + micros / 1e6

    def due(self, line: str, lane: Priority) -> str:
        """Key of the set in which items of a line wait."""
        return self.key("due", line, lane)


def write_patiently(
    write: Callable[[], T], stop: threading.Event, patience_s: float = PATIENCE_S
) -> T:
    """Write an outcome that is already decided, waiting for Redis to come back.

    Raises:
        redis.RedisError: it did not, or `stop` was set; the lease runs out and the step is redone.
    """
    deadline_s = time.monotonic() + patience_s
    while True:
        try:
            return write()
        except (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError):
            if stop.is_set() or time.monotonic() > deadline_s:
                raise
            time.sleep(0.25)


def _accepted(avatar: Avatar) -> dict[str, Any]:
    """What the ledger keeps of an upload's arrival; a URL's query may hold a secret."""
    detail: dict[str, Any] = {"region": avatar.region, "priority": avatar.priority}
    if avatar.image and "?" not in avatar.image:
        detail["image"] = avatar.image
    return detail


def _public_data(avatar: Avatar, change: Transition) -> dict[str, Any]:
    """What the web tier may know of a record after a transition; the body of its callback."""
    fields = {**avatar.to_hash(), **change.fields}
    return describe(avatar.upload_id, str(change.to), avatar.seq + 1, str(avatar.region), fields)


def _flat(fields: dict[str, str]) -> list[str]:
    return [part for pair in fields.items() for part in pair]
