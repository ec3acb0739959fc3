"""Which cut-offs meet a target at the least cost? Exact search over what labelled pictures allow.

The approve cut-offs alone decide what is missed, the block cut-offs alone what is wrongly blocked,
and what lies between costs money. So each side shares its limit out between photos and drawings in
every way that no other is better than, and the best pair of a way of each is taken. Pure.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from worker.moderation.panel import SecondLook
from worker.moderation.policy import CutOffs, Policy
from worker.tools.accuracy import Bools, Floats
from worker.tools.figures import Rate
from worker.tools.money import month_yuan

#: Cut-offs tried for each style; more distinct probabilities than this are thinned evenly.
CANDIDATES = 400

#: Limits of false blocks and misses between which the frontier is drawn.
FRONTIER_LIMITS = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)

#: Pictures of a style and a label below which nothing is known of them: a cut-off found from fewer
#: would be noise, and from none it would decide everything.
FEWEST = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """Labelled pictures as arrays of the same length.

    Args:
        probability: calibrated, 0..1.
        explicit: the true labels.
        drawn: whose cut-offs apply.
        decided: approved by rule whatever the cut-offs are (flat pictures).
        vetoed: gray where the first model approves, for the second model says so.
        cleared: approved where the first model is not sure.
        joint: blocked where the first model is not sure.
        disputed: gray where the first model blocks.
    """

    probability: Floats
    explicit: Bools
    drawn: Bools
    decided: Bools
    vetoed: Bools
    cleared: Bools
    joint: Bools
    disputed: Bools


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traffic:
    """What is uploaded and what it costs.

    Args:
        uploads_per_day: pictures.
        explicit_share: share of them that is explicit, 0..1; data sets hardly ever have the true
            one, so it must be said.
        yuan_per_1000: price list by provider.
        route_yuan_per_1000: what the uploads' own regions pay.
    """

    uploads_per_day: float
    explicit_share: float
    yuan_per_1000: dict[str, float]
    route_yuan_per_1000: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """The target; shares 0..1. `cautious` holds the upper ends of the 95 % intervals to it."""

    false_blocks: float = 0.001
    misses: float = 0.02
    yuan_per_month: float = math.inf
    cautious: bool = False
    #: What money is in, for people.
    unit: str = "yuan"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lack:
    """A limit that the labelled pictures are too few to verify.

    Args:
        limit: which, in words.
        label: of the pictures that are lacking: explicit or harmless.
        have: how many there are.
        need: the fewest that could verify it; None: no number can.
    """

    limit: str
    label: str
    have: int
    need: int | None

    def __str__(self) -> str:
        there = f"there {'is' if self.have == 1 else 'are'} {self.have or 'none'}"
        if self.need is None:
            return f"{self.limit} is verified by no number of {self.label} pictures ({there})"
        return f"{self.limit} needs {self.need:,} {self.label} labelled pictures, {there}"

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """Cut-offs and what they would do.

    Args:
        second: the second model's numbers that they go with; None: the present ones.
        false_blocks: of the harmless pictures.
        misses: of the explicit ones.
        gray_share: of the traffic, explicit and harmless weighted by its explicit share.
        yuan_per_month: by provider, if every gray picture went there.
        route_yuan_per_month: if every one goes where its region's pictures go first.
    """

    photo: CutOffs
    drawn: CutOffs
    false_blocks: Rate
    misses: Rate
    gray_share: float
    calls_per_day: float
    yuan_per_month: dict[str, float]
    route_yuan_per_month: float
    second: SecondLook | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            **dataclasses.asdict(self),
            "false_blocks": self.false_blocks.to_json(),
            "misses": self.misses.to_json(),
            "provider_calls_per_day": self.calls_per_day,
        }


def apply(sample: Sample, photo: CutOffs, drawn: CutOffs, traffic: Traffic) -> Setting:
    """What a pair of cut-offs does to a sample, and what it would cost on the traffic."""
    low = np.where(sample.drawn, drawn.approve_below, photo.approve_below)
    high = np.where(sample.drawn, drawn.block_from, photo.block_from)
    below = sample.probability < low
    above = (sample.probability >= high) & ~below
    between = ~below & ~above
    approved = (below & ~sample.vetoed) | (between & sample.cleared) | sample.decided
    blocked = ((above & ~sample.disputed) | (between & sample.joint)) & ~approved
    gray = ~approved & ~blocked
    harmless = ~sample.explicit
    share = sum(
        weight * (gray & kind).sum() / kind.sum()
        for kind, weight in (
            (harmless, 1 - traffic.explicit_share),
            (sample.explicit, traffic.explicit_share),
        )
        if kind.any()
    )
    calls = float(traffic.uploads_per_day * share)
    return Setting(
        photo=photo,
        drawn=drawn,
        false_blocks=Rate(int((blocked & harmless).sum()), int(harmless.sum())),
        misses=Rate(int((approved & sample.explicit).sum()), int(sample.explicit.sum())),
        gray_share=float(share),
        calls_per_day=calls,
        yuan_per_month={n: month_yuan(calls, price) for n, price in traffic.yuan_per_1000.items()},
        route_yuan_per_month=month_yuan(calls, traffic.route_yuan_per_1000),
    )


def search(sample: Sample, present: Policy, traffic: Traffic, limits: Limits) -> Setting | None:
    """The cut-offs within the limits that leave the least gray; None where there are none.

    Where a style has fewer than `FEWEST` explicit pictures nothing is known of its misses, and its
    present approve cut-off stays; the same for harmless ones and the block cut-off. Among settings
    with the same gray, fewer wrong ones count. Cut-offs are rounded to six digits, towards gray.
    What a second model clears or blocks with the first is taken for wrong or right whatever the
    cut-offs are, so a limit is never passed, but with it less gray may be possible.
    """
    explicit, harmless = int(sample.explicit.sum()), int((~sample.explicit).sum())
    weights = np.where(
        sample.explicit,
        traffic.explicit_share / max(explicit, 1),
        (1 - traffic.explicit_share) / max(harmless, 1),
    )
    # Flat pictures are approved by rule: the explicit ones among them are missed in any case.
    lost = int((sample.explicit & (sample.decided | sample.cleared)).sum())
    hurt = int((~sample.explicit & sample.joint).sum())
    low = _side(
        sample,
        sample.explicit,
        weights,
        _most_hits(limits.misses, explicit, limits.cautious) - lost,
        (present.photo.approve_below, present.drawn.approve_below),
        below=True,
    )
    high = _side(
        sample,
        ~sample.explicit,
        weights,
        _most_hits(limits.false_blocks, harmless, limits.cautious) - hurt,
        (present.photo.block_from, present.drawn.block_from),
        below=False,
    )
    if not len(low.cuts) or not len(high.cuts):
        return None
    # Where the sides of a style overlap, any cut-off between them decides everything.
    all_of = [weights[(sample.drawn == style) & ~sample.decided].sum() for style in (False, True)]
    gain = np.minimum(low.gain[:, None, :] + high.gain[None, :, :], all_of).sum(axis=2)
    wrong = low.wrong[:, None] + high.wrong[None, :]
    fewest = np.where(gain >= gain.max() - 1e-12, wrong, wrong.max() + 1)
    i, j = np.unravel_index(int(np.argmin(fewest)), fewest.shape)
    photo, drawn = (
        _pair(float(low.cuts[i, s]), float(high.cuts[j, s]), low.fixed[s], high.fixed[s])
        for s in (0, 1)
    )
    found = apply(sample, photo, drawn, traffic)
    return found if found.route_yuan_per_month <= limits.yuan_per_month + 1e-9 else None


def lacking(sample: Sample, limits: Limits) -> list[Lack]:
    """What the labels are too few for, whatever the cut-offs do.

    A share is verified at the earliest by 3 / share pictures without one mistake among them; a gray
    share, and the money with it, by `FEWEST` of either label.

    Source: the rule of three, the upper end of a 95 % interval after no event (Hanley 1983).
    """
    explicit = int(sample.explicit.sum())
    counts = {"explicit": explicit, "harmless": len(sample.explicit) - explicit}
    found = []
    for label, share, name in (
        ("explicit", limits.misses, "missed"),
        ("harmless", limits.false_blocks, "false blocks"),
    ):
        need = math.ceil(3 / share - 1e-9) if share > 0 else None
        if share < 1 and (need is None or counts[label] < need):
            limit = f"{100 * share:.3g}% {name}"
            found.append(Lack(limit=limit, label=label, have=counts[label], need=need))
        if math.isfinite(limits.yuan_per_month) and counts[label] < FEWEST:
            limit = f"{limits.yuan_per_month:,.2f} {limits.unit} a month"
            found.append(Lack(limit=limit, label=label, have=counts[label], need=FEWEST))
    return found


def frontier(sample: Sample, present: Policy, traffic: Traffic) -> list[Setting]:
    """Settings of which none is better in everything, least gray first."""
    settings = []
    for misses in FRONTIER_LIMITS if sample.explicit.any() else (0.0,):
        for false_blocks in FRONTIER_LIMITS:
            limits = Limits(false_blocks=false_blocks, misses=misses)
            found = search(sample, present, traffic, limits)
            if found is not None:
                settings.append(found)
    best = [one for one in settings if not any(_beats(other, one) for other in settings)]
    unique = {_merits(one): one for one in reversed(best)}
    return sorted(unique.values(), key=lambda s: (s.gray_share, s.misses.hits, s.false_blocks.hits))


def _beats(one: Setting, other: Setting) -> bool:
    a, b = _merits(one), _merits(other)
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


def _merits(one: Setting) -> tuple[float, int, int]:
    return one.gray_share, one.misses.hits, one.false_blocks.hits


def _most_hits(limit: float, total: int, cautious: bool) -> int:
    """Most hits of `total` within a share; cautious: with the interval's upper end within it."""
    if total == 0:
        return 0  # nothing can be wrong, and no cut-off moves
    if not cautious:
        return math.floor(limit * total + 1e-9)
    hits = -1
    while hits < total and Rate(hits + 1, total).interval[1] <= limit:
        hits += 1
    return hits


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Side:
    """Ways to share the wrong ones that a limit allows between photos and drawings.

    Args:
        cuts: the last cut-off within what is shared out, (n, 2).
        gain: the weight that each decides, (n, 2).
        wrong: how many wrong ones both decide together, (n,).
        fixed: of photos, of drawings: too little is known to move the present cut-off.
    """

    cuts: Floats
    gain: Floats
    wrong: npt.NDArray[np.int64]
    fixed: tuple[bool, bool]


def _side(
    sample: Sample,
    wrong: Bools,
    weights: Floats,
    most: int,
    present: tuple[float, float],
    *,
    below: bool,
) -> _Side:
    """Every way to decide with at most `most` wrong ones that no other way is better than."""
    tables, fixed = [], []
    for is_drawn, cut in zip((False, True), present, strict=True):
        settled = sample.vetoed | sample.cleared if below else sample.disputed | sample.joint
        mine = (sample.drawn == is_drawn) & ~sample.decided & ~settled
        known = int((mine & wrong).sum()) >= FEWEST
        cuts = candidates(sample.probability[mine]) if known else np.asarray([cut])
        tables.append(
            _table(sample.probability[mine], wrong[mine], weights[mine], cuts, below=below)
        )
        fixed.append(not known)
    (cuts_a, wrong_a, gain_a), (cuts_b, wrong_b, gain_b) = tables
    last = np.searchsorted(wrong_b, most - wrong_a, side="right") - 1
    a = np.flatnonzero(last >= 0)
    b = last[a]
    return _Side(
        cuts=np.column_stack((cuts_a[a], cuts_b[b])),
        gain=np.column_stack((gain_a[a], gain_b[b])),
        wrong=wrong_a[a] + wrong_b[b],
        fixed=(fixed[0], fixed[1]),
    )


def _table(
    probability: Floats, wrong: Bools, weights: Floats, cuts: Floats, *, below: bool
) -> tuple[Floats, npt.NDArray[np.int64], Floats]:
    """(cut-offs, how many wrong ones each decides, how much weight each decides), least first."""
    order = np.argsort(probability)
    ranked = probability[order]
    places = np.searchsorted(ranked, cuts, side="left")
    wrongs = np.concatenate(([0], np.cumsum(wrong[order])))
    mass = np.concatenate(([0.0], np.cumsum(weights[order])))
    if below:
        return cuts, wrongs[places], mass[places]
    return cuts[::-1], (wrongs[-1] - wrongs[places])[::-1], (mass[-1] - mass[places])[::-1]


def candidates(probability: Floats) -> Floats:
    """Cut-offs half-way between neighbours, with 0 and 1; thinned evenly if there are many."""
    values = np.unique(np.clip(probability, 0, 1))
    cuts = np.concatenate(([0.0], (values[1:] + values[:-1]) / 2, [1.0]))
    if len(cuts) <= CANDIDATES:
        return cuts
    chosen = np.unique(np.linspace(0, len(cuts) - 1, CANDIDATES).astype(int))
    thinned: Floats = cuts[chosen]
    return thinned


def _pair(low: float, high: float, low_fixed: bool, high_fixed: bool) -> CutOffs:
    """Where the two sides overlap, nothing is gray, and any cut between them keeps both limits."""
    if low > high:
        low = high = low if low_fixed else high if high_fixed else (low + high) / 2
    return CutOffs(approve_below=_round_down(low), block_from=_round_up(high))


def _round_down(value: float) -> float:
    return math.floor(value * 1e6) / 1e6


def _round_up(value: float) -> float:
    return min(1.0, math.ceil(value * 1e6) / 1e6)


def policy_toml(found: Setting, present: Policy, comment: Sequence[str]) -> str:
    """A policy file with what was found; rules for animations are kept.

    Numbers of a second model are written where the present policy has them, or where others were
    found.
    """
    second = found.second or present.second
    policy = Policy(
        photo=found.photo,
        drawn=found.drawn,
        frames_to_block=present.frames_to_block,
        second=second,
        names_second=present.names_second or second != present.second,
    )
    return policy.to_toml(comment)
