"""The simulation behind docs/capacity.md, where theory knows the answer."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
import simpy

from benchmarks.capacity import (
    PEAK_HOUR,
    Costs,
    Plan,
    Station,
    check,
    limits,
    needed_workers,
    simulate_burst,
    simulate_day,
)


def test_a_single_server_waits_as_the_formula_for_m_d_1_says() -> None:
    """Mean wait = load x service / (2 x (1 - load)); here 0.8 x 0.1 / 0.4 = 0.2 s."""
    env, random = simpy.Environment(), np.random.default_rng(7)
    station = Station(env, "one", 1, 1, lambda n: 0.1 * n)

    def arrivals() -> Generator[simpy.Event]:
        for gap_s in random.exponential(1 / 8, 150_000):
            yield env.timeout(gap_s)
            station.put(env.now, 1)

    env.process(arrivals())
    env.run()
    waits = [waited for _, waited, _, _ in station.log]
    assert np.mean(waits) == pytest.approx(0.2, rel=0.06)
    assert sum(station.busy_s.values()) == pytest.approx(15_000)


def test_a_day_is_as_busy_as_rate_times_cost() -> None:
    """100,000 uploads a day are 2.55 a second in the peak hour; without a burst, load follows."""
    costs = Costs(moderate_s=0.5, valkey_s=0.01, rows_per_upload=3, ledger_row_s=0.02)
    plan = Plan(workers=2, io_workers=1, gray_share=0.0)
    day = simulate_day(100_000, plan, costs, burst=1.0)
    peak = 100_000 / 86_400 * 2.2
    assert peak == pytest.approx(2.55, rel=0.01)
    assert day["moderate"].share(PEAK_HOUR) == pytest.approx(peak * 0.5 / 2, rel=0.05)
    assert day["valkey"].share(PEAK_HOUR) == pytest.approx(peak * 0.01, rel=0.05)
    assert day["ledger"].share(PEAK_HOUR) == pytest.approx(peak * 3 * 0.02, rel=0.05)
    decided = sum(count for *_, count in day["moderate"].log)
    assert decided == pytest.approx(100_000, rel=0.02)
    assert decided == sum(count for *_, count in day["callbacks"].log), "each is told of"


def test_a_burst_ends_after_its_work() -> None:
    """100 uploads of 0.1 s on two workers take 5 s; half are decided after 2.5 s."""
    seconds, p50, p99 = simulate_burst(100, 2, 0.1)
    assert seconds == pytest.approx(5.0)
    assert p50 == pytest.approx(2.5)
    assert p99 == pytest.approx(5.0)


def test_the_first_limit_is_the_least_of_servers_over_cost() -> None:
    """Four workers of 0.1 s take 40 a second; 10 calls a second serve 500 at 2 % gray."""
    found = limits(
        Plan(workers=4, review_per_s=10, gray_share=0.02), Costs(moderate_s=0.1, valkey_s=0.001)
    )
    assert found["moderate"] == pytest.approx(40)
    assert found["valkey"] == pytest.approx(1000)
    assert found["review"] == pytest.approx(500)


def test_workers_are_counted_for_the_peak_hour_with_air() -> None:
    """86,400 a day are 2.2 a second at the peak; at 0.7 s each and 70 % load, three workers."""
    assert needed_workers(86_400, Costs(moderate_s=0.7)) == 3


def test_costs_and_the_check_are_read_from_what_scale_out_prints(tmp_path: Path) -> None:
    """Steps add up; the prediction from one worker stands beside the measurement of two."""
    step = {"valkey_ms": 0.2, "client_ms": 2.0}
    names = ("enqueue", "moderate", "callback", "ledger_sqlite")
    model = {"worker_ms": 95.0}
    two = {"uploads": 100, "core_share": 0.95, "seconds": 4.0, "age_p50_s": 2.5, "age_p99_s": 5.0}
    path = tmp_path / "scale.json"
    path.write_text(
        json.dumps(
            {"steps": {**dict.fromkeys(names, step), "events": 3}, "model": {"1": model, "2": two}}
        )
    )
    costs = Costs.read(path)
    assert costs.valkey_s == pytest.approx(0.0012)
    assert costs.moderate_s == pytest.approx(0.095)
    assert costs.ledger_row_s == pytest.approx(0.0022)
    found = check(path)
    assert found["seconds"]["deviation"] == pytest.approx(0.25)
    assert found["age_p50_s"]["deviation"] == pytest.approx(0.0, abs=0.01)
