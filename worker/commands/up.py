"""`avatarmod up`: everything one machine needs, until Ctrl-C."""

from __future__ import annotations

import os
from typing import Any

import click
import structlog
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from producer.settings import load_settings
from worker.settings import WorkerSettings, unknown_variables

log = structlog.get_logger()


@click.command()
def up() -> None:
    """Run broker (if none is configured) and workers until Ctrl-C or SIGTERM."""
    from producer.logs import configure_logging
    from worker.supervisor import Supervisor, stop_on_signals

    settings = load_settings(WorkerSettings)
    configure_logging(settings, "up")
    for name, nearest in unknown_variables(os.environ).items():
        log.warning("unknown_setting", name=name, nearest=nearest, effect="none")
    stop = stop_on_signals()
    with Supervisor(settings, stop=stop) as supervisor:
        print_banner(Console(stderr=True), supervisor.facts(), settings)
        supervisor.run_until(stop)


def print_banner(console: Console, facts: dict[str, Any], settings: WorkerSettings) -> None:
    """What runs, on which data: the first thing an operator wants to see."""
    table = Table.grid(padding=(0, 2))
    engine: dict[str, Any] = next((w for w in facts["workers"] if w["role"] == "moderate"), {})
    rows = [
        ("broker", facts["broker"]),
        ("bundle", engine.get("bundle", "no moderate worker here")),
        (
            "engine",
            f"{', '.join(engine.get('execution_providers', []))}; "
            f"{engine.get('threads')} thread(s), micro-batch {engine.get('micro_batch')}",
        ),
        ("policy", f"{settings.policy_file or 'built in'}, version {engine.get('policy')}"),
        ("callbacks", settings.callback_url or "none: poll with `avatarmod status ID`"),
        ("images", settings.image_folder),
        ("data", facts["data"]),
        *_web_rows(facts),
        ("workers", ", ".join(f"{w['role']} ({w['pid']})" for w in facts["workers"])),
    ]
    for name, value in rows:
        table.add_row(f"[bold]{name}[/bold]", escape(str(value)))
    console.print(table)
    console.print("Ready. Ctrl-C stops; nothing in the queue is lost.", style="green")


def _web_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Where API and console are; the secrets of the first start are shown this once."""
    url = next((worker["url"] for worker in facts["workers"] if worker["role"] == "api"), None)
    if url is None:
        return [("api", "none here: install 'avatar-moderation[api]' for API and console")]
    rows = [("api", f"{url}/v1/uploads"), ("console", f"{url}/console")]
    access = facts["access"]
    if access and access.api_key:
        rows.append(("api key", f"{access.api_key} (kept in {facts['data']}/api-key)"))
    if access and access.password:
        kept = f"{facts['data']}/console-password"
        rows.append(("sign in", f"admin, {access.password} (kept in {kept})"))
    return rows
