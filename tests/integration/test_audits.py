"""Clear approvals drawn at random are looked at once more, and what comes of it is a fair label."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from typing import Any

import pytest
import redis

from producer.contract import AUDIT_EXPLICIT, Avatar, AvatarState, Stage
from producer.errors import ImageMissing, InvalidUpload, StorageUnavailable
from producer.findings import Decision, Opinion
from producer.metrics import Recorder
from producer.record.audits import place_of
from producer.record.decisions import Decisions, Outdated
from producer.record.store import Store
from tests.support import TOKEN, change, claim, events, places, submit
from worker.ledger.rows import to_row
from worker.outcomes import Outcomes
from worker.retry import MAX_CRASHES
from worker.review.answers import Answer, Answered, Approve, GiveUp, Hold, Wait
from worker.review.audit import AuditStep

DATA = b"a picture"
SHA = "c5d2d4b2b2f6dd9b02e7c0c8c3dcbd5a5a1a0c7d0f8a7f2f6c5ff1b8f0f0f0f0"


class Says:
    """A router with one answer, or one error, for everything."""

    def __init__(self, answer: Answer | Exception) -> None:
        self.answer = answer
        self.asked: list[dict[str, Any]] = []

    def review(self, **question: Any) -> Answer:
        """As told."""
        self.asked.append(question)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def said(decision: Decision) -> Answered:
    """A provider's answer."""
    return Answered(opinion=Opinion(provider="tencent", decision=decision), tried=())


def step(store: Store, router: Any) -> AuditStep:
    """An io worker's step."""
    return AuditStep(
        store=store,
        outcomes=Outcomes(store, Recorder()),
        router=router,
        fetch=lambda _image, _upload_id: DATA,
        normalise=lambda data, _avatar: data,
        stop=threading.Event(),
        recorder=Recorder(),
    )


def approve(store: Store, upload_id: str = "a", **fields: str) -> Avatar:
    """An upload that the model approved."""
    submit(store, upload_id, callback_url="http://web.example/verdict")
    known = {"sha256": SHA, "decided_by": "model", "probability": "0.02", "style": "photo"}
    store.advance(
        [
            change(
                store,
                upload_id,
                AvatarState.APPROVED,
                leaves=Stage.MODERATE,
                fields={**known, **fields},
            )
        ]
    )
    return get(store, upload_id)


def get(store: Store, upload_id: str = "a") -> Avatar:
    """Its record."""
    avatar = store.get(upload_id)
    assert avatar is not None
    return avatar


def audit(store: Store, router: Any) -> None:
    """Work on all audits that are due."""
    for lease in claim(store, Stage.AUDIT):
        step(store, router).handle(Stage.AUDIT, lease, TOKEN)


def labels(store: Store) -> list[dict[str, Any]]:
    """What the ledger is told of audits."""
    return [to_row("n", "1-0", one) for one in events(store) if one["kind"] == "label"]


@pytest.fixture
def audited(store: Store) -> Store:
    """A store in which every clear approval is audited."""
    store.audits.announce(1.0)
    return store


def test_a_share_of_the_approvals_is_drawn_by_a_hash_with_a_secret_key(
    redis_server: redis.Redis, store: Store
) -> None:
    """All processes draw the same ones, and ids do not tell which without the key."""
    store.audits.announce(0.25)
    store.audits.announce(0.25)
    ids = [f"avatar-{number}" for number in range(2000)]
    drawn = {one for one in ids if store.audits.draws(one)}
    other_process = Store(redis_server, store.prefix.strip("{}:"))
    assert drawn == {one for one in ids if other_process.audits.draws(one)}
    assert 500 - 4 * 19.4 < len(drawn) < 500 + 4 * 19.4
    other_key = {one for one in ids if place_of(b"another key", one) < 0.25}
    assert len(drawn & other_key) < 200


def test_without_a_share_nothing_is_drawn(store: Store) -> None:
    """The default: approvals are final."""
    approve(store, "before")
    store.audits.announce(0.0)
    approve(store)
    assert (get(store, "before").audit, get(store).audit) == ("", "")
    assert claim(store, Stage.AUDIT) == []


def test_a_redis_that_lost_its_data_is_told_the_share_again(audited: Store) -> None:
    """Workers look for it with every sign of life; until then nothing is drawn."""
    assert audited.audits.is_announced()
    audited.redis.delete(audited.key("audits", "draw"))
    assert not audited.audits.is_announced()


def test_only_clear_approvals_of_machines_are_drawn(audited: Store) -> None:
    """What a provider or a person has seen needs no second look."""
    approve(audited, "cached", decided_by="cache")
    approve(audited, "flat", decided_by="rule")
    approve(audited, "sticky", decided_by="operator:eve")
    for upload_id, to in (("gray", AvatarState.REVIEWING), ("blocked", AvatarState.BLOCKED)):
        submit(audited, upload_id)
        audited.advance([change(audited, upload_id, to, leaves=Stage.MODERATE)])
    audited.advance([change(audited, "gray", AvatarState.APPROVED, leaves=Stage.REVIEW)])
    submit(audited, "person")
    held = change(audited, "person", AvatarState.HELD, leaves=Stage.MODERATE)
    audited.advance([held])
    Decisions(audited).decide("person", "approved", by="eve")
    due = {lease.item for lease in claim(audited, Stage.AUDIT)}
    assert due == {"cached", "flat"}


def test_a_harmless_one_changes_nothing_but_the_sample(audited: Store) -> None:
    """The approval stands, the web tier hears nothing new, the ledger has one label."""
    before = approve(audited)
    callbacks = len([one for one in events(audited) if one["kind"] == "transition"])
    router = Says(said(Decision.APPROVE))
    audit(audited, router)
    after = get(audited)
    assert (after.state, after.seq, after.audit) == (AvatarState.APPROVED, before.seq, "harmless")
    assert router.asked[0]["is_audit"] is True
    [label] = labels(audited)
    assert (label["to_state"], label["decided_by"]) == ("harmless", "review:tencent")
    assert (label["probability"], label["style"], label["sha256"]) == (0.02, "photo", SHA)
    assert len([one for one in events(audited) if one["kind"] == "transition"]) == callbacks
    assert places(audited, "a", Stage.AUDIT) == []


def test_an_explicit_one_is_held_and_the_web_tier_is_told(audited: Store) -> None:
    """In one step: no label without its hold; the same file is not approved again from memory."""
    approve(audited)
    audit(audited, Says(said(Decision.BLOCK)))
    held = get(audited)
    assert (held.state, held.reason, held.audit) == (AvatarState.HELD, AUDIT_EXPLICIT, "explicit")
    entry = audited.outbox.get_many([f"a#{held.seq}"])[0]
    assert entry is not None
    told = json.loads(audited.redis.hget(audited.key("callback", f"a#{held.seq}"), "data"))
    assert told["state"] == "held"
    assert not any("audit" in name for name in told)
    assert [one["to_state"] for one in labels(audited)] == ["explicit"]
    assert audited.audits.found_since(0) == 1
    assert audited.known(SHA, "pair", "views") == {"state": "gray", "reason": AUDIT_EXPLICIT}
    Decisions(audited).decide("a", "approved", by="eve")
    again = audited.known(SHA, "pair", "views")
    assert again is not None
    assert again["decided_by"] == "operator:eve"


def test_an_audit_is_answered_once(audited: Store) -> None:
    """Two workers with the same audit, as after a frozen process, leave one label."""
    approve(audited)
    [lease] = claim(audited, Stage.AUDIT)
    late = get(audited)
    step(audited, Says(said(Decision.BLOCK))).handle(Stage.AUDIT, lease, TOKEN)
    assert not audited.audits.end(late, "harmless", {})
    step(audited, Says(said(Decision.APPROVE))).handle(Stage.AUDIT, lease, "another")
    assert [one["to_state"] for one in labels(audited)] == ["explicit"]


def test_an_audit_of_what_changed_meanwhile_is_looked_at_anew(audited: Store) -> None:
    """No label of what is not so any more; the audit goes on with the record as it stands."""
    approve(audited)
    [lease] = claim(audited, Stage.AUDIT)
    router = Says(said(Decision.APPROVE))
    ask = router.review

    def change_and_ask(*arguments: Any, **options: Any) -> Any:
        fields = {"reason": "clear", "probability": "0.04"}
        audited.advance([change(audited, "a", AvatarState.APPROVED, fields=fields)])
        return ask(*arguments, **options)

    router.review = change_and_ask  # type: ignore[method-assign]
    step(audited, router).handle(Stage.AUDIT, lease, TOKEN)
    assert (labels(audited), get(audited).audit) == ([], "due")
    assert places(audited, "a", Stage.AUDIT) == ["due:normal"]
    router.review = ask  # type: ignore[method-assign]
    time.sleep(1.1)
    audit(audited, router)
    [label] = labels(audited)
    assert label["probability"] == 0.04


def test_an_upload_is_drawn_once(audited: Store) -> None:
    """What is looked at anew after its audit is not drawn a second time."""
    approve(audited)
    audit(audited, Says(said(Decision.APPROVE)))
    audited.advance([change(audited, "a", AvatarState.QUEUED, enters=Stage.MODERATE)])
    audited.advance([change(audited, "a", AvatarState.APPROVED, leaves=Stage.MODERATE)])
    assert claim(audited, Stage.AUDIT) == []
    assert len(labels(audited)) == 1


@pytest.mark.parametrize(
    "answer",
    [
        Hold(reason="no_provider", detail="", tried=()),
        Hold(reason="provider_uncertain", detail="", tried=()),
        GiveUp(error=StorageUnavailable("away"), tried=()),
        Approve(reason="budget_spent_approve_below", detail="", tried=()),
    ],
)
def test_what_no_provider_answers_a_person_does(audited: Store, answer: Answer) -> None:
    """Without withdrawing the approval."""
    approve(audited)
    audit(audited, Says(answer))
    assert (get(audited).state, get(audited).audit) == (AvatarState.APPROVED, "person")
    assert (audited.open_ids("audits", 0, 10), labels(audited)) == (["a"], [])
    Decisions(audited).audit("a", "harmless", by="eve")
    assert get(audited).audit == "harmless"
    assert audited.audits.count() == 0
    [label] = labels(audited)
    assert (label["to_state"], label["tier"]) == ("harmless", "operator")


def test_a_person_who_finds_it_explicit_holds_it(audited: Store) -> None:
    """And cannot answer twice."""
    approve(audited)
    audit(audited, Says(Hold(reason="no_provider", detail="", tried=())))
    held = Decisions(audited).audit("a", "explicit", by="eve")
    assert (held.state, held.audit) == (AvatarState.HELD, "explicit")
    assert audited.audits.count() == 0
    with pytest.raises(InvalidUpload):
        Decisions(audited).audit("a", "harmless", by="eve")
    assert len(labels(audited)) == 1


@pytest.mark.parametrize(("verdict", "label"), [("approved", "harmless"), ("blocked", "explicit")])
def test_a_decision_elsewhere_answers_the_audit(audited: Store, verdict: Any, label: str) -> None:
    """A person who overrules a drawn approval has looked at it; nobody is asked again."""
    approve(audited)
    Decisions(audited).decide("a", verdict, by="eve")
    audit(audited, Says(RuntimeError("nobody is to be asked")))
    assert [one["to_state"] for one in labels(audited)] == [label]
    assert get(audited).state == verdict


@pytest.mark.parametrize(("first", "second"), [("harmless", "explicit"), ("explicit", "harmless")])
def test_two_people_do_not_answer_differently_unnoticed(
    audited: Store, monkeypatch: pytest.MonkeyPatch, first: Any, second: Any
) -> None:
    """In the same moment: the later one is told; to agree is no conflict; a doubt holds it."""
    approve(audited)
    get = audited.get

    def get_late(upload_id: str) -> Avatar | None:
        avatar = get(upload_id)
        monkeypatch.undo()
        Decisions(audited).audit(upload_id, first, by="ann")
        return avatar

    monkeypatch.setattr(audited, "get", get_late)
    with pytest.raises(Outdated, match=f"audit stands at {first}"):
        Decisions(audited).audit("a", second, by="bob")
    after = audited.get("a")
    assert after is not None
    assert (after.state, after.audit) == ("held", first)


def test_a_spent_budget_leaves_it_unanswered(audited: Store) -> None:
    """Audits do not pile up; whether money was left says nothing about a picture."""
    approve(audited)
    audit(audited, Says(Hold(reason="budget_spent", detail="", tried=())))
    assert (get(audited).state, get(audited).audit) == (AvatarState.APPROVED, "unanswered")
    assert [one["reason"] for one in labels(audited)] == ["budget_spent"]


def test_no_error_of_an_audit_touches_the_approval(audited: Store) -> None:
    """A store that is away is tried again; a picture that is gone leaves no answer."""
    approve(audited)
    audit(audited, Says(StorageUnavailable("away")))
    assert (places(audited, "a", Stage.AUDIT), get(audited).attempts) == (["due:normal"], 1)
    audited.redis.zadd(audited.key("due", "audit", "normal"), {"a": 1.0})
    audit(audited, Says(ImageMissing("gone")))
    after = get(audited)
    assert (after.state, after.audit, after.attempts) == (AvatarState.APPROVED, "unanswered", 0)
    assert [one["reason"] for one in labels(audited)] == ["missing"]


def test_one_that_kills_its_workers_is_left_alone(audited: Store) -> None:
    """After three deaths it is unanswered, and still approved."""
    approve(audited)
    for _ in range(MAX_CRASHES):
        claim(audited, Stage.AUDIT, lease_s=0.0, token="dead")
    audit(audited, Says(RuntimeError("must not be asked")))
    assert (get(audited).state, get(audited).audit) == (AvatarState.APPROVED, "unanswered")


def test_what_an_operator_said_of_the_content_is_the_answer(audited: Store) -> None:
    """A blocked twin labels the approval, and nobody is paid."""
    approve(audited)
    submit(audited, "twin")
    audited.advance([change(audited, "twin", AvatarState.HELD, fields={"sha256": SHA})])
    Decisions(audited).decide("twin", "blocked", by="eve")
    audit(audited, Says(RuntimeError("nobody is to be asked")))
    assert (get(audited).state, get(audited).audit) == (AvatarState.HELD, "explicit")


def test_gray_uploads_go_first(audited: Store) -> None:
    """While one is due, no audit is taken."""
    approve(audited)
    waiting = step(audited, Says(said(Decision.APPROVE)))
    assert waiting.may_run()
    submit(audited, "gray")
    gray = change(audited, "gray", AvatarState.REVIEWING, enters=Stage.REVIEW)
    audited.advance([gray])
    assert not waiting.may_run()


def test_one_that_waits_for_a_provider_comes_back(audited: Store) -> None:
    """What was tried is remembered while it waits, and forgotten with the answer."""
    approve(audited)
    audit(audited, Says(Wait(delay_s=0.0, why="retry", tried=("tencent:failed",))))
    assert get(audited).tried == "tencent:failed"
    router = Says(said(Decision.APPROVE))
    audit(audited, router)
    assert router.asked[0]["tried"] == ["tencent:failed"]
    assert get(audited).tried == ""


def test_an_approval_that_waits_for_its_safe_copy_is_drawn_when_it_is_one(audited: Store) -> None:
    """And only then."""
    audited.copies.promise(True)
    approve(audited)
    assert claim(audited, Stage.AUDIT) == []
    approval = audited.approval_of(get(audited))
    assert approval is not None
    audited.advance([approval])
    assert get(audited).audit == "due"


def test_gone_records_leave_the_list_of_people(audited: Store) -> None:
    """What retention took cannot be looked at."""
    for upload_id in "ab":
        approve(audited, upload_id)
    audit(audited, Says(Hold(reason="no_provider", detail="", tried=())))
    audited.redis.delete(audited.key("avatar", "a"))
    audited.audits.drop_expired()
    assert audited.open_ids("audits", 0, 10) == ["b"]
    assert Counter(map(str, audited.all_open_ids())) == Counter()
