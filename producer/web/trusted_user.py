"""Who has signed in at a reverse proxy in front, from a header that only the proxy may set.

Stands before everything else of the application, where the peer of the connection is still known:
what comes from any other peer loses the header, in whatever way it is spelled.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from producer.networks import is_peer_in, parse_proxies
from producer.web.users import is_user_name

log = structlog.get_logger()

#: Where the name stands in a request's scope; absent where nobody was named.
TRUSTED_USER = "avatarmod.trusted_user"


class TrustedUser:
    """Reads the header, and takes it away from the request.

    Args:
        app: what follows.
        header: its name.
        proxies: addresses and networks of the proxies that may set it.
    """

    def __init__(self, app: ASGIApp, *, header: str, proxies: Iterable[str]) -> None:
        self._app = app
        self._header = _plain(header.encode())
        self._proxies = parse_proxies(proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, with the name or without."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        others: list[tuple[bytes, bytes]] = []
        given: list[tuple[bytes, bytes]] = []
        for name, value in scope["headers"]:
            (given if _plain(name) == self._header else others).append((name, value))
        scope = {**scope, "headers": others}
        scope.pop(TRUSTED_USER, None)
        peer = (scope.get("client") or ("",))[0]
        if given and is_peer_in(peer, self._proxies) and (name := self._name_in(given)):
            scope[TRUSTED_USER] = name
        await self._app(scope, receive, send)

    def _name_in(self, given: list[tuple[bytes, bytes]]) -> str:
        """The one name, in ASCII; a second header, or another spelling, came past the proxy."""
        text = given[0][1].decode("latin-1")
        if len(given) == 1 and b"_" not in given[0][0] and is_user_name(text):
            return text
        if any(value for _, value in given):
            log.warning("trusted_user_refused", headers=len(given))
        return ""


def _plain(name: bytes) -> bytes:
    """Proxies and gateways take `_` for `-`, which a client may use to get past them."""
    return name.lower().replace(b"_", b"-")
