"""The road of `worker/moderation/road.py` outside of the queue; what was scored is remembered.

For evaluation, tuning, rescans, shadow scores and dry runs. What is remembered is the raw score of
every view by each model, so another calibration or policy costs nothing; another model or another
way of looking does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from producer.contract import Region
from worker.image.decoder import Picture
from worker.ledger.sqlite import open_file
from worker.model.bundle import Bundle
from worker.model.calibration import Calibration
from worker.model.engine import Engine
from worker.model.style import StyleHead
from worker.moderation.panel import SecondScore
from worker.moderation.policy import Judgement, Policy, ViewScore
from worker.moderation.road import (
    ask_second,
    make_decoder,
    make_engine,
    open_second,
    record_fields,
    score,
    view_options,
)
from worker.moderation.scored import Scored
from worker.settings import WorkerSettings

#: Grows when what is remembered changes its meaning.
MEMORY_VERSION = 3


class Scorer:
    """A bundle, with a second one where a policy asks it, and the decoder of both.

    A context manager, because the decoder is a child process.

    Args:
        settings: limits and the way of looking.
        bundle: the model.
        memory: remembers what was scored; None scores everything again.
        policy: near whose cut-offs an int8 bundle scores again in float32, and whose second model
            looks too; None: neither.

    Attributes:
        policy: the same.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        bundle: Bundle,
        memory: ScoreMemory | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.bundle = bundle
        self.policy = policy
        self._settings = settings
        self._memory = memory
        self._cut_offs = policy.boundaries() if policy else ()
        self._second = open_second(settings, policy) if policy else None
        self._decoder = make_decoder(settings, bundle.input, self._second)
        self._style = StyleHead()
        self._last: tuple[str, Picture] | None = None
        parts = [MEMORY_VERSION, view_options(settings, bundle.input, self._second).id]
        models = [(bundle, self._cut_offs)]
        if self._second is not None and self._second.bundle is not None and policy is not None:
            models.append((self._second.bundle, policy.second.second_boundaries()))
        for model, cut_offs in models:
            parts += [model.description["model"]["sha256"], cut_offs if model.guard_band else ()]
        self._how = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    @property
    def second_id(self) -> str:
        """Of the second bundle; empty where none looks."""
        return self._second.id if self._second else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._decoder.close()

    def score(self, data: bytes) -> Scored:
        """Score one picture, or remember what was said of it.

        Raises:
            InvalidInput: the workers would reject this file.
            InferenceFailed: the model rejected it.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        known = self._remembered(sha256)
        if known is not None:
            return known
        picture = self._decode(sha256, data)
        [scored] = score(self._engine, {sha256: picture}, self._cut_offs, self._second).values()
        if isinstance(scored, BaseException):
            raise scored
        return self._remember(scored)

    def drawn(self, data: bytes, scored: Scored) -> float:
        """How likely the worst view is drawn, 0..1; looked at again where nobody asked before."""
        if scored.drawn is not None:
            return scored.drawn
        pixels = self._decode(scored.sha256, data).views[scored.worst].pixels
        found = self._style.drawn_probability(pixels)
        self._remember(dataclasses.replace(scored, drawn=found))
        return found

    def second(self, data: bytes, scored: Scored) -> SecondScore | None:
        """What the second model says at worst; looked at where nobody asked before."""
        if self._second is not None and scored.views and not scored.second:
            picture = self._decode(scored.sha256, data)
            scored = self._remember(ask_second(self._second, scored, picture))
        return scored.second_worst

    def judge(self, data: bytes, scored: Scored, policy: Policy, region: Region) -> Judgement:
        """What a worker with this policy makes of what was scored."""
        return scored.judge(
            policy,
            region,
            lambda: self.drawn(data, scored),
            lambda: self.second(data, scored),
        )

    def look(self, data: bytes, policy: Policy, region: Region) -> tuple[Scored, Judgement]:
        """What the models say, and what a worker with this policy makes of it; see `score`."""
        scored = self.score(data)
        return scored, self.judge(data, scored, policy, region)

    def fields(self, judgement: Judgement, policy: Policy) -> dict[str, str]:
        """A judgement as the record keeps it."""
        return record_fields(judgement, self.bundle.id, policy, self.second_id)

    def thumbnail_jpeg(self, data: bytes) -> bytes:
        """A safe JPEG of a picture that scored; see `Decoder.normalise`."""
        return self._decoder.normalise(data)

    @functools.cached_property
    def _engine(self) -> Engine:
        """Loaded with the first picture that is not remembered."""
        return make_engine(self._settings, self.bundle)

    def _decode(self, sha256: str, data: bytes) -> Picture:
        if self._last is None or self._last[0] != sha256:
            self._last = sha256, self._decoder.decode(data)
        return self._last[1]

    def _remembered(self, sha256: str) -> Scored | None:
        if self._memory is None:
            return None
        other = self._second.bundle if self._second else None
        calibrations = self.bundle.calibration, other.calibration if other else None
        return self._memory.get(sha256, self._how, *calibrations)

    def _remember(self, scored: Scored) -> Scored:
        """Style and second model may be asked one after the other: neither forgets the other."""
        before = self._remembered(scored.sha256)
        if before is not None:
            drawn = before.drawn if scored.drawn is None else scored.drawn
            scored = dataclasses.replace(scored, drawn=drawn, second=scored.second or before.second)
        if self._memory is not None:
            self._memory.put(self._how, scored)
        return scored


class ScoreMemory:
    """Scores by content and way of scoring, in one SQLite file."""

    def __init__(self, path: Path) -> None:
        self._connection = open_file(path)
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS scores (sha256 TEXT, how TEXT, scored TEXT NOT NULL, "
            "PRIMARY KEY (sha256, how)) WITHOUT ROWID"
        )

    def get(
        self, sha256: str, how: str, calibration: Calibration, second: Calibration | None = None
    ) -> Scored | None:
        """What was put, with the probabilities of each model's calibration; or None."""
        row = self._connection.execute(
            "SELECT scored FROM scores WHERE sha256 = ? AND how = ?", (sha256, how)
        ).fetchone()
        if row is None:
            return None
        fields = json.loads(row[0])
        views = [
            ViewScore(**_calibrated(view, calibration.probability)) for view in fields.pop("views")
        ]
        said = fields.pop("second")
        calibrate = second.probability if second else None
        others = [SecondScore(**_calibrated(one, calibrate)) for one in said]
        return Scored(views=tuple(views), second=tuple(others), **fields)

    def put(self, how: str, scored: Scored) -> None:
        """Remember; the same again changes nothing."""
        self._connection.execute(
            "INSERT OR REPLACE INTO scores VALUES (?, ?, ?)",
            (scored.sha256, how, json.dumps(dataclasses.asdict(scored))),
        )

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _calibrated(
    fields: dict[str, Any], calibrate: Callable[[float], float] | None
) -> dict[str, Any]:
    probability = calibrate(fields["raw_score"]) if calibrate else fields["probability"]
    return {**fields, "probability": probability}


@contextlib.contextmanager
def open_scorers(
    settings: WorkerSettings, names: Sequence[str], policy: Policy | None
) -> Iterator[list[Scorer]]:
    """One scorer a name, all with the memory in the data folder; `policy` as for `Scorer`.

    Args:
        settings: where models lie.
        names: bundles, or pairs of them; see `as_pair`.
        policy: of all; a pair has its own second model.
    """
    pairs = [(name, None) if policy is None else as_pair(name, policy) for name in names]
    bundles = [(Bundle.load(name, settings.models_folder), rules) for name, rules in pairs]
    memory = ScoreMemory(settings.data_folder / "scores.sqlite3")
    with contextlib.ExitStack() as stack:
        stack.callback(memory.close)
        yield [stack.enter_context(Scorer(settings, one, memory, own)) for one, own in bundles]


def as_pair(name: str, policy: Policy) -> tuple[str, Policy]:
    """`first+second` as the first bundle and the policy with that second one.

    `first+none` is one model alone; without a plus the policy's own second model stays. The second
    is asked always where the policy asks none.
    """
    first, plus, second = name.rpartition("+")
    if not plus:
        return name, policy
    if second == "none":
        return first, policy.alone()
    rules = policy.second
    ask = "always" if rules.ask == "off" else rules.ask
    named = dataclasses.replace(rules, bundle=second, ask=ask)
    return first, dataclasses.replace(policy, second=named, names_second=True)
