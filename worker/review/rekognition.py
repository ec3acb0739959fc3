"""Amazon Rekognition: DetectModerationLabels by boto3.

Source: docs.aws.amazon.com/rekognition (DetectModerationLabels; moderation labels, version 7;
quotas); SDK behaviour read in botocore 1.44.5.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Self

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
)
from pydantic import SecretStr

from producer.contract import Decision, Region
from producer.errors import (
    ConfigurationError,
    ModerationError,
    ProviderAnswerUnknown,
    ProviderMisconfigured,
    ProviderRateLimited,
    ProviderRejectedImage,
    ProviderSilent,
    ProviderUnavailable,
)
from worker.review.base import Reply, ReviewProvider, check_region
from worker.review.settings import ReviewSettings
from worker.review.wire import number

#: Source: endpoints and quotas of Rekognition; gov and China partitions left out.
REGIONS = (
    "us-east-1",
    "us-east-2",
    "us-west-1",
    "us-west-2",
    "ca-central-1",
    "eu-west-1",
    "eu-west-2",
    "eu-central-1",
    "eu-south-2",
    "ap-south-1",
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-southeast-5",
    "ap-southeast-7",
    "il-central-1",
    "sa-east-1",
)

#: 0..100; what is surer than this is returned at all. The default of 50 would hide gray answers.
MIN_CONFIDENCE = 30.0

#: Source: moderation labels, version 7. Spacing and case are exact.
EXPLICIT = frozenset(
    {
        "Explicit",
        "Explicit Nudity",
        "Exposed Male Genitalia",
        "Exposed Female Genitalia",
        "Exposed Buttocks or Anus",
        "Exposed Female Nipple",
        "Explicit Sexual Activity",
        "Sex Toys",
    }
)

#: Asks a person when sure. A drawing's nudity that is not explicit is found here too.
SUGGESTIVE = frozenset(
    {
        "Non-Explicit Nudity",
        "Partially Exposed Buttocks",
        "Partially Exposed Female Breast",
        "Implied Nudity",
        "Obstructed Intimate Parts",
        "Obstructed Female Nipple",
        "Obstructed Male Genitalia",
    }
)

#: Another subject than ours, but nothing to approve unseen when sure.
DISTURBING = frozenset({"Violence", "Visually Disturbing", "Hate Symbols"})

#: No reason to act. First-level names stand for their whole branch.
HARMLESS = frozenset(
    {
        "Bare Back",
        "Exposed Male Nipple",
        "Kissing on the Lips",
        "Swimwear or Underwear",
        "Drugs & Tobacco",
        "Alcohol",
        "Rude Gestures",
        "Gambling",
    }
)

#: A branch of harmless and suggestive labels: it says nothing by itself, and does not stand for a
#: label under it that this table does not know.
MIXED_BRANCH = "Non-Explicit Nudity of Intimate parts and Kissing"

ERRORS: dict[str, tuple[type[ModerationError], str]] = {
    # Modelled as HTTP 500, yet a rate answer.
    "ThrottlingException": (ProviderRateLimited, "too many calls"),
    "ProvisionedThroughputExceededException": (ProviderRateLimited, "too many calls"),
    "InternalServerError": (ProviderUnavailable, "an error of its own"),
    "ServiceUnavailable": (ProviderUnavailable, "an error of its own"),
    "InvalidImageFormatException": (ProviderRejectedImage, "not a picture it takes"),
    "ImageTooLargeException": (ProviderRejectedImage, "too many bytes"),
    "InvalidParameterException": (ProviderRejectedImage, "refused, normally for being too small"),
    "InvalidS3ObjectException": (ProviderRejectedImage, "not a picture it takes"),
    "AccessDeniedException": (
        ProviderMisconfigured,
        "the key lacks rekognition:DetectModerationLabels: grant it",
    ),
    "UnrecognizedClientException": (
        ProviderMisconfigured,
        "AVATARMOD_REKOGNITION_ACCESS_KEY_ID does not exist: copy it again",
    ),
    "InvalidSignatureException": (
        ProviderMisconfigured,
        "AVATARMOD_REKOGNITION_SECRET_ACCESS_KEY is wrong, or this host's clock is off",
    ),
    "ExpiredTokenException": (ProviderMisconfigured, "the session token has ended: renew it"),
    "SubscriptionRequiredException": (ProviderMisconfigured, "the account is not activated"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CutOffs:
    """0..100: explicit labels block from `block` on and ask a person from `person` on."""

    block: float
    person: float


#: For photos, and for what it calls animated or illustrated: more goes to a person there.
PHOTO = CutOffs(block=80.0, person=40.0)
DRAWN = CutOffs(block=90.0, person=30.0)

#: 0..100, from here on suggestive and disturbing labels ask a person.
SURE = 80.0


class RekognitionProvider(ReviewProvider):
    """Moderation labels of Amazon Rekognition."""

    name: ClassVar[str] = "rekognition"
    min_side_px: ClassVar[int] = 80
    max_image_bytes: ClassVar[int] = 5 * 10**6

    def __init__(self, settings: ReviewSettings) -> None:
        super().__init__(settings)
        # A session of our own: boto3's default one is shared and not safe for threads.
        self._client = boto3.session.Session(
            aws_access_key_id=_text(settings.rekognition_access_key_id),
            aws_secret_access_key=_text(settings.rekognition_secret_access_key),
            aws_session_token=_text(settings.rekognition_session_token),
        ).client(
            "rekognition",
            region_name=settings.rekognition_region,
            endpoint_url=settings.rekognition_endpoint or None,
            config=Config(
                connect_timeout=self.connect_timeout_s,
                read_timeout=self.timeout_s,
                retries={"mode": "standard", "total_max_attempts": 1},
            ),
        )

    @classmethod
    def from_settings(cls, settings: ReviewSettings) -> Self:
        """See `ReviewProvider.from_settings`."""
        has_id = settings.rekognition_access_key_id is not None
        if has_id != (settings.rekognition_secret_access_key is not None):
            raise ConfigurationError(
                "rekognition: set both AVATARMOD_REKOGNITION_ACCESS_KEY_ID and "
                "AVATARMOD_REKOGNITION_SECRET_ACCESS_KEY, or neither for boto3's own search"
            )
        check_region(
            "AVATARMOD_REKOGNITION_REGION",
            settings.rekognition_region,
            REGIONS,
            settings.rekognition_endpoint,
        )
        return cls(settings)

    @property
    def home(self) -> Region | None:
        """Overseas: there is no Rekognition in China."""
        return Region.OVERSEAS

    def _rules(self) -> tuple[str, ...]:
        return (str(PHOTO), str(DRAWN), str(SURE))

    def close(self) -> None:
        """Close the connection pool."""
        self._client.close()

    def _ask(self, jpeg: bytes, data_id: str) -> Reply:
        try:
            reply = self._client.detect_moderation_labels(
                Image={"Bytes": jpeg}, MinConfidence=MIN_CONFIDENCE
            )
        except (ClientError, BotoCoreError) as error:
            raise _translate(error) from None
        return _read(reply)


def _text(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


def _read(reply: dict[str, Any]) -> Reply:
    entries = reply.get("ModerationLabels")
    if not isinstance(entries, list) or not reply.get("ModerationModelVersion"):
        raise ProviderAnswerUnknown("rekognition answered without its label list")
    sure: dict[str, float] = {}
    parents: dict[str, str] = {}
    for entry in entries:
        name, share = entry.get("Name"), number(entry.get("Confidence"), 100.0)
        if not name or share is None:
            raise ProviderAnswerUnknown("rekognition answered a label without its confidence")
        sure[name] = max(share * 100.0, sure.get(name, 0.0))
        parents[name] = str(entry.get("ParentName") or "")
    kinds: dict[frozenset[str] | None, float] = {}
    for name, value in sure.items():
        kind = _kind(name, parents)
        kinds[kind] = max(value, kinds.get(kind, 0.0))
    styles = {str(style.get("Name")) for style in reply.get("ContentTypes") or ()}
    metadata = reply.get("ResponseMetadata") or {}
    return Reply(
        decision=_decide(kinds, DRAWN if styles & {"Animated", "Illustrated"} else PHOTO),
        score=kinds.get(EXPLICIT, 0.0) / 100.0,
        labels=tuple(sorted(sure, key=sure.__getitem__, reverse=True)),
        request_id=str(metadata.get("RequestId", "")),
        model_version=str(reply["ModerationModelVersion"]),
        raw={name: value for name, value in reply.items() if name != "ResponseMetadata"},
    )


def _kind(name: str, parents: dict[str, str]) -> frozenset[str] | None:
    """Which table a label falls under, by itself or by its nearest known ancestor; None: none."""
    for _ in range(4):
        for table in (EXPLICIT, SUGGESTIVE, DISTURBING, HARMLESS):
            if name in table:
                return table
        if name not in parents or not parents[name]:
            break
        name = parents[name]
        if name == MIXED_BRANCH:
            return None
    return HARMLESS if name == MIXED_BRANCH else None


def _decide(kinds: dict[frozenset[str] | None, float], cut_offs: CutOffs) -> Decision:
    """From the highest confidence, 0..100, of each table; a label of no table asks a person."""
    explicit = kinds.get(EXPLICIT, 0.0)
    if explicit >= cut_offs.block:
        return Decision.BLOCK
    others = max(kinds.get(SUGGESTIVE, 0.0), kinds.get(DISTURBING, 0.0))
    if explicit >= cut_offs.person or others >= SURE or None in kinds:
        return Decision.UNCERTAIN
    return Decision.APPROVE


def _translate(error: Exception) -> ModerationError:
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in ERRORS:
            kind, meaning = ERRORS[code]
            return kind(f"rekognition {code}: {meaning}")
        if status >= 500:
            return ProviderUnavailable(f"rekognition answered {status}")
        if status in (401, 403):
            return ProviderMisconfigured(f"rekognition {status}: the key is refused")
        return ProviderAnswerUnknown(f"rekognition answered {status} {code[:60]}")
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return ProviderMisconfigured(
            "rekognition: no keys were found: set AVATARMOD_REKOGNITION_ACCESS_KEY_ID and "
            "AVATARMOD_REKOGNITION_SECRET_ACCESS_KEY"
        )
    if isinstance(error, EndpointConnectionError | ConnectTimeoutError):
        return ProviderUnavailable("rekognition cannot be reached")
    if type(error).__name__ == "ResponseParserError":
        return ProviderAnswerUnknown("rekognition answered something that is not its JSON")
    return ProviderSilent("rekognition did not answer, or not completely")
