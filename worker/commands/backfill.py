"""`avatarmod backfill`: moderate what exists already, behind everything that is uploaded now."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
import humanize
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from producer.client import Producer
from producer.contract import NO_CALLBACK
from producer.errors import ConfigurationError
from producer.images import BACKFILL, Images
from producer.logs import configure_logging
from producer.plain import counted
from producer.settings import load_settings
from worker.commands.terminal import print_rows
from worker.settings import WorkerSettings
from worker.tools.backfill import (
    MOST_IN_QUEUE,
    Backfill,
    BackfillFile,
    Item,
    Progress,
    is_running,
    only_one,
    remove,
)
from worker.tools.backfill_sources import is_copied, list_source, slug
from worker.tools.figures import Table, span, unit, yuan


@click.command()
@click.argument("source", required=False, metavar="s3://BUCKET/PREFIX | FOLDER | IDS.csv")
@click.option("--name", help="Names this backfill; default: made from SOURCE.")
@click.option("--id-prefix", default="", help="Stands before a picture's path in its upload id.")
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Most pictures a second; default: as fast as the workers are idle.",
)
@click.option(
    "--window",
    type=click.IntRange(1, MOST_IN_QUEUE),
    default=128,
    show_default=True,
    help="Most pictures in the queue at once.",
)
@click.option(
    "--callbacks/--no-callbacks",
    default=None,
    help="Whether the web tier hears of the verdicts; default: where it knows the ids, so not of a "
    "FOLDER outside the image store without --id-prefix.",
)
@click.option("--dry-run", is_flag=True, help="Score a sample; say how long it takes and costs.")
@click.option(
    "--sample",
    "sample_size",
    type=click.IntRange(1, 10_000),
    default=200,
    show_default=True,
    help="Pictures of the dry run's sample.",
)
@click.option("--pause", "action", flag_value="pause", help="Let a running one wait (with --name).")
@click.option("--resume", "action", flag_value="resume", help="Let it go on (with --name).")
@click.option("--status", "action", flag_value="status", help="Show all backfills, or one by name.")
@click.option("--forget", "action", flag_value="forget", help="Drop a finished one (with --name).")
@click.option(
    "--safe-copies",
    is_flag=True,
    help="Without SOURCE: make the safe copies that approved uploads lack.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def backfill(
    source: str | None,
    name: str | None,
    id_prefix: str,
    rate: float | None,
    window: int,
    callbacks: bool | None,
    dry_run: bool,
    sample_size: int,
    action: str | None,
    safe_copies: bool,
    as_json: bool,
) -> None:
    """Send existing pictures through the queue at low priority; the same command goes on.

    IDS.csv has the column upload_id, and may have image (a name in the store, s3:// or https://)
    and region. Ctrl-C stops; nothing is sent twice.
    """
    settings = load_settings(WorkerSettings)
    configure_logging(settings, "backfill")
    if safe_copies:
        if source is not None or action is not None:
            raise click.UsageError("--safe-copies goes through the records; give no SOURCE")
        from worker.commands.backfill_copies import make_missing_copies

        make_missing_copies(
            settings, rate=rate, callbacks=callbacks is not False, dry_run=dry_run, as_json=as_json
        )
        return
    folder = settings.data_folder / "backfills"
    if action is not None:
        _act(folder, action, name, as_json)
        return
    if source is None:
        raise click.UsageError("name a SOURCE: s3://bucket/prefix, a folder or a CSV file")
    if dry_run:
        with (
            tempfile.TemporaryDirectory() as here,
            BackfillFile(Path(here) / "dry-run.sqlite3") as file,
        ):
            _list(settings, file, source, id_prefix)
            _dry_run(settings, file, source, sample_size, as_json)
        return
    path = folder / f"{slug(name or source)}.sqlite3"
    with only_one(path):
        is_new = not path.exists()
        with BackfillFile(path) as file:
            try:
                _list(settings, file, source, id_prefix)
            except Exception:
                if is_new:
                    remove(path)
                raise
            total = sum(file.counts().values())
            file.note("paused", "")
            if callbacks is None:
                callbacks = bool(id_prefix) or not is_copied(settings, source)
            finished = _run(settings, file, source, rate, window, callbacks)
            outcomes = file.outcomes()
    if as_json:
        found = {"finished": finished, "total": total, "outcomes": dict(outcomes)}
        click.echo(json.dumps(found))
    else:
        click.echo(
            f"{'finished' if finished else 'stopped'}: {counted(total, 'picture')}; "
            f"{_said(outcomes)}"
        )


def _list(settings: WorkerSettings, file: BackfillFile, source: str, prefix: str) -> None:
    file.list_items(source, list_source(settings, source, prefix))
    if not file.counts():
        raise ConfigurationError(f"no pictures in {source}")


def _said(outcomes: Counter[str]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()) or "–"


def _run(
    settings: WorkerSettings,
    file: BackfillFile,
    source: str,
    rate: float | None,
    window: int,
    callbacks: bool,
) -> bool:
    from worker.process.supervisor import stop_on_signals

    if settings.callback_url and not callbacks:
        click.echo("No callbacks: the web tier does not hear of these verdicts.", err=True)
    root, images = Path(source), Images(settings)
    start = f"{BACKFILL}/{slug(str(root))}/"

    def put(item: Item) -> None:
        images.put(item.image, (root / item.image.removeprefix(start)).read_bytes())

    work = Backfill(
        file,
        Producer.connect(settings),
        per_s=rate,
        window=window,
        put=put if is_copied(settings, source) else None,
        forget=lambda item: images.remove(item.image),
        callback_url=None if callbacks else NO_CALLBACK,
        stop=stop_on_signals(),
    )
    said_s = 0.0
    with Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task("backfill")

        def show(progress: Progress) -> None:
            nonlocal said_s
            bar.update(
                task,
                total=progress.total,
                completed=progress.settled,
                description=describe(progress),
            )
            if not sys.stderr.isatty() and time.monotonic() - said_s > 10:
                said_s = time.monotonic()
                line = f"{progress.settled}/{progress.total} {describe(progress)}"
                click.echo(line, err=True)

        try:
            return work.run(show)
        finally:
            images.close()


def describe(progress: Progress) -> str:
    """One line about how it goes."""
    if progress.paused:
        return "paused"
    left = "" if progress.left_s is None else f", {duration(progress.left_s)} left"
    return f"{progress.per_s:.1f} a second{left}"


def duration(seconds: float) -> str:
    """For people: `3 hours and 5 minutes`, `12 minutes`, `40 seconds`."""
    unit = "minutes" if seconds >= 90 else "seconds"
    return humanize.precisedelta(seconds, minimum_unit=unit, format="%.0f")


# -- dry run -------------------------------------------------------------------------------------


def _dry_run(
    settings: WorkerSettings, file: BackfillFile, source: str, count: int, as_json: bool
) -> None:
    from worker.tools.forecast import forecast

    root, images = Path(source), Images(settings)
    start = f"{BACKFILL}/{slug(str(root))}/"

    def read(item: Item) -> bytes:
        local = root / item.image.removeprefix(start)
        if root.is_dir() and local.is_file():
            return local.read_bytes()
        return images.fetch(item.image, item.upload_id)

    found = forecast(settings, file.sample(count), sum(file.counts().values()), read)
    images.close()
    if as_json:
        click.echo(json.dumps(found.to_json()))
        return
    expected, low, high = found.cost_yuan
    verdicts = ", ".join(f"{number} {verdict}" for verdict, number in found.verdicts.items())
    click.echo(f"{counted(found.total, 'picture')}; of {found.sampled} sampled: {verdicts}")
    click.echo(
        f"about {duration(found.duration_s)} with one worker and no live uploads "
        f"({1000 * found.seconds_per_picture:.0f} ms a picture)"
    )
    money = f"{yuan(expected)} {unit(settings.currency)} for providers ({span(low, high)})"
    click.echo(f"gray: {found.gray}; {money}")
    click.echo(f"money at {'; '.join(found.routes)}")


# -- others --------------------------------------------------------------------------------------


def _act(folder: Path, action: str, name: str | None, as_json: bool) -> None:
    known = sorted(folder.glob("*.sqlite3"))
    paths = [path for path in known if name is None or path.stem == slug(name)]
    if (name is None and action != "status") or (name is not None and not paths):
        there = ", ".join(path.stem for path in known) or "none"
        raise click.UsageError(f"give --name of a backfill; there are: {there}")
    rows = [_forget(path) if action == "forget" else _row(path, action) for path in paths]
    if as_json:
        click.echo(json.dumps(rows))
    elif not rows:
        click.echo("no backfills")
    else:
        print_rows(Console(), status_rows(rows))
        for row in rows:
            if hint := _hint(row):
                click.echo(hint)


def _row(path: Path, action: str) -> dict[str, Any]:
    with BackfillFile(path) as file:
        if action != "status":
            file.note("paused", "yes" if action == "pause" else "")
        is_paused = bool(file.fact("paused"))
        if file.is_finished:
            state = "finished"
        elif is_running(path):
            state = "paused" if is_paused else "running"
        else:
            state = "stopped"
        return {
            "name": path.stem,
            "source": file.fact("source"),
            "state": state,
            "paused": is_paused,
            "steps": dict(file.counts()),
            "outcomes": dict(file.outcomes()),
        }


def _forget(path: Path) -> dict[str, Any]:
    with only_one(path):
        row = _row(path, "status")
        if row["state"] != "finished" and set(row["steps"]) - {"waiting"}:
            raise ConfigurationError(
                f"backfill {row['name']} is not finished; {_hint(row)}, and forget it then"
            )
        remove(path)
    return {**row, "state": "forgotten"}


def _hint(row: dict[str, Any]) -> str:
    if row["state"] != "stopped":
        return ""
    command = shlex.join(["avatarmod", "backfill", row["source"], "--name", row["name"]])
    return f"go on where it stopped with: {command}"


def status_rows(rows: list[dict[str, Any]]) -> Table:
    """Backfills for people, one a row."""
    header = ["name", "state", "pictures", "waiting", "in queue", "done", "outcomes", "source"]

    def row(one: dict[str, Any]) -> list[object]:
        steps = Counter(one["steps"])
        done = steps["settled"] + steps["refused"]
        return [
            one["name"],
            one["state"],
            sum(steps.values()),
            steps["waiting"],
            steps["sent"],
            done,
            _said(Counter(one["outcomes"])),
            one["source"],
        ]

    return header, [row(one) for one in rows]
