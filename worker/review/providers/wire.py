"""The one road to every provider, SDKs included: how a request is sent, which answers are believed.

No redirect is followed. An answer counts when it has come whole, with status 200 or an error
status, in at most 1 MiB unpacked. A connection serves one request, and is cut when the call's time
is over, whoever still reads from it.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import json
import queue
import socket
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, TypeVar

import httpx

from producer.errors import (
    ModerationError,
    ProviderAnswerUnknown,
    ProviderSilent,
    ProviderUnavailable,
)
from producer.texts import say
from worker.retry import retry_after_s

ResultT = TypeVar("ResultT")

#: Bytes of an answer, as sent and as unpacked; real ones have a few kB.
MAX_ANSWER_BYTES = 2**20

#: What an SDK writes and only the transport knows; `identity`, because bombs are packed.
_OURS = ("accept-encoding", "connection", "content-length", "transfer-encoding")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """A whole answer; `body` is unpacked, `provider` our name of who sent it."""

    provider: str
    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def pause_s(self) -> float | None:
        """How long it asks to be left alone; None: it does not say."""
        return retry_after_s(self.headers.get("retry-after"), now_s=time.time())

    def json(self) -> Any:
        """The body as JSON in which no name stands twice, for two readers could take either.

        Raises:
            ProviderAnswerUnknown: it is something else, such as a proxy's HTML page.
        """
        try:
            return json.loads(self.body, object_pairs_hook=_unique, parse_constant=_refuse)
        except (ValueError, RecursionError):
            raise ProviderAnswerUnknown(
                say("{provider} answered something that is not JSON", provider=self.provider)
            ) from None

    def json_object(self) -> dict[str, Any]:
        """The body as a JSON object.

        Raises:
            ProviderAnswerUnknown: it is something else.
        """
        value = self.json()
        if not isinstance(value, dict):
            raise ProviderAnswerUnknown(
                say("{provider} answered JSON that is not an object", provider=self.provider)
            )
        return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


class Call:
    """One question to a provider: its time, its connection and its last answer.

    SDK time-outs act on each socket read, so a reply that drips byte by byte outlives them all, and
    none of them bounds a name server. So the call runs in a thread of its own, which ends when its
    connection is cut.
    """

    def __init__(
        self,
        provider: str,
        client: httpx.Client,
        deadline_s: float,
        place_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.provider = provider
        self.client = client
        self.answer: Answer | None = None
        #: Why the last request has no answer; an SDK may have hidden it behind its own error.
        self.failure: ModerationError | None = None
        self._deadline_s = deadline_s
        self._place_s = place_s
        self._is_over = False
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    def run(self, ask: Callable[[], ResultT]) -> ResultT:
        """Run `ask`, in which `send` works, and return its result.

        Raises:
            ProviderSilent: its time was over first.
            ProviderAnswerUnknown: whatever `ask` raised that is no `ModerationError`.
            ModerationError: as `ask` or `send` raised it.
        """
        outcome: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

        def work() -> None:
            _CALL.set(self)
            try:
                outcome.put((True, ask()))
            except BaseException as error:  # noqa: BLE001 - sorted in the caller's thread
                outcome.put((False, error))

        threading.Thread(target=work, name="review-call", daemon=True).start()
        try:
            succeeded, value = outcome.get(timeout=self._deadline_s)
        except queue.Empty:
            self._cut()
            raise ProviderSilent(
                say(
                    "{provider} gave no whole answer within {limit:g} s",
                    provider=self.provider,
                    limit=self._deadline_s,
                )
            ) from None
        if self.failure is not None:
            raise self.failure
        if succeeded:
            return value  # type: ignore[no-any-return]
        raise self._translated(value)

    def _translated(self, error: BaseException) -> BaseException:
        if isinstance(error, ModerationError) or not isinstance(error, Exception):
            return error
        what = say(
            "{provider}: {error} over its answer",
            provider=self.provider,
            error=type(error).__name__,
        )
        if self.answer is not None and self.answer.status >= 500:
            return ProviderUnavailable(
                say("{what}, status {code}", what=what, code=self.answer.status)
            )
        return ProviderAnswerUnknown(what)

    def watch(self, event: str, info: Mapping[str, Any]) -> None:
        """What httpx tells of a request: the new connection is the one to cut."""
        if event.endswith(".send_request_headers.started"):
            self._wait_for_place()
        if not event.endswith(".connect_tcp.complete"):
            return
        # A handle of our own: TLS takes the socket over.
        handle = info["return_value"].get_extra_info("socket").dup()
        with self._lock:
            self._socket = handle
        if self._is_over:
            self._cut()

    def _wait_for_place(self) -> None:
        """The connection stands; what took long until here must not crowd the provider's rate."""
        while not self._is_over and (wait_s := self._place_s()) > 0:
            time.sleep(wait_s)

    def leave(self) -> None:
        """The request is over and its connection closed."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def check(self) -> None:
        """Refuse another request for a caller that has gone.

        Raises:
            ProviderSilent: the call's time is over.
        """
        if self._is_over:
            raise ProviderSilent(say("{provider} took too long", provider=self.provider))

    def _cut(self) -> None:
        self._is_over = True
        with self._lock, contextlib.suppress(OSError):
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)


_CALL: contextvars.ContextVar[Call] = contextvars.ContextVar("review_call")


def current_call() -> Call:
    """The call that runs in this thread."""
    return _CALL.get()


def last_answer() -> Answer:
    """What the current call's last request brought; an SDK keeps only what it knows of it.

    Raises:
        ProviderAnswerUnknown: nothing came by this road.
    """
    answer = current_call().answer
    if answer is None or answer.status != 200:
        raise ProviderAnswerUnknown(
            say("{provider} gave no answer", provider=current_call().provider)
        )
    return answer


def http_client(connect_timeout_s: float, timeout_s: float) -> httpx.Client:
    """A client for many threads; follows no redirects, repeats nothing, keeps no connection."""
    return httpx.Client(
        timeout=httpx.Timeout(timeout_s, connect=connect_timeout_s),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        follow_redirects=False,
    )


def send(method: str, url: str, headers: Mapping[str, Any], body: bytes | str) -> Answer:
    """Send one request of the current call, once, and return the whole answer.

    Raises:
        ProviderUnavailable: nothing was sent; surely not billed.
        ProviderSilent: it was sent, and no whole answer came; it may be billed.
        ProviderAnswerUnknown: a redirect, an odd status, or more than we unpack.
    """
    call = current_call()
    call.answer = None
    try:
        call.answer = _send(call, method, url, headers, body)
    except ModerationError as error:
        call.failure = error
        raise
    return call.answer


def _send(
    call: Call, method: str, url: str, headers: Mapping[str, Any], body: bytes | str
) -> Answer:
    call.check()
    kept = {name: value for name, value in headers.items() if name.lower() not in _OURS}
    request = httpx.Request(
        method,
        url,
        headers={**kept, "Accept-Encoding": "identity", "Connection": "close"},
        content=body,
        extensions={
            "trace": call.watch,
            "timeout": call.client.timeout.as_dict(),
        },
    )
    who = call.provider
    try:
        response = call.client.send(request, stream=True)
        try:
            content = _read(who, response)
        finally:
            response.close()
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise ProviderUnavailable(say("{provider} cannot be reached", provider=who)) from error
    except httpx.TimeoutException as error:
        raise ProviderSilent(say("{provider} did not answer in time", provider=who)) from error
    except (httpx.TransportError, OSError) as error:
        raise ProviderSilent(
            say("the connection to {provider} broke before its answer was complete", provider=who)
        ) from error
    finally:
        call.leave()
    return Answer(provider=who, status=response.status_code, headers=response.headers, body=content)


def _read(who: str, response: httpx.Response) -> bytes:
    """The body, unpacked; of an error answer, as far as it can be read."""
    status = response.status_code
    if status != 200 and status < 400:
        raise ProviderAnswerUnknown(
            say(
                "{provider} answered {code}, which is not followed",
                provider=who,
                code=status,
            )
        )
    try:
        if "content-length" not in response.headers and not _is_chunked(response):
            raise ProviderAnswerUnknown(
                say("{provider} does not say where its answer ends", provider=who)
            )
        packed = bytearray()
        for chunk in response.iter_raw():
            packed += chunk
            if len(packed) > MAX_ANSWER_BYTES:
                raise ProviderAnswerUnknown(
                    say("{provider} answered with more than 1 MiB", provider=who)
                )
        return _unpacked(who, bytes(packed), response.headers.get("content-encoding", ""))
    except ProviderAnswerUnknown:
        if status == 200:
            raise
        return b""


def _is_chunked(response: httpx.Response) -> bool:
    return "chunked" in response.headers.get("transfer-encoding", "").lower()


def _unpacked(who: str, body: bytes, encoding: str) -> bytes:
    """A body that was packed although we asked that it be not."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip"):
        raise ProviderAnswerUnknown(
            say("{provider} packed its answer in a way that we do not read", provider=who)
        )
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        plain = unpacker.decompress(body, MAX_ANSWER_BYTES)
    except zlib.error:
        raise ProviderAnswerUnknown(
            say("{provider} says that its answer is gzip, and it is not", provider=who)
        ) from None
    if not unpacker.eof or unpacker.unused_data:
        raise ProviderAnswerUnknown(
            say("{provider} packed an answer that is cut, or more than 1 MiB", provider=who)
        )
    return plain


def requests_adapter(library: ModuleType) -> Any:
    """A transport for an SDK that is built on requests, to be mounted on its session.

    Args:
        library: `requests`, or the copy of it that the SDK brings along.
    """

    class Adapter(library.adapters.BaseAdapter):  # type: ignore[name-defined,misc]
        def send(self, request: Any, **_: Any) -> Any:
            answer = send(request.method, request.url, request.headers, request.body or b"")
            response = library.models.Response()
            response.status_code = answer.status
            response.headers = library.structures.CaseInsensitiveDict(answer.headers)
            response.url, response.request = request.url, request
            response._content, response._content_consumed = answer.body, True
            return response

        def close(self) -> None:
            """Nothing is kept open."""

    return Adapter()


def mount(session: Any, library: ModuleType) -> Any:
    """Let an SDK's session send through `send`, and through nothing else; returns it."""
    session.adapters.clear()
    for scheme in ("https://", "http://"):
        session.mount(scheme, requests_adapter(library))
    return session


def number(value: Any, upper: float) -> float | None:
    """`value` as 0..1 when it is a number from 0 to `upper`, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        share = float(value) / upper
    except (ValueError, OverflowError):
        return None
    return share if 0.0 <= share <= 1.0 else None
