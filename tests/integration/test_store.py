"""Every branch of every script in producer/record/lua, on a real Valkey."""

from __future__ import annotations

import gc
import json
import time
import weakref

import pytest
import redis

from producer.contract import Avatar, AvatarState, Priority, Stage
from producer.record.keyspace import endpoint_name
from producer.record.outbox import CallbackEntry
from producer.record.store import Store
from tests.support import (
    CALLBACK_URL,
    TOKEN,
    callback_line_of,
    change,
    claim,
    events,
    new_upload,
    places,
    put_back,
    submit,
    wait_until,
)


def only_callback(store: Store, upload_id: str = "a", seq: int = 2) -> CallbackEntry:
    """The outbox entry of one transition."""
    entry = store.outbox.get(f"{upload_id}#{seq}")
    assert entry is not None
    return entry


class TestSubmit:
    def test_a_new_upload_is_recorded_due_indexed_and_told_in_one_step(self, store: Store) -> None:
        """The record, its due entry, the index and the event exist after one call."""
        submit(store, "u/1", image="one.png", priority=Priority.HIGH)
        avatar = store.get("u/1")
        assert avatar is not None
        assert (avatar.state, avatar.seq, avatar.image) == (AvatarState.QUEUED, 1, "one.png")
        assert avatar.created_at == avatar.updated_at == pytest.approx(store.now(), abs=60)
        assert places(store, "u/1") == ["due:high"]
        assert store.open_counts() == {"queued": 1, "reviewing": 0, "held": 0, "dead": 0}
        [event] = events(store)
        assert (event["kind"], event["from"], event["to"], event["seq"]) == (
            "transition",
            "",
            "queued",
            "1",
        )

    def test_the_same_id_again_changes_nothing(self, store: Store) -> None:
        """A second submit reports the record as it stands, whatever it brings along."""
        submit(store, image="one.png")
        outcome, avatar = store.submit(new_upload(image="other.png"), max_backlog=10)
        assert (outcome, avatar.image, avatar.seq) == ("exists", "one.png", 1)
        assert len(events(store)) == 1

    def test_a_decided_id_is_not_moderated_again(self, store: Store) -> None:
        """A final record answers for its id; nothing becomes due."""
        submit(store)
        store.advance([change(store, "a", AvatarState.APPROVED, leaves=Stage.MODERATE)])
        outcome, avatar = store.submit(new_upload(), max_backlog=10)
        assert (outcome, avatar.state, avatar.seq) == ("exists", AvatarState.APPROVED, 2)
        assert places(store, "a") == []

    def test_a_full_backlog_refuses_without_a_trace(self, store: Store) -> None:
        """Queued and reviewing uploads count; a refused one leaves no key and no event."""
        submit(store, "a")
        submit(store, "b")
        store.advance(
            [change(store, "b", AvatarState.REVIEWING, leaves=Stage.MODERATE, enters=Stage.REVIEW)]
        )
        before = len(events(store))
        outcome, _ = store.submit(new_upload("c"), max_backlog=2)
        assert outcome == "full"
        assert store.get("c") is None
        assert places(store, "c") == []
        assert len(events(store)) == before
        assert store.submit(new_upload("c"), max_backlog=3)[0] == "created"

    def test_held_and_dead_uploads_do_not_fill_the_queue(self, store: Store) -> None:
        """What waits for a person does not keep new uploads out."""
        for upload_id, state in (("a", AvatarState.HELD), ("b", AvatarState.DEAD)):
            submit(store, upload_id)
            store.advance([change(store, upload_id, state, leaves=Stage.MODERATE)])
        assert store.submit(new_upload("c"), max_backlog=1)[0] == "created"

    def test_an_id_already_known_is_reported_even_when_the_queue_is_full(
        self, store: Store
    ) -> None:
        """Being full is no reason to forget what was accepted."""
        submit(store)
        assert store.submit(new_upload(), max_backlog=1)[0] == "exists"


class TestClaim:
    def test_what_is_due_is_leased_once(self, store: Store) -> None:
        """Two workers never hold the same upload."""
        for number in range(5):
            submit(store, f"u{number}")
        first = claim(store, limit=3, token="one")
        second = claim(store, limit=3, token="two")
        assert len(first) == 3
        assert len(second) == 2
        assert {lease.item for lease in first} & {lease.item for lease in second} == set()
        assert claim(store) == []

    def test_the_oldest_comes_first(self, store: Store) -> None:
        """Within a lane, the order of arrival is kept."""
        for number in range(4):
            submit(store, f"u{number}")
        assert [lease.item for lease in claim(store)] == ["u0", "u1", "u2", "u3"]

    def test_a_higher_lane_is_emptied_first(self, store: Store) -> None:
        """A batch takes all of high before any of normal, and low last."""
        for name, priority in (("l", "low"), ("n", "normal"), ("h", "high")):
            submit(store, name, priority=Priority(priority))
        assert [lease.item for lease in claim(store, limit=2)] == ["h", "n"]
        assert [lease.item for lease in claim(store, limit=2)] == ["l"]

    def test_lanes_that_are_not_asked_for_are_left(self, store: Store) -> None:
        """A worker may take from some lanes only."""
        submit(store, "l", priority=Priority.LOW)
        assert claim(store, lanes=(Priority.HIGH, Priority.NORMAL)) == []
        assert [lease.item for lease in claim(store, lanes=(Priority.LOW,))] == ["l"]

    def test_what_is_due_later_is_left(self, store: Store) -> None:
        """A delay is kept."""
        submit(store)
        claim(store)
        put_back(store, "a", delay_s=60.0)
        assert claim(store) == []
        assert store.waiting(Stage.MODERATE) == {"waiting": 1, "leased": 0}

    def test_an_item_whose_holder_died_comes_alone_and_counted(self, store: Store) -> None:
        """A lease that ran out is taken by itself although others are due."""
        for name in ("a", "b", "c"):
            submit(store, name)
        claim(store, limit=2, lease_s=0.001, token="dead")
        time.sleep(0.01)
        alone = claim(store)
        assert [(lease.item, lease.crashes) for lease in alone] == [("a", 1)]
        assert [(lease.item, lease.crashes) for lease in claim(store)] == [("b", 1)]
        assert [(lease.item, lease.crashes) for lease in claim(store)] == [("c", 0)]

    def test_deaths_add_up(self, store: Store) -> None:
        """Every lease that runs out counts once."""
        submit(store)
        claim(store, lease_s=0.001)
        for deaths in (1, 2, 3):
            time.sleep(0.01)
            assert [lease.crashes for lease in claim(store, lease_s=0.001)] == [deaths]

    def test_a_count_kept_over_a_give_back_comes_along(self, store: Store) -> None:
        """A worker that stops with a suspect in hand does not clear it."""
        submit(store)
        claim(store, lease_s=0.001)
        time.sleep(0.01)
        claim(store)
        put_back(store, "a", keep_crashes=True)
        assert [lease.crashes for lease in claim(store)] == [1]

    def test_no_more_than_the_limit_of_all_workers_is_leased(self, store: Store) -> None:
        """`most_leased` counts the leases of every worker."""
        for number in range(6):
            submit(store, f"u{number}")
        assert len(claim(store, limit=3, most_leased=4, token="one")) == 3
        assert len(claim(store, limit=3, most_leased=4, token="two")) == 1
        assert claim(store, limit=3, most_leased=4, token="three") == []
        assert len(claim(store, limit=3, most_leased=0, token="three")) == 2

    def test_a_suspect_that_was_given_back_comes_alone(self, store: Store) -> None:
        """After a graceful stop too, wherever it stands, and not beside what is held."""
        for name in ("suspect", "a", "b", "c"):
            submit(store, name)
        claim(store, limit=1, lease_s=0.001)
        time.sleep(0.01)
        claim(store)
        put_back(store, "suspect", keep_crashes=True)
        due = store.key("due", Stage.MODERATE, "normal")
        store.redis.zadd(due, {"a": 1, "b": 2, "suspect": 3, "c": 4})
        assert [lease.item for lease in claim(store)] == ["a", "b"]
        assert claim(store, busy=True) == []
        alone = claim(store)
        assert [(lease.item, lease.crashes) for lease in alone] == [("suspect", 1)]
        assert [lease.item for lease in claim(store)] == ["c"]

    def test_leases_that_ran_out_keep_to_the_limit_of_all_workers(self, store: Store) -> None:
        """A failing endpoint gets one probe at a time, after a worker's death too."""
        for name in ("a", "b", "c"):
            submit(store, name)
        assert len(claim(store, limit=3, lease_s=0.001, token="dead")) == 3
        time.sleep(0.01)
        first = claim(store, most_leased=1, token="one")
        assert [(lease.item, lease.crashes) for lease in first] == [("a", 1)]
        assert claim(store, most_leased=1, token="two") == []
        store.drop(Stage.MODERATE, "a", token="one")
        assert [lease.item for lease in claim(store, most_leased=1, token="two")] == ["b"]

    def test_a_limit_of_nothing_takes_nothing(self, store: Store) -> None:
        """Neither due items nor those of a dead holder."""
        submit(store, "a")
        claim(store, lease_s=0.001)
        submit(store, "b")
        time.sleep(0.01)
        assert claim(store, limit=0) == []
        assert store.redis.hgetall(store.key("crashes", Stage.MODERATE)) == {}


class TestRenew:
    def test_a_renewed_lease_does_not_run_out(self, store: Store) -> None:
        """The deadline moves to the present plus the lease."""
        submit(store)
        claim(store, lease_s=0.05)
        assert store.renew(Stage.MODERATE, ["a"], lease_s=30.0, token=TOKEN) == 1
        time.sleep(0.08)
        assert claim(store, token="other") == []

    def test_only_the_holder_renews(self, store: Store) -> None:
        """A lost lease is not renewed, and the number says so."""
        submit(store, "a")
        submit(store, "b")
        claim(store, limit=1, lease_s=0.001, token="old")
        time.sleep(0.01)
        claim(store, limit=1, token="new")
        assert store.renew(Stage.MODERATE, ["a", "b"], lease_s=30.0, token="old") == 0
        assert places(store, "b") == ["due:normal"]

    def test_renewing_nothing_asks_nobody(self, store: Store) -> None:
        """No items: no round trip, zero held."""
        assert store.renew(Stage.MODERATE, [], lease_s=30.0, token=TOKEN) == 0


class TestPutBack:
    def test_a_lease_given_back_is_due_again(self, store: Store) -> None:
        """In the lane of its priority, at once, and the record is updated."""
        submit(store, priority=Priority.LOW)
        claim(store)
        assert put_back(store, "a", priority=Priority.LOW, fields={"attempts": "2"})
        avatar = store.get("a")
        assert avatar is not None
        assert (places(store, "a"), avatar.attempts, avatar.seq) == (["due:low"], 2, 1)
        assert store.redis.hlen(store.key("holder", Stage.MODERATE)) == 0

    def test_a_late_worker_does_not_disturb_its_successor(self, store: Store) -> None:
        """Who lost the lease changes neither the lease nor the record."""
        submit(store)
        claim(store, lease_s=0.001, token="old")
        time.sleep(0.01)
        claim(store, token="new")
        assert not put_back(store, "a", token="old", fields={"attempts": "9"})
        assert not store.drop(Stage.MODERATE, "a", token="old")
        avatar = store.get("a")
        assert avatar is not None
        assert (places(store, "a"), avatar.attempts) == (["leased"], 0)

    def test_an_item_that_nobody_holds_is_not_put_back(self, store: Store) -> None:
        """A give-back after the decision makes nothing due."""
        submit(store)
        claim(store)
        store.advance([change(store, "a", AvatarState.APPROVED, leaves=Stage.MODERATE)])
        assert not put_back(store, "a")
        assert places(store, "a") == []

    def test_an_error_clears_the_count_of_deaths(self, store: Store) -> None:
        """A worker that lived to report an error did not die of it."""
        submit(store)
        claim(store, lease_s=0.001)
        time.sleep(0.01)
        claim(store)
        put_back(store, "a")
        assert [lease.crashes for lease in claim(store)] == [0]

    def test_a_dropped_item_is_nowhere(self, store: Store) -> None:
        """Dropping ends the lease and makes nothing due."""
        submit(store)
        claim(store)
        assert store.drop(Stage.MODERATE, "a", token=TOKEN)
        assert places(store, "a") == []

    def test_no_record_is_made_up(self, store: Store) -> None:
        """Fields for a record that is gone do not create half a record."""
        submit(store)
        claim(store)
        store.redis.delete(store.key("avatar", "a"))
        assert put_back(store, "a", fields={"attempts": "1"})
        assert store.get("a") is None

    def test_fields_of_a_callback_go_to_its_entry(self, store: Store) -> None:
        """Attempts of a callback are counted on the callback, not on the record."""
        submit(store)
        store.advance([change(store, "a", AvatarState.APPROVED, leaves=Stage.MODERATE)])
        line = callback_line_of()
        assert [lease.item for lease in claim(store, line)] == ["a#2"]
        assert put_back(store, "a#2", line, fields={"attempts": "3", "first_failed_at": "12.5"})
        entry = only_callback(store)
        avatar = store.get("a")
        assert (entry.attempts, entry.first_failed_at) == (3, 12.5)
        assert avatar is not None
        assert avatar.attempts == 0


class TestTransition:
    def test_all_of_it_happens_at_once(self, store: Store) -> None:
        """State, seq, fields, index, lease, callback, event and count follow from one call."""
        submit(store, region="overseas")
        claim(store)
        [done] = store.advance(
            [
                change(
                    store,
                    "a",
                    AvatarState.BLOCKED,
                    leaves=Stage.MODERATE,
                    fields={"reason": "explicit", "probability": "0.99123456"},
                    detail={"views": 1},
                )
            ]
        )
        assert (done.applied, done.state, done.seq) == (True, "blocked", 2)
        avatar = store.get("a")
        assert avatar is not None
        assert (avatar.state, avatar.seq, avatar.reason) == (AvatarState.BLOCKED, 2, "explicit")
        assert sum(store.open_counts().values()) == 0
        assert places(store, "a") == []
        assert store.redis.hgetall(store.key("holder", Stage.MODERATE)) == {}
        entry = only_callback(store)
        assert (entry.url, entry.attempts, entry.at) == (CALLBACK_URL, 0, avatar.updated_at)
        assert entry.data["probability"] == 0.991235
        assert (entry.data["state"], entry.data["seq"], entry.data["final"]) == ("blocked", 2, True)
        assert store.outbox.endpoints() == [endpoint_name(CALLBACK_URL)]
        assert places(store, "a#2", callback_line_of()) == ["due:normal"]
        last = events(store)[-1]
        assert (last["from"], last["to"], last["seq"]) == ("queued", "blocked", "2")
        assert json.loads(last["detail"]) == {"views": 1}
        assert store.redis.hget(store.key("counts"), "blocked") == "1"

    def test_a_second_run_is_a_no_op_that_reports_what_is_so(self, store: Store) -> None:
        """The same change twice is applied once."""
        submit(store)
        wanted = change(store, "a", AvatarState.APPROVED, leaves=Stage.MODERATE)
        first, second = store.advance([wanted, wanted])
        assert first.applied
        assert (second.applied, second.state, second.seq) == (False, "approved", 2)
        assert len(events(store)) == 2

    def test_the_same_seq_in_another_state_is_refused(self, store: Store) -> None:
        """Both the state and its seq must still hold."""
        avatar = submit(store)
        store.advance([change(store, "a", AvatarState.HELD, leaves=Stage.MODERATE)])
        stale = Avatar(upload_id="a", state=AvatarState.QUEUED, seq=2, image=avatar.image)
        wanted = change(store, "a", AvatarState.APPROVED)
        [done] = store.advance([type(wanted)(avatar=stale, to=AvatarState.APPROVED)])
        assert (done.applied, done.state, done.seq) == (False, "held", 2)

    def test_a_record_that_is_gone_is_not_made_up(self, store: Store) -> None:
        """A late worker does not bring an expired record back."""
        submit(store)
        wanted = change(store, "a", AvatarState.APPROVED, leaves=Stage.MODERATE)
        store.redis.delete(store.key("avatar", "a"))
        [done] = store.advance([wanted])
        assert (done.applied, done.state, done.seq) == (False, "", 0)
        assert store.get("a") is None

    def test_a_final_record_expires_and_an_open_one_never(self, store: Store) -> None:
        """Taking a decision back also takes the expiry back."""
        submit(store)
        key = store.key("avatar", "a")
        assert store.redis.ttl(key) == -1
        store.advance([change(store, "a", AvatarState.APPROVED, leaves=Stage.MODERATE)])
        assert 0 < int(store.redis.ttl(key)) <= 3600  # type: ignore[arg-type]
        store.advance([change(store, "a", AvatarState.HELD)])
        assert store.redis.ttl(key) == -1
        assert store.open_counts()["held"] == 1

    def test_the_next_stage_finds_it_after_its_delay(self, store: Store) -> None:
        """A gray upload leaves one line and enters the other, when it is due."""
        submit(store)
        claim(store)
        gray = {"leaves": Stage.MODERATE, "enters": Stage.REVIEW}
        store.advance([change(store, "a", AvatarState.REVIEWING, delay_s=60.0, **gray)])
        assert places(store, "a") == []
        assert places(store, "a", Stage.REVIEW) == ["due:normal"]
        assert claim(store, Stage.REVIEW) == []

    def test_a_decision_also_ends_a_wait(self, store: Store) -> None:
        """An operator decides while the upload waits for its next attempt: it is due no more."""
        submit(store)
        claim(store)
        put_back(store, "a", delay_s=60.0)
        store.advance([change(store, "a", AvatarState.BLOCKED, leaves=Stage.MODERATE)])
        assert places(store, "a") == []

    def test_nobody_to_tell_leaves_no_callback(self, store: Store) -> None:
        """Without a callback URL, nothing waits in the outbox."""
        submit(store)
        store.advance([change(store, "a", AvatarState.APPROVED, callback_url="")])
        assert store.outbox.endpoints() == []
        assert store.outbox.get("a#2") is None

    def test_a_dead_letter_is_written_and_taken_away_by_the_transitions(self, store: Store) -> None:
        """Burying writes letter and index; a replay takes it off the index and lets it expire."""
        submit(store)
        letter = {"error": "InferenceFailed"}
        store.advance([change(store, "a", AvatarState.DEAD, leaves=Stage.MODERATE, bury=letter)])
        key = store.key("dead", "a")
        assert store.redis.zrange(store.key("dead"), 0, -1) == ["a"]
        assert store.redis.ttl(key) == -1
        assert json.loads(store.redis.hget(key, "letter") or "") == letter  # type: ignore[arg-type]
        store.advance([change(store, "a", AvatarState.QUEUED, enters=Stage.MODERATE, unbury=True)])
        assert store.redis.zcard(store.key("dead")) == 0
        assert int(store.redis.ttl(key)) > 0  # type: ignore[arg-type]
        assert places(store, "a") == ["due:normal"]

    def test_each_of_many_has_its_own_outcome(self, store: Store) -> None:
        """One transition that comes too late does not hold up its neighbours."""
        for name in ("a", "b"):
            submit(store, name)
        late = change(store, "a", AvatarState.APPROVED)
        store.advance([change(store, "a", AvatarState.BLOCKED)])
        results = store.advance([late, change(store, "b", AvatarState.APPROVED)])
        assert [result.applied for result in results] == [False, True]
        assert store.advance([]) == []


def test_a_store_that_nobody_holds_is_gone_with_its_connections(redis_server: redis.Redis) -> None:
    """By count of references: sockets that wait for the garbage collector are warned of."""
    store = Store(redis_server, "dropped")
    store.outbox.endpoints()
    store.events.dropped()
    dropped = weakref.ref(store)
    gc.disable()
    try:
        del store
        assert dropped() is None
    finally:
        gc.enable()


class TestEndCallback:
    @pytest.fixture(autouse=True)
    def _one_callback(self, store: Store) -> None:
        submit(store)
        store.advance([change(store, "a", AvatarState.APPROVED, leaves=Stage.MODERATE)])

    def test_a_delivered_callback_is_gone_and_told(self, store: Store) -> None:
        """The entry is deleted with its lease and leaves an event."""
        claim(store, callback_line_of())
        assert store.outbox.end(only_callback(store), token=TOKEN, detail={"status": 200})
        assert store.outbox.get("a#2") is None
        assert places(store, "a#2", callback_line_of()) == []
        assert (events(store)[-1]["kind"], events(store)[-1]["to"]) == ("callback", "delivered")

    def test_only_its_holder_ends_it(self, store: Store) -> None:
        """A late deliverer neither deletes nor tells."""
        line = callback_line_of()
        claim(store, line, lease_s=0.001, token="old")
        time.sleep(0.01)
        claim(store, line, token="new")
        assert not store.outbox.end(only_callback(store), token="old", detail={})
        assert store.outbox.get("a#2") is not None
        assert all(event["kind"] == "transition" for event in events(store))

    def test_a_buried_callback_keeps_its_entry_for_a_replay(self, store: Store) -> None:
        """The dead letter stands under the callback's own item."""
        claim(store, callback_line_of())
        entry = only_callback(store)
        assert store.outbox.end(entry, token=TOKEN, detail={}, bury={"error": "Gone"})
        assert store.outbox.get("a#2") is not None
        assert store.redis.zrange(store.key("dead"), 0, -1) == ["a#2"]
        assert events(store)[-1]["to"] == "dead"
        assert places(store, "a#2", callback_line_of()) == []

    @pytest.mark.parametrize(("delay_s", "outcome"), [(0.0, "replayed"), (None, "discarded")])
    def test_a_dead_callback_is_replayed_or_forgotten_once(
        self, store: Store, delay_s: float | None, outcome: str
    ) -> None:
        """The first call ends the dead letter, the second finds none."""
        line = callback_line_of()
        claim(store, line)
        put_back(store, "a#2", line, fields={"attempts": "9", "first_failed_at": "1.0"})
        claim(store, line)
        store.outbox.end(only_callback(store), token=TOKEN, detail={}, bury={"error": "Gone"})
        assert store.outbox.unbury("a#2", delay_s=delay_s, detail={"by": "ann"})
        assert not store.outbox.unbury("a#2", delay_s=delay_s, detail={"by": "ann"})
        assert events(store)[-1]["to"] == outcome
        if outcome == "replayed":
            entry = only_callback(store)
            assert (entry.attempts, entry.first_failed_at) == (0, None)
            assert places(store, "a#2", line) == ["due:normal"]
        else:
            assert store.outbox.get("a#2") is None
            assert places(store, "a#2", line) == []

    def test_a_replay_of_a_callback_without_its_entry_forgets_it(self, store: Store) -> None:
        """Nothing can be sent where nothing is left to send."""
        line = callback_line_of()
        claim(store, line)
        store.outbox.end(only_callback(store), token=TOKEN, detail={}, bury={"error": "Gone"})
        store.redis.delete(store.key("callback", "a#2"))
        assert store.outbox.unbury("a#2", delay_s=0, detail={})
        assert events(store)[-1]["to"] == "discarded"
        assert places(store, "a#2", line) == []


class TestDoorbells:
    def test_one_ring_is_enough_until_it_is_answered(self, store: Store) -> None:
        """A second ring is not sent; after the answer, it is."""
        assert store.take_bell(Stage.MODERATE)
        assert not store.take_bell(Stage.MODERATE)
        assert store.take_bell(Stage.REVIEW)
        store.answer_bell(Stage.MODERATE)
        assert store.take_bell(Stage.MODERATE)

    def test_an_unanswered_ring_is_forgotten(self, store: Store) -> None:
        """A lost message keeps others from ringing for two seconds at most."""
        store.take_bell(Stage.MODERATE)
        ttl_s = int(store.redis.ttl(store.key("bell", Stage.MODERATE)))  # type: ignore[arg-type]
        assert 0 < ttl_s <= 2


class TestDueLines:
    def test_lines_with_due_or_forsaken_items_are_named(self, store: Store) -> None:
        """Due now or lease run out: named; due later or held: not."""
        assert store.due_lines() == []
        submit(store)
        assert store.due_lines() == [Stage.MODERATE]
        claim(store, lease_s=0.2)
        assert store.due_lines() == []
        wait_until(lambda: store.due_lines() == [Stage.MODERATE], 30, "the lease runs out")
        claim(store)
        put_back(store, "a", delay_s=60.0)
        assert store.due_lines() == []

    def test_each_endpoint_is_a_line_of_its_own(self, store: Store) -> None:
        """Callbacks to two servers wait in two lines."""
        for name, url in (("a", "http://one.example/x"), ("b", "http://two.example/x")):
            submit(store, name)
            store.advance(
                [change(store, name, AvatarState.APPROVED, leaves=Stage.MODERATE, callback_url=url)]
            )
        assert sorted(store.due_lines()) == sorted(
            callback_line_of(url) for url in ("http://one.example/x", "http://two.example/x")
        )


class TestScripts:
    def test_a_server_that_forgot_its_scripts_is_told_again(self, store: Store) -> None:
        """What ran is not run twice; answers keep their order."""
        submit(store, "known")
        store.redis.script_flush()
        outcomes = store.submit_many(
            [new_upload("a"), new_upload("known"), new_upload("b")], max_backlog=9
        )
        assert [outcome for outcome, _ in outcomes] == ["created", "exists", "created"]
        store.redis.script_flush()
        done = store.advance([change(store, name, AvatarState.APPROVED) for name in ("a", "b")])
        assert [(result.applied, result.seq) for result in done] == [(True, 2)] * 2
        assert [e["to"] for e in events(store)] == ["queued"] * 3 + ["approved"] * 2


def test_a_letters_history_lives_as_long_as_records(store: Store) -> None:
    """`record_ttl_s` after a replay, and without an end while it waits."""
    submit(store)
    store.advance([change(store, "a", AvatarState.DEAD, bury={"error": "Gone"})])
    key = store.key("dead", "a")
    assert store.redis.ttl(key) == -1
    store.advance([change(store, "a", AvatarState.QUEUED, enters=Stage.MODERATE, unbury=True)])
    assert store.redis.ttl(key) == pytest.approx(store.record_ttl_s, abs=5)


def test_every_event_carries_its_time(store: Store) -> None:
    """Also what is noted beside transitions, and what a version wrote that noted none."""
    store.redis.xadd(store.key("events"), {"kind": "opinion", "upload_id": "a", "seq": 1})
    store.events.note("opinion", "a", 1, "uncertain", {})
    store.events.audit(by="ann", action="look", item="a", outcome="done", address="")
    now = store.now()
    for _, fields in store.events.first(9):
        assert float(fields["at"]) == pytest.approx(now, abs=60)


def test_a_stage_takes_its_failures_with_it(store: Store) -> None:
    """The next stage starts from nothing; a dead letter keeps the number."""
    submit(store)
    avatar = store.get("a")
    assert avatar is not None
    claim(store)
    put_back(store, "a", fields=avatar.after_failure("storage_unavailable", 5.0))
    avatar = store.get("a")
    assert avatar is not None
    assert (avatar.attempts, avatar.failures, avatar.first_failed_at) == (
        1,
        "storage_unavailable=1",
        5.0,
    )
    store.advance([change(store, "a", AvatarState.REVIEWING, enters=Stage.REVIEW)])
    avatar = store.get("a")
    assert avatar is not None
    assert (avatar.attempts, avatar.failures, avatar.first_failed_at) == (0, "", 0.0)
