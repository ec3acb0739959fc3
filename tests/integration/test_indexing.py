"""Uploads of before there were lists of those with the same picture are put into them, once."""

from __future__ import annotations

import pytest

from producer.contract import AvatarState
from producer.record import indexing
from producer.record.indexing import index_former
from producer.record.settling import Settling
from producer.record.store import Store
from tests.integration.test_settling import SHA, put


def forget_lists(store: Store) -> None:
    """As if a version had written the records that knew no lists."""
    for key in store.base.redis.scan_iter(f"{store.keys.prefix}same:*"):
        store.base.redis.delete(key)


@pytest.fixture
def former(store: Store) -> Store:
    """Forty uploads of one picture: ten each held, with a provider, approved and blocked."""
    states = (
        AvatarState.HELD,
        AvatarState.REVIEWING,
        AvatarState.APPROVED,
        AvatarState.BLOCKED,
    )
    for number in range(40):
        put(store, f"u{number:02}", states[number % 4])
    put(store, "rejected", AvatarState.REJECTED)
    forget_lists(store)
    assert not Settling(store).counts(SHA)
    return store


def test_it_goes_on_where_a_killed_process_stopped(
    former: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits is found at once, the rest little by little; whoever comes next goes on."""
    monkeypatch.setattr(indexing, "PAGE", 5)
    assert index_former(former, for_s=0.0) >= 20
    waiting = {"held": 10, "reviewing": 10}
    assert dict(Settling(former).counts(SHA)).items() >= waiting.items()
    places = {former.base.redis.get(former.keys.same_indexed)}
    assert places != {indexing.DONE}
    for _ in range(5000):  # other tests left keys in this server, too
        index_former(former, for_s=0.0)
        places.add(former.base.redis.get(former.keys.same_indexed))
        if indexing.DONE in places:
            break
    assert indexing.DONE in places
    counts = {"held": 10, "reviewing": 10, "approved": 10, "blocked": 10}
    assert dict(Settling(former).counts(SHA)) == counts
    ttl_s = former.base.redis.ttl(former.keys.same(SHA, "decided"))
    assert 0 < ttl_s <= former.record_ttl_s  # type: ignore[operator]


def test_what_changed_while_it_was_read_is_left_to_its_own_step(former: Store) -> None:
    """A record that has another picture by now is not listed under the one that was read."""
    keys = [former.keys.avatar("u00"), former.keys.same("x", "waiting"), former.keys.same("x", "d")]
    answer = former.base.run("index_same", keys, id="u00", sha256="x", keep_s=9)
    assert (answer, former.base.redis.exists(*keys[1:])) == (0, 0)


def test_once_done_it_costs_one_read(former: Store) -> None:
    """For ever; new uploads are listed by their own steps."""
    while former.base.redis.get(former.keys.same_indexed) != indexing.DONE:
        index_former(former)
    forget = former.base.redis.delete(former.keys.same(SHA, "waiting"))
    assert (forget, index_former(former)) == (1, 0)
    assert "held" not in Settling(former).counts(SHA)
