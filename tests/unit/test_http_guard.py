"""Which addresses are public, whatever form they are written in."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import httpx
import pytest

from producer import http_guard
from producer.http_guard import BlockedAddress, GuardedTransport, is_public, parse_networks

PRIVATE = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::127.0.0.1",
    "::10.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a00:1",
    "64:ff9b:1::1",
    "100::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2002:c0a8:101::",
    "fc00::1",
    "fdff::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]

PUBLIC = [
    "1.1.1.1",
    "100.63.255.255",
    "100.128.0.1",
    "172.15.0.1",
    "172.32.0.1",
    "93.184.216.34",
    "2606:4700:4700::1111",
    "::ffff:1.1.1.1",
    "64:ff9b::1.1.1.1",
    "2002:101:101::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_not_public(address: str) -> None:
    """Private, local, shared, reserved, multicast, and IPv6 forms that carry one of these."""
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_public(address: str) -> None:
    """Neighbours of the private ranges, and IPv6 forms that carry a public address."""
    assert is_public(ipaddress.ip_address(address))


def reach(url: str, *networks: str) -> httpx.Response:
    """Send through the guard to a stub that answers what it was asked."""

    def answer(request: httpx.Request) -> httpx.Response:
        sni = request.extensions["sni_hostname"]
        return httpx.Response(
            200, json={"to": request.url.host, "host": request.headers["host"], "sni": sni}
        )

    transport = GuardedTransport(
        parse_networks(networks), total_s=5.0, inner=httpx.MockTransport(answer)
    )
    with httpx.Client(transport=transport, trust_env=False) as client:
        return client.get(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.0.0.1/",
        "http://0177.0.0.1/",
        "http://017700000001/",
        "http://127.1/",
        "http://0/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[0:0:0:0:0:ffff:7f00:1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://example.org@127.0.0.1/",
        "http://example.org:80@127.0.0.1:80/",
        "http://127.0.0.1#@example.org/",
        "http://127.0.0.1?@example.org/",
        "http://169.254.169.254/latest/meta-data/",
        "http://localhost/",
    ],
)
def test_no_spelling_reaches_a_private_address(url: str) -> None:
    """What counts is the address that the connection would go to."""
    with pytest.raises((BlockedAddress, httpx.InvalidURL), match=r"private address|Invalid IPv4"):
        reach(url)


def test_an_allowed_network_is_reached() -> None:
    """Only the one that is listed."""
    assert reach("http://127.0.0.1:8080/", "127.0.0.0/8").json() == {
        "to": "127.0.0.1",
        "host": "127.0.0.1:8080",
        "sni": "127.0.0.1",
    }
    with pytest.raises(BlockedAddress):
        reach("http://10.0.0.1/", "127.0.0.0/8", "::/0")
    assert reach("http://[::1]/", "::1/128").json()["to"] == "::1"


def names(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Make every name resolve to these."""

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in addresses]

    monkeypatch.setattr(http_guard.socket, "getaddrinfo", getaddrinfo)


def test_the_checked_address_is_the_one_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name stays in Host and in the certificate's check."""
    names(monkeypatch, "1.1.1.1")
    answer = reach("https://pictures.example/a.png")
    assert answer.json() == {
        "to": "1.1.1.1",
        "host": "pictures.example",
        "sni": "pictures.example",
    }
    assert answer.request.url.host == "pictures.example"


def test_one_private_address_among_public_ones_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of them is taken is not left to chance."""
    names(monkeypatch, "1.1.1.1", "10.0.0.1")
    with pytest.raises(BlockedAddress, match=r"10\.0\.0\.1"):
        reach("http://pictures.example/")


def test_a_relative_redirect_goes_to_the_same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not to the bare address, where no certificate and no virtual host would match."""
    names(monkeypatch, "1.1.1.1")
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.headers["host"], request.url.path))
        if request.url.path == "/a":
            return httpx.Response(302, headers={"location": "/b"})
        return httpx.Response(200)

    transport = GuardedTransport(total_s=5.0, inner=httpx.MockTransport(answer))
    with httpx.Client(transport=transport, follow_redirects=True, trust_env=False) as client:
        assert client.get("https://pictures.example/a").status_code == 200
    assert seen == [("pictures.example", "/a"), ("pictures.example", "/b")]


def test_an_address_that_does_not_answer_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server with a dead IPv6 route is reached at its other address."""
    names(monkeypatch, "1.1.1.1", "8.8.8.8")

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "1.1.1.1":
            raise httpx.ConnectError("no route")
        return httpx.Response(200)

    transport = GuardedTransport(total_s=5.0, inner=httpx.MockTransport(answer))
    with httpx.Client(transport=transport, trust_env=False) as client:
        assert client.get("https://pictures.example/a").status_code == 200


def test_a_name_that_does_not_resolve_is_a_connection_error() -> None:
    """As httpx has it, so that callers handle one kind of error."""
    with pytest.raises(httpx.ConnectError, match="does not resolve"):
        reach("http://" + "a" * 70 + ".example/")
