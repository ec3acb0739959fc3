"""`avatarmod backup`: everything that an instance knows, in one file."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import click

from producer.plain import say
from producer.settings import load_settings
from worker.settings import WorkerSettings


@click.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--no-bundles", is_flag=True, help="Leave out the models, which are the largest.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def backup(file: Path | None, no_bundles: bool, as_json: bool) -> None:
    """Write Redis, ledger, policy and bundles into FILE, as of one moment, while all runs.

    By default `backups/<date>.tar.gz` in the data folder. Only you can read it: it holds hashes of
    keys and passwords. Not in it: pictures, settings, secrets, and a ledger of a database server.
    `avatarmod restore FILE` brings it back.
    """
    from worker.tools.backup import make_backup

    settings = load_settings(WorkerSettings)
    name = f"avatarmod-{datetime.now(UTC):%Y%m%d-%H%M%S}.tar.gz"
    target = file or settings.data_folder / "backups" / name
    facts = make_backup(settings, target, bundles=not no_bundles)
    size = target.stat().st_size
    if as_json:
        click.echo(json.dumps({"file": str(target), "bytes": size, **facts}))
        return
    say(f"{target}: {facts['keys']:,} keys of Redis, {size / 2**20:.1f} MiB")
    ledgers = {"sqlite": "the ledger", "elsewhere": "no ledger: dump your database server's own"}
    say(f"  {ledgers.get(facts['ledger'], 'no ledger: there is none')}")
    say(f"  {'the policy' if facts['policy'] else 'no policy file: the built-in one is in use'}")
    say(f"  bundles: {', '.join(facts['bundles']) or 'none'}")
