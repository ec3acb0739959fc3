"""`avatarmod doctor`: checks what an operator would check at 3 a.m., and says what to do."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING

import click
from rich.console import Console

from producer.commands.shown import Rows, styled
from producer.connect import connect_store, running_instance
from producer.errors import ConfigurationError
from producer.settings import load_settings
from worker.settings import WorkerSettings

if TYPE_CHECKING:
    from worker.tools.checks import Check

COLOURS = {"fine": "green", "warning": "yellow", "critical": "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--alive",
    type=click.Choice(["moderate", "io"]),
    help="Only ask whether a worker of this kind on this host is alive; for health checks.",
)
def doctor(as_json: bool, alive: str | None) -> None:
    """Check Redis, bundle, workers, queue, callbacks, providers, disk and clock.

    Exit code 1 when something is critical, 0 otherwise.
    """
    if alive is not None:
        _answer_alive(alive)
        return
    checks = list(_checks())
    worst = max(checks, key=lambda c: ("fine", "warning", "critical").index(c.status)).status
    if as_json:
        rows = [dataclasses.asdict(check) for check in checks]
        click.echo(json.dumps({"status": worst, "checks": rows}))
    else:
        table = Rows("check", "status", "finding", "to do")
        for check in checks:
            table.add_row(
                check.name, styled(check.status, COLOURS[check.status]), check.message, check.fix
            )
        Console().print(table)
    if worst == "critical":
        raise SystemExit(1)


def _answer_alive(role: str) -> None:
    store = connect_store(load_settings(WorkerSettings))
    here = socket.gethostname()
    found = [w for w in store.workers() if w["role"] == role and w["host"] == here]
    click.echo(f"{role}: {'alive' if found else 'no sign of life'} on {here}")
    if not found:
        raise SystemExit(1)


def _checks() -> Iterator[Check]:
    # Asked whether a worker lives, this command loads nothing of all this.
    from worker.tools import checks

    try:
        settings = load_settings(WorkerSettings)
    except ConfigurationError as error:
        yield checks.Check("settings", "critical", str(error), "correct the environment")
        return
    with _beside() as beside:
        models = beside.submit(_of_models, settings)
        others = [
            checks.image_store(settings),
            checks.disk(settings),
            *checks.privacy(settings),
            *checks.callback(settings),
            *checks.providers(settings),
            *([checks.broker(settings)] if settings.broker_url is not None else ()),
            *_of_redis(settings),
        ]
        yield checks.known_settings()
        yield from checks.environment()
        yield from models.result()
        yield from others


def _beside() -> Executor:
    """A copy of this process, which takes the other core; a process with threads is not copied."""
    if threading.active_count() > 1:
        return ThreadPoolExecutor(1)
    return ProcessPoolExecutor(1, multiprocessing.get_context("fork"))


def _of_models(settings: WorkerSettings) -> list[Check]:
    from worker.tools.checks_models import found

    return found(settings)


def _of_redis(settings: WorkerSettings) -> Iterator[Check]:
    from worker.tools.checks import Check
    from worker.tools.checks_running import running

    try:
        store = connect_store(settings)
    except ConfigurationError as error:
        yield Check("redis", "critical", str(error), _redis_fix(settings))
        return
    try:
        yield from running(store, settings)
    finally:
        store.close()


def _redis_fix(settings: WorkerSettings) -> str:
    if settings.redis_url is None and running_instance(settings.data_folder) is not None:
        log_file = settings.data_folder / "valkey" / "valkey.log"
        return f"`avatarmod up` runs, its Valkey does not: look at the disk and at {log_file}"
    return "start `avatarmod up` or set the address"
