"""Who may call the API: a request's key, its scopes and its rate."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

import redis
from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPBasic, HTTPBearer
from starlette.concurrency import run_in_threadpool

from producer.errors import StorageUnavailable
from producer.web.api_keys import ApiKey, Scope
from producer.web.limits import network_of
from producer.web.problems import Problem
from producer.web.services import Services, services

#: Failed keys a second from one address, and at once, before it has to wait.
FAILURES_PER_S, FAILURES_AT_ONCE = 0.2, 30


def guard(scope: Scope) -> Any:
    """A dependency: lets a key with this scope pass, within its rate, and returns it."""

    async def check(
        request: Request,
        _header: object = Depends(_API_KEY),
        _bearer: object = Depends(_BEARER),
        _basic: object = Depends(_BASIC),
    ) -> ApiKey:
        return await run_in_threadpool(admit, services(request), request, scope)

    return Depends(check)


_API_KEY = APIKeyHeader(name="X-API-Key", auto_error=False, description="A key of this service.")
_BEARER = HTTPBearer(auto_error=False, description="The same key as a bearer token.")


class _QuietBasic(HTTPBasic):
    """Documents Basic authentication; `admit` reads the header itself."""

    async def __call__(self, request: Request) -> None:  # type: ignore[override]
        return None


_BASIC = _QuietBasic(auto_error=False, description="The key as the password, any user name.")


#: A route's parameter of this type lets only keys in that may send uploads.
EnqueueKey = Annotated[ApiKey, guard(Scope.ENQUEUE)]

#: ... that may read verdicts and metrics.
ReadKey = Annotated[ApiKey, guard(Scope.READ)]

#: ... that may decide, retry, replay and discard.
OperateKey = Annotated[ApiKey, guard(Scope.OPERATE)]


def admit(found: Services, request: Request, scope: Scope) -> ApiKey:
    """The key of a request.

    Raises:
        Problem: 401 without a valid key, 403 without the scope, 429 beyond the rate.
    """
    try:
        key = found.keys.check(token_of(request))
        if key is None:
            _refuse_stranger(found, request)
        assert key is not None
        if scope not in key.scopes:
            raise Problem(
                403, "forbidden", f"this key lacks the scope {scope.value!r}; use one that has it"
            )
        take(found, key, 1)
    except redis.RedisError as error:
        raise Problem.of(
            StorageUnavailable(f"Redis did not answer ({type(error).__name__})")
        ) from error
    return key


def may(found: Services, request: Request, scope: Scope) -> bool:
    """Whether a request that needs no key carries one with this scope, within its rate."""
    if not token_of(request):
        return False
    try:
        admit(found, request, scope)
    except Problem:
        return False
    return True


def take(found: Services, key: ApiKey, places: int) -> None:
    """Count `places` calls against a key's rate.

    Raises:
        Problem: 429, nothing was counted.
    """
    settings = found.settings
    wait_s = found.rates.take(
        f"key:{key.id}", per_s=settings.api_rate_per_s, burst=settings.api_burst, places=places
    )
    if wait_s > 0:
        raise Problem(
            429,
            "too_many_requests",
            f"this key may make {settings.api_rate_per_s:g} calls a second",
            retry_after_s=wait_s,
        )


def _refuse_stranger(found: Services, request: Request) -> None:
    wait_s = found.rates.take(
        f"stranger:{network_of(address_of(request))}", per_s=FAILURES_PER_S, burst=FAILURES_AT_ONCE
    )
    if wait_s > 0:
        raise Problem(
            429, "too_many_failures", "too many requests without a valid key", retry_after_s=wait_s
        )
    raise Problem(
        401,
        "unauthorized",
        "send a valid key as X-API-Key, as a bearer token, or as the password of Basic",
        headers={"www-authenticate": 'Bearer realm="avatar-moderation"'},
    )


def address_of(request: Request) -> str:
    """The address a request came from; behind a trusted proxy, the one it names."""
    return request.client.host if request.client else "unknown"


def token_of(request: Request) -> str:
    """The key that a request carries in any of the three ways, or an empty text."""
    given = request.headers.get("x-api-key")
    if given:
        return given
    kind, _, rest = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return rest.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(rest, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""
