"""Figures of a report: final outcomes, one gray share, money to the fen."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from producer.errors import ConfigurationError
from worker.commands.bundle import bundle
from worker.commands.terminal import write_html
from worker.ledger.counts import PeriodCounts
from worker.tools.misses import Misses
from worker.tools.money import MonthlyCost, Prices
from worker.tools.report import Report, money_rows, period_rows, saved_sentence
from worker.tools.report_page import to_page


def period(start: float, **fields: Any) -> PeriodCounts:
    empty: dict[str, Any] = {
        "uploads": 0,
        "first_looks": {},
        "states": {},
        "tiers": {},
        "providers": {},
        "callbacks": {},
    }
    return PeriodCounts(start=start, end=start + 86400, **{**empty, **fields})


def make(*periods: PeriodCounts) -> Report:
    month = MonthlyCost(uploads_per_day=20, gray_share=0.4, prices=Prices())
    return Report(
        by="day",
        zone="UTC",
        periods=list(periods),
        latencies={},
        prices=Prices(),
        days=2.0,
        measured=month,
        shadows=[],
        misses=Misses(answers=()),
    )


TWO_DAYS = make(
    period(
        0.0,
        uploads=20,
        first_looks={"approved": 11, "gray": 7, "rejected": 2},
        states={"approved": 11, "reviewing": 7, "rejected": 2},
    ),
    period(86400.0, states={"blocked": 7}, providers={"tencent": (7, 0.0105)}),
)


def test_what_people_and_providers_decided_counts_as_decided() -> None:
    """Seven were gray at first and blocked a day later: the report says blocked 7."""
    header, rows = period_rows(TWO_DAYS)
    blocked, gray = header.index("blocked"), header.index("gray share")
    assert [row[blocked] for row in rows] == [0, 7, 7]
    assert rows[-1][gray] == "38.9%"
    assert TWO_DAYS.total.gray_share == pytest.approx(7 / 18)
    assert "Outcomes" in to_page(TWO_DAYS)


def test_no_internal_paper_and_no_negative_saving() -> None:
    """What a machine costs more than the cloud is said in words, to the fen."""
    header, rows = money_rows(TWO_DAYS)
    assert header == ["a month", "measured"]
    assert dict(rows)["saved, yuan"] == "49.46 to 99.46 more"  # type: ignore[arg-type]
    page = to_page(TWO_DAYS)
    assert "design note" not in page
    assert "-9" not in saved_sentence(TWO_DAYS)
    assert saved_sentence(TWO_DAYS).startswith("0.02 yuan saved")
    paid_more = make(period(0.0, providers={"rekognition": (9, 5.0)}))
    assert saved_sentence(paid_more).startswith("5.00 yuan more than")


def test_what_only_tuning_needs_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not installed, commands and pages say what to install."""
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "worker.commands.calibrate":
            raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
        return real(name, *rest)

    def page() -> str:
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")

    with pytest.raises(ConfigurationError, match=r"'matplotlib'.*-e '\.\[all,tuning\]'"):
        write_html(Path("never.html"), page)
    monkeypatch.setattr(builtins, "__import__", without)
    result = CliRunner().invoke(bundle, ["calibrate", "open-nsfw", "x.csv"])
    assert "-e '.[all,tuning]'" in str(result.exception)
