"""What the adapters share: the deadline, the rules of the wire, picture size, values."""

from __future__ import annotations

import contextlib
import gzip
import io
import socket
import socketserver
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from PIL import Image

from producer.errors import (
    ProviderAnswerUnknown,
    ProviderRejectedImage,
    ProviderSilent,
    ProviderUnavailable,
)
from producer.findings import Decision
from worker.review.check import harmless_jpeg
from worker.review.providers.base import by_cut_offs, jpeg_size
from worker.review.providers.wire import Answer, Call, number, send


def run(ask: Callable[[], Any], deadline_s: float = 5.0) -> Any:
    """One call of a provider that is called `acme`."""
    with httpx.Client(trust_env=False) as client:
        return Call("acme", client, deadline_s).run(ask)


class TestDeadline:
    def test_the_result_comes_through(self) -> None:
        """A call in time is as if there were no deadline."""
        assert run(lambda: 7) == 7

    def test_an_error_of_ours_comes_through(self) -> None:
        """The caller sees what the adapter raised."""

        def refuse() -> None:
            raise ProviderRejectedImage("too small")

        with pytest.raises(ProviderRejectedImage, match="too small"):
            run(refuse)

    @pytest.mark.parametrize("error", [ZeroDivisionError, KeyError, RecursionError, UnicodeError])
    def test_any_other_error_is_an_answer_that_was_not_understood(self, error: type) -> None:
        """What nobody foresaw in an adapter or an SDK ends neither the task nor the fail-over."""

        def stumble() -> None:
            raise error

        with pytest.raises(ProviderAnswerUnknown, match=f"acme: {error.__name__}"):
            run(stumble)

    def test_a_late_call_is_given_up_on(self) -> None:
        """The caller goes on although the call does not end."""
        release = threading.Event()
        started_s = time.monotonic()
        with pytest.raises(ProviderSilent):
            run(lambda: release.wait(30), 0.05)
        release.set()
        assert time.monotonic() - started_s < 10

    def test_nothing_is_sent_after_the_caller_has_gone(self) -> None:
        """A picture whose upload took too long is not judged, and not paid for, in vain."""
        release, done = threading.Event(), threading.Event()
        caught: list[BaseException] = []

        def late() -> None:
            release.wait(30)
            try:
                send("POST", "http://127.0.0.1:9/", {}, b"")
            except BaseException as error:  # noqa: BLE001 - looked at below
                caught.append(error)
            done.set()

        with pytest.raises(ProviderSilent):
            run(late, 0.05)
        release.set()
        assert done.wait(10)
        assert type(caught[0]) is ProviderSilent


class TestJpegSize:
    @pytest.mark.parametrize("progressive", [False, True])
    def test_reads_what_pillow_writes(self, progressive: bool) -> None:
        """Width and height of baseline and progressive files, past other segments."""
        target = io.BytesIO()
        picture = Image.new("RGB", (300, 257))
        picture.save(target, "JPEG", progressive=progressive, comment=b"x" * 500)
        assert jpeg_size(target.getvalue()) == (300, 257)

    @pytest.mark.parametrize(
        "data", [b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0\x00", b"\xff\xd8" * 50]
    )
    def test_anything_else_is_refused(self, data: bytes) -> None:
        """Truncated and foreign files are no pictures for a provider."""
        with pytest.raises(ProviderRejectedImage):
            jpeg_size(data)

    def test_the_check_picture_is_large_enough_for_all(self) -> None:
        """The harmless picture passes every provider's floor."""
        assert jpeg_size(harmless_jpeg()) == (256, 256)


class TestNetworkErrors:
    @pytest.mark.parametrize(
        ("raised", "kind"),
        [
            (httpx.ConnectError, ProviderUnavailable),
            (httpx.ConnectTimeout, ProviderUnavailable),
            (httpx.PoolTimeout, ProviderUnavailable),
            (httpx.ReadTimeout, ProviderSilent),
            (httpx.WriteTimeout, ProviderSilent),
            (httpx.ReadError, ProviderSilent),
            (httpx.RemoteProtocolError, ProviderSilent),
        ],
    )
    def test_httpx(self, raised: type[httpx.TransportError], kind: type) -> None:
        """Each transport error of httpx is one of the two."""

        def fail(request: httpx.Request) -> httpx.Response:
            raise raised("x", request=request)

        with (
            httpx.Client(transport=httpx.MockTransport(fail)) as client,
            pytest.raises(ProviderUnavailable) as caught,
        ):
            Call("acme", client, 5.0).run(lambda: send("GET", "http://x", {}, b""))
        assert type(caught.value) is kind

    def test_an_sdk_cannot_hide_why_nothing_came(self) -> None:
        """Whatever it makes of our error, or of none, the reason is ours."""

        def fail(request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("x", request=request)

        def swallow() -> str:
            with contextlib.suppress(ProviderUnavailable):
                send("GET", "http://x", {}, b"")
            return "fine"

        with (
            httpx.Client(transport=httpx.MockTransport(fail)) as client,
            pytest.raises(ProviderUnavailable, match="cannot be reached"),
        ):
            Call("acme", client, 5.0).run(swallow)


HEAD = b"HTTP/1.1 200 OK\r\n"
BOMB = gzip.compress(bytes(64 * 2**20))


def sized(body: bytes, *lines: bytes, head: bytes = HEAD) -> bytes:
    """An answer with its length."""
    return (
        head
        + b"".join(b"%s\r\n" % line for line in lines)
        + (b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    )


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], str]]:
    """Gives the address of a server that writes these bytes, whatever is asked, and hangs up."""
    servers: list[socketserver.TCPServer] = []

    def serve(data: bytes) -> str:
        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while self.rfile.readline().strip():
                    pass
                with contextlib.suppress(OSError):
                    self.wfile.write(data)

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}/"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.process
class TestAnswers:
    @pytest.mark.parametrize(
        "data",
        [
            sized(b"{}"),
            sized(gzip.compress(b"{}", mtime=0), b"Content-Encoding: gzip"),
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
        ],
        ids=["sized", "gzip", "chunked"],
    )
    def test_whole_answers(self, answering: Callable[[bytes], str], data: bytes) -> None:
        """With their length or in chunks, packed or not."""
        url = answering(data)
        assert run(lambda: send("GET", url, {}, b"").json_object()) == {}

    @pytest.mark.parametrize(
        "data",
        [
            HEAD + b"\r\n{}",
            HEAD + b"Content-Length: 9\r\n\r\n{}",
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
            sized(gzip.compress(b"{}", mtime=0)[:-3], b"Content-Encoding: gzip"),
            sized(gzip.compress(b"{}", mtime=0) + b"{}", b"Content-Encoding: gzip"),
            sized(b"{}", b"Content-Encoding: gzip"),
            sized(zlib.compress(b"{}"), b"Content-Encoding: deflate"),
            sized(b"{}", b"Content-Encoding: gzip, gzip"),
            sized(BOMB, b"Content-Encoding: gzip"),
            sized(b"{}" + b" " * 2**20),
            sized(b"{}", head=b"HTTP/1.1 201 Created\r\n"),
            sized(b"{}", head=b"HTTP/1.1 206 Partial Content\r\n"),
            sized(b"{}", b"Location: /", head=b"HTTP/1.1 302 Found\r\n"),
            sized(b'{"a": 1, "a": 2}'),
            sized(b'{"a": NaN}'),
            sized(b"[" * 100_000),
            b"HTTP/1.1 200 OK",
            b"",
        ],
    )
    def test_what_is_no_whole_answer_is_none(
        self, answering: Callable[[bytes], str], data: bytes
    ) -> None:
        """Cut, packed otherwise, too much, another status, or readable in two ways."""
        url = answering(data)
        with pytest.raises((ProviderAnswerUnknown, ProviderSilent)):
            run(lambda: send("GET", url, {}, b"").json_object())

    def test_a_bomb_takes_no_memory(self, answering: Callable[[bytes], str]) -> None:
        """64 MiB of zeros in 64 kB are not unpacked."""
        url = answering(sized(BOMB, b"Content-Encoding: gzip"))
        tracemalloc.start()
        try:
            with pytest.raises(ProviderAnswerUnknown):
                run(lambda: send("GET", url, {}, b""))
            assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
        finally:
            tracemalloc.stop()

    def test_an_error_keeps_its_status_whatever_its_body_is(
        self, answering: Callable[[bytes], str]
    ) -> None:
        """A proxy's broken 503 is a 503."""
        head = b"HTTP/1.1 503 Busy\r\n"
        url = answering(sized(b"{}", b"Content-Encoding: gzip", head=head))
        answer = run(lambda: send("GET", url, {}, b""))
        assert (answer.status, answer.body) == (503, b"")

    def test_the_deadline_closes_the_socket(self) -> None:
        """A server that drips headers for ever soon talks to nobody."""
        hung_up = threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as server:

            def drip() -> None:
                peer, _ = server.accept()
                with peer, contextlib.suppress(OSError):
                    peer.sendall(HEAD)
                    for number in range(10_000):
                        peer.sendall(b"x-%d: y\r\n" % number)
                        time.sleep(0.01)
                    return
                hung_up.set()

            thread = threading.Thread(target=drip)
            thread.start()
            url = f"http://127.0.0.1:{server.getsockname()[1]}/"
            with pytest.raises(ProviderSilent):
                run(lambda: send("GET", url, {}, b""), 0.3)
            assert hung_up.wait(10)
            thread.join()


class TestValues:
    @pytest.mark.parametrize("value", [None, True, "x", 101, -1, [], float("nan")])
    def test_what_is_no_share_is_none(self, value: object) -> None:
        """Only numbers inside the range become scores."""
        assert number(value, 100.0) is None

    def test_a_number_as_text_counts(self) -> None:
        """Some replies quote their numbers."""
        assert number("50", 100.0) == 0.5

    @pytest.mark.parametrize("body", [b"<html>", b"[1]", b"", b"\xff"])
    def test_only_objects_are_replies(self, body: bytes) -> None:
        """A list or a page is not understood."""
        answer = Answer(provider="aliyun", status=200, headers=httpx.Headers(), body=body)
        with pytest.raises(ProviderAnswerUnknown):
            answer.json_object()

    def test_cut_offs_include_their_ends(self) -> None:
        """0.85 blocks, 0.1 approves, between is uncertain."""
        decisions = [by_cut_offs(score, 0.1, 0.85) for score in (0.1, 0.11, 0.84, 0.85)]
        assert decisions == [
            Decision.APPROVE,
            Decision.UNCERTAIN,
            Decision.UNCERTAIN,
            Decision.BLOCK,
        ]
