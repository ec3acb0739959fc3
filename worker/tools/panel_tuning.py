"""Which numbers of the second model go best with which cut-offs? Search over the panel's numbers.

For every set of numbers the cut-offs are searched exactly (tuning.py); the numbers themselves are
moved one at a time as long as that leaves less gray within the limits. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from worker.moderation.panel import SecondLook
from worker.moderation.policy import Policy
from worker.tools.tuning import FEWEST, Limits, Sample, Setting, Traffic, search

#: Probabilities tried for the numbers that act on one; the present value is tried too.
STEPS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.6, 0.75, 0.9, 1.0)

#: (block_first, block_second) tried: what both find explicit is blocked; 1 and 1 for never.
TOGETHER = ((1.0, 1.0), (0.95, 0.35), (0.9, 0.5), (0.8, 0.5), (0.8, 0.8), (0.5, 0.9))

#: Times that all numbers are gone through.
ROUNDS = 3


def search_both(
    sample_of: Callable[[SecondLook], Sample], present: Policy, traffic: Traffic, limits: Limits
) -> Setting | None:
    """The cut-offs and numbers within the limits that leave the least gray; None for none.

    A number moves only where the labels say what it does: what clears, or vetoes less, only with
    `FEWEST` explicit pictures of the style it is about, what blocks only with as many harmless
    ones. Whatever the first and the second model say of gore is left as it is.

    Args:
        sample_of: the labelled pictures under a set of numbers.
        present: the policy to start from.
        traffic: what is uploaded and what it costs.
        limits: the target.
    """
    rules = present.second
    best = _found(sample_of(rules), present, rules, traffic, limits)
    movable = _movable(sample_of(rules)) if rules.ask != "off" else []
    for _ in range(ROUNDS):
        before = rules
        for names in movable:
            for tried in _neighbours(rules, names):
                setting = _found(sample_of(tried), present, tried, traffic, limits)
                if setting is not None and (best is None or _merit(setting) < _merit(best)):
                    best, rules = setting, tried
        if rules == before:
            break
    return best


def _found(
    sample: Sample, present: Policy, rules: SecondLook, traffic: Traffic, limits: Limits
) -> Setting | None:
    setting = search(sample, present, traffic, limits)
    return dataclasses.replace(setting, second=rules) if setting else None


def _movable(sample: Sample) -> list[tuple[str, ...]]:
    """Names of the numbers that the labels say something about; those of a tuple move together."""
    photos, drawings = (
        int((sample.explicit & (sample.drawn == style)).sum()) >= FEWEST for style in (False, True)
    )
    names: list[tuple[str, ...]] = []
    if photos:
        names.append(("veto_from",))
    if drawings:
        names.append(("drawn_veto_from",))
    if photos and drawings:
        names += [("clear_below",), ("clear_up_to",)]
    if int((~sample.explicit).sum()) >= FEWEST:
        names += [("block_needs",), ("block_first", "block_second")]
    return names


def _neighbours(rules: SecondLook, names: tuple[str, ...]) -> Iterator[SecondLook]:
    """Sound sets of numbers that differ in these only."""
    values = TOGETHER if len(names) == 2 else tuple((step,) for step in STEPS)
    for value in values:
        changed = dict(zip(names, value, strict=True))
        tried = dataclasses.replace(rules, **changed)  # type: ignore[arg-type]
        if tried != rules and not tried.problem():
            yield tried


def _merit(setting: Setting) -> tuple[float, int]:
    """Less is better: gray, then what is wrong."""
    return round(setting.gray_share, 9), setting.misses.hits + setting.false_blocks.hits
