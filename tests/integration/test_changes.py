"""The list of changes: whoever reads it with the cursor that it gave misses none."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

import pytest
import redis

from producer.contract import AvatarState
from producer.record import changes
from producer.record.changes import Change, CursorInvalid, CursorTooOld
from producer.record.store import Store
from tests.support import change, submit


def settle(store: Store, upload_id: str, to: AvatarState = AvatarState.APPROVED) -> tuple[str, int]:
    """Enqueue and decide; what the list must then have."""
    submit(store, upload_id)
    [done] = store.advance([change(store, upload_id, to)])
    assert done.applied
    return upload_id, done.seq


def read_all(store: Store, cursor: str = "", limit: int = 3) -> tuple[list[Change], str]:
    """Every page from a cursor on."""
    found: list[Change] = []
    while True:
        page = store.changes.since(cursor, limit)
        found += page.changes
        cursor = page.cursor
        if not page.more:
            return found, cursor


def known(found: list[Change]) -> list[tuple[str, int]]:
    return [(one.upload_id, one.seq) for one in found]


def test_every_change_is_listed_once_and_in_order(store: Store) -> None:
    """Page by page; acceptance is none, and a cursor at the end gives what comes afterwards."""
    expected = [settle(store, f"u{number}") for number in range(7)]
    found, cursor = read_all(store)
    assert known(found) == expected
    assert [one.at for one in found] == sorted(one.at for one in found)
    submit(store, "waits")
    assert read_all(store, cursor) == ([], cursor)
    blocked = store.advance([change(store, "u0", AvatarState.BLOCKED)])[0]
    later, _ = read_all(store, cursor)
    assert [(c.upload_id, c.seq, c.state) for c in later] == [("u0", blocked.seq, "blocked")]


def test_a_reader_beside_many_writers_misses_none(store: Store) -> None:
    """Whatever the order in which threads write, a page read at any moment leaves nothing out."""
    names = [f"{who}-{number}" for who in range(4) for number in range(60)]
    written: list[tuple[str, int]] = []

    def write(mine: list[str]) -> None:
        written.extend(settle(store, name) for name in mine)

    threads = [threading.Thread(target=write, args=(names[who::4],)) for who in range(4)]
    for thread in threads:
        thread.start()
    found: list[Change] = []
    cursor = ""
    while any(thread.is_alive() for thread in threads):
        more, cursor = read_all(store, cursor, limit=5)
        found += more
    found += read_all(store, cursor)[0]
    assert sorted(known(found)) == sorted(written)
    assert len(found) == len(names)


def test_a_reader_who_came_before_the_first_change_misses_none(store: Store) -> None:
    """Its cursor stands before everything, also when the server's clock is set back meanwhile."""
    submit(store, "waits")
    first = store.changes.since("", 10)
    assert (first.changes, first.more) == ([], False)
    again = store.changes.since(first.cursor, 10)
    # As if the change had been made by a server whose clock is an hour behind.
    behind = int((time.time() - 3600) * 1000)
    store.redis.xadd(store.keys.changes, {"id": "a", "seq": 2, "state": "held"}, id=f"{behind}-0")
    for cursor in (first.cursor, again.cursor):
        assert known(store.changes.since(cursor, 10).changes) == [("a", 2)]


def lost(store: Store, cursor: str) -> None:
    """The entry of a cursor never came to the server that is master now."""
    store.redis.xdel(store.keys.changes, cursor.split(".")[1])


def replaced(store: Store, cursor: str) -> None:
    """The server that is master now gave its id to another entry."""
    stream, stream_id = store.keys.changes, cursor.split(".")[1]
    kept = store.redis.xrange(stream)
    store.redis.delete(stream)
    for entry_id, fields in kept:  # type: ignore[union-attr]
        other = {"id": "other", "seq": 9, "state": "held"} if entry_id == stream_id else fields
        store.redis.xadd(stream, other, id=entry_id)


@pytest.mark.parametrize("accident", [lost, replaced])
def test_a_reader_whose_last_change_is_gone_is_sent_back_a_little(
    store: Store, accident: Callable[[Store, str], None]
) -> None:
    """What a fail-over lost was done again, perhaps under a lower number; all of it is read."""
    expected = [settle(store, f"u{number}") for number in range(4)]
    _, cursor = read_all(store)
    accident(store, cursor)
    again, after = read_all(store, cursor)
    assert known(again)[:3] == expected[:3]
    assert read_all(store, after) == ([], after)


def test_a_cursor_behind_which_changes_are_gone_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an empty answer nor the rest as if nothing had been in between."""
    settle(store, "old")
    _, cursor = read_all(store)
    monkeypatch.setattr(changes, "LISTED_S", 0.0)
    assert store.changes.since(cursor, 5).changes == [], "its entry is there, so all after it are"
    lost(store, cursor)
    time.sleep(0.002)
    with pytest.raises(CursorTooOld):
        store.changes.since(cursor, 5)


def test_a_cursor_of_lost_data_says_so(store: Store) -> None:
    """A Redis that was filled anew has other changes under the same numbers."""
    settle(store, "a")
    _, cursor = read_all(store)
    store.redis.delete(store.keys.data_set, store.keys.changes, store.keys.avatar("a"))
    settle(store, "a")
    with pytest.raises(CursorTooOld):
        store.changes.since(cursor, 5)


@pytest.mark.parametrize(
    "text", ["0", "abc", "1-1", "a.1-1", "a.1-1.0", "a.-1-1.00000000", "a.1-1.0000000g", "٣.1-1.0"]
)
def test_what_is_no_cursor_is_refused(store: Store, text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(CursorInvalid):
        store.changes.since(text, 5)


def test_what_is_older_than_two_weeks_goes(redis_server: redis.Redis, store: Store) -> None:
    """With the next change; the list does not grow for ever."""
    old = int((time.time() - changes.LISTED_S - 60) * 1000)
    for number in range(1000):
        fields = {"id": f"o{number}", "seq": 2, "state": "held"}
        redis_server.xadd(store.keys.changes, fields, id=f"{old}-{number}")  # type: ignore[arg-type]
    expected = settle(store, "new")
    found, _ = read_all(store, limit=1000)
    assert known(found)[-1] == expected
    assert len(found) < 200


def test_an_upload_that_was_forgotten_is_not_listed(store: Store) -> None:
    """Its id stands nowhere any more; its neighbours do."""
    expected = [settle(store, name) for name in ("a", "b", "c")]
    assert store.forgetting.drop_changes("b", store.now()) == 1
    assert known(read_all(store)[0]) == [expected[0], expected[2]]


def test_what_is_brought_back_is_listed(store: Store) -> None:
    """A restored verdict has a new seq, so whoever reads the list hears of it."""
    avatar = submit(store, "a")
    store.redis.delete(store.keys.avatar("a"))
    back = type(avatar)(**{**avatar.__dict__, "state": AvatarState.BLOCKED})
    assert store.restore(back, after_seq=7, detail={})
    [found] = read_all(store)[0]
    assert (found.upload_id, found.state, found.seq > 7) == ("a", "blocked", True)


def test_pages_of_any_size_tell_the_same(store: Store) -> None:
    """The limit cuts, it does not choose."""
    for number in range(9):
        settle(store, f"u{number}")
    found = [known(read_all(store, limit=limit)[0]) for limit in (1, 2, 4, 9, 100)]
    assert all(a == b for a, b in itertools.pairwise(found))
