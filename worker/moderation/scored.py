"""What a model said of one picture, and the policy's word on it. Pure: without pixels or arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from producer.contract import Region
from worker.moderation.panel import SecondScore
from worker.moderation.policy import Judgement, Policy, ViewScore, judge


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """What a model said of one content.

    Args:
        views: what it said of each view, in the picture's order; empty where a rule explains all.
        is_small: see `Picture.is_small`.
        flat: why no model is needed; empty where one is.
        doubt: why some of what the file shows was not scored; empty where all was.
        drawn: how likely the worst view is drawn, 0..1; None while nobody asked.
        second: what the second model said of each view; empty while nobody asked.
    """

    sha256: str
    format: str = ""
    width_px: int = 0
    height_px: int = 0
    views: tuple[ViewScore, ...]
    is_small: bool = False
    flat: str = ""
    doubt: str = ""
    drawn: float | None = None
    second: tuple[SecondScore, ...] = ()

    @classmethod
    def of(cls, sha256: str, picture: Any, views: Sequence[ViewScore]) -> Scored:
        """What was said of a decoded picture."""
        return cls(
            sha256=sha256,
            format=getattr(picture, "format", ""),
            width_px=getattr(picture, "width_px", 0),
            height_px=getattr(picture, "height_px", 0),
            views=tuple(views),
            is_small=picture.is_small,
            flat=picture.flat or "",
            doubt=picture.unseen,
        )

    @property
    def worst(self) -> int:
        """Index of the view that counts: the same for every calibration, because all rise."""
        return max(range(len(self.views)), key=lambda n: self.views[n].rank)

    @property
    def raw_score(self) -> float:
        """Of the worst view; 0 where no model looked."""
        return self.views[self.worst].raw_score if self.views else 0.0

    @property
    def probability(self) -> float:
        """Of the worst view; 0 where no model looked."""
        return self.views[self.worst].probability if self.views else 0.0

    @property
    def second_worst(self) -> SecondScore | None:
        """What the second model said of the view that it finds worst; None while nobody asked."""
        if not self.second:
            return None
        worst = max(self.second, key=lambda one: (one.probability, one.raw_score))
        return dataclasses.replace(worst, hold=max(one.hold for one in self.second))

    def judge(
        self,
        policy: Policy,
        region: Region,
        drawn: Callable[[], float],
        second: Callable[[], SecondScore | None] | None = None,
    ) -> Judgement:
        """The policy's word.

        Args:
            policy: the rules.
            region: whose cut-offs apply.
            drawn: how likely the worst view is drawn, 0..1; asked only where the style decides.
            second: the second model's worst, asked only where it may change something; None: what
                is known of it here.
        """
        return judge(
            self.views,
            policy,
            region,
            lambda _worst: drawn(),
            is_small=self.is_small,
            flat=self.flat,
            doubt=self.doubt,
            second=second or (lambda: self.second_worst),
        )
