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

from producer.contract import FINAL_STATES, Avatar, AvatarState, Region, Stage, Verdict
from producer.errors import ModerationError
from producer.store import Store, Transition
from worker.policy import Judgement, Policy
from worker.tools.scoring import Scored, Scorer

#: Records read in one round trip.
PIECE = 100

#: Whose verdicts may be changed.
OURS = frozenset(["model", "cache"])


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
        callback_url: who hears of a change.
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
        callback_url: Callable[[Avatar], str],
        dry_run: bool,
    ) -> None:
        self._store = store
        self._fetch = fetch
        self._scorer = scorer
        self._policy = policy
        self._has_reviewers = has_reviewers
        self._callback_url = callback_url
        self._dry_run = dry_run
        self.done = Rescanned()

    def run(self, upload_ids: Iterable[str]) -> Iterator[str]:
        """Go through uploads; yields the outcome of each, so that the caller sets the pace."""
        for piece in _pieces(upload_ids):
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
        if (avatar.bundle, avatar.policy) == (bundle.id, self._policy.version):
            return "up to date"
        try:
            scored = self._scorer.score(self._fetch(avatar.image, avatar.upload_id))
        except ModerationError as error:
            return error.code
        judgement = scored.judge(bundle.calibration, self._policy, avatar.region)
        verdict = judgement.verdict if judgement else Verdict.APPROVED
        said = self._store.overruled(scored.sha256)
        if said is not None:
            verdict = Verdict(said.pop("state"))
        if verdict.value == avatar.state.value:
            return "same"
        change = self._change(avatar, scored, judgement, verdict, said or {})
        if not self._dry_run and not self._store.advance([change])[0].applied:
            return "changed meanwhile"
        self.done.changes[avatar.state.value, change.to.value] += 1
        return "changed"

    def _change(
        self,
        avatar: Avatar,
        scored: Scored,
        judgement: Judgement | None,
        verdict: Verdict,
        said: dict[str, str],
    ) -> Transition:
        bundle = self._scorer.bundle
        fields = {
            "decided_by": "model" if judgement else "rule",
            "reason": judgement.reason if judgement else f"flat: {scored.flat}",
            "sha256": scored.sha256,
            "raw_score": f"{scored.raw_score:.6f}",
            "probability": f"{scored.probability(bundle.calibration):.6f}",
            "style": judgement.style if judgement else "",
            "bundle": bundle.id,
            "policy": self._policy.version,
            "attempts": "0",
            # Which view a provider is sent, should it be gray.
            "frame": str(judgement.worst.frame) if judgement else "0",
            "background": judgement.worst.background if judgement else "",
            **said,
        }
        enters = None
        if verdict != Verdict.GRAY:
            to = AvatarState(verdict.value)
        elif self._has_reviewers(avatar.region):
            to, enters = AvatarState.REVIEWING, Stage.REVIEW
        else:
            to, fields["reason"] = AvatarState.HELD, "no_provider"
        return Transition(
            avatar=avatar,
            to=to,
            fields=fields,
            enters=enters,
            detail={**fields, "rescan_of": avatar.bundle},
            callback_url=self._callback_url(avatar),
        )


def _pieces(upload_ids: Iterable[str]) -> Iterator[list[str]]:
    piece: list[str] = []
    for upload_id in upload_ids:
        piece.append(upload_id)
        if len(piece) == PIECE:
            yield piece
            piece = []
    if piece:
        yield piece
