"""HTTP to addresses that a user chose: private networks are refused when the connection is made.

The name is resolved here, every address is checked, and the connection goes to an address that was
checked; so neither a redirect nor a DNS answer that changes later leads into a private network.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence

import httpx

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class BlockedAddress(httpx.RequestError):
    """Raised when a URL leads to an address that requests of ours must not reach."""


def parse_networks(networks: Iterable[str]) -> tuple[IPNetwork, ...]:
    """Networks such as `10.1.0.0/16` that may be reached although they are private."""
    return tuple(ipaddress.ip_network(network) for network in networks)


def is_public(address: IPAddress) -> bool:
    """Whether an address is on the public internet.

    IPv6 forms that carry an IPv4 address (mapped, 6to4, NAT64) count as the address they carry.
    Source: `is_global` follows the IANA special-purpose registries; 64:ff9b::/96 is RFC 6052.
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


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


class GuardedTransport(httpx.BaseTransport):
    """Resolves, checks and pins every request, redirects included.

    Args:
        allowed: private networks that may be reached all the same.
        keep_alive: idle connections to keep. The pool knows addresses, not names, and two names may
            share an address; so anything but 0 is only for a client that speaks to one host.
        inner: what sends the request; an `httpx.HTTPTransport` unless a test gives another.
    """

    def __init__(
        self,
        allowed: Sequence[IPNetwork] = (),
        *,
        keep_alive: int = 0,
        inner: httpx.BaseTransport | None = None,
    ) -> None:
        self._allowed = tuple(allowed)
        self._inner = inner or httpx.HTTPTransport(
            trust_env=False, limits=httpx.Limits(max_keepalive_connections=keep_alive)
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send to a checked address.

        Raises:
            BlockedAddress: every resolved address must be public or allowed; one was not.
        """
        host = request.url.host
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        addresses = resolve(host, port)
        for address in addresses:
            if not self._may_reach(address):
                raise BlockedAddress(
                    f"{host} leads to the private address {address}; only public addresses are "
                    "reached unless AVATARMOD_PRIVATE_NETWORKS lists the network",
                    request=request,
                )
        request.extensions = {**request.extensions, "sni_hostname": host}
        request.headers.setdefault("host", request.url.netloc.decode("ascii"))
        request.url = request.url.copy_with(host=str(addresses[0]))
        return self._inner.handle_request(request)

    def _may_reach(self, address: IPAddress) -> bool:
        if is_public(address):
            return True
        return any(
            address.version == network.version and address in network for network in self._allowed
        )

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()


def guarded_client(
    *,
    allowed: Sequence[IPNetwork] = (),
    timeout_s: float,
    follow_redirects: bool = False,
    keep_alive: int = 0,
) -> httpx.Client:
    """An HTTP client for addresses that a user chose; proxies of the environment are ignored."""
    return httpx.Client(
        transport=GuardedTransport(allowed, keep_alive=keep_alive),
        timeout=timeout_s,
        follow_redirects=follow_redirects,
        max_redirects=3,
        trust_env=False,
        headers={"user-agent": "avatar-moderation"},
    )
