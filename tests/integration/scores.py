"""What tests of evaluation put in the model's place."""

from __future__ import annotations

from worker.moderation.policy import ViewScore
from worker.moderation.scored import Scored
from worker.tools.scoring import Scorer


def score_in_content(_scorer: Scorer, data: bytes) -> Scored:
    """A photograph whose raw score is written in the file."""
    return Scored(
        sha256=data.hex(),
        format="PNG",
        width_px=200,
        height_px=200,
        views=(ViewScore(raw_score=float(data), probability=float(data)),),
        drawn=0.0,
    )
