"""Erasing over HTTP and in the console, and beside workers that have the upload in their hands."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from producer.connect import connect_store
from producer.settings import Settings, load_settings
from producer.web.users import Role
from tests.integration.web.conftest import Serve, Stack, store_of, with_key
from tests.integration.web.test_console import console, hold, sign_in
from tests.support import wait_until
from worker.demo.pictures import encode, landscape
from worker.ledger.lazy import LazyLedger

__all__ = ["console"]


@pytest.fixture
def client(serve: Serve) -> TestClient:
    return with_key(serve(callback_url="https://web.example/verdict"))


def test_an_upload_is_erased_and_again(client: TestClient) -> None:
    """200 both times, with what was removed; its picture is gone, it is unknown then."""
    files = {"image": ("a", b"bytes")}
    client.post("/v1/uploads", data={"upload_id": "a/b", "subject": "me"}, files=files)
    pictures = Path(client.app.state.services.settings.image_folder)  # type: ignore[attr-defined]
    assert [path for path in pictures.rglob("*") if path.is_file()]
    answer = client.delete("/v1/uploads/a/b")
    assert answer.status_code == 200
    removed = answer.json()["removed"]
    assert (removed["record"], removed["picture"]) == (1, 1)
    assert [path for path in pictures.rglob("*") if path.is_file()] == []
    assert client.get("/v1/avatars/a/b").status_code == 404
    assert client.delete("/v1/uploads/a/b").json()["removed"] == {}
    assert store_of(client).open_counts()["queued"] == 0


def test_a_person_is_erased(client: TestClient) -> None:
    """By the subject that came with the uploads, JSON or form."""
    for number in range(3):
        subject = {"subject": "me"} if number else {}
        body = {"upload_id": f"u{number}", "image": f"{number}.png", **subject}
        assert client.post("/v1/uploads", json=body).status_code == 202
    found = client.delete("/v1/uploads", params={"subject": "me"}).json()
    assert [one["upload_id"] for one in found["uploads"]] == ["u1", "u2"]
    assert client.get("/v1/avatars/u0").status_code == 200
    assert client.delete("/v1/uploads", params={"subject": "me"}).json() == {"uploads": []}
    assert client.delete("/v1/uploads").status_code == 422


@pytest.mark.parametrize(("upload_id", "status"), [("a%20b", 422), ("..%2Fx", 422)])
def test_what_is_no_id_is_refused(client: TestClient, upload_id: str, status: int) -> None:
    """As everywhere."""
    assert client.delete(f"/v1/uploads/{upload_id}").status_code == status


def test_a_slash_at_the_end_of_an_id_is_part_of_it(client: TestClient) -> None:
    """Who erases `a/` does not erase `a`; a list's address may have a slash too many."""
    for upload_id in ("a", "a/"):
        client.post("/v1/uploads", json={"upload_id": upload_id, "subject": "me"})
    assert client.delete("/v1/uploads/b/").json()["upload_id"] == "b/"
    assert client.delete("/v1/uploads/a/").json()["removed"]["record"] == 1
    assert client.get("/v1/avatars/a").status_code == 200
    assert client.get("/v1/avatars/a/").status_code == 404
    found = client.delete("/v1/uploads/", params={"subject": "me"}).json()
    assert [one["upload_id"] for one in found["uploads"]] == ["a"]


def test_an_upload_that_comes_again_while_it_is_erased_keeps_its_picture(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes under the same id, accepted between the record's end and the picture's."""
    files = {"image": ("a", b"bytes")}
    services = client.app.state.services  # type: ignore[attr-defined]
    client.post("/v1/uploads", data={"upload_id": "a"}, files=files)
    remove = services.images.remove_of

    def remove_late(reference: str, upload_id: str) -> bool:
        assert client.post("/v1/uploads", data={"upload_id": "a"}, files=files).status_code == 202
        return bool(remove(reference, upload_id))

    monkeypatch.setattr(services.images, "remove_of", remove_late)
    assert client.delete("/v1/uploads/a").json()["removed"]["picture"] == 1
    again = store_of(client).get("a")
    assert again is not None
    assert services.images.fetch(again.image, "a") == b"bytes"


def test_erasing_needs_the_scope(serve: Serve) -> None:
    """A web tier that may enqueue and read may not."""
    client = with_key(serve(), "enqueue", "read")
    assert client.delete("/v1/uploads/a").status_code == 403
    assert client.delete("/v1/uploads", params={"subject": "a"}).status_code == 403


def test_the_console_erases_what_was_confirmed(console: TestClient) -> None:
    """An operator who ticked the box; a moderator has no such form, and is refused."""
    store = store_of(console)
    hold(store, console, "a")
    csrf = sign_in(console, Role.MODERATOR)
    assert "/console/forget" not in console.get("/console/uploads/a").text
    form = {"csrf": csrf, "upload_id": "a", "sure": "yes"}
    assert console.post("/console/forget", data=form).status_code == 403
    form["csrf"] = sign_in(console, Role.OPERATOR)
    assert 'action="/console/forget"' in console.get("/console/uploads/a").text
    assert console.post("/console/forget", data={**form, "sure": ""}).status_code == 422
    assert store.get("a") is not None
    answer = console.post("/console/forget", data=form)
    assert (answer.status_code, "Erased" in answer.text) == (200, True)
    assert store.get("a") is None
    [(_, said)] = store.events.audited(1)
    assert (said["by"], said["action"], said["item"][:1]) == ("operator", "forget", "~")
    assert console.post("/console/forget", data={**form, "upload_id": "a b"}).status_code == 422


def test_workers_that_have_it_in_hand_bring_nothing_back(stack: Stack) -> None:
    """Uploads are erased at every moment of their way; afterwards nothing of them is anywhere."""
    store = connect_store(load_settings(Settings, data_folder=stack.settings.data_folder))
    others = received(stack)
    pictures = [encode(landscape(seed), "PNG") for seed in range(40)]
    ids = [f"erased/{number}" for number in range(len(pictures))]
    with stack.http() as http:
        for upload_id, data in zip(ids, pictures, strict=True):
            files = {"image": ("a", data)}
            http.post("/v1/uploads", data={"upload_id": upload_id}, files=files).raise_for_status()
        for upload_id in ids:
            answer = http.delete(f"/v1/uploads/{upload_id}")
            assert answer.status_code == 200
            assert answer.json()["removed"]["record"] == 1
            time.sleep(0.02)
        wait_until(
            lambda: not store.waiting("moderate")["leased"], 60, "workers have let go of all"
        )
        assert [avatar for avatar in store.get_many(ids) if avatar] == []
        assert {http.get(f"/v1/avatars/{upload_id}").status_code for upload_id in ids} == {404}
    # The workers look again after ten seconds; what is left then is the note to look once more.
    wait_until(
        lambda: all((f := store.forgetting.noted(one)) and f.looks for one in ids),
        60,
        "the workers have looked again",
    )
    named = [
        str(key)
        for key in store.redis.scan_iter(match=f"{store.prefix}*", count=1000)
        if "erased/" in str(key)
    ]
    assert named == []
    ledger = LazyLedger(stack.settings).get()
    assert ledger is not None
    assert [row for row in ledger.stream() if row["upload_id"] in ids] == []
    ledger.engine.dispose()
    assert received(stack) - others == set(), "the pictures of other tests are none of ours"


def received(stack: Stack) -> set[Path]:
    """Pictures that came with uploads."""
    found = stack.settings.data_folder.rglob("received/*/*")
    return {path for path in found if path.is_file()}
