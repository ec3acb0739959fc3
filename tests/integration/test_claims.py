"""People who decide get different pictures; nobody holds up what they do not look at."""

from __future__ import annotations

import threading

import pytest

from producer.contract import AvatarState, Stage
from producer.record import claims as rules
from producer.record.claims import Claims
from producer.record.store import Store
from tests.support import change, submit, wait_until


@pytest.fixture
def claims(store: Store) -> Claims:
    """Twelve held pictures, p00 waiting longest."""
    for number in range(12):
        submit(store, f"p{number:02}")
        store.advance([change(store, f"p{number:02}", AvatarState.HELD, leaves=Stage.MODERATE)])
    return Claims(store)


def test_two_people_see_different_pictures(claims: Claims) -> None:
    """Each the longest waiting that nobody has; the same again while they are theirs."""
    ann = claims.take("ann", "held", 5)
    bob = claims.take("bob", "held", 5)
    assert ann == [f"p{n:02}" for n in range(5)]
    assert bob == [f"p{n:02}" for n in range(5, 10)]
    assert claims.take("ann", "held", 5) == ann
    assert claims.take("cid", "held", 5) == ["p10", "p11"]
    assert claims.holders(["p00", "p05", "p11", "none"]) == {
        "p00": "ann",
        "p05": "bob",
        "p11": "cid",
    }


def test_a_place_to_begin_with(claims: Claims) -> None:
    """What waits longer is passed over; an upload that does not wait is no place."""
    assert claims.take("ann", "held", 2, at="p04") == ["p04", "p05"]
    assert claims.take("bob", "held", 3, at="p03") == ["p03", "p06", "p07"]
    assert claims.take("cid", "held", 1, at="gone") == ["p00"]


def test_what_is_let_go_of_is_free_for_others(claims: Claims) -> None:
    """Only by whoever has it."""
    claims.take("ann", "held", 12)
    assert claims.take("bob", "held", 1) == []
    claims.release("bob", ["p00"])
    assert claims.take("bob", "held", 1) == []
    claims.release("ann", ["p03", "p00", "none"])
    assert claims.take("bob", "held", 5) == ["p00", "p03"]


def test_a_claim_ends_by_itself_unless_it_is_renewed(
    claims: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever went away holds nothing up; whoever comes back learns what was lost."""
    monkeypatch.setattr(rules, "CLAIM_S", 0.6)
    claims.take("ann", "held", 2)
    monkeypatch.setattr(rules, "CLAIM_S", 60.0)
    assert claims.renew("ann", "held", ["p00"]) == ["p00"]
    wait_until(lambda: claims.holders(["p00", "p01"]) == {"p00": "ann"}, 30, "one of them ends")
    assert claims.take("bob", "held", 1) == ["p01"]
    assert claims.renew("ann", "held", ["p00", "p01"]) == ["p00"]


def test_what_is_decided_is_not_given_out(claims: Claims, store: Store) -> None:
    """The index of what waits decides, not the claim."""
    store.advance([change(store, "p00", AvatarState.BLOCKED, by="ann")])
    assert claims.take("bob", "held", 2) == ["p01", "p02"]


def test_many_people_at_once_share_without_overlap(claims: Claims) -> None:
    """Six threads take two each at the same moment: twelve different pictures."""
    found: list[str] = []
    start = threading.Barrier(6)

    def take(name: str) -> None:
        start.wait()
        found.extend(claims.take(name, "held", 2))

    people = [threading.Thread(target=take, args=(f"m{n}",)) for n in range(6)]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert sorted(found) == [f"p{n:02}" for n in range(12)]
