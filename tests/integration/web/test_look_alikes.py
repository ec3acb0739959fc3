"""In the console: the earlier picture and decision beside a look-alike, and others of its kind."""

from __future__ import annotations

import dataclasses
import html
import re

import pytest
from fastapi.testclient import TestClient

from producer.contract import AvatarState
from producer.findings import LooksLike, Seen
from producer.record.decisions import Decisions, Why
from producer.record.memory import LISTED
from producer.record.store import Store
from producer.web.console.look_alikes import earlier_of
from tests.integration.web.conftest import avatar_of, decide, store_of
from tests.integration.web.test_console import console, field, hold, sign_in
from tests.support import like_of

__all__ = ["console"]

SHA, OTHER = "ab" * 32, "cd" * 32


def hold_like(client: TestClient, upload_id: str, like: LooksLike, sha256: str = OTHER) -> None:
    """An upload that waits because of an earlier picture."""
    values = {"reason": "looks_like_blocked", "decided_by": "memory", "looks_like": like.to_json()}
    hold(store_of(client), client, upload_id, sha256=sha256, **values)


def text_of(client: TestClient, place: str) -> str:
    """What a page says, without its tags."""
    answer = client.get(f"/console/{place}")
    assert answer.status_code == 200
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", answer.text)))


@pytest.fixture
def alike(console: TestClient) -> TestClient:
    """A picture that ann blocked, and one that looks like it, which waits."""
    store = store_of(console)
    hold(store, console, "earlier", sha256=SHA)
    seen = Seen(avatar_of(store, "earlier").seq, SHA)
    why = Why("nudity", "seen before")
    Decisions(store).decide("earlier", "blocked", by="ann", seen=seen, why=why)
    hold_like(console, "like", like_of("earlier"))
    sign_in(console, "moderator")
    return console


@pytest.mark.parametrize("place", ["review", "uploads/like"])
def test_the_earlier_picture_and_its_decision_stand_beside(alike: TestClient, place: str) -> None:
    """Its picture, blurred like all; who blocked it, why, and how alike they are."""
    page = alike.get(f"/console/{place}").text
    assert 'src="/console/picture/earlier' in page
    assert 'href="/console/uploads/earlier"' in page
    said = text_of(alike, place)
    for words in (
        "Looks like an earlier picture",
        "14 of 256 bits",
        "ann",
        "nudity",
        "seen before",
    ):
        assert words in said, words
    assert "taken back" not in said


@pytest.mark.parametrize("place", ["review", "uploads/like"])
def test_a_decision_that_was_taken_back_is_said_so(alike: TestClient, place: str) -> None:
    """The look-alike still waits for a person, who should know."""
    Decisions(store_of(alike)).undo("earlier", by="bob")
    assert "That decision was taken back, or is forgotten by now." in text_of(alike, place)
    Decisions(store_of(alike)).decide("earlier", "approved", by="bob")
    assert "By now it is approved." in text_of(alike, place)


def test_what_is_not_kept_is_said_so(alike: TestClient) -> None:
    """An expired or forgotten upload, which is not linked, and a hash of a list."""
    store = store_of(alike)
    store.redis.delete(store.keys.avatar("earlier"))
    assert "The earlier picture is not kept any more." in text_of(alike, "uploads/like")
    assert "/console/uploads/earlier" not in alike.get("/console/uploads/like").text
    hold_like(alike, "listed", like_of("", f"{LISTED}{'ef' * 32}"), "12" * 32)
    assert "Only its hash is known: it is on a list." in text_of(alike, "uploads/listed")


def test_others_have_no_such_card(alike: TestClient) -> None:
    assert "Looks like an earlier picture" not in text_of(alike, "uploads/earlier")


def test_the_card_of_a_hostile_note_is_text(alike: TestClient) -> None:
    """A note of a list comes from elsewhere."""
    store = store_of(alike)
    store.memory.add_listed([(bytes.fromhex("ef" * 32), "blocked", "<script>alert(1)</script>")])
    hold_like(alike, "listed", like_of("", f"{LISTED}{'ef' * 32}"), "12" * 32)
    page = alike.get("/console/uploads/listed").text
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_many_look_alikes_are_read_together(alike: TestClient) -> None:
    """For pages with many pictures: those that looked like nothing are left out."""
    store = store_of(alike)
    found = earlier_of(store, [avatar_of(store, name) for name in ("like", "earlier")])
    assert set(found) == {"like"}
    earlier = found["like"]
    assert earlier.avatar is not None
    assert (earlier.avatar.upload_id, earlier.like.distance, earlier.is_listed) == (
        "earlier",
        14,
        False,
    )
    assert earlier.entry is not None
    assert earlier_of(store, []) == {}


def test_an_upload_says_who_else_it_concerns(alike: TestClient) -> None:
    """The same picture under other ids, what looked like it, and what its decider had seen."""
    store: Store = store_of(alike)
    alike.app.state.services.producer.enqueue("again")  # type: ignore[attr-defined]
    decide(store, "again", AvatarState.BLOCKED, reason="overruled", sha256=SHA)
    page = text_of(alike, "uploads/earlier")
    assert re.search(r"The same picture again blocked", page)
    assert f"/console/uploads?q={SHA}" in alike.get("/console/uploads/earlier").text
    assert re.search(r"Looked like it like held", page)
    assert f"What they had seen seq 2 {SHA}" in page
    assert avatar_of(store, "earlier").state == AvatarState.BLOCKED


def test_the_page_says_what_was_seen(alike: TestClient) -> None:
    """A click in the console decides about the record and the picture of the page."""
    page = alike.get("/console/review").text
    data = {name: field(page, name) for name in ("csrf", "seq", "sha256", "upload_id")}
    alike.post("/console/decide", data={**data, "verdict": "blocked"})
    decided = avatar_of(store_of(alike), "like")
    assert (decided.state, decided.decided_on) == ("blocked", Seen(2, OTHER))


def test_the_story_names_no_hash(alike: TestClient) -> None:
    """The ledger does not keep which upload it looked like; 64 letters tell a person nothing."""
    hold_like(alike, "listed", dataclasses.replace(like_of("earlier"), upload_id=""))
    said = text_of(alike, "uploads/listed")
    assert "It looks like an earlier picture that was blocked by moderator: ann." in said
