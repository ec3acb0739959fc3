"""The accounts after a chaos run: every broken promise by name, with the uploads that show it.

What happened to an upload is read from the ledger's SQL, where the io worker drained it, and from
the stream of events in Redis, where the newest may still wait. What became of it is its record.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from producer.contract import FINAL_STATES, Avatar, AvatarState
from producer.store import LANES, Store
from worker.ledger import Ledger
from worker.receiver import Received

#: What may follow a state; an operator's overruling does not happen here.
LEGAL = {
    "": {"queued"},
    "queued": {"reviewing", "held", "approved", "blocked", "rejected", "dead"},
    "reviewing": {"held", "approved", "blocked", "rejected", "dead"},
}

#: Records or events read in one round trip.
PAGE = 5000


class Event(NamedTuple):
    """One transition as the ledger or the stream has it."""

    seq: int
    from_state: str
    to_state: str


class Accounts:
    """Checks one finished run."""

    def __init__(self, store: Store, ledger: Ledger, received: Sequence[Received]) -> None:
        self._store = store
        self._ledger = ledger
        self._received = received
        self._violations: dict[str, list[str]] = defaultdict(list)

    def check(self, accepted: Sequence[str]) -> dict[str, list[str]]:
        """Every broken promise by name; empty when all were kept."""
        histories = read_transitions(self._store, self._ledger)
        heard = self._heard()
        for start in range(0, len(accepted), PAGE):
            page = accepted[start : start + PAGE]
            for upload_id, avatar in zip(page, self._store.get_many(page), strict=True):
                history = histories.pop(upload_id, [])
                self._check_record(upload_id, avatar, history)
                self._check_callbacks(upload_id, history, heard)
        self._note("in the ledger but never accepted", histories)
        self._note("hole in the ledger", (row[0] for row in self._ledger.broken_stories()))
        for line in self._store.lines():
            self._note("left in a lease or due", self._left(line))
        return {name: ids for name, ids in self._violations.items() if ids}

    def _note(self, problem: str, ids: Iterable[str]) -> None:
        self._violations[problem] += ids

    def _heard(self) -> dict[tuple[str, int], set[str]]:
        """Webhook ids under which each transition was heard of; each id belongs to one."""
        heard: dict[tuple[str, int], set[str]] = defaultdict(set)
        owner: dict[str, tuple[str, int]] = {}
        for received in self._received:
            if not received.verified:
                self._note("callback with a wrong signature", [received.webhook_id])
                continue
            transition = received.data["upload_id"], received.data["seq"]
            heard[transition].add(received.webhook_id)
            if owner.setdefault(received.webhook_id, transition) != transition:
                self._note("one callback id for two transitions", [received.webhook_id])
        return heard

    def _check_record(self, upload_id: str, avatar: Avatar | None, history: list[Event]) -> None:
        if avatar is None:
            self._note("record missing", [upload_id])
            return
        if not (avatar.is_final or avatar.state in (AvatarState.HELD, AvatarState.DEAD)):
            self._note("not decided", [upload_id])
        letter = self._store.key("dead", upload_id)
        if avatar.state == AvatarState.DEAD and not self._store.redis.exists(letter):
            self._note("dead without a dead letter", [upload_id])
        for problem in broken_history(history, avatar):
            self._note(problem, [upload_id])

    def _check_callbacks(
        self, upload_id: str, history: list[Event], heard: dict[tuple[str, int], set[str]]
    ) -> None:
        for event in history[1:]:
            ids = heard[upload_id, event.seq]
            if len(ids) != 1:
                problem = "callback id changed" if ids else "transition without callback"
                self._note(problem, [f"{upload_id}#{event.seq}"])

    def _left(self, line: str) -> list[str]:
        key, client = self._store.key, self._store.redis
        return [
            *client.zrange(key("lease", line), 0, -1),
            *client.hkeys(key("holder", line)),
            *client.hkeys(key("crashes", line)),
            *(i for lane in LANES for i in client.zrange(key("due", line, lane), 0, -1)),
        ]  # type: ignore[misc]


def read_transitions(store: Store, ledger: Ledger) -> dict[str, list[Event]]:
    """Every upload's transitions in the order written, each once.

    The stream is read before SQL: an event that is drained meanwhile is then seen twice, and its
    stream id tells; the other way round it would not be seen at all.
    """
    found: dict[str, tuple[str, Event]] = {}
    start = "-"
    while entries := store.redis.xrange(store.key("events"), start, count=PAGE):
        for stream_id, fields in entries:  # type: ignore[union-attr]
            if fields["kind"] == "transition":
                event = Event(int(fields["seq"]), fields["from"], fields["to"])
                found[stream_id] = (fields["upload_id"], event)
        start = f"({entries[-1][0]}"  # type: ignore[index]
    for row in ledger.stream(kind="transition"):
        event = Event(row["seq"], row["from_state"], row["to_state"])
        found[row["stream_id"]] = (row["upload_id"], event)
    histories: dict[str, list[Event]] = defaultdict(list)
    for stream_id in sorted(found, key=_stream_order):
        upload_id, event = found[stream_id]
        histories[upload_id].append(event)
    return histories


def broken_history(history: list[Event], avatar: Avatar) -> list[str]:
    """What is wrong with one upload's transitions, in words."""
    problems = []
    if [event.seq for event in history] != list(range(1, avatar.seq + 1)):
        problems.append("transitions not numbered 1, 2, 3, ... up to the record")
    if any(event.to_state not in LEGAL.get(event.from_state, set()) for event in history):
        problems.append("illegal transition")
    if any(a.to_state != b.from_state for a, b in itertools.pairwise(history)):
        problems.append("transition from another state than the one before")
    finals = sum(event.to_state in FINAL_STATES for event in history)
    if finals != int(avatar.is_final):
        problems.append("final verdict not exactly once in the ledger")
    if history and history[-1].to_state != avatar.state:
        problems.append("record differs from its last transition")
    return problems


def _stream_order(stream_id: str) -> tuple[int, int]:
    time_ms, _, number = stream_id.partition("-")
    return int(time_ms), int(number)
