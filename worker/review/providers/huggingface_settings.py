"""The settings of Hugging Face endpoints."""

from __future__ import annotations

from pydantic import Field

from worker.review.providers import fields


class HuggingFaceSettings(fields.ProviderSettings):
    """Of `huggingface`."""

    huggingface_token: fields.Key = Field(
        None, description="Token hf_... that may call the endpoint or Inference Providers."
    )
    huggingface_model: str = Field(
        "Falconsai/nsfw_image_detection",
        description="Model on the serverless road; with a dedicated endpoint only its name.",
    )
    huggingface_endpoint: fields.Endpoint = fields.endpoint(
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
    huggingface_rate_per_s: fields.Rate = 5.0
    huggingface_concurrency: fields.Concurrency = 4
    # Dedicated endpoints are billed by the minute, the serverless road by compute time.
    huggingface_yuan_per_1000: fields.Price = 0.0
    huggingface_daily_calls: fields.DailyCalls = None
    huggingface_daily_yuan: fields.DailyYuan = None
