"""What the README shows is true: its snippets run, its links lead somewhere, lists are whole."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from producer.cli import COMMANDS
from producer.contract import AvatarState
from scripts.make_env_example import render

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
BODY = json.dumps({"type": "avatar.moderated", "data": {"upload_id": "a", "state": "approved"}})


def snippet(language: str) -> str:
    found = re.search(rf"<!-- test: {language} -->\n```{language}\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


def headers(secret: str = SECRET, age_s: float = 0) -> dict[str, str]:
    now = datetime.fromtimestamp(datetime.now(UTC).timestamp() - age_s, UTC)
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": "v1,AAAA " + Webhook(secret).sign("msg_1", now, BODY),
    }


OTHER = "whsec_" + base64.b64encode(b"x" * 32).decode()


def test_the_python_snippet_verifies_and_refuses() -> None:
    """A right signature gives the verdict; a wrong secret or an old one raises."""
    space: dict[str, object] = {}
    exec(snippet("python"), space)
    verdict = space["verdict"]
    assert callable(verdict)
    assert verdict(BODY.encode(), headers(), SECRET)["state"] == "approved"
    for wrong in (headers(OTHER), headers(age_s=301)):
        with pytest.raises(WebhookVerificationError):
            verdict(BODY.encode(), wrong, SECRET)


@pytest.mark.process
@pytest.mark.skipif(shutil.which("php") is None, reason="php-cli is not installed")
@pytest.mark.parametrize(
    ("make_headers", "body", "expected"),
    [
        (headers, BODY, "approved"),
        (lambda: headers(OTHER), BODY, None),
        (lambda: headers(age_s=301), BODY, None),
        (headers, BODY + " ", None),
        (dict, BODY, None),
    ],
    ids=["right", "wrong secret", "old", "altered", "no headers"],
)
def test_the_php_snippet_verifies_and_refuses(
    make_headers: Callable[[], dict[str, str]], body: str, expected: str | None
) -> None:
    """The same answers from PHP."""
    program = (
        snippet("php")
        + "\n[$body, $headers, $secret] = json_decode(stream_get_contents(STDIN), true);"
        + "\necho json_encode(avatarmod_verdict($body, $headers, $secret));"
    )
    answer = subprocess.run(
        ["php", "-d", "display_errors=stderr", "-r", program.removeprefix("<?php\n")],
        input=json.dumps([body, make_headers(), SECRET]),
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stderr == ""
    verdict = json.loads(answer.stdout)
    assert (verdict["state"] if verdict else None) == expected


def test_every_relative_link_leads_somewhere() -> None:
    """No link of the README is dead."""
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_every_state_is_explained() -> None:
    """The table of states has every state."""
    for state in AvatarState:
        assert f"| `{state}` |" in README


def test_every_command_named_exists() -> None:
    """`avatarmod NAME` in the README is a command."""
    for name in re.findall(r"avatarmod ([a-z]+)", README):
        assert name in COMMANDS, name


def test_the_example_environment_is_the_settings() -> None:
    """`.env.example` is what scripts/make_env_example.py writes today."""
    assert (ROOT / ".env.example").read_text(encoding="utf-8") == render()


@pytest.mark.process
def test_the_compose_file_is_valid() -> None:
    """docker-compose.yml follows the compose specification's schema."""
    subprocess.run(
        [
            str(Path(shutil.which("check-jsonschema") or ROOT / ".venv/bin/check-jsonschema")),
            "--builtin-schema",
            "vendor.compose-spec",
            str(ROOT / "docker-compose.yml"),
        ],
        check=True,
        capture_output=True,
    )
