"""What holds for the router whatever the providers do, by hypothesis on a real Valkey."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from producer.contract import Region
from producer.errors import (
    ModerationError,
    ProviderAnswerUnknown,
    ProviderMisconfigured,
    ProviderRateLimited,
    ProviderRejectedImage,
    ProviderSilent,
    ProviderUnavailable,
)
from producer.findings import Decision
from tests.providers.support import PREFIX, ScriptedProvider, ask, settings
from worker.ledger.rows import to_row
from worker.review.answers import Answered, Approve, Hold, Wait
from worker.review.router import Router

NAMES = ("tencent", "aliyun2", "cloudflare", "rekognition")

#: What one call does, by a letter: approve, block, uncertain and every failure.
OUTCOMES: dict[str, Callable[[], Decision | ModerationError]] = {
    "a": lambda: Decision.APPROVE,
    "b": lambda: Decision.BLOCK,
    "u": lambda: Decision.UNCERTAIN,
    "f": lambda: ProviderUnavailable("down"),
    "s": lambda: ProviderSilent("silent"),
    "l": lambda: ProviderRateLimited("limited", retry_after_s=3),
    "?": lambda: ProviderAnswerUnknown("odd"),
    "r": lambda: ProviderRejectedImage("small"),
    "m": lambda: ProviderMisconfigured("key"),
}

scripts = st.text(alphabet="".join(OUTCOMES), max_size=8)

cases = st.fixed_dictionaries(
    {
        "scripts": st.fixed_dictionaries(dict.fromkeys(NAMES, scripts)),
        "domestic": st.lists(st.sampled_from(NAMES), unique=True, max_size=4),
        "overseas": st.lists(st.sampled_from(NAMES), unique=True, max_size=4),
        "region": st.sampled_from(list(Region)),
        "uncertain": st.sampled_from(["hold", "next"]),
        "exhausted": st.sampled_from(["hold", "dead_letter"]),
        "spent": st.sampled_from(["hold", "other_provider", "approve_below"]),
        "calls": st.none() | st.integers(1, 4),
        "probability": st.floats(0, 1),
        "random": st.floats(0, 1, exclude_max=True),
        "tries": st.integers(1, 3),
    }
)


class _Run:
    """One upload, taken step by step until it ends."""

    def __init__(self, client: redis.Redis, case: dict[str, Any]) -> None:
        self.done: list[tuple[str, str]] = []
        self._left = {name: list(script) for name, script in case["scripts"].items()}
        config = settings(
            review_domestic=case["domestic"],
            review_overseas=case["overseas"],
            review_uncertain=case["uncertain"],
            review_exhausted=case["exhausted"],
            review_budget_spent=case["spent"],
            review_daily_calls=case["calls"],
            review_tries=case["tries"],
            review_approve_below=0.3,
        )
        providers = {
            name: ScriptedProvider(config, self._outcome(name), name=name)
            for name in (*case["domestic"], *case["overseas"])
        }
        self.router = Router(
            config, client, PREFIX, random=lambda: case["random"], providers=providers
        )
        self._client = client
        self._case = case

    def _outcome(self, name: str) -> Callable[[str], Decision | ModerationError]:
        def play(_: str) -> Decision | ModerationError:
            letter = self._left[name].pop(0) if self._left[name] else "f"
            self.done.append((name, letter))
            return OUTCOMES[letter]()

        return play

    def finish(self) -> Any:
        tried: tuple[str, ...] = ()
        for _ in range(60):
            answer = ask(
                self.router,
                "picture",
                region=self._case["region"],
                probability=self._case["probability"],
                tried=tried,
            )
            if not isinstance(answer, Wait):
                return answer
            assert answer.delay_s >= 0
            assert answer.tried[: len(tried)] == tried
            tried = answer.tried
            # Let the time pass that it would wait: pauses, queue and breaker are over.
            for key in self._client.keys(f"{PREFIX}review:[wh]*"):
                self._client.delete(key)
        raise AssertionError("it went round in circles")


@given(case=cases)
@hypothesis_settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_router(valkey: redis.Redis, case: dict[str, Any]) -> None:
    """Every upload ends; borders, tries and budget hold; nothing approves but an approval."""
    valkey.flushdb()
    run = _Run(valkey, case)
    answer = run.finish()
    route = case[str(case["region"])]
    assert {name for name, _ in run.done} <= set(route)
    for name in NAMES:
        letters = [letter for asked, letter in run.done if asked == name]
        assert sum(letter in "fs?" for letter in letters) <= case["tries"]
        assert letters.count("?") <= 2
        assert letters.count("u") <= 1
    billed = sum(letter in "abus?" for _, letter in run.done)
    assert run.router.total_today()[0] == billed
    rows = [to_row("n", name, fields) for name, fields in valkey.xrange(f"{PREFIX}events")]
    assert sum(row["provider_calls"] for row in rows) == billed
    paid_yuan = sum(row["cost_microyuan"] for row in rows) / 1e6
    assert run.router.total_today()[1] == pytest.approx(paid_yuan)
    if case["calls"] is not None:
        assert billed <= case["calls"]
    if isinstance(answer, Answered):
        name, letter = run.done[-1]
        assert answer.opinion.provider == name
        assert (answer.opinion.decision, letter) in (
            (Decision.APPROVE, "a"),
            (Decision.BLOCK, "b"),
        )
    if isinstance(answer, Approve):
        assert case["spent"] == "approve_below"
        assert case["probability"] < 0.3
        assert billed == case["calls"]
    if not route:
        assert isinstance(answer, Hold)
        assert answer.reason == "no_provider"
    for name in set(route):
        assert run.router._limits.status(name).in_flight == 0
