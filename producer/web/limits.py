"""How many may do a thing at once, so that one kind of work cannot take the place of another."""

from __future__ import annotations

import contextlib
import ipaddress
import threading
from collections.abc import Iterator

#: Bits of an IPv6 address that name a subscriber's network; the rest is theirs to choose.
#: Source: RFC 6177, RFC 7421.
SUBSCRIBER_BITS = 64


class NoSlot(Exception):
    """Raised when every slot is taken."""


class Slots:
    """A bounded number of slots that are never waited for. Safe to share between threads."""

    def __init__(self, most: int) -> None:
        self._free = threading.BoundedSemaphore(most)

    @contextlib.contextmanager
    def take(self) -> Iterator[None]:
        """Hold one slot.

        Raises:
            NoSlot: all are taken; nothing was done.
        """
        if not self._free.acquire(blocking=False):
            raise NoSlot
        try:
            yield
        finally:
            self._free.release()


def network_of(address: str) -> str:
    """What limits are counted by: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, SUBSCRIBER_BITS), strict=False))
