"""After a change of model: only what would be decided anew is touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from producer.contract import AvatarState
from producer.record.store import Store
from tests.integration.ledger.conftest import advance
from tests.support import submit
from worker.model.bundle import Bundle
from worker.moderation.policy import CutOffs, Policy, ViewScore
from worker.moderation.scored import Scored
from worker.settings import WorkerSettings
from worker.tools.rescan import Rescan
from worker.tools.scoring import Scorer

HALF = CutOffs(approve_below=0.4, block_from=0.6)
POLICY = Policy(photo=HALF, drawn=HALF)


@pytest.fixture
def scorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scorer:
    """The picture's bytes are its score."""

    def score(self: Scorer, data: bytes) -> Scored:
        probability = float(data)
        view = ViewScore(
            raw_score=probability, probability=probability, frame=3, background="black"
        )
        return Scored(sha256="a" * 64, views=(view,), drawn=0.0)

    monkeypatch.setattr(Scorer, "score", score)
    settings = WorkerSettings(data_folder=tmp_path)
    return Scorer(settings, Bundle.load("open-nsfw", tmp_path))


def decided(store: Store, upload_id: str, state: AvatarState, by: str) -> None:
    submit(store, upload_id, callback_url="http://127.0.0.1:9/hook")
    fields = {"decided_by": by, "bundle": "old@1", "policy": "old"}
    advance(store, upload_id, state, fields)


def run(store: Store, scorer: Scorer, scores: dict[str, float], *, dry: bool = False) -> Rescan:
    work = Rescan(
        store=store,
        fetch=lambda _image, upload_id: str(scores[upload_id]).encode(),
        scorer=scorer,
        policy=POLICY,
        has_reviewers=lambda _region: True,
        dry_run=dry,
    )
    assert len(list(work.run([*scores, "expired"]))) == len(scores) + 1
    return work


def test_only_what_differs_is_touched(store: Store, scorer: Scorer) -> None:
    """Changed ones are written and told; the others keep their sequence number."""
    decided(store, "same", AvatarState.APPROVED, "model")
    decided(store, "worse", AvatarState.APPROVED, "cache")
    decided(store, "unsure", AvatarState.BLOCKED, "model")
    decided(store, "person", AvatarState.BLOCKED, "operator:eve")
    decided(store, "cloud", AvatarState.APPROVED, "review:tencent")
    scores = {"same": 0.1, "worse": 0.9, "unsure": 0.5, "person": 0.1, "cloud": 0.9}
    dry = run(store, scorer, scores, dry=True)
    assert dry.done.outcomes == {"same": 1, "changed": 2, "not ours": 2, "expired": 1}
    assert store.get("worse").state == AvatarState.APPROVED  # type: ignore[union-attr]

    work = run(store, scorer, scores)
    assert work.done.changes == {("approved", "blocked"): 1, ("blocked", "reviewing"): 1}
    found = {a.upload_id: a for a in store.get_many(list(scores)) if a}
    assert {name: (a.state.value, a.seq) for name, a in found.items()} == {
        "same": ("approved", 2),
        "worse": ("blocked", 3),
        "unsure": ("reviewing", 3),
        "person": ("blocked", 2),
        "cloud": ("approved", 2),
    }
    assert found["worse"].bundle == scorer.bundle.id
    assert store.outbox.get("worse#3") is not None
    assert store.outbox.get("same#3") is None
    assert store.waiting("review")["waiting"] == 1
    assert (found["unsure"].frame, found["unsure"].background) == (3, "black"), "what is reviewed"


def test_what_a_person_said_of_the_content_goes_before_the_new_model(
    store: Store, scorer: Scorer
) -> None:
    """The same bytes under another id were overruled since: that holds for this one too."""
    decided(store, "twin", AvatarState.APPROVED, "model")
    said = {"state": "blocked", "reason": "overruled", "decided_by": "operator:eve"}
    store.redis.set(store.key("overrule", "a" * 64), json.dumps(said))
    work = run(store, scorer, {"twin": 0.1})
    assert work.done.changes == {("approved", "blocked"): 1}
    twin = store.get("twin")
    assert twin is not None
    assert (twin.state, twin.decided_by) == (AvatarState.BLOCKED, "operator:eve")


def test_a_second_run_changes_nothing(store: Store, scorer: Scorer) -> None:
    """What was changed is up to date; what stayed stays."""
    decided(store, "worse", AvatarState.APPROVED, "model")
    run(store, scorer, {"worse": 0.9})
    again = run(store, scorer, {"worse": 0.9})
    assert again.done.outcomes == {"up to date": 1, "expired": 1}
    assert not again.done.changes
