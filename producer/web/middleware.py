"""What every request passes through: how long it took, how large it may be, where it leads."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import time
from contextlib import AbstractContextManager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from producer.metrics import HTTP, Recorder
from producer.tracing import Span, span
from producer.web.problems import Problem

#: Bytes of a body that is not multipart: a batch of 100 uploads with long addresses stays below.
MAX_JSON_BYTES = 2**20

#: Bytes of all bodies that are being received or worked on; at least two of the largest.
MIN_BUDGET_BYTES = 64 * 2**20

#: Seconds in which the rest of a body is thrown away, once its request is answered.
LINGER_S = 5.0

#: Seconds after which a caller who met too many others should try again.
RETRY_AFTER_S = 2.0

#: A name or address with or without a port; what is in it reaches no answer and no log.
#: Source: RFC 9110, section 7.2; RFC 3986, section 3.2.2.
HOST = re.compile(rb"([A-Za-z0-9._~-]{0,255}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{0,5})?")

#: Methods that are counted by name.
METHODS = frozenset(["GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])

#: Paths that machines ask every few seconds.
PROBES = frozenset(["/healthz", "/readyz", "/metrics"])


class Timed:
    """Counts every request by its route, not by its path, so that ids make no labels."""

    def __init__(self, app: ASGIApp, *, recorder: Recorder) -> None:
        self._app = app
        self._recorder = recorder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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


def _request_span(scope: Scope) -> AbstractContextManager[Span]:
    """A span that continues the caller's trace; probes and scrapes make none."""
    if scope["path"] in PROBES:
        return contextlib.nullcontext(Span())
    parent = dict(scope["headers"]).get(b"traceparent", b"")
    return span("request", parent=parent.decode("latin-1"))


class Addressed:
    """Refuses a malformed Host, and forgives a base address with a slash too many.

    `http://host/` + `/v1/uploads` gives `//v1/uploads`; a slash at the end is ignored but where it
    is part of an upload's id. No path that is posted to ends with an id.
    """

    def __init__(self, app: ASGIApp, *, ids_below: tuple[str, ...]) -> None:
        self._app = app
        self._ids_below = ids_below

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on under its plain path."""
        if scope["type"] == "http":
            hosts = [value for name, value in scope["headers"] if name == b"host"]
            if len(hosts) > 1 or not all(HOST.fullmatch(host) for host in hosts):
                problem = Problem(400, "invalid_host", "the Host header is malformed")
                await problem.response()(scope, receive, send)
                return
            path = "/" + scope["path"].lstrip("/")
            if scope["method"] == "POST" or not self._ends_with_id(path):
                path = path.rstrip("/") or "/"
            # In place: who counts this request reads from the same scope which route took it.
            scope["path"] = path
        await self._app(scope, receive, send)

    def _ends_with_id(self, path: str) -> bool:
        return any(path.startswith(above) and path != above for above in self._ids_below)


class BodyLimit:
    """Refuses bodies that are too large or too slow, or too many at once, before they are kept.

    Args:
        app: what follows.
        max_bytes: of a body with pictures.
        max_form_bytes: of a body below `forms_below`.
        timeout_s: for one body to arrive.
        forms_below: the path of pages whose forms are small.
        but: the one of them whose form has a picture.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_bytes: int,
        max_form_bytes: int,
        timeout_s: float,
        forms_below: str,
        but: str = "",
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_form_bytes = max_form_bytes
        self._timeout_s = timeout_s
        self._forms_below = forms_below
        self._but = but
        self._budget_bytes = max(MIN_BUDGET_BYTES, 2 * max_bytes)
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with a counting `receive`."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        limit = self._limit_of(scope["path"], headers)
        declared = headers.get(b"content-length", b"0")
        body = _Body(receive, limit, self._timeout_s, headers)
        answer = functools.partial(_answer, body, send)
        if declared.isdigit() and (len(declared) > 15 or int(declared) > limit):
            await _too_large(limit).response()(scope, receive, answer)
            return
        try:
            await self._app(scope, functools.partial(self._receive, body), answer)
        finally:
            self._held_bytes -= body.seen_bytes

    def _limit_of(self, path: str, headers: dict[bytes, bytes]) -> int:
        if path.startswith(self._forms_below) and path != self._but:
            return self._max_form_bytes
        kind = headers.get(b"content-type", b"").lower()
        is_picture = kind.startswith((b"multipart/", b"image/", b"application/octet-stream"))
        return self._max_bytes if is_picture else min(MAX_JSON_BYTES, self._max_bytes)

    async def _receive(self, body: _Body) -> Message:
        message = await body.next()
        self._held_bytes += len(message.get("body", b""))
        if self._held_bytes > self._budget_bytes:
            raise Problem(
                503,
                "not_now",
                "too many bytes are being received at once; try again",
                retry_after_s=RETRY_AFTER_S,
                headers={"connection": "close"},
            )
        return message


class _Body:
    """One request's body as it arrives."""

    def __init__(
        self, receive: Receive, limit: int, timeout_s: float, headers: dict[bytes, bytes]
    ) -> None:
        self._receive = receive
        self._limit = limit
        self._timeout_s = timeout_s
        self._deadline_s = 0.0
        self._is_whole = headers.get(b"content-length", b"0") == b"0" and (
            b"transfer-encoding" not in headers
        )
        #: Whether it comes only once somebody asks for it.
        self._is_held_back = headers.get(b"expect", b"").lower() == b"100-continue"
        self.seen_bytes = 0

    @property
    def is_coming(self) -> bool:
        """Whether the client sends more of it."""
        return not self._is_whole and not self._is_held_back

    async def next(self) -> Message:
        """The next part, or the end of the connection.

        Raises:
            Problem: 408 it came too slowly, 413 it is too large.
        """
        if self._is_whole:
            return await self._receive()
        self._is_held_back = False
        loop = asyncio.get_running_loop()
        self._deadline_s = self._deadline_s or loop.time() + self._timeout_s
        try:
            async with asyncio.timeout_at(self._deadline_s):
                message = await self._receive()
        except TimeoutError:
            raise Problem(
                408,
                "too_slow",
                f"the request did not arrive within {self._timeout_s:g} s",
                headers={"connection": "close"},
            ) from None
        self.seen_bytes += len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        if self.seen_bytes > self._limit:
            raise _too_large(self._limit)
        return message

    async def drop_the_rest(self) -> None:
        """Read on for a while and keep nothing."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while not self._is_whole:
                    self._is_whole = not (await self._receive()).get("more_body", False)


async def _answer(body: _Body, send: Send, message: Message) -> None:
    """Send it on; what ends an answer waits until the request has come.

    A connection that is closed with bytes unread is reset, and whoever still sends, such as a
    reverse proxy, may then lose the answer that was there already.
    """
    ends = message["type"] == "http.response.body" and not message.get("more_body", False)
    if ends and body.is_coming:
        await send({**message, "more_body": True})
        await body.drop_the_rest()
        message = {"type": "http.response.body"}
    await send(message)


def _too_large(limit: int) -> Problem:
    return Problem(
        413,
        "too_large",
        f"the request has more than {limit} bytes; send fewer or smaller pictures at once",
        headers={"connection": "close"},
    )
