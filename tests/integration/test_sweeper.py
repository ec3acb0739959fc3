"""The ticker: whom it rings for, and for whom not."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from celery import Celery

from producer.contract import TASK_NAMES, Stage
from producer.metrics import Recorder
from producer.store import Store
from tests.support import submit
from worker.sweeper import Sweeper


class Bells(Celery):
    """A broker that only remembers what was sent."""

    def __init__(self) -> None:
        super().__init__(set_as_current=False)
        self.sent: list[str] = []

    def send_task(self, name: str, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        self.sent.append(name)


@pytest.mark.parametrize(("stages", "rings"), [(["moderate"], 5), (["review", "callback"], 0)])
def test_only_a_stage_that_somebody_works_on_is_rung(
    store: Store, stages: list[str], rings: int
) -> None:
    """A week without a moderate worker must not leave 300,000 messages behind."""
    submit(store)
    bells = Bells()
    sweeper = Sweeper(
        store=store,
        celery=bells,
        name="test",
        facts=lambda: {"stages": stages},
        stop=threading.Event(),
        recorder=Recorder(),
    )
    for _ in range(5):
        sweeper.tick()
        store.answer_bell(Stage.MODERATE)  # as if its two seconds were over
    assert bells.sent == [TASK_NAMES[Stage.MODERATE]] * rings
