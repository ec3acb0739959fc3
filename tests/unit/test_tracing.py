"""Tracing is off unless asked for, costs no import then, and says clearly what it lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from producer import tracing
from producer.errors import ConfigurationError
from tests.unit.test_architecture import ROOT, files, imports

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture(autouse=True)
def _no_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


@pytest.mark.process
def test_nothing_of_opentelemetry_is_imported_while_tracing_is_off() -> None:
    """In a fresh interpreter that starts, traces and ends."""
    code = (
        "import sys\n"
        "from producer.tracing import end_tracing, span, start_tracing\n"
        "start_tracing('io')\n"
        "with span('moderate', upload_id='a') as trace:\n"
        "    trace.note(views=1)\n"
        "end_tracing()\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


@pytest.mark.parametrize("path", [*files("producer"), *files("worker")], ids=str)
def test_one_module_knows_opentelemetry(path: Path) -> None:
    """And it imports it inside its functions only."""
    is_home = path.name == "tracing.py"
    found = [name for name in imports(path, at_import=is_home) if "opentelemetry" in name]
    assert found == []


def test_a_span_while_tracing_is_off_is_always_the_same_nothing() -> None:
    """No object is made on the hot path, and errors pass through."""
    assert tracing.span("a") is tracing.span("b", upload_id="x")
    with pytest.raises(ValueError, match="mine"), tracing.span("a"):
        raise ValueError("mine")


def test_absent_packages_are_named_with_the_extra_that_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that should trace and cannot refuses to start."""
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:4318")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigurationError, match=r"not installed: .*tracing"):
        tracing.start_tracing("io")


def test_another_protocol_is_refused_by_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Spans sent by the wrong protocol would be lost in silence."""
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(ConfigurationError, match="OTEL_EXPORTER_OTLP_PROTOCOL"):
        tracing.start_tracing("io")
