"""The servers that chaos.py plays: a review provider, and how badly one answers for a while."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import random
import threading
import time
from collections import Counter
from typing import Any


class Behaviour:
    """How a server of ours answers just now; changed by faults, read by its handlers."""

    def __init__(self) -> None:
        self.failing_share = 0.0
        self.delay_s = 0.0
        self.is_nasty = False
        self._random = random.Random(1)

    def fails(self) -> bool:
        """Wait as told, then say whether this request is to fail."""
        time.sleep(self.delay_s)
        return self._random.random() < self.failing_share


class ReviewStub:
    """A Hugging Face endpoint: answers by the picture's hash, counts calls per picture."""

    def __init__(self, token: str) -> None:
        self.behaviour = Behaviour()
        self._random = random.Random(2)
        self.calls: Counter[str] = Counter()
        stub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if self.headers.get("authorization") != f"Bearer {token}":
                    self._answer(401, {"error": "unauthorized"})
                elif stub.behaviour.fails():
                    self._answer(503, {"error": "overloaded"})
                elif stub.behaviour.is_nasty:
                    self._answer(*stub.nasty_answer())
                else:
                    self._answer(200, stub.answer_to(hashlib.sha256(body).hexdigest()))

            def _answer(self, status: int, content: Any) -> None:
                text = json.dumps(content).encode()
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer_to(self, digest: str) -> list[dict[str, Any]]:
        """A quarter explicit, a half uncertain, a quarter harmless."""
        self.calls[digest] += 1
        digit = int(digest[0], 16)
        score = 0.97 if digit < 4 else 0.5 if digit < 12 else 0.02
        return [{"label": "nsfw", "score": score}, {"label": "normal", "score": 1 - score}]

    def nasty_answer(self) -> tuple[int, Any]:
        """Something that must not be understood as an approval."""
        harmless = [{"label": "normal", "score": 0.98}, {"label": "nsfw", "score": 0.02}]
        return self._random.choice(
            [
                (200, harmless * 2),
                (200, [*harmless, {"label": "other", "score": 0.5}]),
                (200, {"error": "none"}),
                (200, "normal"),
                (206, harmless),
                (307, harmless),
                (500, harmless),
            ]
        )

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
