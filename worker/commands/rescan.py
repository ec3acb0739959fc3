"""`avatarmod rescan`: after a change of model or policy, change only what would be decided anew."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator

import click

from producer.connect import connect_store
from producer.contract import Stage
from producer.images import Images
from producer.logs import configure_logging
from producer.settings import load_settings
from worker.ledger.queries import LedgerReads
from worker.moderation.road import policy_in_use
from worker.settings import WorkerSettings
from worker.tools.rescan import Rescan
from worker.tools.scoring import open_scorers

#: Seconds between two looks while live uploads wait.
YIELD_S = 0.5

#: Uploads between two progress lines.
SAY_EVERY = 1_000


@click.command()
@click.option("--dry-run", is_flag=True, help="Count what would change; change nothing.")
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Most uploads a second.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def rescan(dry_run: bool, rate: float | None, as_json: bool) -> None:
    """Judge again, with the bundle and policy in use, what another one approved or blocked.

    Goes through the ledger, waits while live uploads do, and touches only uploads whose verdict
    differs; what a person or a provider decided stands.
    """
    from worker.ledger.writer import Ledger
    from worker.process.supervisor import stop_on_signals

    settings = load_settings(WorkerSettings)
    configure_logging(settings, "rescan")
    os.nice(10)
    stop, policy = stop_on_signals(), policy_in_use(settings)
    store = connect_store(settings)
    with contextlib.ExitStack() as stack:
        ledger, images = Ledger.open(settings), Images(settings)
        stack.callback(ledger.close)
        stack.callback(images.close)
        [scorer] = stack.enter_context(open_scorers(settings, [settings.bundle], policy))
        work = Rescan(
            store=store,
            fetch=images.fetch,
            scorer=scorer,
            policy=policy,
            has_reviewers=lambda region: bool(settings.route_of(region)),
            dry_run=dry_run,
        )
        for count, _ in enumerate(work.run(upload_ids(ledger)), start=1):
            while store.waiting(Stage.MODERATE)["waiting"] and not stop.wait(YIELD_S):
                continue
            if stop.wait(1 / rate if rate else 0):
                break
            if count % SAY_EVERY == 0 and not sys.stderr.isatty():
                click.echo(f"{count} looked at", err=True)
    found = work.done.to_json()
    if as_json:
        click.echo(json.dumps({"dry_run": dry_run, "finished": not stop.is_set(), **found}))
        return
    said = ", ".join(f"{number} {name}" for name, number in found["outcomes"].items())
    changes = ", ".join(f"{number} {name}" for name, number in found["changes"].items())
    click.echo(f"{'stopped' if stop.is_set() else 'finished'}: {said or 'nothing to look at'}")
    click.echo(f"{'would change' if dry_run else 'changed'}: {changes or 'nothing'}")


def upload_ids(ledger: LedgerReads) -> Iterator[str]:
    """Every upload that the model once judged, each once."""
    seen: set[str] = set()
    for row in ledger.judged():
        if row["upload_id"] not in seen:
            seen.add(row["upload_id"])
            yield row["upload_id"]
