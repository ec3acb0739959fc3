"""Cost arithmetic against cases computed by hand."""

from __future__ import annotations

import pytest

from worker.tools.figures import unit
from worker.tools.money import MonthlyCost, Prices


def test_the_design_notes_table() -> None:
    """5,000 a day, 20 % gray, 1.5 yuan per 1,000: 45 for the cloud, about 100 to 150, not 225."""
    month = MonthlyCost(uploads_per_day=5000, gray_share=0.2, prices=Prices())
    assert month.calls_per_day == 1000
    assert month.cloud_only_yuan == pytest.approx(225)
    assert month.cloud_yuan == pytest.approx(45)
    assert month.total_yuan == pytest.approx((95, 145))
    assert month.saved_yuan == pytest.approx((80, 130))


def test_where_it_begins_to_pay() -> None:
    """80 % of 0.0015 yuan saved an upload, 30 days: 50 yuan are 1,389 uploads a day."""
    month = MonthlyCost(uploads_per_day=1, gray_share=0.2, prices=Prices())
    assert month.break_even_uploads_per_day == pytest.approx((50 / 0.036, 100 / 0.036))


def test_all_gray_never_pays() -> None:
    """When every picture goes out, the machine is only a cost."""
    month = MonthlyCost(uploads_per_day=1000, gray_share=1.0, prices=Prices())
    assert month.break_even_uploads_per_day is None
    assert month.saved_yuan == pytest.approx((-100, -50))


def test_json_rounds_money_to_fen() -> None:
    """What programs read is what people read."""
    month = MonthlyCost(uploads_per_day=7, gray_share=1 / 3, prices=Prices())
    assert month.to_json()["cloud_yuan_per_month"] == 0.1


def test_another_currency_is_named_wherever_amounts_are_shown() -> None:
    """Yuan by default, else the code; amounts themselves are never converted."""
    assert (unit("CNY"), unit("EUR")) == ("yuan", "EUR")
