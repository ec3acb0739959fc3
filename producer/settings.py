"""Every setting that both sides of the queue read, from `AVATARMOD_*` environment variables.

Read once by an entry point and passed down; nothing else looks at the environment. Secrets may also
come as files named like the variable (Docker and systemd style) from `AVATARMOD_SECRETS_FOLDER`.
"""

from __future__ import annotations

import ipaddress
import os
import zoneinfo
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import SplitResult, urlsplit

import platformdirs
import pydantic
from pydantic import Field, SecretStr, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from producer.contract import Region
from producer.errors import ConfigurationError

ENV_PREFIX = "AVATARMOD_"

#: A comma-separated list in the environment.
CommaList = Annotated[tuple[str, ...], NoDecode]


def split_commas(value: Any) -> Any:
    """Turn `a, b` into `("a", "b")`; leave sequences as they are."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


class Settings(BaseSettings):
    """What the producer needs; every field has a default that works on a laptop."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
    )

    redis_url: SecretStr | None = Field(
        None,
        description="redis://, rediss://, unix:// or redis+sentinel://host:26379,host:26379/0?"
        "master=name: address of Redis 6.2+ or Valkey; empty: an embedded Valkey is started.",
    )
    broker_url: SecretStr | None = Field(
        None,
        description="Another broker for Celery's doorbells, such as amqp://user:password@host//; "
        "empty: the same Redis.",
    )
    redis_replicas: int = Field(
        0,
        ge=0,
        le=10,
        description="Replicas that must hold an upload before it counts as accepted, so that a "
        "fail-over loses none; 0: do not wait.",
    )
    namespace: str = Field(
        "avatarmod",
        pattern=r"^[A-Za-z0-9_-]{1,40}$",
        description="First part of every Redis key, so that several services can share one Redis.",
    )
    data_folder: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("avatarmod"),
        description="Where the embedded Valkey, the ledger and uploaded images are kept.",
    )
    image_store: str = Field(
        "",
        description="Where images without a reference of their own lie: a folder or "
        "s3://bucket/prefix; empty: `images` in the data folder. Each lies under its upload id, "
        "percent-encoded; over 255 bytes: under `~` and the id's SHA-256 in hex.",
    )
    s3_endpoint_url: str = Field("", description="Endpoint of an S3-compatible store; empty: AWS.")
    s3_region: str = Field("us-east-1", description="Region of the S3 store.")
    s3_access_key_id: SecretStr | None = Field(
        None, description="S3 key id; empty: boto3's own search."
    )
    s3_secret_access_key: SecretStr | None = Field(None, description="S3 secret key.")
    max_image_bytes: int = Field(
        10 * 2**20, gt=0, description="Larger images are rejected before they are read in full."
    )
    received_retention_days: int = Field(
        30,
        ge=0,
        le=36500,
        description="How long pictures that came in with their bytes stay in the image folder, in "
        "days; those of undecided uploads stay longer; 0: for ever. For S3, set a lifecycle rule.",
    )
    image_timeout_s: float = Field(
        10.0,
        gt=0,
        le=600,
        description="Longest time to fetch one image from S3 or https, in seconds.",
    )
    private_networks: CommaList = Field(
        (),
        description="Comma-separated networks that image and callback URLs may reach although they "
        "are private, for example 10.1.0.0/16; images over http:// only there. For the hosts that "
        "enqueue as well as for the workers.",
    )
    callback_url: str = Field("", description="Where verdicts are posted; empty: poll instead.")
    callback_secrets: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="Comma-separated whsec_... secrets; every callback is signed with all of them, "
        "so that one can be rotated.",
    )
    callback_allowed_urls: CommaList = Field(
        (), description="Comma-separated URL prefixes that an upload may name as its own callback."
    )
    default_region: Region = Field(
        Region.DOMESTIC, description="Region of an upload that names none: domestic or overseas."
    )
    max_backlog: int = Field(
        100_000, gt=0, description="Undecided uploads above which enqueue refuses (HTTP 503)."
    )
    alarm_undecided_s: float = Field(
        600.0,
        gt=0,
        description="An upload that has waited longer than this for the model raises an alarm, in "
        "seconds.",
    )
    record_ttl_s: float = Field(
        30 * 86400.0,
        ge=1,
        le=3650 * 86400.0,
        description="How long a final record is kept, in seconds.",
    )

    # -- api -----------------------------------------------------------------------------------
    api_host: str = Field("127.0.0.1", description="Address that API and console listen on.")
    api_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Their port; empty: 8042, or the next free one; 0: `avatarmod up` starts none.",
    )
    api_trusted_proxies: CommaList = Field(
        (),
        description="Comma-separated addresses or networks of reverse proxies whose "
        "X-Forwarded-For and X-Forwarded-Proto are believed.",
    )
    api_rate_per_s: float = Field(
        200.0, gt=0, description="Most uploads and other calls a second of one API key."
    )
    api_burst: int = Field(
        400, ge=100, description="How many of them may come at once after a pause."
    )
    api_max_body_bytes: int = Field(
        32 * 2**20, gt=0, description="Largest multipart body, all pictures together."
    )
    api_body_timeout_s: float = Field(
        30.0, gt=0, description="Longest time for a client to send its request, in seconds."
    )
    api_classify_deadline_s: float = Field(
        8.0,
        gt=0,
        le=60,
        description="How long POST /classify waits for the model before it answers 503, in "
        "seconds.",
    )
    api_classify_concurrency: int = Field(
        32, ge=1, le=1000, description="Most calls of POST /classify that wait at the same time."
    )
    api_accept_gray: bool = Field(
        False,
        description="Whether POST /v1/validate (pict-rs) accepts a gray picture that nobody has "
        "decided yet; refused otherwise.",
    )
    session_ttl_s: float = Field(
        12 * 3600.0,
        ge=60,
        description="Seconds without a click after which the console asks to sign in again.",
    )

    ledger_url: SecretStr | None = Field(
        None,
        description="Database of the ledger: postgresql://, mysql:// or sqlite:///; empty: "
        "ledger.sqlite3 in the data folder; off: events stay in Redis.",
    )
    ledger_retention_days: float = Field(
        400.0, gt=0, description="How long the ledger keeps an event, in days."
    )
    server_min_yuan: float = Field(
        50.0, ge=0, description="Least that the machine costs a month, in yuan, for cost reports."
    )
    server_max_yuan: float = Field(
        100.0, ge=0, description="Most that the machine costs a month, in yuan; may be the same."
    )
    cloud_yuan_per_1000: float = Field(
        1.5,
        ge=0,
        description="Price of 1,000 pictures if all went to the cloud, in yuan, for comparison.",
    )
    report_timezone: str = Field(
        "Asia/Shanghai", description="The zone whose midnight ends a day in reports."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="json, text, or auto: text on a terminal and json elsewhere."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line that is written."
    )

    _split = field_validator(
        "private_networks", "callback_allowed_urls", "api_trusted_proxies", mode="before"
    )(split_commas)

    @field_validator("callback_secrets", mode="before")
    @classmethod
    def _split_secrets(cls, value: Any) -> Any:
        return split_commas(value)

    @field_validator("report_timezone", mode="after")
    @classmethod
    def _check_report_timezone(cls, value: str) -> str:
        try:
            zoneinfo.ZoneInfo(value)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{value!r} is no time zone; use one such as Asia/Shanghai") from None
        return value

    @field_validator("redis_url", mode="after")
    @classmethod
    def _check_redis_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        parts = urlsplit(value.get_secret_value())
        if parts.scheme not in ("redis", "rediss", "unix", "redis+sentinel"):
            raise ValueError(
                f"scheme {parts.scheme!r} is not known; use redis://host:6379/0, rediss://, "
                "unix:// or redis+sentinel://host:26379/0?master=name"
            )
        if parts.scheme in ("redis", "rediss"):
            _check_host_and_port(parts, "redis://host:6379/0")
        return value

    @field_validator("broker_url", mode="after")
    @classmethod
    def _check_broker_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        scheme = urlsplit(value.get_secret_value()).scheme
        if scheme not in ("amqp", "amqps", "redis", "rediss"):
            raise ValueError(f"scheme {scheme!r} is not known; use amqp://user:password@host//")
        _check_host_and_port(urlsplit(value.get_secret_value()), "amqp://user:password@host:5672//")
        return value

    @field_validator("private_networks", mode="after")
    @classmethod
    def _check_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ValueError(f"{error}; write a network such as 10.1.0.0/16") from error
        return value

    @field_validator("callback_url", mode="after")
    @classmethod
    def _check_callback_url(cls, value: str) -> str:
        example = "https://example.org/avatar-verdict"
        if value and urlsplit(value).scheme not in ("http", "https"):
            raise ValueError(f"write a full address such as {example}")
        if value:
            _check_host_and_port(urlsplit(value), example)
        return value

    @field_validator("callback_secrets", mode="after")
    @classmethod
    def _check_secrets(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        import base64
        import binascii

        for secret in value:
            text = secret.get_secret_value()
            try:
                length = len(base64.b64decode(text.removeprefix("whsec_"), validate=True))
            except binascii.Error:
                length = 0
            if not text.startswith("whsec_") or not 24 <= length <= 64:
                raise ValueError(
                    "each secret is whsec_ followed by 24 to 64 bytes in base64; make one with: "
                    "echo whsec_$(openssl rand -base64 32)"
                )
        return value

    @property
    def image_folder(self) -> str:
        """Where images without a reference of their own lie: a folder or an s3:// prefix."""
        return self.image_store or str(self.data_folder / "images")


def _check_host_and_port(parts: SplitResult, example: str) -> None:
    try:
        complete = bool(parts.hostname) and parts.port != 0
    except ValueError:
        complete = False
    if not complete:
        raise ValueError(f"host or port is missing or wrong; write an address such as {example}")


SettingsT = TypeVar("SettingsT", bound=Settings)


def _hint(field: FieldInfo | None) -> str:
    """What a variable is for, and its default as an example of a good value."""
    if field is None or not field.description:
        return ""
    default = (
        ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    )
    example = "" if default in (None, "", PydanticUndefined) else f" Example: {default}"
    return f" ({field.description}{example})"


def load_settings(kind: type[SettingsT], **overrides: Any) -> SettingsT:
    """Read the environment once.

    Raises:
        ConfigurationError: a variable cannot be read; names every such variable, what is wrong
            with it and never its value (it may be a secret).
    """
    secrets_folder = os.environ.get(f"{ENV_PREFIX}SECRETS_FOLDER") or None
    if secrets_folder is not None and not Path(secrets_folder).is_dir():
        raise ConfigurationError(
            f"{ENV_PREFIX}SECRETS_FOLDER: {secrets_folder} is no folder; name one with a file for "
            "each secret, for example /run/secrets"
        )
    try:
        return kind(**{"_secrets_dir": secrets_folder, **overrides})
    except pydantic.ValidationError as error:
        lines = []
        for problem in error.errors(include_input=False, include_url=False):
            name = ENV_PREFIX + "__".join(str(part) for part in problem["loc"]).upper()
            field = kind.model_fields.get(str(problem["loc"][0])) if problem["loc"] else None
            lines.append(f"{name}: {problem['msg'].removeprefix('Value error, ')}{_hint(field)}")
        raise ConfigurationError(
            "these settings cannot be used:\n  " + "\n  ".join(lines)
        ) from None
