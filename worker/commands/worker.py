"""`avatarmod worker ROLE`: one worker process, as compose, systemd and `avatarmod up` start it."""

from __future__ import annotations

import click


@click.command()
@click.argument("role", type=click.Choice(["moderate", "io"]))
def worker(role: str) -> None:
    """Run one worker process until SIGTERM.

    `moderate` holds the model; `io` asks review providers and delivers callbacks.
    """
    from producer.errors import RedisUnreachable
    from producer.settings import load_settings
    from worker.app import run_worker
    from worker.settings import WorkerSettings

    settings = load_settings(WorkerSettings)
    try:
        raise SystemExit(run_worker(role, settings))  # type: ignore[arg-type]
    except RedisUnreachable as error:
        # Exit code 1: systemd and `avatarmod up` start it again; after code 2 they do not.
        raise click.ClickException(str(error)) from error
