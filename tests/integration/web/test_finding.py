"""Finding uploads: thumbnails in every list, a person's pictures, and what a picture looks like."""

from __future__ import annotations

import hashlib
import io

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from producer.client import Producer
from producer.contract import AvatarState
from producer.record.decisions import Decisions, Why
from producer.record.memory import Prints
from producer.record.store import Store
from tests.integration.web.conftest import Serve, decide, store_of
from tests.integration.web.test_console import bury, console, hold, sign_in
from tests.integration.web.test_look_alikes import like_of, text_of
from tests.unit.test_look_alikes import painting
from worker.image import prints
from worker.ledger.writer import Ledger

__all__ = ["console"]

PERSON = "user-4711"


def file_of(image: Image.Image, form: str = "PNG", **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def producer_of(client: TestClient) -> Producer:
    producer: Producer = client.app.state.services.producer  # type: ignore[attr-defined]
    return producer


def upload(
    client: TestClient, upload_id: str, *, subject: str = "", sha256: str = "ab" * 32
) -> None:
    """One that waits for a person."""
    producer_of(client).enqueue(upload_id, subject=subject or None)
    values = {"reason": "no_provider", "sha256": sha256}
    decide(store_of(client), upload_id, AvatarState.HELD, 0.4, **values)


def drain(client: TestClient) -> None:
    """What happened until now is in the ledger."""
    services = client.app.state.services  # type: ignore[attr-defined]
    ledger = Ledger.open(services.settings)
    while ledger.drain(services.store):
        pass
    ledger.close()


def remember(store: Store, upload_id: str, sha256: str, image: Image.Image) -> None:
    """Keep the prints of a decided picture, as the workers do."""
    seen = Prints(hashes=tuple(prints.kept(image)))
    store.memory.put_prints(sha256, seen, upload_id)


def send(client: TestClient, csrf: str, data: bytes) -> str:
    answer = client.post(
        "/console/look-alikes", data={"csrf": csrf}, files={"picture": ("x.png", data)}
    )
    assert answer.status_code == 200, answer.text
    return str(answer.text)


# -- thumbnails --------------------------------------------------------------------------------


def test_every_list_shows_thumbnails_of_what_is_recorded(console: TestClient) -> None:
    """Small, loaded when they come into sight; what has no record asks for no picture."""
    store = store_of(console)
    hold(store, console, "waits")
    bury(store, console, "failed")
    drain(console)
    sign_in(console, "moderator")
    Decisions(store).decide("waits", "blocked", by="moderator")
    console.app.state.console.services.store.events.audit(  # type: ignore[attr-defined]
        by="moderator", action="reset", item="aliyun", outcome="done", address=""
    )
    store.events.audit(by="moderator", action="block", item="waits", outcome="done", address="")
    for place, upload_id in (
        ("uploads", "waits"),
        ("uploads?state=dead", "failed"),
        ("dead-letters", "failed"),
        ("activity", "waits"),
    ):
        page = console.get(f"/console/{place}").text
        image = page.partition(f'src="/console/picture/{upload_id}?size=small"')
        assert image[1], place
        assert 'loading="lazy"' in image[2][:120], place
        assert 'width="44" height="44"' in image[2][:120], place
    assert "/console/picture/aliyun" not in console.get("/console/activity").text
    store.forget_after("waits", 0)
    page = console.get("/console/uploads").text
    assert "waits</span>" in page, "the ledger remembers it"
    assert "/console/picture/waits" not in page


# -- a person ----------------------------------------------------------------------------------


def test_a_person_is_found_by_the_raw_id(console: TestClient) -> None:
    """Hashed as at enqueue: the page and its address name nobody."""
    for number in range(3):
        upload(console, f"mine-{number}", subject=PERSON, sha256=f"{number}" * 64)
    upload(console, "another", subject="somebody-else", sha256="2" * 64)
    Decisions(store_of(console)).decide("mine-1", "blocked", by="ann", why=Why("hate"))
    sign_in(console, "viewer")
    answer = console.get(f"/console/uploads?kind=person&q={PERSON}")
    place = answer.headers["location"]
    assert (answer.status_code, PERSON in place) == (303, False)
    text = text_of(console, place.removeprefix("/console/"))
    assert "Pictures on record 3 " in text
    assert "Blocked 1 " in text
    assert "Hate" in text
    assert "mine-2" in text
    assert "1 other upload has this picture" in text, "with the same content, by somebody else"
    assert "another" not in text
    assert place.rpartition("/")[2] in console.get("/console/uploads/mine-0").text


def test_ids_in_clear_are_found_too(serve: Serve, console: TestClient) -> None:
    """Whatever the setting was when the uploads came."""
    clear = serve(subjects_in_clear=True)
    upload(clear, "clear-1", subject="name with/slash")
    upload(console, "hashed-1", subject="name with/slash")
    sign_in(console, "viewer")
    answer = console.get("/console/uploads?kind=person&q=name with/slash", follow_redirects=True)
    assert "hashed-1" in answer.text
    answer = console.get("/console/uploads/clear-1")
    assert 'href="/console/people/name%20with/slash"' in answer.text
    assert "clear-1" in console.get("/console/people/name%20with/slash").text


def test_nobody_is_found_in_words(console: TestClient) -> None:
    sign_in(console, "viewer")
    for place in ("uploads?kind=person&q=nobody", "people/nobody"):
        answer = console.get(f"/console/{place}")
        assert answer.status_code == 404
        assert "No recorded upload is of this person" in answer.text


def test_a_persons_look_alikes_stand_beside_their_pictures(console: TestClient) -> None:
    store = store_of(console)
    hold(store, console, "earlier", sha256="cd" * 32)
    Decisions(store).decide("earlier", "blocked", by="ann")
    producer_of(console).enqueue("mine", subject=PERSON)
    like = like_of("earlier", "cd" * 32, 9)
    values = {"reason": "looks_like_blocked", "looks_like": like.to_json(), "sha256": "ee" * 32}
    decide(store, "mine", AvatarState.HELD, 0.4, **values)
    sign_in(console, "viewer")
    name = store.subjects.name_of(PERSON)
    page = console.get(f"/console/people/{name}").text
    assert "/console/picture/earlier?size=small" in page


# -- words and reasons -------------------------------------------------------------------------


def test_uploads_are_found_by_reason(console: TestClient) -> None:
    """A code of the record, or what a person blocked for; the next page keeps the filter."""
    store = store_of(console)
    for number in range(28):
        hold(store, console, f"hate-{number:02d}", sha256=f"{number:064x}")
        Decisions(store).decide(f"hate-{number:02d}", "blocked", by="ann", why=Why("hate"))
    hold(store, console, "waits", sha256="aa" * 32)
    hold(store, console, "nudity", sha256="bb" * 32)
    Decisions(store).decide("nudity", "blocked", by="ann", why=Why("nudity"))
    drain(console)
    sign_in(console, "viewer")
    page = console.get("/console/uploads?reason=hate").text
    assert "hate-27" in page
    assert "nudity</span>" not in page
    assert "reason=hate&amp;before=" in page
    page = console.get("/console/uploads?reason=no_provider").text
    assert "waits</span>" in page
    assert "hate-27" not in page
    page = console.get("/console/uploads?reason=no_provider&q=wa").text
    assert "waits</span>" in page
    assert "waits</span>" in console.get("/console/uploads?reason=%27%20or%201=1").text


# -- what looks like it ------------------------------------------------------------------------


@pytest.fixture
def known(console: TestClient) -> TestClient:
    """One painting that was blocked and one that was approved, both with prints."""
    store = store_of(console)
    for upload_id, sha256, verdict, seed in (
        ("bad", "ab" * 32, "blocked", 1),
        ("good", "cd" * 32, "approved", 2),
    ):
        hold(store, console, upload_id, sha256=sha256)
        Decisions(store).decide(upload_id, verdict, by="ann")  # type: ignore[arg-type]
        remember(store, upload_id, sha256, painting(seed))
    return console


def test_a_picture_is_looked_up_by_what_it_shows(known: TestClient) -> None:
    """In another file and size; approved ones too, and only what looks like it."""
    csrf = sign_in(known, "viewer")
    page = send(known, csrf, file_of(painting(1).resize((200, 150)), "JPEG", quality=60))
    assert "/console/uploads/bad" in page
    assert "/console/uploads/good" not in page
    assert "Difference" in page
    assert "is not kept" in page
    assert "/console/uploads/good" in send(known, csrf, file_of(painting(2), "WEBP"))
    assert "Nothing found" in send(known, csrf, file_of(painting(3)))


def test_uploads_with_the_very_file_are_named(known: TestClient) -> None:
    """Whatever was decided, and though nothing was ever printed."""
    data = file_of(painting(4))
    upload(known, "plain", sha256=hashlib.sha256(data).hexdigest())
    csrf = sign_in(known, "viewer")
    assert "/console/uploads/plain" in send(known, csrf, data)


def test_a_hash_is_looked_for_as_both_kinds(known: TestClient) -> None:
    """A SHA-256 of an upload, else a perceptual hash near a remembered one."""
    store = store_of(known)
    drain(known)
    sign_in(known, "viewer")
    assert "bad</span>" in known.get("/console/uploads?q=" + "AB" * 32).text
    entry = store.memory.get("ab" * 32)
    assert entry is not None
    digest = bytearray(entry.prints.hashes[0])
    digest[5] ^= 0b111
    answer = known.get(f"/console/uploads?q={digest.hex()}")
    assert answer.headers["location"] == f"/console/look-alikes?hash={digest.hex()}"
    page = known.get(answer.headers["location"]).text
    assert "/console/uploads/bad" in page
    assert "3 of 256 bits" in page
    assert known.get("/console/look-alikes?hash=xyz").status_code == 422


def test_what_is_sent_is_bounded_and_checked(serve: Serve, console: TestClient) -> None:
    """Rubbish, nothing, too much, another charset, no token, nobody."""
    csrf = sign_in(console, "viewer")
    form = {"csrf": csrf}

    def post(data: object = form, **options: object) -> int:
        answer = console.post("/console/look-alikes", data=data, **options)  # type: ignore[arg-type]
        return int(answer.status_code)

    assert post(files={"picture": ("x", b"no picture at all")}) == 422
    assert post(files={"picture": ("x", b"")}) == 422
    assert post() == 422, "an empty, URL-encoded form"
    assert post(files={"picture": ("x", b"\xff\xd8" + bytes(11 * 2**20))}) == 413
    assert post(files={"picture": ("x", bytes(40 * 2**20))}) == 413
    assert post(data={}, files={"picture": ("x", b"x")}) == 403, "no token"
    odd = {"content-type": "multipart/form-data; boundary=x; charset=punycode"}
    assert post(data=None, content=b"--x--", headers=odd) == 415
    files = [("picture", ("a", b"1")), ("picture", ("b", b"2"))]
    assert post(files=files) == 400, "one picture"
    console.cookies.clear()
    assert post(files={"picture": ("x", b"x")}) == 401


def test_other_forms_stay_small(console: TestClient) -> None:
    """The exception is one path, with a slash at its end or without, and no path below it."""
    csrf = sign_in(console, "moderator")
    for place, status in (("decide", 413), ("look-alikes/", 422), ("look-alikes/x", 413)):
        files = {"picture": ("x", bytes(100_000))}
        answer = console.post(f"/console/{place}", data={"csrf": csrf}, files=files)
        assert answer.status_code == status, place
