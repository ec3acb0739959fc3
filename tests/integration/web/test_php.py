"""The PHP examples, run by php-cli against the real API and with really signed callbacks."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import SecretStr

from producer.record.outbox import CallbackEntry
from tests.databases import free_port
from tests.integration.web.conftest import Stack
from tests.support import wait_until
from worker.callback import CallbackSender, body, sign, webhook_id
from worker.demo.pictures import encode, landscape

EXAMPLES = Path(__file__).parents[3] / "examples" / "php"
SECRET = SecretStr("whsec_" + base64.b64encode(bytes(range(32))).decode())
OTHER = SecretStr("whsec_" + base64.b64encode(bytes(range(1, 33))).decode())

ENTRY = CallbackEntry(
    item="user/17@x#3",
    upload_id="user/17@x",
    seq=3,
    url="http://127.0.0.1/x",
    endpoint="e",
    data={"upload_id": "user/17@x", "state": "blocked", "seq": 3, "reason": "头像"},
    at=1_700_000_000.0,
    attempts=0,
    first_failed_at=None,
)


def php(script: str, *arguments: str) -> Any:
    """Run a script that prints JSON."""
    binary = shutil.which("php")
    if binary is None:
        message = "php is not installed; on Debian: apt-get install php-cli"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    command = [binary, "-d", "error_reporting=-1", "-d", "display_errors=stderr", "-r", script]
    result = subprocess.run(
        [*command, "--", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


def verify(payload: str, headers: dict[str, str], secrets: list[str], now: int) -> Any:
    """What the PHP verifier says."""
    script = f"require '{EXAMPLES}/avatarmod-callback.php';" + (
        "echo json_encode(avatarmod_verify($argv[1], json_decode($argv[2], true), "
        "json_decode($argv[3], true), (int) $argv[4]));"
    )
    return php(script, payload, json.dumps(headers), json.dumps(secrets), str(now))


def test_php_accepts_our_signature_and_nothing_else() -> None:
    """A real callback is accepted, also during a rotation; any change to it is refused."""
    now = datetime.now(UTC)
    at = int(now.timestamp())
    payload = body(ENTRY)
    headers = sign(webhook_id(ENTRY), payload, [OTHER, SECRET], now)
    ours = [SECRET.get_secret_value()]
    accepted = verify(payload, headers, ours, at)
    assert accepted["data"] == ENTRY.data
    assert verify(payload, headers, [SECRET.get_secret_value(), "whsec_nonsense"], at)
    for wrong_payload, wrong_headers, secrets, moment in (
        (payload.replace("blocked", "approved"), headers, ours, at),
        (payload, {**headers, "webhook-id": "msg_other"}, ours, at),
        (payload, {**headers, "webhook-timestamp": str(at - 1)}, ours, at),
        (payload, {**headers, "webhook-signature": "v1,"}, ours, at),
        (payload, {}, ours, at),
        (payload, headers, ["whsec_" + base64.b64encode(b"x" * 32).decode()], at),
        (payload, headers, ["whsec_"], at),
        (payload, headers, ours, at + 301),
        (payload, headers, ours, at - 301),
    ):
        assert verify(wrong_payload, wrong_headers, secrets, moment) is None


def test_php_answers_a_ping_and_refuses_strangers(tmp_path: Path) -> None:
    """The lines of its head, on a real server: `avatarmod callbacks test` finds nothing wrong."""
    from producer.networks import parse_networks
    from worker.ping import Pinger, all_ok

    text = (EXAMPLES / "avatarmod-callback.php").read_text("utf-8")
    head = text[text.index("    require '") : text.index(" *\n * In WordPress")]
    lines = [line.removeprefix(" *").strip() for line in head.splitlines()]
    (tmp_path / "verdict.php").write_text(
        f"<?php $secret = '{SECRET.get_secret_value()}';\n" + "\n".join(lines)
    )
    shutil.copy(EXAMPLES / "avatarmod-callback.php", tmp_path)
    if shutil.which("php") is None:
        pytest.skip("php is not installed; on Debian: apt-get install php-cli")
    port = free_port()
    server = subprocess.Popen(
        ["php", "-S", f"127.0.0.1:{port}", "-t", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        pinger = Pinger([SECRET], allowed=parse_networks(["127.0.0.0/8"]), timeout_s=10)
        url = f"http://127.0.0.1:{port}/verdict.php"
        wait_until(lambda: pinger.ping(url)[0].ok, 30, "php answers")
        assert all_ok(pinger.ping(url)), pinger.ping(url)
    finally:
        server.kill()
        server.wait()


def test_php_enqueues_a_picture(stack: Stack, tmp_path: Path) -> None:
    """A file is sent, accepted, known the second time, and decided."""
    file = tmp_path / "avatar.jpg"
    file.write_bytes(encode(landscape(900), "JPEG"))
    script = f"require '{EXAMPLES}/avatarmod-enqueue.php';" + (
        "echo json_encode(avatarmod_enqueue($argv[1], $argv[2], $argv[3], $argv[4] ?: null, "
        "json_decode($argv[5], true)));"
    )
    options = json.dumps({"region": "overseas"})
    for expected in (202, 200):
        answer = php(script, stack.url, stack.api_key, "php/17", str(file), options)
        assert (answer["accepted"], answer["status"]) == (True, expected)
    with stack.http() as http:
        data = http.get("/v1/avatars/php/17?wait=30").json()["data"]
    assert (data["state"], data["region"]) == ("approved", "overseas")
    refused = php(script, stack.url, stack.api_key, "a b", "", "[]")
    assert (refused["accepted"], refused["status"]) == (False, 422)
    assert "upload_id" in refused["error"]
    wrong_key = php(script, stack.url, "wrong", "php/18", "", "[]")
    assert (wrong_key["accepted"], wrong_key["status"]) == (False, 401)
    away = php(script, "http://127.0.0.1:9", stack.api_key, "php/18", "", "[]")
    assert (away["accepted"], away["status"]) == (False, 0)


class Recording(BaseHTTPRequestHandler):
    """Keeps what was posted."""

    posts: ClassVar[list[tuple[dict[str, str], bytes]]] = []

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.posts.append((headers, self.rfile.read(length)))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


def test_the_hub_signature_is_what_php_computes() -> None:
    """With the option on, X-Hub-Signature-256 is hash_hmac of the raw body; off, it is not sent."""
    from producer.networks import parse_networks

    Recording.posts.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Recording)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    entry = CallbackEntry(
        **{**ENTRY.__dict__, "url": f"http://127.0.0.1:{server.server_address[1]}/hook"}
    )
    allowed = parse_networks(["127.0.0.0/8"])
    for is_on in (True, False):
        sender = CallbackSender([SECRET], allowed=allowed, timeout_s=10, hub_signature=is_on)
        assert sender.deliver(entry, now_s=time.time()).status == 204
        sender.close()
    server.shutdown()
    server.server_close()
    (with_it, payload), (without, _) = Recording.posts
    script = "echo json_encode('sha256=' . hash_hmac('sha256', $argv[1], $argv[2]));"
    expected = php(script, payload.decode(), SECRET.get_secret_value())
    assert with_it["x-hub-signature-256"] == expected
    assert "x-hub-signature-256" not in without
