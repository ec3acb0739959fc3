"""The Django app on a real Django, with a whole instance that calls it back."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import socketserver
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import httpx
import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook

from producer.networks import parse_networks
from tests.databases import free_port
from tests.integration.web.conftest import Stack, run_stack
from tests.support import wait_until
from worker.demo.pictures import encode, landscape
from worker.ping import Pinger, all_ok

ROOT = Path(__file__).parents[3]
APP = ROOT / "examples" / "django"

SECRET = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


PAGE = (ROOT / "docs" / "integration" / "django.md").read_text(encoding="utf-8")


def line(url: str, key: str) -> str:
    """As `avatarmod keys connect` prints it."""
    scheme, _, place = url.partition("://")
    return f"{scheme}://{key}@{place}?secret={SECRET}"


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        return


class Threaded(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


@pytest.fixture(scope="module")
def django_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The demo site, served on a port of its own; its address."""
    folder = tmp_path_factory.mktemp("django")
    os.environ |= {
        "DEMO_FOLDER": str(folder),
        "DJANGO_SETTINGS_MODULE": "demo_site.settings",
        # A browser of another test keeps an event loop in this thread; nothing here runs in it.
        "DJANGO_ALLOW_ASYNC_UNSAFE": "1",
    }
    sys.path.insert(0, str(APP))
    import django
    from django.core.management import call_command
    from django.core.wsgi import get_wsgi_application

    django.setup()
    call_command("migrate", verbosity=0)
    call_command("makemigrations", "avatars", check=True, verbosity=0)
    port = free_port()
    server = Threaded(("127.0.0.1", port), Quiet)
    server.set_app(get_wsgi_application())
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{port}/avatars/verdict"
    server.shutdown()
    server.server_close()
    thread.join()
    from django.db import connections

    connections.close_all()
    sys.path.remove(str(APP))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, django_site: str) -> Iterator[Stack]:
    """An instance that calls the site back."""
    with run_stack(
        tmp_path_factory.mktemp("service"),
        AVATARMOD_CALLBACK_URL=django_site,
        AVATARMOD_CALLBACK_SECRETS=SECRET,
    ) as service:
        from django.conf import settings

        settings.AVATARMOD_CONNECTION = line(service.url, service.api_key)
        yield service


@pytest.fixture(scope="module")
def owner(django_site: str) -> Any:
    from django.contrib.auth.models import User

    return User.objects.create_user("ann")


def make(owner: Any, seed: int) -> Any:
    """Somebody has chosen a picture; not sent yet."""
    from avatars.models import Avatar
    from django.core.files.base import ContentFile

    picture = ContentFile(encode(landscape(seed), "JPEG"), name="../Me & I.JPG")
    return Avatar.objects.create(owner=owner, picture=picture)


def told(url: str, event: dict[str, Any], secret: str = SECRET) -> httpx.Response:
    """A callback, signed."""
    body, now = json.dumps(event), datetime.now(UTC)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign("msg_1", now, body),
    }
    return httpx.post(url, content=body, headers=headers, timeout=30, trust_env=False)


def test_a_picture_is_shown_once_it_is_approved(service: Stack, owner: Any) -> None:
    """Sent when the row is committed; the callback brings the verdict."""
    from avatars.moderation import enqueue

    avatar = make(owner, 1)
    assert avatar.shown_url == "/static/default-avatar.png"
    assert "Me" not in avatar.picture.name
    enqueue(avatar)

    def is_approved() -> bool:
        avatar.refresh_from_db()
        return bool(avatar.state == "approved")

    wait_until(is_approved, 40, "the callback arrives")
    assert avatar.shown_url == avatar.picture.url
    with service.http() as http:
        decision = {"verdict": "blocked", "by": "ann"}
        http.post(f"/v1/avatars/{avatar.upload_id}/decision", json=decision)

    def is_blocked() -> bool:
        avatar.refresh_from_db()
        return bool(avatar.state == "blocked")

    wait_until(is_blocked, 40, "the block arrives")
    assert avatar.shown_url == "/static/default-avatar.png"
    assert avatar.reason


def test_the_receiver_answers_a_ping_and_refuses_strangers(
    django_site: str, service: Stack
) -> None:
    """`avatarmod callbacks test` finds nothing wrong."""
    allowed = parse_networks(["127.0.0.0/8"])
    findings = Pinger([SecretStr(SECRET)], allowed=allowed, timeout_s=10).ping(django_site)
    assert all_ok(findings), findings


@pytest.mark.parametrize(
    "upload_id",
    ["classify/de4c", "demo/17", "avatar-1", "demo/avatar-x", "demo/avatar-", "demo/avatar-99999",
     "demo/avatar-" + "9" * 40, "demo/avatar-1/2", "demo/avatar-٣"],
)  # fmt: skip
def test_ids_of_others_are_passed_over(
    django_site: str, service: Stack, owner: Any, upload_id: str
) -> None:
    """Neither an error nor a change."""
    from avatars.models import Avatar

    before = list(Avatar.objects.values_list("pk", "state", "seq"))
    data = {"upload_id": upload_id, "state": "blocked", "seq": 2**31}
    answer = told(django_site, {"type": "avatar.moderated", "data": data})
    assert answer.status_code == 200
    assert list(Avatar.objects.values_list("pk", "state", "seq")) == before


def test_what_is_older_or_unknown_changes_nothing(
    django_site: str, service: Stack, owner: Any
) -> None:
    """By the number; types that are not known yet are taken and passed over."""
    avatar = make(owner, 2)
    data = {"upload_id": avatar.upload_id, "state": "approved", "seq": 10}
    for seq, kind, expected in (
        (10, "avatar.moderated", "approved"),
        (9, "avatar.moderated", "approved"),
        (11, "avatar.imagined", "approved"),
        (11, "avatar.moderated", "blocked"),
    ):
        state = "approved" if seq == 10 else "blocked"
        event = {"type": kind, "data": {**data, "seq": seq, "state": state}}
        assert told(django_site, event).status_code == 200
        avatar.refresh_from_db()
        assert avatar.state == expected


def test_the_answer_to_an_upload_counts(service: Stack, owner: Any) -> None:
    """What the service knows already is shown at once; a service that is away is tried again."""
    from avatars.models import Avatar
    from avatars.moderation import reconcile, send
    from django.conf import settings

    avatar = make(owner, 3)
    settings.AVATARMOD_CONNECTION = line("http://127.0.0.1:9", service.api_key)
    assert not send(avatar)
    avatar.refresh_from_db()
    assert avatar.state == "unsent"
    settings.AVATARMOD_CONNECTION = line(service.url, "wrong")
    assert not send(avatar)
    settings.AVATARMOD_CONNECTION = line(service.url, service.api_key)
    reconcile()
    avatar.refresh_from_db()
    assert avatar.state != "unsent", "the command sends what was not"
    with service.http() as http:
        http.get(f"/v1/avatars/{avatar.upload_id}?wait=30")
    # The callback was lost, and the site has forgotten what it knew.
    time.sleep(1)
    Avatar.objects.filter(pk=avatar.pk).update(state="unsent", seq=0)
    assert send(avatar)
    avatar.refresh_from_db()
    assert avatar.state == "approved"


def test_verdicts_that_were_missed_are_asked_for(service: Stack, owner: Any) -> None:
    """From the cursor on; a cursor that is too old begins again."""
    from avatars.models import Avatar, Cursor
    from avatars.moderation import reconcile, send

    avatar = make(owner, 4)
    assert send(avatar)
    with service.http() as http:
        http.get(f"/v1/avatars/{avatar.upload_id}?wait=30")
    time.sleep(1)
    Avatar.objects.filter(pk=avatar.pk).update(state="queued", seq=1)
    Cursor.objects.update(value="")
    assert reconcile() >= 1
    avatar.refresh_from_db()
    assert avatar.state == "approved"
    assert reconcile() == 0
    cursor = Cursor.objects.get()
    Avatar.objects.filter(pk=avatar.pk).update(state="queued", seq=1)
    cursor.value = "0" * 16 + cursor.value[cursor.value.index(".") :]
    cursor.save()
    assert reconcile() >= 1
    avatar.refresh_from_db()
    assert avatar.state == "approved"


def snippets(language: str) -> list[str]:
    """The page's blocks."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", PAGE, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def test_the_page_is_true(
    service: Stack, owner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its settings are those that the app reads, its program sends, its commands exist."""
    from django.conf import settings
    from django.core.files.base import ContentFile
    from django.core.management import get_commands
    from django.urls import include, path

    in_settings, in_views = snippets("python")
    monkeypatch.setenv("AVATARMOD_CONNECTION", line(service.url, service.api_key))
    theirs: dict[str, Any] = {"INSTALLED_APPS": []}
    exec(in_settings, theirs)
    assert theirs["INSTALLED_APPS"] == ["avatars"]
    read = set(re.findall(r"settings\.(AVATARMOD_\w+)", _source_of_the_app()))
    assert {name for name in theirs if name.startswith("AVATARMOD_")} == read
    assert theirs["AVATARMOD_CONNECTION"] == settings.AVATARMOD_CONNECTION
    assert path("", include("avatars.urls")).url_patterns[0].name == "avatar-verdict"
    assert 'path("", include("avatars.urls"))' in PAGE
    views: dict[str, Any] = {}
    exec(in_views, views)
    views["chosen"](owner, ContentFile(encode(landscape(9), "JPEG"), name="9.jpg"))
    assert owner.avatars.first().state != "unsent"
    assert owner.avatars.first().shown_url
    for command in re.findall(r"manage\.py (\w+)", PAGE):
        assert command in get_commands() or command == "migrate"
    for command in re.findall(r"`?(?:sudo )?avatarmod ([a-z]+(?: [a-z]+)?) ", PAGE):
        assert command.split()[0] in ("init", "keys", "callbacks", "up"), command


def _source_of_the_app() -> str:
    return "".join(file.read_text() for file in APP.glob("avatars/**/*.py"))


def test_every_key_is_understood(django_site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the keys have a hyphen somewhere."""
    from avatars.moderation import connection
    from django.conf import settings

    key = "avm_0123456789ab_Az09-_" + 37 * "x"
    monkeypatch.setattr(settings, "AVATARMOD_CONNECTION", line("https://a.example:8042/b", key))
    assert connection() == ("https://a.example:8042/b", key, SECRET)


def test_a_line_that_is_none_is_said(django_site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not an address that nobody answers at."""
    from avatars.moderation import client
    from django.conf import settings
    from django.core.exceptions import ImproperlyConfigured

    monkeypatch.setattr(settings, "AVATARMOD_CONNECTION", "http://127.0.0.1:8042")
    with pytest.raises(ImproperlyConfigured, match="keys connect"):
        client()
