"""The console: nobody in without a session, each role within its limits, nothing trusted."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import html
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx import Response
from starlette.routing import Route

from producer.contract import Avatar, AvatarState, Stage
from producer.findings import SafeCopy
from producer.record.dead_letters import DeadLetter
from producer.record.decisions import Decisions
from producer.record.store import Store, Transition
from producer.settings import Settings
from producer.web import users as users_module
from producer.web.console import actions, grid, images, pages, thresholds, uploads
from producer.web.console import sign_in as sign_in_pages
from producer.web.console.context import PREFIX, ROLE
from producer.web.console.dependencies import CutOffs
from producer.web.users import Role, Users
from tests.integration.web.conftest import Serve, avatar_of, decide, store_of
from worker.ledger.writer import Ledger
from worker.moderation.policy import load_policy
from worker.tools.report import make_report

PASSWORD = "correct horse battery"
XSS = '<script>alert(1)</script>"onmouseover="x'

#: Open on purpose: the sign-in itself, looks, and files without secrets.
OPEN = {
    ("GET", "/console/sign-in"),
    ("POST", "/console/sign-in"),
    ("GET", "/console/choose"),
    ("GET", "/console/static/{name}"),
}


@pytest.fixture
def console(serve: Serve) -> TestClient:
    """The console; redirects are not followed."""
    client = serve(callback_url="https://web.example/verdict")
    client.follow_redirects = False
    users = Users(store_of(client))
    for role in Role:
        users.save(role, role, PASSWORD)
    return client


def sign_in(client: TestClient, name: str, password: str = PASSWORD) -> str:
    """Sign in with a clean browser; returns the CSRF token of the session."""
    client.cookies.clear()
    answer = post_sign_in(client, name, password)
    assert answer.status_code == 303
    page = client.get("/console/activity")
    return field(page.text, "csrf")


def post_sign_in(client: TestClient, name: str, password: str, place: str = "") -> Response:
    form_token = field(client.get("/console/sign-in").text, "form_token")
    data = {"form_token": form_token, "name": name, "password": password, "next": place}
    return client.post("/console/sign-in", data=data)  # type: ignore[return-value]


def field(page: str, name: str) -> str:
    """The value of a hidden field."""
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found is not None
    return html.unescape(found[1])


def routes(client: TestClient) -> list[tuple[str, str, Role | None]]:
    """Every route of the console: method, path, the role it needs."""
    modules = (actions, grid, images, pages, sign_in_pages, thresholds, uploads)
    sources = [*client.app.routes, *(route for m in modules for route in m.router.routes)]  # type: ignore[attr-defined]
    return sorted(
        {
            (method, route.path, getattr(route.endpoint, ROLE, None))
            for route in sources
            if isinstance(route, Route) and route.path.startswith(PREFIX)
            for method in (route.methods or set()) - {"HEAD"}
        },
        key=str,
    )


def url_of(path: str) -> str:
    return re.sub(r"{[^}]*}", "a", path)


def hold(store: Store, client: TestClient, upload_id: str, **fields: str) -> None:
    """An upload that waits for a person."""
    client.app.state.services.producer.enqueue(upload_id)  # type: ignore[attr-defined]
    values = {"reason": "no_provider", "sha256": "ab" * 32, **fields}
    decide(store, upload_id, AvatarState.HELD, 0.4, **values)


def bury(
    store: Store, client: TestClient, upload_id: str, message: str = "the disk is full"
) -> None:
    """A dead letter of the moderate stage."""
    client.app.state.services.producer.enqueue(upload_id)  # type: ignore[attr-defined]
    avatar = avatar_of(store, upload_id)
    letter = DeadLetter(
        item=upload_id,
        stage=Stage.MODERATE,
        error="StorageUnavailable",
        message=message,
        attempts=5,
        first_failed_at=store.now(),
        last_failed_at=store.now(),
    )
    store.advance(
        [
            Transition(
                avatar=avatar,
                to=AvatarState.DEAD,
                fields={"reason": "attempts_exhausted"},
                leaves=Stage.MODERATE,
                bury=letter.to_dict(),
            )
        ]
    )


# -- who may come in ---------------------------------------------------------------------------


def test_every_route_refuses_without_a_session(console: TestClient) -> None:
    """Pages send to the sign-in, actions answer 401; only the sign-in and static files are open."""
    found = routes(console)
    assert {(m, p) for m, p, role in found if role is None} == OPEN
    assert len(found) > 15
    for method, path, role in found:
        if role is None:
            continue
        answer = console.request(method, url_of(path))
        if method == "GET":
            assert answer.status_code == 303, path
            assert answer.headers["location"].startswith("/console/sign-in"), path
        else:
            assert answer.status_code == 401, path


def test_each_role_has_its_limits(console: TestClient) -> None:
    """A route answers 403 to every role below its own, and never to its own and those above."""
    for role in Role:
        csrf = sign_in(console, role)
        for method, path, needed in routes(console):
            if needed is None or path.endswith("/sign-out"):
                continue
            data = {"csrf": csrf} if method == "POST" else None
            answer = console.request(method, url_of(path), data=data)
            assert (answer.status_code == 403) == (not role.includes(needed)), (role, path)


def test_actions_need_the_token_of_their_session(console: TestClient) -> None:
    """Without, with a wrong, or with another session's token nothing happens."""
    store = store_of(console)
    hold(store, console, "a")
    others = sign_in(console, "operator")
    csrf = sign_in(console, "moderator")
    data = {"upload_id": "a", "verdict": "blocked"}
    for wrong in ({}, {"csrf": ""}, {"csrf": "x"}, {"csrf": others}):
        assert console.post("/console/decide", data={**data, **wrong}).status_code == 403
    assert avatar_of(store, "a").state == "held"
    assert console.post("/console/decide", data={**data, "csrf": csrf}).status_code == 303
    assert avatar_of(store, "a").state == "blocked"


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}],
)
def test_forms_of_other_sites_are_refused(console: TestClient, headers: dict[str, str]) -> None:
    """A form sent from another site is refused although its token is right; also the sign-in."""
    csrf = sign_in(console, "operator")
    data = {"csrf": csrf, "upload_id": "a", "verdict": "blocked"}
    assert console.post("/console/decide", data=data, headers=headers).status_code == 403
    console.cookies.clear()
    form_token = field(console.get("/console/sign-in").text, "form_token")
    data = {"form_token": form_token, "name": "viewer", "password": PASSWORD}
    assert console.post("/console/sign-in", data=data, headers=headers).status_code == 403


def test_a_session_cannot_be_fixed(console: TestClient) -> None:
    """A session cookie planted before the sign-in is worth nothing afterwards."""
    planted = "x" * 43
    console.cookies.set("avatarmod_session", planted)
    console.cookies.set("avatarmod_sign_in", "token-of-the-attacker")
    data = {"form_token": "token-of-the-attacker", "name": "viewer", "password": PASSWORD}
    assert console.post("/console/sign-in", data=data).status_code == 303
    token = [c.value for c in console.cookies.jar if c.name == "avatarmod_session"]
    assert any(value != planted for value in token)
    console.cookies.clear()
    console.cookies.set("avatarmod_session", planted)
    assert console.get("/console").status_code == 303


def test_an_old_session_ends_with_a_new_sign_in_and_with_a_sign_out(console: TestClient) -> None:
    """The token from before works no more, on the server and not only in the browser."""
    csrf = sign_in(console, "viewer")
    token = console.cookies["avatarmod_session"]
    assert console.get("/console").status_code == 200
    assert console.post("/console/sign-out", data={"csrf": csrf}).status_code == 303
    console.cookies.clear()
    console.cookies.set("avatarmod_session", token)
    assert console.get("/console").status_code == 303


def test_a_removed_or_changed_user_is_out_at_once(console: TestClient) -> None:
    """Removing a user, or giving a new password, ends the sessions; a lesser role counts now."""
    users = Users(store_of(console))
    csrf = sign_in(console, "operator")
    users.save("operator", "viewer", "another password")
    assert console.get("/console").status_code == 303
    csrf = sign_in(console, "operator", "another password")
    answer = console.post("/console/providers/a/reset", data={"csrf": csrf})
    assert answer.status_code == 403
    users.remove("operator")
    assert console.get("/console").status_code == 303


def test_guessing_passwords_is_slowed(console: TestClient) -> None:
    """After a few wrong tries the right password is refused too, with Retry-After."""
    codes = [post_sign_in(console, "operator", "wrong").status_code for _ in range(10)]
    assert codes[0] == 403
    assert codes[-1] == 429
    answer = post_sign_in(console, "operator", PASSWORD)
    assert (answer.status_code, int(answer.headers["retry-after"]) > 0) == (429, True)
    assert post_sign_in(console, "viewer", PASSWORD).status_code == 303


def test_passwords_are_stored_as_argon2(console: TestClient) -> None:
    """Redis has neither passwords nor session tokens, only their hashes."""
    sign_in(console, "viewer")
    token = console.cookies["avatarmod_session"]
    store = store_of(console)
    stored = json.dumps(store.redis.hgetall(store.key("users")))
    assert "$argon2id$" in stored
    assert PASSWORD not in stored
    assert not any(token in str(key) for key in store.redis.scan_iter())


@pytest.mark.parametrize(
    "place",
    [
        "https://evil.example/",
        "//evil.example",
        "/console/../evil",
        "javascript:alert(1)",
        "/\\evil.example",
        "/consoleevil",
        "/console\r\nset-cookie: a=b",
        "/console/%0d%0aset-cookie:x",
    ],
)
def test_the_sign_in_leads_only_into_the_console(console: TestClient, place: str) -> None:
    """`next` never leads to another site, and no header can be smuggled through it."""
    answer = post_sign_in(console, "viewer", PASSWORD, place)
    location = answer.headers["location"]
    assert location == "/console" or location.startswith("/console/")
    assert "set-cookie: a=b" not in str(answer.headers)


def test_cookies_and_headers_are_strict(console: TestClient) -> None:
    """The session cookie is HttpOnly and SameSite; behind TLS also Secure with the host prefix."""
    answer = post_sign_in(console, "viewer", PASSWORD)
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    page = console.get("/console")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["x-frame-options"] == "DENY"
    assert not re.search(r"<script(?![^>]*src=)|\sstyle=|\son[a-z]+=", page.text)
    console.base_url = "https://testserver"  # type: ignore[assignment]
    answer = post_sign_in(console, "viewer", PASSWORD)
    secure = [c for c in answer.headers.get_list("set-cookie") if c.startswith("__Host-avatarmod")]
    assert "Secure" in secure[0]


# -- what is shown -----------------------------------------------------------------------------


def test_stored_text_is_never_markup(console: TestClient) -> None:
    """Messages of errors and providers, reasons and labels are shown as text on every page."""
    store = store_of(console)
    bury(store, console, "evil@id", message=XSS)
    hold(store, console, "evil:2", reason=XSS, decided_by=f"review:{XSS}")
    store.redis.hset(
        store.key("alarms"),
        "x",
        json.dumps({"severity": "critical", "message": XSS, "fix": XSS, "since": 1.0}),
    )
    store.show_life(XSS, {"name": XSS, "role": XSS, "pid": XSS, "host": XSS, "bundle": XSS})
    sign_in(console, "operator")
    pages = [
        "",
        "/review",
        "/uploads?q=evil",
        "/uploads/evil@id",
        "/uploads/evil%3A2",
        "/dead-letters",
        "/dead-letters?error=" + XSS,
        "/uploads?q=" + XSS,
        "/activity",
        "/review?done=" + XSS + "&at=" + XSS,
        "/dead-letters?done=a:<b>:c&since=<b>",
        "/thresholds?approve_below=" + XSS,
        "/providers?done=" + XSS,
        "/uploads/" + XSS,
    ]
    shown = 0
    for path in pages:
        text = console.get("/console" + path).text
        assert "<script>alert" not in text, path
        assert "<b>:" not in text, path
        shown += "&lt;script&gt;alert" in text
    assert shown >= 4


@pytest.mark.parametrize(
    "path", ["..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "....//etc", "%00", "a%0d%0ab"]
)
def test_no_path_leads_out(console: TestClient, path: str) -> None:
    """Neither the picture nor the static route reads anything but what they are for."""
    sign_in(console, "viewer")
    for place in ("picture", "static", "uploads"):
        answer = console.get(f"/console/{place}/{path}")
        assert answer.status_code == 404
        assert "root:" not in answer.text


def test_pictures_are_drawn_anew(console: TestClient, tmp_path: Path) -> None:
    """A picture is served as a JPEG of ours; a file that is no picture is not served at all."""
    from worker.demo.pictures import encode, landscape

    store = store_of(console)
    polyglot = encode(landscape(), "PNG") + b"<script>alert(1)</script>"
    (tmp_path / "images").mkdir()
    page = b"<html><script>alert(1)</script></html>"
    for upload_id, data in (("a", polyglot), ("b", page)):
        (tmp_path / "images" / upload_id).write_bytes(data)
        hold(store, console, upload_id, sha256=hashlib.sha256(data).hexdigest())
    hold(store, console, "c")
    sign_in(console, "viewer")
    answer = console.get("/console/picture/a")
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.content[:3] == b"\xff\xd8\xff"
    assert b"script" not in answer.content
    assert "sandbox" in answer.headers["content-security-policy"]
    for upload_id in ("b", "c"):
        answer = console.get(f"/console/picture/{upload_id}")
        assert answer.status_code == 404
        assert "<script>alert" not in answer.text


def test_a_lent_reference_shows_no_query(console: TestClient) -> None:
    """The signature of a presigned address is not shown on the story page."""
    console.app.state.services.producer.enqueue(  # type: ignore[attr-defined]
        "a", "https://bucket.example/x.png?X-Amz-Signature=secret"
    )
    sign_in(console, "viewer")
    text = console.get("/console/uploads/a").text
    assert "bucket.example" in text
    assert "X-Amz-Signature" not in text


# -- what people do ----------------------------------------------------------------------------


def test_a_moderator_decides_and_takes_back(console: TestClient) -> None:
    """Approve and undo change the record, put a callback out, and are noted with the name."""
    store = store_of(console)
    hold(store, console, "a")
    csrf = sign_in(console, "moderator")
    for verdict, state in (("approved", "approved"), ("undo", "held"), ("blocked", "blocked")):
        data = {"csrf": csrf, "upload_id": "a", "verdict": verdict}
        assert console.post("/console/decide", data=data).status_code == 303
        assert avatar_of(store, "a").state == state
    assert avatar_of(store, "a").decided_by == "operator:moderator"
    assert store.redis.exists(store.key("overrule", "ab" * 32))
    assert store.redis.exists(store.key("callback", "a#5"))
    activity = console.get("/console/activity").text
    assert activity.count("<tr") == 4
    kinds = [fields["kind"] for _, fields in store.redis.xrange(store.key("events"))]
    assert kinds.count("audit") == 3


def test_what_cannot_be_decided_is_refused(console: TestClient) -> None:
    """Unknown uploads and unknown verdicts answer with a page that says why; nothing is noted."""
    csrf = sign_in(console, "moderator")
    for upload_id, verdict, status in (("nobody", "approved", 409), ("nobody", "maybe", 422)):
        data = {"csrf": csrf, "upload_id": upload_id, "verdict": verdict}
        assert console.post("/console/decide", data=data).status_code == status
    assert "No activity yet" in console.get("/console/activity").text


def test_dead_letters_are_replayed_and_discarded(console: TestClient) -> None:
    """Selected letters are handled, the others stay; all that match a filter can be replayed."""
    store = store_of(console)
    for number in range(4):
        bury(store, console, f"u{number}", message="full" if number else "odd")
    csrf = sign_in(console, "operator")
    assert "u3" in console.get("/console/dead-letters?error=FULL").text
    assert "u0" not in console.get("/console/dead-letters?error=FULL").text
    data = {"csrf": csrf, "what": "discard", "item": ["u1"]}
    answer = console.post("/console/dead-letters", data=data)
    assert "discard:1:1" in answer.headers["location"]
    assert avatar_of(store, "u1").state == "rejected"
    data = {"csrf": csrf, "what": "replay", "all": "1", "error": "full"}
    answer = console.post("/console/dead-letters", data=data)
    assert "replay:2:2" in answer.headers["location"]
    assert [avatar_of(store, f"u{n}").state for n in range(4)] == [
        "dead",
        "rejected",
        "queued",
        "queued",
    ]


def test_a_provider_is_reset(serve: Serve) -> None:
    """An operator closes a breaker; a name that no route has answers 404."""
    client = serve(review_domestic=("fake",))
    client.follow_redirects = False
    store = store_of(client)
    Users(store).save("operator", "operator", PASSWORD)
    key = store.key("review", "health", "fake")
    store.redis.hset(key, mapping={"open_until": int((store.now() + 600) * 1e6), "reason": "down"})
    csrf = sign_in(client, "operator")
    assert "down" in client.get("/console/providers").text
    assert client.post("/console/providers/x/reset", data={"csrf": csrf}).status_code == 404
    assert client.post("/console/providers/fake/reset", data={"csrf": csrf}).status_code == 303
    assert not store.redis.hget(key, "open_until")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/grid",
        "/review",
        "/uploads",
        "/dead-letters",
        "/providers",
        "/thresholds",
        "/activity",
        "/stats",
    ],
)
def test_empty_pages_are_whole(console: TestClient, path: str) -> None:
    """With nothing in Redis and no ledger every page is shown, in both languages."""
    sign_in(console, "operator")
    for language in ("en", "zh-CN"):
        console.cookies.set("avatarmod_language", language)
        answer = console.get("/console" + path)
        assert answer.status_code == 200
        if path != "/stats":
            assert f'lang="{language}"' in answer.text


def test_a_hundred_thousand_records_do_not_slow_a_list(console: TestClient) -> None:
    """Lists read one page, whatever lies behind it."""
    store = store_of(console)
    pipe = store.redis.pipeline(transaction=False)
    for number in range(100_000):
        pipe.zadd(store.key("open", "held"), {f"u{number:06d}": number})
        if number % 10_000 == 0:
            pipe.execute()
    pipe.execute()
    hold(store, console, "u050000")
    sign_in(console, "viewer")
    for path in ("/uploads?state=held&before=99950", "/review?at=u050000", ""):
        before = store.redis.info("stats")["total_net_output_bytes"]  # type: ignore[index]
        assert console.get("/console" + path).status_code == 200
        after = store.redis.info("stats")["total_net_output_bytes"]  # type: ignore[index]
        assert after - before < 200_000, "a hundred thousand ids are 700,000 bytes and more"


def test_the_scale_says_whose_cut_offs_it_shows(console: TestClient) -> None:
    """A drawing's page says that the cut-offs are those of drawings; numbers are in the details."""
    store = store_of(console)
    sign_in(console, "viewer")
    for style, is_drawn in {"photo": False, "drawn": True, "": False}.items():
        upload_id = f"story-{style}"
        store.submit(Avatar(upload_id=upload_id, state=AvatarState.QUEUED, seq=1), max_backlog=99)
        decide(store, upload_id, style=style)
        text = console.get(f"/console/uploads/{upload_id}").text
        assert ("These are the cut-offs for drawings." in text) == is_drawn
        assert "The model is 1% sure that this is explicit" in text
        assert "<dt>Raw score</dt>" in text


def test_the_safe_copy_of_an_upload_is_named(console: TestClient) -> None:
    """With its hash, so that an operator can find the file that is served."""
    store = store_of(console)
    sign_in(console, "viewer")
    store.submit(Avatar(upload_id="plain", state=AvatarState.QUEUED, seq=1), max_backlog=99)
    decide(store, "plain")
    assert "Safe copy" not in console.get("/console/uploads/plain").text
    store.submit(Avatar(upload_id="copied", state=AvatarState.QUEUED, seq=1), max_backlog=99)
    copy = SafeCopy(
        name="c0ffee.webp", sha256="cd" * 32, media_type="image/webp", width_px=9, height_px=9
    )
    decide(store, "copied", safe_copy=copy.to_json())
    text = console.get("/console/uploads/copied").text
    assert "Safe copy" in text
    assert "c0ffee.webp" in text
    assert "cd" * 32 in text


def test_the_bare_address_leads_to_the_console(console: TestClient) -> None:
    """Whoever opens the address that `avatarmod up` prints is not told 404."""
    answer = console.get("/")
    assert (answer.status_code, answer.headers["location"]) == (302, "/console")


def test_a_session_ends_after_a_day(console: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is used; the setting cannot make it longer."""
    sign_in(console, "viewer")
    assert console.get("/console").status_code == 200
    monkeypatch.setattr(users_module, "MAX_SESSION_S", -1)
    assert console.get("/console").status_code == 303
    monkeypatch.undo()
    assert console.get("/console").status_code == 303, "it is gone, not asleep"


@pytest.mark.parametrize("off_s", [-2 * 86400.0, 2 * 86400.0])
def test_a_machine_whose_clock_is_off_ends_no_session(
    console: TestClient, monkeypatch: pytest.MonkeyPatch, off_s: float
) -> None:
    """Only the server's clock counts: nobody is sent back to the form, nobody stays longer."""
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + off_s)
    sign_in(console, "viewer")
    assert console.get("/console").status_code == 200
    monkeypatch.setattr(users_module, "MAX_SESSION_S", -1)
    assert console.get("/console").status_code == 303


def test_a_sign_in_too_many_is_told_to_wait(console: TestClient) -> None:
    """While as many passwords are checked as may be, another is answered at once with 503."""
    checks = console.app.state.console.users._checks  # type: ignore[attr-defined]
    with contextlib.ExitStack() as stack:
        for _ in range(users_module.MAX_CHECKS):
            stack.enter_context(checks.take())
        answer = post_sign_in(console, "viewer", PASSWORD)
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
        assert "Too many people are signing in" in answer.text
    assert post_sign_in(console, "viewer", PASSWORD).status_code == 303


def test_addresses_are_shown_without_user_and_password(serve: Serve) -> None:
    """Of the picture and of the callbacks that wait; the ledger's stream has neither."""
    console = serve(callback_url="https://ann:hunter2@web.example/hook?key=hunter2")
    store, url = store_of(console), "https://ann:hunter2@pictures.example/a.png"
    Users(store).save("viewer", "viewer", PASSWORD)
    console.app.state.services.producer.enqueue("a", url)  # type: ignore[attr-defined]
    decide(store, "a")
    console.follow_redirects = False
    sign_in(console, "viewer")
    text = console.get("/console/uploads/a").text
    assert "https://pictures.example/a.png" in text
    assert "hunter2" not in text
    assert "hunter2" not in str(store.redis.xrange(store.key("events")))


def test_alarms_are_shown_in_the_readers_language(console: TestClient) -> None:
    """What a worker wrote in English is Chinese for a Chinese reader, remedy included."""
    sign_in(console, "viewer")
    console.cookies.set("avatarmod_language", "zh-CN")
    text = console.get("/console").text
    assert "没有带模型的工作进程" in text
    assert "请启动 `avatarmod up`" in text
    assert "no worker with a model" not in text


def test_audits_wait_in_a_list_of_their_own_while_the_avatar_is_shown(console: TestClient) -> None:
    """A moderator says what was approved is: harmless changes nothing, explicit is held."""
    store = store_of(console)
    store.audits.announce(1.0)
    for upload_id in ("fine", "bad"):
        upload = Avatar(upload_id=upload_id, state=AvatarState.QUEUED, seq=1, sha256="ab" * 32)
        store.submit(upload, max_backlog=99)
        decide(store, upload_id)
        store.audits.end(avatar_of(store, upload_id), "person", {})
    csrf = sign_in(console, "moderator")
    text = console.get("/console/review?state=audits").text
    assert "They were drawn at random" in text
    assert 'value="harmless"' in text
    for upload_id, verdict in (("fine", "harmless"), ("bad", "explicit")):
        data = {"csrf": csrf, "upload_id": upload_id, "verdict": verdict}
        answer = console.post("/console/decide", data=data)
        assert "state=audits" in answer.headers["location"]
        assert console.post("/console/decide", data=data).status_code == 409
    assert (avatar_of(store, "fine").state, avatar_of(store, "bad").state) == ("approved", "held")
    assert "Nothing to review" in console.get("/console/review?state=audits").text
    assert "found harmless" in console.get("/console/uploads/fine").text


def test_each_model_has_a_scale_of_its_own(console: TestClient) -> None:
    """With what the second clears and vetoes; only its number where the policy asks one model."""
    store = store_of(console)
    said = {"second_bundle": "s@1", "second_raw": "0.3", "second_probability": "0.25"}
    for upload_id, fields in (("one", {}), ("two", said)):
        store.submit(Avatar(upload_id=upload_id, state=AvatarState.QUEUED, seq=1), max_backlog=99)
        decide(store, upload_id, **fields)
    app: Any = console.app
    parts = app.state.console.parts
    sign_in(console, "viewer")
    asks = (CutOffs(0.05, 0.35), CutOffs(0.05, 0.6))
    for given, scales in ((None, 1), (asks, 2)):
        shown = dataclasses.replace(parts, second_cut_offs=lambda found=given: found)
        app.state.console = dataclasses.replace(app.state.console, parts=shown)
        text = console.get("/console/uploads/two").text
        assert text.count('class="scale"') == scales
        assert "The second model is 25% sure" in text
    assert "it clears below 5% and objects from 35%" in text
    assert console.get("/console/uploads/one").text.count('class="scale"') == 1


def change_cut_offs(console: TestClient, csrf: str, **fields: str) -> Response:
    """Post the form of the page about thresholds."""
    numbers = {"approve_below": "0.02", "block_from": "0.9"}
    drawn = {f"drawn_{name}": value for name, value in numbers.items()}
    data = {"csrf": csrf, "what": "apply", "note": "fewer misses", **numbers, **drawn, **fields}
    return console.post("/console/thresholds", data=data)  # type: ignore[return-value]


def test_cut_offs_are_put_in_force_and_taken_back(console: TestClient, tmp_path: Path) -> None:
    """By operators alone, with a reason, in the file that workers read; everybody sees who did."""
    page = "/console/thresholds?approve_below=0.02&block_from=0.9"
    assert change_cut_offs(console, sign_in(console, "moderator")).status_code == 403
    assert "Put in force" not in console.get(page).text
    csrf = sign_in(console, "operator")
    assert "Put in force" in console.get(page).text
    assert change_cut_offs(console, csrf, note=" ").status_code == 422
    assert change_cut_offs(console, csrf, block_from="0.01").status_code == 422
    assert change_cut_offs(console, csrf, what="x").status_code == 422
    assert not (tmp_path / "policy.toml").exists()

    answer = change_cut_offs(console, csrf)
    assert answer.headers["location"] == "/console/thresholds?done=applied"
    assert load_policy(tmp_path / "policy.toml").photo.approve_below == 0.02
    text = console.get(answer.headers["location"]).text
    assert 'value="0.02"' in text
    assert "fewer misses" in text
    assert "policy" in console.get("/console/activity").text

    answer = change_cut_offs(console, csrf, what="back", note="")
    assert answer.headers["location"] == "/console/thresholds?done=back"
    assert 'value="0.05"' in console.get(answer.headers["location"]).text
    assert not (tmp_path / "policy.toml").exists()


def test_a_policy_that_cannot_be_written_is_said(serve: Serve, tmp_path: Path) -> None:
    """With why, and without a form that would fail."""
    place = tmp_path / "gone" / "policy.toml"
    place.parent.mkdir()
    place.write_text("")
    client = serve(policy_file=place)
    client.follow_redirects = False
    Users(store_of(client)).save("operator", "operator", PASSWORD)
    csrf = sign_in(client, "operator")
    place.unlink()
    place.parent.rmdir()
    text = client.get("/console/thresholds?approve_below=0.02").text
    assert "The cut-offs cannot be changed here" in text
    assert "does not exist" in text
    assert "Put in force" not in text
    assert change_cut_offs(client, csrf).status_code == 409


def test_the_second_model_s_scale_follows_the_policy(serve: Serve, tmp_path: Path) -> None:
    """A policy file that another program wrote holds in the console too, without a restart."""
    place = tmp_path / "policy.toml"
    place.write_text('[second]\nask = "off"\n')
    client = serve(policy_file=place)
    parts = client.app.state.console.parts  # type: ignore[attr-defined]
    assert parts.second_cut_offs() is None
    place.write_text('[second]\nask = "always"\nbundle = "image-safety-s"\nveto_from = 0.4\n')
    photo, drawn = parts.second_cut_offs()
    assert (photo.block_from, drawn.block_from) == (
        0.4,
        parts.policies.in_use().second.drawn_veto_from,
    )


def test_pictures_that_would_change_are_shown(console: TestClient, tmp_path: Path) -> None:
    """By the ledger's scores: newest first, by the verdict that they would get."""
    store = store_of(console)
    for upload_id, probability in (("low", 0.03), ("high", 0.97), ("same", 0.001)):
        store.submit(Avatar(upload_id=upload_id, state=AvatarState.QUEUED, seq=1), max_backlog=99)
        to = AvatarState.BLOCKED if probability > 0.9 else AvatarState.APPROVED
        style = {"style": "photo"} if probability > 0.9 else {}
        decide(store, upload_id, to, probability, bundle="b@1", **style)
    ledger = Ledger.open(Settings(data_folder=tmp_path))
    ledger.drain(store)
    ledger.close()
    sign_in(console, "viewer")
    text = console.get("/console/thresholds?approve_below=0.02&drawn_approve_below=0.02").text
    assert "Newly gray: 1" in text
    assert 'href="/console/uploads/low"' in text
    assert 'href="/console/uploads/same"' not in text
    assert "Pictures that would change" not in console.get("/console/thresholds").text


def test_the_overview_tells_who_decided_and_how(console: TestClient, tmp_path: Path) -> None:
    """The same figures as the report's, from one definition; what waits, and since when."""
    store = store_of(console)
    hold(store, console, "a")
    hold(store, console, "b", sha256="cd" * 32)
    Decisions(store).decide("a", "blocked", by="ann")
    ledger = Ledger.open(Settings(data_folder=tmp_path))
    ledger.drain(store)
    made = make_report(ledger, Settings(data_folder=tmp_path), "day", 2)
    ledger.close()
    sign_in(console, "viewer")
    text = console.get("/console").text
    assert "the oldest:" in text
    assert "Decisions by moderator" in text
    found = console.get("/console/stats").json()["figures"]
    assert list(found["people"]) == ["ann"]
    assert found["people_total"]["ann"]["blocked"] == 1
    assert found["agreement"] == 0.0
    assert (found["uploads"], found["decided"]) == (made.total.uploads, made.total.decided)
    assert found["gray_share"] == made.total.gray_share == 1.0
    assert found["saved_yuan"] == made.saved_yuan(made.total)
