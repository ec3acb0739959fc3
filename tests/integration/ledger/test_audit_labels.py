"""Labels of audits in the ledger: kept apart from those of the gray zone, and counted exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from producer.contract import AvatarState
from producer.record.audits import Label
from producer.record.decisions import Decisions, end_audit
from producer.record.store import Store
from producer.settings import Settings
from tests.integration.ledger.conftest import advance, upload
from worker.commands.report import report
from worker.ledger.counts import AuditAnswer
from worker.ledger.writer import Ledger
from worker.tools.dataset import from_ledger

ALL = (0.0, 9e9)


def audited(store: Store, upload_id: str, label: Label, probability: float = 0.01) -> None:
    """An approval that a provider looked at once more."""
    store.audits.announce(1.0)
    avatar = upload(store, upload_id, probability=probability)
    assert end_audit(store, avatar, label, decided_by="review:tencent")


def test_answers_are_counted_with_what_the_model_had_said(ledger: Ledger, store: Store) -> None:
    """On every kind of database; each once."""
    audited(store, "a", "harmless")
    audited(store, "b", "explicit", probability=0.03)
    audited(store, "c", "unanswered")
    ledger.drain(store)
    assert sorted(ledger.audits(*ALL), key=lambda one: one.label) == [
        AuditAnswer("explicit", 0.03, ""),
        AuditAnswer("harmless", 0.01, ""),
        AuditAnswer("unanswered", 0.01, ""),
    ]
    assert ledger.audits(0.0, 1.0) == []
    assert ledger.broken_stories() == []


def test_a_person_corrects_a_providers_answer_but_gives_none(ledger: Ledger, store: Store) -> None:
    """What was held for nothing was no miss; what nobody audited is no part of the sample."""
    audited(store, "wrong", "explicit")
    audited(store, "late", "harmless")
    audited(store, "none", "unanswered")
    decisions = Decisions(store)
    decisions.decide("wrong", "approved", by="eve")
    decisions.decide("late", "blocked", by="eve")
    decisions.decide("none", "blocked", by="eve")
    ledger.drain(store)
    labels = [one.label for one in ledger.audits(*ALL)]
    assert sorted(labels) == ["explicit", "harmless", "unanswered"]


def test_a_label_says_of_what_it_is_a_sample(store: Store, tmp_path: Path) -> None:
    """An audited content stays one of the fair sample when a person decides about it later."""
    book = Ledger.open(Settings(data_folder=tmp_path))
    audited(store, "a", "explicit")
    Decisions(store).decide("a", "blocked", by="eve")
    audited(store, "b", "harmless")
    upload(store, "g", AvatarState.REVIEWING)
    advance(store, "g", AvatarState.BLOCKED, {"decided_by": "review:tencent"})
    book.drain(store)
    found = from_ledger(book, lambda _image, _upload_id: b"")
    book.close()
    assert {one.name: (one.explicit, one.sample, one.labelled_by) for one in found} == {
        "a": (True, "audit", "operator:eve"),
        "b": (False, "audit", "review:tencent"),
        "g": (True, "gray", "review:tencent"),
    }


def test_the_report_says_how_many_pass(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the exact interval, and on a page."""
    monkeypatch.setenv("AVATARMOD_DATA_FOLDER", str(tmp_path))
    book = Ledger.open(Settings(data_folder=tmp_path))
    for number in range(19):
        audited(store, f"h{number}", "harmless")
    audited(store, "x", "explicit")
    book.drain(store)
    book.close()
    page = tmp_path / "report.html"
    result = CliRunner().invoke(report, ["--html", str(page)])
    assert result.exit_code == 0, result.output
    for text in (" ".join(result.output.split()), page.read_text()):
        assert "Of 20 approvals drawn at random" in text
        assert "5.00% (0.13% to 24.87%)" in text
