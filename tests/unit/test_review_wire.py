"""The helpers of the adapters: deadline, picture size, network errors, Retry-After."""

from __future__ import annotations

import email.utils
import io
import threading
import time

import httpx
import pytest
from PIL import Image

from producer.contract import Decision
from producer.errors import (
    ProviderAnswerUnknown,
    ProviderRejectedImage,
    ProviderSilent,
    ProviderUnavailable,
)
from worker.review.base import by_cut_offs, call_with_deadline, jpeg_size
from worker.review.check import harmless_jpeg
from worker.review.wire import as_json_object, network_error, number, retry_after_s, send


class TestDeadline:
    def test_the_result_comes_through(self) -> None:
        """A call in time is as if there were no deadline."""
        assert call_with_deadline(lambda: 7, 5.0) == 7

    def test_an_error_comes_through(self) -> None:
        """The caller sees the call's own exception."""
        with pytest.raises(ZeroDivisionError):
            call_with_deadline(lambda: 1 // 0, 5.0)

    def test_a_late_call_is_given_up_on(self) -> None:
        """The caller goes on although the call does not end."""
        release = threading.Event()
        started_s = time.monotonic()
        with pytest.raises(ProviderSilent):
            call_with_deadline(lambda: release.wait(30), 0.05)
        release.set()
        assert time.monotonic() - started_s < 10


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
        "text",
        [
            "Failed to establish a new connection: [Errno 111] Connection refused",
            "HTTPSConnectionPool: ConnectTimeoutError(connect timeout=2.0)",
            "NameResolutionError: Failed to resolve 'host'",
        ],
    )
    def test_what_was_never_sent_is_not_billed(self, text: str) -> None:
        """The kind without doubt is `ProviderUnavailable` itself."""
        assert type(network_error("tencent", text)) is ProviderUnavailable

    @pytest.mark.parametrize(
        "text",
        [
            "Read timed out. (read timeout=6)",
            "Connection aborted: RemoteDisconnected",
            "IncompleteRead",
        ],
    )
    def test_what_may_have_been_read_may_be_billed(self, text: str) -> None:
        """In doubt the money is spent, and the text is not repeated."""
        error = network_error("tencent", text)
        assert type(error) is ProviderSilent
        assert text not in str(error)

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

        with httpx.Client(transport=httpx.MockTransport(fail)) as client:
            request = client.build_request("GET", "http://x")
            with pytest.raises(ProviderUnavailable) as caught:
                send("huggingface", client, request)
        assert type(caught.value) is kind


class TestValues:
    def test_retry_after(self) -> None:
        """Seconds and dates are read, the rest is ignored."""
        assert retry_after_s("17") == 17
        assert retry_after_s(None) is None
        assert retry_after_s("soon") is None
        assert retry_after_s(email.utils.formatdate(1000.0, usegmt=True), 990.0) == 10
        assert retry_after_s(email.utils.formatdate(1000.0, usegmt=True), 2000.0) == 0

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
        with pytest.raises(ProviderAnswerUnknown):
            as_json_object("aliyun", body)

    def test_cut_offs_include_their_ends(self) -> None:
        """0.85 blocks, 0.1 approves, between is uncertain."""
        decisions = [by_cut_offs(score, 0.1, 0.85) for score in (0.1, 0.11, 0.84, 0.85)]
        assert decisions == [
            Decision.APPROVE,
            Decision.UNCERTAIN,
            Decision.UNCERTAIN,
            Decision.BLOCK,
        ]
