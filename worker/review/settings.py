"""The settings of the second opinion: who is asked for which region, with which keys and limits.

`WorkerSettings` inherits these fields. What one field alone can get wrong is refused here; what
only the combination shows (a provider without keys, a border crossed silently) is refused when the
`Router` is built.
"""

from __future__ import annotations

import dataclasses
import math
import re
import zoneinfo
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from producer.contract import Region
from producer.settings import CommaList, Settings, split_commas

#: Every review provider there is, by our name.
PROVIDER_NAMES = (
    "aliyun",
    "aliyun2",
    "tencent",
    "cloudflare",
    "huggingface",
    "rekognition",
    "fake",
)

#: What Clef is asked when the operator writes no questions of their own; `explicit` is the one
#: whose answer becomes the score. Kept short: the reply bills input tokens only.
CLEF_STATE = (
    "You check profile pictures for a general-audience site. "
    "The image may be a photo, a drawing or anime."
)
CLEF_QUESTION = (
    "Does the image show exposed genitals, a sexual act or bare female nipples, drawn or real?"
)


def _rate(default: float) -> Any:
    return Field(
        default, gt=0, le=1000, description="Most calls a second, over all processes and machines."
    )


def _concurrency(default: int) -> Any:
    return Field(
        default, ge=1, le=1000, description="Most calls at the same time, over all processes."
    )


def _price(default: float) -> Any:
    return Field(default, ge=0, description="Price of 1,000 calls in yuan; 0: not billed by call.")


def _daily_calls() -> Any:
    return Field(None, description="Most billed calls a day; empty: no limit of its own.")


def _daily_yuan() -> Any:
    return Field(None, description="Most money a day in yuan; empty: no limit of its own.")


def _endpoint(what: str) -> Any:
    return Field(
        "", description=f"Address instead of {what}, with its scheme: a private link or a stub."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProviderLimits:
    """What one provider may be asked in all, by settings.

    Args:
        rate_per_s: most calls a second.
        concurrency: most calls at the same time.
        daily_calls: most billed calls a day; None: no limit.
        daily_yuan: most money a day; None: no limit.
        yuan_per_1000: price of 1,000 calls.
    """

    rate_per_s: float
    concurrency: int
    daily_calls: int | None
    daily_yuan: float | None
    yuan_per_1000: float

    @property
    def window(self) -> tuple[int, float]:
        """(calls, seconds): at most that many calls in any window that long, about a second."""
        calls = max(1, math.floor(self.rate_per_s))
        return calls, calls / self.rate_per_s

    @property
    def call_microyuan(self) -> int:
        """Price of one call in millionths of a yuan, rounded up: money is counted in integers."""
        return math.ceil(self.yuan_per_1000 * 1000)


class ReviewSettings(Settings):
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
    review_timeout_s: float = Field(
        8.0,
        gt=0,
        le=60,
        description="Longest time for one call including every upload step, in seconds.",
    )
    review_connect_timeout_s: float = Field(
        2.0, gt=0, le=30, description="Longest time to connect to a provider, in seconds."
    )
    review_opinion_ttl_s: float = Field(
        30 * 86400.0,
        gt=0,
        description="How long an opinion is reused for identical pictures, in seconds.",
    )

    # -- budget --------------------------------------------------------------------------------
    review_daily_calls: int | None = Field(
        None, description="Most billed calls a day at all providers together; empty: no limit."
    )
    review_daily_yuan: float | None = Field(
        20.0, description="Most money a day at all providers together, in yuan; empty: no limit."
    )
    review_budget_timezone: str = Field(
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

    # -- Alibaba Cloud content moderation 1.0 ----------------------------------------------------
    aliyun_access_key_id: SecretStr | None = Field(None, description="AccessKey id.")
    aliyun_access_key_secret: SecretStr | None = Field(None, description="AccessKey secret.")
    aliyun_region: str = Field("cn-shanghai", description="Region of content moderation 1.0.")
    aliyun_biz_type: str = Field("", description="Policy made in the console; empty: the default.")
    aliyun_endpoint: str = _endpoint("green.REGION.aliyuncs.com")
    # Source: 50 pictures/s a account (product limits, help.aliyun.com); half of it is left free.
    aliyun_rate_per_s: float = _rate(25.0)
    aliyun_concurrency: int = _concurrency(8)
    # Source: no price page of 1.0 could be read; taken as that of 2.0.
    aliyun_yuan_per_1000: float = _price(1.5)
    aliyun_daily_calls: int | None = _daily_calls()
    aliyun_daily_yuan: float | None = _daily_yuan()

    # -- Alibaba Cloud image moderation 2.0 ------------------------------------------------------
    aliyun2_access_key_id: SecretStr | None = Field(None, description="AccessKey id.")
    aliyun2_access_key_secret: SecretStr | None = Field(None, description="AccessKey secret.")
    aliyun2_region: str = Field("cn-shanghai", description="Region of image moderation 2.0.")
    aliyun2_service: str = Field(
        "profilePhotoCheck",
        description="Service code; profilePhotoCheck is made for avatars and is mainland only.",
    )
    aliyun2_endpoint: str = _endpoint("green-cip.REGION.aliyuncs.com")
    # Source: 100 calls/s by default (product limits of 2.0); half of it is left free.
    aliyun2_rate_per_s: float = _rate(50.0)
    aliyun2_concurrency: int = _concurrency(8)
    # Source: from 15 yuan per 10,000 pictures and service (billing page of 2.0).
    aliyun2_yuan_per_1000: float = _price(1.5)
    aliyun2_daily_calls: int | None = _daily_calls()
    aliyun2_daily_yuan: float | None = _daily_yuan()

    # -- Tencent Cloud IMS -----------------------------------------------------------------------
    tencent_secret_id: SecretStr | None = Field(None, description="SecretId (AKID...).")
    tencent_secret_key: SecretStr | None = Field(None, description="SecretKey.")
    tencent_region: str = Field("ap-guangzhou", description="Region of image moderation (IMS).")
    tencent_biz_type: str = Field("", description="Policy made in the console; empty: the default.")
    tencent_endpoint: str = _endpoint("ims.tencentcloudapi.com")
    # Source: 100 calls/s by default (ImageModeration, API 2020-12-29); half of it is left free.
    tencent_rate_per_s: float = _rate(50.0)
    tencent_concurrency: int = _concurrency(8)
    # Source: no official price could be read; taken as that of Alibaba Cloud 2.0.
    tencent_yuan_per_1000: float = _price(1.5)
    tencent_daily_calls: int | None = _daily_calls()
    tencent_daily_yuan: float | None = _daily_yuan()

    # -- Cloudflare Workers AI -------------------------------------------------------------------
    cloudflare_account_id: str = Field("", description="Account id, 32 hexadecimal digits.")
    cloudflare_api_token: SecretStr | None = Field(
        None, description="API token with the permissions Workers AI Read and Edit."
    )
    cloudflare_model: str = Field(
        "@cf/cloudflare/clef-flash", description="A Clef decision model: clef-flash, clef or omni."
    )
    cloudflare_state: str = Field(CLEF_STATE, description="What the model is told about its task.")
    cloudflare_question: str = Field(
        CLEF_QUESTION, description="The yes-or-no question whose probability becomes the score."
    )
    cloudflare_block_from: float = Field(
        0.85, gt=0, le=1, description="Scores from here on block; between the two: uncertain."
    )
    cloudflare_approve_to: float = Field(0.10, ge=0, lt=1, description="Scores up to here approve.")
    cloudflare_endpoint: str = _endpoint("https://api.cloudflare.com/client/v4")
    # Source: 300 calls/minute for Clef (Workers AI limits); one in five is left free.
    cloudflare_rate_per_s: float = _rate(4.0)
    cloudflare_concurrency: int = _concurrency(4)
    # Source: about 390 input tokens for 512x512 at $0.038 per million (Workers AI pricing,
    # October 2026) is $0.015 per 1,000; at 7.2 yuan to the dollar, rounded up for the question.
    cloudflare_yuan_per_1000: float = _price(0.15)
    cloudflare_daily_calls: int | None = _daily_calls()
    cloudflare_daily_yuan: float | None = _daily_yuan()

    # -- Hugging Face ----------------------------------------------------------------------------
    huggingface_token: SecretStr | None = Field(
        None, description="Token hf_... that may call the endpoint or Inference Providers."
    )
    huggingface_model: str = Field(
        "Falconsai/nsfw_image_detection",
        description="Model on the serverless road; with a dedicated endpoint only its name.",
    )
    huggingface_endpoint: str = _endpoint(
        "the serverless road: the root URL of a dedicated endpoint"
    )
    huggingface_bill_to: str = Field("", description="Organisation to bill; empty: the token's.")
    huggingface_nsfw_label: str = Field(
        "nsfw", description="The model's label whose score counts; upper and lower case are equal."
    )
    huggingface_block_from: float = Field(
        0.90, gt=0, le=1, description="Scores from here on block; between the two: uncertain."
    )
    huggingface_approve_to: float = Field(
        0.10, ge=0, lt=1, description="Scores up to here approve."
    )
    # One small replica; raise it with the number of replicas.
    huggingface_rate_per_s: float = _rate(5.0)
    huggingface_concurrency: int = _concurrency(4)
    # Dedicated endpoints are billed by the minute, the serverless road by compute time.
    huggingface_yuan_per_1000: float = _price(0.0)
    huggingface_daily_calls: int | None = _daily_calls()
    huggingface_daily_yuan: float | None = _daily_yuan()

    # -- Amazon Rekognition ----------------------------------------------------------------------
    rekognition_access_key_id: SecretStr | None = Field(
        None, description="Access key id; empty: boto3's own search (role, profile)."
    )
    rekognition_secret_access_key: SecretStr | None = Field(None, description="Secret access key.")
    rekognition_session_token: SecretStr | None = Field(
        None, description="Session token of temporary keys."
    )
    rekognition_region: str = Field("ap-southeast-1", description="AWS region; none is in China.")
    rekognition_endpoint: str = _endpoint("rekognition.REGION.amazonaws.com")
    # Source: 5 calls/s in most regions by default (service quotas, unverified).
    rekognition_rate_per_s: float = _rate(4.0)
    rekognition_concurrency: int = _concurrency(4)
    # Source: $0.0010 a picture for the first million a month (pricing page); 7.2 yuan a dollar.
    rekognition_yuan_per_1000: float = _price(7.2)
    rekognition_daily_calls: int | None = _daily_calls()
    rekognition_daily_yuan: float | None = _daily_yuan()

    # -- fake: looks at nothing; for trying things out ---------------------------------------------
    fake_answer: Literal["uncertain", "approve", "block", "unavailable"] = Field(
        "uncertain", description="What the fake provider always answers; it never sees a picture."
    )
    fake_latency_s: float = Field(0.0, ge=0, description="How long it takes to answer, in seconds.")
    fake_rate_per_s: float = _rate(100.0)
    fake_concurrency: int = _concurrency(100)
    fake_yuan_per_1000: float = _price(0.0)
    fake_daily_calls: int | None = _daily_calls()
    fake_daily_yuan: float | None = _daily_yuan()

    _split_routes = field_validator(
        "review_domestic", "review_overseas", "review_cross_border", mode="before"
    )(split_commas)

    @field_validator("review_domestic", "review_overseas", mode="after")
    @classmethod
    def _check_route(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in PROVIDER_NAMES:
                raise ValueError(f"{name!r} is not a provider; use {', '.join(PROVIDER_NAMES)}")
        if len(set(value)) != len(value):
            raise ValueError("a provider stands there twice; name each once")
        return value

    @field_validator("review_cross_border", mode="after")
    @classmethod
    def _check_crossings(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pair in value:
            region, _, name = pair.partition(":")
            if region not in tuple(Region) or name not in PROVIDER_NAMES:
                raise ValueError(f"{pair!r} is not region:provider, such as domestic:cloudflare")
        return value

    @field_validator("review_budget_timezone", mode="after")
    @classmethod
    def _check_timezone(cls, value: str) -> str:
        try:
            zoneinfo.ZoneInfo(value)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{value!r} is no time zone; use one such as Asia/Shanghai") from None
        return value

    @field_validator(
        "review_daily_calls",
        "review_daily_yuan",
        *(f"{name}_daily_calls" for name in PROVIDER_NAMES),
        *(f"{name}_daily_yuan" for name in PROVIDER_NAMES),
        mode="before",
    )
    @classmethod
    def _empty_is_no_limit(cls, value: Any) -> Any:
        return None if isinstance(value, str) and not value.strip() else value

    @field_validator(
        "review_daily_calls",
        "review_daily_yuan",
        *(f"{name}_daily_calls" for name in PROVIDER_NAMES),
        *(f"{name}_daily_yuan" for name in PROVIDER_NAMES),
        mode="after",
    )
    @classmethod
    def _check_budget(cls, value: float | None) -> float | None:
        if value is not None and (not math.isfinite(value) or value <= 0):
            raise ValueError(
                f"a budget of {value:g} would hold every gray picture; write a positive number, "
                "leave it empty for no limit, or take the provider out of its list"
            )
        return value

    @field_validator(
        *(f"{name}_endpoint" for name in PROVIDER_NAMES if name != "fake"), mode="after"
    )
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        if not value:
            return value
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"{value!r} has no scheme or no host; write it like https://host.example.com"
            )
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("write only scheme, host, port and path; keys have their own settings")
        return value.rstrip("/")

    @field_validator(
        "aliyun_access_key_id",
        "aliyun_access_key_secret",
        "aliyun2_access_key_id",
        "aliyun2_access_key_secret",
        "tencent_secret_id",
        "tencent_secret_key",
        "cloudflare_api_token",
        "huggingface_token",
        "rekognition_access_key_id",
        "rekognition_secret_access_key",
        "rekognition_session_token",
        mode="after",
    )
    @classmethod
    def _check_secret(cls, value: SecretStr | None) -> SecretStr | None:
        text = value.get_secret_value() if value else ""
        if not text:
            return None
        if re.search(r"\s", text):
            raise ValueError("it contains a space or a line break; copy the key again")
        if not text.isascii():
            raise ValueError("it contains a character that no key has; copy the key again")
        return value

    def limits_of(self, provider: str) -> ProviderLimits:
        """The limits of one provider, gathered from its flat fields."""
        return ProviderLimits(
            **{
                field.name: getattr(self, f"{provider}_{field.name}")
                for field in dataclasses.fields(ProviderLimits)
            }
        )

    def route_of(self, region: Region) -> tuple[str, ...]:
        """The providers asked for pictures of one region, preferred first."""
        return self.review_domestic if region is Region.DOMESTIC else self.review_overseas

    @property
    def review_providers(self) -> tuple[str, ...]:
        """Every provider that a route names, once."""
        return tuple(dict.fromkeys((*self.review_domestic, *self.review_overseas)))
