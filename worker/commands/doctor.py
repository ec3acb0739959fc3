"""`avatarmod doctor`: checks what an operator would check at 3 a.m., and says what to do."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from typing import Literal
from urllib.parse import urlsplit

import click
import httpx
from kombu.exceptions import OperationalError
from rich.console import Console
from rich.table import Table

from producer.connect import (
    CONNECT_TIMEOUT_S,
    connect_store,
    find_redis_url,
    make_celery,
    running_instance,
)
from producer.errors import ConfigurationError
from producer.http_guard import check_reachable, parse_networks
from producer.settings import load_settings
from producer.store import Store
from worker.alarms import evaluate, gather, provider_statuses
from worker.policy import load_policy
from worker.settings import WorkerSettings, unknown_variables

#: Bytes of free disk below which the append-only file and the ledger are in danger.
LOW_DISK_BYTES = 500 * 2**20

#: Seconds that this host's clock may differ from Redis'; webhook receivers tolerate 300.
CLOCK_LIMIT_S = 30.0

Status = Literal["fine", "warning", "critical"]

MARKS = {"fine": "[green]fine[/]", "warning": "[yellow]warning[/]", "critical": "[red]critical[/]"}


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: Status
    message: str
    fix: str = ""


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
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("check", "status", "finding", "to do"):
            table.add_column(name, overflow="fold")
        for check in checks:
            table.add_row(check.name, MARKS[check.status], check.message, check.fix)
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
    try:
        settings = load_settings(WorkerSettings)
    except ConfigurationError as error:
        yield Check("settings", "critical", str(error), "correct the environment")
        return
    yield _settings()
    yield _policy(settings)
    yield _bundle(settings)
    yield _disk(settings)
    yield _callback(settings)
    try:
        store = connect_store(settings)
    except ConfigurationError as error:
        yield Check("redis", "critical", str(error), _redis_fix(settings))
        return
    if settings.broker_url is not None:
        yield _broker(settings)
    try:
        yield from _running(store, settings)
    finally:
        store.redis.close()


def _settings() -> Check:
    unknown = unknown_variables(os.environ)
    if not unknown:
        return Check("settings", "fine", "readable")
    found = "; ".join(
        f"{name} is no setting{f', {near} is' if near else ''}" for name, near in unknown.items()
    )
    return Check("settings", "warning", found, "correct or remove it: it has no effect")


def _policy(settings: WorkerSettings) -> Check:
    try:
        policy = load_policy(settings.policy_file)
    except ConfigurationError as error:
        return Check(
            "policy", "critical", str(error), "correct the file; workers do not start with it"
        )
    return Check("policy", "fine", f"{settings.policy_file or 'built in'}, {policy.version}")


def _redis_fix(settings: WorkerSettings) -> str:
    if settings.redis_url is None and running_instance(settings.data_folder) is not None:
        log_file = settings.data_folder / "valkey" / "valkey.log"
        return f"`avatarmod up` runs, its Valkey does not: look at the disk and at {log_file}"
    return "start `avatarmod up` or set the address"


def _broker(settings: WorkerSettings) -> Check:
    app = make_celery(settings, find_redis_url(settings))
    with app.connection_for_write() as connection:
        place = connection.as_uri()  # without the password
        try:
            connection.ensure_connection(max_retries=1, timeout=int(CONNECT_TIMEOUT_S))
        except (OperationalError, OSError) as error:
            return Check(
                "broker",
                "critical",
                f"{place} does not answer ({type(error).__name__}): uploads are accepted and wait",
                "start it, or correct AVATARMOD_BROKER_URL",
            )
    return Check("broker", "fine", f"{place} answers")


def _bundle(settings: WorkerSettings) -> Check:
    from worker.bundle import Bundle

    try:
        bundle = Bundle.load(settings.bundle, settings.models_folder)
    except ConfigurationError as error:
        return Check("bundle", "critical", str(error), "`avatarmod export` makes one")
    return Check("bundle", "fine", f"{bundle.id}, every hash is right")


def _callback(settings: WorkerSettings) -> Check:
    if not settings.callback_url:
        return Check("callback", "fine", "none configured: the web tier polls")
    parts = urlsplit(settings.callback_url)
    fix = "correct AVATARMOD_CALLBACK_URL, or list the network in AVATARMOD_PRIVATE_NETWORKS"
    if not settings.callback_secrets:
        return Check(
            "callback", "warning", "callbacks are not signed", "set AVATARMOD_CALLBACK_SECRETS"
        )
    try:
        check_reachable(
            parts.hostname or "", parts.port or 443, parse_networks(settings.private_networks)
        )
    except httpx.RequestError as error:
        return Check("callback", "critical", str(error), fix)
    return Check("callback", "fine", f"signed, to {parts.scheme}://{parts.netloc}")


def _disk(settings: WorkerSettings) -> Check:
    folder = settings.data_folder
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < LOW_DISK_BYTES:
        return Check(
            "disk",
            "critical",
            f"{free / 2**20:.0f} MiB free in {folder}",
            "make room: Redis refuses writes when its file cannot grow",
        )
    if not os.access(folder, os.W_OK):
        return Check("disk", "critical", f"{folder} is not writable", "correct its owner or mode")
    return Check("disk", "fine", f"{free / 2**30:.1f} GiB free in {folder}")


def _running(store: Store, settings: WorkerSettings) -> Iterator[Check]:
    offset_s = time.time() - store.now()
    if abs(offset_s) > CLOCK_LIMIT_S:
        yield Check(
            "clock",
            "warning",
            f"this host is {abs(offset_s):.0f} s {'ahead of' if offset_s > 0 else 'behind'} Redis",
            "synchronise the clocks; receivers refuse signatures that are five minutes off",
        )
    else:
        yield Check("clock", "fine", f"{offset_s:+.1f} s from Redis")
    yield from _workers(store)
    statuses = provider_statuses(store, settings)
    alarms = evaluate(gather(store, settings, statuses), settings)
    for alarm in alarms:
        yield Check(alarm.code, alarm.severity, alarm.message, alarm.fix)
    if not alarms:
        counts = store.open_counts()
        yield Check("queue", "fine", ", ".join(f"{n} {state}" for state, n in counts.items()))


def _workers(store: Store) -> Iterator[Check]:
    mine = importlib.metadata.version("avatar-moderation")
    workers = store.workers()
    if not workers:
        yield Check("workers", "critical", "none is alive", "start `avatarmod up`")
    for worker in workers:
        where = f"{worker['role']} on {worker['host']} (process {worker['pid']})"
        if worker["version"] != mine:
            yield Check(
                "worker",
                "warning",
                f"{where} runs version {worker['version']}, this is {mine}",
                "restart it after the upgrade",
            )
        else:
            yield Check("worker", "fine", where)
