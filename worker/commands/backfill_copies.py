"""`avatarmod backfill --safe-copies`: copies for what was approved before they were switched on."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from contextlib import ExitStack

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from producer.connect import connect_store
from producer.errors import ConfigurationError
from producer.images import Images
from producer.plain import counted
from producer.safe_copies import SafeCopies
from worker.image.decoder import DecodeLimits, Decoder, ViewOptions
from worker.image.preprocess import InputSpec
from worker.safe_copies import Copier
from worker.settings import WorkerSettings
from worker.tools.safe_copies import CopyBackfill

#: The options are for scoring; a copy does not depend on them.
_SPEC = InputSpec(
    width_px=224, height_px=224, resize="stretch", resize_px=224, interpolation="bilinear"
)


def make_missing_copies(
    settings: WorkerSettings, *, rate: float | None, callbacks: bool, dry_run: bool, as_json: bool
) -> None:
    """Make what is missing, or count it; prints what came of it.

    Raises:
        ConfigurationError: safe copies are off.
    """
    from worker.process.supervisor import stop_on_signals

    if not settings.safe_copies:
        raise ConfigurationError("set AVATARMOD_SAFE_COPIES to a folder or s3://bucket/prefix")
    store = connect_store(settings)
    missing = list(store.copies.missing())
    stop, outcomes = stop_on_signals(), Counter[str]()
    if not dry_run:
        os.nice(10)
        with ExitStack() as stack:
            images = Images(settings)
            stack.callback(images.close)
            limits = DecodeLimits(**settings.decode_limits())  # type: ignore[arg-type]
            decoder = stack.enter_context(Decoder(limits, ViewOptions(spec=_SPEC)))
            copier = Copier(
                store=store,
                fetch=images.fetch,
                encoder=decoder,
                copies=SafeCopies(settings),
                max_side_px=settings.safe_copy_max_side_px,
            )
            work = CopyBackfill(store, copier, callbacks=callbacks, stop=stop)
            bar = stack.enter_context(
                Bar(
                    TextColumn("safe copies"),
                    BarColumn(),
                    MofNCompleteColumn(),
                    console=Console(stderr=True),
                    disable=not sys.stderr.isatty(),
                )
            )
            for _ in bar.track(work.run(missing), total=len(missing)):
                if stop.wait(1 / rate if rate else 0):
                    break
            outcomes = work.outcomes
    finished = not stop.is_set()
    if as_json:
        found = {"finished": finished, "total": len(missing), "outcomes": dict(outcomes)}
        click.echo(json.dumps({"dry_run": dry_run, **found}))
        return
    said = ", ".join(f"{number} {outcome}" for outcome, number in outcomes.items())
    without = f"{counted(len(missing), 'approved upload')} without a safe copy"
    click.echo(f"{'finished' if finished else 'stopped'}: {without}{f'; {said}' if said else ''}")
