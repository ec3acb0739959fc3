"""Spans of real processes arrive at an OTLP/HTTP collector, and say nothing that is secret."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import Instance, eventually, picture
from worker.demo.webhook_receiver import Receiver

pytest.importorskip("opentelemetry.sdk")

Make = Callable[..., Instance]


class Collector:
    """Keeps every span that is posted to `/v1/traces`."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.path == "/v1/traces":
                    collector.bodies.append(body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Stay silent."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Collector:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def spans(self, name: str) -> list[dict[str, Any]]:
        """Attributes of the spans of a name, with `service` and `trace` added."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        found = []
        for body in list(self.bodies):
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                service = values(resource.resource.attributes)["service.name"]
                for scope in resource.scope_spans:
                    found += [
                        {
                            **values(span.attributes),
                            "service": service,
                            "trace": span.trace_id.hex(),
                        }
                        for span in scope.spans
                        if span.name == name
                    ]
        return found


def values(attributes: Any) -> dict[str, Any]:
    """Attributes of the wire as a plain dictionary."""
    plain = {}
    for pair in attributes:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind)
        plain[pair.key] = (
            [item.string_value for item in value.values] if kind == "array_value" else value
        )
    return plain


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector on a free port."""
    with Collector() as collector:
        yield collector


def test_an_upload_can_be_followed_by_its_id_through_api_workers_and_callback(
    collector: Collector, make_instance: Make, web_tier: Receiver, tmp_path: Path
) -> None:
    """Request, enqueue, prepare, moderate, review and callback each leave a span with the id."""
    # Everything is gray, and the fake provider answers.
    policy = tmp_path / "policy.toml"
    edges = "approve_below = 0.0\nblock_from = 1.0\n"
    policy.write_text(f"[photo]\n{edges}[drawn]\n{edges}")
    instance = make_instance(
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_BSP_SCHEDULE_DELAY="200",
        AVATARMOD_POLICY_FILE=str(policy),
        AVATARMOD_REVIEW_DOMESTIC="fake",
        AVATARMOD_FAKE_ANSWER="approve",
    )
    del instance.env["AVATARMOD_API_PORT"]
    with instance:
        url = next(
            word
            for word in instance.log.read_text().split()
            if word.startswith("http://") and word.endswith("/v1/uploads")
        )
        key = (instance.folder / "api-key").read_text().strip()
        trace = "4bf92f3577b34da6a3ce929d0e0e4736"
        answer = httpx.post(
            f"{url}?private=1",
            headers={"x-api-key": key, "traceparent": f"00-{trace}-00f067aa0ba902b7-01"},
            data={"upload_id": "traced"},
            files={"image": ("a.jpg", picture(1), "image/jpeg")},
        )
        assert answer.status_code == 202, answer.text
        eventually(
            lambda: any(r.data.get("state") == "approved" for r in web_tier.received),
            f"the verdict's callback\n{instance.tail()}",
        )
        eventually(
            lambda: len(collector.spans("callback")) >= len(web_tier.received),
            f"the callbacks' spans\n{instance.tail()}",
        )
    [request] = collector.spans("request")
    assert request["service"] == "avatarmod-api"
    assert (request["method"], request["status"]) == ("POST", 202)
    [enqueue] = collector.spans("enqueue")
    assert enqueue["upload_id"] == ["traced"]
    assert {request["trace"], enqueue["trace"]} == {trace}
    for step in ("fetch", "decode"):
        [prepared] = collector.spans(step)
        assert (prepared["service"], prepared["upload_id"]) == ("avatarmod-moderate", "traced")
    [moderate] = collector.spans("moderate")
    assert moderate["service"] == "avatarmod-moderate"
    assert (moderate["upload_id"], moderate["uploads"]) == (["traced"], 1)
    assert moderate["views"] >= 1
    [review] = collector.spans("review")
    assert (review["upload_id"], review["outcome"]) == ("traced", "answered")
    [call] = collector.spans("review_call")
    assert (call["upload_id"], call["provider"]) == ("traced", "fake")
    assert (call["outcome"], call["trace"]) == ("approve", review["trace"])
    # One for every transition the web tier hears of: sent to review, approved.
    callbacks = collector.spans("callback")
    assert {callback["service"] for callback in callbacks} == {"avatarmod-io"}
    assert {(span["upload_id"], span["status"], span["attempt"]) for span in callbacks} == {
        ("traced", 204, 1)
    }
    sent = b"".join(collector.bodies)
    for secret in (b"private=1", key.encode(), web_tier.url.encode(), b"whsec_", b"\xff\xd8\xff"):
        assert secret not in sent


def test_a_collector_that_is_away_delays_neither_work_nor_stop(
    make_instance: Make, web_tier: Receiver
) -> None:
    """The upload is decided and the instance stops as if there were no tracing."""
    instance = make_instance(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    with instance:
        instance.put_image("untraced", picture(2))
        with instance.producer() as producer:
            producer.enqueue("untraced")
        eventually(
            lambda: any(r.data.get("upload_id") == "untraced" for r in web_tier.received),
            f"the callback arrives\n{instance.tail()}",
        )
        assert instance.stop() == 0, instance.tail()
    assert "worker_killed" not in instance.log.read_text()
