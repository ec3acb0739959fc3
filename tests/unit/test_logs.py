"""Logs for people: what failed and where, without what the variables held."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import structlog

from producer.logs import configure_logging, quiet_logging
from producer.settings import Settings


@pytest.mark.parametrize(
    "configure",
    [quiet_logging, lambda: configure_logging(Settings(log_format="text"), process="api")],
    ids=["commands", "processes"],
)
def test_an_exception_is_shown_without_local_variables(
    configure: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """They may be a key or a password."""
    configure()
    secret = "hunter2"

    def call(token: str) -> None:
        raise RuntimeError(f"refused after {len(token)} characters")

    try:
        call(secret)
    except RuntimeError:
        structlog.get_logger().exception("call_failed")
    said = capsys.readouterr().err
    assert "refused after 7 characters" in said
    assert "test_logs.py" in said
    assert secret not in said
