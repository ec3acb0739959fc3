"""Local HTTP servers that behave badly on purpose."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
from collections.abc import Callable, Iterator


class Request(http.server.BaseHTTPRequestHandler):
    """One request; routes are functions of it."""

    protocol_version = "HTTP/1.1"
    routes: dict[str, Callable[[Request], object]]
    seen: list[tuple[str, str, bytes]]

    def do_GET(self) -> None:
        """Note the request and let its route answer."""
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.seen.append((self.command, self.path, body))
        with contextlib.suppress(ConnectionError):
            self.routes[self.path](self)

    do_POST = do_GET

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """A complete answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def drip(self, text: bytes, every_s: float) -> None:
        """One byte now and then; the connection is closed at the end."""
        self.close_connection = True
        for number in range(len(text)):
            self.wfile.write(text[number : number + 1])
            self.wfile.flush()
            time.sleep(every_s)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay silent."""


class Server:
    """Routes on a free port of 127.0.0.1, and what was asked."""

    def __init__(self, routes: dict[str, Callable[[Request], object]]) -> None:
        self.seen: list[tuple[str, str, bytes]] = []
        handler = type("Handler", (Request,), {"routes": routes, "seen": self.seen})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Server:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def serving(**routes: Callable[[Request], object]) -> Iterator[Server]:
    """A server; `ok=...` answers under `/ok`."""
    with Server({f"/{name}": route for name, route in routes.items()}) as server:
        yield server
