"""Tencent Cloud IMS: ImageModeration by tencentcloud-sdk-python-ims.

Source: cloud.tencent.com/document/product/1125 (ImageModeration 2020-12-29: parameters, reply,
error codes); SDK behaviour read in tencentcloud-sdk-python-common 3.1.195.
"""

from __future__ import annotations

import base64
from typing import Any, ClassVar, Self

import requests
from tencentcloud.common import credential
from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile
from tencentcloud.ims.v20201229 import ims_client, models

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
from worker.review.providers.base import Reply, ReviewProvider, check_id
from worker.review.providers.fields import check_region, needed, split_endpoint
from worker.review.providers.tencent_settings import TencentSettings
from worker.review.providers.wire import last_answer, mount, number

MAINLAND_REGIONS = (
    "ap-guangzhou",
    "ap-shanghai",
    "ap-beijing",
    "ap-nanjing",
    "ap-chengdu",
    "ap-chongqing",
)

#: Source: "Common parameters", list of access regions; which of them serve IMS is not published.
REGIONS = (
    *MAINLAND_REGIONS,
    "ap-hongkong",
    "ap-singapore",
    "ap-bangkok",
    "ap-jakarta",
    "ap-seoul",
    "ap-tokyo",
    "eu-frankfurt",
    "na-ashburn",
    "na-siliconvalley",
    "sa-saopaulo",
)

#: Labels and scenes that are our subject; a block for another reason (an advertisement) asks a
#: person instead of calling the picture explicit.
SEXUAL = frozenset({"Porn", "Sexy"})

#: Longest prefix wins. Source: "Error codes" of ImageModeration.
ERRORS: dict[str, tuple[type[ModerationError], str]] = {
    "RequestLimitExceeded": (ProviderRateLimited, say("too many calls")),
    "LimitExceeded": (ProviderRateLimited, say("too many calls")),
    "InternalError": (ProviderUnavailable, say("an error of its own")),
    "FailedOperation": (ProviderUnavailable, say("an error of its own")),
    "ResourceUnavailable": (ProviderUnavailable, say("its model is busy")),
    "ResourceInsufficient": (ProviderUnavailable, say("its model is busy")),
    "ResourceUnavailable.InvalidImageContent": (
        ProviderRejectedImage,
        say("not a picture it takes"),
    ),
    "InvalidParameter.ImageAspectRatioTooLarge": (ProviderRejectedImage, say("too long and thin")),
    "InvalidParameter.ImageDataTooSmall": (ProviderRejectedImage, say("too few bytes")),
    "InvalidParameter.ImageSizeTooSmall": (ProviderRejectedImage, say("too small")),
    "InvalidParameter.InvalidImageContent": (ProviderRejectedImage, say("not a picture it takes")),
    "InvalidParameterValue.EmptyImageContent": (ProviderRejectedImage, say("empty")),
    "InvalidParameterValue.ImageSizeTooSmall": (ProviderRejectedImage, say("too small")),
    "InvalidParameterValue.InvalidContent": (ProviderRejectedImage, say("not a picture it takes")),
    "InvalidParameterValue.InvalidFileContentSize": (
        ProviderRejectedImage,
        say("a wrong file size"),
    ),
    "InvalidParameterValue.InvalidImageContent": (
        ProviderRejectedImage,
        say("not a picture it takes"),
    ),
    "AuthFailure": (ProviderMisconfigured, say("AVATARMOD_TENCENT_SECRET_ID or _KEY is refused")),
    "AuthFailure.SecretIdNotFound": (
        ProviderMisconfigured,
        say("AVATARMOD_TENCENT_SECRET_ID does not exist: copy it again"),
    ),
    "AuthFailure.SignatureFailure": (
        ProviderMisconfigured,
        say("AVATARMOD_TENCENT_SECRET_KEY is wrong: copy it again"),
    ),
    "AuthFailure.SignatureExpire": (
        ProviderMisconfigured,
        say("this host's clock is more than five minutes off: synchronise it"),
    ),
    "UnauthorizedOperation": (
        ProviderMisconfigured,
        say("image moderation is not activated, has no package left, or is in arrears"),
    ),
    "OperationDenied": (ProviderMisconfigured, say("the account may not do this")),
    "ResourcesSoldOut": (ProviderMisconfigured, say("the package is used up: buy one")),
    "UnsupportedRegion": (
        ProviderMisconfigured,
        say("AVATARMOD_TENCENT_REGION does not serve IMS"),
    ),
    "NoSuchVersion": (ProviderMisconfigured, say("this API version is gone: upgrade the SDK")),
    "ActionOffline": (ProviderMisconfigured, say("this API is gone: upgrade the SDK")),
    # Our own request is wrong: no other picture would fare better, so it is told, not retried.
    "MissingParameter": (ProviderMisconfigured, say("the adapter sent a wrong request")),
    "UnknownParameter": (ProviderMisconfigured, say("the adapter sent a wrong request")),
    "InvalidParameter": (ProviderMisconfigured, say("a parameter is refused: check the BizType")),
    "InvalidParameterValue": (
        ProviderMisconfigured,
        say("a parameter is refused: check the BizType"),
    ),
}


class TencentProvider(ReviewProvider):
    """Image moderation of Tencent Cloud."""

    name: ClassVar[str] = "tencent"
    min_side_px: ClassVar[int] = 51
    #: 10 MB after base64, which adds a third.
    max_image_bytes: ClassVar[int] = 7 * 2**20

    def __init__(self, settings: TencentSettings, secret_id: str, secret_key: str) -> None:
        super().__init__(settings)
        self._region = settings.tencent_region
        self._biz_type = settings.tencent_biz_type
        scheme, host = split_endpoint(
            "AVATARMOD_TENCENT_ENDPOINT", settings.tencent_endpoint, "ims.tencentcloudapi.com"
        )
        try:
            keys = credential.Credential(secret_id, secret_key)
        except TencentCloudSDKException:
            raise ConfigurationError(
                "AVATARMOD_TENCENT_SECRET_ID or _KEY has a form that no key has: copy them again"
            ) from None
        http = HttpProfile(protocol=scheme, endpoint=host)
        self._sdk = ims_client.ImsClient(keys, self._region, ClientProfile(httpProfile=http))
        mount(self._sdk.request.conn._session, requests)

    @classmethod
    def from_settings(cls, settings: TencentSettings) -> Self:
        """See `ReviewProvider.from_settings`."""
        secret_id, secret_key = needed(settings, "tencent_secret_id", "tencent_secret_key")
        check_region(
            "AVATARMOD_TENCENT_REGION", settings.tencent_region, REGIONS, settings.tencent_endpoint
        )
        return cls(settings, secret_id, secret_key)

    @property
    def home(self) -> Region | None:
        """Where its region lies; Hong Kong is not mainland."""
        return Region.DOMESTIC if self._region in MAINLAND_REGIONS else Region.OVERSEAS

    def _rules(self) -> tuple[str, ...]:
        return (self._region, self._biz_type)

    def _ask(self, jpeg: bytes, data_id: str) -> Reply:
        request = models.ImageModerationRequest()
        request.DataId = data_id
        request.FileContent = base64.b64encode(jpeg).decode()
        if self._biz_type:
            request.BizType = self._biz_type
        try:
            self._sdk.ImageModeration(request)
        except TencentCloudSDKException as error:
            raise _translate(error) from None
        return _read(last_answer().json_object().get("Response"), data_id)


def _read(reply: Any, data_id: str) -> Reply:
    suggestion = reply.get("Suggestion") if isinstance(reply, dict) else None
    if not isinstance(suggestion, str) or not suggestion:
        # The SDK overlooks an error whose content type is not exactly application/json.
        raise ProviderAnswerUnknown(
            say("{provider} answered without a suggestion", provider="tencent")
        )
    check_id("tencent", reply.get("DataId"), data_id)
    label = str(reply.get("Label") or "")
    subs = [str(reply["SubLabel"])] if reply.get("SubLabel") else []
    score = number(reply.get("Score"), 100.0)
    if score is None:
        raise ProviderAnswerUnknown(say("{provider} answered without a score", provider="tencent"))
    return Reply(
        decision=_decide(suggestion, label, _findings(reply)),
        score=score if label in SEXUAL else (0.0 if label == "Normal" else None),
        labels=(label, *subs),
        request_id=str(reply.get("RequestId") or ""),
        raw=reply,
    )


def _findings(reply: dict[str, Any]) -> list[dict[str, Any]]:
    """What it says of each scene, object, text and library picture; an absent list is none."""
    findings: list[dict[str, Any]] = []
    for name in ("LabelResults", "ObjectResults", "OcrResults", "LibResults"):
        entries = reply.get(name) or []
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ProviderAnswerUnknown(
                say("{provider} answered with odd {name}", provider="tencent", name=name)
            )
        findings += entries
    return findings


def _decide(suggestion: str, label: str, findings: list[dict[str, Any]]) -> Decision:
    """Block for what is our subject; approve only Pass and Normal, with nothing against it."""
    blocked = {found.get("Scene") for found in findings if found.get("Suggestion") == "Block"}
    if suggestion == "Block" and (label in SEXUAL or blocked & SEXUAL):
        return Decision.BLOCK
    is_clean = all(found.get("Suggestion") == "Pass" for found in findings)
    if suggestion == "Pass" and label == "Normal" and is_clean:
        return Decision.APPROVE
    return Decision.UNCERTAIN


def _translate(error: TencentCloudSDKException) -> ModerationError:
    code = str(error.get_code() or "")
    if code == "ServerNetworkError":
        return ProviderUnavailable(
            say("{provider} answered with an HTTP error", provider="tencent")
        )
    prefixes = [prefix for prefix in ERRORS if code == prefix or code.startswith(f"{prefix}.")]
    if not prefixes and code.startswith("RequestLimitExceeded"):
        prefixes = ["RequestLimitExceeded"]
    if not prefixes:
        return ProviderAnswerUnknown(
            say("{provider} answered the code {code!r}", provider="tencent", code=code[:60])
        )
    kind, meaning = ERRORS[max(prefixes, key=len)]
    return kind(say("{provider} {code}: {advice}", provider="tencent", code=code, advice=meaning))
