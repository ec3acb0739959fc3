"""The settings of image moderation 2.0 of Alibaba Cloud."""

from __future__ import annotations

from pydantic import Field

from worker.review.providers import fields


class Aliyun2Settings(fields.ProviderSettings):
    """Of `aliyun2`."""

    aliyun2_access_key_id: fields.Key = Field(None, description="AccessKey id.")
    aliyun2_access_key_secret: fields.Key = Field(None, description="AccessKey secret.")
    aliyun2_region: str = Field("cn-shanghai", description="Region of image moderation 2.0.")
    aliyun2_service: str = Field(
        "profilePhotoCheck",
        description="Service code; profilePhotoCheck is made for avatars and is mainland only.",
    )
    aliyun2_endpoint: fields.Endpoint = fields.endpoint("green-cip.REGION.aliyuncs.com")
    # Source: 100 calls/s by default (product limits of 2.0); half of it is left free.
    aliyun2_rate_per_s: fields.Rate = 50.0
    aliyun2_concurrency: fields.Concurrency = 8
    # Source: from 15 yuan per 10,000 pictures and service (billing page of 2.0).
    aliyun2_yuan_per_1000: fields.Price = 1.5
    aliyun2_daily_calls: fields.DailyCalls = None
    aliyun2_daily_yuan: fields.DailyYuan = None
