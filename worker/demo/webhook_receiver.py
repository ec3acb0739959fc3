"""A small web tier for the demo and the tests: receives callbacks and verifies each signature."""

from __future__ import annotations

import dataclasses
import http.server
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Self

from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError

from producer.contract import PING_TYPE, RECEIVER_HEADER

#: Bytes; callbacks stay far below.
MAX_BODY_BYTES = 20_000


@dataclasses.dataclass(frozen=True)
class Received:
    """One callback as it arrived.

    Attributes:
        webhook_id: what names it, however often it comes.
        verified: whether the signature is right and of now.
        data: what it says; empty where it is not verified.
        is_of_now: False where the signature is right and its time is not, as of a sender whose
            clocks are off; it was refused and has to come again.
    """

    webhook_id: str
    verified: bool
    data: dict[str, Any]
    is_of_now: bool = True


class Receiver:
    """An HTTP server on a free port; use as a context manager.

    Args:
        secret: whsec_... that callbacks must be signed with.
        fails: asked before every answer; True makes it a 500.
        address: of this machine, to listen on.
    """

    def __init__(
        self,
        secret: SecretStr,
        fails: Callable[[], bool] = lambda: False,
        address: str = "127.0.0.1",
    ) -> None:
        self._fails = fails
        self._webhook = Webhook(secret.get_secret_value())
        self.received: list[Received] = []
        self._arrived = threading.Condition()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = self.rfile.read(min(length, MAX_BODY_BYTES))
                if len(body) < length:
                    # The sender died in mid-request: that is no callback, and nobody to answer.
                    self.close_connection = True
                    return
                status = receiver._take(body, dict(self.headers))
                self.send_response(status)
                if status == 204:
                    self.send_header(RECEIVER_HEADER, "demo")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Stay silent; the demo prints its own table."""

        self._server = http.server.ThreadingHTTPServer((address, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{address}:{self._server.server_address[1]}/avatar-verdict"

    def __enter__(self) -> Self:
        """Start answering."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()

    def _take(self, body: bytes, headers: dict[str, str]) -> int:
        if self._fails():
            return 500
        try:
            event = self._webhook.verify(body, headers)
            if event.get("type") == PING_TYPE:
                return 204
            status, verified, data = 204, True, event["data"]
        except (WebhookVerificationError, ValueError, KeyError):
            status, verified, data = 401, False, {}
        webhook_id = headers.get("webhook-id", "")
        is_of_now = verified or not self._was_right(body, headers)
        with self._arrived:
            self.received.append(Received(webhook_id, verified, data, is_of_now))
            self._arrived.notify_all()
        return status

    def _was_right(self, body: bytes, headers: dict[str, str]) -> bool:
        """Whether a signature is right for the time that it names."""
        try:
            named_s = float(headers.get("webhook-timestamp", ""))
            of_then = datetime.fromtimestamp(named_s, UTC)
            right = self._webhook.sign(headers.get("webhook-id", ""), of_then, body.decode())
        except (ValueError, OverflowError, OSError):
            return False
        return right in headers.get("webhook-signature", "").split()

    def wait_for(self, upload_ids: set[str], states: dict[str, str], timeout_s: float) -> bool:
        """Until each upload's callback with its state has arrived; False when some did not."""

        def all_here() -> bool:
            seen = {(r.data.get("upload_id"), r.data.get("state")) for r in self.received}
            return all((upload_id, states[upload_id]) in seen for upload_id in upload_ids)

        with self._arrived:
            return self._arrived.wait_for(all_here, timeout_s)
