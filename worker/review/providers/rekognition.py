"""Amazon Rekognition: DetectModerationLabels by boto3.

Source: docs.aws.amazon.com/rekognition (DetectModerationLabels; moderation labels, version 7;
quotas); SDK behaviour read in botocore 1.44.5.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Self

import boto3
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import ClientError, NoCredentialsError, PartialCredentialsError
from pydantic import SecretStr

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
from worker.review.providers.base import Reply, ReviewProvider
from worker.review.providers.fields import check_region
from worker.review.providers.rekognition_settings import RekognitionSettings
from worker.review.providers.wire import Answer, last_answer, number, send

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
    "ThrottlingException": (ProviderRateLimited, say("too many calls")),
    "ProvisionedThroughputExceededException": (ProviderRateLimited, say("too many calls")),
    "InternalServerError": (ProviderUnavailable, say("an error of its own")),
    "ServiceUnavailable": (ProviderUnavailable, say("an error of its own")),
    "InvalidImageFormatException": (ProviderRejectedImage, say("not a picture it takes")),
    "ImageTooLargeException": (ProviderRejectedImage, say("too many bytes")),
    "InvalidParameterException": (
        ProviderRejectedImage,
        say("refused, normally for being too small"),
    ),
    "InvalidS3ObjectException": (ProviderRejectedImage, say("not a picture it takes")),
    "AccessDeniedException": (
        ProviderMisconfigured,
        say("the key lacks rekognition:DetectModerationLabels: grant it"),
    ),
    "UnrecognizedClientException": (
        ProviderMisconfigured,
        say("AVATARMOD_REKOGNITION_ACCESS_KEY_ID does not exist: copy it again"),
    ),
    "InvalidSignatureException": (
        ProviderMisconfigured,
        say("AVATARMOD_REKOGNITION_SECRET_ACCESS_KEY is wrong, or this host's clock is off"),
    ),
    "ExpiredTokenException": (ProviderMisconfigured, say("the session token has ended: renew it")),
    "SubscriptionRequiredException": (ProviderMisconfigured, say("the account is not activated")),
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

    def __init__(self, settings: RekognitionSettings) -> None:
        super().__init__(settings)
        # A session of our own: boto3's default one is shared and not safe for threads.
        self._sdk = boto3.session.Session(
            aws_access_key_id=_text(settings.rekognition_access_key_id),
            aws_secret_access_key=_text(settings.rekognition_secret_access_key),
            aws_session_token=_text(settings.rekognition_session_token),
        ).client(
            "rekognition",
            region_name=settings.rekognition_region,
            endpoint_url=settings.rekognition_endpoint or None,
            config=Config(
                retries={"mode": "standard", "total_max_attempts": 1},
            ),
        )
        self._sdk.meta.events.register("before-send.rekognition", _transport)

    @classmethod
    def from_settings(cls, settings: RekognitionSettings) -> Self:
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

    def _ask(self, jpeg: bytes, data_id: str) -> Reply:
        try:
            self._sdk.detect_moderation_labels(Image={"Bytes": jpeg}, MinConfidence=MIN_CONFIDENCE)
        except (ClientError, NoCredentialsError, PartialCredentialsError) as error:
            raise _translate(error) from None
        return _read(last_answer())


def _transport(request: Any, **_: Any) -> AWSResponse:
    """What takes the place of botocore's own way to the network."""
    answer = send(request.method, request.url, request.headers, request.body)
    response = AWSResponse(request.url, answer.status, dict(answer.headers), None)
    response._content = answer.body
    return response


def _text(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


def _read(answer: Answer) -> Reply:
    reply = answer.json_object()
    entries = reply.get("ModerationLabels")
    if not isinstance(entries, list) or not reply.get("ModerationModelVersion"):
        raise ProviderAnswerUnknown(
            say("{provider} answered without its label list", provider="rekognition")
        )
    sure: dict[str, float] = {}
    parents: dict[str, str] = {}
    for entry in entries:
        name = entry.get("Name") if isinstance(entry, dict) else None
        share = number(entry.get("Confidence"), 100.0) if isinstance(entry, dict) else None
        if not isinstance(name, str) or share is None or name in sure:
            raise ProviderAnswerUnknown(
                say(
                    "{provider} answered a label twice or without its confidence",
                    provider="rekognition",
                )
            )
        sure[name] = share * 100.0
        parents[name] = str(entry.get("ParentName") or "")
    kinds: dict[frozenset[str] | None, float] = {}
    for name, value in sure.items():
        kind = _kind(name, parents)
        kinds[kind] = max(value, kinds.get(kind, 0.0))
    styles = {str(style["Name"]) for style in reply.get("ContentTypes") or ()}
    return Reply(
        decision=_decide(kinds, DRAWN if styles & {"Animated", "Illustrated"} else PHOTO),
        score=kinds.get(EXPLICIT, 0.0) / 100.0,
        labels=tuple(sorted(sure, key=sure.__getitem__, reverse=True)),
        request_id=answer.headers.get("x-amzn-requestid", ""),
        model_version=str(reply["ModerationModelVersion"]),
        raw=reply,
    )


def _kind(name: str, parents: dict[str, str]) -> frozenset[str] | None:
    """Which table a label falls under, by itself or by its nearest known ancestor; None: none.

    Below an explicit label everything is explicit.
    """
    line = [name]
    while parents.get(line[-1]) and len(line) < 4:
        line.append(parents[line[-1]])
    if EXPLICIT & set(line):
        return EXPLICIT
    for one in line:
        for table in (SUGGESTIVE, DISTURBING, HARMLESS):
            if one in table:
                return table
        if one == MIXED_BRANCH:
            return HARMLESS if one == name else None
    return None


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
            return kind(
                say(
                    "{provider} {code}: {advice}",
                    provider="rekognition",
                    code=code,
                    advice=meaning,
                )
            )
        if status >= 500:
            return ProviderUnavailable(
                say("{provider} answered {code}", provider="rekognition", code=status)
            )
        if status in (401, 403):
            return ProviderMisconfigured(
                say(
                    "{provider} {code}: {advice}",
                    provider="rekognition",
                    code=status,
                    advice=say("the key is refused"),
                )
            )
        return ProviderAnswerUnknown(
            say(
                "{provider} answered {code}",
                provider="rekognition",
                code=f"{status} {code[:60]}",
            )
        )
    return ProviderMisconfigured(
        say(
            "{provider}: no keys were found: set "
            "AVATARMOD_REKOGNITION_ACCESS_KEY_ID and "
            "AVATARMOD_REKOGNITION_SECRET_ACCESS_KEY",
            provider="rekognition",
        )
    )
