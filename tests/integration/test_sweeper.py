"""The ticker: whom it rings for, and for whom not."""

from __future__ import annotations

import threading

import pytest

from producer.contract import Stage
from producer.metrics import RETRIES, Recorder
from producer.record.store import Store
from tests.support import submit, wait_until
from worker.duties.sweeper import Sweeper


@pytest.mark.parametrize(("stages", "rings"), [(["moderate"], 5), (["review", "callback"], 0)])
def test_only_a_stage_that_somebody_works_on_is_rung(
    store: Store, stages: list[str], rings: int
) -> None:
    """A week without a moderate worker must not leave 300,000 messages behind."""
    submit(store)
    rung: list[Stage] = []
    sweeper = Sweeper(
        store=store,
        ring=rung.append,
        name="test",
        facts=lambda: {"stages": stages},
        stop=threading.Event(),
        recorder=Recorder(),
    )
    for _ in range(5):
        sweeper.tick()
        store.answer_bell(Stage.MODERATE)  # as if its two seconds were over
    assert rung == [Stage.MODERATE] * rings


def test_what_was_counted_last_is_not_lost_at_a_stop(store: Store) -> None:
    """Counts of the second before a stop are in the totals, and the process is off the list."""
    recorder, stop = Recorder(), threading.Event()
    sweeper = Sweeper(
        store=store,
        ring=lambda _stage: True,
        name="test",
        facts=lambda: {"stages": []},
        stop=stop,
        recorder=recorder,
    )
    sweeper.start()
    wait_until(store.workers, 30, "a sign of life")
    recorder.count(RETRIES, "moderate", "Late")
    stop.set()
    sweeper.join()
    assert list(store.totals().values()) == [1.0]
    assert store.workers() == []
