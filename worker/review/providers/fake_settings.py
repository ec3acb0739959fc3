"""The settings of the provider without a cloud."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from worker.review.providers import fields


class FakeSettings(fields.ProviderSettings):
    """Of `fake`."""

    fake_answer: Literal["uncertain", "approve", "block", "unavailable"] = Field(
        "uncertain", description="What the fake provider always answers; it never sees a picture."
    )
    fake_latency_s: float = Field(0.0, ge=0, description="How long it takes to answer, in seconds.")
    fake_rate_per_s: fields.Rate = 100.0
    fake_concurrency: fields.Concurrency = 100
    fake_yuan_per_1000: fields.Price = 0.0
    fake_daily_calls: fields.DailyCalls = None
    fake_daily_yuan: fields.DailyYuan = None
