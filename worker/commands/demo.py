"""`avatarmod demo`: the whole way on one machine, shown: queue, batch, verdict, signed callback."""

from __future__ import annotations

import json
import os
import shlex
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from producer.commands.shown import Rows, styled
from producer.environment import ENV_FILE, ENV_PREFIX, from_file
from producer.logs import configure_logging
from producer.settings import load_settings
from worker.callback import new_secret
from worker.commands.banner import print_banner
from worker.commands.scan import print_table, run_samples, samples_of
from worker.demo.webhook_receiver import Receiver
from worker.settings import WorkerSettings
from worker.tools.send_and_wait import SETTLED, Passage, Sample, summarise

#: Seconds to wait for the callbacks after the last verdict.
CALLBACK_WAIT_S = 30.0

#: Settings that the demo takes from its surroundings: what it runs with, not whom it talks to.
KEPT = frozenset(
    {
        "ALLOW_RANDOM_WEIGHTS",
        "API_HOST",
        "API_PORT",
        "BUNDLE",
        "EXECUTION_PROVIDERS",
        "LOG_FORMAT",
        "LOG_LEVEL",
        "MAX_RSS_MB",
        "MICRO_BATCH",
        "MODERATE_PROCESSES",
        "POLICY_FILE",
        "THREADS",
    }
)


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
    from worker.process.supervisor import Supervisor, stop_on_signals

    if as_json and not once:
        raise click.UsageError("--json goes with --once")
    # The secret exists before the workers do and goes to them by environment, never to a log.
    secret = new_secret()
    samples = samples_of(folder) if folder else demo_samples()
    if not samples:
        raise click.UsageError(f"no pictures in {folder}")
    with Receiver(secret) as receiver:
        settings = _stand_alone(
            {
                "AVATARMOD_CALLBACK_URL": receiver.url,
                "AVATARMOD_CALLBACK_SECRETS": secret.get_secret_value(),
                "AVATARMOD_PRIVATE_NETWORKS": "127.0.0.0/8",
            }
        )
        configure_logging(settings, "demo")
        console = Console(stderr=as_json)
        stop = stop_on_signals()
        with Supervisor(settings, stop=stop) as supervisor:
            print_banner(Console(stderr=True), supervisor.facts(), settings)
            passages, seconds = run_samples(settings, samples, stop, callback_url=None)
            callbacks = _callbacks(receiver, passages, stop)
            summary = summarise(passages, seconds, interrupted=stop.is_set())
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


def _stand_alone(env: Mapping[str, str]) -> WorkerSettings:
    """Settings that join nothing: no Redis, ledger, provider or web tier that is configured here.

    The rest of the environment is changed for the workers too, which inherit it.
    """
    configured = load_settings(WorkerSettings)
    known = {**from_file(), **os.environ}
    for name in [name for name in known if name.upper().startswith(ENV_PREFIX)]:
        os.environ.pop(name, None)
        if name.upper().removeprefix(ENV_PREFIX) in KEPT:
            os.environ[name] = known[name]
    os.environ[ENV_FILE] = ""
    os.environ.setdefault("AVATARMOD_LOG_LEVEL", "warning")
    os.environ["AVATARMOD_DATA_FOLDER"] = str(configured.data_folder.absolute() / "demo")
    os.environ["AVATARMOD_MODELS_FOLDER"] = str(configured.models_folder.absolute())
    os.environ.update(env)
    return load_settings(WorkerSettings)


def demo_samples() -> list[Sample]:
    """The pictures of `samples.py` and a few files that are no pictures at all."""
    from worker.demo.pictures import demo_files

    return [
        Sample(name, lambda data=data: data)  # type: ignore[misc]
        for name, data in demo_files().items()
    ]


def _callbacks(
    receiver: Receiver, passages: list[Passage], stop: threading.Event
) -> dict[str, int]:
    """Wait for one callback per settled upload, or stop, and count what came."""
    avatars = (p.avatar for p in passages if p.avatar is not None)
    states = {a.upload_id: str(a.state) for a in avatars if a.state in SETTLED}
    deadline_s = time.monotonic() + CALLBACK_WAIT_S
    while not receiver.wait_for(set(states), states, 0.2):
        if stop.is_set() or time.monotonic() > deadline_s:
            break
    ours = {p.upload_id for p in passages}
    received = [r for r in receiver.received if r.data.get("upload_id") in ours or not r.verified]
    return {"received": len(received), "verified": sum(r.verified for r in received)}


def _print_callbacks(console: Console, receiver: Receiver, callbacks: dict[str, int]) -> None:
    table = Rows("callback", "upload", "state", "seq", "signature", title_justify="left")
    for received in receiver.received:
        data: dict[str, Any] = received.data
        table.add_row(
            received.webhook_id[:16] + "…",
            str(data.get("upload_id", "")),
            str(data.get("state", "")),
            str(data.get("seq", "")),
            styled("verified", "green") if received.verified else styled("wrong", "red"),
        )
    console.print()
    console.print(table)
    console.print(
        f"[bold]{callbacks['received']} callbacks[/] received, {callbacks['verified']} verified"
    )


def _invitation(settings: WorkerSettings) -> str:
    return (
        "\nServing on. In another terminal:\n"
        f"  export AVATARMOD_DATA_FOLDER={shlex.quote(str(settings.data_folder))}\n"
        f"  cp picture.png '{settings.image_folder}/my-upload-1'\n"
        "  .venv/bin/avatarmod enqueue my-upload-1\n"
        "  .venv/bin/avatarmod status my-upload-1\n"
        "  .venv/bin/avatarmod scan /some/folder\n"
        "Ctrl-C stops."
    )
