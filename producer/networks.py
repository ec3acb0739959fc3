"""Which addresses are public, and which private ones a site allows."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterable, Sequence

from producer.texts import say

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

#: IPv6 networks whose last 32 bits are the IPv4 address that is meant.
#: Source: RFC 6052 (NAT64), RFC 4291 section 2.5.5.1 (IPv4-compatible, deprecated).
CARRIES_IPV4 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("::/96"))

#: The IPv6 addresses that are given out to the public internet.
#: Source: IANA, Internet Protocol Version 6 Address Space.
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")

#: What some versions of Python hold to be global and the registries do not, or no longer route.
#: Source: RFC 6890 (protocol assignments), RFC 7526 (6to4 relays), RFC 9637 (documentation).
NOT_PUBLIC: tuple[IPNetwork, ...] = (
    ipaddress.ip_network("192.0.0.0/24"),
    ipaddress.ip_network("192.88.99.0/24"),
    ipaddress.ip_network("3fff::/20"),
    # The inside of a cloud under an address of the public space.
    # Source: Microsoft Learn, "What is IP address 168.63.129.16?".
    ipaddress.ip_network("168.63.129.16/32"),
)


def parse_networks(networks: Iterable[str]) -> tuple[IPNetwork, ...]:
    """Networks such as `10.1.0.0/16` that may be reached although they are private."""
    return tuple(ipaddress.ip_network(network) for network in networks)


def is_network(text: str) -> bool:
    """Whether a text is a network such as `10.1.0.0/16`."""
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def parse_proxies(proxies: Iterable[str]) -> tuple[IPNetwork, ...]:
    """Addresses and networks such as `10.1.2.3/16`; what is neither is a name, and left out."""
    found = []
    for proxy in proxies:
        with contextlib.suppress(ValueError):
            found.append(ipaddress.ip_network(proxy, strict=False))
    return tuple(found)


def is_peer_in(peer: str, networks: Sequence[IPNetwork]) -> bool:
    """Whether the other end of a connection, IPv4 over IPv6 too, lies in one of some networks."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    return is_allowed(getattr(address, "ipv4_mapped", None) or address, networks)


def is_public(address: IPAddress) -> bool:
    """Whether an address is on the public internet.

    IPv6 forms that carry an IPv4 address (mapped, compatible, 6to4, NAT64) count as that address.
    Source: `is_global` follows the IANA special-purpose registries; see also `NOT_PUBLIC`.
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and is_allowed(address, CARRIES_IPV4):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address not in GLOBAL_UNICAST:
            return False
    if is_allowed(address, NOT_PUBLIC):
        return False
    return address.is_global and not address.is_multicast


def is_allowed(address: IPAddress, allowed: Sequence[IPNetwork]) -> bool:
    """Whether an address lies in one of some networks."""
    return any(address in network for network in allowed)


def literal_address(host: str) -> IPAddress | None:
    """The address that a host is without asking anybody; None for a name.

    Also `127.1`, `0x7f000001` and `2130706433`, which the system's resolver reads as addresses, and
    each with the dot at its end that a whole name may have.
    Source: inet_aton(3); RFC 6761, section 6.3 (names under localhost).
    """
    host = host.removesuffix(".")
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
    is_same = str(address) == host
    where = (
        say("is a private address")
        if is_same
        else say("is the private address {address}", address=str(address))
    )
    return say(
        "{host} {where}; only public addresses are reached unless AVATARMOD_PRIVATE_NETWORKS "
        "lists the network, such as {network}",
        host=host,
        where=where,
        network=f"{address}/{address.max_prefixlen}",
    )


def plain_http_message(host: str) -> str:
    """What is wrong with http:// to a host that is in no allowed network."""
    return say(
        "{host} is to be reached over plain http; use https://, or list its network in "
        "AVATARMOD_PRIVATE_NETWORKS if it is yours",
        host=host,
    )
