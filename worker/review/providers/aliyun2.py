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
from darabonba.core import DaraCore
from darabonba.exceptions import DaraException
from darabonba.response import DaraResponse

from producer.contract import Region
from producer.errors import (
    ConfigurationError,
    ModerationError,
    ProviderAnswerUnknown,
    ProviderMisconfigured,
    ProviderRateLimited,
    ProviderRejectedImage,
    ProviderUnavailable,
)
from producer.findings import Decision
from producer.texts import say
from worker.review.providers.aliyun2_settings import Aliyun2Settings
from worker.review.providers.base import Reply, ReviewProvider, check_id
from worker.review.providers.fields import check_region, needed, split_endpoint
from worker.review.providers.oss import TemporaryBucket, TemporaryKeys, aliyun_home
from worker.review.providers.wire import last_answer, number, send

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

#: Labels of other subjects than ours begin so; at low or medium risk they are no reason to act.
OTHER_SUBJECTS = (
    "ad_",
    "contraband_",
    "fraud_",
    "inappropriate_",
    "political_",
    "pt_",
    "religion_",
    "violent_",
)

RISK_LEVELS = ("none", "low", "medium", "high")

#: Error codes that only the operator can mend, by prefix.
ADVICE = {
    "InvalidAccessKeyId": say(
        "AVATARMOD_ALIYUN2_ACCESS_KEY_ID is refused: copy it again or enable it"
    ),
    "SignatureDoesNotMatch": say("AVATARMOD_ALIYUN2_ACCESS_KEY_SECRET is wrong: copy it again"),
    "InvalidAccessKeySecret": say("AVATARMOD_ALIYUN2_ACCESS_KEY_SECRET is wrong: copy it again"),
    "Forbidden": say("the RAM user lacks AliyunYundunGreenWebFullAccess: grant it"),
    "NoPermission": say("the RAM user lacks AliyunYundunGreenWebFullAccess: grant it"),
    "InvalidTimeStamp": say("this host's clock is off: synchronise it"),
    "IllegalTimestamp": say("this host's clock is off: synchronise it"),
}


class Aliyun2Provider(ReviewProvider):
    """Image moderation 2.0."""

    name: ClassVar[str] = "aliyun2"
    max_image_bytes: ClassVar[int] = 20 * 2**20

    def __init__(self, settings: Aliyun2Settings, key_id: str, key_secret: str) -> None:
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
        self._sdk = Client(
            Config(
                access_key_id=key_id,
                access_key_secret=key_secret,
                region_id=self._region,
                endpoint=host,
                protocol=scheme,
            )
        )
        # The SDK has no place for a transport of one's own. Its own one follows redirects.
        DaraCore.do_action = staticmethod(_transport)
        self._bucket = TemporaryBucket(self.name, self._fetch_keys)

    @classmethod
    def from_settings(cls, settings: Aliyun2Settings) -> Self:
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
            self._sdk.image_moderation_with_options(request, _once())
        except (AlibabaCloudException, DaraException) as error:
            raise _translate(error) from None
        return _read(last_answer().json_object(), data_id)

    def _fetch_keys(self) -> TemporaryKeys:
        try:
            self._sdk.describe_upload_token_with_options(_once())
        except (AlibabaCloudException, DaraException) as error:
            raise _translate(error) from None
        reply = last_answer().json_object()
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
            raise ProviderAnswerUnknown(
                say("{provider} gave no usable upload keys", provider="aliyun2")
            ) from None


def _transport(request: Any, _runtime: object = None) -> DaraResponse:
    """What takes the place of the SDK's own way to the network."""
    answer = send(request.method, DaraCore.compose_url(request), request.headers, request.body)
    response = DaraResponse()
    response.status_code = answer.status
    response.headers = {name.lower(): value for name, value in answer.headers.items()}
    response.body = answer.body
    return response


def _once() -> RuntimeOptions:
    return RuntimeOptions(autoretry=False, max_attempts=1)


def _read(reply: dict[str, Any], data_id: str) -> Reply:
    _check_code(reply.get("Code"))
    data = reply.get("Data")
    entries = data.get("Result") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(entries, list) or not entries:
        raise ProviderAnswerUnknown(
            say("{provider} answered without any label, not even nonLabel", provider="aliyun2")
        )
    check_id("aliyun2", data.get("DataId"), data_id)
    risks = [_risk(entry) for entry in entries]
    sexual = [
        entry for entry, (label, _) in zip(entries, risks, strict=True) if label.startswith(SEXUAL)
    ]
    scores = [number(entry.get("Confidence"), 100.0) for entry in sexual]
    return Reply(
        decision=_decide(risks, data.get("RiskLevel")),
        score=max((score for score in scores if score is not None), default=None),
        labels=tuple(label for label, _ in risks),
        request_id=str(reply.get("RequestId", "")),
        raw=reply,
    )


def _risk(entry: Any) -> tuple[str, str]:
    """(label, risk level) of one entry; a clean label needs none."""
    label = entry.get("Label") if isinstance(entry, dict) else None
    if not isinstance(label, str) or not label:
        raise ProviderAnswerUnknown(
            say("{provider} answered an entry without a label", provider="aliyun2")
        )
    level = entry.get("RiskLevel")
    if level is None and label in CLEAN_LABELS:
        level = "none"
    if not isinstance(level, str):
        raise ProviderAnswerUnknown(
            say("{provider} answered a label without its risk level", provider="aliyun2")
        )
    return label, level


def _decide(risks: list[tuple[str, str]], overall: Any) -> Decision:
    """Block on pornographic labels at high risk; approve only what is known to be harmless."""
    if any(label.startswith(BLOCKING) and level == "high" for label, level in risks):
        return Decision.BLOCK
    labels = [label for label, _ in risks]
    is_harmless = len(set(labels)) == len(labels) and all(
        level in (("none",) if label in CLEAN_LABELS else ("low", "medium"))
        and (label in CLEAN_LABELS or label.startswith(OTHER_SUBJECTS))
        for label, level in risks
    )
    # One level for the whole picture that is above all of its labels contradicts them.
    worst = max((RISK_LEVELS.index(level) for _, level in risks if level in RISK_LEVELS), default=0)
    agrees = overall is None or overall in RISK_LEVELS[: worst + 1]
    return Decision.APPROVE if is_harmless and agrees else Decision.UNCERTAIN


def _check_code(code: Any) -> None:
    if code == 200:
        return
    if code in (408, 411, 596):
        raise ProviderMisconfigured(
            say(
                "{provider} {code}: image moderation 2.0 is not activated, or the RAM "
                "user lacks AliyunYundunGreenWebFullAccess",
                provider="aliyun2",
                code=code,
            )
        )
    if code == 588:
        raise ProviderRateLimited(
            say("{provider} {code}: too many calls", provider="aliyun2", code=code)
        )
    if code in (400, 401, 589, 590, 595):
        raise ProviderRejectedImage(
            say(
                "{provider} {code}: it does not take this picture",
                provider="aliyun2",
                code=code,
            )
        )
    if isinstance(code, int) and 500 <= code < 600:
        raise ProviderUnavailable(
            say(
                "{provider} {code}: it could not judge the picture now",
                provider="aliyun2",
                code=code,
            )
        )
    raise ProviderAnswerUnknown(
        say("{provider} answered the code {code!r}", provider="aliyun2", code=code)
    )


def _translate(error: Exception) -> ModerationError:
    """Sort what the SDK raises; throttling comes as a ClientException, so the code decides."""
    code = str(getattr(error, "code", ""))
    status = int(getattr(error, "status_code", 0) or getattr(error, "statusCode", 0) or 0)
    for prefix, advice in ADVICE.items():
        if code.startswith(prefix):
            return ProviderMisconfigured(
                say("{provider} {code}: {advice}", provider="aliyun2", code=code, advice=advice)
            )
    if code.startswith("Throttling"):
        wait = re.fullmatch(r"\d+", str(getattr(error, "retry_after", "") or ""))
        return ProviderRateLimited(
            say("{provider} {code}: too many calls", provider="aliyun2", code=code),
            retry_after_s=float(wait.group()) / 1000 if wait else None,
        )
    if status >= 500 or code.startswith("ServiceUnavailable"):
        return ProviderUnavailable(
            say("{provider} answered {code}", provider="aliyun2", code=f"{status} {code}")
        )
    if status in (401, 403):
        return ProviderMisconfigured(
            say(
                "{provider} {code}: {advice}",
                provider="aliyun2",
                code=f"{status} {code}",
                advice=say("the account may not do this"),
            )
        )
    return ProviderAnswerUnknown(
        say("{provider} answered {code}", provider="aliyun2", code=f"{status} {code}")
    )
