"""What the settings of every review provider have in common.

Each provider declares its own beside its adapter, `<name>_settings.py`: flat fields that begin with
its name, so that `tencent_region` is `AVATARMOD_TENCENT_REGION`. Five of them every provider has:
`..._rate_per_s`, `..._concurrency`, `..._yuan_per_1000`, `..._daily_calls`, `..._daily_yuan`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from producer.errors import ConfigurationError
from producer.settings import Settings


def _empty_is_no_limit(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


def _check_budget(value: float | None) -> float | None:
    if value is not None and (not math.isfinite(value) or value <= 0):
        raise ValueError(
            f"a budget of {value:g} would hold every gray picture; write a positive number, "
            "leave it empty for no limit, or take the provider out of its list"
        )
    return value


def _check_endpoint(value: str) -> str:
    if not value:
        return value
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            f"{value!r} has no scheme or no host; write it like https://host.example.com"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("write only scheme, host, port and path; keys have their own settings")
    return value.rstrip("/")


def _check_key(value: SecretStr | None) -> SecretStr | None:
    text = value.get_secret_value() if value else ""
    if not text:
        return None
    if re.search(r"\s", text):
        raise ValueError("it contains a space or a line break; copy the key again")
    if not text.isascii():
        raise ValueError("it contains a character that no key has; copy the key again")
    return value


#: `..._rate_per_s`
Rate = Annotated[
    float,
    Field(gt=0, le=1000, description="Most calls a second, over all processes and machines."),
]

#: `..._concurrency`
Concurrency = Annotated[
    int, Field(ge=1, le=1000, description="Most calls at the same time, over all processes.")
]

#: `..._yuan_per_1000`
Price = Annotated[
    float, Field(ge=0, description="Price of 1,000 calls in yuan; 0: not billed by call.")
]

#: `..._daily_calls`
DailyCalls = Annotated[
    int | None,
    BeforeValidator(_empty_is_no_limit),
    AfterValidator(_check_budget),
    Field(description="Most billed calls a day; empty: no limit of its own."),
]

#: `..._daily_yuan`
DailyYuan = Annotated[
    float | None,
    BeforeValidator(_empty_is_no_limit),
    AfterValidator(_check_budget),
    Field(description="Most money a day in yuan; empty: no limit of its own."),
]

#: An address with its scheme; empty: the provider's own.
Endpoint = Annotated[str, AfterValidator(_check_endpoint)]

#: A key or token of the provider's.
Key = Annotated[SecretStr | None, AfterValidator(_check_key)]


def endpoint(what: str) -> Any:
    """The field of `..._endpoint`; `what` it takes the place of."""
    return Field(
        "", description=f"Address instead of {what}, with its scheme: a private link or a stub."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProviderLimits:
    """What one provider may be asked in all, by settings.

    Args:
        rate_per_s: most calls a second.
        concurrency: most calls at the same time.
        daily_calls: most billed calls a day; None: no limit.
        daily_yuan: most money a day; None: no limit.
        yuan_per_1000: price of 1,000 calls.
    """

    rate_per_s: float
    concurrency: int
    daily_calls: int | None
    daily_yuan: float | None
    yuan_per_1000: float

    @property
    def window(self) -> tuple[int, float]:
        """(calls, seconds): at most that many calls in any window that long, about a second."""
        calls = max(1, math.floor(self.rate_per_s))
        return calls, calls / self.rate_per_s

    @property
    def call_microyuan(self) -> int:
        """Price of one call in millionths of a yuan, rounded up: money is counted in integers."""
        return math.ceil(self.yuan_per_1000 * 1000)


class ProviderSettings(Settings):
    """What every adapter reads besides its own fields."""

    review_timeout_s: float = Field(
        8.0,
        gt=0,
        le=60,
        description="Longest time for one call including every upload step, in seconds.",
    )
    review_connect_timeout_s: float = Field(
        2.0, gt=0, le=30, description="Longest time to connect to a provider, in seconds."
    )

    def limits_of(self, provider: str) -> ProviderLimits:
        """The limits of one provider, gathered from its flat fields."""
        return ProviderLimits(
            **{
                field.name: getattr(self, f"{provider}_{field.name}")
                for field in dataclasses.fields(ProviderLimits)
            }
        )


class MissingSettings(ConfigurationError):
    """Raised when a provider lacks settings that it cannot do without: `fields`."""

    def __init__(self, message: str, fields: list[str]) -> None:
        super().__init__(message)
        self.fields = fields


def needed(settings: Settings, *fields: str) -> list[str]:
    """The texts of settings that must not be empty.

    Raises:
        MissingSettings: names every variable that is missing.
    """
    values: dict[str, str] = {}
    for field in fields:
        value = getattr(settings, field)
        text = value.get_secret_value() if isinstance(value, SecretStr) else (value or "")
        values[f"AVATARMOD_{field.upper()}"] = text
    missing = [name for name, text in values.items() if not text]
    if missing:
        provider = fields[0].partition("_")[0]
        raise MissingSettings(
            f"{provider} is named as a review provider: set {', '.join(missing)}",
            [name.removeprefix("AVATARMOD_").lower() for name in missing],
        )
    return list(values.values())


def check_region(variable: str, value: str, known: tuple[str, ...], endpoint: str) -> None:
    """Refuse a region that the provider does not have; an endpoint of the operator's frees it.

    Raises:
        ConfigurationError: the region is unknown.
    """
    if value not in known and not endpoint:
        raise ConfigurationError(
            f"{variable}={value!r} is not a region of this service; use one of {', '.join(known)}"
        )


def check_cut_offs(provider: str, approve_to: float, block_from: float) -> None:
    """Refuse cut-offs that overlap.

    Raises:
        ConfigurationError: a score could both approve and block.
    """
    if approve_to >= block_from:
        raise ConfigurationError(
            f"AVATARMOD_{provider.upper()}_APPROVE_TO={approve_to:g} is not below "
            f"AVATARMOD_{provider.upper()}_BLOCK_FROM={block_from:g}; the scores between them are "
            "the uncertain ones"
        )


def split_endpoint(variable: str, endpoint: str, default_host: str) -> tuple[str, str]:
    """(scheme, host[:port]) for SDKs that want them apart; https and the default when empty.

    Raises:
        ConfigurationError: the endpoint has a path, which these SDKs would drop.
    """
    if not endpoint:
        return "https", default_host
    parts = urlsplit(endpoint)
    if parts.path not in ("", "/"):
        raise ConfigurationError(
            f"{variable}={endpoint!r}: this service has no path; write scheme and host only"
        )
    return parts.scheme, parts.netloc
