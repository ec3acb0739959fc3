"""Kinds of values that settings have: how their text is read, and what it alone can get wrong.

A message says what is wrong and gives a good example, and never the value of a secret.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import zoneinfo
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_settings import NoDecode

from producer import authorities
from producer.contract import has_host, is_web_address
from producer.errors import InvalidUpload
from producer.reasons import check_language


def split_commas(value: Any) -> Any:
    """Turn `a, b` into `("a", "b")`; leave sequences as they are."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _check_ca_file(value: Path | None) -> Path | None:
    if value is not None:
        authorities.check(value)
    return value


def _check_language(value: str) -> str:
    try:
        return check_language(value)
    except InvalidUpload as error:
        raise ValueError(str(error)) from error


def _check_zone(value: str) -> str:
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{value!r} is no time zone; use one such as Asia/Shanghai") from None
    return value


def _check_redis_url(value: SecretStr | None) -> SecretStr | None:
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


def _check_broker_url(value: SecretStr | None) -> SecretStr | None:
    if value is None or not value.get_secret_value():
        return None
    parts = urlsplit(value.get_secret_value())
    if parts.scheme not in ("amqp", "amqps", "redis", "rediss"):
        raise ValueError(f"scheme {parts.scheme!r} is not known; use amqp://user:password@host//")
    _check_host_and_port(parts, "amqp://user:password@host:5672//")
    return value


def _check_networks(value: tuple[str, ...]) -> tuple[str, ...]:
    for network in value:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise ValueError(f"{error}; write a network such as 10.1.0.0/16") from error
    return value


def _check_callback_url(value: str) -> str:
    if value and not is_web_address(value):
        raise ValueError("write a full address such as https://example.org/avatar-verdict")
    return value


def _check_callback_secrets(value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
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


def _check_host_and_port(parts: SplitResult, example: str) -> None:
    if not has_host(parts):
        raise ValueError(f"host or port is missing or wrong; write an address such as {example}")


#: Comma-separated lists.
CommaList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split_commas)]
Seconds = Annotated[tuple[float, ...], NoDecode, BeforeValidator(split_commas)]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(split_commas)]
Networks = Annotated[CommaList, AfterValidator(_check_networks)]
CallbackSecrets = Annotated[Secrets, AfterValidator(_check_callback_secrets)]

CaFile = Annotated[Path | None, AfterValidator(_check_ca_file)]
CallbackUrl = Annotated[str, AfterValidator(_check_callback_url)]
Language = Annotated[str, AfterValidator(_check_language)]
TimeZone = Annotated[str, AfterValidator(_check_zone)]
RedisUrl = Annotated[SecretStr | None, AfterValidator(_check_redis_url)]
BrokerUrl = Annotated[SecretStr | None, AfterValidator(_check_broker_url)]
