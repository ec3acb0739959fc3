"""`avatarmod worker ROLE`: one worker process, as compose, systemd and `avatarmod up` start it."""

from __future__ import annotations

import click


@click.command()
@click.argument("role", type=click.Choice(["moderate", "io"]))
def worker(role: str) -> None:
    """Run one worker process until SIGTERM.

    `moderate` holds the model; `io` asks review providers and delivers callbacks.
    """
    from producer.settings import load_settings
    from worker.app import run_worker
    from worker.settings import WorkerSettings

    raise SystemExit(run_worker(role, load_settings(WorkerSettings)))  # type: ignore[arg-type]
