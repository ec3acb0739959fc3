"""What the ledger tells of people's work, in each kind of database."""

from __future__ import annotations

from producer.contract import AvatarState
from producer.record.decisions import Decisions
from producer.record.store import Store
from tests.integration.ledger.conftest import upload
from worker.ledger.counts import PersonCounts
from worker.ledger.writer import Ledger


def test_decisions_are_counted_by_person_and_compared_with_the_model(
    ledger: Ledger, store: Store
) -> None:
    """From 0.5 on the model holds a picture for explicit; what it did not score is not compared."""
    decisions = Decisions(store)
    for name, probability, by, verdict in (
        ("a", 0.2, "ann", "approved"),
        ("b", 0.5, "ann", "blocked"),
        ("c", 0.9, "ann", "approved"),
        ("d", None, "ann", "blocked"),
        ("e", 0.3, "eve", "blocked"),
    ):
        upload(store, name, AvatarState.HELD, probability=probability)
        decisions.decide(name, verdict, by=by)
    ledger.drain(store)
    now = store.now()
    before, found = ledger.people([(now - 7200, now - 3600), (now - 3600, now + 3600)])
    assert before == {}
    assert found == {
        "ann": PersonCounts(approved=2, blocked=2, agreed=2, scored=3),
        "eve": PersonCounts(approved=0, blocked=1, agreed=0, scored=1),
    }
    assert found["ann"].agreement == 2 / 3
    assert found["ann"].decided == 4


def test_people_agree_where_their_last_words_are_the_same(ledger: Ledger, store: Store) -> None:
    """Of two or more people on one content; what was taken back is nobody's word."""
    decisions = Decisions(store)
    for name in ("alike", "unlike", "alone", "undone", "twice"):
        upload(store, name, AvatarState.HELD, probability=0.4)
        decisions.decide(name, "blocked", by="ann")
    for name, verdict in (("alike", "blocked"), ("unlike", "approved")):
        decisions.undo(name, by="ann")
        decisions.decide(name, "blocked", by="ann")
        decisions.decide(name, "approved", by="eve")
        decisions.decide(name, verdict, by="eve")
    decisions.decide("undone", "approved", by="eve")
    decisions.undo("undone", by="kim")
    decisions.decide("twice", "approved", by="ann")
    ledger.drain(store)
    now = store.now()
    assert ledger.second_opinions(now - 3600, now + 3600) == (1, 2)
    assert ledger.second_opinions(now - 7200, now - 3600) == (0, 0)
