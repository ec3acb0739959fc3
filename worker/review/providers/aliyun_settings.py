"""The settings of content moderation 1.0 of Alibaba Cloud."""

from __future__ import annotations

from pydantic import Field

from worker.review.providers import fields


class AliyunSettings(fields.ProviderSettings):
    """Of `aliyun`."""

    aliyun_access_key_id: fields.Key = Field(None, description="AccessKey id.")
    aliyun_access_key_secret: fields.Key = Field(None, description="AccessKey secret.")
    aliyun_region: str = Field("cn-shanghai", description="Region of content moderation 1.0.")
    aliyun_biz_type: str = Field("", description="Policy made in the console; empty: the default.")
    aliyun_endpoint: fields.Endpoint = fields.endpoint("green.REGION.aliyuncs.com")
    # Source: 50 pictures/s a account (product limits, help.aliyun.com); half of it is left free.
    aliyun_rate_per_s: fields.Rate = 25.0
    aliyun_concurrency: fields.Concurrency = 8
    # Source: no price page of 1.0 could be read; taken as that of 2.0.
    aliyun_yuan_per_1000: fields.Price = 1.5
    aliyun_daily_calls: fields.DailyCalls = None
    aliyun_daily_yuan: fields.DailyYuan = None
