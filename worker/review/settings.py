"""The settings of the second opinion: who is asked for which region, and with which limits.

Every provider adds its own (`providers/`), and `WorkerSettings` inherits them all. What one field
alone can get wrong is refused here; what only the combination shows (a provider without keys, a
border crossed silently) is refused when the `Router` is built.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from producer.contract import Region
from producer.setting_types import CommaList, TimeZone
from worker.review.providers import ADAPTERS
from worker.review.providers.aliyun2_settings import Aliyun2Settings
from worker.review.providers.aliyun_settings import AliyunSettings
from worker.review.providers.cloudflare_settings import CloudflareSettings
from worker.review.providers.fake_settings import FakeSettings
from worker.review.providers.fields import DailyCalls, DailyYuan
from worker.review.providers.huggingface_settings import HuggingFaceSettings
from worker.review.providers.rekognition_settings import RekognitionSettings
from worker.review.providers.tencent_settings import TencentSettings


class ReviewSettings(
    FakeSettings,
    RekognitionSettings,
    HuggingFaceSettings,
    CloudflareSettings,
    TencentSettings,
    Aliyun2Settings,
    AliyunSettings,
):
    """The second opinion; with no provider named, every gray upload waits for a person."""

    # -- route and retry -----------------------------------------------------------------------
    review_domestic: CommaList = Field(
        (),
        description="Comma-separated providers for domestic pictures, preferred first, "
        "for example aliyun2,tencent; empty: a person decides.",
    )
    review_overseas: CommaList = Field(
        (),
        description="Comma-separated providers for overseas pictures, preferred first, "
        "for example cloudflare,rekognition; empty: a person decides.",
    )
    review_cross_border: CommaList = Field(
        (),
        description="Comma-separated region:provider pairs that may cross the border, "
        "for example domestic:cloudflare; empty: no picture leaves its region.",
    )
    review_uncertain: Literal["hold", "next"] = Field(
        "hold",
        description="When a provider looked and could not say: hold for a person, "
        "or ask the next provider.",
    )
    review_exhausted: Literal["hold", "dead_letter"] = Field(
        "hold", description="When no provider is left that has not failed: hold, or dead_letter."
    )
    review_tries: int = Field(
        3, ge=1, le=10, description="Failed tries at one provider before the next one is asked."
    )
    review_retry_base_s: float = Field(
        2.0, gt=0, description="Longest delay before the second try, in seconds; doubles each time."
    )
    review_retry_cap_s: float = Field(
        300.0, gt=0, description="Longest delay between two tries, in seconds."
    )
    review_patience_s: float = Field(
        30.0,
        ge=0,
        description="A provider that cannot take the picture within this many seconds is "
        "passed over if a later one can.",
    )
    review_max_wait_s: float = Field(
        6 * 3600.0,
        gt=0,
        description="An upload that has waited longer than this for a provider is held, "
        "in seconds.",
    )
    review_opinion_ttl_s: float = Field(
        30 * 86400.0,
        gt=0,
        description="How long an opinion is reused for identical pictures, in seconds.",
    )

    # -- budget --------------------------------------------------------------------------------
    review_daily_calls: DailyCalls = Field(
        None, description="Most billed calls a day at all providers together; empty: no limit."
    )
    review_daily_yuan: DailyYuan = Field(
        20.0, description="Most money a day at all providers together, in yuan; empty: no limit."
    )
    review_budget_timezone: TimeZone = Field(
        "Asia/Shanghai", description="The zone whose midnight starts a new budget day."
    )
    review_budget_spent: Literal["hold", "other_provider", "approve_below"] = Field(
        "hold",
        description="When a budget is spent: hold, other_provider (one that has budget left, else "
        "hold), or approve_below (see review_approve_below).",
    )
    review_approve_below: float = Field(
        0.3,
        gt=0,
        lt=1,
        description="With review_budget_spent=approve_below: pictures whose probability is lower "
        "than this are approved unseen, the others held.",
    )

    # -- audits --------------------------------------------------------------------------------
    audit_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of clear approvals, drawn at random, that a provider or a person looks "
        "at once more, so that the report can say how many explicit pictures pass; 0: none.",
    )
    audit_daily_calls: DailyCalls = Field(
        None, description="Most billed calls a day for audits; empty: no limit but the money."
    )
    audit_daily_yuan: DailyYuan = Field(
        2.0,
        description="Most money a day for audits, in yuan, within review_daily_yuan; empty: no "
        "limit of their own.",
    )

    # -- breaker -------------------------------------------------------------------------------
    review_breaker_failures: float = Field(
        0.6, gt=0, le=1, description="Share of failed calls in the last minute that opens it."
    )
    review_breaker_calls: int = Field(
        10, ge=1, description="Fewest calls in the last minute before that share counts."
    )
    review_breaker_open_s: float = Field(
        30.0,
        gt=0,
        description="How long a provider is left alone after failing, in seconds; doubles while "
        "its probes fail, up to ten minutes.",
    )
    review_misconfigured_s: float = Field(
        300.0,
        gt=0,
        description="How long a provider that refused our key or account is left alone, "
        "in seconds.",
    )

    @field_validator("review_domestic", "review_overseas", mode="after")
    @classmethod
    def _check_route(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in ADAPTERS:
                raise ValueError(f"{name!r} is not a provider; use {', '.join(ADAPTERS)}")
        if len(set(value)) != len(value):
            raise ValueError("a provider stands there twice; name each once")
        return value

    @field_validator("review_cross_border", mode="after")
    @classmethod
    def _check_crossings(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pair in value:
            region, _, name = pair.partition(":")
            if region not in tuple(Region) or name not in ADAPTERS:
                raise ValueError(f"{pair!r} is not region:provider, such as domestic:cloudflare")
        return value

    def route_of(self, region: Region) -> tuple[str, ...]:
        """The providers asked for pictures of one region, preferred first."""
        return self.review_domestic if region is Region.DOMESTIC else self.review_overseas

    @property
    def review_providers(self) -> tuple[str, ...]:
        """Every provider that a route names, once."""
        return tuple(dict.fromkeys((*self.review_domestic, *self.review_overseas)))
