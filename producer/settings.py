"""Every setting that both sides of the queue read, from `AVATARMOD_*` variables.

Read once by an entry point and passed down; nothing else looks at the environment or at its file
(`environment.py`). Secrets may also come as files named like the variable (Docker and systemd
style) from `AVATARMOD_SECRETS_FOLDER`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import platformdirs
import pydantic
from pydantic import Field, SecretStr, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from producer.contract import Region
from producer.environment import ENV_PREFIX, from_file, variable
from producer.errors import ConfigurationError
from producer.reasons import DEFAULT_LANGUAGE
from producer.setting_types import (
    BrokerUrl,
    CaFile,
    CallbackSecrets,
    CallbackUrl,
    CommaList,
    Language,
    Networks,
    RedisUrl,
    TimeZone,
)

#: Where the API listens unless it is told otherwise.
DEFAULT_API_PORT = 8042

#: Headers that say something else, or that clients set.
NOT_NAMES = frozenset(
    ("host", "cookie", "authorization", "origin", "referer", "user-agent", "connection")
) | {"content-length", "content-type", "x-api-key", "x-forwarded-for", "x-forwarded-proto"}


class EnvFileSource(EnvSettingsSource):
    """Variables of the file, read like those of the environment."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in from_file().items()}


class Settings(BaseSettings):
    """What the producer needs; every field has a default that works on a laptop."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
        # Of the classes that build on each other, only the one that is read.
        defer_build=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment, file, secrets: what comes first counts."""
        return init_settings, env_settings, EnvFileSource(settings_cls), file_secret_settings

    redis_url: RedisUrl = Field(
        None,
        description="redis://, rediss://, unix:// or redis+sentinel://host:26379,host:26379/0?"
        "master=name: address of Redis 6.2+ or Valkey; empty: an embedded Valkey is started.",
    )
    broker_url: BrokerUrl = Field(
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
    safe_copies: str = Field(
        "",
        description="Where a safe copy of each approved picture is written, a folder or "
        "s3://bucket/prefix that is not the image store's: what was scored, encoded anew; empty: "
        "none are made. The folder must exist.",
    )
    s3_kind: Literal["", "aws", "oss", "cos", "r2", "minio"] = Field(
        "",
        description="Whose store it is: aws, oss (Alibaba), cos (Tencent), r2 (Cloudflare) or "
        "minio; sets addressing and checksums as that one wants them.",
    )
    s3_endpoint_url: str = Field(
        "",
        description="Endpoint of an S3-compatible store, without the bucket, such as "
        "https://s3.oss-cn-hangzhou.aliyuncs.com; empty: AWS.",
    )
    s3_addressing: Literal["auto", "path", "virtual"] = Field(
        "auto",
        description="Where the bucket's name stands: in the path or before the host; auto: as "
        "AVATARMOD_S3_KIND wants it.",
    )
    s3_checksums: Literal["auto", "always", "required"] = Field(
        "auto",
        description="When uploads carry checksums of AWS' newer kind, which many stores refuse; "
        "auto: as AVATARMOD_S3_KIND wants it, and where an endpoint is named only when required.",
    )
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
    ca_file: CaFile = Field(
        None,
        description="PEM file of certificate authorities of your own, trusted beside the public "
        "ones for images, callbacks and the S3 store; SSL_CERT_FILE counts as well.",
    )
    private_networks: Networks = Field(
        (),
        description="Comma-separated networks that image and callback URLs may reach although they "
        "are private, for example 10.1.0.0/16; images over http:// only there. For the hosts that "
        "enqueue as well as for the workers.",
    )
    callback_url: CallbackUrl = Field(
        "", description="Where verdicts are posted; empty: poll instead."
    )
    callback_secrets: CallbackSecrets = Field(
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
    language: Language = Field(
        DEFAULT_LANGUAGE,
        description="What owners of pictures are told reasons in, where the upload does not say: "
        "a language of /v1/reasons.",
    )
    subjects_in_clear: bool = Field(
        False,
        description="true: the ids of persons that come with uploads are kept as they are, not as "
        "keyed hashes.",
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
    trusted_user_header: str = Field(
        "",
        description="Header in which a reverse proxy names the person that it has signed in, such "
        "as Remote-User: they need no password in the console; believed of "
        "AVATARMOD_API_TRUSTED_PROXIES alone. Empty: people sign in here.",
    )
    trusted_user_role: Literal["", "viewer", "moderator", "operator"] = Field(
        "",
        description="Role of people whom that header names and `avatarmod users` does not; empty: "
        "they may not come in.",
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
        description="Whether POST /v1/validate (pict-rs) and /v1/detect-images (Misskey) accept a "
        "gray picture that nobody has decided yet; refused, or sensitive, otherwise.",
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
    ledger_buffer_events: int = Field(
        50_000,
        ge=1,
        description="Events that Redis holds while the ledger's database is away, about 300 bytes "
        "each; more wait in a file in the data folder.",
    )
    memory_retention_days: float = Field(
        400.0,
        gt=0,
        le=36500,
        description="How long look-alikes of a decided picture are recognised, in days; the exact "
        "bytes are for ever.",
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
    report_timezone: TimeZone = Field(
        "Asia/Shanghai", description="The zone whose midnight ends a day in reports."
    )
    currency: str = Field(
        "CNY",
        pattern=r"^[A-Z]{3}$",
        description="ISO 4217 code of the currency that every price is in; nothing is converted.",
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="json, text, or auto: text on a terminal and json elsewhere."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line that is written."
    )

    @field_validator("trusted_user_header")
    @classmethod
    def _check_trusted_user_header(cls, value: str, info: pydantic.ValidationInfo) -> str:
        if not value:
            return value
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,63}", value) or value.lower() in NOT_NAMES:
            raise ValueError(
                f"{value[:40]!r} cannot name a person; use a header of its own with letters, "
                "digits and -, such as Remote-User, which the proxy sets and takes from clients"
            )
        proxies = info.data.get("api_trusted_proxies", ())
        if not proxies:
            raise ValueError(
                "it is believed of no one: set AVATARMOD_API_TRUSTED_PROXIES to the address of the "
                "proxy that sets this header, such as 127.0.0.1"
            )
        for proxy in proxies:
            try:
                network = ipaddress.ip_network(proxy, strict=False)
            except ValueError:
                network = None
            if network is None or network.prefixlen == 0:
                raise ValueError(
                    f"AVATARMOD_API_TRUSTED_PROXIES has {proxy[:80]!r}, behind which anybody may "
                    "be; name addresses or networks of your proxies, such as 127.0.0.1"
                )
        return value

    @property
    def has_ledger(self) -> bool:
        """Whether events go into SQL at all."""
        return self.ledger_url is None or self.ledger_url.get_secret_value() != "off"

    @property
    def image_folder(self) -> str:
        """Where images without a reference of their own lie: a folder or an s3:// prefix."""
        return self.image_store or str(self.data_folder / "images")


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
    """Read the environment and its file once.

    Raises:
        ConfigurationError: a variable cannot be read; names every such variable, what is wrong
            with it and never its value (it may be a secret).
    """
    secrets_folder = variable("SECRETS_FOLDER") or None
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
            if problem["type"] == "default_factory_not_called":
                continue  # nothing is wrong with it: its default follows from one that is
            name = ENV_PREFIX + "__".join(str(part) for part in problem["loc"]).upper()
            field = kind.model_fields.get(str(problem["loc"][0])) if problem["loc"] else None
            lines.append(f"{name}: {problem['msg'].removeprefix('Value error, ')}{_hint(field)}")
        raise ConfigurationError(
            "these settings cannot be used:\n  " + "\n  ".join(lines)
        ) from None
