"""Signed webhooks to the web tier, in the wire format of Standard Webhooks 1.0.

`CallbackSender` takes one outbox entry; its output is silence (2xx) or an error of the tree.
`webhook-id` is the same for every attempt of one transition, so a receiver can drop what it has
seen. `CallbackStep` takes one lease and writes what came of it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import secrets
import statistics
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import httpx
import redis
import structlog
from pydantic import SecretStr
from standardwebhooks import Webhook

from producer.contract import public_url
from producer.errors import CallbackFailed, CallbackRefused, WorkerKilled
from producer.http_guard import BlockedAddress, guarded_client, shorten_deadline
from producer.metrics import CALLBACK, Recorder
from producer.networks import IPNetwork
from producer.record.endpoints import Endpoint, Endpoints
from producer.record.outbox import CallbackEntry, Ended, document
from producer.record.store import Lease, Store, write_patiently
from producer.texts import of_error, say
from producer.tracing import span
from worker import retry
from worker.consumer import SLOW_S, Follow, Room
from worker.outcomes import Outcomes

log = structlog.get_logger()

#: Bytes of a receiver's answer that are read at most, and the seconds that this may take after its
#: status line; its content is ignored.
MAX_ANSWER_BYTES, MAX_ANSWER_S = 4096, 0.25

#: Callbacks to slow endpoints on their way in one process, for each thread for the others.
ASIDE = 3

#: Below this are the seqs of records that were counted from 1.
SMALL_SEQ = 1_000_000


class Delivery(NamedTuple):
    """A 2xx answer: its status, and whether a web page came with it."""

    status: int
    is_page: bool


def webhook_id(entry: CallbackEntry) -> str:
    """Stable id of one transition's callback; without dots, which separate the signed parts.

    The transition's time is in it, for a fail-over may lose one and make another of the same seq;
    not for small seqs, which records of the first version count: theirs may have been sent before.
    """
    one = entry.item if entry.seq < SMALL_SEQ else f"{entry.item}@{entry.at:.6f}"
    return "msg_" + hashlib.sha256(one.encode()).hexdigest()[:32]


def body(entry: CallbackEntry) -> str:
    """The JSON that is sent and signed: `{type, timestamp, data}`."""
    return json.dumps(document(entry.data, entry.at), separators=(",", ":"))


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


def headers_of(
    entry_id: str,
    payload: str,
    secrets: Sequence[SecretStr],
    now: datetime,
    *,
    with_hub_signature: bool,
) -> dict[str, str]:
    """All headers of a callback; `X-Hub-Signature-256` is made with the first secret."""
    headers = sign(entry_id, payload, secrets, now)
    headers |= {"content-type": "application/json", "accept-encoding": "identity"}
    if with_hub_signature and secrets:
        headers["x-hub-signature-256"] = hub_signature(payload, secrets[0])
    return headers


def hub_signature(payload: str, secret: SecretStr) -> str:
    """`X-Hub-Signature-256` over the raw body; the key is the secret's whole text, as written.

    Source: WebSub section 7 (Authenticated Content Distribution), as Mastodon and GitHub send it.
    """
    key = secret.get_secret_value().encode()
    return "sha256=" + hmac.new(key, payload.encode(), hashlib.sha256).hexdigest()


def new_secret() -> SecretStr:
    """One to sign callbacks with."""
    return SecretStr("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())


def is_page(headers: httpx.Headers, beginning: bytes) -> bool:
    """Whether an answer is HTML for a browser; PHP calls its empty answers HTML, too."""
    tags = (b"<!doctype html", b"<html", b"<head", b"<body")
    is_html = "html" in headers.get("content-type", "html").lower()
    return is_html and any(tag in beginning.lower() for tag in tags)


class CallbackSender:
    """Delivers outbox entries; one keep-alive client per endpoint. Safe to share between threads.

    Args:
        secrets: each signs every callback; none: callbacks go out unsigned.
        allowed: private networks that may be reached all the same.
        timeout_s: from resolving the name to the last byte.
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

    def deliver(self, entry: CallbackEntry, *, now_s: float) -> Delivery:
        """Post one callback; returns what a 2xx answer was like.

        Args:
            entry: what is sent.
            now_s: seconds since the epoch, for the signature.

        Raises:
            CallbackFailed: not reachable, too slow, or any answer but 2xx and 410; try again.
            CallbackRefused: 410 Gone, or a private address; trying again cannot help.
        """
        now = datetime.fromtimestamp(now_s, UTC)
        payload = body(entry)
        headers = headers_of(
            webhook_id(entry), payload, self._secrets, now, with_hub_signature=self._hub_signature
        )
        try:
            with self._client(entry.endpoint).stream(
                "POST", entry.url, content=payload, headers=headers
            ) as answer:
                # So that the connection can be used again; the status said all.
                shorten_deadline(MAX_ANSWER_S)
                beginning = beginning_of(answer, MAX_ANSWER_BYTES)
        except BlockedAddress as error:
            raise CallbackRefused(of_error(error)) from error
        except (httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError) as error:
            raise CallbackRefused(
                say("callback address cannot be used: {error}", error=of_error(error))
            ) from error
        except httpx.HTTPError as error:
            raise CallbackFailed(say("no answer: {error}", error=type(error).__name__)) from error
        if answer.status_code == 410:
            raise CallbackRefused(say("the endpoint answers 410 Gone"), gone=True)
        if not answer.is_success:
            raise CallbackFailed(
                say("the endpoint answers {status}", status=answer.status_code),
                status=answer.status_code,
                retry_after_s=retry.retry_after_s(answer.headers.get("retry-after"), now_s=now_s),
            )
        return Delivery(answer.status_code, is_page(answer.headers, beginning))

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


def beginning_of(answer: httpx.Response, enough_bytes: int) -> bytes:
    """What a receiver said first, up to about so much; less where it breaks off."""
    seen = b""
    with contextlib.suppress(httpx.HTTPError):
        for chunk in answer.iter_raw():
            seen += chunk
            if len(seen) > enough_bytes:
                break
    return seen


def callback_rooms(endpoints: Sequence[Endpoint], concurrency: int) -> dict[str, Room]:
    """Room for the lines of some endpoints: a failing or unknown one gets one probe at a time.

    A failing one and one whose last success was slow keep to the places for such.
    """
    return {
        endpoint.line: Room(
            concurrency if endpoint.is_proven else 1,
            aside=endpoint.failing_since is not None or (endpoint.took_s or 0.0) > SLOW_S,
        )
        for endpoint in endpoints
    }


class CallbackStep:
    """Delivers one outbox entry and writes what came of it."""

    def __init__(
        self,
        *,
        store: Store,
        outcomes: Outcomes,
        sender: CallbackSender,
        endpoints: Endpoints,
        schedule_s: Sequence[float],
        stop: threading.Event,
        recorder: Recorder,
    ) -> None:
        self._recorder = recorder
        self._store = store
        self._sender = sender
        self._outcomes = outcomes
        self._endpoints = endpoints
        self._schedule_s = schedule_s
        self._stop = stop

    def handle(
        self, line: str, lease: Lease, token: str, follow: Follow | None = None
    ) -> Lease | None:
        """One lease: delivered, due again later, or a dead letter.

        Returns:
            The next of its line, where `follow` says how to take it and all went well.
        """
        try:
            entry, clock = self._store.outbox.get_and_clock(lease.item)
            if entry is None:
                self._store.drop(line, lease.item, token=token)
            elif lease.crashes >= retry.MAX_CRASHES:
                error = WorkerKilled(
                    say(
                        "the worker process died {crashes} times with this callback in its hands",
                        crashes=lease.crashes,
                    )
                )
                self._after_error(entry, token, error, entry.attempts)
            else:
                return self._deliver(entry, token, clock, follow)
        except redis.RedisError as error:
            log.warning("callback_interrupted", item=lease.item, error=type(error).__name__)
        except Exception:
            log.exception("callback_crashed", item=lease.item)
        return None

    def _deliver(
        self, entry: CallbackEntry, token: str, clock: tuple[float, float], follow: Follow | None
    ) -> Lease | None:
        attempt = entry.attempts + 1
        # Receivers refuse a signature that is minutes off, and one of these clocks may be.
        now_s = statistics.median((time.time(), *clock))
        started_s = time.monotonic()
        try:
            delivery = self._send(entry, now_s, attempt)
        except Exception as error:  # noqa: BLE001 - the edge of one callback; retry.decide sorts it
            self._recorder.observe(CALLBACK, time.monotonic() - started_s, "failed")
            self._after_error(entry, token, error, attempt)
            return None
        took_s = time.monotonic() - started_s
        self._recorder.observe(CALLBACK, took_s, "delivered")
        if delivery.is_page:
            log.warning("callback_answered_by_page", url=public_url(entry.url))
        ended, following = self._end(
            entry,
            token,
            follow if took_s <= SLOW_S else None,
            detail={"status": delivery.status, "attempts": attempt},
            took_s=took_s,
            is_page=delivery.is_page,
        )
        if ended == Ended.RECOVERED:
            hastened = self._endpoints.hasten(entry.endpoint)
            log.info("endpoint_recovered", url=public_url(entry.url), due=hastened)
        log.info("callback_delivered", upload_id=entry.upload_id, seq=entry.seq, attempts=attempt)
        return following

    def _end(
        self, entry: CallbackEntry, token: str, follow: Follow | None, **ending: Any
    ) -> tuple[Ended, Lease | None]:
        """End one that was delivered; with the next of its line, where one may follow."""
        outbox = self._store.outbox

        def write() -> tuple[Ended, Lease | None]:
            if follow is None or self._stop.is_set():
                return outbox.end(entry, token=token, **ending), None
            return outbox.end_and_claim(entry, token=token, **follow._asdict(), **ending)

        return write_patiently(write, self._stop)

    def _send(self, entry: CallbackEntry, now_s: float, attempt: int) -> Delivery:
        with span("callback", upload_id=entry.upload_id, seq=entry.seq, attempt=attempt) as trace:
            try:
                delivery = self._sender.deliver(entry, now_s=now_s)
            except CallbackFailed as error:
                if error.status is not None:
                    trace.note(status=error.status)
                raise
            trace.note(status=delivery.status)
            return delivery

    def _after_error(
        self, entry: CallbackEntry, token: str, error: Exception, attempts: int
    ) -> None:
        gone = isinstance(error, CallbackRefused) and error.gone
        blameless = isinstance(error, WorkerKilled)
        if not blameless and self._endpoints.note_failure(entry, of_error(error, 200), gone=gone):
            log.error("endpoint_disabled", url=public_url(entry.url), message=str(error))
        self._outcomes.after_callback_error(
            entry,
            error,
            attempts=attempts,
            schedule_s=self._schedule_s,
            token=token,
            stop=self._stop,
        )
