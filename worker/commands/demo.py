"""`avatarmod demo`: the whole way on one machine, shown: queue, batch, verdict, signed callback."""

from __future__ import annotations

import base64
import json
import os
import secrets
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from producer.logs import configure_logging
from producer.settings import load_settings
from worker.commands.scan import print_table, run_samples, samples_of
from worker.commands.up import print_banner
from worker.passage import Passage, Sample, summarise
from worker.receiver import Receiver
from worker.settings import WorkerSettings

#: Seconds to wait for the callbacks after the last verdict.
CALLBACK_WAIT_S = 30.0


@click.command()
@click.option("--once", is_flag=True, help="Stop after the table instead of serving on.")
@click.option(
    "--images",
    "folder",
    type=click.Path(exists=True, path_type=Path),
    help="Your own pictures instead of the samples.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (with --once).")
def demo(once: bool, folder: Path | None, as_json: bool) -> None:
    """Start everything, moderate sample pictures, verify every callback, show it all."""
    from worker.supervisor import Supervisor, stop_on_signals

    if as_json and not once:
        raise click.UsageError("--json goes with --once")
    # The secret exists before the workers do and goes to them by environment, never to a log.
    secret = SecretStr("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())
    samples = samples_of(folder) if folder else demo_samples()
    if not samples:
        raise click.UsageError(f"no pictures in {folder}")
    with Receiver(secret) as receiver:
        env = {
            "AVATARMOD_CALLBACK_URL": receiver.url,
            "AVATARMOD_CALLBACK_SECRETS": secret.get_secret_value(),
            "AVATARMOD_PRIVATE_NETWORKS": "127.0.0.0/8",
            "AVATARMOD_LOG_LEVEL": os.environ.get("AVATARMOD_LOG_LEVEL", "warning"),
        }
        os.environ.update(env)
        settings = load_settings(WorkerSettings)
        configure_logging(settings, "demo")
        console = Console(stderr=as_json)
        stop = stop_on_signals()
        with Supervisor(settings, stop=stop) as supervisor:
            print_banner(Console(stderr=True), supervisor.facts(), settings)
            passages, seconds = run_samples(settings, samples, stop)
            callbacks = _callbacks(receiver, passages)
            summary = summarise(passages, seconds)
            if as_json:
                uploads = [p.to_json() for p in passages]
                click.echo(
                    json.dumps({"uploads": uploads, "callbacks": callbacks, "summary": summary})
                )
            else:
                print_table(console, passages, summary)
                _print_callbacks(console, receiver, callbacks)
            if not once and not stop.is_set():
                console.print(_invitation(settings))
                supervisor.run_until(stop)
    if summary["failed"] or callbacks["verified"] != callbacks["received"]:
        raise SystemExit(1)


def demo_samples() -> list[Sample]:
    """The pictures of `samples.py` and a few files that are no pictures at all."""
    from worker.samples import demo_files

    return [
        Sample(name, lambda data=data: data)  # type: ignore[misc]
        for name, data in demo_files().items()
    ]


def _callbacks(receiver: Receiver, passages: list[Passage]) -> dict[str, int]:
    """Wait for one callback per settled upload and count what came."""
    states = {p.upload_id: str(p.avatar.state) for p in passages if p.avatar is not None}
    receiver.wait_for(set(states), states, CALLBACK_WAIT_S)
    received = [r for r in receiver.received if r.data.get("upload_id") in states or not r.verified]
    return {"received": len(received), "verified": sum(r.verified for r in received)}


def _print_callbacks(console: Console, receiver: Receiver, callbacks: dict[str, int]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    for name in ("callback", "upload", "state", "seq", "signature"):
        table.add_column(name)
    for received in receiver.received:
        data: dict[str, Any] = received.data
        table.add_row(
            received.webhook_id[:16] + "…",
            str(data.get("upload_id", "")),
            str(data.get("state", "")),
            str(data.get("seq", "")),
            "[green]verified[/]" if received.verified else "[red]wrong[/]",
        )
    console.print()
    console.print(table)
    console.print(
        f"[bold]{callbacks['received']} callbacks[/] received, {callbacks['verified']} verified"
    )


def _invitation(settings: WorkerSettings) -> str:
    return (
        "\nServing on. In another terminal:\n"
        f"  cp picture.png '{settings.image_folder}/my-upload-1'\n"
        "  .venv/bin/avatarmod enqueue my-upload-1\n"
        "  .venv/bin/avatarmod status my-upload-1\n"
        "  .venv/bin/avatarmod scan /some/folder\n"
        "Ctrl-C stops."
    )
