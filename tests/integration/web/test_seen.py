"""A decision is about what its decider saw: the record's seq, and the hash of the picture."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient

from producer.cli import cli
from producer.contract import AvatarState
from producer.record.dead_letters import DeadLetters
from producer.web.users import Role
from tests.integration.web.conftest import Serve, avatar_of, decide, store_of, with_key
from tests.integration.web.test_console import bury, console, hold, sign_in
from worker.demo.pictures import encode, landscape
from worker.image.preview import SafePictures

__all__ = ["console"]

SHA = "ab" * 32


@pytest.fixture
def client(serve: Serve) -> TestClient:
    return with_key(serve(callback_url="https://web.example/verdict"))


def ask(client: TestClient, upload_id: str, **body: Any) -> Any:
    return client.post(f"/v1/avatars/{upload_id}/decision", json=body)


def test_a_decision_about_what_was_seen_is_made(client: TestClient) -> None:
    """With the seq and the hash that the record has."""
    store = store_of(client)
    hold(store, client, "a")
    seq = avatar_of(store, "a").seq
    answer = ask(client, "a", verdict="blocked", seq=seq, sha256=SHA)
    assert answer.json()["data"]["state"] == "blocked"
    undone = ask(client, "a", verdict="undo", seq=seq)
    assert undone.status_code == 409
    assert ask(client, "a", verdict="undo", seq=seq + 1).status_code == 200


def test_a_stale_decision_is_refused_with_who_and_when(client: TestClient) -> None:
    """Somebody was faster: nothing is overturned; agreeing with them is no conflict."""
    store = store_of(client)
    hold(store, client, "a")
    seq = avatar_of(store, "a").seq
    ask(client, "a", verdict="approved", by="ann", seq=seq)
    answer = ask(client, "a", verdict="blocked", by="bob", seq=seq)
    assert answer.status_code == 409
    said = answer.json()["detail"]
    assert "approved (decided by ann) since 20" in said
    assert "look at it again" in said
    assert avatar_of(store, "a").decided_by == "operator:ann"
    assert ask(client, "a", verdict="approved", by="bob", seq=seq).status_code == 200


def test_another_picture_is_not_decided(client: TestClient) -> None:
    """The hash of what was shown must be the record's."""
    store = store_of(client)
    hold(store, client, "a")
    answer = ask(client, "a", verdict="approved", sha256="cd" * 32)
    assert (answer.status_code, "another picture" in answer.json()["detail"]) == (409, True)
    assert ask(client, "a", verdict="approved", sha256="x").status_code == 422
    assert avatar_of(store, "a").state == AvatarState.HELD


@pytest.mark.parametrize("state", ["queued", "dead"])
def test_what_nothing_has_scored_cannot_be_approved(client: TestClient, state: str) -> None:
    """Over HTTP and in a shell; it may be blocked, by the hash that its decider saw."""
    store = store_of(client)
    if state == "queued":
        client.app.state.services.producer.enqueue("a")  # type: ignore[attr-defined]
    else:
        bury(store, client, "a")
    answer = ask(client, "a", verdict="approved")
    assert answer.status_code == 409
    advice = {"queued": "wait for the model", "dead": "send it to the model again"}[state]
    assert advice in answer.json()["detail"]
    env = {"AVATARMOD_REDIS_URL": f"unix://{store.redis.connection_pool.connection_kwargs['path']}"}
    done = CliRunner().invoke(cli, ["approve", "a"], env=env)
    assert done.exit_code != 0
    assert avatar_of(store, "a").state == state

    assert ask(client, "a", verdict="blocked", sha256=SHA).status_code == 200
    assert avatar_of(store, "a").sha256 == SHA
    known = store.overruled(SHA)
    assert known is not None
    assert known["state"] == "blocked"


def test_what_was_scored_before_it_failed_can_be_approved(client: TestClient) -> None:
    """A dead letter of a later stage: the model has looked, its hash is known."""
    store = store_of(client)
    hold(store, client, "a")
    decide(store, "a", AvatarState.DEAD)
    assert DeadLetters(store).count() == 0
    assert ask(client, "a", verdict="approved").status_code == 200


def test_the_command_takes_what_was_seen(client: TestClient) -> None:
    """One upload at a time."""
    store = store_of(client)
    hold(store, client, "a")
    env = {"AVATARMOD_REDIS_URL": f"unix://{store.redis.connection_pool.connection_kwargs['path']}"}

    def run(*words: str) -> Any:
        return CliRunner().invoke(cli, list(words), env=env)

    assert run("block", "a", "b", "--seq", "2").exit_code == 2
    assert run("block", "a", "--sha256", "cd" * 32).exit_code != 0
    assert avatar_of(store, "a").state == AvatarState.HELD
    assert run("block", "a", "--sha256", SHA.upper()).exit_code == 0


def test_a_page_that_is_out_of_date_decides_nothing(console: TestClient) -> None:
    """The form carries what the page showed; 409 says who was faster."""
    store = store_of(console)
    hold(store, console, "a")
    seq = avatar_of(store, "a").seq
    csrf = sign_in(console, Role.MODERATOR)
    page = console.get("/console/uploads/a").text
    assert f'name="seq" value="{seq}"' in page
    assert f'name="sha256" value="{SHA}"' in page
    form = {"csrf": csrf, "upload_id": "a", "seq": str(seq), "sha256": SHA}
    assert console.post("/console/decide", data={**form, "verdict": "approved"}).status_code == 303
    answer = console.post("/console/decide", data={**form, "verdict": "blocked"})
    assert answer.status_code == 409
    assert "approved, by moderator" in answer.text
    assert avatar_of(store, "a").state == AvatarState.APPROVED


def test_the_console_offers_no_approval_of_what_nothing_scored(
    console: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its block is about the bytes that this person was shown, as the store gave them then."""
    services = console.app.state.services  # type: ignore[attr-defined]
    data = encode(landscape(1), "PNG")
    folder = Path(services.settings.image_folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.png").write_bytes(data)
    services.producer.enqueue("a", "a.png")
    csrf = sign_in(console, Role.MODERATOR)
    page = console.get("/console/uploads/a").text
    assert 'value="approved"' not in page
    assert 'value="blocked"' in page
    form = {"csrf": csrf, "upload_id": "a", "seq": "", "sha256": ""}
    answer = console.post("/console/decide", data={**form, "verdict": "approved"})
    assert (answer.status_code, "Nothing has scored this picture" in answer.text) == (409, True)
    monkeypatch.setattr(SafePictures, "_ask", lambda *_: ({}, b"drawn anew"))
    assert console.get("/console/picture/a").content == b"drawn anew"
    assert console.post("/console/decide", data={**form, "verdict": "blocked"}).status_code == 303
    assert avatar_of(store_of(console), "a").sha256 == hashlib.sha256(data).hexdigest()


def test_a_picture_that_was_replaced_is_not_shown(console: TestClient) -> None:
    """Its bytes are not those that the record names."""
    services = console.app.state.services  # type: ignore[attr-defined]
    folder = Path(services.settings.image_folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a").write_bytes(encode(landscape(1), "PNG"))
    hold(store_of(console), console, "a")
    sign_in(console, Role.MODERATOR)
    answer = console.get("/console/picture/a")
    assert (answer.status_code, "replaced after it was scored" in answer.text) == (404, True)
