"""What people do to the records of test_record_model.py, and what must hold of it.

Two people, contents that two uploads share, look-alikes, claims, appeals. The model beside is a few
dictionaries; what others follow is said here a second time, as simply as it goes.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from producer.contract import AvatarState, Stage
from producer.errors import InvalidUpload, UnknownUpload
from producer.findings import LooksLike, Seen
from producer.record.claims import Claims
from producer.record.decisions import DECIDABLE, Decisions, NotScored, Outdated, is_scored
from producer.record.store import Store

IDS = ["a", "b", "c", "d"]
#: The same picture under two ids each.
CONTENT = {"a": "ab" * 32, "b": "ab" * 32, "c": "cd" * 32, "d": "cd" * 32}
NAMES = ["ann", "bob"]
UPLOADS, PEOPLE = st.sampled_from(IDS), st.sampled_from(NAMES)
DECIDED = ("approved", "blocked")


@dataclasses.dataclass
class Expected:
    """What the record of one upload must be.

    Attributes:
        by: the person who decided it; empty for a machine.
        before: state and person that an undo brings back; None: it waits then.
        like: the content that it looks like.
        is_appealed: its owner objects and nobody has answered.
        was_appealed: its owner has objected once.
    """

    state: str = "queued"
    seq: int = 1
    died_at: Stage = Stage.MODERATE
    by: str = ""
    before: tuple[str, str] | None = None
    like: str = ""
    is_appealed: bool = False
    was_appealed: bool = False
    history: list[str] = dataclasses.field(default_factory=lambda: ["queued"])

    def becomes(self, state: str, by: str = "") -> None:
        self.state, self.seq, self.by, self.is_appealed = state, self.seq + 1, by, False
        self.history.append(state)


def said_to_look_like(content: str) -> str:
    """As a worker writes it into a record; empty for nothing."""
    like = LooksLike(sha256=content, upload_id="", state="blocked", decided_by="list", distance=9)
    return like.to_json() if content else ""


class People(RuleBasedStateMachine):
    """Rules and invariants of decisions; records are in `store`, what is expected in `model`."""

    store: Store
    decisions: Decisions
    model: dict[str, Expected]

    def __init__(self) -> None:
        super().__init__()
        #: By content: what people say of it, one word a person, the last first: (verdict, person).
        self.words: dict[str, list[tuple[str, str]]] = collections.defaultdict(list)
        self.cleared: dict[str, set[str]] = collections.defaultdict(set)
        self.claimed: dict[str, str] = {}

    def is_overruled(self, upload_id: str, to: str) -> bool:
        """Whether a person said otherwise of a picture than a machine is about to."""
        said = self.store.overruled(CONTENT[upload_id])
        return to in (*DECIDED, "held") and said is not None and said["state"] != to

    def others(self, upload_id: str) -> list[str]:
        """Known uploads with the same picture."""
        same = [one for one in self.model if CONTENT[one] == CONTENT[upload_id]]
        return [one for one in same if one != upload_id]

    # -- decisions -----------------------------------------------------------------------------

    @rule(
        upload_id=UPLOADS,
        verdict=st.sampled_from(DECIDED),
        by=PEOPLE,
        copies=st.booleans(),
        stale=st.integers(0, 3),
    )
    def decide(self, upload_id: str, verdict: Any, by: str, copies: bool, stale: int) -> None:
        """A person decides what still is a picture, and was not changed since they saw it."""
        expected = self.model.get(upload_id)
        known = self.store.get(upload_id)
        seen = Seen() if known is None else Seen(known.seq - (stale == 1), known.sha256)

        def decide() -> Any:
            return self.decisions.decide(upload_id, verdict, by=by, copies=copies, seen=seen)

        refusal: type[Exception] | None = None
        is_same = expected is not None and bool(expected.state == verdict and expected.by)
        # What all copies shall follow is made the last word.
        is_same = is_same and not (copies and self.is_overruled(upload_id, verdict))
        if expected is None or known is None:
            refusal = UnknownUpload
        elif expected.state not in DECIDABLE:
            refusal = InvalidUpload
        elif stale == 1 and not is_same:
            refusal = Outdated
        elif verdict == "approved" and not is_scored(known):
            refusal = NotScored
        if refusal or expected is None:
            with pytest.raises(refusal or UnknownUpload):
                decide()
            return
        done = decide()
        if not is_same:
            self.says(upload_id, verdict, by)
            words = self.words[CONTENT[upload_id]]
            words[:] = [(verdict, by), *(word for word in words if word[1] != by)]
        follow = [
            other
            for other in self.others(upload_id)
            if self.follows(other, verdict, copies=copies, is_new=not is_same)
        ]
        for other in follow:
            e = self.model[other]
            e.before = (e.state, e.by) if e.state in DECIDED else None
            self.says(other, verdict, by)
        self.claimed = {k: v for k, v in self.claimed.items() if (k, v) != (upload_id, by)}
        assert sorted(one.upload_id for one in done.others) == sorted(follow)
        assert (done.avatar.state, done.avatar.seq) == (expected.state, expected.seq)

    def follows(self, other: str, verdict: str, *, copies: bool, is_new: bool) -> bool:
        """Whether an upload with the picture that was decided follows."""
        state = self.model[other].state
        waits = state in ("held", "reviewing")
        return (waits and (is_new or copies)) or (copies and state in DECIDED and state != verdict)

    def says(self, upload_id: str, verdict: str, by: str) -> None:
        """One upload is decided by a person, who thereby says something of its picture."""
        e, content = self.model[upload_id], CONTENT[upload_id]
        e.becomes(verdict, by)
        if e.like:
            cleared = self.cleared[e.like]
            (cleared.add if verdict == "approved" else cleared.discard)(content)

    @rule(upload_id=UPLOADS, by=PEOPLE)
    def undo(self, upload_id: str, by: str) -> None:
        """Only a person's decision can be taken back; what followed it is what it was before."""
        e = self.model.get(upload_id)
        if e is None or not e.by or e.state == "rejected":
            with pytest.raises((UnknownUpload, InvalidUpload)):
                self.decisions.undo(upload_id, by=by)
            return
        taken, content = (e.state, e.by), CONTENT[upload_id]
        done = self.decisions.undo(upload_id, by=by)
        self.takes_back(upload_id, "held", "")
        self.words[content] = [word for word in self.words[content] if word != taken]
        changed = []
        for other in self.others(upload_id):
            o = self.model[other]
            to, who = o.before or ("held", "")
            if (o.state, o.by) == taken and to != o.state:
                self.takes_back(other, to, who)
                changed.append(other)
        self.claimed = {k: v for k, v in self.claimed.items() if (k, v) != (upload_id, by)}
        assert sorted(one.upload_id for one in done.others) == sorted(changed)

    def takes_back(self, upload_id: str, state: str, by: str) -> None:
        """A decision is no more; whether a look-alike is one after all is open again."""
        e = self.model[upload_id]
        e.becomes(state, by)
        e.before = None
        if e.like:
            self.cleared[e.like].discard(CONTENT[upload_id])
            if state == "approved":
                self.cleared[e.like].add(CONTENT[upload_id])

    @rule(upload_id=UPLOADS)
    def appeal(self, upload_id: str) -> None:
        """An owner objects to a block, once; what is remembered of the picture stays."""
        e = self.model.get(upload_id)
        if e is not None and e.state == "held" and e.was_appealed:
            assert self.decisions.appeal(upload_id, "why?").seq == e.seq
            return
        if e is None or e.state != "blocked" or e.was_appealed:
            with pytest.raises((UnknownUpload, InvalidUpload)):
                self.decisions.appeal(upload_id, "why?")
            return
        self.decisions.appeal(upload_id, "why?")
        e.becomes("held")
        e.is_appealed = e.was_appealed = True

    # -- claims --------------------------------------------------------------------------------

    @rule(by=PEOPLE, count=st.integers(1, 3))
    def take(self, by: str, count: int) -> None:
        """A person is given what waits and nobody else has, and no appeals among it."""
        found = Claims(self.store).take(by, AvatarState.HELD, count)
        free = [
            one
            for one in self.store.open_ids(AvatarState.HELD, 0, 99)
            if self.claimed.get(one, by) == by and not self.model[one].is_appealed
        ]
        assert found == free[:count]
        self.claimed |= dict.fromkeys(found, by)

    @rule(by=PEOPLE, upload_ids=st.lists(UPLOADS, unique=True))
    def let_go(self, by: str, upload_ids: list[str]) -> None:
        """Only of what is theirs."""
        Claims(self.store).release(by, upload_ids)
        mine = {one for one in upload_ids if self.claimed.get(one) == by}
        self.claimed = {k: v for k, v in self.claimed.items() if k not in mine}

    # -- what must always hold -----------------------------------------------------------------

    @invariant()
    def decisions_are_whole(self) -> None:
        """Who decided, what is said of the picture, and nothing left that should follow."""
        for upload_id, e in self.model.items():
            avatar = self.store.get(upload_id)
            assert avatar is not None
            who = avatar.decided_by.removeprefix("operator:")
            assert (who if who in NAMES else "") == e.by
        assert self.store.redis.hlen(self.store.keys.settling) == 0
        claims = Claims(self.store).holders(IDS)
        assert claims == self.claimed

    @invariant()
    def people_are_remembered(self) -> None:
        """One entry for each content that a person decided, with what sticks: the last word."""
        expected = {key: words[0] for key, words in self.words.items() if words}
        entries = self.store.memory.all()
        found = {one.key: (one.state, one.by.removeprefix("operator:")) for one in entries}
        assert found == expected
        for key in set(CONTENT.values()):
            said = self.store.overruled(key) or {"state": "", "decided_by": ""}
            word = (said["state"], said["decided_by"].removeprefix("operator:"))
            assert word == expected.get(key, ("", ""))
        for key in set(CONTENT.values()):
            cleared = self.store.redis.smembers(self.store.keys.memory_cleared(key))
            assert cleared == self.cleared[key], key

    @invariant()
    def appeals_wait_in_their_lane(self) -> None:
        """Those that nobody has answered."""
        found = set(self.store.redis.zrange(self.store.keys.appeals, 0, -1))  # type: ignore[arg-type]
        assert found == {one for one, e in self.model.items() if e.is_appealed}
