"""Snippets of the documentation are at least programs, and its links lead somewhere."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from producer.contract import check_upload_id

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("docs/**/*.md"), ROOT / "README.zh-CN.md", ROOT / "SECURITY.md"])


def snippets(language: str) -> list[tuple[str, str]]:
    """(page, text) of every fenced block in a language."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [(p.name, text) for p in PAGES for text in pattern.findall(p.read_text("utf-8"))]


@pytest.mark.parametrize(("page", "text"), snippets("python"))
def test_python_snippets_are_python(page: str, text: str) -> None:
    """They compile."""
    compile(text, page, "exec")


@pytest.mark.process
@pytest.mark.parametrize(("page", "text"), snippets("php"))
def test_php_snippets_are_php(page: str, text: str, tmp_path: Path) -> None:
    """They pass php -l."""
    binary = shutil.which("php")
    if binary is None:
        message = "php is not installed; on Debian: apt-get install php-cli"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    file = tmp_path / "snippet.php"
    file.write_text(text, encoding="utf-8")
    result = subprocess.run([binary, "-l", str(file)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{page}: {result.stdout}{result.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_files(page: Path) -> None:
    """No link of a page is dead."""
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_commands_named_in_the_operations_page_exist() -> None:
    """An operator at night types what stands there."""
    from producer.cli import COMMANDS

    text = "".join(page.read_text("utf-8") for page in PAGES)
    named = set(re.findall(r"\bavatarmod ([a-z]+)\b", text))
    assert named & set(COMMANDS)
    for name in re.findall(r"`avatarmod ([a-z]+)", text):
        assert name in COMMANDS, name


def function(name: str) -> Callable[..., Any]:
    """A function of the integration page, ready to call."""
    text, *others = [text for _, text in snippets("python") if f"def {name}(" in text]
    assert all(one == text for one in others), "the pages of all languages show the same"
    names: dict[str, Any] = {}
    exec(compile(text, name, "exec"), names)
    found: Callable[..., Any] = names[name]
    return found


def signed(body: bytes) -> str:
    """As Discourse and Mastodon sign."""
    return "sha256=" + hmac.new(b"secret", body, hashlib.sha256).hexdigest()


def test_the_discourse_snippet_takes_what_discourse_signed() -> None:
    """A new avatar becomes an upload; letter tiles and forged calls do not."""
    upload = function("discourse_upload")
    template = "/user_avatar/forum.example/ann/{size}/7_2.png"
    body = json.dumps({"user": {"username": "ann", "avatar_template": template}}).encode()
    event = {"x-discourse-event": "user_updated", "x-discourse-event-signature": signed(body)}
    found = upload(body, event, "secret", "https://forum.example")
    assert found["image"] == "https://forum.example/user_avatar/forum.example/ann/288/7_2.png"
    assert check_upload_id(found["upload_id"]).startswith("discourse/ann/")
    tile = body.replace(b"/user_avatar/", b"/letter_avatar/")
    assert (
        upload(tile, {**event, "x-discourse-event-signature": signed(tile)}, "secret", "") is None
    )
    with pytest.raises(PermissionError):
        upload(tile, event, "secret", "")


def test_the_mastodon_snippet_takes_what_mastodon_signed() -> None:
    """A new avatar becomes an upload; a missing one and forged calls do not."""
    upload = function("mastodon_upload")
    avatar = "https://files.example/accounts/avatars/1/original/a.png"
    account = {"id": "42", "account": {"avatar": avatar}}
    body = json.dumps({"event": "account.updated", "object": account}).encode()
    found = upload(body, {"x-hub-signature": signed(body)}, "secret")
    assert found["image"] == avatar
    assert check_upload_id(found["upload_id"]).startswith("mastodon/42/")
    none = body.replace(b"original/a.png", b"original/missing.png")
    assert upload(none, {"x-hub-signature": signed(none)}, "secret") is None
    with pytest.raises(PermissionError):
        upload(body, {"x-hub-signature": "sha256="}, "secret")
