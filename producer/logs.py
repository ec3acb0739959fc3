"""One log stream: a past-tense event and its fields, as text on a terminal and as JSON elsewhere.

Logs go to standard error, so that standard output stays free for what a command answers.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from producer.plain import plain
from producer.settings import Settings


def quiet_logging() -> None:
    """For short commands: warnings and errors only, on standard error."""
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
    ]
    renderer = _as_text()
    _handle(shared, [_plain_values, renderer], "WARNING")
    structlog.configure(
        processors=[*shared, _plain_values, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        # A command may configure the full logging after this.
        cache_logger_on_first_use=False,
    )


def configure_logging(settings: Settings, process: str = "") -> None:
    """Send structlog's and the standard library's records through one formatter.

    Args:
        settings: `log_format` and `log_level`.
        process: name shown on every line, for example `moderate`.
    """
    as_text = settings.log_format == "text" or (
        settings.log_format == "auto" and sys.stderr.isatty()
    )

    def add_process(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        if process:
            event.setdefault("process", process)
        return event

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        add_process,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if as_text else "iso", utc=not as_text),
    ]
    renderer: Any = _as_text(pad_event_to=24) if as_text else structlog.processors.JSONRenderer()
    last = (
        [_plain_values, renderer] if as_text else [structlog.processors.format_exc_info, renderer]
    )
    root = _handle(shared, last, settings.log_level.upper())
    for noisy in (
        "alembic",
        "httpx",
        "httpcore",
        "celery",
        "kombu",
        "amqp",
        "botocore",
        "urllib3",
        "uvicorn",
    ):
        logging.getLogger(noisy).setLevel(max(root.level, logging.WARNING))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _as_text(**options: Any) -> structlog.dev.ConsoleRenderer:
    """For people. The default way to show an exception prints local variables, secrets included."""
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(),
        exception_formatter=structlog.dev.plain_traceback,
        **options,
    )


def _plain_values(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """What came from elsewhere must not speak to the terminal."""
    return {
        name: plain(value) if isinstance(value, str) and name != "exception" else value
        for name, value in event.items()
    }


def _handle(shared: list[Any], last: list[Any], level: str) -> logging.Logger:
    """Write the standard library's records to standard error, with the fields they carry."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    return root
