"""What the grid's script is told: tiles, what became of those it had, and every decision's end."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi.testclient import TestClient

from producer.contract import AvatarState
from producer.record import claims as rules
from producer.record.claims import Claims
from producer.record.decisions import Decisions, Why
from producer.web.console.grid import MAX_HAVE, MOST_TILES
from tests.integration.web.conftest import Serve, avatar_of, decide, store_of
from tests.integration.web.test_console import field, hold, sign_in
from tests.integration.web.test_console_claims import with_people


class Page:
    """One person's open grid."""

    def __init__(self, client: TestClient, name: str, lane: str = "held") -> None:
        self.client, self.lane = client, lane
        self.csrf = sign_in(client, name)
        self.cookies = dict(client.cookies)
        self.html = self._get(f"/console/grid?state={lane}")
        self.tiles = tiles_of(self.html)

    def _get(self, place: str) -> str:
        self._be()
        return str(self.client.get(place).text)

    def _be(self) -> None:
        self.client.cookies.clear()
        self.client.cookies.update(self.cookies)

    def ask(self, have: list[str], count: int = 12) -> Any:
        """What `news` of the script asks."""
        self._be()
        data = {"csrf": self.csrf, "state": self.lane, "item": have, "count": str(count)}
        answer = self.client.post("/console/grid/tiles", data=data)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def decide(self, upload_id: str, verdict: str, **fields: str) -> tuple[int, dict[str, Any]]:
        """What the queue of the script sends: what was seen is the tile's, unless told."""
        self._be()
        seen = self.tiles.get(upload_id, {})
        data = {"csrf": self.csrf, "lane": self.lane, "upload_id": upload_id, **seen}
        answer = self.client.post(
            "/console/grid/decide",
            data={**data, "verdict": verdict, **fields},
            headers={"accept": "application/json"},
        )
        return answer.status_code, answer.json()


def tiles_of(page: str) -> dict[str, dict[str, str]]:
    """By upload id, what each tile was drawn from."""
    found = re.findall(r'data-id="([^"]+)" data-seq="(\d+)" data-sha256="([^"]*)"', page)
    return {one: {"seq": seq, "sha256": sha256} for one, seq, sha256 in found}


@pytest.fixture
def console(serve: Serve) -> TestClient:
    """Ann and Bob may decide, Vic may look; four pictures wait, the first one twice."""
    client = with_people(serve)
    for name in ("a", "b", "c", "d"):
        hold(store_of(client), client, name, sha256=f"{name}" * 64)
    hold(store_of(client), client, "a-again", sha256="a" * 64)
    return client


def state_of(client: TestClient, upload_id: str) -> str:
    return str(avatar_of(store_of(client), upload_id).state)


def test_twins_are_one_tile_and_follow(console: TestClient) -> None:
    """The tile counts them, the answer says how many followed, and none comes as a new tile."""
    ann = Page(console, "ann")
    assert list(ann.tiles) == ["a", "b", "c", "d"]
    assert "×2" in ann.html
    status, answer = ann.decide("a", "blocked", reason="nudity")
    assert (status, answer["state"], answer["others"], answer["waits"]) == (
        200,
        "blocked",
        1,
        False,
    )
    twin = avatar_of(store_of(console), "a-again")
    assert (twin.state, twin.block_reason) == ("blocked", "nudity")
    found = ann.ask(["b", "c", "d"])
    assert (tiles_of(found["tiles"]), found["lost"]) == ({}, {})
    assert (found["counts"]["held"], found["waiting"]) == ("3", 3)


def test_a_conflict_says_who_and_how_it_stands(console: TestClient) -> None:
    """The stale page changes nothing; with the seq of the answer the person may insist."""
    ann = Page(console, "ann")
    Decisions(store_of(console)).decide("b", "blocked", by="bob", why=Why("hate"))
    status, answer = ann.decide("b", "approved")
    assert (status, answer["state"], answer["waits"]) == (409, "blocked", False)
    assert "blocked, by bob" in answer["problem"]
    assert answer["word"] == "blocked"
    assert state_of(console, "b") == "blocked"
    status, answer = ann.decide("b", "approved", seq=str(answer["seq"]))
    assert (status, answer["state"]) == (200, "approved")


def test_another_picture_than_the_one_shown_is_a_conflict(console: TestClient) -> None:
    ann = Page(console, "ann")
    status, answer = ann.decide("c", "approved", sha256="0" * 64)
    assert (status, answer["waits"]) == (409, True)
    assert state_of(console, "c") == "held"


def test_undo_gives_the_tile_back(console: TestClient) -> None:
    """As it waits again, with its new seq; of others' decisions it takes back nothing unseen."""
    ann = Page(console, "ann")
    _, answer = ann.decide("b", "approved")
    status, back = ann.decide("b", "undo", seq=str(answer["seq"]))
    assert (status, back["waits"]) == (200, True)
    again = tiles_of(back["tile"])["b"]
    assert int(again["seq"]) == back["seq"] > answer["seq"]
    Decisions(store_of(console)).decide("b", "blocked", by="bob")
    status, answer = ann.decide("b", "undo", seq=str(back["seq"]))
    assert (status, answer["state"]) == (409, "blocked")


def test_undo_of_what_nobody_decided_is_refused(console: TestClient) -> None:
    ann = Page(console, "ann")
    status, answer = ann.decide("b", "undo")
    assert (status, answer["state"], answer["waits"]) == (409, "held", True)


def test_an_expired_claim_is_said_once_somebody_took_it(
    console: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then the page goes on with it; its decision still counts, for a claim is no lock."""
    monkeypatch.setattr(rules, "CLAIM_S", 0.0)
    ann = Page(console, "ann")
    monkeypatch.setattr(rules, "CLAIM_S", 60.0)
    assert ann.ask(list(ann.tiles), 0)["lost"] == {}, "nobody else wants them"
    Claims(store_of(console)).release("ann", list(ann.tiles))
    bob = Page(console, "bob")
    lost = ann.ask(list(ann.tiles), 0)["lost"]
    assert lost == dict.fromkeys(ann.tiles, "Somebody else has it in front of them.")
    assert list(bob.tiles) == list(ann.tiles)
    status, _ = ann.decide("c", "approved")
    assert status == 200
    assert bob.ask(["c"], 0)["lost"] == {"c": "approved by ann"}


def test_what_a_page_had_and_lost_is_explained(console: TestClient) -> None:
    """Decided by others, by the machine, or gone altogether."""
    ann, store = Page(console, "ann"), store_of(console)
    Decisions(store).decide("b", "blocked", by="bob")
    store.redis.delete(store.keys.avatar("c"))
    lost = ann.ask(["a", "b", "c", "never-was"], 0)["lost"]
    assert lost == {
        "b": "blocked by bob",
        "c": "No upload has this id, or it has expired.",
        "never-was": "No upload has this id, or it has expired.",
    }


def test_new_ones_come_as_many_as_asked_for(console: TestClient) -> None:
    """Those that the page has are not sent again."""
    ann = Page(console, "ann")
    for number in range(5):
        sha256 = f"{number}" * 64
        hold(store_of(console), console, f"new-{number}", sha256=sha256)
    found = ann.ask(list(ann.tiles), 2)
    assert list(tiles_of(found["tiles"])) == ["new-0", "new-1"]
    assert found["lost"] == {}
    bob = Page(console, "bob")
    assert list(bob.tiles) == ["new-2", "new-3", "new-4"]


def test_a_viewer_sees_the_grid_and_takes_nothing(console: TestClient) -> None:
    vic = Page(console, "vic")
    assert "a" in vic.tiles
    assert 'data-do="a"' not in vic.html
    assert vic.decide("a", "approved")[0] == 403
    assert list(Page(console, "ann").tiles) == ["a", "b", "c", "d"]


def test_audits_are_answered_from_the_grid(console: TestClient) -> None:
    """With labels; what is found explicit is held, and the answer says that it waits elsewhere."""
    store = store_of(console)
    console.app.state.services.producer.enqueue("audited")  # type: ignore[attr-defined]
    decide(store, "audited", sha256="e" * 64, audit="person")
    store.redis.zadd(store.keys.audits, {"audited": store.now()})
    ann = Page(console, "ann", "audits")
    assert list(ann.tiles) == ["audited"]
    status, answer = ann.decide("audited", "explicit")
    assert (status, answer["state"], answer["waits"]) == (200, "held", False)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"verdict": "maybe"}, 422),
        ({"upload_id": "no such upload"}, 409),
        ({"upload_id": "unknown"}, 409),
        ({"upload_id": ""}, 409),
    ],
)
def test_nonsense_is_refused_as_json(
    console: TestClient, fields: dict[str, str], status: int
) -> None:
    """With a sentence that the tile can show."""
    ann = Page(console, "ann")
    data = {"upload_id": "b", "verdict": "approved", **fields}
    found, answer = ann.decide(data.pop("upload_id"), data.pop("verdict"))
    assert found == status
    assert answer["problem"]
    assert answer["waits"] == (fields.get("verdict") == "maybe")


def test_questions_are_bounded(console: TestClient) -> None:
    """A lane that is none, too many at once, ids that are none; never more tiles than a page."""
    ann = Page(console, "ann")

    def status(**fields: Any) -> int:
        data = {"csrf": ann.csrf, "state": "held", "item": ["a"], "count": "1", **fields}
        return int(console.post("/console/grid/tiles", data=data).status_code)

    assert status() == 200
    assert status(state="nowhere") == 422
    assert status(item=["a"] * (MAX_HAVE + 1)) == 422
    assert status(item=["not an id"]) == 422
    assert status(count="-1") == 200
    for number in range(MOST_TILES + 3):
        hold(store_of(console), console, f"more-{number:03d}", sha256=f"{number:064x}")
    assert len(tiles_of(ann.ask([], 10**9)["tiles"])) == MOST_TILES


def test_the_counts_are_those_of_every_page(console: TestClient) -> None:
    """`/live` and the grid say the same, in the reader's numbers."""
    ann = Page(console, "ann")
    live = console.get("/console/live").json()
    found = ann.ask([], 0)
    assert live == {"counts": found["counts"], "waiting": found["waiting"]}
    assert (live["counts"]["held"], live["waiting"]) == ("5", 5)
    assert state_of(console, "a") == AvatarState.HELD
    assert field(ann.html, "state") == "held"
