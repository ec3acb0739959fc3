"""A day of uploads, simulated: `python benchmarks/capacity.py [--costs FILE] [--json]`.

Arrivals follow a day's curve with a burst on top; moderate workers, Valkey's single thread, io
workers with a web tier that takes its time, review providers behind a rate limit, and the ledger
work them off at measured costs. Says how busy each part is in the peak hour, how old an upload gets
before its verdict, how many workers are needed, and which part gives way first at which rate.

Costs come from `benchmarks/scale_out.py --json` by `--costs`; the defaults are its figures on the
machine of docs/capacity.md. `--check` simulates the two bursts that scale_out put through real
workers and says how far the simulation is off.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections import deque
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import simpy

#: An avatar service's day, hour by hour; the mean is 1. As in benchmarks/small_box.py.
DAY = [0.4, 0.2, 0.1, 0.1, 0.1, 0.2, 0.4, 0.7, 1.0, 1.2, 1.3, 1.4]
DAY += [1.6, 1.4, 1.2, 1.1, 1.1, 1.2, 1.4, 1.8, 2.2, 1.9, 1.3, 0.7]

PEAK_HOUR = DAY.index(max(DAY))

#: A part is planned to be no busier than this in the peak hour.
PLANNED_SHARE = 0.7


@dataclasses.dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds for one upload (or row), all processor time but the web tier's."""

    moderate_s: float = 0.0273
    valkey_s: float = 0.00088
    callback_cpu_s: float = 0.0028
    web_tier_s: float = 0.05
    ledger_row_s: float = 0.00009
    rows_per_upload: float = 3.0

    @classmethod
    def read(cls, path: Path) -> Costs:
        """From what scale_out printed."""
        report = json.loads(path.read_text())
        steps = report["steps"]
        valkey = ("enqueue", "moderate", "callback")
        rows = steps["events"]
        ledger = steps["ledger_sqlite"]
        found: dict[str, float] = {
            "valkey_s": sum(steps[name]["valkey_ms"] for name in valkey) / 1e3
            + rows * ledger["valkey_ms"] / 1e3,
            "callback_cpu_s": steps["callback"]["client_ms"] / 1e3,
            "ledger_row_s": (ledger["client_ms"] + ledger["valkey_ms"]) / 1e3,
            "rows_per_upload": rows,
        }
        if "model" in report:
            found["moderate_s"] = report["model"]["1"]["worker_ms"] / 1e3
        return cls(**found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is installed."""

    workers: int
    io_workers: int = 4
    callback_slots: int = 64
    review_per_s: float = 20.0
    gray_share: float = 0.02


class Station:
    """A queue before some servers that take up to `most` at once, at `seconds(n)` for n.

    Work comes and goes as (since, count): so many uploads that arrived together.
    """

    def __init__(
        self,
        env: simpy.Environment,
        name: str,
        servers: int,
        most: int,
        seconds: Callable[[int], float],
        then: Callable[[float, int], object] = lambda since, count: None,
    ) -> None:
        self.name, self.servers = name, servers
        self._env, self._most, self._seconds, self._then = env, most, seconds, then
        self._waiting: deque[tuple[float, int]] = deque()
        self._idle: deque[simpy.Event] = deque()
        #: (time, seconds waited before service, age at the end, count), and busy seconds by hour.
        self.log: list[tuple[float, float, float, int]] = []
        self.busy_s: dict[int, float] = {}
        self.waiting = self.most_waiting = 0
        for _ in range(servers):
            env.process(self._serve())

    def put(self, since: float, count: int) -> None:
        """So many come; they have existed since then."""
        if count:
            self._waiting.append((since, count))
            self.waiting += count
            self.most_waiting = max(self.most_waiting, self.waiting)
            if self._idle:
                self._idle.popleft().succeed()

    def _take(self) -> list[tuple[float, int]]:
        taken, room = [], self._most
        while room and self._waiting:
            since, count = self._waiting.popleft()
            part = min(count, room)
            if part < count:
                self._waiting.appendleft((since, count - part))
            taken.append((since, part))
            room -= part
            self.waiting -= part
        if self._waiting and self._idle:
            self._idle.popleft().succeed()
        return taken

    def _serve(self) -> Generator[simpy.Event]:
        while True:
            taken = self._take()
            if not taken:
                rung = self._env.event()
                self._idle.append(rung)
                yield rung
                continue
            started = self._env.now
            seconds = self._seconds(sum(count for _, count in taken))
            hour = int(started // 3600)
            self.busy_s[hour] = self.busy_s.get(hour, 0.0) + seconds
            yield self._env.timeout(seconds)
            for since, count in taken:
                self.log.append((started, started - since, self._env.now - since, count))
                self._then(since, count)

    def share(self, hour: int, seconds: float = 3600.0) -> float:
        """How busy the servers are in an hour, 0..1 (more where work began that ends later)."""
        return self.busy_s.get(hour, 0.0) / self.servers / seconds

    def quantiles_s(self, column: int, *shares: float) -> list[float]:
        """Quantiles of a column of the log over uploads."""
        if not self.log:
            return [0.0 for _ in shares]
        rows = np.array(self.log)
        order = np.argsort(rows[:, column])
        values, weights = rows[order, column], np.cumsum(rows[order, 3])
        places = np.searchsorted(weights, np.array(shares) * weights[-1])
        return [float(values[min(place, len(values) - 1)]) for place in places]


def simulate_day(
    uploads: int, plan: Plan, costs: Costs, *, burst: float = 2.0, seed: int = 1, tick_s: float = 1
) -> dict[str, Station]:
    """One day from midnight; for ten minutes of the peak hour `burst` times as many come."""
    env, random = simpy.Environment(), np.random.default_rng(seed)
    stations: dict[str, Station] = {}

    def told(since: float, count: int) -> None:
        stations["ledger"].put(env.now, round(count * costs.rows_per_upload))

    def judged(since: float, count: int) -> None:
        stations["valkey"].put(env.now, count)
        gray = int(random.binomial(count, plan.gray_share))
        stations["review"].put(env.now, gray)
        stations["callbacks"].put(env.now, count)

    slots = max(1, plan.callback_slots // plan.io_workers)

    def station(name: str, servers: int, most: int, *rest: Any) -> None:
        stations[name] = Station(env, name, servers, most, *rest)

    station("moderate", plan.workers, 32, lambda n: n * costs.moderate_s, judged)
    station("valkey", 1, 64, lambda n: n * costs.valkey_s)
    station(
        "callbacks",
        plan.io_workers,
        slots,
        lambda n: max(costs.web_tier_s, n * costs.callback_cpu_s) + costs.callback_cpu_s,
        told,
    )
    station("review", 1, 4, lambda n: n / plan.review_per_s)
    station("ledger", 1, 1000, lambda n: n * costs.ledger_row_s)

    def arrivals() -> Generator[simpy.Event]:
        scale = uploads / 86400 / (sum(DAY) / len(DAY))
        while env.now < 86400:
            hour, second = divmod(env.now, 3600)
            rate = DAY[int(hour)] * scale
            if int(hour) == PEAK_HOUR and 1800 <= second < 2400:
                rate *= burst
            stations["moderate"].put(env.now, int(random.poisson(rate * tick_s)))
            yield env.timeout(tick_s)

    env.process(arrivals())
    env.run(86400 + 3600)
    return stations


def simulate_burst(uploads: int, workers: int, moderate_s: float) -> tuple[float, float, float]:
    """A burst into idle workers: seconds until the last verdict, and the ages' p50 and p99."""
    env = simpy.Environment()
    # Verdicts are written one by one while a batch is under way, so uploads count singly here.
    station = Station(env, "moderate", workers, 1, lambda n: n * moderate_s)
    station.put(0.0, uploads)
    env.run()
    p50, p99 = station.quantiles_s(2, 0.5, 0.99)
    return max(at + age - waited for at, waited, age, _ in station.log), p50, p99


def limits(plan: Plan, costs: Costs) -> dict[str, float]:
    """Uploads a second at which each part is wholly busy; the least gives way first."""
    slots = max(1, plan.callback_slots // plan.io_workers)
    round_s = max(costs.web_tier_s, slots * costs.callback_cpu_s) + costs.callback_cpu_s
    return {
        "moderate": plan.workers / costs.moderate_s,
        "valkey": 1 / costs.valkey_s,
        "callbacks": plan.io_workers * slots / round_s,
        "review": plan.review_per_s / plan.gray_share if plan.gray_share else math.inf,
        "ledger": 1 / (costs.ledger_row_s * costs.rows_per_upload),
    }


def needed_workers(uploads: int, costs: Costs) -> int:
    """Moderate workers for the peak hour at the planned share."""
    peak = uploads / 86400 * max(DAY) / (sum(DAY) / len(DAY))
    return math.ceil(peak * costs.moderate_s / PLANNED_SHARE)


def report_day(uploads: int, plan: Plan, costs: Costs, burst: float) -> dict[str, Any]:
    stations = simulate_day(uploads, plan, costs, burst=burst)
    p50, p99, most = stations["moderate"].quantiles_s(2, 0.5, 0.99, 1.0)
    most_per_s = limits(plan, costs)
    first = min(most_per_s, key=lambda name: most_per_s[name])
    return {
        "uploads_per_day": uploads,
        "peak_per_s": round(uploads / 86400 * max(DAY) / (sum(DAY) / len(DAY)), 1),
        "burst": burst,
        "costs": dataclasses.asdict(costs),
        "plan": dataclasses.asdict(plan),
        "age_s": {"p50": round(p50, 2), "p99": round(p99, 2), "max": round(most, 2)},
        "parts": {
            name: {
                "peak_hour_share": round(station.share(PEAK_HOUR), 3),
                "waited_p99_s": round(station.quantiles_s(1, 0.99)[0], 3),
                "most_waiting": station.most_waiting,
                "most_per_s": round(most_per_s[name], 1),
            }
            for name, station in stations.items()
        },
        "needed_workers": needed_workers(uploads, costs),
        "first": first,
        "first_at_per_s": round(most_per_s[first], 1),
    }


def check(path: Path) -> dict[str, Any]:
    """Two workers' burst predicted from the cost of one, beside what was measured.

    The cost is processor time; the share of their cores that the two got stretches it.
    """
    model = json.loads(path.read_text())["model"]
    two = model["2"]
    moderate_s = model["1"]["worker_ms"] / 1e3 / two["core_share"]
    seconds, p50, p99 = simulate_burst(two["uploads"], 2, moderate_s)
    pairs = {
        "seconds": (seconds, two["seconds"]),
        "age_p50_s": (p50, two["age_p50_s"]),
        "age_p99_s": (p99, two["age_p99_s"]),
    }
    return {
        name: {
            "simulated": round(simulated, 2),
            "measured": measured,
            "deviation": round(simulated / measured - 1, 3),
        }
        for name, (simulated, measured) in pairs.items()
    }


def main() -> int:
    options = _options()
    costs = Costs.read(options.costs) if options.costs else Costs()
    if options.moderate_ms:
        costs = dataclasses.replace(costs, moderate_s=options.moderate_ms / 1e3)
    if options.check:
        result = check(options.check)
    else:
        workers = options.workers or needed_workers(options.uploads_per_day, costs)
        plan = Plan(
            workers=workers,
            io_workers=options.io_workers,
            callback_slots=options.callback_slots,
            review_per_s=options.review_per_s,
            gray_share=options.gray_share,
        )
        result = report_day(options.uploads_per_day, plan, costs, options.burst)
    print(json.dumps(result)) if options.json else _print(result)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--uploads-per-day", type=int, default=10_000_000)
    parser.add_argument("--workers", type=int, help="moderate workers (default: as many as needed)")
    parser.add_argument("--moderate-ms", type=float, help="of another model, decoding included")
    parser.add_argument("--io-workers", type=int, default=Plan.io_workers)
    parser.add_argument("--callback-slots", type=int, default=Plan.callback_slots)
    parser.add_argument("--review-per-s", type=float, default=Plan.review_per_s)
    parser.add_argument("--gray-share", type=float, default=Plan.gray_share)
    parser.add_argument("--burst", type=float, default=2.0, help="for ten minutes, times the peak")
    parser.add_argument("--costs", type=Path, help="what scale_out.py --json printed")
    parser.add_argument("--check", type=Path, help="compare with this output of scale_out.py")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    rows = result.get("parts", result)
    table = Table(box=None, pad_edge=False)
    names = list(next(iter(rows.values())))
    for name in ("part", *names):
        table.add_column(name, justify="left" if name == "part" else "right")
    for part, values in rows.items():
        table.add_row(part, *(str(values[name]) for name in names))
    console.print(table)
    for name in ("peak_per_s", "age_s", "needed_workers", "first", "first_at_per_s"):
        if name in result:
            console.print(f"{name}: {result[name]}")


if __name__ == "__main__":
    raise SystemExit(main())
