"""HTTP to addresses that a user chose: private networks are refused when the connection is made.

The name is resolved here, every address is checked, and the connection goes to an address that was
checked; so neither a redirect nor a DNS answer that changes later leads into a private network.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

import httpcore
import httpx

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

#: IPv6 networks whose last 32 bits are the IPv4 address that is meant.
#: Source: RFC 6052 (NAT64), RFC 4291 section 2.5.5.1 (IPv4-compatible, deprecated).
CARRIES_IPV4 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("::/96"))

#: What some versions of Python hold to be global and the registries do not, or no longer route.
#: Source: RFC 6890 (protocol assignments), RFC 8215 (local NAT64), RFC 3879 (site-local).
NOT_PUBLIC: tuple[IPNetwork, ...] = (
    ipaddress.ip_network("192.0.0.0/24"),
    ipaddress.ip_network("64:ff9b:1::/48"),
    ipaddress.ip_network("fec0::/10"),
)


class BlockedAddress(httpx.RequestError):
    """Raised when a URL leads to an address that requests of ours must not reach."""


class PlainHttp(BlockedAddress):
    """Raised when a request would cross the public internet without TLS and must not."""


def parse_networks(networks: Iterable[str]) -> tuple[IPNetwork, ...]:
    """Networks such as `10.1.0.0/16` that may be reached although they are private."""
    return tuple(ipaddress.ip_network(network) for network in networks)


def is_public(address: IPAddress) -> bool:
    """Whether an address is on the public internet.

    IPv6 forms that carry an IPv4 address (mapped, compatible, 6to4, NAT64) count as that address.
    Source: `is_global` follows the IANA special-purpose registries; see also `NOT_PUBLIC`.
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and any(address in network for network in CARRIES_IPV4):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    if any(address.version == n.version and address in n for n in NOT_PUBLIC):
        return False
    return address.is_global and not address.is_multicast


def is_allowed(address: IPAddress, allowed: Sequence[IPNetwork]) -> bool:
    """Whether an address lies in one of some networks."""
    return any(address.version == n.version and address in n for n in allowed)


def literal_address(host: str) -> IPAddress | None:
    """The address that a host is without asking anybody; None for a name.

    Also `127.1`, `0x7f000001` and `2130706433`, which the system's resolver reads as addresses.
    Source: inet_aton(3); RFC 6761, section 6.3 (names under localhost).
    """
    if host == "localhost" or host.endswith(".localhost"):
        return ipaddress.IPv4Address("127.0.0.1")
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


def private_address_message(host: str, address: IPAddress) -> str:
    """What is wrong with an address that is neither public nor allowed, and what would be right."""
    where = "is a private address" if str(address) == host else f"is the private address {address}"
    return (
        f"{host} {where}; only public addresses are reached unless AVATARMOD_PRIVATE_NETWORKS "
        "lists the network"
    )


def plain_http_message(host: str) -> str:
    """What is wrong with http:// to a host that is in no allowed network."""
    return (
        f"{host} is to be reached over plain http; use https://, or list its network in "
        "AVATARMOD_PRIVATE_NETWORKS if it is yours"
    )


def resolve(host: str, port: int) -> list[IPAddress]:
    """Addresses of a host, in the system's order of preference.

    Raises:
        httpx.ConnectError: the name does not resolve.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpx.ConnectError(f"the name {host!r} does not resolve") from error
    return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


def check_reachable(host: str, port: int, allowed: Sequence[IPNetwork]) -> list[IPAddress]:
    """Addresses of a host, all of which may be reached.

    Raises:
        httpx.ConnectError: the name does not resolve.
        BlockedAddress: every address must be public or in an allowed network; one was not.
    """
    addresses = resolve(host, port)
    for address in addresses:
        if not is_public(address) and not is_allowed(address, allowed):
            raise BlockedAddress(private_address_message(host, address))
    return addresses


def _pinned(request: httpx.Request, address: IPAddress) -> httpx.Request:
    """The same request to one address; the original keeps its name, for redirects build on it."""
    return httpx.Request(
        request.method,
        request.url.copy_with(host=str(address)),
        headers={"host": request.url.netloc.decode("ascii"), **request.headers},
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": request.url.host},
    )


#: When the request that this thread makes must be over, on the monotonic clock.
_clock = threading.local()


def _left_s(timeout_s: float | None) -> float:
    left_s: float = _clock.deadline_s - time.monotonic()
    if left_s <= 0:
        raise httpcore.ReadTimeout("the whole request took too long")
    return left_s if timeout_s is None else min(timeout_s, left_s)


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


class _DeadlineBackend(httpcore.NetworkBackend):
    """Makes connections that keep to the deadline of the thread that uses them."""

    def __init__(self) -> None:
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        stream = self._backend.connect_tcp(
            host, port, _left_s(timeout), local_address, socket_options
        )
        return _DeadlineStream(stream)


class _DeadlineTransport(httpx.HTTPTransport):
    def __init__(self, keep_alive: int) -> None:
        super().__init__(trust_env=False)
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(trust_env=False),
            max_keepalive_connections=keep_alive,
            keepalive_expiry=5.0,
            network_backend=_DeadlineBackend(),
        )


class GuardedTransport(httpx.BaseTransport):
    """Resolves, checks and pins every request, redirects included.

    Args:
        allowed: private networks that may be reached all the same.
        total_s: from the connection to the last byte of the answer, for each hop of a redirect.
        tls_in_public: refuse http:// but for the allowed networks.
        keep_alive: idle connections to keep. The pool knows addresses, not names, and two names may
            share an address; so anything but 0 is only for a client that speaks to one host.
        inner: what sends the request; an `httpx.HTTPTransport` unless a test gives another.
    """

    def __init__(
        self,
        allowed: Sequence[IPNetwork] = (),
        *,
        total_s: float,
        tls_in_public: bool = False,
        keep_alive: int = 0,
        inner: httpx.BaseTransport | None = None,
    ) -> None:
        self._allowed = tuple(allowed)
        self._tls_in_public = tls_in_public
        self._total_s = total_s
        self._inner = inner or _DeadlineTransport(keep_alive)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send to a checked address.

        Raises:
            BlockedAddress: every resolved address must be public or allowed; one was not.
            PlainHttp: http:// to an address that is not allowed, where TLS is asked for.
        """
        host = request.url.host
        if request.url.scheme not in ("http", "https") or not host:
            raise httpx.UnsupportedProtocol("not an http:// or https:// address", request=request)
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        addresses = check_reachable(host, port, self._allowed)
        is_public_http = request.url.scheme == "http" and not all(
            is_allowed(address, self._allowed) for address in addresses
        )
        if self._tls_in_public and is_public_http:
            raise PlainHttp(plain_http_message(host))
        _clock.deadline_s = time.monotonic() + self._total_s
        for address in addresses[:-1]:
            with contextlib.suppress(httpx.ConnectError):
                return self._inner.handle_request(_pinned(request, address))
        return self._inner.handle_request(_pinned(request, addresses[-1]))

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()


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
        timeout_s: for a whole request; a redirect starts a new one.
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
