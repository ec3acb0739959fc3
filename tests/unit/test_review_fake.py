"""The fake provider passes for a provider, and approves nobody unless told to."""

from __future__ import annotations

import pytest

from producer.errors import ProviderUnavailable
from producer.findings import Decision
from tests.providers.support import settings, tiny_jpeg
from worker.review.registry import build_provider


class TestFake:
    def test_by_default_a_person_decides(self) -> None:
        """Named by mistake in production it lets nothing through."""
        opinion = build_provider("fake", settings()).review(tiny_jpeg(), data_id="x")
        assert opinion.decision is Decision.UNCERTAIN
        assert opinion.request_id == "fake-x"

    @pytest.mark.parametrize("answer", ["approve", "block"])
    def test_answers_as_told(self, answer: str) -> None:
        """The configured answer is given, and is part of its rules."""
        fake = build_provider("fake", settings(fake_answer=answer))
        assert fake.review(tiny_jpeg(), data_id="x").decision is Decision(answer)
        assert fake.rules != build_provider("fake", settings()).rules

    def test_can_be_down(self) -> None:
        """For trying out what happens then."""
        fake = build_provider("fake", settings(fake_answer="unavailable"))
        with pytest.raises(ProviderUnavailable):
            fake.review(tiny_jpeg(), data_id="x")
