"""The settings of Cloudflare Workers AI."""

from __future__ import annotations

from pydantic import Field

from worker.review.providers import fields

#: What Clef is asked when the operator writes no questions of their own; `explicit` is the one
#: whose answer becomes the score. Kept short: the reply bills input tokens only.
CLEF_STATE = (
    "You check profile pictures for a general-audience site. "
    "The image may be a photo, a drawing or anime."
)
CLEF_QUESTION = (
    "Does the image show exposed genitals, a sexual act or bare female nipples, drawn or real?"
)


class CloudflareSettings(fields.ProviderSettings):
    """Of `cloudflare`."""

    cloudflare_account_id: str = Field("", description="Account id, 32 hexadecimal digits.")
    cloudflare_api_token: fields.Key = Field(
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
    cloudflare_endpoint: fields.Endpoint = fields.endpoint("https://api.cloudflare.com/client/v4")
    # Source: 300 calls/minute for Clef (Workers AI limits); one in five is left free.
    cloudflare_rate_per_s: fields.Rate = 4.0
    cloudflare_concurrency: fields.Concurrency = 4
    # Source: about 390 input tokens for 512x512 at $0.038 per million (Workers AI pricing,
    # October 2026) is $0.015 per 1,000; at 7.2 yuan to the dollar, rounded up for the question.
    cloudflare_yuan_per_1000: fields.Price = 0.15
    cloudflare_daily_calls: fields.DailyCalls = None
    cloudflare_daily_yuan: fields.DailyYuan = None
