"""The settings of image moderation of Tencent Cloud."""

from __future__ import annotations

from pydantic import Field

from worker.review.providers import fields


class TencentSettings(fields.ProviderSettings):
    """Of `tencent`."""

    tencent_secret_id: fields.Key = Field(None, description="SecretId (AKID...).")
    tencent_secret_key: fields.Key = Field(None, description="SecretKey.")
    tencent_region: str = Field("ap-guangzhou", description="Region of image moderation (IMS).")
    tencent_biz_type: str = Field("", description="Policy made in the console; empty: the default.")
    tencent_endpoint: fields.Endpoint = fields.endpoint("ims.tencentcloudapi.com")
    # Source: 100 calls/s by default (ImageModeration, API 2020-12-29); half of it is left free.
    tencent_rate_per_s: fields.Rate = 50.0
    tencent_concurrency: fields.Concurrency = 8
    # Source: no official price could be read; taken as that of Alibaba Cloud 2.0.
    tencent_yuan_per_1000: fields.Price = 1.5
    tencent_daily_calls: fields.DailyCalls = None
    tencent_daily_yuan: fields.DailyYuan = None
