"""How right a bundle is on labelled pictures: overall, and by style, size and format.

Input are labelled pictures and a scorer; output is an `Evaluation`, drawn by evaluation_page.py.
Where only harmless pictures were given, only the false-alarm side is known, and that is said.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from producer.contract import Region, Verdict
from producer.errors import ConfigurationError, InvalidInput, ModerationError
from worker.bundle import Bundle
from worker.policy import Policy
from worker.tools import accuracy
from worker.tools.accuracy import Rate
from worker.tools.dataset import Labelled
from worker.tools.scoring import Scored, Scorer
from worker.tools.words import counted

#: Lower edges of the size bands, pixels of the shorter side.
SIZE_BANDS_PX = (0, 80, 160, 320)

#: Worst mistakes of each kind that are shown.
MISTAKES = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """One picture: its label, what the model said, what the policy makes of it."""

    labelled: Labelled
    scored: Scored
    probability: float
    verdict: Verdict
    style: str

    @property
    def explicit(self) -> bool:
        """The true label."""
        return self.labelled.explicit

    @property
    def size_band(self) -> str:
        """For example `80 to 159 px`."""
        low = max(edge for edge in SIZE_BANDS_PX if edge <= self.scored.side_px)
        above = [edge for edge in SIZE_BANDS_PX if edge > low]
        return f"{low} to {above[0] - 1} px" if above else f"{low} px and more"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measures:
    """What can be said of a group of pictures; None where one kind of label is missing.

    Args:
        false_blocks: harmless pictures that were blocked.
        false_approvals: explicit pictures that were approved.
        gray: pictures that need a second opinion.
    """

    harmless: int
    explicit: int
    auroc: float | None
    average_precision: float | None
    brier: float
    log_loss: float
    calibration_error: float
    false_blocks: Rate
    false_approvals: Rate
    gray: Rate

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            **dataclasses.asdict(self),
            "false_blocks": self.false_blocks.to_json(),
            "false_approvals": self.false_approvals.to_json(),
            "gray": self.gray.to_json(),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One bundle on one dataset.

    Args:
        skipped: pictures that the workers would reject, by reason; they count nowhere else.
        duplicates: pictures left out because the same bytes came before.
        groups: measures by (kind of group, its name); ("all", "all") first.
    """

    bundle: str
    policy: str
    judged: list[Judged]
    skipped: dict[str, int]
    duplicates: int
    groups: dict[tuple[str, str], Measures]

    @property
    def overall(self) -> Measures:
        """All pictures together."""
        return self.groups["all", "all"]

    def mistakes(self) -> tuple[list[Judged], list[Judged]]:
        """(harmless scored highest, explicit scored lowest): not clear in the right direction."""
        harmless = [j for j in self.judged if not j.explicit and j.verdict != Verdict.APPROVED]
        explicit = [j for j in self.judged if j.explicit and j.verdict != Verdict.BLOCKED]
        harmless.sort(key=lambda j: -j.probability)
        explicit.sort(key=lambda j: j.probability)
        return harmless[:MISTAKES], explicit[:MISTAKES]

    def left_out(self) -> str:
        """Pictures that count nowhere, in words; empty where there are none."""
        found = [f"{count:,} {reason}" for reason, count in self.skipped.items()]
        if self.duplicates:
            found.append(f"{self.duplicates:,} the same as another")
        return ", ".join(found)

    def unknowns(self) -> list[str]:
        """What these pictures cannot tell, in words."""
        found = []
        all_ = self.overall
        if not all_.explicit:
            found.append(
                "No explicit picture was given: misses, AUROC, average precision and every claim "
                "about what is let through cannot be known. Only false alarms are measured."
            )
        elif not all_.harmless:
            found.append(
                "No harmless picture was given: false alarms, the gray share and AUROC cannot be "
                "known."
            )
        for name, rate, what in (
            ("harmless", all_.false_blocks, "false blocks"),
            ("explicit", all_.false_approvals, "misses"),
        ):
            if rate.total and not rate.hits:
                among = counted(rate.total, f"{name} picture")
                found.append(
                    f"No {what} among {among}: the true rate is below {rate.interval[1]:.2%} with "
                    "95 % confidence, not 0."
                )
        if {j.labelled.labelled_by.partition(":")[0] for j in self.judged} & {"operator", "review"}:
            found.append(
                "Labels from the ledger exist only for pictures that were gray or overruled: rates "
                "are those of the difficult ones, not of all uploads."
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "bundle": self.bundle,
            "policy": self.policy,
            "pictures": len(self.judged),
            "duplicates": self.duplicates,
            "skipped": self.skipped,
            "groups": [
                {"by": by, "name": name, **measures.to_json()}
                for (by, name), measures in self.groups.items()
            ],
            "unknown": self.unknowns(),
        }


def evaluate(
    scorer: Scorer,
    samples: Sequence[Labelled],
    policy: Policy,
    region: Region,
    *,
    progress: Callable[[int], object] = lambda done: None,
) -> Evaluation:
    """Score every picture once and measure.

    Raises:
        ConfigurationError: no picture could be scored.
    """
    judged: list[Judged] = []
    skipped: dict[str, int] = {}
    seen: set[str] = set()
    duplicates = 0
    for done, sample in enumerate(samples, start=1):
        try:
            scored = scorer.score(sample.read())
        except (InvalidInput, OSError, ModerationError) as error:
            reason = error.code if isinstance(error, ModerationError) else "unreadable"
            skipped[reason] = skipped.get(reason, 0) + 1
            progress(done)
            continue
        progress(done)
        if scored.sha256 in seen:
            duplicates += 1
            continue
        seen.add(scored.sha256)
        judged.append(_judge(sample, scored, scorer.bundle, policy, region))
    if not judged:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in skipped.items())
        raise ConfigurationError(
            f"none of {counted(len(samples), 'picture')} could be scored: {reasons}"
        )
    return Evaluation(
        bundle=scorer.bundle.id,
        policy=policy.version,
        judged=judged,
        skipped=skipped,
        duplicates=duplicates,
        groups=_groups(judged),
    )


def _judge(
    sample: Labelled, scored: Scored, bundle: Bundle, policy: Policy, region: Region
) -> Judged:
    judgement = scored.judge(bundle.calibration, policy, region, sample.style)
    drawn = scored.drawn >= 0.5
    return Judged(
        labelled=sample,
        scored=scored,
        probability=scored.probability(bundle.calibration),
        verdict=judgement.verdict if judgement else Verdict.APPROVED,
        style=sample.style or ("flat" if scored.flat else "drawn" if drawn else "photo"),
    )


def measure(judged: Sequence[Judged]) -> Measures:
    """Every measure of a group of at least one picture."""
    labels, scores = accuracy.as_arrays(
        [j.explicit for j in judged], [j.probability for j in judged]
    )
    explicit = [j for j in judged if j.explicit]
    harmless = [j for j in judged if not j.explicit]
    both = bool(explicit) and bool(harmless)
    return Measures(
        harmless=len(harmless),
        explicit=len(explicit),
        auroc=accuracy.roc_auc(labels, scores) if both else None,
        average_precision=accuracy.average_precision(labels, scores) if both else None,
        brier=accuracy.brier(labels, scores),
        log_loss=accuracy.log_loss(labels, scores),
        calibration_error=accuracy.calibration_error(labels, scores),
        false_blocks=_rate(harmless, Verdict.BLOCKED),
        false_approvals=_rate(explicit, Verdict.APPROVED),
        gray=_rate(judged, Verdict.GRAY),
    )


def _rate(judged: Sequence[Judged], verdict: Verdict) -> Rate:
    return Rate(sum(j.verdict == verdict for j in judged), len(judged))


def _groups(judged: Sequence[Judged]) -> dict[tuple[str, str], Measures]:
    groups: dict[tuple[str, str], list[Judged]] = {("all", "all"): list(judged)}
    keys: tuple[tuple[str, Callable[[Judged], str]], ...] = (
        ("style", lambda j: j.style),
        ("size", lambda j: j.size_band),
        ("format", lambda j: j.scored.format),
    )
    for by, key in keys:
        for name in sorted({key(j) for j in judged}, key=_natural):
            groups[by, name] = [j for j in judged if key(j) == name]
    return {key: measure(members) for key, members in groups.items()}


def _natural(name: str) -> tuple[int, str]:
    first = name.split()[0]
    return (int(first), name) if first.isdigit() else (-1, name)
