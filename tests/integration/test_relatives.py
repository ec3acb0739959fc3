"""Who else uploaded this, what looked like it, who decided, and on what they saw: in a shell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from producer.cli import cli
from producer.contract import AvatarState
from producer.findings import LooksLike, Seen
from producer.forget import Forgetter
from producer.images import Images
from producer.record.decisions import Decisions
from producer.record.store import Store
from producer.settings import Settings, load_settings
from tests.integration.test_settling import OTHER, SHA, get, put
from tests.support import events, like_of


def looks_like(sha256: str, upload_id: str, distance: int = 12) -> str:
    """As a worker writes it into the record of a look-alike."""
    return like_of(upload_id, sha256, distance).to_json()


@pytest.fixture
def story(store: Store) -> Store:
    """Three uploads of a picture; ann blocks the first; one that looks like it is held."""
    for name in ("first", "second", "third"):
        put(store, name, AvatarState.HELD)
    Decisions(store).decide("first", "blocked", by="ann", seen=Seen(get(store, "first").seq, SHA))
    fields = {"reason": "looks_like_blocked", "looks_like": looks_like(SHA, "first")}
    put(store, "like", AvatarState.HELD, OTHER, **fields)
    return store


@pytest.fixture
def run(story: Store, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AVATARMOD_REDIS_URL", valkey_url)
    monkeypatch.setenv("AVATARMOD_NAMESPACE", story.prefix[1:-2])

    def run(*words: str) -> str:
        done = CliRunner().invoke(cli, list(words))
        assert done.exception is None, done.output
        return done.output

    return run


def test_the_record_says_what_its_decider_saw(story: Store) -> None:
    """The decided one with its seq, those that follow by the picture alone; nothing is made up."""
    assert get(story, "first").decided_on == Seen(2, SHA)
    assert get(story, "second").decided_on == Seen(None, SHA)
    assert story.overruled(SHA) == {
        "state": "blocked",
        "decided_by": "operator:ann",
        "reason": "overruled",
        "decided_on": Seen(None, SHA).to_json(),
    }
    Decisions(story).undo("second", by="bob")
    Decisions(story).decide("second", "approved", by="bob")
    assert get(story, "second").decided_on is None
    assert get(story, "third").decided_on is None


def test_the_event_says_it_too(story: Store) -> None:
    """So the ledger can: of the decision, of those that followed it, and of an undo."""
    seq = get(story, "second").seq
    Decisions(story).undo("second", by="bob", seen=Seen(seq, SHA))
    found = {(e["upload_id"], e["to"]): json.loads(e["detail"]) for e in events(story)}
    for key, seen in {
        ("first", "blocked"): Seen(2, SHA),
        ("third", "blocked"): Seen(None, SHA),
        ("second", "held"): Seen(seq, SHA),
    }.items():
        assert Seen.from_json(found[key]["decided_on"]) == seen, key
        assert found[key]["by"] in ("ann", "bob")


def test_status_names_the_others(run: Any) -> None:
    """The same picture under other ids, what looked like it, and what was seen."""
    first = run("status", "first")
    assert "the same picture: " in first
    assert "second (blocked)" in first
    assert "third (blocked)" in first
    assert "looked like it: like (held)" in first
    assert f"decided on: seq 2, sha256 {SHA}" in first
    assert "looks like first, blocked by operator:ann (12)" in run("status", "like")
    [row] = json.loads(run("status", "first", "--json"))
    assert row["decided_on"] == {"seq": 2, "sha256": SHA}
    assert {one["upload_id"] for one in row["same_picture"]} == {"second", "third"}
    assert row["looked_like_it"] == [{"upload_id": "like", "state": "held"}]


def test_a_decision_that_does_not_say_what_was_seen_is_said_so(run: Any) -> None:
    """The command line can name it with --seq and --sha256, or not."""
    run("block", "like")
    assert "decided on: not said" in run("status", "like")


def test_what_is_decided_by_machines_looked_like_it_too(story: Store) -> None:
    """The same pixels, blocked at once, are among what looked like it; they raise no alarm."""
    fields = {"reason": "same_pixels", "looks_like": looks_like(SHA, "first", 0)}
    put(story, "pixels", AvatarState.BLOCKED, "ef" * 32, **fields)
    assert story.memory.alike(SHA, 9) == ["like", "pixels"]
    assert story.memory.met() == {SHA: 1}


def test_what_is_forgotten_is_not_named(story: Store) -> None:
    """Neither as the same picture nor as a look-alike."""
    story.forgetting.take("like", "", ())
    story.forgetting.take("second", "", ())
    assert story.memory.alike(SHA, 9) == []
    assert story.base.redis.sismember(story.keys.same(SHA, "decided"), "second") == 0


def test_what_is_forgotten_is_not_named_by_what_looked_like_it(
    story: Store, tmp_path: Path
) -> None:
    """The record of a look-alike keeps what was decided, not of whose upload."""
    put(story, "like2", AvatarState.HELD, "ef" * 32, looks_like=looks_like(SHA, "second"))
    settings = load_settings(Settings, data_folder=tmp_path, ledger_url="off")
    forgetter = Forgetter(story, Images(settings), None, lambda: None, has_ledger=False)
    forgetter.forget(["first"], by="ann")
    like, like2 = get(story, "like"), get(story, "like2")
    assert like.looks_like == LooksLike.from_json(looks_like(SHA, ""))
    assert like2.looks_like is not None
    assert like2.looks_like.upload_id == "second"
    assert like.seq == 2
    # A worker that had found it before writes late.
    put(story, "late", AvatarState.HELD, "aa" * 32, looks_like=looks_like(SHA, "first"))
    story.redis.zadd(story.keys.forgotten, {"first": 0})
    forgetter.look_again()
    late = get(story, "late").looks_like
    assert late is not None
    assert late.upload_id == ""
    keys = story.redis.scan_iter(f"{story.prefix}avatar:*")
    assert all("first" not in str(story.redis.hgetall(key)) for key in keys)
