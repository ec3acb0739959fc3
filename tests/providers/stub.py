"""A local HTTP server that plays a provider: recomputes signatures, counts, misbehaves on order."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclasses.dataclass(frozen=True)
class Call:
    """One request as received; header names in lower case."""

    at_s: float
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclasses.dataclass(frozen=True)
class Response:
    """What to answer: `delay_s` passes before it, `drip_s` between its single bytes.

    `length` is said instead of the body's own; `for_ever` is sent again and again after the body,
    until the client has gone.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    delay_s: float = 0.0
    drip_s: float = 0.0
    length: int | None = None
    for_ever: bytes = b""


def answer(value: Any, status: int = 200, **headers: str) -> Response:
    """A JSON answer."""
    return Response(
        status,
        json.dumps(value).encode(),
        {
            "Content-Type": "application/json",
            **{k.replace("_", "-"): v for k, v in headers.items()},
        },
    )


class Stub:
    """Listens on a free port while used as a context manager."""

    def __init__(self, respond: Callable[[Call], Response]) -> None:
        self.respond = respond
        self.calls: list[Call] = []
        self.closing = threading.Event()
        self.hung_up = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def __enter__(self) -> Stub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def _serve(self) -> None:
                call = Call(
                    time.time(),
                    self.command,
                    self.path,
                    {name.lower(): value for name, value in self.headers.items()},
                    self.rfile.read(int(self.headers.get("Content-Length", 0))),
                )
                with stub._lock:
                    stub.calls.append(call)
                self._write(stub.respond(call))

            do_POST = do_PUT = do_GET = _serve

            def _write(self, response: Response) -> None:
                stub.closing.wait(response.delay_s)
                try:
                    self.send_response(response.status)
                    for name, value in response.headers.items():
                        self.send_header(name, value)
                    length = len(response.body) if response.length is None else response.length
                    self.send_header("Content-Length", str(length))
                    self.end_headers()
                    if not response.drip_s:
                        self.wfile.write(response.body)
                    for byte in response.body if response.drip_s else b"":
                        if stub.closing.wait(response.drip_s):
                            break
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                    while response.for_ever and not stub.closing.wait(0.01):
                        self.wfile.write(response.for_ever)
                except OSError:
                    stub.hung_up.set()
                    self.close_connection = True
                if response.length is not None or response.for_ever:
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        return Handler


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that went away is part of the tests."""
