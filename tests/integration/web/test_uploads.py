"""POST /v1/uploads and GET /v1/avatars: accepted once, answered exactly, refused with reasons."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from producer.contract import AvatarState
from producer.errors import ModerationError, QueueFull
from producer.reasons import BLOCK_REASONS
from producer.record.store import Store
from tests.integration.web.conftest import Serve, avatar_of, decide, store_of, with_key

PNG = b"\x89PNG\r\n\x1a\n not really"


def test_one_upload_is_accepted_and_its_record_stands(client: TestClient) -> None:
    """JSON with one upload answers 202 with the place of its verdict, and Redis has the record."""
    answer = client.post(
        "/v1/uploads", json={"upload_id": "a/b@1", "image": "17.png", "region": "overseas"}
    )
    assert answer.status_code == 202
    assert answer.json() == {
        "upload_id": "a/b@1",
        "status": 202,
        "state": "queued",
        "seq": 1,
        "sha256": None,
        "created": True,
        "href": "/v1/avatars/a/b@1",
    }
    assert answer.headers["location"] == "/v1/avatars/a/b@1"
    avatar = avatar_of(store_of(client), "a/b@1")
    assert (avatar.state, avatar.image, avatar.region) == ("queued", "17.png", "overseas")


def test_the_same_id_again_changes_nothing(client: TestClient) -> None:
    """A repeated upload answers 200 with its present state and keeps the first image."""
    client.post("/v1/uploads", json={"upload_id": "a", "image": "1.png"})
    decide(store_of(client), "a")
    answer = client.post("/v1/uploads", json={"upload_id": "a", "image": "2.png"})
    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["created"]) == ("approved", False)
    assert avatar_of(store_of(client), "a").image == "1.png"


def test_the_same_id_with_another_picture_is_refused(client: TestClient) -> None:
    """Before and after it was looked at; the same bytes again are answered with their hash."""

    def post(data: bytes) -> Any:
        return client.post("/v1/uploads", data={"upload_id": "a"}, files={"image": ("x", data)})

    digest = hashlib.sha256(PNG).hexdigest()
    assert post(PNG).status_code == 202
    assert (post(PNG).status_code, post(PNG).json()["sha256"]) == (200, None)
    assert (post(PNG + b".").status_code, post(PNG + b".").json()["code"]) == (409, "conflict")
    decide(store_of(client), "a", sha256=digest)
    assert post(PNG).json()["sha256"] == digest
    refused = post(PNG + b".")
    assert (refused.status_code, refused.json()["field"]) == (409, "upload_id")
    assert digest in refused.json()["detail"]
    assert "a new picture needs a new id" in refused.json()["detail"]
    kept = avatar_of(store_of(client), "a")
    assert (kept.state, kept.sha256) == ("approved", digest)
    reference = client.post("/v1/uploads", json={"upload_id": "a", "image": "other.png"})
    assert (reference.status_code, reference.json()["sha256"]) == (200, digest)


def test_another_picture_among_several_is_refused_alone(client: TestClient) -> None:
    """The answer of a batch says which."""
    client.post("/v1/uploads", data={"upload_id": "a"}, files={"image": ("x", PNG)})
    files = [("image", ("1", PNG + b".")), ("image", ("2", PNG))]
    answer = client.post("/v1/uploads", data={"upload_id": ["a", "b"]}, files=files)
    assert answer.status_code == 207
    assert [one["status"] for one in answer.json()["results"]] == [409, 202]
    assert answer.json()["results"][0]["error"]["code"] == "conflict"


def test_a_batch_gives_each_upload_its_own_answer(client: TestClient) -> None:
    """A bad reference among good ones is refused alone, with its field; the answer is 207."""
    uploads = [{"upload_id": f"u{n}", "image": f"{n}.png"} for n in range(100)]
    uploads[7]["image"] = "../../etc/passwd"
    answer = client.post("/v1/uploads", json={"uploads": uploads})
    assert answer.status_code == 207
    results = answer.json()["results"]
    assert [r["upload_id"] for r in results] == [f"u{n}" for n in range(100)]
    assert [r["status"] for r in results].count(202) == 99
    assert results[7]["status"] == 422
    assert results[7]["error"]["field"] == "image"
    assert store_of(client).open_counts()["queued"] == 99


def test_a_malformed_item_is_refused_alone(client: TestClient) -> None:
    """Its problem has a code and the field; what stands beside it is accepted."""
    uploads = [{"upload_id": "j1"}, {"upload_id": "j 2"}, 7, {"upload_id": 3}, {"upload_id": "j5"}]
    answer = client.post("/v1/uploads", json={"uploads": uploads})
    assert answer.status_code == 207
    results = answer.json()["results"]
    assert [r["upload_id"] for r in results] == ["j1", "j 2", None, None, "j5"]
    assert [r["status"] for r in results] == [202, 422, 422, 422, 202]
    errors = [r["error"] for r in results if r["status"] == 422]
    assert [e.get("field") for e in errors] == ["upload_id", None, "upload_id"]
    assert {e["code"] for e in errors} == {"invalid_request"}
    assert store_of(client).open_counts()["queued"] == 2


def test_a_batch_of_malformed_items_is_answered_item_by_item(client: TestClient) -> None:
    """Also when none is accepted."""
    answer = client.post("/v1/uploads", json={"uploads": [{"upload_id": "a b"}, {}]})
    assert (answer.status_code, len(answer.json()["results"])) == (207, 2)


def test_more_than_a_hundred_at_once_are_refused(client: TestClient) -> None:
    """101 uploads in one request answer 422 and none is accepted."""
    uploads = [{"upload_id": f"u{n}"} for n in range(101)]
    answer = client.post("/v1/uploads", json={"uploads": uploads})
    assert (answer.status_code, answer.json()["field"]) == (422, "uploads")
    assert store_of(client).open_counts()["queued"] == 0


def test_multipart_bytes_are_stored_before_the_upload_is_enqueued(
    client: TestClient, tmp_path: Path
) -> None:
    """Bytes sent with an upload lie in the image store under the reference of its record."""
    answer = client.post(
        "/v1/uploads",
        data={"upload_id": ["a", "b"], "region": "overseas"},
        files=[("image", ("x.png", PNG)), ("image", ("../../x.png", PNG + b"2"))],
    )
    assert answer.status_code == 202
    for upload_id, data in (("a", PNG), ("b", PNG + b"2")):
        avatar = avatar_of(store_of(client), upload_id)
        assert (tmp_path / "images" / avatar.image).read_bytes() == data
        assert avatar.region == "overseas"
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 2


def test_other_bytes_under_a_known_id_are_not_stored(client: TestClient, tmp_path: Path) -> None:
    """Whoever repeats an id with another picture neither replaces nor adds anything."""
    for data in (PNG, PNG + b"other"):
        answer = client.post("/v1/uploads", data={"upload_id": "a"}, files={"image": data})
    assert answer.status_code == 409
    assert [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()] == [PNG]


def test_a_refusal_takes_no_other_request_s_picture_away(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is refused because the queue is full; the same again is accepted in that moment."""
    services = client.app.state.services  # type: ignore[attr-defined]
    enqueue, files = services.producer.enqueue_many, {"image": ("a", b"bytes")}

    def refuse(_uploads: Any) -> list[ModerationError]:
        monkeypatch.setattr(services.producer, "enqueue_many", enqueue)
        assert client.post("/v1/uploads", data={"upload_id": "a"}, files=files).status_code == 202
        return [QueueFull("full", retry_after_s=1)]

    monkeypatch.setattr(services.producer, "enqueue_many", refuse)
    assert client.post("/v1/uploads", data={"upload_id": "a"}, files=files).status_code == 503
    assert services.images.fetch(avatar_of(store_of(client), "a").image, "a") == b"bytes"
    kept = [path for path in Path(services.settings.image_folder).rglob("*") if path.is_file()]
    assert len(kept) == 1


def test_an_upload_without_its_file_is_refused(client: TestClient) -> None:
    """Two ids and one file answer 422 and name the field."""
    answer = client.post(
        "/v1/uploads", data={"upload_id": ["a", "b"]}, files=[("image", ("x.png", PNG))]
    )
    assert (answer.status_code, answer.json()["field"]) == (422, "image")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"upload_id": ""}, "upload_id"),
        ({"upload_id": "a b"}, "upload_id"),
        ({"upload_id": "a\r\nset-cookie: x=1"}, "upload_id"),
        ({"upload_id": "<script>alert(1)</script>"}, "upload_id"),
        ({"upload_id": "x" * 201}, "upload_id"),
        ({"upload_id": 17}, "upload_id"),
        ({"upload_id": "../../x"}, "upload_id"),
        ({}, "upload_id"),
        ({"upload_id": "a", "image": "../x"}, "image"),
        ({"upload_id": "a", "image": "/etc/passwd"}, "image"),
        ({"upload_id": "a", "image": "file:///etc/passwd"}, "image"),
        ({"upload_id": "a", "image": "gopher://x/"}, "image"),
        ({"upload_id": "a", "image": "x\ny"}, "image"),
        ({"upload_id": "a", "image": "https://127.0.0.1/x"}, "image"),
        ({"upload_id": "a", "image": "http://example.org/x"}, "image"),
        ({"upload_id": "a", "image": "https://xn--/x"}, "image"),
        ({"upload_id": "a", "image": "https://me@[x/x"}, "image"),
        ({"upload_id": "a", "region": "mars"}, "region"),
        ({"upload_id": "a", "priority": "urgent"}, "priority"),
        ({"upload_id": "a", "callback_url": "http://169.254.169.254/"}, "callback_url"),
        ({"upload_id": "a", "callback_url": "https://elsewhere.example/"}, "callback_url"),
        ({"upload_id": "a", "callback_url": "https://ok.example.evil.example/"}, "callback_url"),
        ({"upload_id": "a", "callback_url": "https://ok.example/cb/../admin"}, "callback_url"),
        ({"upload_id": "a", "unknown": 1}, "unknown"),
    ],
)
def test_what_is_wrong_is_named(serve: Serve, body: dict[str, object], field: str) -> None:
    """Each malformed field answers 422 with a problem document that names it, and no record."""
    client = with_key(serve(callback_allowed_urls=("https://ok.example/cb",)))
    answer = client.post("/v1/uploads", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["field"] == field
    assert set(problem) == {"type", "title", "status", "detail", "code", "field"}
    assert store_of(client).open_counts()["queued"] == 0


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ([], "body: should be an object"),
        (17, "body: should be an object"),
        ({"uploads": {}}, "uploads: Input should be a valid list"),
    ],
)
def test_no_names_of_our_classes_are_told(client: TestClient, body: object, detail: str) -> None:
    """What is wrong with the body is said in JSON's words."""
    answer = client.post("/v1/uploads", json=body)
    assert (answer.status_code, answer.json()["detail"]) == (422, detail)


def test_allowed_callbacks_are_kept(serve: Serve) -> None:
    """A callback under an allowed address, and `none`, are accepted and kept on the record."""
    client = with_key(serve(callback_allowed_urls=("https://ok.example/cb",)))
    for upload_id, url in (("a", "https://ok.example/cb/1"), ("b", "none")):
        body = {"upload_id": upload_id, "callback_url": url}
        assert client.post("/v1/uploads", json=body).status_code == 202
        assert avatar_of(store_of(client), upload_id).callback_url == url


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[1]", "application/json", 422),
        (b"null", "application/json", 422),
        (b"\xff\xfe", "application/json", 400),
        (b"upload_id=a", "application/x-www-form-urlencoded", 415),
        (b"", "", 415),
        (b"--x\r\nnonsense", "multipart/form-data; boundary=x", 422),
        (b"", "multipart/form-data", 400),
    ],
)
def test_unreadable_bodies_are_problems(
    client: TestClient, content: bytes, kind: str, status: int
) -> None:
    """A body that is no JSON, no object or of another type is refused in the same form."""
    answer = client.post("/v1/uploads", content=content, headers={"content-type": kind})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_large_bodies_are_cut_off(serve: Serve) -> None:
    """A body beyond the limit answers 413, declared or streamed, and a large picture alone too."""
    client = with_key(serve(api_max_body_bytes=3_000_000, max_image_bytes=1000))

    def streamed() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 65536

    for content in (b" " * 2_000_000, streamed()):
        answer = client.post(
            "/v1/uploads",
            content=content,
            headers={"content-type": "application/json"},
        )
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    answer = client.post(
        "/v1/uploads",
        data={"upload_id": ["a", "b"]},
        files=[("image", ("a", b"x" * 1001)), ("image", ("b", b"x" * 1000))],
    )
    assert [r["status"] for r in answer.json()["results"]] == [413, 202]


def test_a_full_queue_says_when_to_come_back(serve: Serve, tmp_path: Path) -> None:
    """Above the backlog's limit the answer is 503 with Retry-After, and no bytes are kept."""
    client = with_key(serve(max_backlog=1))
    assert client.post("/v1/uploads", json={"upload_id": "a"}).status_code == 202
    for answer in (
        client.post("/v1/uploads", json={"upload_id": "b"}),
        client.post("/v1/uploads", json={"uploads": [{"upload_id": "b"}, {"upload_id": "c"}]}),
        client.post("/v1/uploads", data={"upload_id": "b"}, files={"image": PNG}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (503, "queue_full")
        assert int(answer.headers["retry-after"]) > 0
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_verdict_is_read_in_the_form_of_a_callback(client: TestClient) -> None:
    """GET answers `{type, timestamp, data}` with an ETag that stands until the next change."""
    client.post("/v1/uploads", json={"upload_id": "x/y", "image": "s3://bucket/secret-key"})
    first = client.get("/v1/avatars/x/y")
    assert (first.status_code, first.json()["data"]["state"]) == (200, "queued")
    assert "secret-key" not in first.text
    same = client.get("/v1/avatars/x/y", headers={"if-none-match": first.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    decide(store_of(client), "x/y", AvatarState.BLOCKED, 0.97)
    changed = client.get("/v1/avatars/x/y", headers={"if-none-match": first.headers["etag"]})
    assert changed.status_code == 200
    assert changed.json()["type"] == "avatar.moderated"
    data = changed.json()["data"]
    assert (data["state"], data["seq"], data["final"]) == ("blocked", 2, True)
    assert data["probability"] == 0.97


def _decide_later(store: Store, upload_id: str, delay_s: float) -> None:
    threading.Timer(delay_s, decide, (store, upload_id)).start()


def test_a_long_poll_answers_when_the_verdict_comes(client: TestClient) -> None:
    """`wait` returns with the verdict well before its time is over."""
    client.post("/v1/uploads", json={"upload_id": "a"})
    _decide_later(store_of(client), "a", 0.5)
    started_s = time.monotonic()
    answer = client.get("/v1/avatars/a?wait=20")
    assert answer.json()["data"]["state"] == "approved"
    assert time.monotonic() - started_s < 15


def test_a_long_poll_ends_with_its_time(client: TestClient) -> None:
    """Without news `wait` answers the present state, or 304 to who has it already."""
    client.post("/v1/uploads", json={"upload_id": "a"})
    answer = client.get("/v1/avatars/a?wait=0.2")
    assert answer.json()["data"]["state"] == "queued"
    headers = {"if-none-match": answer.headers["etag"]}
    assert client.get("/v1/avatars/a?wait=0.2", headers=headers).status_code == 304


@pytest.mark.parametrize("wait", ["-1", "31", "nan", "inf", "x"])
def test_a_wait_out_of_range_is_refused(client: TestClient, wait: str) -> None:
    """Only 0 to 30 seconds can be waited."""
    answer = client.get(f"/v1/avatars/a?wait={wait}")
    assert (answer.status_code, answer.json()["field"]) == (422, "wait")


def test_unknown_and_malformed_ids_differ(client: TestClient) -> None:
    """An id without a record answers 404, one that cannot exist 422."""
    assert client.get("/v1/avatars/nobody").json()["code"] == "unknown_upload"
    assert client.get("/v1/avatars/nobody").status_code == 404
    assert client.get("/v1/avatars/a%20b").status_code == 422
    assert client.get("/v1/avatars/a/%2e%2e/b").status_code == 422
    assert client.get("/v1/avatars/a%0d%0ax").status_code == 404


def test_the_reasons_are_published_for_everybody(client: TestClient) -> None:
    """The closed list with its words; a site can show it without a key."""
    del client.headers["x-api-key"]
    found = client.get("/v1/reasons").json()
    assert [one["reason"] for one in found["reasons"]] == list(BLOCK_REASONS)
    assert found["reasons"][0]["text"]["zh-CN"] == "您的图片含有裸露内容。"
