"""Alibaba Cloud image moderation 2.0: ImageModeration with `profilePhotoCheck`, made for avatars.

The picture goes to a temporary bucket first (`oss.py`).

Source: help.aliyun.com, image moderation 2.0, "Synchronous detection API" (risk labels, codes,
endpoints); SDK behaviour read in alibabacloud-green20220302 3.6.9 and tea-openapi 0.4.6.
"""

from __future__ import annotations

import json
import re
from typing import Any, ClassVar, Self

from alibabacloud_green20220302 import models
from alibabacloud_green20220302.client import Client
from alibabacloud_tea_openapi.exceptions import AlibabaCloudException
from alibabacloud_tea_openapi.models import Config
from alibabacloud_tea_util.models import RuntimeOptions
from darabonba.exceptions import DaraException, RetryError, UnretryableException

from producer.contract import Decision, Region
from producer.errors import (
    ConfigurationError,
    ModerationError,
    ProviderAnswerUnknown,
    ProviderMisconfigured,
    ProviderRateLimited,
    ProviderRejectedImage,
    ProviderUnavailable,
)
from worker.review.base import Reply, ReviewProvider, check_region, needed
from worker.review.oss import TemporaryBucket, TemporaryKeys, aliyun_home
from worker.review.settings import ReviewSettings
from worker.review.wire import network_error, number, split_endpoint

#: Source: "Endpoints" of image moderation 2.0.
MAINLAND_REGIONS = ("cn-shanghai", "cn-beijing", "cn-hangzhou", "cn-shenzhen", "cn-chengdu")
REGIONS = (
    *MAINLAND_REGIONS,
    "ap-southeast-1",
    "us-east-1",
    "us-west-1",
    "eu-central-1",
    "eu-west-1",
)

#: Labels that say: nothing found, or on the account's own list of allowed pictures.
CLEAN_LABELS = frozenset({"nonLabel", "nonLabel_lib"})

#: Labels under this name or prefix block at high risk; every other sexual label asks a person.
BLOCKING = ("pornographic_", "sexual_underage")

#: What counts as sexual at all; ads, politics, flags and so on are another matter.
SEXUAL = ("pornographic_", "sexual_")

RISK_LEVELS = frozenset({"high", "medium", "low", "none"})

#: Error codes that only the operator can mend, by prefix.
ADVICE = {
    "InvalidAccessKeyId": "AVATARMOD_ALIYUN2_ACCESS_KEY_ID is refused: copy it again or enable it",
    "SignatureDoesNotMatch": "AVATARMOD_ALIYUN2_ACCESS_KEY_SECRET is wrong: copy it again",
    "InvalidAccessKeySecret": "AVATARMOD_ALIYUN2_ACCESS_KEY_SECRET is wrong: copy it again",
    "Forbidden": "the RAM user lacks AliyunYundunGreenWebFullAccess: grant it",
    "NoPermission": "the RAM user lacks AliyunYundunGreenWebFullAccess: grant it",
    "InvalidTimeStamp": "this host's clock is off: synchronise it",
    "IllegalTimestamp": "this host's clock is off: synchronise it",
}


class Aliyun2Provider(ReviewProvider):
    """Image moderation 2.0."""

    name: ClassVar[str] = "aliyun2"
    max_image_bytes: ClassVar[int] = 20 * 2**20

    def __init__(self, settings: ReviewSettings, key_id: str, key_secret: str) -> None:
        super().__init__(settings)
        self._region = settings.aliyun2_region
        self._service = settings.aliyun2_service
        scheme, host = split_endpoint(
            "AVATARMOD_ALIYUN2_ENDPOINT",
            settings.aliyun2_endpoint,
            f"green-cip.{self._region}.aliyuncs.com",
        )
        self._is_private = "-vpc." in host
        # Without an endpoint the SDK sends several regions to the hosts of 1.0.
        self._client = Client(
            Config(
                access_key_id=key_id,
                access_key_secret=key_secret,
                region_id=self._region,
                endpoint=host,
                protocol=scheme,
                connect_timeout=int(self.connect_timeout_s * 1000),
                read_timeout=int(self.timeout_s * 1000),
            )
        )
        self._bucket = TemporaryBucket(self.name, self._fetch_keys, self.timeout_s)

    @classmethod
    def from_settings(cls, settings: ReviewSettings) -> Self:
        """See `ReviewProvider.from_settings`."""
        key_id, key_secret = needed(settings, "aliyun2_access_key_id", "aliyun2_access_key_secret")
        region, service = settings.aliyun2_region, settings.aliyun2_service
        check_region("AVATARMOD_ALIYUN2_REGION", region, REGIONS, settings.aliyun2_endpoint)
        if service == "profilePhotoCheck" and region not in MAINLAND_REGIONS:
            raise ConfigurationError(
                f"AVATARMOD_ALIYUN2_SERVICE=profilePhotoCheck exists in mainland regions only, "
                f"not in {region}: use baselineCheck_global, or one of "
                f"{', '.join(MAINLAND_REGIONS)}"
            )
        return cls(settings, key_id, key_secret)

    @property
    def home(self) -> Region | None:
        """Where its region lies."""
        return aliyun_home(self._region)

    def _rules(self) -> tuple[str, ...]:
        return (self._region, self._service)

    def _ask(self, jpeg: bytes, data_id: str) -> Reply:
        bucket, name = self._bucket.put(jpeg)
        where = {"ossBucketName": bucket, "ossObjectName": name, "dataId": data_id}
        request = models.ImageModerationRequest(
            service=self._service, service_parameters=json.dumps(where)
        )
        try:
            response = self._client.image_moderation_with_options(request, _once())
        except Exception as error:  # noqa: BLE001 - sorted by `_translate`, which raises the rest
            raise _translate(error) from None
        return _read(response.body.to_map() if response.body else {})

    def _fetch_keys(self) -> TemporaryKeys:
        try:
            response = self._client.describe_upload_token_with_options(_once())
        except Exception as error:  # noqa: BLE001 - as above
            raise _translate(error) from None
        reply = response.body.to_map() if response.body else {}
        _check_code(reply.get("Code"))
        data: Any = reply.get("Data")
        try:
            return TemporaryKeys(
                key_id=data["AccessKeyId"],
                key_secret=data["AccessKeySecret"],
                token=data["SecurityToken"],
                expires_at=float(data["Expiration"]),
                endpoint=data["OssInternalEndPoint" if self._is_private else "OssInternetEndPoint"],
                bucket=data["BucketName"],
                folder=data["FileNamePrefix"],
            )
        except (KeyError, TypeError, ValueError):
            raise ProviderAnswerUnknown("aliyun2 gave no usable upload keys") from None


def _once() -> RuntimeOptions:
    return RuntimeOptions(autoretry=False, max_attempts=1)


def _read(reply: dict[str, Any]) -> Reply:
    _check_code(reply.get("Code"))
    data = reply.get("Data")
    entries = data.get("Result") if isinstance(data, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ProviderAnswerUnknown("aliyun2 answered without any label, not even nonLabel")
    decision = _decide(entries)
    sexual = [entry for entry in entries if str(entry.get("Label", "")).startswith(SEXUAL)]
    scores = [number(entry.get("Confidence"), 100.0) for entry in sexual]
    return Reply(
        decision=decision,
        score=max((score for score in scores if score is not None), default=None),
        labels=tuple(str(entry.get("Label")) for entry in entries),
        request_id=str(reply.get("RequestId", "")),
        raw=reply,
    )


def _decide(entries: list[dict[str, Any]]) -> Decision:
    """Block on pornographic labels at high risk; approve when nothing of the kind was found."""
    decision = Decision.APPROVE
    for entry in entries:
        label, level = entry.get("Label"), entry.get("RiskLevel")
        if not label or (level is None and label not in CLEAN_LABELS):
            raise ProviderAnswerUnknown("aliyun2 answered a label without its risk level")
        if label in CLEAN_LABELS or level == "none":
            continue
        if label.startswith(BLOCKING) and level == "high":
            return Decision.BLOCK
        is_other_and_mild = not label.startswith(SEXUAL) and level in ("low", "medium")
        if not is_other_and_mild or level not in RISK_LEVELS:
            decision = Decision.UNCERTAIN
    return decision


def _check_code(code: Any) -> None:
    if code == 200:
        return
    if code in (408, 411, 596):
        raise ProviderMisconfigured(
            f"aliyun2 {code}: image moderation 2.0 is not activated, or the RAM user lacks "
            "AliyunYundunGreenWebFullAccess"
        )
    if code == 588:
        raise ProviderRateLimited("aliyun2 588: too many calls a second")
    if code in (400, 401, 589, 590, 595):
        raise ProviderRejectedImage(f"aliyun2 {code}: it does not take this picture or request")
    if isinstance(code, int) and 500 <= code < 600:
        raise ProviderUnavailable(f"aliyun2 {code}: it could not judge the picture now")
    raise ProviderAnswerUnknown(f"aliyun2 answered the code {code!r}")


def _translate(error: Exception) -> ModerationError:
    """Sort what the SDK raises; throttling comes as a ClientException, so the code decides."""
    if isinstance(error, UnretryableException | RetryError):
        text = f"{error} {getattr(error, 'message', '')}"
        if "Failed to parse the value as json" in text:
            return ProviderAnswerUnknown("aliyun2 answered something that is not JSON")
        return network_error("aliyun2", text)
    if not isinstance(error, AlibabaCloudException | DaraException):
        raise error
    code = str(getattr(error, "code", ""))
    status = int(getattr(error, "status_code", 0) or getattr(error, "statusCode", 0) or 0)
    for prefix, advice in ADVICE.items():
        if code.startswith(prefix):
            return ProviderMisconfigured(f"aliyun2 {code}: {advice}")
    if code.startswith("Throttling"):
        wait = re.fullmatch(r"\d+", str(getattr(error, "retry_after", "") or ""))
        return ProviderRateLimited(
            f"aliyun2 {code}: too many calls",
            retry_after_s=float(wait.group()) / 1000 if wait else None,
        )
    if status >= 500 or code.startswith("ServiceUnavailable"):
        return ProviderUnavailable(f"aliyun2 answered {status} {code}")
    if status in (401, 403):
        return ProviderMisconfigured(f"aliyun2 {status} {code}: the account may not do this")
    return ProviderAnswerUnknown(f"aliyun2 answered {status} {code}")
