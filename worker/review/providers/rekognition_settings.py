"""The settings of Amazon Rekognition."""

from __future__ import annotations

from pydantic import Field

from worker.review.providers import fields


class RekognitionSettings(fields.ProviderSettings):
    """Of `rekognition`."""

    rekognition_access_key_id: fields.Key = Field(
        None, description="Access key id; empty: boto3's own search (role, profile)."
    )
    rekognition_secret_access_key: fields.Key = Field(None, description="Secret access key.")
    rekognition_session_token: fields.Key = Field(
        None, description="Session token of temporary keys."
    )
    rekognition_region: str = Field("ap-southeast-1", description="AWS region; none is in China.")
    rekognition_endpoint: fields.Endpoint = fields.endpoint("rekognition.REGION.amazonaws.com")
    # Source: 5 calls/s in most regions by default (service quotas, unverified).
    rekognition_rate_per_s: fields.Rate = 4.0
    rekognition_concurrency: fields.Concurrency = 4
    # Source: $0.0010 a picture for the first million a month (pricing page); 7.2 yuan a dollar.
    rekognition_yuan_per_1000: fields.Price = 7.2
    rekognition_daily_calls: fields.DailyCalls = None
    rekognition_daily_yuan: fields.DailyYuan = None
