"""Prepared pictures to verdicts: what is known of a content, what the model says, what follows."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

import redis
import structlog

from producer.contract import Avatar, AvatarState, Region, Stage, Verdict
from producer.errors import StorageUnavailable
from producer.metrics import BATCH, INFERENCE, Recorder
from producer.record.memory import Prints
from producer.record.store import Lease, Store, Transition
from producer.texts import say
from worker.memory.memory import Found, PictureMemory
from worker.moderation.policy import Policy
from worker.moderation.road import ask_second, make_transition, record_fields, score
from worker.moderation.scored import Scored
from worker.moderation.second import Engine, SecondModel

log = structlog.get_logger()

#: Perceptual hashes of one content that are kept with its verdict; animations may have more.
MOST_KEPT = 16


@dataclasses.dataclass
class Prepared:
    """One upload on its way to the model: its picture, or what came of it already."""

    lease: Lease
    avatar: Avatar
    started_s: float
    sha256: str = ""
    picture: Any = None
    known: dict[str, str] | None = None
    error: BaseException | None = None

    @property
    def view_count(self) -> int:
        """How many views the model has to score."""
        if self.error is not None or self.known is not None or self.picture.flat:
            return 0
        return len(self.picture.views)


class Judge:
    """Decides about prepared uploads; safe to share between threads.

    Args:
        store: where earlier verdicts on the same content are.
        engine: views to scores.
        policy: scores to verdict.
        drawn_probability: a view to 0..1; asked only when it matters.
        has_reviewers: whether a cloud provider is configured for a region.
        recorder: counts.
        bundle_id: of the engine's model; written into records.
        views_id: names how pictures are looked at; a verdict is reused only where all is the same.
        second: the model that looks too, where the policy asks it.
        memory: what was decided of pictures that look the same; None where nobody asks.
    """

    def __init__(
        self,
        *,
        store: Store,
        engine: Engine,
        policy: Policy,
        drawn_probability: Callable[[Any], float],
        has_reviewers: Callable[[Region], bool],
        recorder: Recorder,
        bundle_id: str,
        views_id: str,
        second: SecondModel | None = None,
        memory: PictureMemory | None = None,
    ) -> None:
        self._memory = memory
        self._store = store
        self._engine = engine
        self._policy = policy
        self._drawn_probability = drawn_probability
        self._has_reviewers = has_reviewers
        self._recorder = recorder
        self._bundle_id = bundle_id
        self._views_id = views_id
        self._second = second
        self._second_id = second.id if second else ""
        self._cut_offs = policy.boundaries()

    def known(self, sha256: str, region: Region) -> dict[str, str] | None:
        """An operator's overruling or an earlier verdict on the same content.

        None also where the earlier verdict cannot be compared with what is remembered of others.
        """
        try:
            known = self._store.known(*self._content(sha256, region))
            is_compared = known is None or "seen" in known or known["decided_by"] != "cache"
            return known if is_compared or not self.wants_prints() else None
        except redis.RedisError as error:
            raise StorageUnavailable(
                say("Redis does not answer: {error}", error=type(error).__name__)
            ) from error

    def wants_prints(self) -> bool:
        """Whether there is anything that pictures could look like.

        Raises:
            StorageUnavailable: nobody knows.
        """
        try:
            return self._memory is not None and not self._memory.is_empty()
        except redis.RedisError as error:
            raise StorageUnavailable(
                say("Redis does not answer: {error}", error=type(error).__name__)
            ) from error

    def score(self, batch: list[Prepared]) -> dict[str, Scored | BaseException]:
        """Scores by content; the same content in one micro-batch is scored once."""
        pictures = {p.sha256: p.picture for p in batch}
        looked = [picture for picture in pictures.values() if not picture.flat]
        started_s = time.monotonic()
        scored = score(self._engine, pictures, self._cut_offs, self._second)
        if looked:
            seconds = time.monotonic() - started_s
            self._recorder.observe(INFERENCE, seconds)
            self._recorder.observe(BATCH, len(looked))
            log.debug(
                "batch_scored",
                uploads=len(looked),
                views=sum(len(picture.views) for picture in looked),
                seconds=round(seconds, 4),
            )
        return scored

    def decide(self, prepared: Prepared, scores: dict[str, Scored | BaseException]) -> Transition:
        """What follows for one upload from what is known of its content or from its scores.

        Raises:
            BaseException: the error of the run that its scores came from.
        """
        sha256, region = prepared.sha256, prepared.avatar.region
        if prepared.known is not None:
            fields = dict(prepared.known)
            return self._remembering(prepared, fields, {}, Prints.from_json(fields.pop("seen", "")))
        scored = scores[sha256]
        if isinstance(scored, BaseException):
            raise scored
        judgement = scored.judge(
            self._policy,
            region,
            lambda: self._drawn_probability(prepared.picture.views[scored.worst]),
            lambda: ask_second(self._second, scored, prepared.picture).second_worst,
        )
        fields = record_fields(judgement, self._bundle_id, self._policy, self._second_id)
        if judgement.by_rule:
            return self._transition(prepared, fields, {})
        views = [[v.label, round(v.raw_score, 7), round(v.probability, 7)] for v in scored.views]
        facts = {"views": views, "small": scored.is_small, "doubt": scored.doubt}
        detail = {name: fact for name, fact in facts.items() if fact}
        picture = prepared.picture
        seen = Prints(pixels=getattr(picture, "pixels", ""), hashes=getattr(picture, "prints", ()))
        change = self._remembering(prepared, fields, detail, seen)
        if judgement.reason == "second_missing":
            # It may be back with the next look.
            return change
        if self.wants_prints():
            seen = dataclasses.replace(seen, hashes=seen.hashes[:MOST_KEPT])
            fields["seen"] = seen.to_json()
        remember = (self._content(sha256, region), json.dumps(fields))
        return dataclasses.replace(change, remember=remember)

    def _remembering(
        self, prepared: Prepared, fields: dict[str, str], detail: dict[str, Any], seen: Prints
    ) -> Transition:
        """What follows from a verdict, and from what was decided of a picture that looks so."""
        found = self._find(prepared.sha256, fields, seen)
        if found is None:
            # What an earlier look found does not hold any more.
            stale = {"looks_like": ""} if prepared.avatar.looks_like else {}
            return self._transition(prepared, {**fields, **stale}, detail)
        looked_like = found.entry.looked_like(found.distance)
        like = {"looks_like": looked_like.to_json()}
        # Its rows in the ledger must not name an upload that is forgotten some day.
        detail = {**detail, "looks_like": dataclasses.replace(looked_like, upload_id="").to_json()}
        if found.is_same:
            said = self._store.overruled(found.entry.key)
            if said is None and found.entry.state == AvatarState.BLOCKED:
                said = {"state": "blocked", "reason": "same_pixels", "decided_by": "memory"}
            return self._transition(prepared, {**fields, **like, **(said or {})}, detail)
        fields = {**fields, **like}
        if fields["state"] != Verdict.BLOCKED:
            fields |= {
                "state": Verdict.GRAY,
                "reason": "looks_like_blocked",
                "decided_by": "memory",
            }
        return self._transition(prepared, fields, detail, asks_person=True)

    def _find(self, sha256: str, fields: dict[str, str], seen: Prints) -> Found | None:
        """What is remembered of such a picture; an operator's word on its bytes comes first."""
        is_asked = self._memory is not None and (seen.pixels or seen.hashes)
        if not is_asked or fields["decided_by"].startswith("operator:"):
            return None
        assert self._memory is not None
        try:
            return self._memory.find(seen.hashes, seen.pixels, sha256)
        except redis.RedisError as error:
            raise StorageUnavailable(
                say("Redis does not answer: {error}", error=type(error).__name__)
            ) from error

    def _transition(
        self,
        prepared: Prepared,
        fields: dict[str, str],
        detail: dict[str, Any],
        *,
        asks_person: bool = False,
    ) -> Transition:
        waited_s = round(time.monotonic() - prepared.started_s, 4)
        return make_transition(
            prepared.avatar,
            {**fields, "sha256": prepared.sha256},
            {**detail, "waited_s": waited_s},
            has_reviewers=self._has_reviewers,
            leaves=Stage.MODERATE,
            asks_person=asks_person,
        )

    def _content(self, sha256: str, region: Region) -> tuple[str, ...]:
        """A content and all that a verdict on it depends on."""
        bundles = "+".join(filter(None, (self._bundle_id, self._second_id)))
        return sha256, bundles, self._views_id, self._policy.version, region
