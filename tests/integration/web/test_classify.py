"""POST /classify, pict-rs validation and the whole way with real workers."""

from __future__ import annotations

import httpx
import pytest
from fastapi.testclient import TestClient

from tests.integration.servers import serving
from tests.integration.web.conftest import Serve, Stack, show_worker, store_of, with_key
from worker.demo.pictures import encode, identicon, landscape, png_bomb, transparent_badge

LANDSCAPE = encode(landscape(), "JPEG", quality=90)
GRAY = transparent_badge()


def test_a_harmless_picture_is_classified_through_the_queue(stack: Stack) -> None:
    """The answer has both labels, the likelier first, summing to one, and our verdict."""
    with stack.http() as http:
        answer = http.post("/classify", files={"file": ("x.jpg", LANDSCAPE)})
    assert answer.status_code == 200
    body = answer.json()
    assert [p["label"] for p in body["predictions"]] == ["SFW", "NSFW"]
    assert sum(p["score"] for p in body["predictions"]) == pytest.approx(1)
    assert body["predictions"][1]["score"] == pytest.approx(body["probability"])
    assert (body["state"], body["decided_by"]) == ("approved", "model")


def test_a_classified_picture_leaves_nothing_behind(stack: Stack) -> None:
    """Bytes of a decided classification are deleted and nobody is called back about it."""
    with stack.http() as http:
        body = http.post("/classify", files={"file": ("x.jpg", LANDSCAPE)}).json()
    assert body["upload_id"].startswith("classify/")
    kept = [p for p in (stack.settings.data_folder / "images").rglob("*") if p.is_file()]
    assert not any(p.read_bytes() == LANDSCAPE for p in kept)
    assert all(r.data["upload_id"] != body["upload_id"] for r in stack.receiver.received)


def test_a_gray_picture_is_answered_at_once(stack: Stack) -> None:
    """What only a person can decide is answered with its state, without waiting for them."""
    with stack.http() as http:
        body = http.post("/classify", files={"file": ("x.jpg", GRAY)}).json()
        later = http.get(f"/v1/avatars/{body['upload_id']}").json()["data"]
    assert (body["state"], body["final"]) == ("held", False)
    assert later["state"] == "held"


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 422, "empty"),
        (LANDSCAPE[:2000], 422, "damaged"),
        (png_bomb(), 422, "too_many_pixels"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported"),
    ],
)
def test_unusable_pictures_are_problems(stack: Stack, data: bytes, status: int, code: str) -> None:
    """Damaged, oversized and foreign files are refused with the reason of the record."""
    with stack.http() as http:
        answer = http.post("/classify", files={"file": ("x", data)})
    assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.parametrize(
    ("data", "status"),
    [(LANDSCAPE, 200), (encode(identicon(), "PNG"), 200), (GRAY, 406), (b"no picture", 406)],
)
def test_pict_rs_hears_200_or_406(stack: Stack, data: bytes, status: int) -> None:
    """Raw bytes with the key in the address, as pict-rs sends them, are accepted or refused."""
    url = stack.url.replace("http://", f"http://avatarmod:{stack.api_key}@")
    answer = httpx.post(
        f"{url}/v1/validate",
        content=data,
        headers={"content-type": "image/jpeg"},
        timeout=60,
        trust_env=False,
    )
    assert answer.status_code == status


def test_an_empty_body_is_called_empty(client: TestClient) -> None:
    """Not a damaged picture: there is none; no worker is asked."""
    answer = client.post("/v1/validate", content=b"", headers={"content-type": "image/png"})
    assert (answer.status_code, answer.json()["code"]) == (406, "empty")
    assert "body is empty" in answer.json()["detail"]


def test_without_a_model_the_answer_is_503(client: TestClient) -> None:
    """With no moderate worker alive nothing is enqueued and Retry-After says when to come back."""
    answer = client.post("/classify", files={"file": LANDSCAPE})
    assert (answer.status_code, answer.json()["code"]) == (503, "not_now")
    assert int(answer.headers["retry-after"]) > 0
    assert store_of(client).open_counts()["queued"] == 0


def test_a_silent_model_is_given_up_after_the_deadline(serve: Serve) -> None:
    """A worker that does not answer in time gives 503; the picture waits in the urgent lane."""
    client = with_key(serve(api_classify_deadline_s=0.3))
    store = store_of(client)
    show_worker(store)
    answer = client.post("/classify", files={"file": LANDSCAPE})
    assert (answer.status_code, answer.json()["code"]) == (503, "not_now")
    assert store.redis.zcard(store.key("due", "moderate", "high")) == 1


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [(b"x", "image/png", 415), (b"--x--\r\n", "multipart/form-data; boundary=x", 422)],
)
def test_classify_wants_a_form_with_a_file(
    client: TestClient, content: bytes, kind: str, status: int
) -> None:
    """Anything but a multipart form with `file` is refused before a worker is asked."""
    answer = client.post("/classify", content=content, headers={"content-type": kind})
    assert answer.status_code == status


def test_health_and_readiness(client: TestClient) -> None:
    """Healthz says alive; readyz says why it is not ready, and changes when workers come."""
    del client.headers["x-api-key"]
    assert client.get("/healthz").json() == {"status": "alive"}
    answer = client.get("/readyz")
    assert answer.status_code == 503
    codes = {alarm["code"] for alarm in answer.json()["alarms"]}
    assert codes == {"no_moderate_worker", "no_io_worker"}
    show_worker(store_of(client))
    assert client.get("/readyz").status_code == 200


def test_a_running_instance_is_ready(stack: Stack) -> None:
    """A whole instance reports its bundle and its three kinds of processes."""
    with stack.http() as http:
        body = http.get("/readyz").json()
    assert body["status"] == "ready"
    assert set(body["workers"]) == {"api", "io", "moderate"}
    assert body["bundle"].startswith("open-nsfw")


def test_an_image_address_in_a_private_network_is_not_fetched(
    client: TestClient, stack: Stack
) -> None:
    """The cloud's metadata address is refused at once, and when the worker is led there."""
    inside = "http://169.254.169.254/latest/meta-data/"
    away = serving(inside=lambda request: request.answer(302, location=inside))
    with stack.http() as http, away as server:
        refused = http.post("/v1/uploads", json={"upload_id": "ssrf-1", "image": inside})
        body = {"upload_id": "ssrf-2", "image": f"{server.url}/inside"}
        assert http.post("/v1/uploads", json=body).status_code == 202
        data = http.get("/v1/avatars/ssrf-2?wait=20").json()["data"]
    assert (refused.status_code, refused.json()["code"]) == (422, "private_address")
    assert (data["state"], data["reason"]) == ("rejected", "private_address")
