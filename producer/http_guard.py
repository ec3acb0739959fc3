"""HTTP to addresses that a user chose: private networks are refused when the connection is made.

The name is resolved here, every address is checked, and the connection goes to an address that was
checked; so neither a redirect nor a DNS answer that changes later leads into a private network.
One deadline covers resolving, connecting, every hop of a redirect and the last byte of the body.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import httpcore
import httpx

from producer import authorities
from producer.networks import (
    IPAddress,
    IPNetwork,
    is_allowed,
    is_public,
    plain_http_message,
    private_address_message,
)

#: Seconds after which the next address is tried beside one that has not answered yet.
#: Source: RFC 8305, section 5, Connection Attempt Delay.
ATTEMPT_DELAY_S = 0.25

#: Addresses of one name that are tried; all are checked.
MAX_ADDRESSES = 6

#: Seconds that resolving a name may take where the caller has no deadline of its own.
RESOLVE_S = 10.0

#: Names that are resolved at the same time; the system's resolver cannot be interrupted.
_resolving = threading.BoundedSemaphore(64)


class BlockedAddress(httpx.RequestError):
    """Raised when a URL leads to an address that requests of ours must not reach."""


class PlainHttp(BlockedAddress):
    """Raised when a request would cross the public internet without TLS and must not."""


def resolve(host: str, port: int, timeout_s: float = RESOLVE_S) -> list[IPAddress]:
    """Addresses of a host, in the system's order of preference.

    Raises:
        httpx.ConnectError: the name does not resolve.
        httpx.ConnectTimeout: nobody answered in time; a resolver that hangs is left behind.
    """
    with contextlib.suppress(ValueError):
        return [ipaddress.ip_address(host.partition("%")[0])]
    answer: queue.SimpleQueue[list[Any] | Exception] = queue.SimpleQueue()
    deadline_s = time.monotonic() + timeout_s
    if not _resolving.acquire(timeout=timeout_s):
        raise httpx.ConnectTimeout("too many names are being resolved")

    def ask() -> None:
        try:
            answer.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answer.put(error)
        finally:
            _resolving.release()

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        found = answer.get(timeout=max(0.0, deadline_s - time.monotonic()))
    except queue.Empty:
        raise httpx.ConnectTimeout(f"the name {host!r} was not resolved in time") from None
    if isinstance(found, Exception):
        raise httpx.ConnectError(f"the name {host!r} does not resolve") from found
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    return list(dict.fromkeys(addresses))


def check_reachable(
    host: str, port: int, allowed: Sequence[IPNetwork], timeout_s: float = RESOLVE_S
) -> list[IPAddress]:
    """Addresses of a host, all of which may be reached.

    Raises:
        httpx.ConnectError, httpx.ConnectTimeout: the name does not resolve.
        BlockedAddress: every address must be public or in an allowed network; one was not.
    """
    addresses = resolve(host, port, timeout_s)
    for address in addresses:
        if not is_public(address) and not is_allowed(address, allowed):
            raise BlockedAddress(private_address_message(host, address))
    return addresses


def _alternate(addresses: Sequence[IPAddress]) -> list[IPAddress]:
    """The two families in turn, beginning with the preferred one.

    Source: RFC 8305, section 4.
    """
    first = [a for a in addresses if a.version == addresses[0].version]
    other = [a for a in addresses if a.version != addresses[0].version]
    turns = itertools.zip_longest(first, other)
    return [address for turn in turns for address in turn if address is not None]


def connect_first(
    addresses: Sequence[IPAddress],
    connect: Callable[[str], httpcore.NetworkStream],
    timeout_s: float,
) -> httpcore.NetworkStream:
    """A connection to whichever address answers first; the next is tried after a quarter second.

    Args:
        addresses: checked ones, the preferred first.
        connect: connects to one of them within the same time.
        timeout_s: for all of them together.

    Raises:
        httpcore.ConnectError, httpcore.ConnectTimeout: none answered.
    """
    waiting = _alternate(addresses)[:MAX_ADDRESSES]
    if len(waiting) == 1:
        return connect(str(waiting[0]))
    race = _Race(connect)
    deadline_s = time.monotonic() + timeout_s
    error: Exception = httpcore.ConnectTimeout("no address answered in time")
    while waiting or race.running:
        if waiting:
            race.start(str(waiting.pop(0)))
        left_s = deadline_s - time.monotonic()
        found = race.wait(min(ATTEMPT_DELAY_S, left_s) if waiting else left_s)
        if isinstance(found, httpcore.NetworkStream):
            return found
        if found is not None:
            error = found
        elif not waiting:
            break
    race.end()
    raise error


class _Race:
    """Connections that are tried side by side; the first that stands wins, the rest are closed."""

    def __init__(self, connect: Callable[[str], httpcore.NetworkStream]) -> None:
        self._connect = connect
        self._answers: queue.SimpleQueue[httpcore.NetworkStream | Exception] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._over = False
        self.running = 0

    def start(self, address: str) -> None:
        self.running += 1
        threading.Thread(target=self._try, args=(address,), name="connect", daemon=True).start()

    def _try(self, address: str) -> None:
        answer: httpcore.NetworkStream | Exception
        try:
            answer = self._connect(address)
        except Exception as error:  # noqa: BLE001 - raised in the thread that waits
            answer = error
        with self._lock:
            if not self._over:
                self._answers.put(answer)
            elif isinstance(answer, httpcore.NetworkStream):
                answer.close()

    def wait(self, timeout_s: float) -> httpcore.NetworkStream | Exception | None:
        """The next connection or error; None when the time is over."""
        try:
            answer = self._answers.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None
        self.running -= 1
        if isinstance(answer, httpcore.NetworkStream):
            self.end()
        return answer

    def end(self) -> None:
        """Close what stands now and what will stand later."""
        with self._lock:
            self._over = True
            while not self._answers.empty():
                left = self._answers.get()
                if isinstance(left, httpcore.NetworkStream):
                    left.close()


#: What the request of this thread must keep to: `deadline_s` on the monotonic clock, `is_plain`.
_request = threading.local()


def _left_s(timeout_s: float | None) -> float:
    left_s: float = _request.deadline_s - time.monotonic()
    if left_s <= 0:
        raise httpcore.ReadTimeout("the whole request took too long")
    return left_s if timeout_s is None else min(timeout_s, left_s)


def shorten_deadline(seconds: float) -> None:
    """Let the request that this thread makes end within `seconds`, if not before."""
    _request.deadline_s = min(_request.deadline_s, time.monotonic() + seconds)


class _DeadlineStream(httpcore.NetworkStream):
    """A connection on which a server that sends a byte now and then runs out of time all the same.

    The timeouts of httpx are for one read each; a whole request has none.
    """

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left_s(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left_s(timeout))

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, _left_s(timeout))
        return _DeadlineStream(stream)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _GuardedBackend(httpcore.NetworkBackend):
    """Makes connections to checked addresses, within the deadline of the request."""

    def __init__(
        self, allowed: Sequence[IPNetwork], tls_in_public: bool, inner: httpcore.NetworkBackend
    ) -> None:
        self._allowed = tuple(allowed)
        self._tls_in_public = tls_in_public
        self._inner = inner

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = check_reachable(host, port, self._allowed, _left_s(timeout))
        is_public_plain = _request.is_plain and not all(
            is_allowed(address, self._allowed) for address in addresses
        )
        if self._tls_in_public and is_public_plain:
            raise PlainHttp(plain_http_message(host))
        left_s = _left_s(timeout)

        def connect(address: str) -> httpcore.NetworkStream:
            return self._inner.connect_tcp(address, port, left_s, local_address, socket_options)

        return _DeadlineStream(connect_first(addresses, connect, left_s))


class GuardedTransport(httpx.HTTPTransport):
    """Resolves and checks every address that it connects to, those of redirects included.

    Args:
        allowed: private networks that may be reached all the same.
        total_s: from resolving to the last byte of the answer, for a request that names no
            `deadline_s` (monotonic clock) among its extensions. A redirect keeps the deadline.
        tls_in_public: refuse http:// but for the allowed networks.
        keep_alive: idle connections to keep.
        backend: what opens sockets; httpcore's own unless a test gives another.
    """

    def __init__(
        self,
        allowed: Sequence[IPNetwork] = (),
        *,
        total_s: float,
        tls_in_public: bool = False,
        keep_alive: int = 0,
        backend: httpcore.NetworkBackend | None = None,
    ) -> None:
        context = authorities.context()
        super().__init__(verify=context, trust_env=False)
        self._total_s = total_s
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            max_keepalive_connections=keep_alive,
            keepalive_expiry=5.0,
            network_backend=_GuardedBackend(
                allowed, tls_in_public, backend or httpcore.SyncBackend()
            ),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send to a checked address.

        Raises:
            BlockedAddress: every resolved address must be public or allowed; one was not.
            PlainHttp: http:// to an address that is not allowed, where TLS is asked for.
        """
        if request.url.scheme not in ("http", "https") or not request.url.host:
            raise httpx.UnsupportedProtocol("not an http:// or https:// address", request=request)
        deadline_s = request.extensions.get("deadline_s", time.monotonic() + self._total_s)
        _request.deadline_s, _request.is_plain = deadline_s, request.url.scheme == "http"
        return super().handle_request(request)


def guarded_client(
    *,
    allowed: Sequence[IPNetwork] = (),
    timeout_s: float,
    tls_in_public: bool = False,
    keep_alive: int = 0,
) -> httpx.Client:
    """An HTTP client for addresses that a user chose; proxies of the environment are ignored.

    It follows no redirect: a caller that does reads none of its body, which may be endless.

    Args:
        allowed: private networks that may be reached all the same.
        timeout_s: for a whole request; see `GuardedTransport` for one deadline over redirects.
        tls_in_public: see `GuardedTransport`.
        keep_alive: see `GuardedTransport`.
    """
    return httpx.Client(
        transport=GuardedTransport(
            allowed, total_s=timeout_s, tls_in_public=tls_in_public, keep_alive=keep_alive
        ),
        timeout=timeout_s,
        follow_redirects=False,
        trust_env=False,
        headers={"user-agent": "avatar-moderation"},
    )
