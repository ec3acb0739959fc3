"""The accounts after a chaos run: every broken promise by name, with the uploads that show it.

They are taken from outside: the ledger's SQL is read with plain queries, records are asked for by
GET, callbacks are what the receiver got. Only what nobody outside sees is looked up in Redis.
"""

from __future__ import annotations

import itertools
import json
import random
import sqlite3
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.chaos_people import Word, verdict_of
from benchmarks.chaos_web_tier import WebTier
from producer.contract import FINAL_STATES, Avatar, AvatarState
from producer.metrics import COST, total_field
from producer.record.settling import WAITING
from producer.record.store import LANES, Store
from worker.demo.webhook_receiver import Received
from worker.ledger.schema import MARK
from worker.ledger.writer import Ledger
from worker.settings import WorkerSettings
from worker.tools.report import make_report

#: What may follow a state by itself.
LEGAL = {
    "": {"queued", "held", "approved", "blocked", "rejected"},
    "queued": {"reviewing", "held", "approved", "blocked", "rejected", "dead"},
    "reviewing": {"held", "approved", "blocked", "rejected", "dead"},
}

#: What may follow by a person's word, also where `restore` repeats it about what was approved while
#: the word was forgotten, and where an undo takes that back.
LEGAL_BY_PERSON = {
    "held": {"approved", "blocked"},
    "reviewing": {"approved", "blocked"},
    "approved": {"held", "blocked"},
    "blocked": {"held", "approved"},
}

#: Who is asked about gray pictures.
PROVIDER = "huggingface"

#: Records read in one round trip.
PAGE = 5000

#: Uploads that are asked for by GET after the run.
ASKED = 3000


class Event(NamedTuple):
    """One transition as the ledger has it; `person`: whose word it was; `data_set`: its mark.

    `restored_from` is the state that `restore` found in the ledger and repeats.
    """

    seq: int
    from_state: str
    to_state: str
    person: str
    decided_by: str
    sha256: str
    data_set: str
    restored_from: str


#: The transitions of a record from its beginning to its end, or to the loss of Redis' data.
Story = list[Event]


class Accounts:
    """Checks one finished run.

    Args:
        store: for what cannot be seen from outside.
        ledger_file: the ledger, drained.
        received: the callbacks that came.
        web_tier: what was enqueued, and is asked for.
        lost: uploads of which the ledger did not know everything when Redis was emptied.
        words: what people decided and were told is done.
    """

    def __init__(
        self,
        store: Store,
        ledger_file: Path,
        received: Sequence[Received],
        web_tier: WebTier,
        lost: Container[str],
        words: Iterable[Word],
    ) -> None:
        self._store = store
        self._ledger_file = ledger_file
        self._web_tier = web_tier
        self._received = received
        self._lost = lost
        self._words = words
        data_set = store.data_sets.look()
        self._present = data_set.id if data_set else ""
        self._violations: dict[str, list[str]] = defaultdict(list)

    def check(self, accepted: Sequence[str]) -> dict[str, list[str]]:
        """Every broken promise by name; empty when all were kept."""
        stories = read_stories(self._ledger_file, self._store.prefix.strip("{}:"))
        heard = self._heard()
        self._check_words(stories)
        for start in range(0, len(accepted), PAGE):
            page = accepted[start : start + PAGE]
            for upload_id, avatar in zip(page, self._store.get_many(page), strict=True):
                told = stories.pop(upload_id, [])
                self._check_record(upload_id, avatar, told)
                self._check_stories(upload_id, told)
                if upload_id not in self._web_tier.untold:
                    self._check_callbacks(upload_id, told, heard)
        self._note("in the ledger but never accepted", stories)
        self._check_answers(accepted, heard)
        for line in self._store.lines():
            self._note("left in a lease or due", self._left(line))
        for problem, ids in self._web_tier.complaints.items():
            self._note(problem, ids)
        return {name: ids for name, ids in self._violations.items() if ids}

    def _note(self, problem: str, ids: Iterable[str]) -> None:
        self._violations[problem] += ids

    def _heard(self) -> dict[str, dict[int, set[str]]]:
        """Webhook ids under which each transition was heard of; each id belongs to one."""
        heard: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        owner: dict[str, tuple[str, int, str]] = {}
        for received in self._received:
            if not received.verified:
                # One of another time was refused, as it should be, and has to come again.
                wrong = [received.webhook_id] if received.is_of_now else []
                self._note("callback with a wrong signature", wrong)
                continue
            data = received.data
            heard[data["upload_id"]][data["seq"]].add(received.webhook_id)
            said = data["upload_id"], data["seq"], data["state"]
            if owner.setdefault(received.webhook_id, said) != said:
                self._note("one callback id for two things", [received.webhook_id])
        return heard

    def _check_record(self, upload_id: str, avatar: Avatar | None, told: list[Story]) -> None:
        if not told:
            self._note("unknown to the ledger", [upload_id])
            return
        last = told[-1][-1]
        if avatar is None:
            # Redis was emptied; what was over, and told, is not brought back.
            over = last.to_state in FINAL_STATES and last.data_set != self._present
            self._note("record missing", [] if over else [upload_id])
            return
        if not (avatar.is_final or avatar.state in (AvatarState.HELD, AvatarState.DEAD)):
            self._note("not decided", [upload_id])
        letter = self._store.key("dead", upload_id)
        if avatar.state == AvatarState.DEAD and not self._store.redis.exists(letter):
            self._note("dead without a dead letter", [upload_id])
        if (last.seq, last.to_state) != (avatar.seq, avatar.state):
            self._note("record differs from its last transition", [upload_id])
        if avatar.sha256 and avatar.state in WAITING and self._store.overruled(avatar.sha256):
            self._note("waits although its picture is decided", [upload_id])

    def _check_stories(self, upload_id: str, told: list[Story]) -> None:
        problems = [problem for story in told for problem in broken_story(story)]
        seqs = [event.seq for story in told for event in story]
        if len(set(seqs)) != len(seqs):
            problems.append("a seq used twice")
        verdicts = {e.to_state for story in told for e in story if _is_machine_verdict(e)}
        if len(verdicts) > 1:
            problems.append("contradictory verdicts")
        for problem in problems:
            self._note(problem, [upload_id])

    def _check_callbacks(
        self, upload_id: str, told: list[Story], heard: dict[str, dict[int, set[str]]]
    ) -> None:
        """Each transition is heard of under one id; what was told of a lost record, at its end."""
        for number, story in enumerate(told):
            is_last = number == len(told) - 1
            is_whole = story[0].data_set == self._present
            for event in story:
                ids = heard[upload_id][event.seq]
                must = event.to_state != "queued" and (
                    is_whole or (is_last and event is story[-1] and upload_id not in self._lost)
                )
                if len(ids) > 1:
                    self._note("callback id changed", [f"{upload_id}#{event.seq}"])
                if must and not ids:
                    self._note("transition without callback", [f"{upload_id}#{event.seq}"])

    def _check_words(self, stories: dict[str, list[Story]]) -> None:
        """What a person was told is decided is in the ledger, and sticks to the picture."""
        for word in self._words:
            events = (e for story in stories.get(word.upload_id, []) for e in story)
            found = any((e.seq, e.to_state) == (word.seq, word.state) for e in events)
            if not found and word.upload_id not in self._lost:
                self._note("a person's decision is lost", [f"{word.upload_id}#{word.seq}"])
        left = self._store.redis.hkeys(self._store.key("settling"))
        self._note("a decision half done", map(str, left))
        everything = [e for told in stories.values() for story in told for e in story]
        persons = [e for e in everything if e.person and e.sha256]
        for event in persons:
            is_verdict = event.to_state in ("approved", "blocked")
            if is_verdict and event.to_state != verdict_of(event.sha256):
                self._note("decided as nobody did", [f"{event.sha256} {event.person}"])
        for sha256 in {e.sha256 for e in persons if e.data_set == self._present}:
            said = self._store.overruled(sha256)
            known = self._store.memory.get(sha256)
            if said and said["state"] == "blocked" and known is None:
                self._note("a blocked picture is not remembered", [sha256])

    def _check_answers(
        self, accepted: Sequence[str], heard: dict[str, dict[int, set[str]]]
    ) -> None:
        """GET says what the last callback said."""
        said = [r.data for r in self._received if r.verified]
        states = {(data["upload_id"], data["seq"]): data["state"] for data in said}
        for upload_id in random.Random(1).sample(accepted, min(ASKED, len(accepted))):
            data = self._web_tier.ask(upload_id, patience_s=30.0)
            seqs = heard[upload_id]
            if data is None or upload_id in self._web_tier.untold or not seqs:
                continue
            if (max(seqs), states[upload_id, max(seqs)]) != (data["seq"], data["state"]):
                self._note("GET differs from the last callback", [upload_id])

    def _left(self, line: str) -> list[str]:
        key, client = self._store.key, self._store.redis
        return [
            *client.zrange(key("lease", line), 0, -1),
            *client.hkeys(key("holder", line)),
            *client.hkeys(key("crashes", line)),
            *(i for lane in LANES for i in client.zrange(key("due", line, lane), 0, -1)),
        ]


def read_stories(ledger_file: Path, namespace: str) -> dict[str, list[Story]]:
    """Every upload's stories in the order of their seqs, by plain SQL."""
    stories: dict[str, list[Story]] = defaultdict(list)
    for upload_id, event in _read_events(ledger_file, namespace):
        if not event.from_state or not stories[upload_id]:
            stories[upload_id].append([])
        stories[upload_id][-1].append(event)
    return stories


def _read_events(ledger_file: Path, namespace: str) -> Iterator[tuple[str, Event]]:
    query = (
        "SELECT upload_id, seq, from_state, to_state, detail, decided_by, sha256, stream_id "
        "FROM events WHERE namespace = ? AND kind = 'transition' ORDER BY upload_id, seq, id"
    )
    connection = sqlite3.connect(f"file:{ledger_file}?mode=ro", uri=True)
    try:
        for row in connection.execute(query, (namespace,)):
            upload_id, seq, from_state, to_state, detail, decided_by, sha256, stream_id = row
            said = json.loads(detail)
            person, restored_from = (str(said.get(name, "")) for name in ("by", "restored_from"))
            data_set = stream_id.partition(MARK)[2]
            states = seq, from_state, to_state
            yield upload_id, Event(*states, person, decided_by, sha256, data_set, restored_from)
    finally:
        connection.close()


def broken_story(story: Story) -> list[str]:
    """What is wrong with one record's transitions, in words."""
    problems = []
    first = story[0]
    if first.from_state or [e.seq for e in story] != list(range(first.seq, first.seq + len(story))):
        problems.append("transitions not numbered without a gap")
    for event in story:
        legal = (LEGAL_BY_PERSON if event.person else LEGAL).get(event.from_state, set())
        if event.restored_from and not event.from_state:
            legal = {event.restored_from, "queued"}
        if event.to_state not in legal:
            whose = "by a person" if event.person else "by a machine"
            problems.append(f"illegal transition {event.from_state} -> {event.to_state} {whose}")
    if any(a.to_state != b.from_state for a, b in itertools.pairwise(story)):
        problems.append("transition from another state than the one before")
    if sum(_is_machine_verdict(event) for event in story) > 1:
        problems.append("more than one final verdict in the ledger")
    return problems


def _is_machine_verdict(event: Event) -> bool:
    """Whether it is what a machine says by itself, not by a person's word on the content."""
    sticky = event.decided_by.startswith(("operator:", "memory"))
    return event.to_state in FINAL_STATES and not event.person and not sticky


def money_books(
    store: Store, ledger: Ledger, ledger_file: Path, settings: WorkerSettings
) -> dict[str, dict[str, float]]:
    """What was paid to the stub, in yuan, by the books that must agree.

    Budget and metric are in Redis, and begin anew when that is emptied; the ledger goes on.
    """
    redis: Any = store.redis
    spent = sum(
        int(redis.hget(key, f"{PROVIDER}:microyuan") or 0)
        for key in redis.scan_iter(store.key("review", "day", "*"))
    )
    data_set = store.data_sets.look()
    assert data_set is not None
    connection = sqlite3.connect(f"file:{ledger_file}?mode=ro", uri=True)
    query = "SELECT coalesce(sum(cost_microyuan), 0) FROM events WHERE stream_id LIKE ?"
    try:
        since = connection.execute(query, (f"%{MARK}{data_set.id}",)).fetchone()[0]
        ever = connection.execute(query, ("%",)).fetchone()[0]
    finally:
        connection.close()
    return {
        "of these data": {
            "budget": spent / 1e6,
            "ledger": since / 1e6,
            "metric": store.totals().get(total_field(COST, PROVIDER), 0.0),
        },
        "of the whole run": {
            "ledger": ever / 1e6,
            "queries": ledger.count(0.0, store.now() + 86400).cost_yuan,
            "report": make_report(ledger, settings, "day", 3).total.cost_yuan,
        },
    }
