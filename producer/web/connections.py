"""What one connection may hold and for how long, before any request of it is known.

uvicorn bounds neither the bytes of a request's head nor the time that it takes, and waits for ever
for a client that does not read. These bounds hold without a reverse proxy.
"""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Iterable
from typing import cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from producer.networks import IPNetwork, is_peer_in, parse_proxies
from producer.web.headers import SECURITY_HEADERS
from producer.web.limits import network_of

#: Bytes of a request's line and headers together, and how many headers.
MAX_HEAD_BYTES, MAX_HEADERS = 32 * 1024, 100

#: Requests that may wait on one connection for the answer to the one before them.
MAX_PIPELINED = 16

#: Seconds for a client to send the head of a request, from its first byte or the connection on.
HEAD_S = 10.0

#: Seconds that a client may leave what was sent to it unread.
UNREAD_S = 30.0

#: Seconds for what was sent last to leave, once the connection is to be closed.
LINGER_S = 10.0

#: Open connections of this process, and those of one address. Where all are taken, whoever has most
#: of them gives one up for a newcomer that has fewer.
MAX_CONNECTIONS, MAX_OF_ADDRESS = 512, 256

#: Seconds between two looks at a connection's deadlines.
LOOK_S = 1.0

REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class BoundedProtocol(HttpToolsProtocol):
    """One connection; its timer looks at every deadline once a second."""

    #: Networks of reverse proxies, each of which stands for many clients.
    proxies: tuple[IPNetwork, ...] = ()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, unless too many are open."""
        super().connection_made(transport)
        is_one = self.client is not None and not is_peer_in(self.client[0], self.proxies)
        #: Whose it is; None for nobody's in particular, such as a proxy's.
        self._network = network_of(self.client[0]) if self.client and is_one else None
        # The loop's own time stands still within a millisecond, in which many may come.
        self._since = time.monotonic()
        self._head_since: float | None = self.loop.time()
        self._unread_since: float | None = None
        self._closing_since: float | None = None
        self._pending_bytes = self._head_bytes = 0
        self._progressed = False
        self._refusal = 400
        self._timer: asyncio.TimerHandle = self.loop.call_later(LOOK_S, self._look)
        if self._is_one_too_many() and not self._makes_way():
            self._refuse(503)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go."""
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and refuse a head without an end."""
        if self.transport.is_closing():
            return
        if self._head_since is None and (self.cycle is None or self.cycle.response_complete):
            self._head_since = self.loop.time()
        self._progressed = False
        super().data_received(data)
        self._pending_bytes = 0 if self._progressed else self._pending_bytes + len(data)
        if self._pending_bytes > MAX_HEAD_BYTES:
            self._refuse(431)

    def on_message_begin(self) -> None:
        """A request's head begins."""
        super().on_message_begin()
        self._head_bytes = 0
        if len(self.pipeline) >= MAX_PIPELINED:
            self._count(MAX_HEAD_BYTES + 1)

    def on_url(self, url: bytes) -> None:
        """Count it as part of the head."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count it, also when it comes behind the body."""
        self._count(len(name) + len(value) + 4)
        if len(self.headers) >= MAX_HEADERS:
            self._count(MAX_HEAD_BYTES)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._head_since, self._progressed = None, True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._progressed = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._progressed = True
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client does not read what is sent to it."""
        self._unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """It reads again."""
        self._unread_since = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what could not be parsed."""
        self._refuse(self._refusal)

    def _count(self, length: int) -> None:
        self._head_bytes += length
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refusal = 431
            raise httptools.HttpParserError("the head of this request is too large")

    def _is_one_too_many(self) -> bool:
        if len(self.connections) > MAX_CONNECTIONS:
            return True
        return self._network is not None and self._held()[self._network] > MAX_OF_ADDRESS

    def _makes_way(self) -> bool:
        """Whether somebody who has more connections gave one up for this one."""
        held = self._held()
        if not held or len(self.connections) <= MAX_CONNECTIONS:
            return False
        greedy, most = held.most_common(1)[0]
        if most <= held[self._network] + 1:
            return False
        theirs = [other for other in self._open() if other._network == greedy]
        # Those that wait for a request first, and of these the oldest.
        victim = min(theirs, key=lambda other: (not other._is_idle(), other._since))
        victim.transport.abort()
        return True

    def _open(self) -> list[BoundedProtocol]:
        found = cast("set[BoundedProtocol]", self.connections)
        return [one for one in found if not one.transport.is_closing()]

    def _held(self) -> collections.Counter[str | None]:
        """Open connections by network, but for those of proxies."""
        networks = (one._network for one in self._open())
        return collections.Counter(network for network in networks if network is not None)

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _look(self) -> None:
        now = self.loop.time()
        if self.transport.is_closing():
            self._closing_since = self._closing_since or now
        if _is_over(self._closing_since, LINGER_S, now) or _is_over(
            self._unread_since, UNREAD_S, now
        ):
            self.transport.abort()
            return
        if _is_over(self._head_since, HEAD_S, now) and not self.transport.is_closing():
            self._refuse(408)
        self._timer = self.loop.call_later(LOOK_S, self._look)

    def _refuse(self, status: int) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            lines = [f"HTTP/1.1 {status} {REASONS[status]}", "content-length: 0"]
            lines += [f"{name}: {value}" for name, value in SECURITY_HEADERS.items()]
            self.transport.write("\r\n".join([*lines, "connection: close", "", ""]).encode())
        self.transport.close()


def bounded_protocol(trusted_proxies: Iterable[str]) -> type[BoundedProtocol]:
    """The protocol for uvicorn, with the addresses or networks of reverse proxies in it."""
    return type("Protocol", (BoundedProtocol,), {"proxies": parse_proxies(trusted_proxies)})


def _is_over(since: float | None, limit_s: float, now: float) -> bool:
    return since is not None and now - since > limit_s
