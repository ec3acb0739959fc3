"""Calendar periods of reports: they end at the zone's midnight."""

from __future__ import annotations

import datetime as dt
import zoneinfo

from worker.ledger.queries import day_bounds, period_bounds


def at(text: str, zone: str) -> float:
    return dt.datetime.fromisoformat(text).replace(tzinfo=zoneinfo.ZoneInfo(zone)).timestamp()


def test_today_is_the_zones_day() -> None:
    """Half past midnight in Shanghai is still yesterday in UTC."""
    now = at("2026-11-23T00:30", "Asia/Shanghai")
    [(start, end)] = day_bounds(1, "Asia/Shanghai", now)
    assert start == at("2026-11-23", "Asia/Shanghai")
    assert end - start == 86400


def test_a_day_of_a_clock_change_has_another_length() -> None:
    """Berlin, 25 October 2026: 25 hours; the days around it touch."""
    bounds = day_bounds(3, "Europe/Berlin", at("2026-10-26T12:00", "Europe/Berlin"))
    assert [(end - start) / 3600 for start, end in bounds] == [24, 25, 24]
    assert bounds[0][1] == bounds[1][0]


def test_weeks_begin_on_monday() -> None:
    """22 November 2026 is a Sunday."""
    bounds = period_bounds("week", 2, "UTC", at("2026-11-22T12:00", "UTC"))
    assert [start for start, _ in bounds] == [at("2026-11-09", "UTC"), at("2026-11-16", "UTC")]


def test_months_cross_the_year() -> None:
    """Three months until January."""
    bounds = period_bounds("month", 3, "UTC", at("2027-01-31T12:00", "UTC"))
    starts = [dt.datetime.fromtimestamp(start, dt.UTC).date() for start, _ in bounds]
    assert starts == [dt.date(2026, 11, 1), dt.date(2026, 12, 1), dt.date(2027, 1, 1)]
    assert bounds[-1][1] == at("2027-02-01", "UTC")
