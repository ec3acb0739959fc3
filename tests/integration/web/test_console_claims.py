"""Two moderators at once: each sees other pictures, and learns when one went to somebody else."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from producer.record import claims as rules
from producer.record.claims import Claims
from producer.record.decisions import Decisions
from producer.web.users import Role, Users
from tests.integration.web.conftest import Serve, avatar_of, store_of
from tests.integration.web.test_console import PASSWORD, field, hold, sign_in


def with_people(serve: Serve) -> TestClient:
    """A console where Ann and Bob may decide and Vic may look; redirects are not followed."""
    client = serve(callback_url="https://web.example/verdict")
    client.follow_redirects = False
    users = Users(store_of(client))
    for name, role in (("ann", Role.MODERATOR), ("bob", Role.MODERATOR), ("vic", Role.VIEWER)):
        users.save(name, role, PASSWORD)
    return client


@pytest.fixture
def console(serve: Serve) -> TestClient:
    """Ann and Bob may decide, Vic may look; twelve pictures are held."""
    client = with_people(serve)
    for number in range(12):
        hold(store_of(client), client, f"p{number:02}", sha256=f"{number:064x}")
    return client


def shown(client: TestClient, query: str = "") -> str:
    """The upload that the review page asks about."""
    return field(client.get(f"/console/review{query}").text, "upload_id")


def test_each_moderator_gets_other_pictures(console: TestClient) -> None:
    """Nine for whoever comes first, the others for the next, then a word that says why."""
    sign_in(console, "ann")
    assert (shown(console), shown(console)) == ("p00", "p00")
    sign_in(console, "bob")
    assert shown(console) == "p09"
    assert shown(console, "?at=p03") == "p09", "ann has it"
    Claims(store_of(console)).take("cid", "held", 12)
    Claims(store_of(console)).release("bob", ["p09", "p10", "p11"])
    Claims(store_of(console)).take("cid", "held", 12)
    assert "in front of other moderators" in console.get("/console/review").text


def test_one_picture_is_in_front_of_one_person(serve: Serve) -> None:
    """Under however many ids it waits: all of them are whose it is."""
    client = with_people(serve)
    for number in range(12):
        hold(store_of(client), client, f"p{number:02}")
    sign_in(client, "ann")
    assert shown(client) == "p00"
    sign_in(client, "bob")
    assert "in front of other moderators" in client.get("/console/review").text


def test_an_approval_that_waits_for_its_safe_copy_is_decided(console: TestClient) -> None:
    """Nobody is asked once more; its own page says whose it is, and there it can be blocked."""
    store = store_of(console)
    store.copies.promise(True)
    words = {"upload_id": "p00", "verdict": "approved", "csrf": sign_in(console, "ann")}
    words["seq"] = str(avatar_of(store, "p00").seq)
    answer = console.post("/console/decide", data=words)
    assert answer.status_code == 303
    page = console.get(answer.headers["location"]).text
    assert "p00</a> is now approved" in page
    assert 'data-key="u"' in page
    assert shown(console) == "p01"
    words |= {"verdict": "blocked", "csrf": sign_in(console, "bob")}
    assert 'data-id="p00"' not in console.get("/console/grid").text
    refused = console.post("/console/decide", data=words)
    assert refused.status_code == 409
    assert "ann has approved it while you looked" in refused.text
    page = console.get("/console/uploads/p00").text
    assert "Approved by ann as soon as its safe copy is written." in page
    assert 'value="undo"' in page
    words["approved_by"] = field(page, "approved_by")
    done = console.post("/console/decide", data=words)
    assert done.status_code == 303
    assert avatar_of(store, "p00").state == "blocked"


def test_somebody_else_decides_about_an_appeal(console: TestClient) -> None:
    """Than whoever blocked it, wherever they look; where nobody else may, they do."""
    store = store_of(console)
    Decisions(store).decide("p00", "blocked", by="ann")
    Decisions(store).appeal("p00", "It is a statue.")
    words = {"upload_id": "p00", "verdict": "blocked", "csrf": sign_in(console, "ann")}
    words["seq"] = str(avatar_of(store, "p00").seq)
    assert 'data-id="p00"' not in console.get("/console/grid?state=appeals").text
    page = console.get("/console/uploads/p00").text
    assert "somebody else decides" in page
    assert 'name="verdict"' not in page
    refused = console.post("/console/decide", data=words)
    assert refused.status_code == 409
    assert "somebody else decides" in refused.text
    words["csrf"] = sign_in(console, "bob")
    page = console.get("/console/grid?state=appeals").text
    assert 'data-id="p00"' in page
    assert "It is a statue." in page
    Users(store).remove("bob")
    words["csrf"] = sign_in(console, "ann")
    assert console.post("/console/decide", data=words).status_code == 303
    assert avatar_of(store, "p00").state == "blocked"


def test_a_viewer_looks_without_taking_anything_away(console: TestClient) -> None:
    sign_in(console, "vic")
    assert "p00" in console.get("/console/review").text
    sign_in(console, "ann")
    assert shown(console) == "p00"


def test_an_open_page_keeps_its_pictures(
    console: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is told which went to somebody else meanwhile."""
    csrf = sign_in(console, "ann")
    monkeypatch.setattr(rules, "CLAIM_S", 0.0)
    assert shown(console) == "p00"
    monkeypatch.setattr(rules, "CLAIM_S", 60.0)
    Claims(store_of(console)).take("bob", "held", 1)
    answer = console.post(
        "/console/claims", data={"csrf": csrf, "state": "held", "item": ["p00", "p01"]}
    )
    assert answer.json() == {"mine": ["p01"]}
    bad = {"csrf": csrf, "state": "nowhere", "item": ["p00"]}
    assert console.post("/console/claims", data=bad).status_code == 422
