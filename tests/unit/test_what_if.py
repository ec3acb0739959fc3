"""The ledger's first looks judged by two policies."""

from __future__ import annotations

from typing import Any

import pytest

from producer.contract import Verdict
from worker.policy import CutOffs, Policy
from worker.tools.what_if import what_if

PRESENT = Policy()
STRICT = Policy(
    photo=CutOffs(approve_below=0.01, block_from=0.5),
    drawn=CutOffs(approve_below=0.01, block_from=0.5),
)


def row(number: int, probability: float, *, style: str = "", **detail: Any) -> dict[str, Any]:
    return {
        "upload_id": f"u{number}",
        "sha256": f"{number:064x}",
        "bundle": "b@1",
        "region": "domestic",
        "style": style,
        "raw_score": probability,
        "probability": probability,
        "detail": detail,
    }


def never(_row: dict[str, Any]) -> float:
    return pytest.fail("the style was asked for")


def test_changes_are_counted_and_named() -> None:
    """Clear becomes gray, gray becomes blocked, the rest stays."""
    rows = [row(0, 0.001), row(1, 0.02), row(2, 0.6), row(3, 0.99)]
    found = what_if(rows, {"u1": "pictures/u1"}, PRESENT, STRICT, never)
    assert found.counts == {
        (Verdict.APPROVED, Verdict.APPROVED): 1,
        (Verdict.APPROVED, Verdict.GRAY): 1,
        (Verdict.GRAY, Verdict.BLOCKED): 1,
        (Verdict.BLOCKED, Verdict.BLOCKED): 1,
    }
    assert [(c.upload_id, c.image, c.after) for c in found.changes] == [
        ("u1", "pictures/u1", Verdict.GRAY),
        ("u2", "", Verdict.BLOCKED),
    ]
    assert found.to_json()["newly_blocked"] == 1
    assert found.gray_shares() == (0.25, 0.25)


def test_the_style_is_asked_only_where_it_decides() -> None:
    """0.04 is clear for a photo and gray for a drawing by the built-in policy."""
    asked: list[str] = []

    def drawn(one: dict[str, Any]) -> float | None:
        asked.append(one["upload_id"])
        return {"u1": 1.0, "u2": None}[one["upload_id"]]

    rows = [row(0, 0.04, style="photo"), row(1, 0.04), row(2, 0.04), row(3, 0.5)]
    found = what_if(rows, {}, PRESENT, PRESENT, drawn)
    assert set(asked) == {"u1", "u2"}
    assert (found.looked, found.unknown) == (3, 1)


def test_one_frame_of_an_animation_is_judged_by_its_views() -> None:
    """A single frame over the block cut-off stays gray, as the policy's rule says."""
    views = [["frame 0", 0.1, 0.1], ["frame 3 over black", 0.99, 0.99]]
    found = what_if([row(0, 0.99, views=views)], {}, PRESENT, STRICT, never)
    assert found.counts == {(Verdict.GRAY, Verdict.GRAY): 1}


def test_other_bundles_are_left_out() -> None:
    """Probabilities of two models do not mix; the last one counts."""
    old = {**row(0, 0.5), "bundle": "a@1"}
    found = what_if([old, row(1, 0.5)], {}, PRESENT, STRICT, never)
    assert (found.looked, found.other_bundle, found.bundle) == (1, 1, "b@1")


def test_an_empty_ledger_changes_nothing() -> None:
    """No division by zero."""
    assert what_if([], {}, PRESENT, STRICT, never).gray_shares() == (0.0, 0.0)
