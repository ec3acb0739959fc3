"""One decision settles a picture: all with these bytes follow, are told, and go back with it."""

from __future__ import annotations

import pytest

from producer.contract import Avatar, AvatarState, Stage
from producer.errors import InvalidUpload, StorageUnavailable
from producer.findings import Seen
from producer.record.claims import Claims
from producer.record.dead_letters import DeadLetter, DeadLetters
from producer.record.decisions import Decisions, Outdated, Why
from producer.record.settling import Job, Settling
from producer.record.store import Store, Transition
from tests.support import CALLBACK_URL, change, claim, events, places, submit

SHA = "ab" * 32
OTHER = "cd" * 32


def get(store: Store, upload_id: str) -> Avatar:
    avatar = store.get(upload_id)
    assert avatar is not None
    return avatar


def put(store: Store, upload_id: str, to: AvatarState, sha256: str = SHA, **fields: str) -> None:
    """An upload of a content in a state, as the model left it."""
    submit(store, upload_id, callback_url=CALLBACK_URL)
    values = {"sha256": sha256, "decided_by": "model", "reason": "clear", **fields}
    enters = Stage.REVIEW if to == AvatarState.REVIEWING else None
    store.advance(
        [change(store, upload_id, to, fields=values, leaves=Stage.MODERATE, enters=enters)]
    )


def states(store: Store, *upload_ids: str) -> list[str]:
    return [str(get(store, one).state) for one in upload_ids]


def told(store: Store, upload_id: str, state: str) -> int:
    """How many callbacks of an upload say this state."""
    avatar = get(store, upload_id)
    items = [f"{upload_id}#{seq}" for seq in range(avatar.seq - 5, avatar.seq + 1)]
    found = [entry for entry in store.outbox.get_many(items) if entry]
    return sum(entry.data["state"] == state for entry in found)


@pytest.fixture
def same(store: Store) -> Store:
    """Of one picture: two held, one with a provider, one approved; and another picture held."""
    for upload_id, state in (
        ("held1", AvatarState.HELD),
        ("held2", AvatarState.HELD),
        ("gray", AvatarState.REVIEWING),
        ("shown", AvatarState.APPROVED),
    ):
        put(store, upload_id, state)
    put(store, "else", AvatarState.HELD, OTHER)
    return store


def test_all_that_wait_with_the_same_picture_follow_and_are_told(same: Store) -> None:
    """Held and with a provider; what is shown, and other pictures, stay as they are."""
    assert dict(Settling(same).counts(SHA, "held1")) == {"held": 1, "reviewing": 1, "approved": 1}
    done = Decisions(same).decide("held1", "blocked", by="ann", why=Why("hate", "again"))
    assert sorted(other.upload_id for other in done.others) == ["gray", "held2"]
    assert states(same, "held1", "held2", "gray", "shown", "else") == [
        "blocked",
        "blocked",
        "blocked",
        "approved",
        "held",
    ]
    assert [told(same, one, "blocked") for one in ("held1", "held2", "gray", "shown")] == [
        1,
        1,
        1,
        0,
    ]
    follower = get(same, "held2")
    assert (follower.decided_by, follower.block_reason, follower.note) == (
        "operator:ann",
        "hate",
        "again",
    )
    assert "review" not in same.due_lines(), "nobody is paid for it any more"
    assert same.base.redis.hlen(same.keys.settling) == 0


def test_copies_that_are_shown_are_settled_when_the_person_says_so(same: Store) -> None:
    """In the same step, or by deciding the same once more."""
    decisions = Decisions(same)
    decisions.decide("held1", "blocked", by="ann")
    done = decisions.decide("held1", "blocked", by="ann", copies=True)
    assert [other.upload_id for other in done.others] == ["shown"]
    assert states(same, "shown", "else") == ["blocked", "held"]
    assert told(same, "shown", "blocked") == 1


def test_a_copy_that_is_audited_is_answered_by_the_decision(same: Store) -> None:
    """As the upload itself would be: an open audit of what a person blocks found it explicit."""
    same.audits.announce(1.0)
    put(same, "drawn", AvatarState.APPROVED, probability="0.01")
    assert get(same, "drawn").audit == "due"
    Decisions(same).decide("held1", "blocked", by="ann", copies=True)
    assert (get(same, "drawn").state, get(same, "drawn").audit) == ("blocked", "explicit")


def test_an_approval_that_waits_for_its_safe_copy_is_left_to_it(same: Store) -> None:
    """An undo that brings an approval back asks for the copy once, and is done."""
    decisions = Decisions(same)
    decisions.decide("held1", "blocked", by="ann", copies=True)
    same.copies.promise(True)
    decisions.undo("held1", by="bob")
    assert get(same, "shown").approval
    assert Settling(same).finish_all() == 0
    assert same.base.redis.hlen(same.keys.settling) == 0


def test_an_undo_takes_all_of_it_back(same: Store) -> None:
    """What waited waits again, what was shown is shown again, and nothing sticks."""
    decisions = Decisions(same)
    decisions.decide("held1", "blocked", by="ann", copies=True)
    done = decisions.undo("held1", by="bob")
    assert len(done.others) == 3
    assert states(same, "held1", "held2", "gray", "shown") == ["held", "held", "held", "approved"]
    shown = get(same, "shown")
    assert (shown.decided_by, shown.reason, shown.block_reason) == ("model", "clear", "")
    assert same.overruled(SHA) is None


def test_what_a_killed_process_left_is_done_by_the_workers(
    same: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decision and what is to follow are one step; the following is repeated until done."""
    decisions = Decisions(same)
    monkeypatch.setattr(decisions.settling, "finish", lambda _sha256: [])
    decisions.decide("held1", "approved", by="ann")
    assert states(same, "held1", "held2") == ["approved", "held"]
    assert same.overruled(SHA) is not None
    assert Settling(same).finish_all() == 2
    assert states(same, "held2", "gray") == ["approved", "approved"]
    assert Settling(same).finish_all() == 0


def test_an_undo_brings_back_what_another_person_had_said(same: Store) -> None:
    """With its reason and note, not only its state."""
    decisions = Decisions(same)
    decisions.decide("shown", "blocked", by="eve", why=Why("hate", "a flag"))
    put(same, "late", AvatarState.BLOCKED)
    decisions.appeal("late", "It is a flag of ours.")
    decisions.decide("late", "approved", by="ann", copies=True)
    assert states(same, "shown", "held1") == ["approved", "approved"]
    decisions.undo("late", by="ann")
    shown = get(same, "shown")
    assert (shown.state, shown.decided_by) == ("blocked", "operator:eve")
    assert (shown.block_reason, shown.note) == ("hate", "a flag")


@pytest.mark.parametrize("copies", [False, True])
def test_what_another_person_had_said_sticks_again(same: Store, copies: bool) -> None:
    """To the bytes and in the memory, once the word that came over it is taken back."""
    decisions = Decisions(same)
    decisions.decide("shown", "blocked", by="eve", why=Why("hate"))
    decisions.decide("held1", "approved", by="ann", copies=copies)
    decisions.undo("held1", by="ann")
    said, entry = same.overruled(SHA), same.memory.get(SHA)
    assert said is not None
    assert entry is not None
    assert (said["state"], said["decided_by"], said["block_reason"]) == (
        "blocked",
        "operator:eve",
        "hate",
    )
    assert "earlier" not in said
    assert (entry.state, entry.by) == ("blocked", "operator:eve")
    decisions.undo("shown", by="ann")
    assert (same.overruled(SHA), same.memory.get(SHA)) == (None, None)


def test_who_takes_an_older_word_back_leaves_the_last_one(same: Store) -> None:
    """Of somebody else, or of the same person: it goes on to stick, and to be remembered."""
    decisions = Decisions(same)
    decisions.decide("held1", "approved", by="ann")
    decisions.decide("shown", "blocked", by="bob")
    decisions.undo("held1", by="ann")
    said, entry = same.overruled(SHA), same.memory.get(SHA)
    assert said is not None
    assert entry is not None
    assert (said["decided_by"], entry.by, entry.upload_id) == ("operator:bob",) * 2 + ("shown",)
    decisions.undo("shown", by="bob")
    assert (same.overruled(SHA), same.memory.get(SHA)) == (None, None)


def test_who_has_not_seen_an_earlier_word_on_the_picture_is_told(
    same: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One decided held1 and was killed; another, with held2 on the screen, decides otherwise."""
    decisions, seen = Decisions(same), Seen(get(same, "held2").seq, SHA)
    with monkeypatch.context() as killed:
        killed.setattr(Settling, "finish", lambda *_: [])
        decisions.decide("held1", "approved", by="ann")
    assert states(same, "held2") == ["held"]
    with pytest.raises(Outdated, match="approved \\(decided by ann\\)"):
        decisions.decide("held2", "blocked", by="bob", seen=seen)
    assert states(same, "held1", "held2", "gray") == ["approved"] * 3
    assert (same.overruled(SHA) or {})["state"] == "approved"


def test_settling_all_copies_makes_it_the_last_word(same: Store) -> None:
    """Where somebody said otherwise in between, later uploads get the word that all others got."""
    decisions = Decisions(same)
    decisions.decide("held1", "approved", by="ann")
    decisions.decide("shown", "blocked", by="bob")
    decisions.decide("held1", "approved", by="ann", copies=True)
    assert states(same, "held1", "shown") == ["approved", "approved"]
    entry = same.memory.get(SHA)
    assert entry is not None
    assert (entry.state, (same.overruled(SHA) or {})["state"]) == ("approved", "approved")


def test_a_word_that_was_overtaken_is_followed_by_nobody(
    same: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One settles all copies; before they are looked for another one says otherwise."""
    decisions = Decisions(same)
    decisions.decide("held1", "blocked", by="ann")
    note = Settling.note

    def note_late(self: Settling, sha256: str, job: Job) -> None:
        monkeypatch.undo()
        decisions.decide("shown", "approved", by="bob", copies=True)
        note(self, sha256, job)

    monkeypatch.setattr(Settling, "note", note_late)
    decisions.decide("held1", "blocked", by="ann", copies=True)
    assert states(same, "held1", "held2", "shown") == ["approved"] * 3
    assert (same.overruled(SHA) or {})["state"] == "approved"
    assert same.base.redis.hlen(same.keys.settling) == 0


@pytest.mark.parametrize("to", [AvatarState.APPROVED, AvatarState.HELD])
def test_a_word_that_comes_while_a_machine_looks_is_obeyed(same: Store, to: AvatarState) -> None:
    """Its verdict is not written; the upload is due again at once, with nothing counted."""
    submit(same, "new")
    [lease] = claim(same)
    late = change(same, "new", to, leaves=Stage.MODERATE, fields={"sha256": SHA})
    Decisions(same).decide("held1", "blocked", by="ann")
    assert not same.advance([late])[0].applied
    assert (get(same, "new").state, places(same, "new")) == ("queued", ["due:normal"])
    assert claim(same) == [lease]
    obeys = {**(same.overruled(SHA) or {}), "sha256": SHA}
    said = change(same, "new", AvatarState(obeys.pop("state")), leaves=Stage.MODERATE, fields=obeys)
    assert same.advance([said])[0].applied
    assert states(same, "new") == ["blocked"]


def test_one_that_a_worker_decided_meanwhile_is_left(same: Store) -> None:
    """A provider's answer that came first stands, unless copies were asked for."""
    stale = change(same, "gray", AvatarState.APPROVED, leaves=Stage.REVIEW)
    assert same.advance([stale])[0].applied
    done = Decisions(same).decide("held1", "blocked", by="ann")
    assert [other.upload_id for other in done.others] == ["held2"]
    assert states(same, "gray") == ["approved"]


def test_lists_of_the_same_picture_forget_what_expired(same: Store) -> None:
    same.base.redis.delete(same.keys.avatar("held2"))
    assert dict(Settling(same).counts(SHA)) == {"held": 1, "reviewing": 1, "approved": 1}
    assert not same.base.redis.sismember(same.keys.same(SHA, "waiting"), "held2")


def test_a_reason_is_of_the_list_and_for_blocks(same: Store) -> None:
    """The error names the value and what would be right."""
    with pytest.raises(InvalidUpload, match="'boring' is not one of nudity"):
        Decisions(same).decide("held1", "blocked", by="ann", why=Why("boring"))
    with pytest.raises(InvalidUpload, match="blocks only"):
        Decisions(same).decide("held1", "approved", by="ann", why=Why("hate"))
    assert states(same, "held1") == ["held"]


class TestAppeals:
    """An owner objects, once; somebody looks again."""

    def test_a_blocked_picture_waits_in_a_lane_of_its_own(self, same: Store) -> None:
        """It is told, keeps what the owner wrote, and leaves the lane with the decision."""
        decisions = Decisions(same)
        decisions.decide("else", "blocked", by="ann", why=Why("nudity"))
        held = decisions.appeal("else", "It is a statue.")
        assert (held.state, held.reason, held.appeal) == ("held", "appealed", "It is a statue.")
        assert held.appealed_from == "operator:ann"
        assert decisions.appeal("else", "again").seq == held.seq, "repeating changes nothing"
        assert (same.appeals_count(), told(same, "else", "held")) == (1, 2)
        claims = Claims(same)
        assert claims.take("bob", "held", 9) == ["held1", "held2"]
        assert claims.take("bob", "appeals", 9) == ["else"]
        decisions.decide("else", "approved", by="bob")
        assert (same.appeals_count(), states(same, "else")) == (0, ["approved"])

    def test_only_a_block_and_only_once(self, same: Store) -> None:
        decisions = Decisions(same)
        with pytest.raises(InvalidUpload, match="held1 is held; only a block"):
            decisions.appeal("held1", "")
        decisions.decide("else", "blocked", by="ann")
        decisions.appeal("else", "")
        decisions.decide("else", "blocked", by="bob")
        with pytest.raises(InvalidUpload, match="that is final"):
            decisions.appeal("else", "")


def test_blocked_pictures_of_a_person_are_counted(store: Store) -> None:
    """In the callback of a block; what is approved after all does not count."""
    for number in range(3):
        submit(store, f"p{number}", subject="ann", callback_url=CALLBACK_URL)
    decisions = Decisions(store)
    for number in range(3):
        avatar = get(store, f"p{number}")
        held = Transition(
            avatar=avatar,
            to=AvatarState.HELD,
            fields={"sha256": f"{number:064x}"},
            leaves=Stage.MODERATE,
        )
        store.advance([held])
        decisions.decide(f"p{number}", "blocked", by="eve")
    assert [get(store, f"p{n}").subject_blocked for n in range(3)] == [1, 2, 3]
    entry = store.outbox.get(f"p2#{get(store, 'p2').seq}")
    assert entry is not None
    assert entry.data["subject_blocked"] == 3
    decisions.undo("p0", by="eve")
    assert store.subjects.counts("ann") == (3, 2)


def test_the_ledger_hears_what_a_decision_was_about(same: Store) -> None:
    """Content, person, reason, and that it followed; not whose, for that may be forgotten."""
    Decisions(same).decide("held1", "blocked", by="ann", why=Why("hate"))
    found = {event["upload_id"]: event for event in events(same) if event["to"] == "blocked"}
    detail = found["held2"]["detail"]
    assert '"follows": "same_picture"' in detail
    assert "held1" not in detail
    assert '"block_reason": "hate"' in detail
    assert f'"sha256": "{SHA}"' in detail


def test_a_replay_takes_nothing_out_of_the_memory(same: Store) -> None:
    """A dead letter with a picture that is blocked goes back to review; the block stays known."""
    put(same, "dies", AvatarState.REVIEWING)
    letter = DeadLetter.of(
        "dies", Stage.REVIEW, StorageUnavailable("no"), attempts=1, first_failed_at=1.0, now=2.0
    )
    dies = change(
        same, "dies", AvatarState.DEAD, leaves=Stage.REVIEW, bury=letter.to_dict(), fields={}
    )
    assert same.advance([dies])[0].applied
    Decisions(same).decide("held1", "blocked", by="ann")
    assert DeadLetters(same).replay("dies", by="bob")
    assert get(same, "dies").state == "reviewing"
    entry = same.memory.get(SHA)
    assert entry is not None
    assert entry.state == "blocked"


def test_the_last_word_on_a_picture_sticks(same: Store) -> None:
    """To repeat an older word, which changes nothing, does not make it the last one."""
    decisions = Decisions(same)
    decisions.decide("held1", "approved", by="ann")
    decisions.decide("held2", "blocked", by="bob")
    decisions.decide("held1", "approved", by="ann")
    entry = same.memory.get(SHA)
    said = same.overruled(SHA)
    assert entry is not None
    assert said is not None
    assert (entry.state, said["state"]) == ("blocked", "blocked")
