"""What the small web tier of the demo and the tests counts as a callback."""

from __future__ import annotations

import socket
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from tests.support import wait_until
from worker.callback import sign
from worker.demo.webhook_receiver import Receiver


def test_half_a_request_is_no_callback(receiver: Receiver) -> None:
    """A sender that was killed in mid-request has said nothing, right or wrong."""
    parts = urlsplit(receiver.url)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.sendall(b"POST /avatar-verdict HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    time.sleep(0.2)
    assert receiver.received == []


def test_an_unsigned_callback_is_counted_as_wrong(receiver: Receiver) -> None:
    """It is answered 401 and shows in the accounts."""
    answer = httpx.post(receiver.url, content=b"{}", headers={"webhook-id": "msg_1"})
    assert answer.status_code == 401
    wait_until(lambda: len(receiver.received) == 1, 30, "it is noted")
    assert not receiver.received[0].verified


def test_a_callback_of_another_time_is_refused_and_told_apart(
    receiver: Receiver, secret: SecretStr
) -> None:
    """A sender whose clocks are off signs well; whoever counts does not call that a forgery."""
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    headers = sign("msg_1", "{}", [secret], long_ago)
    forged = {**headers, "webhook-signature": "v1,AAAA"}
    for sent in (headers, forged):
        assert httpx.post(receiver.url, content=b"{}", headers=sent).status_code == 401
    wait_until(lambda: len(receiver.received) == 2, 30, "both are noted")
    assert [(one.verified, one.is_of_now) for one in receiver.received] == [
        (False, False),
        (False, True),
    ]
