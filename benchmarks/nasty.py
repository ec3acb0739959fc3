"""Receivers that cost whoever calls them: they are silent, endless, broken or dead.

Raw sockets, for a library of HTTP would refuse to misbehave. Used by receivers.py and chaos.py.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Self


def _answer(sock: socket.socket, *lines: str) -> None:
    sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())


def _every(seconds: float, sock: socket.socket, pieces: Iterator[bytes]) -> None:
    for piece in pieces:
        sock.sendall(piece)
        time.sleep(seconds)


def _for_ever(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


def _endless_body(sock: socket.socket) -> None:
    _answer(sock, "HTTP/1.1 200 OK", "transfer-encoding: chunked")
    _every(0.01, sock, _for_ever(b"1000\r\n" + b"x" * 4096 + b"\r\n"))


def _no_body(sock: socket.socket) -> None:
    _answer(sock, "HTTP/1.1 200 OK", "content-length: 100")
    time.sleep(300)


def _endless_headers(sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.1 200 OK\r\n")
    _every(0.001, sock, _for_ever(b"x-more: " + b"z" * 100 + b"\r\n"))


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _late(sock: socket.socket) -> None:
    time.sleep(3)
    _answer(sock, "HTTP/1.1 200 OK", "content-length: 0")


def _says(*lines: str) -> Callable[[socket.socket], object]:
    return lambda sock: _answer(sock, *lines, "content-length: 0")


#: What each kind does with a request that was read; the connection is closed after it.
KINDS: dict[str, Callable[[socket.socket], object]] = {
    "never answers": lambda sock: time.sleep(300),
    "one byte a second": lambda sock: _every(
        1.0, sock, (bytes([b]) for b in b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300)
    ),
    "200 whose body never ends": _endless_body,
    "200 whose body never comes": _no_body,
    "endless headers": _endless_headers,
    "endless 100 Continue": lambda sock: _every(
        0.1, sock, _for_ever(b"HTTP/1.1 100 Continue\r\n\r\n")
    ),
    "resets": _reset,
    "no TLS where it says https": lambda sock: sock.sendall(b"this is no TLS\n" * 99),
    "redirects to itself": _says("HTTP/1.1 307 Temporary Redirect", "location: /"),
    "503 with Retry-After": _says("HTTP/1.1 503 Busy", "retry-after: 1"),
    "500": _says("HTTP/1.1 500 Error"),
    "closes without an answer": lambda sock: None,
    "200 after three seconds": _late,
}


class NastyReceiver:
    """One of `KINDS` on a free port of this machine; use as a context manager."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.requests = 0
        receiver = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                receiver.requests += 1
                with contextlib.suppress(OSError):
                    self.request.recv(65536)
                    KINDS[kind](self.request)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        scheme = "https" if "https" in kind else "http"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}/"

    def __enter__(self) -> Self:
        """Start to listen."""
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop to listen."""
        self._server.shutdown()
        self._server.server_close()
