"""Signed webhooks to the web tier, in the wire format of Standard Webhooks 1.0.

Input is one outbox entry, output is silence (2xx) or an error of the tree. `webhook-id` is the same
for every attempt of one transition, so a receiver can drop what it has seen.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import hmac
import json
import threading
from collections.abc import Sequence
from datetime import UTC, datetime

import httpx
from pydantic import SecretStr
from standardwebhooks import Webhook

from producer.contract import EVENT_TYPE
from producer.errors import CallbackFailed, CallbackRefused
from producer.http_guard import BlockedAddress, IPNetwork, guarded_client
from producer.outbox import CallbackEntry

#: Bytes of a receiver's answer that are read at most; its content is ignored.
MAX_ANSWER_BYTES = 4096


def webhook_id(entry: CallbackEntry) -> str:
    """Stable id of one transition's callback; without dots, which separate the signed parts."""
    return "msg_" + hashlib.sha256(entry.item.encode()).hexdigest()[:32]


def body(entry: CallbackEntry) -> str:
    """The JSON that is sent and signed: `{type, timestamp, data}`."""
    timestamp = datetime.fromtimestamp(entry.at, UTC).isoformat(timespec="milliseconds")
    return json.dumps(
        {
            "type": EVENT_TYPE,
            "timestamp": timestamp.replace("+00:00", "Z"),
            "data": entry.data,
        },
        separators=(",", ":"),
    )


def sign(
    entry_id: str, payload: str, secrets: Sequence[SecretStr], now: datetime
) -> dict[str, str]:
    """The three headers; the signature has one part per secret, so that secrets can be rotated."""
    signatures = [Webhook(s.get_secret_value()).sign(entry_id, now, payload) for s in secrets]
    return {
        "webhook-id": entry_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def hub_signature(payload: str, secret: SecretStr) -> str:
    """`X-Hub-Signature-256` over the raw body; the key is the secret's whole text, as written.

    Source: WebSub section 7 (Authenticated Content Distribution), as Mastodon and GitHub send it.
    """
    key = secret.get_secret_value().encode()
    return "sha256=" + hmac.new(key, payload.encode(), hashlib.sha256).hexdigest()


class CallbackSender:
    """Delivers outbox entries; one keep-alive client per endpoint. Safe to share between threads.

    Args:
        secrets: each signs every callback; none: callbacks go out unsigned.
        allowed: private networks that may be reached all the same.
        timeout_s: for connecting and for each read.
        hub_signature: also send `X-Hub-Signature-256`, made with the first secret.
    """

    def __init__(
        self,
        secrets: Sequence[SecretStr],
        *,
        allowed: Sequence[IPNetwork],
        timeout_s: float,
        hub_signature: bool = False,
    ) -> None:
        self._secrets = secrets
        self._hub_signature = hub_signature
        self._allowed = allowed
        self._timeout_s = timeout_s
        self._clients: dict[str, httpx.Client] = {}
        self._lock = threading.Lock()

    def deliver(self, entry: CallbackEntry, *, now_s: float) -> int:
        """Post one callback; returns the HTTP status, 200 to 299.

        Args:
            entry: what is sent.
            now_s: seconds since the epoch by Redis: receivers refuse a signature whose time is
                minutes off, and this host's clock may be wrong.

        Raises:
            CallbackFailed: not reachable, too slow, or any answer but 2xx and 410; try again.
            CallbackRefused: 410 Gone, or a private address; trying again cannot help.
        """
        now = datetime.fromtimestamp(now_s, UTC)
        payload = body(entry)
        headers = sign(webhook_id(entry), payload, self._secrets, now)
        headers["content-type"] = "application/json"
        if self._hub_signature and self._secrets:
            headers["x-hub-signature-256"] = hub_signature(payload, self._secrets[0])
        try:
            with self._client(entry.endpoint).stream(
                "POST", entry.url, content=payload, headers=headers
            ) as answer:
                _read_a_little(answer)
        except BlockedAddress as error:
            raise CallbackRefused(str(error)) from error
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise CallbackRefused(f"callback address cannot be used: {error}") from error
        except httpx.HTTPError as error:
            raise CallbackFailed(f"no answer: {type(error).__name__}") from error
        if answer.status_code == 410:
            raise CallbackRefused("the endpoint answers 410 Gone", gone=True)
        if not answer.is_success:
            raise CallbackFailed(
                f"the endpoint answers {answer.status_code}",
                status=answer.status_code,
                retry_after_s=retry_after_s(answer.headers, now),
            )
        return answer.status_code

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            client.close()

    def _client(self, endpoint: str) -> httpx.Client:
        with self._lock:
            if endpoint not in self._clients:
                self._clients[endpoint] = guarded_client(
                    allowed=self._allowed, timeout_s=self._timeout_s, keep_alive=8
                )
            return self._clients[endpoint]


def _read_a_little(answer: httpx.Response) -> None:
    """So that the connection can be used again; the status said all, even if this never ends."""
    seen = 0
    with contextlib.suppress(httpx.HTTPError):
        for chunk in answer.iter_raw():
            seen += len(chunk)
            if seen > MAX_ANSWER_BYTES:
                return


def retry_after_s(headers: httpx.Headers, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for (a number or a date), or None.

    Source: RFC 9110 section 10.2.3.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())
