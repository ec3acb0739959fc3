"""One decision settles a picture: what follows for all other uploads with the same bytes.

Which uploads these are is indexed with each transition. What is to follow is noted in the step that
makes the decision, and done by whoever decided; what a killed process left is done by the workers.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal, cast

from producer.contract import UNDONE, Avatar, AvatarState
from producer.fields import known_fields
from producer.record.audits import OPEN, Label
from producer.record.store import Store, Transition
from producer.record.transitions import STAGE_OF

#: Fields of a record that tell a person's decision, when there is none any more.
NOTHING_SAID = {"decided_by": "", "block_reason": "", "note": "", "decided_on": ""}

#: Uploads that are read, and changed, in one round trip.
PAGE = 200

#: Uploads that whoever decides settles at once; the workers do the rest.
AT_ONCE = 2000

#: How often uploads are read again that changed at the same moment.
TRIES = 3

#: What a decision says of the picture.
Word = Literal["approved", "blocked", "undo"]

#: States of a scored picture that somebody has to decide about.
WAITING = frozenset({AvatarState.HELD, AvatarState.REVIEWING})

#: What a person's decision says of an approval that is being audited.
LABEL_OF: dict[AvatarState, Label] = {
    AvatarState.APPROVED: "harmless",
    AvatarState.BLOCKED: "explicit",
}


#: What the ledger shall know of the picture that a person's word is about.
SAID = ("sha256", "probability", "raw_score", "style", "bundle", "policy")


def word_of(
    person: str, avatar: Avatar, to: AvatarState, fields: dict[str, str], **detail: str
) -> Transition:
    """The change that a person's word makes to one upload.

    Args:
        person: who; empty where it is none of ours, such as an owner who objects.
        avatar: the record as it was read.
        to: the new state.
        fields: record fields to set.
        detail: for the ledger, beside the fields, the content and what the model said of it.
    """
    content = {name: value for name in SAID if (value := getattr(avatar, name)) not in ("", None)}
    said = {name: value for name, value in fields.items() if name != "before"}
    return Transition(
        avatar=avatar,
        to=to,
        fields=fields,
        leaves=STAGE_OF.get(avatar.state),
        by=person,
        detail={**content, **detail, **said},
        unbury=avatar.state == AvatarState.DEAD,
        audit=LABEL_OF.get(to, "") if avatar.audit in OPEN else "",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What others with the same content follow.

    Args:
        word: the decision.
        by: the person.
        fields: record fields that come with it; of an undo, the decision that is taken back.
        copies: also those that are decided otherwise by now.
    """

    word: Word
    by: str
    fields: dict[str, str] = dataclasses.field(default_factory=dict)
    copies: bool = False

    def settles(self) -> dict[str, Any]:
        """For `Transition.settles`: the word on the content, and this."""
        found = {"job": json.dumps(dataclasses.asdict(self))}
        return found if self.word == "undo" else {**found, "sticky": json.dumps(self.sticky())}

    def sticky(self) -> dict[str, str]:
        """What is said of the content from now on: of later uploads, too."""
        return {"state": self.word, **{name: text for name, text in self.fields.items() if text}}

    def change_of(self, avatar: Avatar) -> Transition | None:
        """What follows for one upload with the same content; None for nothing."""
        is_decided = avatar.state in (AvatarState.APPROVED, AvatarState.BLOCKED)
        if self.word == "undo":
            # Not what somebody else had decided, and this undo has just brought back.
            follows = is_decided and self.fields == _decision_of(avatar)
            to, fields = self._back(avatar)
        else:
            follows = avatar.state in WAITING or (self.copies and is_decided)
            to, fields = AvatarState(self.word), {**self.fields, "before": _as_it_is(avatar)}
        # An approval that waits for its safe copy comes by itself.
        waits = avatar.approval and to == AvatarState.APPROVED
        if not follows or waits or avatar.state == to:
            return None
        return word_of(self.by, avatar, to, fields, follows="same_picture")

    def _back(self, avatar: Avatar) -> tuple[AvatarState, dict[str, str]]:
        """What it was before a decision, and the fields of that."""
        before = json.loads(avatar.before or "{}")
        to = AvatarState(before.pop("state", AvatarState.HELD))
        return to, {**NOTHING_SAID, "reason": UNDONE, **before, "before": ""}


def undo_of(avatar: Avatar, by: str) -> Job:
    """What others follow when a person's decision about an upload is taken back."""
    return Job(word="undo", by=by, fields=_decision_of(avatar))


def _decision_of(avatar: Avatar) -> dict[str, str]:
    return {"state": str(avatar.state), "decided_by": avatar.decided_by}


def _as_it_is(avatar: Avatar) -> str:
    """What an undo brings back; nothing of an upload that waits, which then waits again."""
    if avatar.state in WAITING:
        return ""
    known = avatar.to_hash()
    names = ("state", "reason", *NOTHING_SAID)
    return json.dumps({name: known[name] for name in names if name in known})


class Settling:
    """Finds and settles uploads with the same content. Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._redis = store.base.redis
        self._keys = store.base.keys

    def counts(self, sha256: str, but: str = "") -> collections.Counter[str]:
        """How many uploads with this content there are by state, without the one named `but`."""
        return collections.Counter(str(a.state) for a in self.uploads_with(sha256, but, AT_ONCE))

    def uploads_with(self, sha256: str, but: str, limit: int) -> list[Avatar]:
        """Up to `limit` uploads with this content, those that wait first, without one of them."""
        found = self._uploads(sha256, ("waiting", "decided")) if sha256 else ()
        return list(itertools.islice((a for a in found if a.upload_id != but), limit))

    def others(self, contents: Sequence[str]) -> list[tuple[int, int]]:
        """How many uploads with each content wait, and how many are decided; one round trip."""
        pipe = self._redis.pipeline(transaction=False)
        for sha256 in contents:
            pipe.scard(self._keys.same(sha256, "waiting"))
            pipe.scard(self._keys.same(sha256, "decided"))
        numbers = [int(one) for one in pipe.execute()]
        return list(zip(numbers[::2], numbers[1::2], strict=True))

    def note(self, sha256: str, job: Job) -> None:
        """Let others follow a decision that was made before, if it still is the last one."""
        keys = [self._keys.settling, self._keys.overrule(sha256)]
        said = {"sha256": sha256, "state": job.word, "job": job.settles()["job"]}
        self._store.base.run("note_settling", keys, **said)

    def finish(self, sha256: str) -> list[Avatar]:
        """Do what is noted for a content, for up to `AT_ONCE` uploads; returns those changed.

        The note goes when nothing is left to do. To be called again is no error.
        """
        text = cast("str | None", self._redis.hget(self._keys.settling, sha256))
        if text is None:
            return []
        job, done = Job(**known_fields(Job, json.loads(text))), list[Avatar]()
        for _ in range(TRIES):
            changes = list(itertools.islice(self._changes(sha256, job), AT_ONCE - len(done)))
            if not changes:
                break
            for start in range(0, len(changes), PAGE):
                page = changes[start : start + PAGE]
                answers = self._store.advance(page)
                done += [c.avatar for c, a in zip(page, answers, strict=True) if a.applied]
        if len(done) < AT_ONCE and not changes:
            self._store.base.run("end_settling", [self._keys.settling], sha256=sha256, job=text)
        return done

    def _changes(self, sha256: str, job: Job) -> Iterator[Transition]:
        which = ("waiting", "decided") if job.copies or job.word == "undo" else ("waiting",)
        changes = (job.change_of(avatar) for avatar in self._uploads(sha256, which))
        return (change for change in changes if change is not None)

    def finish_all(self) -> int:
        """Do what processes left that died in between; returns how many uploads changed."""
        waiting = cast("list[str]", self._redis.hkeys(self._keys.settling))
        return sum(len(self.finish(sha256)) for sha256 in waiting)

    def _uploads(self, sha256: str, which: tuple[str, ...]) -> Iterator[Avatar]:
        ids = [
            str(one)
            for name in which
            for one in cast("set[str]", self._redis.smembers(self._keys.same(sha256, name)))
        ]
        for start in range(0, len(ids), PAGE):
            page = ids[start : start + PAGE]
            for upload_id, avatar in zip(page, self._store.get_many(page), strict=True):
                if avatar is None or avatar.sha256 != sha256:
                    self._redis.srem(self._keys.same(sha256, "decided"), upload_id)
                    self._redis.srem(self._keys.same(sha256, "waiting"), upload_id)
                else:
                    yield avatar
