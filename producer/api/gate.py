"""Who may come in: a request's key, its scopes and its rate; and how large a request may be."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import dataclasses
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Annotated, Any

import redis
from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPBasic, HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from producer.api.follow import Follower
from producer.api.problems import Problem
from producer.enqueue import Producer
from producer.errors import StorageUnavailable
from producer.images import Images
from producer.keys import ApiKey, ApiKeys, Rates, Scope
from producer.metrics import HTTP, Recorder
from producer.settings import Settings
from producer.store import Store
from producer.tracing import Span, span

#: Bytes of a body that is not multipart: a batch of 100 uploads with long addresses stays below.
MAX_JSON_BYTES = 2**20

#: Methods that are counted by name.
METHODS = frozenset(["GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])

#: Paths that machines ask every few seconds.
PROBES = frozenset(["/healthz", "/readyz", "/metrics"])

#: Failed keys a second from one address, and at once, before it has to wait.
FAILURES_PER_S, FAILURES_AT_ONCE = 0.2, 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Services:
    """What the routes work with; built once per process by its composition root."""

    settings: Settings
    store: Store
    producer: Producer
    images: Images
    keys: ApiKeys
    rates: Rates
    follower: Follower
    recorder: Recorder = dataclasses.field(default_factory=Recorder)


def services(request: Request) -> Services:
    """The services of the application that a request came to."""
    found: Services = request.app.state.services
    return found


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
        f"stranger:{address_of(request)}", per_s=FAILURES_PER_S, burst=FAILURES_AT_ONCE
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


class Timed:
    """Counts every request by its route, not by its path, so that ids make no labels."""

    def __init__(self, app: ASGIApp, *, recorder: Recorder) -> None:
        self._app = app
        self._recorder = recorder

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Pass a request on and note how long it took."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        method = scope["method"] if scope["method"] in METHODS else "other"
        with _request_span(scope) as trace:
            try:
                await self._app(scope, receive, noting)
            finally:
                route = getattr(scope.get("route"), "path", None) or "other"
                seconds = time.perf_counter() - started_s
                self._recorder.observe(HTTP, seconds, method, route, str(status))
                trace.note(method=method, route=route, status=status)
                upload_id = scope.get("path_params", {}).get("upload_id")
                if upload_id is not None:
                    trace.note(upload_id=upload_id)


def _request_span(scope: AsgiScope) -> AbstractContextManager[Span]:
    """A span that continues the caller's trace; probes and scrapes make none."""
    if scope["path"] in PROBES:
        return contextlib.nullcontext(Span())
    parent = dict(scope["headers"]).get(b"traceparent", b"")
    return span("request", parent=parent.decode("latin-1"))


class BodyLimit:
    """Refuses bodies that are too large or too slow, before they are kept anywhere."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, timeout_s: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Pass a request on with a counting `receive`."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        limit = self._limit_of(headers)
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            await _too_large(limit).response()(scope, receive, send)
            return
        await self._app(scope, self._counting(receive, limit), send)

    def _limit_of(self, headers: dict[bytes, bytes]) -> int:
        kind = headers.get(b"content-type", b"").lower()
        is_picture = kind.startswith((b"multipart/", b"image/", b"application/octet-stream"))
        return self._max_bytes if is_picture else min(MAX_JSON_BYTES, self._max_bytes)

    def _counting(self, receive: Receive, limit: int) -> Callable[[], Any]:
        seen, deadline = 0, 0.0
        is_done = False

        async def counted() -> Message:
            nonlocal seen, deadline, is_done
            if is_done:
                return await receive()
            loop = asyncio.get_running_loop()
            deadline = deadline or loop.time() + self._timeout_s
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise Problem(
                    408, "too_slow", f"the request did not arrive within {self._timeout_s:g} s"
                ) from None
            seen += len(message.get("body", b""))
            is_done = not message.get("more_body", False)
            if seen > limit:
                raise _too_large(limit)
            return message

        return counted


def _too_large(limit: int) -> Problem:
    return Problem(
        413,
        "too_large",
        f"the request has more than {limit} bytes; send fewer or smaller pictures at once",
        headers={"connection": "close"},
    )
