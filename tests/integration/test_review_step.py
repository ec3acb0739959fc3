"""Who looks at a gray upload sees what the model saw, and an operator's word goes before it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from producer.contract import Avatar, AvatarState, Stage
from producer.decisions import Decisions
from producer.errors import ImageChanged
from producer.images import Images
from producer.metrics import Recorder
from producer.settings import Settings
from producer.store import Store
from tests.support import TOKEN, change, claim, new_upload, places, submit
from worker.outcomes import Outcomes
from worker.pictures import SafePictures
from worker.review.answers import Answer
from worker.tasks import ReviewStep, shown_sha256

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
        outcomes=Outcomes(store, "", Recorder()),
        router=router,
        fetch=lambda _image, _upload_id: data,
        decoder=cast("Any", None),
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
    """Two uploads of one picture wait; blocking the one settles the other, and nobody is paid."""
    send_to_review(store, "one")
    send_to_review(store, "two")
    Decisions(store, lambda _avatar: "").decide("one", "blocked", by="eve")
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
    assert shown_sha256(still) == shown_sha256(new_upload("b", sha256="ab" * 32)) == "ab" * 32
    others = [
        still,
        new_upload("a", sha256="cd" * 32),
        new_upload("a", sha256="ab" * 32, frame=3),
        new_upload("a", sha256="ab" * 32, background="black"),
        new_upload("a", sha256="ab" * 32, frame=3, background="black"),
    ]
    assert len({shown_sha256(one) for one in others}) == 5
