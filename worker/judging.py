"""Prepared pictures to verdicts: what is known of a content, what the model says, what follows."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import redis
import structlog

from producer.contract import Avatar, AvatarState, Region, Stage, Verdict
from producer.errors import StorageUnavailable
from producer.metrics import BATCH, INFERENCE, Recorder
from producer.store import Lease, Store, Transition
from worker.policy import Judgement, Policy, ViewScore, judge

log = structlog.get_logger()


class Engine(Protocol):
    """Views to scores; see engine.py."""

    micro_batch: int

    def score(self, pixels: Any, cut_offs: Sequence[float] = ()) -> Sequence[Any]:
        """One score a row, in order."""


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
        callback_url: who hears of an upload.
        recorder: counts.
        bundle_id: of the engine's model; written into records.
        views_id: names how pictures are looked at; a verdict is reused only where all is the same.
    """

    def __init__(
        self,
        *,
        store: Store,
        engine: Engine,
        policy: Policy,
        drawn_probability: Callable[[Any], float],
        has_reviewers: Callable[[Region], bool],
        callback_url: Callable[[Avatar], str],
        recorder: Recorder,
        bundle_id: str,
        views_id: str,
    ) -> None:
        self._store = store
        self._engine = engine
        self._policy = policy
        self._drawn_probability = drawn_probability
        self._has_reviewers = has_reviewers
        self._callback_url = callback_url
        self._recorder = recorder
        self._bundle_id = bundle_id
        self._views_id = views_id
        self._cut_offs = policy.boundaries()

    def known(self, sha256: str, region: Region) -> dict[str, str] | None:
        """An operator's overruling or an earlier verdict on the same content."""
        store = self._store
        try:
            overruled, cached = store.redis.mget(
                store.key("overrule", sha256), self._verdict_key(sha256, region)
            )
        except redis.RedisError as error:
            raise StorageUnavailable(f"Redis did not answer: {type(error).__name__}") from error
        if overruled:
            return {**json.loads(overruled)}
        if cached:
            return {**json.loads(cached), "decided_by": "cache"}
        return None

    def score(self, batch: list[Prepared]) -> dict[str, list[ViewScore] | BaseException]:
        """Scores by content; the same content in one micro-batch is scored once."""
        unique = {p.sha256: p for p in batch if p.picture.flat is None}
        views = [(sha256, view) for sha256, p in unique.items() for view in p.picture.views]
        if not views:
            return {}
        scores: dict[str, list[ViewScore] | BaseException] = {sha256: [] for sha256 in unique}
        started_s = time.monotonic()
        try:
            pixels = np.stack([view.pixels for _, view in views])
            results = self._engine.score(pixels, self._cut_offs)
        except Exception as error:  # noqa: BLE001 - one picture's error must not end the batch
            if len(unique) > 1:
                for p in unique.values():
                    scores.update(self.score([p]))
                return scores
            return {sha256: error for sha256 in unique}
        for (sha256, view), result in zip(views, results, strict=True):
            rows = scores[sha256]
            assert isinstance(rows, list)
            rows.append(
                ViewScore(
                    raw_score=result.raw_score,
                    probability=result.probability,
                    frame=view.frame,
                    background=view.background,
                    crop=view.crop,
                )
            )
        self._recorder.observe(INFERENCE, time.monotonic() - started_s)
        self._recorder.observe(BATCH, len(unique))
        log.debug(
            "batch_scored",
            uploads=len(unique),
            views=len(views),
            seconds=round(time.monotonic() - started_s, 4),
        )
        return scores

    def decide(
        self, prepared: Prepared, scores: dict[str, list[ViewScore] | BaseException]
    ) -> Transition:
        """What follows for one upload from what is known of its content or from its scores.

        Raises:
            BaseException: the error of the run that its scores came from.
        """
        if prepared.known is not None:
            return self._transition(prepared, {**prepared.known, "sha256": prepared.sha256}, {})
        if prepared.picture.flat is not None:
            fields = {
                "state": Verdict.APPROVED.value,
                "reason": f"flat: {prepared.picture.flat}",
                "decided_by": "rule",
                "sha256": prepared.sha256,
                "policy": self._policy.version,
            }
            return self._transition(prepared, fields, {})
        rows = scores[prepared.sha256]
        if isinstance(rows, BaseException):
            raise rows
        judgement = judge(
            rows,
            self._policy,
            prepared.avatar.region,
            self._style_of(prepared, rows),
            is_small=prepared.picture.is_small,
        )
        fields = self._judged_fields(judgement)
        detail = {
            "views": [[r.label, round(r.raw_score, 5), round(r.probability, 5)] for r in rows],
        }
        change = self._transition(
            prepared, {**fields, "decided_by": "model", "sha256": prepared.sha256}, detail
        )
        key = self._verdict_key(prepared.sha256, prepared.avatar.region)
        return dataclasses.replace(change, remember=(key, json.dumps(fields)))

    def _style_of(self, prepared: Prepared, rows: list[ViewScore]) -> Callable[[ViewScore], float]:
        def drawn(score: ViewScore) -> float:
            return self._drawn_probability(prepared.picture.views[rows.index(score)])

        return drawn

    def _judged_fields(self, judgement: Judgement) -> dict[str, str]:
        worst = judgement.worst
        fields = {
            "state": judgement.verdict.value,
            "reason": judgement.reason,
            "raw_score": f"{worst.raw_score:.6f}",
            "probability": f"{worst.probability:.6f}",
            "style": judgement.style,
            "bundle": self._bundle_id,
            "policy": self._policy.version,
        }
        if worst.frame:
            fields["frame"] = str(worst.frame)
        fields["background"] = worst.background
        return {name: value for name, value in fields.items() if value}

    def _transition(
        self, prepared: Prepared, fields: dict[str, str], detail: dict[str, Any]
    ) -> Transition:
        """From a verdict's fields to the change of the record; gray goes to review or a person."""
        avatar = prepared.avatar
        fields = dict(fields)
        verdict = fields.pop("state")
        to, enters = AvatarState(verdict) if verdict != Verdict.GRAY else AvatarState.HELD, None
        if verdict == Verdict.GRAY:
            if self._has_reviewers(avatar.region):
                to, enters = AvatarState.REVIEWING, Stage.REVIEW
            else:
                fields["reason"] = "no_provider"
        if avatar.attempts:
            fields |= {"attempts": "0", "first_failed_at": ""}
        return Transition(
            avatar=avatar,
            to=to,
            fields=fields,
            leaves=Stage.MODERATE,
            enters=enters,
            detail={**fields, **detail, "waited_s": self._waited_s(prepared)},
            callback_url=self._callback_url(avatar),
        )

    def _waited_s(self, prepared: Prepared) -> float:
        return round(time.monotonic() - prepared.started_s, 4)

    def _verdict_key(self, sha256: str, region: Region) -> str:
        return self._store.key(
            "verdict", sha256, self._bundle_id, self._views_id, self._policy.version, region
        )
