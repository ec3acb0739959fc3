"""GET /v1/changes: the verdicts that a site missed, as callbacks would have told them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from producer.contract import AvatarState
from tests.integration.web.conftest import Stack, decide, store_of, with_key

PAGE = (Path(__file__).parents[3] / "docs" / "integration.md").read_text(encoding="utf-8")


def enqueue(client: TestClient, *upload_ids: str) -> None:
    for upload_id in upload_ids:
        assert client.post("/v1/uploads", json={"upload_id": upload_id}).status_code == 202


def changes(client: TestClient, **query: Any) -> Any:
    answer = client.get("/v1/changes", params=query)
    assert answer.status_code == 200
    return answer.json()


def test_a_change_is_the_document_of_its_upload(client: TestClient) -> None:
    """Equal to what the upload itself answers; what waits is not there."""
    enqueue(client, "a", "b")
    decide(store_of(client), "a")
    page = changes(client)
    assert page["changes"] == [client.get("/v1/avatars/a").json()]
    assert page["more"] is False
    assert changes(client, since=page["cursor"])["changes"] == []


def test_an_upload_comes_once_in_an_answer_as_it_stands_now(client: TestClient) -> None:
    """At the place of its last change; a page that ends before that has it, too."""
    store = store_of(client)
    enqueue(client, "a", "b")
    decide(store, "a")
    decide(store, "b")
    decide(store, "a", AvatarState.BLOCKED)
    page = changes(client)
    ids = [(one["data"]["upload_id"], one["data"]["state"]) for one in page["changes"]]
    assert ids == [("b", "approved"), ("a", "blocked")]
    first = changes(client, limit=1)
    assert [one["data"]["state"] for one in first["changes"]] == ["blocked"]
    assert first["more"] is True
    rest = changes(client, limit=5, since=first["cursor"])
    assert [one["data"]["upload_id"] for one in rest["changes"]] == ["b", "a"]


def test_what_is_left_of_an_expired_record_is_told(client: TestClient) -> None:
    """State and seq; whether a picture may be shown does not depend on the rest."""
    store = store_of(client)
    enqueue(client, "a")
    decide(store, "a", AvatarState.BLOCKED)
    seq = client.get("/v1/avatars/a").json()["data"]["seq"]
    store.redis.delete(store.keys.avatar("a"))
    [one] = changes(client)["changes"]
    assert one["type"] == "avatar.moderated"
    assert {**one["data"], "reason_text": ""} == {
        **dict.fromkeys(one["data"]),
        "upload_id": "a",
        "state": "blocked",
        "seq": seq,
        "final": True,
        "reason": "",
        "reason_text": "",
        "decided_by": "",
        "region": "domestic",
    }


def test_a_key_that_may_read_is_needed(client: TestClient) -> None:
    """Whoever may only enqueue does not learn of everybody's uploads."""
    assert with_key(client, "enqueue").get("/v1/changes").status_code == 403
    assert with_key(client, "read").get("/v1/changes").status_code == 200


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({"since": "yesterday"}, 422, "invalid_cursor"),
        ({"since": "0123456789abcdef.\u0661-\u0660.00000000"}, 422, "invalid_cursor"),
        ({"since": "0123456789abcdef.1-0.00000000"}, 410, "cursor_too_old"),
        ({"limit": 0}, 422, "invalid_request"),
        ({"limit": 1001}, 422, "invalid_request"),
    ],
)
def test_a_wrong_question_is_answered_with_what_to_do(
    client: TestClient, query: dict[str, Any], status: int, code: str
) -> None:
    """A cursor from nowhere, one of other data, a page that is too large."""
    answer = client.get("/v1/changes", params=query)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["field"] in query


def test_an_erased_upload_is_not_listed(client: TestClient) -> None:
    """From the moment that DELETE has answered."""
    enqueue(client, "a", "b")
    decide(store_of(client), "a")
    decide(store_of(client), "b")
    assert client.delete("/v1/uploads/a").status_code == 200
    assert [one["data"]["upload_id"] for one in changes(client)["changes"]] == ["b"]


def test_the_documented_program_reconciles(stack: Stack, tmp_path: Path) -> None:
    """It acts on every verdict, remembers where it was, and begins again when it must."""
    found = re.search(r"<!-- test: reconcile -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    space: dict[str, Any] = {}
    exec(found[1], space)
    place, seen = tmp_path / "cursor", {}

    def run() -> None:
        space["reconcile"](
            stack.url, stack.api_key, place, lambda data: seen.update({data["upload_id"]: data})
        )

    with stack.http() as http:
        picture = {"image": ("a.png", b"this is no picture", "image/png")}
        http.post("/v1/uploads", data={"upload_id": "reconciled"}, files=picture)
        http.get("/v1/avatars/reconciled?wait=30")
    run()
    assert seen["reconciled"]["state"] == "rejected"
    seen.clear()
    run()
    assert seen == {}
    place.write_text("0123456789abcdef.1-0.00000000")
    run()
    assert "reconciled" in seen
    program = tmp_path / "reconcile.py"
    text = found[1].replace("http://127.0.0.1:8042", stack.url).replace("avm_...", stack.api_key)
    program.write_text(text, encoding="utf-8")
    for told in (True, False):
        done = subprocess.run(
            [sys.executable, str(program)], capture_output=True, text=True, check=True, timeout=60
        )
        assert ("'upload_id': 'reconciled'" in done.stdout) is told
