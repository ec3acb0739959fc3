"""S3 as its makers speak it: a client with their manners, and what each error code asks for."""

from __future__ import annotations

from typing import Any

from producer import authorities
from producer.errors import ConfigurationError
from producer.installed import how_to_install
from producer.settings import Settings
from producer.texts import N_

#: What S3-compatible services answer where we may not look.
FORBIDDEN = frozenset({"AccessDenied", "403", "Forbidden"})

_SET_KEYS = N_(
    "set AVATARMOD_S3_ACCESS_KEY_ID and AVATARMOD_S3_SECRET_ACCESS_KEY, or give the machine a role"
)
_SET_REGION = N_("set AVATARMOD_S3_REGION, and AVATARMOD_S3_ENDPOINT_URL where it is not AWS")
_SET_ADDRESSING = N_(
    "set AVATARMOD_S3_ADDRESSING=virtual, or AVATARMOD_S3_KIND to whose store it is"
)
_SET_CHECKSUMS = N_(
    "set AVATARMOD_S3_CHECKSUMS=required, or AVATARMOD_S3_KIND to whose store it is"
)
_GIVE_RIGHTS = N_(
    "give these keys s3:GetObject, and s3:ListBucket, without which what is missing reads the same"
)

#: Error codes that are a fault of the configuration, and what to set.
#: Source: Amazon S3 API reference, list of error codes; Alibaba OSS and Tencent COS, error codes.
S3_REMEDIES = {
    "NoCredentials": _SET_KEYS,
    "InvalidAccessKeyId": _SET_KEYS,
    "SignatureDoesNotMatch": _SET_KEYS,
    "ExpiredToken": _SET_KEYS,
    "InvalidToken": _SET_KEYS,
    "NoSuchBucket": N_("correct the bucket's name in {setting}, or make it"),
    "InvalidBucketName": N_("correct the bucket's name in {setting}"),
    "PermanentRedirect": _SET_REGION,
    "301": _SET_REGION,
    "AuthorizationHeaderMalformed": _SET_REGION,
    "IllegalLocationConstraintException": _SET_REGION,
    "InvalidRegionName": _SET_REGION,
    "RequestTimeTooSkewed": N_("correct this machine's clock"),
    "RequestExpired": N_("correct this machine's clock"),
    "SecondLevelDomainForbidden": _SET_ADDRESSING,
    "PathStyleDomainForbidden": _SET_ADDRESSING,
    "NotImplemented": _SET_CHECKSUMS,
    "XAmzContentSHA256Mismatch": _SET_CHECKSUMS,
    "XAmzTrailerError": _SET_CHECKSUMS,
    "BadDigest": _SET_CHECKSUMS,
    **dict.fromkeys(FORBIDDEN, _GIVE_RIGHTS),
}


def s3_code(error: Exception) -> str:
    """The service's own name of an error; empty where it did not answer."""
    answer = getattr(error, "response", None) or {}
    return str(answer.get("Error", {}).get("Code", ""))


#: Whose store -> where it wants the bucket's name, and whether it takes AWS' newer checksums.
#: Source: Alibaba OSS, "Use AWS SDKs to access OSS" (path-style requests are refused); Tencent COS,
#: "Use the AWS S3 SDK to access COS"; Cloudflare R2, "boto3"; MinIO, "S3 API compatibility".
S3_MANNERS: dict[str, tuple[str, str]] = {
    "aws": ("virtual", "when_supported"),
    "oss": ("virtual", "when_required"),
    "cos": ("virtual", "when_required"),
    "r2": ("path", "when_required"),
    "minio": ("path", "when_required"),
}


def s3_manners(settings: Settings) -> tuple[str, str]:
    """Addressing style and checksum mode, in boto3's words."""
    unnamed = ("path", "when_required") if settings.s3_endpoint_url else S3_MANNERS["aws"]
    addressing, checksums = S3_MANNERS.get(settings.s3_kind, unnamed)
    if settings.s3_addressing != "auto":
        addressing = settings.s3_addressing
    if settings.s3_checksums != "auto":
        checksums = {"always": "when_supported", "required": "when_required"}[settings.s3_checksums]
    return addressing, checksums


def make_s3_client(settings: Settings) -> Any:
    """A client of the configured S3 store."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise ConfigurationError(f"images in S3 need boto3: {how_to_install('s3')}") from None
    keys = {
        name: secret.get_secret_value()
        for name, secret in (
            ("aws_access_key_id", settings.s3_access_key_id),
            ("aws_secret_access_key", settings.s3_secret_access_key),
        )
        if secret is not None
    }
    addressing, checksums = s3_manners(settings)
    return boto3.client(
        "s3",
        verify=authorities.bundle(),
        region_name=settings.s3_region,
        endpoint_url=settings.s3_endpoint_url or None,
        config=Config(
            connect_timeout=3,
            read_timeout=settings.image_timeout_s,
            retries={"mode": "standard", "total_max_attempts": 1},
            s3={"addressing_style": addressing},
            request_checksum_calculation=checksums,
            response_checksum_validation=checksums,
        ),
        **keys,
    )
