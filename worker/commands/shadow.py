"""`avatarmod shadow`: let a second bundle or policy look at live uploads without deciding."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import click

from producer.connect import connect_store
from producer.errors import LedgerUnavailable
from producer.images import Images
from producer.logs import configure_logging
from producer.settings import load_settings
from worker.moderation.road import policy_in_use
from worker.settings import WorkerSettings
from worker.tools.scoring import open_scorers
from worker.tools.shadow import Shadow

#: Seconds between two looks at the ledger when it has nothing new.
IDLE_S = 2.0


@click.command()
@click.option("--bundle", "name", help="The bundle that looks on, or a pair such as a+b.")
@click.option(
    "--policy",
    "policy_file",
    type=click.Path(exists=True, path_type=Path),
    help="The policy that looks on. Default: the one in use.",
)
@click.option("--share", type=click.FloatRange(0, 1), default=0.1, show_default=True)
@click.option("--from-start", is_flag=True, help="Also what the ledger has already.")
@click.option("--once", is_flag=True, help="Stop when the ledger has nothing new.")
def shadow(
    name: str | None, policy_file: Path | None, share: float, from_start: bool, once: bool
) -> None:
    """Score a share of the uploads with another bundle or policy; it decides nothing.

    Differences stand in `avatarmod report`. Runs until Ctrl-C, at the lowest priority.
    """
    from worker.ledger.writer import Ledger
    from worker.process.supervisor import stop_on_signals

    settings = load_settings(WorkerSettings)
    configure_logging(settings, "shadow")
    os.nice(19)
    stop = stop_on_signals()
    policy = policy_in_use(settings, policy_file)
    with contextlib.ExitStack() as stack:
        ledger, images = Ledger.open(settings), Images(settings)
        stack.callback(ledger.close)
        stack.callback(images.close)
        [scorer] = stack.enter_context(open_scorers(settings, [name or settings.bundle], policy))
        policy = scorer.policy or policy
        judges = filter(None, (scorer.bundle.id, scorer.second_id, policy.version))
        key = hashlib.sha256(" ".join(judges).encode()).hexdigest()[:12]
        follower = Shadow(
            ledger=ledger,
            store=connect_store(settings),
            fetch=images.fetch,
            scorer=scorer,
            policy=policy,
            share=share,
            position_file=settings.data_folder / "shadow" / key,
        )
        if not from_start:
            follower.skip_to_now()
        while not stop.is_set():
            with contextlib.suppress(LedgerUnavailable):
                if follower.step():
                    continue
            if once:
                break
            stop.wait(IDLE_S)
    click.echo(f"looked at {follower.looked}, {follower.gone} were gone", err=True)
