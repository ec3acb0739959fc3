"""Who looks at a gray upload sees what the model saw, and an operator's word goes before it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from producer.contract import Avatar, AvatarState, Stage
from producer.errors import ImageChanged, StorageUnavailable
from producer.images import Images
from producer.metrics import Recorder
from producer.record.decisions import Decisions
from producer.record.store import Store
from producer.settings import Settings
from tests.support import TOKEN, change, claim, new_upload, places, submit
from worker.image.preview import SafePictures
from worker.outcomes import Outcomes
from worker.review.answers import Answer, Wait
from worker.review.step import ReviewStep

SHA = "a" * 64


class Asking:
    """A router that wants to see the picture."""

    def review(self, *, jpeg: Callable[[], bytes], **_: object) -> Answer:
        """Never gets as far as an answer here."""
        jpeg()
        raise AssertionError("it saw a picture that was never scored")


def step(store: Store, router: Any, data: bytes = b"") -> ReviewStep:
    """A review worker's step that fetches these bytes."""
    return ReviewStep(
        store=store,
        outcomes=Outcomes(store, Recorder()),
        router=router,
        fetch=lambda _image, _upload_id: data,
        normalise=lambda data, _avatar: data,
        stop=threading.Event(),
        recorder=Recorder(),
    )


def send_to_review(store: Store, upload_id: str) -> None:
    """An upload that the model found gray."""
    submit(store, upload_id)
    options: dict[str, Any] = {"leaves": Stage.MODERATE, "enters": Stage.REVIEW}
    store.advance(
        [change(store, upload_id, AvatarState.REVIEWING, fields={"sha256": SHA}, **options)]
    )


def test_what_an_operator_said_meanwhile_of_the_same_content_holds(store: Store) -> None:
    """One that comes to review after its twin was blocked is settled, and nobody is paid."""
    send_to_review(store, "one")
    Decisions(store).decide("one", "blocked", by="eve")
    send_to_review(store, "two")
    [lease] = claim(store, Stage.REVIEW)
    step(store, None).handle(Stage.REVIEW, lease, TOKEN)
    two = store.get("two")
    assert two is not None
    assert (two.state, two.decided_by) == (AvatarState.BLOCKED, "operator:eve")
    assert places(store, "two", Stage.REVIEW) == []


def test_a_provider_never_sees_another_picture_than_the_model_did(store: Store) -> None:
    """An address that serves a harmless picture the second time must not buy an approval."""
    send_to_review(store, "bait")
    [lease] = claim(store, Stage.REVIEW)
    step(store, Asking(), b"harmless").handle(Stage.REVIEW, lease, TOKEN)
    bait = store.get("bait")
    assert bait is not None
    assert (bait.state, bait.reason) == (AvatarState.REJECTED, "changed")


def test_a_person_never_sees_another_picture_than_the_model_did(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What an operator approves is the content that was scored, not what lies there now."""
    images = Images(Settings(image_folder=str(tmp_path)))
    monkeypatch.setattr(images, "fetch", lambda _image, _upload_id: b"harmless")
    avatar = Avatar(upload_id="bait", state=AvatarState.HELD, seq=2, sha256=SHA)
    with pytest.raises(ImageChanged):
        SafePictures(images, {}).safe_jpeg(avatar)


def test_an_opinion_is_reused_only_for_what_was_shown() -> None:
    """The same content is the same question; another frame or background of it is another."""
    still = new_upload("a", sha256="ab" * 32)
    assert still.shown_sha256 == new_upload("b", sha256="ab" * 32).shown_sha256 == "ab" * 32
    others = [
        still,
        new_upload("a", sha256="cd" * 32),
        new_upload("a", sha256="ab" * 32, frame=3),
        new_upload("a", sha256="ab" * 32, background="black"),
        new_upload("a", sha256="ab" * 32, frame=3, background="black"),
    ]
    assert len({one.shown_sha256 for one in others}) == 5


class Waiting:
    """A router whose providers are all busy."""

    def review(self, **_: object) -> Answer:
        return Wait(tried=(), opinions=(), delay_s=0.0, why="busy", detail="")


class Blinking(Waiting):
    """One whose store of opinions is away for a moment."""

    def review(self, **_: object) -> Answer:
        raise StorageUnavailable("no answer")


def test_waiting_for_a_provider_uses_up_no_other_patience(store: Store) -> None:
    """The policy says how long to wait; a blink of the store is the first of its kind."""
    send_to_review(store, "gray")
    waiting = Waiting()
    for router in (*[waiting] * 6, Blinking(), waiting):
        [lease] = claim(store, Stage.REVIEW)
        step(store, router).handle(Stage.REVIEW, lease, TOKEN)
        store.redis.zadd(store.key("due", "review", "normal"), {"gray": 1.0})
    gray = store.get("gray")
    assert gray is not None
    assert (gray.state, gray.failures) == (AvatarState.REVIEWING, "storage_unavailable=1")
