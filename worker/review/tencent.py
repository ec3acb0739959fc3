"""Tencent Cloud IMS: ImageModeration by tencentcloud-sdk-python-ims.

Source: cloud.tencent.com/document/product/1125 (ImageModeration 2020-12-29: parameters, reply,
error codes); SDK behaviour read in tencentcloud-sdk-python-common 3.1.195.
"""

from __future__ import annotations

import base64
import json
from typing import Any, ClassVar, Self

import requests
from tencentcloud.common import credential
from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile
from tencentcloud.ims.v20201229 import ims_client, models

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
from worker.review.settings import ReviewSettings
from worker.review.wire import network_error, number, split_endpoint

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
    "RequestLimitExceeded": (ProviderRateLimited, "too many calls"),
    "LimitExceeded": (ProviderRateLimited, "too many calls"),
    "InternalError": (ProviderUnavailable, "an error of its own"),
    "FailedOperation": (ProviderUnavailable, "an error of its own"),
    "ResourceUnavailable": (ProviderUnavailable, "its model is busy"),
    "ResourceInsufficient": (ProviderUnavailable, "its model is busy"),
    "ResourceUnavailable.InvalidImageContent": (ProviderRejectedImage, "not a picture it takes"),
    "InvalidParameter.ImageAspectRatioTooLarge": (ProviderRejectedImage, "too long and thin"),
    "InvalidParameter.ImageDataTooSmall": (ProviderRejectedImage, "too few bytes"),
    "InvalidParameter.ImageSizeTooSmall": (ProviderRejectedImage, "too small"),
    "InvalidParameter.InvalidImageContent": (ProviderRejectedImage, "not a picture it takes"),
    "InvalidParameterValue.EmptyImageContent": (ProviderRejectedImage, "empty"),
    "InvalidParameterValue.ImageSizeTooSmall": (ProviderRejectedImage, "too small"),
    "InvalidParameterValue.InvalidContent": (ProviderRejectedImage, "not a picture it takes"),
    "InvalidParameterValue.InvalidFileContentSize": (ProviderRejectedImage, "a wrong file size"),
    "InvalidParameterValue.InvalidImageContent": (ProviderRejectedImage, "not a picture it takes"),
    "AuthFailure": (ProviderMisconfigured, "AVATARMOD_TENCENT_SECRET_ID or _KEY is refused"),
    "AuthFailure.SecretIdNotFound": (
        ProviderMisconfigured,
        "AVATARMOD_TENCENT_SECRET_ID does not exist: copy it again",
    ),
    "AuthFailure.SignatureFailure": (
        ProviderMisconfigured,
        "AVATARMOD_TENCENT_SECRET_KEY is wrong: copy it again",
    ),
    "AuthFailure.SignatureExpire": (
        ProviderMisconfigured,
        "this host's clock is more than five minutes off: synchronise it",
    ),
    "UnauthorizedOperation": (
        ProviderMisconfigured,
        "image moderation is not activated, has no package left, or is in arrears",
    ),
    "OperationDenied": (ProviderMisconfigured, "the account may not do this"),
    "ResourcesSoldOut": (ProviderMisconfigured, "the package is used up: buy one"),
    "UnsupportedRegion": (ProviderMisconfigured, "AVATARMOD_TENCENT_REGION does not serve IMS"),
    "NoSuchVersion": (ProviderMisconfigured, "this API version is gone: upgrade the SDK"),
    "ActionOffline": (ProviderMisconfigured, "this API is gone: upgrade the SDK"),
    # Our own request is wrong: no other picture would fare better, so it is told, not retried.
    "MissingParameter": (ProviderMisconfigured, "the adapter sent a wrong request"),
    "UnknownParameter": (ProviderMisconfigured, "the adapter sent a wrong request"),
    "InvalidParameter": (ProviderMisconfigured, "a parameter is refused: check the BizType"),
    "InvalidParameterValue": (ProviderMisconfigured, "a parameter is refused: check the BizType"),
}


class TencentProvider(ReviewProvider):
    """Image moderation of Tencent Cloud."""

    name: ClassVar[str] = "tencent"
    min_side_px: ClassVar[int] = 51
    #: 10 MB after base64, which adds a third.
    max_image_bytes: ClassVar[int] = 7 * 2**20

    def __init__(self, settings: ReviewSettings, secret_id: str, secret_key: str) -> None:
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
        # The default time-out is a minute, for connecting and for reading alike.
        http = HttpProfile(protocol=scheme, endpoint=host, reqTimeout=self.timeout_s)
        self._client = ims_client.ImsClient(keys, self._region, ClientProfile(httpProfile=http))

    @classmethod
    def from_settings(cls, settings: ReviewSettings) -> Self:
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
            response = self._client.ImageModeration(request)
        except TencentCloudSDKException as error:
            raise _translate(error) from None
        except requests.RequestException as error:
            raise network_error(self.name, repr(error)) from None
        except (ValueError, KeyError, TypeError):
            raise ProviderAnswerUnknown("tencent answered something that is not its JSON") from None
        return _read(json.loads(response.to_json_string()))


def _read(reply: dict[str, Any]) -> Reply:
    suggestion = reply.get("Suggestion")
    if not suggestion:
        # The SDK overlooks an error whose content type is not exactly application/json, and hands
        # out a reply with every field empty.
        raise ProviderAnswerUnknown("tencent answered without a suggestion")
    label = str(reply.get("Label") or "")
    scenes = [scene for scene in reply.get("LabelResults") or () if isinstance(scene, dict)]
    subs = [str(reply["SubLabel"])] if reply.get("SubLabel") else []
    score = number(reply.get("Score"), 100.0)
    return Reply(
        decision=_decide(str(suggestion), label, scenes),
        score=score if label in SEXUAL else (0.0 if label == "Normal" else None),
        labels=(label, *subs),
        request_id=str(reply.get("RequestId") or ""),
        raw=reply,
    )


def _decide(suggestion: str, label: str, scenes: list[dict[str, Any]]) -> Decision:
    blocked = {scene.get("Scene") for scene in scenes if scene.get("Suggestion") == "Block"}
    if suggestion == "Block" and (label in SEXUAL or blocked & SEXUAL):
        return Decision.BLOCK
    if suggestion == "Pass" and label not in SEXUAL and not blocked:
        return Decision.APPROVE
    return Decision.UNCERTAIN


def _translate(error: TencentCloudSDKException) -> ModerationError:
    code, message = str(error.get_code() or ""), str(error.get_message() or "")
    if code == "ClientNetworkError":
        return network_error("tencent", message)
    if code == "ServerNetworkError":
        return ProviderUnavailable("tencent answered with an HTTP error")
    prefixes = [prefix for prefix in ERRORS if code == prefix or code.startswith(f"{prefix}.")]
    if not prefixes and code.startswith("RequestLimitExceeded"):
        prefixes = ["RequestLimitExceeded"]
    if not prefixes:
        return ProviderAnswerUnknown(f"tencent answered the code {code[:60]!r}")
    kind, meaning = ERRORS[max(prefixes, key=len)]
    return kind(f"tencent {code}: {meaning}")
