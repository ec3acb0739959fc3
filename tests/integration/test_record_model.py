"""The life of records against a simple reference: workers, crashes, operators, replays, duplicates.

Hypothesis drives several workers, an operator and a fault injector over a real Valkey, and after
every step compares each record with a model of a few dictionaries. The invariants:

- a record's seq grows by exactly one with every transition, and each transition leaves exactly one
  event and one callback;
- an item is never in two places, and an undecided one always in exactly one;
- what the indexes count is what the records say;
- an item whose holder died is never claimed beside another;
- a final verdict stands until an operator changes it;
- what a person says of a picture settles all that wait with it, and is remembered until it is taken
  back; a picture is in front of one person at a time (record_people.py).
"""

from __future__ import annotations

import dataclasses
import itertools
import time

import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from producer.contract import FINAL_STATES, Avatar, AvatarState, Priority, Stage
from producer.errors import StorageUnavailable
from producer.record.dead_letters import DeadLetter, DeadLetters
from producer.record.decisions import Decisions
from producer.record.store import Store, Transition
from tests.integration.record_people import CONTENT, IDS, Expected, People, said_to_look_like
from tests.support import CALLBACK_URL, callback_line_of, events, new_upload, places

STAGE_OF = {"queued": Stage.MODERATE, "reviewing": Stage.REVIEW}
#: What a worker of each stage may make of an upload.
OUTCOMES: dict[Stage, list[str]] = {
    Stage.MODERATE: ["approved", "blocked", "rejected", "reviewing", "held", "dead"],
    Stage.REVIEW: ["approved", "blocked", "held", "dead"],
}
LEASE_S = 0.05
#: Picks one of what the workers hold or held.
WHICH = st.integers(0, 59)

_numbers = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class Held:
    """One upload in a worker's hands, with the record as the worker read it."""

    item: str
    stage: Stage
    token: str
    avatar: Avatar


class Life(People):
    """Everything that can happen to a handful of uploads."""

    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.store = Store(self.client, f"life{next(_numbers)}", record_ttl_s=3600.0)
        self.letters = DeadLetters(self.store)
        self.decisions = Decisions(self.store)
        self.model = {}
        self.delivered: dict[str, int] = {}
        self.sent_back = 0
        # Not Hypothesis bundles: how much a claim finds depends on time, and no draw may.
        self.hands: list[Held] = []
        self.deliveries: list[tuple[str, str]] = []

    # -- the web tier --------------------------------------------------------------------------

    @initialize()
    def some_uploads(self) -> None:
        """Something to work on."""
        for upload_id in IDS[:2]:
            self.submit(upload_id, Priority.NORMAL)

    @rule(upload_id=st.sampled_from(IDS), priority=st.sampled_from(Priority))
    def submit(self, upload_id: str, priority: Priority) -> None:
        """The first submit creates, every other one reports."""
        known = upload_id in self.model
        outcome, avatar = self.store.submit(
            new_upload(
                upload_id, priority=priority, callback_url=CALLBACK_URL, sha256=CONTENT[upload_id]
            ),
            max_backlog=100,
        )
        assert outcome == ("exists" if known else "created")
        expected = self.model.setdefault(upload_id, Expected())
        if known:
            assert (avatar.state, avatar.seq) == (expected.state, expected.seq)

    # -- workers -------------------------------------------------------------------------------

    @rule(
        stage=st.sampled_from([Stage.MODERATE, Stage.REVIEW]),
        token=st.sampled_from(["one", "two", "three"]),
        limit=st.integers(1, 3),
        dies=st.booleans(),
    )
    def claim(self, stage: Stage, token: str, limit: int, dies: bool) -> None:
        """A worker takes items; one that dies leaves leases that run out at once."""
        leases = self.store.claim(stage, limit, lease_s=0.0005 if dies else LEASE_S, token=token)
        if dies:
            time.sleep(0.001)
        assert len({lease.item for lease in leases}) == len(leases)
        assert len(leases) == 1 or not any(lease.crashes for lease in leases)
        for lease in leases:
            avatar = self.store.get(lease.item)
            assert avatar is not None
            assert STAGE_OF[avatar.state] == stage
            self.hands.append(Held(lease.item, stage, token, avatar))

    @rule(which=WHICH, outcome=st.integers(0, 5), like=st.sampled_from(["", *CONTENT.values()]))
    def commit(self, which: int, outcome: int, like: str) -> None:
        """A worker writes its verdict, maybe late, maybe a second time."""
        if not self.hands:
            return
        mine = self.hands[which % len(self.hands)]
        to = OUTCOMES[mine.stage][outcome % len(OUTCOMES[mine.stage])]
        expected = self.model[mine.item]
        fresh = (mine.avatar.state, mine.avatar.seq) == (expected.state, expected.seq)
        like = like if like != CONTENT[mine.item] else ""
        letter = None
        if to == "dead":
            letter = DeadLetter.of(
                mine.item,
                mine.stage,
                StorageUnavailable("no answer"),
                attempts=1,
                first_failed_at=1.0,
                now=2.0,
            ).after(self.letters.get(mine.item))
        [done] = self.store.advance(
            [
                Transition(
                    avatar=mine.avatar,
                    to=AvatarState(to),
                    fields={"decided_by": "model", "looks_like": said_to_look_like(like)},
                    leaves=mine.stage,
                    enters=Stage.REVIEW if to == "reviewing" else None,
                    bury=letter.to_dict() if letter else None,
                )
            ]
        )
        fresh = fresh and not self.is_overruled(mine.item, to)
        assert done.applied == fresh
        if fresh:
            expected.becomes(to)
            expected.died_at, expected.like = mine.stage, like
        else:
            assert (done.state, done.seq) == (expected.state, expected.seq)

    @rule(which=WHICH, keep=st.booleans(), later=st.booleans())
    def put_back(self, which: int, keep: bool, later: bool) -> None:
        """A worker gives back, maybe what it no longer has."""
        if not self.hands:
            return
        mine = self.hands[which % len(self.hands)]
        self.sent_back += 1
        self.store.put_back(
            mine.stage,
            mine.item,
            token=mine.token,
            priority=mine.avatar.priority,
            delay_s=0.002 if later else 0.0,
            fields={"attempts": str(self.sent_back)},
            keep_crashes=keep,
        )

    @rule(which=WHICH)
    def renew(self, which: int) -> None:
        """A sign of life never makes up a lease."""
        if not self.hands:
            return
        mine = self.hands[which % len(self.hands)]
        before = places(self.store, mine.item, mine.stage)
        self.store.renew(mine.stage, [mine.item], lease_s=LEASE_S, token=mine.token)
        assert places(self.store, mine.item, mine.stage) == before

    @rule()
    def time_passes(self) -> None:
        """Every lease runs out."""
        time.sleep(LEASE_S + 0.005)

    # -- callbacks -----------------------------------------------------------------------------

    @rule(token=st.sampled_from(["x", "y"]), dies=st.booleans())
    def take_callbacks(self, token: str, dies: bool) -> None:
        """A deliverer takes callbacks."""
        line = callback_line_of()
        lease_s = 0.0005 if dies else LEASE_S
        leases = self.store.claim(line, 2, lease_s=lease_s, token=token)
        self.deliveries += [(lease.item, token) for lease in leases]

    @rule(which=WHICH, bury=st.booleans())
    def end_callback(self, which: int, bury: bool) -> None:
        """Delivered or given up, by the present holder only."""
        if not self.deliveries:
            return
        item, token = self.deliveries[which % len(self.deliveries)]
        entry = self.store.outbox.get(item)
        if entry is None:
            self.store.drop(callback_line_of(), item, token=token)
            return
        upload_id, _, seq = item.rpartition("#")
        assert entry.data["state"] == self.model[upload_id].history[int(seq) - 1]
        letter = DeadLetter.of(
            item,
            Stage.CALLBACK,
            StorageUnavailable("no"),
            attempts=1,
            first_failed_at=1.0,
            now=2.0,
        )
        ended = self.store.outbox.end(
            entry, token=token, detail={}, bury=letter.to_dict() if bury else None
        )
        if ended and not bury:
            self.delivered[item] = self.delivered.get(item, 0) + 1

    # -- operators -----------------------------------------------------------------------------

    @rule(upload_id=st.sampled_from(IDS), discard=st.booleans())
    def leave_the_dead(self, upload_id: str, discard: bool) -> None:
        """A replay or a discard applies to what is dead, once."""
        expected = self.model.get(upload_id)
        act = self.letters.discard if discard else self.letters.replay
        dead = expected is not None and expected.state == "dead"
        assert act(upload_id, by="ann") == dead
        if dead and expected is not None:
            back = "reviewing" if expected.died_at == Stage.REVIEW else "queued"
            expected.becomes("rejected" if discard else back, "ann" if discard else "")
        assert not act(upload_id, by="ann")

    @rule(discard=st.booleans())
    def leave_the_dead_callbacks(self, discard: bool) -> None:
        """The same for callbacks."""
        act = self.letters.discard if discard else self.letters.replay
        for letter in list(self.letters.find(stage=Stage.CALLBACK)):
            assert act(letter.item, by="ann")
            assert not act(letter.item, by="ann")

    # -- what must always hold -----------------------------------------------------------------

    @invariant()
    def records_are_as_the_model_says(self) -> None:
        """State and seq, and a time to live for final ones only."""
        for upload_id, expected in self.model.items():
            avatar = self.store.get(upload_id)
            assert avatar is not None
            assert (avatar.state, avatar.seq) == (expected.state, expected.seq)
            ttl = int(self.store.redis.ttl(self.store.key("avatar", upload_id)))  # type: ignore[arg-type]
            assert (ttl > 0) == (avatar.state in FINAL_STATES)

    @invariant()
    def nothing_is_in_two_places(self) -> None:
        """An undecided upload is in exactly one place of its stage; any other one in none."""
        for upload_id, expected in self.model.items():
            for stage in (Stage.MODERATE, Stage.REVIEW):
                wanted = 1 if STAGE_OF.get(expected.state) == stage else 0
                assert len(places(self.store, upload_id, stage)) == wanted, (upload_id, stage)
        for stage in (Stage.MODERATE, Stage.REVIEW, callback_line_of()):  # type: ignore[assignment]
            leased = set(self.store.redis.zrange(self.store.key("lease", stage), 0, -1))  # type: ignore[arg-type]
            holders = set(self.store.redis.hkeys(self.store.key("holder", stage)))  # type: ignore[arg-type]
            assert leased == holders

    @invariant()
    def every_transition_has_one_event_and_one_callback(self) -> None:
        """The stream tells the whole life in order; each later state is, or was, in the outbox."""
        told: dict[str, list[tuple[int, str, str]]] = {}
        for event in events(self.store):
            if event["kind"] == "transition":
                told.setdefault(event["upload_id"], []).append(
                    (int(event["seq"]), event["from"], event["to"])
                )
        dead = set(self.store.redis.zrange(self.store.key("dead"), 0, -1))  # type: ignore[arg-type]
        gone = {
            f"{event['upload_id']}#{event['seq']}"
            for event in events(self.store)
            if event["kind"] == "callback" and event["to"] in ("delivered", "discarded")
        }
        for upload_id, expected in self.model.items():
            before = ["", *expected.history]
            assert told[upload_id] == [
                (n, before[n - 1], state) for n, state in enumerate(expected.history, start=1)
            ]
            for seq in range(2, expected.seq + 1):
                item = f"{upload_id}#{seq}"
                somewhere = len(places(self.store, item, callback_line_of())) + (item in dead)
                assert somewhere == (0 if item in gone else 1), item
                assert self.delivered.get(item, 0) <= 1

    @invariant()
    def indexes_count_what_the_records_say(self) -> None:
        """Open states and dead letters."""
        counts = {"queued": 0, "reviewing": 0, "held": 0, "dead": 0}
        for expected in self.model.values():
            if expected.state in counts:
                counts[expected.state] += 1
        assert self.store.open_counts() == counts
        dead = self.store.redis.zrange(self.store.key("dead"), 0, -1)
        uploads = sorted(item for item in dead if "#" not in item)  # type: ignore[union-attr]
        assert uploads == sorted(i for i, e in self.model.items() if e.state == "dead")

    def teardown(self) -> None:
        """What is left can always be finished: no upload is stuck."""
        for _ in range(3):
            time.sleep(0.003)
            for stage in (Stage.MODERATE, Stage.REVIEW):
                for upload_id, expected in self.model.items():
                    if STAGE_OF.get(expected.state) != stage:
                        continue
                    if places(self.store, upload_id, stage) == ["leased"]:
                        time.sleep(LEASE_S)
                        break
                for lease in itertools.chain.from_iterable(
                    iter(lambda s=stage: self.store.claim(s, 9, lease_s=30, token="end"), [])  # type: ignore[misc]
                ):
                    avatar = self.store.get(lease.item)
                    assert avatar is not None
                    said = self.store.overruled(avatar.sha256) or {"state": "approved"}
                    to = AvatarState(said["state"])
                    [done] = self.store.advance([Transition(avatar=avatar, to=to, leaves=stage)])
                    assert done.applied
                    self.model[lease.item].becomes(to)
        assert self.store.open_counts()["queued"] == 0
        assert self.store.open_counts()["reviewing"] == 0
        for key in self.store.redis.scan_iter(f"{self.store.prefix}*", count=1000):
            self.store.redis.delete(key)


def test_records_live_as_the_model_says(redis_server: redis.Redis) -> None:
    """Any interleaving of submits, workers, deaths, late commits, operators and replays."""
    machine = type("Life", (Life,), {"client": redis_server})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_who_follows_a_decision_is_cleared_of_its_own_look_alike(
    redis_server: redis.Redis,
) -> None:
    """The picture was decided under another id; an undo takes that back as well."""
    life = type("Life", (Life,), {"client": redis_server})()
    life.some_uploads()
    life.claim(stage=Stage.MODERATE, limit=1, dies=False, token="one")
    life.commit(which=0, outcome=3, like="cd" * 32)
    life.decide(upload_id="b", verdict="approved", by="ann", copies=False, stale=0)
    assert life.cleared["cd" * 32] == {"ab" * 32}
    life.people_are_remembered()
    life.undo(upload_id="b", by="bob")
    assert life.cleared["cd" * 32] == set()
    life.people_are_remembered()
    life.teardown()
