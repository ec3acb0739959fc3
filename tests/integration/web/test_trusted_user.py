"""People whom a reverse proxy has signed in, and those who only say so; on real connections."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from producer.errors import ConfigurationError
from producer.settings import Settings, load_settings
from producer.web.users import Role, Users
from tests.integration.web.conftest import Serve, avatar_of, store_of
from tests.integration.web.test_abuse import listening, talk
from tests.integration.web.test_console import PASSWORD, field, hold

HEADER = "Remote-User"


class Site:
    """The console behind a proxy at 127.0.0.1, or open to everybody."""

    def __init__(self, client: TestClient, address: tuple[str, int]) -> None:
        self.client, self.address = client, address
        self.store = store_of(client)

    def browser(self, headers: Any = None) -> httpx.Client:
        """A clean browser; each request carries what the proxy, or whoever sends it, adds."""
        url = "http://{}:{}".format(*self.address)
        return httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=30)


@contextlib.contextmanager
def site(serve: Serve, *, proxies: str = "127.0.0.1", role: str = "") -> Iterator[Site]:
    client = serve(api_trusted_proxies=proxies, trusted_user_header=HEADER, trusted_user_role=role)
    Users(store_of(client)).save("ann", Role.MODERATOR, PASSWORD)
    with listening(client) as address:
        yield Site(client, address)


def is_in(browser: httpx.Client) -> bool:
    """Whether the overview is shown, after whatever redirects."""
    answer = browser.get("/console", follow_redirects=True)
    assert answer.status_code in (200, 403), answer.text
    return 'action="/console/sign-in"' not in answer.text and answer.status_code == 200


def test_a_person_known_by_name_needs_no_password(serve: Serve) -> None:
    """Their own role, token and name: they decide, and the activity says who did."""
    with site(serve) as found, found.browser({HEADER: "ann"}) as browser:
        hold(found.store, found.client, "a")
        page = browser.get("/console/uploads/a", follow_redirects=True)
        assert page.url.path == "/console/uploads/a", "where they wanted to go"
        assert "Sign out" not in page.text, "that is the proxy's to do"
        data = {"upload_id": "a", "verdict": "blocked"}
        assert browser.post("/console/decide", data=data).status_code == 403, "no token"
        csrf = field(page.text, "csrf")
        evil = {"origin": "https://evil.example"}
        answer = browser.post("/console/decide", data={**data, "csrf": csrf}, headers=evil)
        assert answer.status_code == 403
        assert avatar_of(found.store, "a").state == "held"
        assert browser.post("/console/decide", data={**data, "csrf": csrf}).status_code == 303
        assert avatar_of(found.store, "a").decided_by == "operator:ann"
        [entry] = found.store.events.audited(1)
        assert (entry[1]["by"], entry[1]["item"]) == ("ann", "a")
        denied = browser.post("/console/forget", data={"csrf": csrf, "upload_id": "a"})
        assert denied.status_code == 403, "a moderator is no operator"


def test_a_stranger_has_no_role(serve: Serve) -> None:
    """Unless the settings give one to all whom the proxy lets in."""
    with site(serve) as found, found.browser({HEADER: "bob@example.org"}) as browser:
        answer = browser.get("/console", follow_redirects=True)
        assert answer.status_code == 403
        assert "bob@example.org, who has no role here" in answer.text
    with site(serve, role="viewer") as found:
        with found.browser({HEADER: "bob+cats@example.org"}) as browser:
            assert is_in(browser)
            assert "Viewer" in browser.get("/console").text
        with found.browser({HEADER: "ann"}) as browser:
            assert is_in(browser)
            assert "Moderator" in browser.get("/console").text, "her own role, not the default"


def test_the_header_is_nothing_from_anybody_else(serve: Serve) -> None:
    """A direct request, whatever it claims about where it came from."""
    proxy = "10.9.9.9"
    claims: list[dict[str, str]] = [{}, {"X-Forwarded-For": proxy}, {"Forwarded": f"for={proxy}"}]
    with site(serve, proxies=proxy) as found:
        for more in claims:
            with found.browser({HEADER: "ann", **more}) as browser:
                assert not is_in(browser), more


def test_a_stolen_cookie_is_nothing_without_the_proxy(serve: Serve) -> None:
    """Past the proxy, or under another name, the session does not exist; signing out there ends it.

    The same connection may bring requests of many people, so each is looked at.
    """
    with site(serve) as found, found.browser() as browser:
        assert browser.get("/console", headers={HEADER: "ann"}).status_code == 303
        sign_in = browser.get("/console/sign-in", headers={HEADER: "ann"})
        assert sign_in.status_code == 303
        assert browser.get("/console", headers={HEADER: "ann"}).status_code == 200
        assert browser.get("/console").status_code == 303, "signed out at the proxy"
        assert browser.get("/console", headers={HEADER: "bob"}).status_code == 303
        assert browser.get("/console", headers={HEADER: "ann"}).status_code == 200
        Users(found.store).remove("ann")
        assert browser.get("/console", headers={HEADER: "ann"}).status_code == 303


def test_a_session_of_ones_own_does_not_cover_another_name(serve: Serve) -> None:
    """Whoever the proxy names decides under that name, whatever cookie is left in the browser."""
    with site(serve) as found, found.browser() as browser:
        Users(found.store).save("cid", Role.OPERATOR, PASSWORD)
        form = field(browser.get("/console/sign-in").text, "form_token")
        data = {"form_token": form, "name": "cid", "password": PASSWORD}
        assert browser.post("/console/sign-in", data=data).status_code == 303
        assert "<strong>cid</strong>" in browser.get("/console").text
        page = browser.get("/console", headers={HEADER: "ann"}, follow_redirects=True)
        assert "<strong>ann</strong>" in page.text
        assert "<strong>cid</strong>" not in browser.get("/console", follow_redirects=True).text


@pytest.mark.parametrize(
    "lines",
    [
        [b"Remote-User: ann", b"Remote-User: ann"],
        [b"Remote-User: mallory", b"Remote-User: ann"],
        [b"Remote_User: ann"],
        [b"REMOTE_USER: ann"],
        [b"Remote-User: mallory", b"Remote_User: ann"],
        [b"Remote-User:"],
        [b"Remote-User: "],
        [b"Remote-User: ann, mallory"],
        [b"Remote-User: \xc3\xa4nn"],
        [b"Remote-User: an\xc2\xadn"],
        ["Remote-User: аnn".encode()],
        [b"Remote-User: ann\x00"],
        [b"Remote-User: operator:ann"],
        [b"Remote-User: " + b"a" * 101],
        [b"Remote-User: ../ann"],
        [b"X-Remote-User: ann"],
    ],
)
def test_odd_headers_name_nobody(serve: Serve, lines: list[bytes]) -> None:
    """Two of them, underscores, nothing, lists, look-alike letters: nobody comes in."""
    with site(serve, role="operator") as found:
        head = b"\r\n".join(
            [b"GET /console/sign-in HTTP/1.1", b"host: a", b"connection: close", *lines]
        )
        answer = talk(found.address, head + b"\r\n\r\n")
        status = answer.split(b" ", 2)[1]
        assert status in (b"200", b"400"), answer[:200]
        assert b"avatarmod_session=" not in answer


def test_one_odd_header_takes_nothing_from_the_next_request(serve: Serve) -> None:
    """On one connection: the trailer of a body is no header, and each request stands alone."""
    with site(serve) as found:
        first = (
            b"POST /console/sign-out HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
            b"0\r\nRemote-User: ann\r\n\r\n"
        )
        second = b"GET /console/sign-in HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
        assert b"avatarmod_session=" not in talk(found.address, first + second)


def test_without_the_setting_the_header_is_nothing(serve: Serve) -> None:
    """Also where proxies are trusted with addresses."""
    client = serve(api_trusted_proxies="127.0.0.1")
    Users(store_of(client)).save("ann", Role.MODERATOR, PASSWORD)
    with listening(client) as address, Site(client, address).browser({HEADER: "ann"}) as browser:
        assert not is_in(browser)


def test_an_application_without_the_proxy_believes_nobody(serve: Serve) -> None:
    """Under another server than ours, which does not look at the peer."""
    client = serve(api_trusted_proxies="127.0.0.1", trusted_user_header=HEADER)
    Users(store_of(client)).save("ann", Role.MODERATOR, PASSWORD)
    answer = client.get("/console", headers={HEADER: "ann"})
    assert 'action="/console/sign-in"' in answer.text


def test_a_proxy_on_an_ipv6_socket_is_known(serve: Serve) -> None:
    """An address of IPv4 may come mapped; the client behind the proxy is not the peer."""
    from producer.web.trusted_user import TRUSTED_USER, TrustedUser

    seen: list[Any] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope.get(TRUSTED_USER))

    outer = TrustedUser(app, header=HEADER, proxies=["10.0.0.0/8", "fd00::1"])
    for client in (("::ffff:10.1.2.3", 1), ("fd00::1", 1), ("fd00::2", 1), None, ("unix", 0)):
        headers = [(b"remote-user", b"ann")]
        scope = {"type": "http", "headers": headers, "client": client, TRUSTED_USER: "eve"}
        with contextlib.suppress(StopIteration):
            outer(scope, None, None).send(None)  # type: ignore[arg-type]
    assert seen == ["ann", "ann", None, None, None]


@pytest.mark.parametrize(
    ("proxies", "header", "words"),
    [
        ("", "Remote-User", "set AVATARMOD_API_TRUSTED_PROXIES"),
        ("*", "Remote-User", "behind which anybody may be"),
        ("0.0.0.0/0", "Remote-User", "behind which anybody may be"),
        ("10.0.0.1,::/0", "Remote-User", "behind which anybody may be"),
        ("nginx", "Remote-User", "behind which anybody may be"),
        ("10.0.0.1", "Remote_User", "cannot name a person"),
        ("10.0.0.1", "Cookie", "cannot name a person"),
        ("10.0.0.1", "X-Forwarded-For", "cannot name a person"),
        ("10.0.0.1", "Remote User", "cannot name a person"),
    ],
)
def test_what_would_let_anybody_in_is_refused(
    monkeypatch: pytest.MonkeyPatch, proxies: str, header: str, words: str
) -> None:
    """At start, with what to do."""
    monkeypatch.setenv("AVATARMOD_API_TRUSTED_PROXIES", proxies)
    monkeypatch.setenv("AVATARMOD_TRUSTED_USER_HEADER", header)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(Settings)
    assert "AVATARMOD_TRUSTED_USER_HEADER" in str(caught.value)
    assert words in str(caught.value)
