"""What would another policy have decided? The ledger's first looks, judged again.

The ledger keeps what the model said of every view, so no picture is scored again for a new policy.
Only the style may be missing, where the present policy did not need it; then the caller is asked.
Used by `avatarmod tune --what-if` and by the console.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from producer.contract import Region, Verdict
from worker.moderation.panel import SecondScore
from worker.moderation.policy import Policy, ViewScore
from worker.moderation.scored import Scored

_FRAME = re.compile(r"frame (\d+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """One upload whose first verdict would differ; `second`: the second model's probability."""

    upload_id: str
    image: str
    sha256: str
    probability: float
    style: str
    before: Verdict
    after: Verdict
    second: float | None = None


@dataclasses.dataclass(kw_only=True)
class WhatIf:
    """How many first looks stay and how many change, `before -> after`.

    Args:
        unknown: uploads for which the style or the second model decides, and what it would say
            cannot be told any more.
        other_bundle: uploads of another bundle, or pair of bundles, than the last one; left out.
    """

    bundle: str = ""
    counts: Counter[tuple[Verdict, Verdict]] = dataclasses.field(default_factory=Counter)
    changes: list[Change] = dataclasses.field(default_factory=list)
    unknown: int = 0
    other_bundle: int = 0

    @property
    def looked(self) -> int:
        """Uploads that were judged twice."""
        return self.counts.total()

    def newly(self, verdict: Verdict) -> int:
        """How many get this verdict that had another."""
        return sum(n for (a, b), n in self.counts.items() if b == verdict and a != b)

    def totals(self) -> tuple[Counter[Verdict], Counter[Verdict]]:
        """Uploads by verdict, (before, after)."""
        before, after = Counter[Verdict](), Counter[Verdict]()
        for (a, b), number in self.counts.items():
            before[a] += number
            after[b] += number
        return before, after

    def gray_shares(self) -> tuple[float, float]:
        """(before, after), 0..1."""
        before, after = (total[Verdict.GRAY] / max(self.looked, 1) for total in self.totals())
        return before, after

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        before, after = self.gray_shares()
        return {
            "bundle": self.bundle,
            "looked": self.looked,
            "unknown": self.unknown,
            "other_bundle": self.other_bundle,
            "gray_share": {"before": before, "after": after},
            **{f"newly_{verdict}": self.newly(verdict) for verdict in Verdict},
            "changes": [dataclasses.asdict(change) for change in self.changes],
        }


def what_if(
    rows: Iterable[dict[str, Any]],
    images: dict[str, str],
    present: Policy,
    proposed: Policy,
    drawn_probability: Callable[[dict[str, Any]], float | None],
    *,
    second_score: Callable[[dict[str, Any], str], SecondScore | None] = lambda _row, _name: None,
    most_changes: int = 10_000,
) -> WhatIf:
    """Judge the ledger's first looks by two policies.

    Args:
        rows: what `LedgerReads.judged` gives.
        images: upload id to image reference.
        present: the policy in use.
        proposed: the one to compare it with.
        drawn_probability: a row to 0..1, or None where it cannot be told; asked only when a policy
            needs it and the ledger does not have it.
        second_score: the same of a second model, by the name of its bundle.
        most_changes: changes that are kept one by one; all are counted.
    """
    rows = list(rows)
    found = WhatIf(bundle=rows[-1]["bundle"] if rows else "")
    second = next(filter(None, map(_second_bundle, reversed(rows))), "")
    for row in rows:
        if row["bundle"] != found.bundle or _second_bundle(row) not in ("", second):
            found.other_bundle += 1
            continue
        try:
            before = judge_row(row, present, drawn_probability, second_score)
            after = judge_row(row, proposed, drawn_probability, second_score)
        except _Unknown:
            found.unknown += 1
            continue
        found.counts[before, after] += 1
        if before != after and len(found.changes) < most_changes:
            taken = {name: row[name] for name in ("upload_id", "sha256", "probability", "style")}
            image = images.get(row["upload_id"], "")
            said = row["detail"].get("second_probability")
            second_said = float(said) if said else None
            found.changes.append(
                Change(**taken, image=image, before=before, after=after, second=second_said)
            )
    return found


class _Unknown(Exception):
    """Raised when the style or the second model decides and nobody knows what it says."""


def judge_row(
    row: dict[str, Any],
    policy: Policy,
    drawn_probability: Callable[[dict[str, Any]], float | None],
    second_score: Callable[[dict[str, Any], str], SecondScore | None] = lambda _row, _name: None,
) -> Verdict:
    """The verdict of a policy on one first look of the ledger."""

    def drawn() -> float:
        found = {"drawn": 1.0, "photo": 0.0}.get(row["style"])
        found = drawn_probability(row) if found is None else found
        if found is None:
            raise _Unknown
        return found

    def second() -> SecondScore:
        name = policy.second.bundle
        is_same = _second_bundle(row).partition("@")[0] == Path(name).name
        found = scored.second_worst if is_same else second_score(row, name)
        if found is None:
            raise _Unknown
        return found

    scored = scored_of(row)
    region = Region(row["region"] or "domestic")
    return scored.judge(policy, region, drawn, second).verdict


def _second_bundle(row: dict[str, Any]) -> str:
    return str(row["detail"].get("second_bundle", ""))


def _second_of(detail: dict[str, Any]) -> tuple[SecondScore, ...]:
    """What a second model said at worst; empty where none did."""
    if not detail.get("second_probability"):
        return ()
    return (
        SecondScore(
            probability=float(detail["second_probability"]),
            raw_score=float(detail["second_raw"]),
            hold=float(detail.get("second_hold") or 0),
        ),
    )


def scored_of(row: dict[str, Any]) -> Scored:
    """What the ledger kept of a first look; a verdict from the cache has only the worst view."""
    detail = row["detail"]
    views = []
    for label, raw, probability in detail.get("views") or ():
        found = _FRAME.match(label)
        frame = int(found.group(1)) if found else 0
        views.append(ViewScore(raw_score=raw, probability=probability, frame=frame))
    if not views:
        raw, probability = row["raw_score"] or 0.0, row["probability"] or 0.0
        frame = int(detail.get("frame") or 0)
        views = [ViewScore(raw_score=raw, probability=probability, frame=frame)]
    return Scored(
        sha256=row["sha256"],
        views=tuple(views),
        second=_second_of(detail),
        is_small=row["style"] == "small" or bool(detail.get("small")),
        doubt=detail.get("doubt", ""),
    )
