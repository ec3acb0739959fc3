"""A web tier moves: one command lets another address hear of everything."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from producer.contract import NO_CALLBACK, AvatarState, Stage
from producer.record.moving import move_callbacks
from producer.record.store import Store
from tests.integration.test_commands import run as run_command
from tests.support import CALLBACK_URL, TOKEN, callback_line_of, change, submit

NEW = "https://new.example/hook"

run = run_command


@pytest.fixture
def told(store: Store) -> Store:
    """Two uploads at the old address, one of them decided, and one that tells nobody."""
    for upload_id, url in (("a", CALLBACK_URL), ("b", CALLBACK_URL), ("n", NO_CALLBACK)):
        submit(store, upload_id, callback_url=url)
    values = {"sha256": "ab" * 32}
    store.advance([change(store, "a", AvatarState.HELD, fields=values, leaves=Stage.MODERATE)])
    return store


def test_records_and_what_waits_go_to_the_new_address(told: Store) -> None:
    """Nobody else's; and to repeat it changes nothing."""
    moved = move_callbacks(told, CALLBACK_URL, NEW)
    assert (moved.records, moved.callbacks, moved.letters, moved.under_way) == (2, 1, 0, 0)
    urls = [avatar.callback_url for avatar in told.get_many(["a", "b", "n"]) if avatar]
    assert urls == [NEW, NEW, NO_CALLBACK]
    assert told.waiting(callback_line_of()) == {"waiting": 0, "leased": 0}
    assert told.waiting(callback_line_of(NEW))["waiting"] == 1
    assert callback_line_of(NEW).removeprefix("callback:") in told.outbox.endpoints()
    again = move_callbacks(told, CALLBACK_URL, NEW)
    assert (again.records, again.callbacks, again.letters) == (0, 0, 0)


def test_what_is_under_way_is_left_and_counted(told: Store) -> None:
    """Its worker holds it; it goes to the old address once more."""
    [lease] = told.claim(callback_line_of(), 1, lease_s=30.0, token=TOKEN)
    moved = move_callbacks(told, CALLBACK_URL, NEW)
    assert (moved.callbacks, moved.under_way) == (0, 1)
    entry = told.outbox.get(lease.item)
    assert entry is not None
    assert entry.url == CALLBACK_URL


def test_a_dead_callback_is_replayed_to_the_new_address(told: Store) -> None:
    [lease] = told.claim(callback_line_of(), 1, lease_s=30.0, token=TOKEN)
    entry = told.outbox.get(lease.item)
    assert entry is not None
    told.outbox.end(entry, token=TOKEN, detail={}, bury={"stage": "callback", "item": entry.item})
    assert move_callbacks(told, CALLBACK_URL, NEW).letters == 1
    assert told.outbox.unbury(entry.item, delay_s=0.0, detail={})
    assert told.waiting(callback_line_of(NEW))["waiting"] == 1


def test_the_command_says_what_it_moved_and_refuses_what_is_no_address(
    run: Any, told: Store
) -> None:
    done = run("callbacks", "move", CALLBACK_URL, NEW)
    assert done.exit_code == 0, done.output
    assert "2 uploads, 1 waiting callbacks, 0 dead ones" in done.output
    assert run("callbacks", "move", NEW, "new.example").exit_code == 2


def test_a_decision_can_wait_until_the_web_tier_has_taken_it(run: Any, told: Store) -> None:
    """Exit code 1 where it does not; the reason is what the endpoint said last."""
    late = run("block", "a", "--wait", "0.3")
    assert late.exit_code == 1
    assert "a  not taken within 0.3 s: no answer yet" in late.output

    def deliver() -> None:
        time.sleep(0.4)
        for lease in told.claim(callback_line_of(), 9, lease_s=30.0, token=TOKEN):
            entry = told.outbox.get(lease.item)
            assert entry is not None
            told.outbox.end(entry, token=TOKEN, detail={})

    worker = threading.Thread(target=deliver)
    worker.start()
    done = run("undo", "a", "--wait", "20")
    worker.join()
    assert done.exit_code == 0, done.output
    assert "a  taken by the web tier" in done.output


def test_nobody_is_waited_for_where_nobody_is_told(run: Any, told: Store) -> None:
    done = run("block", "n", "--wait", "20")
    assert done.exit_code == 0, done.output
    assert "n  nobody is told" in done.output
    assert "" not in done.output.splitlines()


def test_an_approval_that_waits_for_its_safe_copy_is_waited_for(run: Any, told: Store) -> None:
    """Nobody has taken what nobody was told."""
    told.copies.promise(True)
    late = run("approve", "a", "--wait", "0.3")
    assert late.exit_code == 1
    assert "a  not approved within 0.3 s: no safe copy yet" in late.output
    assert "taken by the web tier" not in late.output
