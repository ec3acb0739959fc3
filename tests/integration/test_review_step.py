"""One gray upload with the review worker, on a real Valkey; its router must not be asked."""

from __future__ import annotations

import threading
from typing import Any, cast

from producer.contract import AvatarState, Stage
from producer.decisions import Decisions
from producer.metrics import Recorder
from producer.store import Store
from tests.support import TOKEN, change, claim, places, submit
from worker.outcomes import Outcomes
from worker.tasks import ReviewStep

SHA = "a" * 64


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
    step = ReviewStep(
        store=store,
        outcomes=Outcomes(store, "", Recorder()),
        router=cast("Any", None),
        fetch=cast("Any", None),
        decoder=cast("Any", None),
        stop=threading.Event(),
        recorder=Recorder(),
    )
    [lease] = claim(store, Stage.REVIEW)
    step.handle(Stage.REVIEW, lease, TOKEN)
    two = store.get("two")
    assert two is not None
    assert (two.state, two.decided_by) == (AvatarState.BLOCKED, "operator:eve")
    assert places(store, "two", Stage.REVIEW) == []
