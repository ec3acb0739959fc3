"""Which addresses are public, whatever form they are written in."""

from __future__ import annotations

import ipaddress
import json
import socket
import threading
import time
from typing import Any

import httpcore
import httpx
import pytest

from producer import http_guard
from producer.http_guard import BlockedAddress, GuardedTransport, connect_first, guarded_client
from producer.networks import is_public, parse_networks

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
    # Around the ranges that registries added late, and what only 2000::/3 does not hold.
    "168.63.129.16",
    "192.88.99.0",
    "192.88.99.255",
    "3fff::1",
    "3fff:fff:ffff::1",
    "5f00::1",
    "5fff::1",
    "4000::1",
    "1fff::1",
    "::ffff:0:10.0.0.1",
    "::ffff:0:1.1.1.1",
    "2001::1",
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
    "168.63.129.15",
    "168.63.129.17",
    "192.88.98.255",
    "192.88.100.0",
    "2a00:1450:4001::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_not_public(address: str) -> None:
    """Private, local, shared, reserved, multicast, and IPv6 forms that carry one of these."""
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_public(address: str) -> None:
    """Neighbours of the private ranges, and IPv6 forms that carry a public address."""
    assert is_public(ipaddress.ip_address(address))


class Stream(httpcore.NetworkStream):
    """A server that says where it was reached, as whom, and over what."""

    def __init__(self, address: str, answers: dict[str, bytes]) -> None:
        self._address = address
        self._answers = answers
        self._sni = ""
        self._left = b""

    def start_tls(self, *args: Any, **options: Any) -> httpcore.NetworkStream:
        self._sni = options.get("server_hostname") or args[1]
        return self

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:
            return
        lines = buffer.decode().split("\r\n")
        path = lines[0].split(" ")[1]
        host = next(line[6:] for line in lines if line.lower().startswith("host: "))
        said = json.dumps({"to": self._address, "host": host, "sni": self._sni}).encode()
        end = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(said) + said
        self._left = self._answers.get(path, end)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        answer, self._left = self._left, b""
        return answer

    def close(self) -> None:
        return

    def get_extra_info(self, info: str) -> Any:
        return None


class Sockets(httpcore.NetworkBackend):
    """Notes every connection that is made; nothing leaves the test."""

    def __init__(self, **answers: bytes) -> None:
        self.reached: list[str] = []
        self._answers = {f"/{path}": answer for path, answer in answers.items()}

    def connect_tcp(self, host: str, *_: Any, **__: Any) -> httpcore.NetworkStream:
        self.reached.append(host)
        return Stream(host, self._answers)


def reach(url: str, *networks: str) -> httpx.Response:
    """Send through the guard to a stub that answers what it was asked."""
    transport = GuardedTransport(parse_networks(networks), total_s=5.0, backend=Sockets())
    with httpx.Client(transport=transport, trust_env=False) as client:
        return client.get(url)


@pytest.mark.process
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


@pytest.mark.process
def test_an_allowed_network_is_reached() -> None:
    """Only the one that is listed."""
    assert reach("http://127.0.0.1:8080/", "127.0.0.0/8").json() == {
        "to": "127.0.0.1",
        "host": "127.0.0.1:8080",
        "sni": "",
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
    moved = b"HTTP/1.1 302 Found\r\nlocation: /b\r\ncontent-length: 0\r\n\r\n"
    sockets = Sockets(a=moved)
    transport = GuardedTransport(total_s=5.0, backend=sockets)
    with httpx.Client(transport=transport, follow_redirects=True, trust_env=False) as client:
        answer = client.get("https://pictures.example/a")
    assert answer.json()["host"] == "pictures.example"
    assert answer.url == "https://pictures.example/b"
    assert sockets.reached == ["1.1.1.1", "1.1.1.1"]


class TestSeveralAddresses:
    """RFC 8305: whoever answers first; nobody waits for the silent."""

    def connect(self, *answers: float | None) -> tuple[str, float, list[str]]:
        """Connect where the n-th address takes so many seconds, or refuses (None)."""
        times = {f"10.0.0.{n}": answer for n, answer in enumerate(answers)}
        closed: list[str] = []

        def attempt(address: str) -> httpcore.NetworkStream:
            seconds = times[address]
            if seconds is None:
                raise httpcore.ConnectError("refused")
            time.sleep(seconds)
            stream = Stream(address, {})
            stream.close = lambda: closed.append(address)  # type: ignore[method-assign]
            return stream

        started_s = time.monotonic()
        found = connect_first([ipaddress.ip_address(a) for a in times], attempt, 2.0)
        assert isinstance(found, Stream)
        return found._address, time.monotonic() - started_s, closed

    def test_an_address_that_swallows_packets_costs_a_quarter_of_a_second(self) -> None:
        """A server with a dead route is reached at its other address at once."""
        address, took_s, _ = self.connect(30.0, 0.0)
        assert address == "10.0.0.1"
        assert 0.2 < took_s < 15

    def test_an_address_that_refuses_costs_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The next one is tried immediately."""
        monkeypatch.setattr(http_guard, "ATTEMPT_DELAY_S", 60.0)
        assert self.connect(None, None, 0.0)[0] == "10.0.0.2"

    def test_the_slower_connection_is_closed(self) -> None:
        """What answers after the winner is not left open."""
        address, _, closed = self.connect(0.6, 0.0)
        time.sleep(0.7)
        assert (address, closed) == ("10.0.0.1", ["10.0.0.0"])

    def test_both_families_are_tried_in_turn(self) -> None:
        """Six dead IPv6 addresses do not stand before the IPv4 one."""
        asked: list[str] = []

        def attempt(address: str) -> httpcore.NetworkStream:
            asked.append(address)
            raise httpcore.ConnectError("refused")

        addresses = [ipaddress.ip_address(f"2001:db8::{n}") for n in range(9)]
        with pytest.raises(httpcore.ConnectError):
            connect_first([*addresses, ipaddress.ip_address("1.1.1.1")], attempt, 1.0)
        assert asked[:2] == ["2001:db8::0".replace("::0", "::"), "1.1.1.1"]
        assert len(asked) == http_guard.MAX_ADDRESSES

    def test_all_silent_ends_with_the_time(self) -> None:
        """Nobody waits for an answer after the deadline."""
        started_s = time.monotonic()
        silent = [ipaddress.ip_address(f"10.0.0.{n}") for n in range(3)]
        with pytest.raises(httpcore.ConnectTimeout):
            connect_first(silent, lambda _: time.sleep(30), 0.8)  # type: ignore[arg-type,return-value]
        assert time.monotonic() - started_s < 15


def test_a_resolver_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolving counts into the one deadline of the request."""
    end = threading.Event()
    monkeypatch.setattr(http_guard.socket, "getaddrinfo", lambda *_, **__: end.wait(30) and [])
    started_s = time.monotonic()
    with guarded_client(timeout_s=0.4) as client, pytest.raises(httpx.ConnectTimeout):
        client.get("https://pictures.example/a")
    end.set()
    assert time.monotonic() - started_s < 15


def test_a_name_that_does_not_resolve_is_a_connection_error() -> None:
    """As httpx has it, so that callers handle one kind of error."""
    with pytest.raises(httpx.ConnectError, match="does not resolve"):
        reach("http://" + "a" * 70 + ".example/")
