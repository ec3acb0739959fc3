"""How right a bundle is on labelled pictures: overall, and by style, size and format.

Input are labelled pictures and a scorer; output is an `Evaluation`, drawn by evaluation_page.py.
Where only harmless pictures were given, only the false-alarm side is known, and that is said.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from sklearn import metrics

from producer.contract import Region, Verdict
from producer.errors import ConfigurationError, ModerationError
from producer.plain import counted
from worker.moderation.panel import SecondScore
from worker.moderation.policy import Judgement, Policy, style_name
from worker.moderation.scored import Scored
from worker.tools.accuracy import Bools, Floats, Quality, as_arrays
from worker.tools.dataset import Labelled
from worker.tools.figures import Rate
from worker.tools.misses import MissRate
from worker.tools.scoring import Scorer

#: Lower edges of the size bands, pixels of the shorter side.
SIZE_BANDS_PX = (0, 80, 160, 320)

#: Where labels of the ledger come from, as groups are called.
SAMPLES = {"audit": "audits", "gray": "gray zone", "": "data set"}

#: Worst mistakes of each kind that are shown.
MISTAKES = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """One picture: its label, what the model said, what the policy makes of it.

    Args:
        drawn: whether the cut-offs for drawings apply to it, where they matter.
        second: what the second model says, where the policy has one; asked of every picture.
        style: under which it is counted: as labelled, else `flat`, `drawn` or `photo`.
    """

    labelled: Labelled
    scored: Scored
    judgement: Judgement
    drawn: bool
    style: str
    second: SecondScore | None = None

    @property
    def explicit(self) -> bool:
        """The true label."""
        return self.labelled.explicit

    @property
    def probability(self) -> float:
        """Of the worst view; 0 where no model looked."""
        return self.scored.probability

    @property
    def verdict(self) -> Verdict:
        """What a worker would say."""
        return self.judgement.verdict

    @property
    def size_band(self) -> str:
        """For example `80 to 159 px`."""
        side_px = min(self.scored.width_px, self.scored.height_px)
        low = max(edge for edge in SIZE_BANDS_PX if edge <= side_px)
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
    quality: Quality
    false_blocks: Rate
    false_approvals: Rate
    gray: Rate

    @classmethod
    def of(cls, judged: Sequence[Judged]) -> Measures:
        """Measure a group of at least one picture."""
        labels, scores = arrays(judged)
        explicit = [j for j in judged if j.explicit]
        harmless = [j for j in judged if not j.explicit]
        both = bool(explicit) and bool(harmless)
        return cls(
            harmless=len(harmless),
            explicit=len(explicit),
            auroc=float(metrics.roc_auc_score(labels, scores)) if both else None,
            average_precision=float(metrics.average_precision_score(labels, scores))
            if both
            else None,
            quality=Quality.of(labels, scores),
            false_blocks=_rate(harmless, Verdict.BLOCKED),
            false_approvals=_rate(explicit, Verdict.APPROVED),
            gray=_rate(judged, Verdict.GRAY),
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        found = {**dataclasses.asdict(self), **dataclasses.asdict(self.quality)}
        del found["quality"]
        return {
            **found,
            "false_blocks": self.false_blocks.to_json(),
            "false_approvals": self.false_approvals.to_json(),
            "gray": self.gray.to_json(),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One bundle on one dataset.

    Args:
        bundle: the first model's.
        second: the second model's; empty where one judges alone.
        skipped: pictures that the workers would reject, by reason; they count nowhere else.
        duplicates: pictures left out because the same bytes came before.
        groups: measures by (kind of group, its name); ("all", "all") first.
    """

    bundle: str
    second: str
    policy: str
    judged: list[Judged]
    skipped: dict[str, int]
    duplicates: int
    groups: dict[tuple[str, str], Measures]

    @property
    def judges(self) -> str:
        """The bundle or the pair, for people."""
        return f"{self.bundle} + {self.second}" if self.second else self.bundle

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
        return found + self._biases()

    def _biases(self) -> list[str]:
        """What labels of the ledger are a sample of."""
        samples = Counter(j.labelled.sample for j in self.judged)
        found = []
        if samples["gray"]:
            found.append(
                f"{counted(samples['gray'], 'label')} of the ledger exist only because these "
                "pictures were gray or overruled: their rates are those of the difficult ones, not "
                "of all uploads."
            )
        if samples["audit"]:
            explicit = sum(j.explicit for j in self.judged if j.labelled.sample == "audit")
            rate = MissRate(explicit, samples["audit"])
            found.append(
                f"{counted(rate.total, 'label')} come from audits, a fair sample of the approvals: "
                f"{rate} of these pictures are explicit (exact 95 % interval)."
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "bundle": self.bundle,
            "second": self.second or None,
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
    skipped: Counter[str] = Counter()
    seen: set[str] = set()
    duplicates = 0
    for done, sample in enumerate(samples, start=1):
        progress(done)
        try:
            data = sample.read()
            scored = scorer.score(data)
            if scored.sha256 in seen:
                duplicates += 1
                continue
            judged.append(_judge(sample, data, scored, scorer, policy, region))
            seen.add(scored.sha256)
        except (OSError, ModerationError) as error:
            skipped[getattr(error, "code", "unreadable")] += 1
    if not judged:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in skipped.items())
        raise ConfigurationError(
            f"none of {counted(len(samples), 'picture')} could be scored: {reasons}"
        )
    return Evaluation(
        bundle=scorer.bundle.id,
        second=scorer.second_id,
        policy=policy.version,
        judged=judged,
        skipped=dict(skipped),
        duplicates=duplicates,
        groups=_groups(judged),
    )


def _judge(
    sample: Labelled, data: bytes, scored: Scored, scorer: Scorer, policy: Policy, region: Region
) -> Judged:
    drawn = scorer.drawn(data, scored) if scored.views else 0.0
    scored = dataclasses.replace(scored, drawn=drawn)
    return Judged(
        labelled=sample,
        scored=scored,
        judgement=scorer.judge(data, scored, policy, region),
        second=scorer.second(data, scored),
        drawn=scored.is_small or style_name(drawn) == "drawn",
        style=sample.style or ("flat" if scored.flat else style_name(drawn)),
    )


def arrays(judged: Sequence[Judged]) -> tuple[Bools, Floats]:
    """(true labels, probabilities)."""
    return as_arrays([j.explicit for j in judged], [j.probability for j in judged])


def _rate(judged: Sequence[Judged], verdict: Verdict) -> Rate:
    return Rate(sum(j.verdict == verdict for j in judged), len(judged))


def _groups(judged: Sequence[Judged]) -> dict[tuple[str, str], Measures]:
    keys: dict[str, Callable[[Judged], str]] = {
        "all": lambda _: "all",
        "style": lambda j: j.style,
        "size": lambda j: j.size_band,
        "format": lambda j: j.scored.format,
    }
    if any(j.labelled.sample for j in judged):
        keys["labels"] = lambda j: SAMPLES[j.labelled.sample]
    groups: dict[tuple[str, str], list[Judged]] = {}
    for by, key in keys.items():
        for one in sorted(judged, key=lambda j: _natural(key(j))):
            groups.setdefault((by, key(one)), []).append(one)
    return {key: Measures.of(members) for key, members in groups.items()}


def _natural(name: str) -> tuple[int, str]:
    first = name.partition(" ")[0]
    return (int(first), name) if first.isdigit() else (-1, name)
