"""What an operator does over HTTP: the record follows, the web tier hears, who it was is noted."""

from __future__ import annotations

import pytest
import redis
from fastapi.testclient import TestClient

from producer.contract import AvatarState
from producer.record.store import Store
from tests.integration.web.conftest import Serve, avatar_of, decide, store_of, with_key
from tests.integration.web.test_console import bury, hold


@pytest.fixture
def client(serve: Serve) -> TestClient:
    """A key that may operate, and a web tier that listens."""
    return with_key(serve(callback_url="https://web.example/verdict"), "operate", "read")


def activity(store: Store) -> list[tuple[str, str, str, str]]:
    """(who, what, about which, what came of it), oldest first."""
    return [
        (fields["by"], fields["action"], fields["item"], fields["outcome"])
        for _, fields in store.redis.xrange(store.key("audit"))
    ]


def reject(store: Store, client: TestClient, upload_id: str, reason: str) -> None:
    client.app.state.services.producer.enqueue(upload_id, "17.png")  # type: ignore[attr-defined]
    decide(store, upload_id, AvatarState.REJECTED, reason=reason, decided_by="")


def test_a_decision_is_made_and_undone(client: TestClient) -> None:
    """Each answers the record's document, with a callback, and is noted by the name given."""
    store = store_of(client)
    hold(store, client, "a/b")
    for verdict, by, state in (
        ("approved", "ann", "approved"),
        ("undo", "", "held"),
        ("blocked", "", "blocked"),
    ):
        answer = client.post("/v1/avatars/a/b/decision", json={"verdict": verdict, "by": by})
        assert answer.status_code == 200
        assert answer.json()["data"]["state"] == state
        assert answer.json() == client.get("/v1/avatars/a/b").json()
    assert avatar_of(store, "a/b").decided_by == "operator:test"
    assert store.redis.exists(store.key("callback", "a/b#5"))
    assert [entry[1:] for entry in activity(store)] == [
        (verdict, "a/b", "done") for verdict in ("approved", "undo", "blocked")
    ]


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/avatars/nobody/decision", {"verdict": "approved"}, 404, "unknown_upload"),
        ("/v1/avatars/a/decision", {"verdict": "undo"}, 409, "conflict"),
        ("/v1/avatars/a/decision", {"verdict": "maybe"}, 422, "invalid_request"),
        ("/v1/avatars/a/decision", {"verdict": "approved", "by": "a b"}, 422, "invalid_request"),
        ("/v1/avatars/a/decision", {"verdict": "approved", "x": 1}, 422, "invalid_request"),
        ("/v1/avatars/../decision", {"verdict": "approved"}, 404, "not_found"),
        ("/v1/uploads/nobody/retry", None, 404, "unknown_upload"),
        ("/v1/uploads/a/retry", None, 409, "conflict"),
        ("/v1/dead-letters/replay", {"items": []}, 422, "invalid_request"),
        ("/v1/dead-letters/replay", {"items": [1]}, 422, "invalid_request"),
        ("/v1/dead-letters/bury", {"items": ["a"]}, 422, "invalid_request"),
    ],
)
def test_what_cannot_be_done_is_refused(
    client: TestClient, path: str, body: object, status: int, code: str
) -> None:
    """With a code and a sentence; nothing changes and nothing is noted."""
    store = store_of(client)
    hold(store, client, "a")
    answer = client.post(path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert avatar_of(store, "a").seq == 2
    assert activity(store) == []


def test_no_json_is_said(client: TestClient) -> None:
    """400, as for uploads."""
    answer = client.post("/v1/dead-letters/replay", content=b"{")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_json")


def test_a_body_is_not_read_before_the_key(client: TestClient) -> None:
    """A stranger's is refused for want of a key, whatever it holds."""
    del client.headers["x-api-key"]
    for path in ("/v1/avatars/a/decision", "/v1/dead-letters/discard"):
        assert client.post(path, content=b"{").status_code == 401


@pytest.mark.parametrize("reason", ["missing", "changed", "too_slow"])
def test_what_was_no_fault_of_the_picture_is_tried_again(client: TestClient, reason: str) -> None:
    """The upload waits for the model again, `seq` goes on, its record stays; twice is once."""
    store = store_of(client)
    reject(store, client, "a", reason)
    for _ in range(2):
        answer = client.post("/v1/uploads/a/retry")
        assert (answer.status_code, answer.json()["data"]["state"]) == (202, "queued")
        assert answer.json()["data"]["seq"] == 3
    assert store.open_counts()["queued"] == 1
    assert store.redis.ttl(store.key("avatar", "a")) == -1
    [lease] = store.claim("moderate", 5, lease_s=5, token="t")
    assert lease.item == "a"
    avatar = avatar_of(store, "a")
    assert (avatar.image, avatar.attempts, avatar.reason) == ("17.png", 0, "retried")
    decide(store, "a")
    assert client.get("/v1/avatars/a").json()["data"]["state"] == "approved"


@pytest.mark.parametrize("reason", ["damaged", "too_large", "discarded"])
def test_what_is_no_picture_is_not_tried_again(client: TestClient, reason: str) -> None:
    """Its rejection stands."""
    store = store_of(client)
    reject(store, client, "a", reason)
    assert client.post("/v1/uploads/a/retry").status_code == 409
    assert avatar_of(store, "a").state == "rejected"


def test_a_dead_upload_is_tried_again(client: TestClient) -> None:
    """Its letter is gone; it enters the stage at which it failed."""
    store = store_of(client)
    bury(store, client, "a")
    assert client.post("/v1/uploads/a/retry").status_code == 202
    assert client.get("/v1/dead-letters").json() == {"total": 0, "letters": []}
    assert avatar_of(store, "a").state == "queued"


def test_dead_letters_are_listed_replayed_and_discarded(client: TestClient) -> None:
    """By filters; an item that is gone is not counted and does not stop the others."""
    store = store_of(client)
    for number in range(4):
        bury(store, client, f"u{number}", message="full" if number else "odd")
    found = client.get("/v1/dead-letters", params={"error": "FULL", "limit": 2}).json()
    assert (found["total"], [letter["item"] for letter in found["letters"]]) == (4, ["u3", "u2"])
    assert found["letters"][0]["stage"] == "moderate"
    assert found["letters"][0]["attempts"] == 5
    assert client.get("/v1/dead-letters?stage=review").json()["letters"] == []
    answer = client.post("/v1/dead-letters/replay", json={"items": ["u0", "gone", "u1"]})
    assert answer.json() == {"done": 2, "total": 3}
    answer = client.post("/v1/dead-letters/discard", json={"items": ["u2", "u2"]})
    assert answer.json() == {"done": 1, "total": 2}
    states = [avatar_of(store, f"u{number}").state for number in range(4)]
    assert states == ["queued", "queued", "rejected", "dead"]
    assert ("test", "replay", "gone", "was gone already") in activity(store)


def test_readiness_tells_strangers_codes_alone(client: TestClient) -> None:
    """Texts, workers and the bundle only to a key that may read."""
    full = client.get("/readyz")
    assert full.json()["alarms"][0]["fix"]
    assert full.json()["workers"] == []
    key = client.headers.pop("x-api-key")
    for headers in ({}, {"x-api-key": key[:-1] + ("A" if key[-1] != "A" else "B")}):
        answer = client.get("/readyz", headers=headers)
        assert answer.status_code == full.status_code == 503
        assert answer.json().keys() == {"status", "alarms"}
        assert answer.json()["alarms"][0] == {"code": "no_moderate_worker", "severity": "critical"}


def test_readiness_tries_to_write(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that answers and has no room is not ready."""

    def refuse() -> None:
        raise redis.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")

    monkeypatch.setattr(store_of(client), "try_to_write", refuse)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["alarms"] == [{"code": "redis_cannot_write", "severity": "critical"}]


def test_a_full_redis_answers_what_is_full(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 with a code of its own and a time to come back."""
    monkeypatch.setattr(
        store_of(client).room, "lack", lambda: "Redis is full: 91% of its maxmemory"
    )
    sender = with_key(client, "enqueue")
    answer = sender.post("/v1/uploads", json={"upload_id": "a", "image": "17.png"})
    assert answer.status_code == 503
    assert answer.json()["code"] == "storage_full"
    assert "Redis is full" in answer.json()["detail"]
    assert int(answer.headers["retry-after"]) >= 1
