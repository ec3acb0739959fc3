"""`avatarmod callbacks test`: what a receiver's answer to a ping means."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError

from producer.cli import cli
from producer.contract import AvatarState
from producer.record.endpoints import Endpoints
from producer.record.outbox import CallbackEntry
from producer.record.store import Store
from tests.integration.servers import Request, serving
from tests.support import TOKEN, callback_line_of, change, claim, submit
from worker.demo.webhook_receiver import Receiver
from worker.duties.alarms import evaluate
from worker.duties.facts import gather
from worker.settings import WorkerSettings

PAGE = b"<!DOCTYPE html><html><body>Welcome to my blog</body></html>"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, secret: SecretStr) -> Callable[..., Result]:
    """One call of the command, by default with a secret and this machine allowed."""

    def call(url: str, *words: str, networks: str = "127.0.0.0/8", secrets: str = "") -> Result:
        monkeypatch.setenv("AVATARMOD_CALLBACK_SECRETS", secrets or secret.get_secret_value())
        monkeypatch.setenv("AVATARMOD_PRIVATE_NETWORKS", networks)
        return CliRunner().invoke(cli, ["callbacks", "test", url, *words])

    return call


def read_ping(request: Request, secret: SecretStr) -> dict[str, Any] | None:
    """What a receiver of ours makes of a request; None where it is not signed by us."""
    body = request.seen[-1][2]
    try:
        return dict(Webhook(secret.get_secret_value()).verify(body, dict(request.headers)))
    except WebhookVerificationError:
        return None


def test_a_receiver_that_declares_itself_is_well(
    run: Callable[..., Result], receiver: Receiver
) -> None:
    """204 with the header; a false signature was refused; nothing counts as a callback."""
    result = run(receiver.url)
    assert result.exit_code == 0, result.output
    assert "read the ping and said so (204)" in result.output
    assert "refused a false signature (401)" in result.output
    assert [one for one in receiver.received if one.verified] == []


def test_a_receiver_that_returns_the_nonce_is_well(
    run: Callable[..., Result], secret: SecretStr
) -> None:
    """With any 2xx; the ping has its own type, so that nobody takes it for a verdict."""
    types = []

    def answer(request: Request) -> None:
        event = read_ping(request, secret)
        if event is None:
            request.answer(403)
            return
        types.append(event["type"])
        request.answer(200, json.dumps({"nonce": event["data"]["nonce"]}).encode())

    with serving(hook=answer) as server:
        result = run(f"{server.url}/hook", "--json")
    said = json.loads(result.output)
    assert (result.exit_code, said["ok"], types) == (0, True, ["avatar.ping"])


def echo(request: Request) -> None:
    """Gives back whatever it gets."""
    request.answer(200, request.seen[-1][2])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (echo, "takes callbacks with a false signature"),
        (lambda r: r.answer(200, PAGE, content_type="text/html"), "with a web page"),
        (lambda r: r.answer(200, PAGE), "with a web page"),
        (lambda r: r.answer(200, b"", content_type="text/html"), "not as a receiver"),
        (lambda r: r.answer(204), "not as a receiver"),
        (lambda r: r.answer(200, b'{"nonce": "another"}'), "not as a receiver"),
        (lambda r: r.answer(301, location="https://example.org/x"), "https://example.org/x"),
        (lambda r: r.answer(401), "the secret there differs"),
        (lambda r: r.answer(404), "rest_route"),
        (lambda r: r.answer(500), "read the receiver's log"),
    ],
    ids=["echo", "page", "page without type", "empty", "204", "nonce", "301", "401", "404", "500"],
)
def test_every_other_answer_is_said_with_what_to_do(
    run: Callable[..., Result], answer: Callable[[Request], object], message: str
) -> None:
    """Exit code 1: verdicts might be lost, or forged."""
    with serving(hook=answer) as server:
        result = run(f"{server.url}/hook")
    assert result.exit_code == 1
    assert message in result.output
    assert "to do:" in result.output


def test_a_private_address_is_refused_with_the_setting(
    run: Callable[..., Result], receiver: Receiver
) -> None:
    """As a callback would be; the network to name is in the message."""
    result = run(receiver.url, networks="10.9.0.0/16")
    assert result.exit_code == 1
    assert "AVATARMOD_PRIVATE_NETWORKS lists the network, such as 127.0.0.1/32" in result.output


def test_nobody_there_is_said(run: Callable[..., Result]) -> None:
    """Neither a traceback nor a success."""
    result = run("http://127.0.0.1:9/hook")
    assert result.exit_code == 1
    assert "no answer" in result.output


def test_an_address_is_needed(run: Callable[..., Result]) -> None:
    """Where neither the command nor the settings name one."""
    result = CliRunner().invoke(cli, ["callbacks", "test"])
    assert result.exit_code != 0
    assert "AVATARMOD_CALLBACK_URL" in str(result.exception)


def deliver(store: Store, *, is_page: bool) -> CallbackEntry:
    """One callback that a receiver took."""
    upload_id = f"u-{is_page}-{store.now()}"
    submit(store, upload_id)
    store.advance([change(store, upload_id, AvatarState.APPROVED)])
    [lease] = claim(store, callback_line_of())
    entry = store.outbox.get(lease.item)
    assert entry is not None
    store.outbox.end(entry, token=TOKEN, detail={}, is_page=is_page)
    return entry


def test_web_pages_as_answers_raise_an_alarm_until_one_is_none(store: Store) -> None:
    """A 2xx with a page counts as delivered and is suspicious all the same."""
    settings = WorkerSettings()
    for is_page in (True, False):
        deliver(store, is_page=is_page)
        codes = [alarm.code for alarm in evaluate(gather(store, settings), settings)]
        assert any(code.startswith("callback_page_") for code in codes) is is_page
        [endpoint] = Endpoints(store, disable_after_s=60).all()
        assert endpoint.is_page is is_page
