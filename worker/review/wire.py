"""What the adapters share about the wire: endpoints, network errors, Retry-After, plain HTTP."""

from __future__ import annotations

import datetime
import email.utils
import json
import time
from typing import Any
from urllib.parse import urlsplit

import httpx

from producer.errors import (
    ConfigurationError,
    ModerationError,
    ProviderAnswerUnknown,
    ProviderSilent,
    ProviderUnavailable,
)

#: Words in the texts of requests and urllib3 for "nothing was sent": such a call is never billed.
_NOT_SENT = (
    "connection refused",
    "connecttimeout",
    "connect timeout",
    "newconnectionerror",
    "nameresolutionerror",
    "name or service not known",
    "failed to resolve",
    "temporary failure in name resolution",
    "no route to host",
    "network is unreachable",
    "certificate verify failed",
)


def network_error(provider: str, text: str) -> ModerationError:
    """What an SDK's network failure means; SDKs built on requests keep only its text.

    Args:
        provider: our name of it.
        text: the SDK's message; none of it is repeated, it holds addresses and objects.

    Returns:
        ProviderUnavailable when the request surely never left, else ProviderSilent: the provider
        may have read the request, and may bill it.
    """
    lower = text.lower()
    if any(word in lower for word in _NOT_SENT):
        return ProviderUnavailable(f"{provider} cannot be reached")
    if "timed out" in lower or "timeout" in lower:
        return ProviderSilent(f"{provider} did not answer in time")
    return ProviderSilent(f"the connection to {provider} broke before its answer was complete")


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


def as_json_object(provider: str, body: bytes | str) -> dict[str, Any]:
    """Parse a reply that must be a JSON object.

    Raises:
        ProviderAnswerUnknown: it is something else, such as a proxy's HTML page.
    """
    try:
        value = json.loads(body)
    except ValueError:
        raise ProviderAnswerUnknown(f"{provider} answered something that is not JSON") from None
    if not isinstance(value, dict):
        raise ProviderAnswerUnknown(f"{provider} answered JSON that is not an object")
    return value


def number(value: Any, upper: float) -> float | None:
    """`value` as 0..1 when it is a number from 0 to `upper`, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        share = float(value) / upper
    except ValueError:
        return None
    return share if 0.0 <= share <= 1.0 else None


def http_client(connect_timeout_s: float, timeout_s: float) -> httpx.Client:
    """A client for many threads; follows no redirects and repeats nothing."""
    return httpx.Client(
        timeout=httpx.Timeout(timeout_s, connect=connect_timeout_s),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=8),
        follow_redirects=False,
    )


def send(provider: str, client: httpx.Client, request: httpx.Request) -> httpx.Response:
    """Send once.

    Raises:
        ProviderUnavailable: nothing was sent.
        ProviderSilent: it was sent, and no whole reply came.
    """
    try:
        return client.send(request)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise ProviderUnavailable(f"{provider} cannot be reached") from error
    except httpx.TimeoutException as error:
        raise ProviderSilent(f"{provider} did not answer in time") from error
    except httpx.TransportError as error:
        raise ProviderSilent(
            f"the connection to {provider} broke before its answer was complete"
        ) from error


def retry_after_s(value: str | None, now_s: float | None = None) -> float | None:
    """Seconds from a Retry-After header: a number or an HTTP date; None: absent or unreadable.

    Source: RFC 9110, section 10.2.3.
    """
    if not value:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    return max(0.0, when.timestamp() - (time.time() if now_s is None else now_s))
