"""The ledger's first looks judged by two policies."""

from __future__ import annotations

from typing import Any

import pytest

from producer.contract import Verdict
from worker.moderation.panel import SecondLook, SecondScore
from worker.moderation.policy import CutOffs, Policy
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
    """0.96 blocks a photo and leaves a drawing gray by the built-in policy."""
    asked: list[str] = []

    def drawn(one: dict[str, Any]) -> float | None:
        asked.append(one["upload_id"])
        return {"u1": 1.0, "u2": None}[one["upload_id"]]

    rows = [row(0, 0.96, style="photo"), row(1, 0.96), row(2, 0.96), row(3, 0.5)]
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


def test_what_the_second_model_said_is_judged_again() -> None:
    """From the ledger; where it said nothing and is needed, the upload is left out."""
    asked = {"second_bundle": "s@1", "second_raw": "0.400000", "second_probability": "0.400000"}
    both = Policy(second=SecondLook(bundle="s", drawn_veto_from=0.35))
    milder = Policy(second=SecondLook(bundle="s", veto_from=0.5))
    rows = [row(0, 0.001, **asked), row(1, 0.001), row(2, 0.001, **{**asked, "second_hold": "0.9"})]
    found = what_if(rows, {}, both, milder, never)
    assert found.counts == {
        (Verdict.GRAY, Verdict.APPROVED): 1,
        (Verdict.GRAY, Verdict.GRAY): 1,
    }
    assert found.unknown == 1
    alone = what_if(rows, {}, PRESENT, PRESENT, never)
    assert (alone.looked, alone.unknown) == (3, 0)


def test_other_second_bundles_are_left_out() -> None:
    """As other first bundles are; a row that asked none stays."""
    said = {"second_raw": "0.0", "second_probability": "0.010000"}
    rows = [row(n, 0.3, second_bundle=name, **said) for n, name in enumerate(("s@1", "s@2"))]
    found = what_if([*rows, row(9, 0.3)], {}, PRESENT, PRESENT, never)
    assert (found.looked, found.other_bundle) == (2, 1)


def test_a_second_model_that_did_not_look_then_is_asked_now() -> None:
    """Another one than the ledger has, or one that was installed since; else it is unknown."""
    said = {"second_bundle": "s@1", "second_raw": "0.0", "second_probability": "0.010000"}
    present, other = (Policy(second=SecondLook(bundle=name)) for name in ("s", "t"))
    asked = []

    def second(one: dict[str, Any], bundle: str) -> SecondScore | None:
        asked.append((one["upload_id"], bundle))
        return SecondScore(probability=0.9, raw_score=0.9) if one["upload_id"] != "u2" else None

    rows = [row(0, 0.001, **said), row(1, 0.001), row(2, 0.001)]
    found = what_if(rows, {}, present, other, never, second_score=second)
    assert asked == [("u0", "t"), ("u1", "s"), ("u1", "t"), ("u2", "s")]
    assert found.counts == {
        (Verdict.APPROVED, Verdict.GRAY): 1,
        (Verdict.GRAY, Verdict.GRAY): 1,
    }
    assert found.unknown == 1
