"""Every metric, declared once; counted in all processes, kept in Redis, shown by one scrape.

A process counts into a `Recorder`, which adds what is new to the totals in Redis once a second. So
totals stand above all processes and machines, never fall when one restarts, and any API process
answers for all. What a total cannot say (how many wait, for how long) is read when it is asked for.
"""

from __future__ import annotations

import bisect
import dataclasses
import json
import threading
from collections.abc import Iterable, Iterator
from typing import Any, Literal, cast

import redis

from producer.contract import Stage
from producer.health import find_alarms
from producer.record.dead_letters import DeadLetters
from producer.record.store import OPEN_STATES, Store

#: Upper bounds of seconds: of one inference to hours in a review queue.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)

#: Upper bounds of a number of pictures.
COUNTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


@dataclasses.dataclass(frozen=True)
class Metric:
    """One declaration: `buckets` only for a histogram."""

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


UPLOADS = Metric(
    "avatarmod_transitions", "counter", "Changes of state since the beginning.", ("state",)
)
BATCH = Metric(
    "avatarmod_batch_uploads", "histogram", "Uploads scored in one inference.", (), COUNTS
)
INFERENCE = Metric(
    "avatarmod_inference_seconds", "histogram", "One inference of a micro-batch.", (), SECONDS
)
LATENCY = Metric(
    "avatarmod_verdict_seconds",
    "histogram",
    "From enqueue to the model's verdict, by where the upload went.",
    ("state",),
    SECONDS,
)
REVIEW = Metric(
    "avatarmod_review_seconds",
    "histogram",
    "One call of a review provider, by its decision.",
    ("provider", "decision"),
    SECONDS,
)
COST = Metric(
    "avatarmod_review_yuan", "counter", "Paid to review providers, in yuan.", ("provider",)
)
CALLBACK = Metric(
    "avatarmod_callback_seconds",
    "histogram",
    "One attempt to deliver a callback, by outcome.",
    ("outcome",),
    SECONDS,
)
RETRIES = Metric(
    "avatarmod_retries", "counter", "Steps that will be tried again.", ("stage", "error")
)
DEAD = Metric("avatarmod_dead_letters_written", "counter", "Dead letters.", ("stage", "error"))
HTTP = Metric(
    "avatarmod_http_seconds",
    "histogram",
    "Requests to the API and the console, by route and status.",
    ("method", "route", "status"),
    SECONDS,
)
OPEN = Metric(
    "avatarmod_open_uploads", "gauge", "Uploads that somebody must still act on.", ("state",)
)
OLDEST = Metric(
    "avatarmod_oldest_seconds", "gauge", "Age of the oldest upload in a state.", ("state",)
)
WAITING = Metric(
    "avatarmod_waiting", "gauge", "Items that wait for a worker, by stage.", ("stage",)
)
LEASED = Metric("avatarmod_leased", "gauge", "Items in workers' hands, by stage.", ("stage",))
DEAD_NOW = Metric("avatarmod_dead_letters", "gauge", "Dead letters that wait for an operator.")
WORKERS = Metric("avatarmod_workers", "gauge", "Living processes by role.", ("role",))
MEMORY = Metric(
    "avatarmod_resident_bytes", "gauge", "Resident memory of each process.", ("process",)
)
ALARM = Metric(
    "avatarmod_alarm",
    "gauge",
    "1 while an alarm stands; see `avatarmod doctor`.",
    ("code", "severity"),
)
EVENTS = Metric("avatarmod_ledger_lag_events", "gauge", "Events that the ledger has not taken yet.")
INTAKE = Metric(
    "avatarmod_intake_entries", "gauge", "Entries of the intake that no worker has taken over yet."
)

#: What processes count; the rest is read from Redis at a scrape.
RECORDED = (BATCH, INFERENCE, LATENCY, REVIEW, COST, CALLBACK, RETRIES, DEAD, HTTP)
READ = (UPLOADS, OPEN, OLDEST, WAITING, LEASED, DEAD_NOW, WORKERS, MEMORY, ALARM, EVENTS, INTAKE)


class Recorder:
    """Counts in this process and adds to the totals. Safe to share between threads."""

    def __init__(self) -> None:
        self._new: dict[str, float] = {}
        self._lock = threading.Lock()

    def count(self, metric: Metric, *labels: str) -> None:
        """Add to a counter; labels in the order of its declaration."""
        with self._lock:
            self._add(_field(metric, labels, ""), 1.0)

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Add one observation to a histogram; labels in the order of its declaration."""
        place = bisect.bisect_left(metric.buckets, value)
        bound = str(metric.buckets[place]) if place < len(metric.buckets) else "+Inf"
        with self._lock:
            self._add(_field(metric, labels, bound), 1.0)
            self._add(_field(metric, labels, "sum"), value)

    def publish(self, store: Store) -> None:
        """Add what is new to the totals; what cannot be written is kept for the next time."""
        with self._lock:
            new, self._new = self._new, {}
        if not new:
            return
        try:
            store.add_totals(new)
        except redis.RedisError:
            with self._lock:
                for field, value in new.items():
                    self._add(field, value)
            raise

    def _add(self, field: str, value: float) -> None:
        self._new[field] = self._new.get(field, 0.0) + value


def total_field(metric: Metric, *labels: str) -> str:
    """Field of a counter's total, for who adds to it in a script of its own."""
    return _field(metric, labels, "")


def _field(metric: Metric, labels: Iterable[str], part: str) -> str:
    values = tuple(labels)
    if len(values) != len(metric.labels):
        raise ValueError(f"{metric.name} has the labels {metric.labels}, not {values}")
    return f"{metric.name}|{json.dumps(values)}|{part}"


def render(store: Store) -> bytes:
    """Everything in Prometheus' text format."""
    from prometheus_client import CollectorRegistry, generate_latest

    class Collector:
        def collect(self) -> Iterator[Any]:
            yield from _recorded(store)
            yield from _read(store)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(cast("Any", Collector()))
    return generate_latest(registry)


def _recorded(store: Store) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    found: dict[str, dict[tuple[str, ...], dict[str, float]]] = {}
    for field, total in store.totals().items():
        name, _, rest = field.partition("|")
        labels, _, part = rest.rpartition("|")
        found.setdefault(name, {}).setdefault(tuple(json.loads(labels)), {})[part] = total
    for metric in RECORDED:
        by_labels = found.get(metric.name, {})
        if metric.kind == "counter":
            counter = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
            for labels_, parts in sorted(by_labels.items()):
                counter.add_metric(labels_, parts.get("", 0.0))
            yield counter
            continue
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels_, parts in sorted(by_labels.items()):
            histogram.add_metric(labels_, _cumulated(metric, parts), parts.get("sum", 0.0))
        yield histogram


def _cumulated(metric: Metric, parts: dict[str, float]) -> list[tuple[str, float]]:
    total = 0.0
    buckets: list[tuple[str, float]] = []
    for bound in (*map(str, metric.buckets), "+Inf"):
        total += parts.get(bound, 0.0)
        buckets.append((bound, total))
    return buckets


def _read(store: Store) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    transitions = CounterMetricFamily(UPLOADS.name, UPLOADS.help, labels=UPLOADS.labels)
    for state, count in store.transition_counts().items():
        transitions.add_metric([state], float(count))
    yield transitions
    workers = store.workers()
    rows: dict[Metric, list[tuple[list[str], float]]] = {
        OPEN: [([state], float(n)) for state, n in store.open_counts().items()],
        OLDEST: list(_ages(store)),
        WAITING: list(_lines(store, "waiting")),
        LEASED: list(_lines(store, "leased")),
        DEAD_NOW: [([], float(DeadLetters(store).count()))],
        WORKERS: _roles(workers),
        MEMORY: [([str(w["name"])], float(w["rss_bytes"])) for w in workers if "rss_bytes" in w],
        ALARM: [([a.code, a.severity], 1.0) for a in find_alarms(store, workers)],
        EVENTS: [([], float(store.events.count()))],
        INTAKE: [([], float(store.intake.facts()[0]))],
    }
    for metric, values in rows.items():
        gauge = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, value in values:
            gauge.add_metric(labels, value)
        yield gauge


def _ages(store: Store) -> Iterator[tuple[list[str], float]]:
    now = store.now()
    for state in OPEN_STATES:
        oldest = store.oldest_at(state)
        yield [str(state)], now - oldest if oldest else 0.0


def _lines(store: Store, what: str) -> Iterator[tuple[list[str], float]]:
    sums = {str(stage): 0.0 for stage in Stage}
    for line in store.lines():
        sums[line.partition(":")[0]] += store.waiting(line)[what]
    for stage, value in sums.items():
        yield [stage], value


def _roles(workers: list[dict[str, Any]]) -> list[tuple[list[str], float]]:
    roles = [str(worker.get("role")) for worker in workers]
    return [([role], float(roles.count(role))) for role in ("moderate", "io", "api")]
