"""What would another policy have decided? The ledger's first looks, judged again.

The ledger keeps what the model said of every view, so no picture is scored again for a new policy.
Only the style may be missing, where the present policy did not need it; then the caller is asked.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from producer.contract import Region, Verdict
from worker.policy import Policy, ViewScore, judge

_FRAME = re.compile(r"frame (\d+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """One upload whose first verdict would differ."""

    upload_id: str
    image: str
    sha256: str
    probability: float
    style: str
    before: Verdict
    after: Verdict


@dataclasses.dataclass(frozen=True, kw_only=True)
class WhatIf:
    """How many first looks stay and how many change, `before -> after`.

    Args:
        unknown: uploads for which the style decides and cannot be told any more.
        other_bundle: uploads of another bundle than the last one; left out.
    """

    looked: int
    counts: dict[tuple[Verdict, Verdict], int]
    changes: list[Change]
    unknown: int
    other_bundle: int
    bundle: str

    def newly(self, verdict: Verdict) -> int:
        """How many get this verdict that had another."""
        return sum(n for (a, b), n in self.counts.items() if b == verdict and a != b)

    def gray_shares(self) -> tuple[float, float]:
        """(before, after), 0..1."""
        before = sum(n for (a, _), n in self.counts.items() if a == Verdict.GRAY)
        after = sum(n for (_, b), n in self.counts.items() if b == Verdict.GRAY)
        return before / max(self.looked, 1), after / max(self.looked, 1)

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
        most_changes: changes that are kept one by one; all are counted.
    """
    rows = list(rows)
    bundle = rows[-1]["bundle"] if rows else ""
    mine = [row for row in rows if row["bundle"] == bundle]
    counts: Counter[tuple[Verdict, Verdict]] = Counter()
    changes: list[Change] = []
    unknown = 0
    for row in mine:
        try:
            before = judge_row(row, present, drawn_probability)
            after = judge_row(row, proposed, drawn_probability)
        except _StyleUnknown:
            unknown += 1
            continue
        counts[before, after] += 1
        if before != after and len(changes) < most_changes:
            changes.append(
                Change(
                    upload_id=row["upload_id"],
                    image=images.get(row["upload_id"], ""),
                    sha256=row["sha256"],
                    probability=row["probability"],
                    style=row["style"],
                    before=before,
                    after=after,
                )
            )
    return WhatIf(
        looked=sum(counts.values()),
        counts=dict(counts),
        changes=changes,
        unknown=unknown,
        other_bundle=len(rows) - len(mine),
        bundle=bundle,
    )


class _StyleUnknown(Exception):
    """Raised when the style decides and nobody knows it."""


def judge_row(
    row: dict[str, Any],
    policy: Policy,
    drawn_probability: Callable[[dict[str, Any]], float | None],
) -> Verdict:
    """The verdict of a policy on one first look of the ledger."""

    def drawn(_view: ViewScore) -> float:
        if row["style"]:
            return 1.0 if row["style"] == "drawn" else 0.0
        found = drawn_probability(row)
        if found is None:
            raise _StyleUnknown
        return found

    return judge(_views(row), policy, Region(row["region"] or "domestic"), drawn).verdict


def _views(row: dict[str, Any]) -> list[ViewScore]:
    """Every view that was scored; a verdict from the cache has only the worst one."""
    views = []
    for label, raw, probability in row["detail"].get("views") or ():
        found = _FRAME.match(label)
        frame = int(found.group(1)) if found else 0
        views.append(ViewScore(raw_score=raw, probability=probability, frame=frame))
    if views:
        return views
    frame = int(row["detail"].get("frame") or 0)
    return [
        ViewScore(
            raw_score=row["raw_score"] or 0.0, probability=row["probability"] or 0.0, frame=frame
        )
    ]
