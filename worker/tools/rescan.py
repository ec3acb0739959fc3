"""After a change of model or policy: look again at what the old one decided, change what differs.

Only verdicts of the model itself are looked at; what a person or a provider said stands. Nothing is
written, and nobody is told, about an upload whose verdict stays. What an operator said of the same
content under another id goes before the new model. Killed, it starts over, and what was scored is
remembered.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from producer.contract import FINAL_STATES, Avatar, Region
from producer.errors import ModerationError
from producer.record.store import Store
from worker.moderation.policy import Policy
from worker.moderation.road import make_transition
from worker.tools.files import pieces
from worker.tools.scoring import Scorer

#: Records read in one round trip.
PIECE = 100

#: Whose verdicts may be changed.
OURS = frozenset(["model", "cache"])

#: What an older look may have left in a record, to be written anew or emptied.
STALE = dict.fromkeys(
    (
        *("raw_score", "probability", "style", "bundle", "background"),
        *("second_raw", "second_probability", "second_bundle", "second_hold"),
    ),
    "",
)


@dataclasses.dataclass
class Rescanned:
    """What came of it: uploads by outcome, and changes by (old state, new state)."""

    outcomes: Counter[str] = dataclasses.field(default_factory=Counter)
    changes: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        changes = {f"{old} to {new}": number for (old, new), number in self.changes.items()}
        return {"outcomes": dict(self.outcomes), "changes": changes}


class Rescan:
    """One bundle and one policy over old verdicts.

    Args:
        store: the records.
        fetch: image reference and upload id to bytes.
        scorer: the new bundle.
        policy: the new rules.
        has_reviewers: whether a cloud provider is configured for a region.
        dry_run: count, change nothing.
    """

    def __init__(
        self,
        *,
        store: Store,
        fetch: Callable[[str, str], bytes],
        scorer: Scorer,
        policy: Policy,
        has_reviewers: Callable[[Region], bool],
        dry_run: bool,
    ) -> None:
        self._store = store
        self._fetch = fetch
        self._scorer = scorer
        self._policy = policy
        self._has_reviewers = has_reviewers
        self._dry_run = dry_run
        self.done = Rescanned()

    def run(self, upload_ids: Iterable[str]) -> Iterator[str]:
        """Go through uploads; yields the outcome of each, so that the caller sets the pace."""
        for piece in pieces(upload_ids, PIECE):
            for avatar in self._store.get_many(piece):
                outcome = self._one(avatar)
                self.done.outcomes[outcome] += 1
                yield outcome

    def _one(self, avatar: Avatar | None) -> str:
        if avatar is None:
            return "expired"
        if avatar.state not in FINAL_STATES or avatar.decided_by not in OURS:
            return "not ours"
        bundle = self._scorer.bundle
        # Where the policy did not ask the second model, the record does not name it.
        is_second_same = avatar.second_bundle in ("", self._scorer.second_id)
        if (avatar.bundle, avatar.policy) == (bundle.id, self._policy.version) and is_second_same:
            return "up to date"
        try:
            data = self._fetch(avatar.image, avatar.upload_id)
            scored, judgement = self._scorer.look(data, self._policy, avatar.region)
        except ModerationError as error:
            return error.code
        said = self._store.overruled(scored.sha256) or {}
        fields = {
            **STALE,
            "frame": "0",
            **self._scorer.fields(judgement, self._policy),
            **said,
            "sha256": scored.sha256,
        }
        if fields["state"] == avatar.state.value:
            return "same"
        change = make_transition(
            avatar,
            fields,
            {"rescan_of": avatar.bundle},
            has_reviewers=self._has_reviewers,
        )
        if not self._dry_run and not self._store.advance([change])[0].applied:
            return "changed meanwhile"
        self.done.changes[avatar.state.value, change.to.value] += 1
        return "changed"
