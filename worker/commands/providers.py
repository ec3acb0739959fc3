"""`avatarmod providers`: who gives the second opinion, how they stand, and whether they answer."""

from __future__ import annotations

import dataclasses
import json
import random
import sys
from datetime import datetime
from zoneinfo import ZoneInfo

import click
from rich.console import Console

from producer.commands.shown import Rows, styled
from producer.connect import connect_store
from producer.errors import ConfigurationError
from producer.settings import load_settings
from worker.review.check import Check, check_provider
from worker.review.leave import ProviderStatus
from worker.review.limits import Limits
from worker.settings import WorkerSettings
from worker.tools.figures import unit

STATE_COLOURS = {"ready": "green", "paused": "yellow", "probing": "yellow", "open": "red"}

NONE_CONFIGURED = (
    "no review provider is configured, so every gray picture waits for a person: set "
    "AVATARMOD_REVIEW_DOMESTIC or AVATARMOD_REVIEW_OVERSEAS, for example to aliyun2,tencent"
)


@click.group()
def providers() -> None:
    """Review providers: the second opinion on gray pictures."""


@providers.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_command(as_json: bool) -> None:
    """Show limits, budget left and breaker state of every configured provider."""
    settings = load_settings(WorkerSettings)
    if not settings.review_providers and not as_json:
        click.echo(NONE_CONFIGURED)
        return
    limits = _limits(settings)
    rows = [limits.status(name) for name in settings.review_providers]
    calls, yuan = limits.total_today()
    if as_json:
        total = {
            "calls_today": calls,
            "daily_calls": settings.review_daily_calls,
            "yuan_today": yuan,
            "daily_yuan": settings.review_daily_yuan,
            "timezone": settings.review_budget_timezone,
            "when_spent": settings.review_budget_spent,
        }
        found = [dataclasses.asdict(row) for row in rows]
        click.echo(json.dumps({"providers": found, "total": total}))
        return
    Console().print(_status_table(rows, settings))
    click.echo(
        f"\nAll together today ({settings.review_budget_timezone}): "
        f"{_used(calls, settings.review_daily_calls)} calls, "
        f"{_used(yuan, settings.review_daily_yuan)} yuan; "
        f"when spent: {settings.review_budget_spent}"
    )


@providers.command()
@click.argument("names", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def check(names: tuple[str, ...], as_json: bool) -> None:
    """Call every configured provider (or NAMES) once with a harmless picture.

    A call is billed like any other. A provider that answers has its breaker closed. Exit code 1
    when one does not answer.
    """
    settings = load_settings(WorkerSettings)
    configured = settings.review_providers
    unknown = [name for name in names if name not in configured]
    if unknown:
        raise click.UsageError(
            f"{', '.join(unknown)} is not configured; configured: {', '.join(configured) or 'none'}"
        )
    if not configured:
        raise ConfigurationError(NONE_CONFIGURED)
    limits: Limits | None = None
    try:
        limits = _limits(settings)
    except ConfigurationError as error:
        click.echo(f"these calls are not booked on the budget: {error}", err=True)
    results = []
    for name in names or configured:
        click.echo(f"asking {name} ...", err=True)
        results.append(check_provider(name, settings, limits))
    if as_json:
        click.echo(json.dumps([result.to_dict() for result in results]))
    else:
        Console().print(_check_table(results))
    if not all(result.is_fine for result in results):
        sys.exit(1)


def _limits(settings: WorkerSettings) -> Limits:
    store = connect_store(settings)
    return Limits(*store.limits_client(), settings, random.random)


def _status_table(rows: list[ProviderStatus], settings: WorkerSettings) -> Rows:
    first = ("provider", "regions", "state", "calls/s", "under way", "waiting", "latency")
    table = Rows(*first, "calls today", f"{unit(settings.currency)} today", "last error")
    zone = ZoneInfo(settings.review_budget_timezone)
    for row in rows:
        until = datetime.fromtimestamp(row.until, zone).strftime(" until %H:%M:%S %Z")
        low = " (80 % used)" if row.low else ""
        table.add_row(
            row.name,
            ", ".join(row.regions),
            styled(f"{row.state}{until if row.until else ''}", STATE_COLOURS[row.state]),
            f"{row.rate_per_s:g}",
            f"{row.in_flight} of {row.concurrency}",
            str(row.waiting),
            f"{row.latency_s:.2f} s" if row.latency_s is not None else "-",
            _used(row.calls_today, row.daily_calls) + low,
            _used(row.yuan_today, row.daily_yuan),
            row.reason or row.last_error or "-",
        )
    return table


def _check_table(results: list[Check]) -> Rows:
    table = Rows("provider", "reachable", "authenticated", "verdict", "latency", "what to fix")
    words = {True: styled("yes", "green"), False: styled("no", "red"), None: styled("-", "")}
    for result in results:
        table.add_row(
            result.provider,
            words[result.reachable],
            words[result.authenticated],
            result.verdict or "-",
            f"{result.latency_s:.2f} s" if result.latency_s is not None else "-",
            result.fix or "nothing",
        )
    return table


def _used(used: float, limit: float | None) -> str:
    text = f"{used:.2f}" if isinstance(used, float) else str(used)
    return text if limit is None else f"{text} of {limit:g}"
