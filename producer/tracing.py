"""OpenTelemetry spans for operators, off unless OTEL_EXPORTER_OTLP_ENDPOINT names a collector.

`start_tracing` reads OpenTelemetry's own variables, the only settings that are not `AVATARMOD_*`;
`span` is called on the way of an upload. While tracing is off it costs one comparison, and nothing
of OpenTelemetry is imported. Spans carry ids, counts and codes: no bytes, no address, no secret.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from producer.errors import ConfigurationError
from producer.installed import how_to_install

#: Either of them switches tracing on.
ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

#: Either of them may name another protocol than the one that is spoken here.
PROTOCOL_VARIABLES = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")

#: Seconds that the last spans may take to leave when a process ends; below every stop timeout.
END_S = 3.0

#: What redis-py looks for when it is imported.
_FIGURES = "opentelemetry.sdk.metrics"

Fact = str | int | float | bool | Sequence[str]

# One for the process, as everything in OpenTelemetry is.
_tracer: Any = None
_provider: Any = None


class Span:
    """What a step notes about itself; this one keeps nothing."""

    def note(self, **facts: Fact) -> None:
        """Add attributes."""

    def fail(self, error: BaseException) -> None:
        """Mark as failed, with the name of the error and not its words."""


class _LiveSpan(Span):
    def __init__(self, span: Any) -> None:
        self._span = span

    def note(self, **facts: Fact) -> None:
        self._span.set_attributes(facts)

    def fail(self, error: BaseException) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_status(StatusCode.ERROR, type(error).__name__)
        self.note(**{"error.type": type(error).__name__})


_OFF = contextlib.nullcontext(Span())


def start_tracing(service: str) -> None:
    """Send the spans of this process to the collector of the environment, if one is named.

    Args:
        service: `moderate`, `io` or `api`; reported as `avatarmod-<service>` unless
            OTEL_SERVICE_NAME says otherwise.

    Raises:
        ConfigurationError: a collector is named, but the packages are absent or the protocol is
            another one.
    """
    global _tracer, _provider
    if not any(map(os.environ.get, ENDPOINT_VARIABLES)):
        return
    if os.environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return
    for name in PROTOCOL_VARIABLES:
        if os.environ.get(name, "http/protobuf") != "http/protobuf":
            raise ConfigurationError(f"{name}: spans are sent by http/protobuf only (port 4318)")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ConfigurationError(
            f"{ENDPOINT_VARIABLES[0]} is set, but tracing is not installed: "
            + how_to_install("tracing")
        ) from None
    version = importlib.metadata.version("avatar-moderation")
    resource = Resource.create(
        {
            "service.name": os.environ.get("OTEL_SERVICE_NAME") or f"avatarmod-{service}",
            "service.version": version,
            "process.pid": os.getpid(),
        }
    )
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = _provider.get_tracer("avatarmod", version)


def end_tracing() -> None:
    """Send what is left, for a few seconds at most: a collector that is away delays no stop."""
    global _tracer, _provider
    provider, _provider, _tracer = _provider, None, None
    if provider is not None:
        last = threading.Thread(target=provider.shutdown, name="tracing-end", daemon=True)
        last.start()
        last.join(END_S)


def span(name: str, *, parent: str = "", **facts: Fact) -> AbstractContextManager[Span]:
    """A span around a step; one that the step raises out of is marked as failed.

    Args:
        name: of the step, such as `moderate`; few different ones.
        parent: a W3C `traceparent` header; empty: the span around this one, if any.
        facts: attributes. A span without `upload_id` takes that of the span around it.
    """
    return _OFF if _tracer is None else _live(_tracer, name, parent, facts)


@contextlib.contextmanager
def _live(tracer: Any, name: str, parent: str, facts: dict[str, Fact]) -> Iterator[Span]:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    around: Any = trace.get_current_span()
    inherited = (getattr(around, "attributes", None) or {}).get("upload_id")
    if inherited is not None:
        facts = {"upload_id": inherited, **facts}
    context = TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else None
    with tracer.start_as_current_span(
        name,
        context=context,
        attributes=facts,
        # The words of an error are for the log.
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        live = _LiveSpan(current)
        try:
            yield live
        except BaseException as error:
            live.fail(error)
            raise


@contextlib.contextmanager
def plain_redis() -> Iterator[None]:
    """Let redis-py be imported without OpenTelemetry, for figures of its own that nobody asks for.

    Only in processes of ours: a web tier that imports the producer may ask for them.
    """
    if "redis" in sys.modules or _FIGURES in sys.modules:
        yield
        return
    sys.modules[_FIGURES] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_FIGURES]
