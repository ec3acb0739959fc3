"""Two local models before the cloud: what a second, independent look changes. Pure.

The first model's verdict comes from the policy's cut-offs. The second may *veto* what would have
passed in silence, *clear* what was left gray, and *disagree* with a block; together they may block.
What both leave open goes to review. A second look that was needed and is missing is never read as a
good one.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from producer.contract import Verdict

Ask = Literal["always", "gray", "off"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SecondLook:
    """The policy's `[second]` table; probabilities are calibrated, 0..1.

    Attributes:
        bundle: name of the second bundle.
        ask: `always`; only of `gray` pictures, which vetoes nothing; or `off`.
        veto_from: the second's probability from which an approval becomes gray.
        drawn_veto_from: the same for drawn pictures, of which the second model is suspicious.
        clear_below: the second's probability below which a gray picture is approved, ...
        clear_up_to: ... if the first's is below this.
        block_needs: a block by the first alone needs at least this of the second, or it is gray; 0
            for none.
        block_first: with `block_second`: what both find this explicit is blocked; 1 for never.
        block_second: see `block_first`.
        hold_from: score of the labels that hold and never clear, from which nothing is approved.
    """

    bundle: str = "image-safety-s"
    ask: Ask = "always"
    veto_from: float = 0.35
    drawn_veto_from: float = 0.6
    clear_below: float = 0.05
    clear_up_to: float = 0.5
    block_needs: float = 0.05
    block_first: float = 1.0
    block_second: float = 1.0
    hold_from: float = 0.5

    @property
    def blocks_together(self) -> bool:
        """Whether the two may block what the first alone leaves gray."""
        return self.block_first < 1 or self.block_second < 1

    def is_needed(self, first: Verdict) -> bool:
        """Whether the second model's word could change this verdict of the first."""
        if self.ask == "always":
            return first != Verdict.BLOCKED or self.block_needs > 0
        return self.ask == "gray" and first == Verdict.GRAY

    def boundaries(self) -> tuple[float, ...]:
        """Probabilities of the first model at which the two together change their verdict."""
        if self.ask == "off":
            return ()
        return (self.clear_up_to, self.block_first) if self.blocks_together else (self.clear_up_to,)

    def second_boundaries(self) -> tuple[float, ...]:
        """The same for the second model; for its guard band."""
        edges = {self.veto_from, self.drawn_veto_from, self.clear_below, self.block_needs}
        if self.blocks_together:
            edges.add(self.block_second)
        return tuple(sorted(edges))

    def problem(self) -> str:
        """Why these rules would judge a worse picture more mildly, in words; empty if sound."""
        veto_from = min(self.veto_from, self.drawn_veto_from)
        if self.clear_below > veto_from:
            return (
                f"clear_below {self.clear_below} is above the veto at {veto_from}: a gray picture "
                "would be approved where a clear one is held up"
            )
        if self.blocks_together and self.block_needs > self.block_second:
            return (
                f"block_needs {self.block_needs} is above block_second {self.block_second}: what "
                "both find less explicit would be blocked sooner"
            )
        return ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SecondScore:
    """What the second model says of a picture's worst view."""

    probability: float
    raw_score: float
    hold: float = 0.0


def combine(
    verdict: Verdict,
    probability: float,
    second: SecondScore | None,
    rules: SecondLook,
    *,
    is_drawn: bool,
) -> tuple[Verdict, str]:
    """The verdict of both, and a reason where the second changed it.

    Args:
        verdict: the first model's, by the policy's cut-offs.
        probability: the first model's worst, 0..1.
        second: None where it was not asked or could not answer.
        rules: the policy's.
        is_drawn: which veto applies.

    Returns:
        Reasons: `second_veto`, `second_hold`, `second_clear`, `second_disagrees`,
        `both_explicit`, `second_missing`; empty where nothing changed. A block stands where the
        second is missing.
    """
    if not rules.is_needed(verdict) or (second is None and verdict == Verdict.BLOCKED):
        return verdict, ""
    if second is None:
        return Verdict.GRAY, "second_missing"
    if second.hold >= rules.hold_from:
        return (verdict, "") if verdict == Verdict.BLOCKED else (Verdict.GRAY, "second_hold")
    if verdict == Verdict.BLOCKED:
        agrees = second.probability >= rules.block_needs
        return (verdict, "") if agrees else (Verdict.GRAY, "second_disagrees")
    if verdict == Verdict.APPROVED:
        veto_from = rules.drawn_veto_from if is_drawn else rules.veto_from
        return (Verdict.GRAY, "second_veto") if second.probability >= veto_from else (verdict, "")
    if probability < rules.clear_up_to and second.probability < rules.clear_below:
        return Verdict.APPROVED, "second_clear"
    both = probability >= rules.block_first and second.probability >= rules.block_second
    if rules.blocks_together and both:
        return Verdict.BLOCKED, "both_explicit"
    return verdict, ""
