"""Old and new versions side by side: what a newer one wrote is read, kept and never in the way."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from producer.contract import TASK_NAMES, AvatarState, Stage
from producer.record.dead_letters import DeadLetters
from producer.record.store import Store
from producer.settings import Settings, load_settings
from tests.support import change, events, new_upload, submit
from worker.celery_app import register
from worker.ledger.writer import Ledger
from worker.tasks import Doorbell

LETTER = {
    "item": "a",
    "stage": "moderate",
    "error": "Hologram",
    "message": "no light",
    "attempts": 3,
    "first_failed_at": 1.0,
    "last_failed_at": 2.0,
    "history": [],
    "schema": 9,
    "severity": "purple",
}


def bury(store: Store, item: str, letter: dict[str, Any]) -> None:
    """What the script of a newer version would have written."""
    submit(store, item)
    [result] = store.advance([change(store, item, AvatarState.DEAD, bury=letter)])
    assert result.applied
    store.redis.hset(store.key("dead", item), "hologram", "yes")


def test_a_record_of_a_newer_version_goes_its_way_and_keeps_its_fields(store: Store) -> None:
    """A larger schema and unknown fields: it is read, decided, and nothing of it is dropped."""
    store.redis.hset(store.key("avatar", "a"), "hologram", "yes")
    outcome, _ = store.submit(new_upload("a", schema=9), max_backlog=10)
    assert outcome == "created"
    avatar = store.get("a")
    assert avatar is not None
    assert (avatar.state, avatar.schema) == (AvatarState.QUEUED, 9)
    [result] = store.advance([change(store, "a", AvatarState.APPROVED)])
    assert result.applied
    fields = store.redis.hgetall(store.key("avatar", "a"))
    assert (fields["hologram"], fields["schema"], fields["state"]) == ("yes", "9", "approved")  # type: ignore[index]


def test_a_dead_letter_of_a_newer_version_is_read_and_replayed(store: Store) -> None:
    """Unknown fields are ignored; the replay works as for any other."""
    bury(store, "a", LETTER)
    letters = DeadLetters(store)
    [letter] = letters.find()
    assert (letter.error, letter.attempts) == ("Hologram", 3)
    assert letters.replay("a", by="ann")
    avatar = store.get("a")
    assert avatar is not None
    assert avatar.state == AvatarState.QUEUED


@pytest.mark.parametrize("letter", [{**LETTER, "stage": "teleport"}, {"item": "b"}, ["b"]])
def test_a_dead_letter_that_cannot_be_read_hides_no_other(
    store: Store, letter: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A stage that only a newer version knows: it is counted and named, the others are listed."""
    bury(store, "a", LETTER)
    bury(store, "b", letter)
    letters = DeadLetters(store)
    assert [found.item for found in letters.find()] == ["a"]
    assert letters.count() == 2
    assert letters.get("b") is None
    assert not letters.replay("b", by="ann")
    assert "dead_letter_unreadable" in caplog.text


def test_an_event_of_a_newer_version_gets_into_the_ledger(store: Store, tmp_path: Path) -> None:
    """An unknown kind, unknown fields, a detail of another shape: a row, and the drain goes on."""
    submit(store, "a")
    for fields in (
        {"kind": "teleported", "upload_id": "a", "seq": 2, "zone": "9", "detail": '["x"]'},
        {"kind": "transition", "upload_id": "a", "seq": 2, "from": "queued", "to": "astral"},
        {"zone": "9"},
        {"kind": "transition", "upload_id": "a", "seq": "many", "detail": "{not JSON"},
    ):
        store.redis.xadd(store.key("events"), fields)  # type: ignore[arg-type]
    settings = load_settings(
        Settings, data_folder=tmp_path, namespace=store.prefix.strip("{}:"), ledger_url=None
    )
    ledger = Ledger.open(settings)
    try:
        assert ledger.drain(store) == 5
        assert events(store) == []
        rows = {(row["kind"], row["to_state"]) for row in ledger.story("a")}
        assert rows >= {("transition", "queued"), ("teleported", ""), ("transition", "astral")}
    finally:
        ledger.close()


def test_a_doorbell_with_arguments_of_a_newer_version_is_answered(store: Store) -> None:
    """The task takes whatever comes and empties its line."""

    class Line:
        drained = 0

        def drain(self, stop: threading.Event) -> int:
            Line.drained += 1
            return 0

    app = Celery("versions", set_as_current=False)
    register(app, {Stage.MODERATE: Doorbell(store, Stage.MODERATE, Line(), threading.Event())})
    app.tasks[TASK_NAMES[Stage.MODERATE]]("hurry", lane="express", trace=json.dumps({"id": 1}))
    assert Line.drained == 1
