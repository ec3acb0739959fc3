"""Alibaba Cloud content moderation 1.0: ImageSyncScan, scene porn, by aliyun-python-sdk-green.

The picture goes to a temporary bucket first (`oss.py`), because this API takes no bytes.

Source: help.aliyun.com, content moderation 1.0, "Synchronous image moderation" and "Common error
codes"; SDK behaviour read in aliyun-python-sdk-core 2.16.1.
"""

from __future__ import annotations

import json
import logging
from typing import Any, ClassVar, Self

from aliyunsdkcore.acs_exception.exceptions import ServerException
from aliyunsdkcore.client import AcsClient
from aliyunsdkcore.vendored import requests
from aliyunsdkgreen.request.v20180509.ImageSyncScanRequest import ImageSyncScanRequest
from aliyunsdkgreen.request.v20180509.UploadCredentialsRequest import UploadCredentialsRequest

from producer.contract import Region
from producer.errors import (
    ModerationError,
    ProviderAnswerUnknown,
    ProviderMisconfigured,
    ProviderRateLimited,
    ProviderRejectedImage,
    ProviderUnavailable,
)
from producer.findings import Decision
from producer.texts import say
from worker.review.providers.aliyun_settings import AliyunSettings
from worker.review.providers.base import Reply, ReviewProvider, check_id
from worker.review.providers.fields import check_region, needed, split_endpoint
from worker.review.providers.oss import TemporaryBucket, TemporaryKeys, aliyun_home
from worker.review.providers.wire import last_answer, mount, number

#: Source: "Endpoints" of content moderation 1.0, and what SDK 2.16.1 resolves to hosts of its own.
REGIONS = ("cn-shanghai", "cn-beijing", "cn-shenzhen", "cn-hangzhou", "ap-southeast-1", "us-west-1")

#: (label, suggestion) of scene porn. What is not listed is uncertain, never an approval; a pass of
#: a picture labelled porn contradicts itself. `rate` is the confidence in the label, not a score.
DECISIONS = {
    ("normal", "pass"): Decision.APPROVE,
    ("sexy", "pass"): Decision.APPROVE,
    ("sexy", "block"): Decision.BLOCK,
    ("porn", "block"): Decision.BLOCK,
}

#: Gateway codes that only the operator can mend.
GATEWAY_ADVICE = {
    "InvalidAccessKeyId.NotFound": say(
        "AVATARMOD_ALIYUN_ACCESS_KEY_ID does not exist: copy it again"
    ),
    "InvalidAccessKeyId.Inactive": say("the AccessKey is disabled: enable it in the RAM console"),
    "SignatureDoesNotMatch": say("AVATARMOD_ALIYUN_ACCESS_KEY_SECRET is wrong: copy it again"),
    "InvalidAccessKeySecret": say("AVATARMOD_ALIYUN_ACCESS_KEY_SECRET is wrong: copy it again"),
    "Forbidden.RAM": say("the RAM user lacks AliyunYundunGreenWebFullAccess: grant it"),
    "IllegalTimestamp": say("this host's clock is off: synchronise it"),
    "InvalidTimeStamp.Expired": say("this host's clock is off: synchronise it"),
}

#: Body codes that only the operator can mend.
BODY_ADVICE = {
    408: say("the account or RAM user may not use content moderation: grant it"),
    411: say("the account or RAM user may not use content moderation: grant it"),
    596: say(
        "content moderation 1.0 is not activated (it needs an enterprise account): activate it, "
        "or use aliyun2"
    ),
}

#: Body codes that mean: never this picture. 594 is a code of asynchronous calls only.
BODY_REJECTED = frozenset({400, 401, 589, 590, 594, 595})

#: Body codes that mean: later. 403, 404, 480 and 592 say that their download of our upload failed.
BODY_LATER = frozenset(
    {280, 403, 404, 480, 592, 500, 503, 580, 581, 585, 586, 587, 591},
)


class AliyunProvider(ReviewProvider):
    """Content moderation 1.0."""

    name: ClassVar[str] = "aliyun"
    max_image_bytes: ClassVar[int] = 20 * 2**20

    def __init__(self, settings: AliyunSettings, key_id: str, key_secret: str) -> None:
        super().__init__(settings)
        # The SDK logs whole replies as errors; the adapter reports failures itself.
        logging.getLogger("aliyunsdkcore").setLevel(logging.CRITICAL)
        self._region = settings.aliyun_region
        self._biz_type = settings.aliyun_biz_type
        self._scheme, self._host = split_endpoint(
            "AVATARMOD_ALIYUN_ENDPOINT",
            settings.aliyun_endpoint,
            f"green.{self._region}.aliyuncs.com",
        )
        self._sdk = AcsClient(
            key_id,
            key_secret,
            self._region,
            auto_retry=False,
        )
        mount(self._sdk.session, requests)
        self._bucket = TemporaryBucket(self.name, self._fetch_keys)

    @classmethod
    def from_settings(cls, settings: AliyunSettings) -> Self:
        """See `ReviewProvider.from_settings`."""
        key_id, key_secret = needed(settings, "aliyun_access_key_id", "aliyun_access_key_secret")
        check_region(
            "AVATARMOD_ALIYUN_REGION", settings.aliyun_region, REGIONS, settings.aliyun_endpoint
        )
        return cls(settings, key_id, key_secret)

    @property
    def home(self) -> Region | None:
        """Where its region lies; Hong Kong is not mainland."""
        return aliyun_home(self._region)

    def _rules(self) -> tuple[str, ...]:
        return (self._region, self._biz_type)

    def _ask(self, jpeg: bytes, data_id: str) -> Reply:
        bucket, name = self._bucket.put(jpeg)
        task = {"dataId": data_id, "url": f"oss://{bucket}/{name}"}
        body: dict[str, Any] = {"scenes": ["porn"], "tasks": [task]}
        if self._biz_type:
            body["bizType"] = self._biz_type
        return _read(self._post(ImageSyncScanRequest(), body), data_id)

    def _post(self, request: Any, body: dict[str, Any]) -> dict[str, Any]:
        # The default protocol is plain HTTP.
        request.set_protocol_type(self._scheme)
        request.set_accept_format("JSON")
        request.set_endpoint(self._host)
        request.set_content(json.dumps(body).encode())
        try:
            self._sdk.do_action_with_exception(request)
        except ServerException as error:
            raise _gateway_error(error) from None
        except IndexError:
            # SDK 2.16.1 splits the message of SignatureDoesNotMatch at a colon it may not have.
            raise ProviderMisconfigured(GATEWAY_ADVICE["SignatureDoesNotMatch"]) from None
        return last_answer().json_object()

    def _fetch_keys(self) -> TemporaryKeys:
        reply = self._post(UploadCredentialsRequest(), {})
        _check_code(reply.get("code"))
        data: Any = reply.get("data")
        is_private = "-vpc." in self._host
        try:
            return TemporaryKeys(
                key_id=data["accessKeyId"],
                key_secret=data["accessKeySecret"],
                token=data["securityToken"],
                expires_at=float(data["expiredTime"]) / 1000,
                endpoint=data["ossInternalEndpoint" if is_private else "ossEndpoint"],
                bucket=data["uploadBucket"],
                folder=f"{data['uploadFolder']}/images/",
            )
        except (KeyError, TypeError, ValueError):
            raise ProviderAnswerUnknown(
                say("{provider} gave no usable upload keys", provider="aliyun")
            ) from None


def _read(reply: dict[str, Any], data_id: str) -> Reply:
    _check_code(reply.get("code"))
    tasks = reply.get("data")
    task = tasks[0] if isinstance(tasks, list) and len(tasks) == 1 else None
    if not isinstance(task, dict):
        raise ProviderAnswerUnknown(
            say("{provider} did not answer for exactly our one picture", provider="aliyun")
        )
    _check_code(task.get("code"))
    check_id("aliyun", task.get("dataId"), data_id)
    results = task.get("results")
    porn = results[0] if isinstance(results, list) and len(results) == 1 else None
    if not isinstance(porn, dict) or porn.get("scene") != "porn":
        raise ProviderAnswerUnknown(
            say("{provider} did not answer for exactly the scene porn", provider="aliyun")
        )
    label, suggestion = porn.get("label"), porn.get("suggestion")
    rate = number(porn.get("rate"), 100.0)
    if not isinstance(label, str) or not isinstance(suggestion, str) or rate is None:
        raise ProviderAnswerUnknown(
            say("{provider} answered without label, suggestion or rate", provider="aliyun")
        )
    return Reply(
        decision=DECISIONS.get((label, suggestion), Decision.UNCERTAIN),
        score=_score(label, rate),
        labels=(label, *([str(porn["sublabel"])] if porn.get("sublabel") else [])),
        request_id=str(reply.get("requestId", "")),
        raw=reply,
    )


def _score(label: str, rate: float) -> float | None:
    return {"porn": rate, "normal": 1.0 - rate}.get(label)


def _check_code(code: Any) -> None:
    """Raise what a body code other than 200 means; a reply without a code is not understood."""
    if code == 200:
        return
    if code in BODY_ADVICE:
        raise ProviderMisconfigured(
            say(
                "{provider} {code}: {advice}",
                provider="aliyun",
                code=code,
                advice=BODY_ADVICE[code],
            )
        )
    if code == 588:
        raise ProviderRateLimited(
            say("{provider} {code}: too many calls", provider="aliyun", code=code)
        )
    if code in BODY_REJECTED:
        raise ProviderRejectedImage(
            say("{provider} {code}: it does not take this picture", provider="aliyun", code=code)
        )
    if code in BODY_LATER:
        raise ProviderUnavailable(
            say(
                "{provider} {code}: it could not judge the picture now",
                provider="aliyun",
                code=code,
            )
        )
    raise ProviderAnswerUnknown(
        say("{provider} answered the code {code!r}", provider="aliyun", code=code)
    )


def _gateway_error(error: ServerException) -> ModerationError:
    code, status = str(error.get_error_code()), error.get_http_status()
    if code in GATEWAY_ADVICE or code.startswith("InvalidAccessKey"):
        advice = GATEWAY_ADVICE.get(code, say("the AccessKey is refused: check both halves"))
        return ProviderMisconfigured(
            say("{provider} {code}: {advice}", provider="aliyun", code=code, advice=advice)
        )
    if code.startswith("Throttling"):
        return ProviderRateLimited(
            say("{provider} {code}: too many calls", provider="aliyun", code=code)
        )
    if code.startswith("Forbidden") or status in (401, 403):
        return ProviderMisconfigured(
            say(
                "{provider} {code}: {advice}",
                provider="aliyun",
                code=f"{status} {code}",
                advice=say("the account may not do this"),
            )
        )
    if status >= 500 or code == "ServiceUnavailable":
        return ProviderUnavailable(
            say("{provider} answered {code}", provider="aliyun", code=f"{status} {code}")
        )
    return ProviderAnswerUnknown(
        say("{provider} answered {code}", provider="aliyun", code=f"{status} {code}")
    )
