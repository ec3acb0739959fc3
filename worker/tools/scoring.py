"""Bytes to scores outside of the queue, as the workers would score them; remembered by content.

For evaluation, tuning, shadow scores and dry runs. What is remembered is the raw score of every
view, so another calibration or policy costs nothing; another model or another way of looking does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from producer.contract import Region
from worker.bundle import Bundle
from worker.calibration import Calibration
from worker.decode import DecodeLimits, Decoder
from worker.engine import Engine
from worker.policy import Judgement, Policy, ViewScore, judge
from worker.settings import WorkerSettings
from worker.sqlite_wal import open_file
from worker.style import StyleHead
from worker.views import View, ViewOptions

#: Grows when what is remembered changes its meaning.
MEMORY_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """What a model said of one content, before calibration and policy.

    Args:
        views: (raw score 0..1, frame, background, crop) of each view; empty for a flat picture.
        drawn: how likely it is drawn, 0..1.
        flat: why no model was needed, or empty.
    """

    sha256: str
    format: str
    width_px: int
    height_px: int
    views: tuple[tuple[float, int, str, str], ...]
    drawn: float
    flat: str

    @property
    def raw_score(self) -> float:
        """Of the worst view; 0 for a flat picture, which no model saw."""
        return max((view[0] for view in self.views), default=0.0)

    @property
    def side_px(self) -> int:
        """The shorter side."""
        return min(self.width_px, self.height_px)

    def probability(self, calibration: Calibration) -> float:
        """Of the worst view; calibrations rise, so the worst view stays the worst."""
        return calibration.probability(self.raw_score) if self.views else 0.0

    def judge(
        self, calibration: Calibration, policy: Policy, region: Region, style: str = ""
    ) -> Judgement | None:
        """The policy's answer, or None for a flat picture, which is approved by rule.

        Args:
            calibration: raw score to probability.
            policy: the rules.
            region: whose cut-offs apply.
            style: `drawn` or `photo` where somebody said so, instead of the style head.
        """
        if not self.views:
            return None
        rows = [
            ViewScore(
                raw_score=raw,
                probability=calibration.probability(raw),
                frame=frame,
                background=background,
                crop=crop,
            )
            for raw, frame, background, crop in self.views
        ]
        drawn = {"drawn": 1.0, "photo": 0.0}.get(style, self.drawn)
        return judge(rows, policy, region, lambda _view: drawn)


class Scorer:
    """One bundle with its decoder; a context manager, because the decoder is a child process.

    Args:
        settings: limits and the way of looking.
        bundle: the model.
        memory: remembers what was scored; None scores everything again.
        cut_offs: probabilities near which an int8 bundle scores again in float32.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        bundle: Bundle,
        memory: ScoreMemory | None = None,
        cut_offs: Sequence[float] = (),
    ) -> None:
        self.bundle = bundle
        self._settings = settings
        self._memory = memory
        self._cut_offs = tuple(cut_offs)
        self._options = make_view_options(settings, bundle)
        self._engine: Engine | None = None
        self._decoder = Decoder(make_decode_limits(settings), self._options)
        self._style = StyleHead()
        self.scored = 0
        model = bundle.description["model"]["sha256"]
        band = self._cut_offs if bundle.guard_band else ()
        text = json.dumps([MEMORY_VERSION, model, repr(self._options), band])
        self._key = hashlib.sha256(text.encode()).hexdigest()[:16]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._decoder.close()

    def score(self, data: bytes) -> Scored:
        """Score one picture, or remember what was said of it.

        Raises:
            InvalidInput: the workers would reject this file.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        known = self._memory.get(sha256, self._key) if self._memory else None
        if known is not None:
            return known
        picture = self._decoder.decode(data)
        views: list[View] = [] if picture.flat else picture.views
        scored = Scored(
            sha256=sha256,
            format=picture.format,
            width_px=picture.width_px,
            height_px=picture.height_px,
            views=tuple(self._raw_scores(views)),
            drawn=max((self._style.drawn_probability(v.pixels) for v in views[:1]), default=1.0),
            flat=picture.flat or "",
        )
        self.scored += 1
        if self._memory is not None:
            self._memory.put(self._key, scored)
        return scored

    def thumbnail_jpeg(self, data: bytes) -> bytes:
        """A safe JPEG of a picture that scored; see `Decoder.normalise`."""
        return self._decoder.normalise(data)

    def _raw_scores(self, views: Sequence[View]) -> Iterator[tuple[float, int, str, str]]:
        if not views:
            return
        if self._engine is None:
            self._engine = make_engine(self._settings, self.bundle)
        results = self._engine.score(np.stack([view.pixels for view in views]), self._cut_offs)
        for view, result in zip(views, results, strict=True):
            yield round(result.raw_score, 7), view.frame, view.background, view.crop


class ScoreMemory:
    """Scores by content and way of scoring, in one SQLite file."""

    def __init__(self, path: Path) -> None:
        self._connection = open_file(path)
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS scores (sha256 TEXT, how TEXT, scored TEXT NOT NULL, "
            "PRIMARY KEY (sha256, how)) WITHOUT ROWID"
        )

    def get(self, sha256: str, how: str) -> Scored | None:
        """What was put, or None."""
        row = self._connection.execute(
            "SELECT scored FROM scores WHERE sha256 = ? AND how = ?", (sha256, how)
        ).fetchone()
        if row is None:
            return None
        data: dict[str, Any] = json.loads(row[0])
        data["views"] = tuple(tuple(view) for view in data["views"])
        return Scored(**data)

    def put(self, how: str, scored: Scored) -> None:
        """Remember; the same again changes nothing."""
        self._connection.execute(
            "INSERT OR REPLACE INTO scores VALUES (?, ?, ?)",
            (scored.sha256, how, json.dumps(dataclasses.asdict(scored))),
        )

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


@contextlib.contextmanager
def score_memory(settings: WorkerSettings) -> Iterator[ScoreMemory]:
    """The memory in the data folder."""
    memory = ScoreMemory(settings.data_folder / "scores.sqlite3")
    try:
        yield memory
    finally:
        memory.close()


def make_engine(settings: WorkerSettings, bundle: Bundle) -> Engine:
    """The engine that the settings ask for."""
    return Engine(
        bundle,
        execution_providers=settings.execution_providers,
        threads=settings.threads,
        micro_batch=settings.micro_batch,
        max_rss_mb=settings.max_rss_mb,
    )


def make_decode_limits(settings: WorkerSettings) -> DecodeLimits:
    """The limits that the settings ask for."""
    return DecodeLimits(
        max_bytes=settings.max_image_bytes,
        max_pixels=settings.max_pixels,
        max_side_px=settings.max_side_px,
        max_aspect_ratio=settings.max_aspect_ratio,
        max_frames=settings.max_frames,
        max_total_pixels=settings.max_total_pixels,
        timeout_s=settings.decode_timeout_s,
        memory_bytes=settings.decode_memory_bytes,
    )


def make_view_options(settings: WorkerSettings, bundle: Bundle) -> ViewOptions:
    """The way of looking that the settings ask for."""
    return ViewOptions(
        spec=bundle.input,
        max_frames=settings.scored_frames,
        served_crop=settings.served_crop,
        pad_to_square=settings.pad_to_square,
        flat_rule=settings.flat_rule,
    )
