"""`avatarmod restore`: bring back a backup, or after Redis lost its data what the ledger knows."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress as Bar
from rich.progress import TextColumn, TimeElapsedColumn

from producer.connect import connect_store
from producer.plain import counted, say
from producer.record.store import Store
from producer.settings import load_settings
from worker.settings import WorkerSettings

#: Uploads that are named one by one.
MOST_NAMED = 20


@click.command()
@click.argument(
    "file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--from-ledger", is_flag=True, help="Bring back what the ledger in SQL knows.")
@click.option("--yes", is_flag=True, help="Do it; without this it is only said what would be done.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done, as without --yes.")
@click.option("--accept-loss", is_flag=True, help="Bring back nothing; end the alarm.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def restore(
    file: Path | None,
    from_ledger: bool,
    yes: bool,
    dry_run: bool,
    accept_loss: bool,
    as_json: bool,
) -> None:
    """Bring back everything from the FILE of a backup, or what a lost Redis knew --from-ledger.

    From a FILE of `avatarmod backup`: into a Redis that holds nothing yet, while no worker runs;
    ledger, policy and bundles go where the settings say, unless something is there. Afterwards
    --from-ledger adds what came after the backup.

    From the ledger: open uploads, people's decisions and paid opinions, after Redis lost its data.
    Safe beside live traffic, and to be repeated: what Redis knows is left as it is. Exit code 1
    when uploads are named that only the web tier can bring, 3 while events of this machine wait in
    a file for the ledger: nothing was done then.
    """
    if bool(file) + from_ledger + accept_loss != 1:
        raise click.UsageError("name the FILE of a backup, or say --from-ledger or --accept-loss")
    settings = load_settings(WorkerSettings)
    if file is not None:
        _from_file(file, settings, is_dry=dry_run or not yes, as_json=as_json)
        return
    store = connect_store(settings)
    if accept_loss:
        click.echo("the alarm ends" if store.data_sets.accept_loss() else "no loss was noted")
        return
    _from_ledger(store, settings, is_dry=dry_run or not yes, as_json=as_json)


def _from_file(file: Path, settings: WorkerSettings, *, is_dry: bool, as_json: bool) -> None:
    from worker.tools.backup import Backup

    found = Backup(file)
    done = [] if is_dry else found.restore(settings)
    if as_json:
        click.echo(json.dumps({"dry_run": is_dry, "backup": found.facts, "done": done}))
        return
    facts = found.facts
    say(f"{file}: made {facts['made_at']} by version {facts['version']}, {facts['keys']:,} keys")
    for line in done or ["nothing was changed; add --yes to do it"]:
        say(f"  {line}")


def _from_ledger(store: Store, settings: WorkerSettings, *, is_dry: bool, as_json: bool) -> None:
    from worker.ledger.spill import Spill
    from worker.ledger.writer import Ledger
    from worker.review.limits import Limits
    from worker.tools.restore import Restore

    if not Spill(settings.data_folder, settings.namespace).is_empty():
        click.echo(
            "events wait in a file of the data folder because the ledger's database was away; a "
            "running io worker brings them in within seconds. Then say this again",
            err=True,
        )
        raise SystemExit(3)
    book = Ledger.open(settings)
    limits = Limits(*store.limits_client(), settings, random.random)
    said, count = TextColumn("{task.description}"), TextColumn("{task.completed}")
    try:
        while book.drain(store):
            continue
        work = Restore(store, book, limits.keep_opinion, dry_run=is_dry)
        with Bar(
            said,
            count,
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        ) as bar:
            task = bar.add_task("restoring" if not is_dry else "looking", total=None)
            for _ in work.run():
                bar.advance(task)
        if not is_dry:
            while book.drain(store):
                continue
            store.data_sets.accept_loss()
    finally:
        book.close()
    done = work.done
    if as_json:
        click.echo(json.dumps({"dry_run": is_dry, **done.to_json()}))
    else:
        verb = "would be restored" if is_dry else "restored"
        uploads = ", ".join(f"{number} {state}" for state, number in sorted(done.uploads.items()))
        click.echo(f"uploads {verb}: {uploads or 'none'}")
        for name, counts in (
            ("decisions", done.decisions),
            ("pictures remembered", done.memory),
            ("paid opinions", done.opinions),
        ):
            click.echo(f"{name} {verb}: {counts['restored']} (known: {counts['known']})")
        if done.blocked_again:
            named = ", ".join(done.blocked_again[:MOST_NAMED])
            click.echo(f"approved meanwhile against a person's word, blocked again: {named}")
        for upload_id, why in done.lost[:MOST_NAMED]:
            click.echo(f"  {upload_id}: {why}")
        if len(done.lost) > MOST_NAMED:
            click.echo(f"  and {counted(len(done.lost) - MOST_NAMED, 'other upload')}")
        if is_dry:
            click.echo("nothing was changed; add --yes to do it")
    if done.lost:
        raise SystemExit(1)
