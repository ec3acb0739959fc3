"""The wire format of callbacks, checked by somebody else's verifier and by hand."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError

from producer.record.outbox import CallbackEntry
from worker.callback import body, sign, webhook_id

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
KEYS = [bytes(range(32)), bytes(range(32, 64))]
SECRETS = [SecretStr("whsec_" + base64.b64encode(key).decode()) for key in KEYS]


def entry(upload_id: str = "user/17", seq: int = 2, **data: Any) -> CallbackEntry:
    """An outbox entry."""
    return CallbackEntry(
        item=f"{upload_id}#{seq}",
        upload_id=upload_id,
        seq=seq,
        url="https://web.example/hook",
        endpoint="e",
        data={"upload_id": upload_id, "seq": seq, **data},
        at=1_795_000_000.1234,
        attempts=0,
        first_failed_at=None,
    )


@given(st.text(max_size=50), st.integers(1, 2))
def test_every_secret_signs_as_the_standard_says(reason: str, count: int) -> None:
    """The part of each secret equals an HMAC computed here; their verifier accepts each alone."""
    payload = body(entry(reason=reason))
    now = datetime.now(UTC)
    headers = sign("msg_1", payload, SECRETS[:count], now)
    signed = f"msg_1.{int(now.timestamp())}.{payload}".encode()
    expected = [
        "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        for key in KEYS[:count]
    ]
    assert headers["webhook-signature"] == " ".join(expected)
    for secret in SECRETS[:count]:
        data: Any = Webhook(secret.get_secret_value()).verify(payload, headers)
        assert data["data"]["reason"] == reason


def test_another_secret_another_body_and_another_time_are_refused() -> None:
    """What a verifier must not accept, it does not."""
    payload, now = body(entry()), datetime.now(UTC)
    headers = sign(webhook_id(entry()), payload, SECRETS[:1], now)
    other = Webhook(SECRETS[1].get_secret_value())
    mine = Webhook(SECRETS[0].get_secret_value())
    late = sign("msg_1", payload, SECRETS[:1], now - timedelta(minutes=6))
    for verifier, text, sent in (
        (other, payload, headers),
        (mine, payload.replace("17", "18"), headers),
        (mine, payload, {**headers, "webhook-id": "msg_2"}),
        (mine, payload, late),
    ):
        with pytest.raises(WebhookVerificationError):
            verifier.verify(text, sent)


def test_without_a_secret_nothing_is_pretended() -> None:
    """An empty signature is no signature."""
    assert sign("msg_1", "{}", [], NOW)["webhook-signature"] == ""


def test_the_id_is_the_transitions_own() -> None:
    """The same for every attempt, another for every transition, and without the separator."""
    ids = [webhook_id(entry("a", 2)), webhook_id(entry("a", 3)), webhook_id(entry("b", 2))]
    assert len(set(ids)) == 3
    assert ids[0] == webhook_id(entry("a", 2))
    assert all(one.startswith("msg_") and "." not in one for one in ids)


def test_the_body_is_the_public_record_and_the_time_of_the_transition() -> None:
    """Type, time in UTC with milliseconds, and data; no blanks, text of any script."""
    text = body(entry(reason="名"))
    assert json.loads(text) == {
        "type": "avatar.moderated",
        "timestamp": "2026-11-18T11:06:40.123Z",
        "data": {"upload_id": "user/17", "seq": 2, "reason": "名"},
    }
    assert ": " not in text
