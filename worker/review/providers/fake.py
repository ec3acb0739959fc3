"""A provider without a cloud: always gives the configured answer, so that a set-up can be tried.

It never looks at the picture; by default it is uncertain, which sends every upload to a person.
"""

from __future__ import annotations

import time
from typing import ClassVar

from producer.contract import Region
from producer.errors import ProviderUnavailable
from producer.findings import Decision
from producer.texts import say
from worker.review.providers.base import Reply, ReviewProvider
from worker.review.providers.fake_settings import FakeSettings


class FakeProvider(ReviewProvider):
    """Answers what `fake_answer` says."""

    name: ClassVar[str] = "fake"

    def __init__(self, settings: FakeSettings) -> None:
        super().__init__(settings)
        self._answer = settings.fake_answer
        self._latency_s = settings.fake_latency_s

    @property
    def home(self) -> Region | None:
        """Both regions: nothing leaves the process."""
        return None

    def _rules(self) -> tuple[str, ...]:
        return (self._answer,)

    def _ask(self, jpeg: bytes, data_id: str) -> Reply:
        time.sleep(self._latency_s)
        if self._answer == "unavailable":
            raise ProviderUnavailable(say("the fake provider is configured to be unavailable"))
        return Reply(
            decision=Decision(self._answer),
            labels=("fake",),
            request_id=f"fake-{data_id}",
            raw={"answer": self._answer},
        )
