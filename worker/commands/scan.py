"""`avatarmod scan FOLDER`: every picture of a folder through the queue, and a table of verdicts."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from producer.client import Producer
from producer.commands.shown import Rows, safe_cell, styled
from producer.connect import running_instance
from producer.contract import NO_CALLBACK
from producer.images import Images
from producer.logs import configure_logging
from producer.plain import counted
from producer.settings import load_settings
from worker.commands.terminal import progress_bar
from worker.settings import WorkerSettings
from worker.tools.files import pictures_below
from worker.tools.send_and_wait import Passage, Sample, clean_up, send_all, summarise

COLOURS = {
    "approved": "green",
    "blocked": "red",
    "rejected": "magenta",
    "held": "yellow",
    "reviewing": "yellow",
    "queued": "cyan",
    "dead": "red",
    "failed": "red",
    "unsent": "dim",
}


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values.")
@click.option("--all-files", is_flag=True, help="Send every file, whatever its ending.")
def scan(folder: Path, as_json: bool, as_csv: bool, all_files: bool) -> None:
    """Send every picture of FOLDER through the queue and show the verdicts.

    Uses the instance that runs on this data folder or Redis, or starts one for the time of the
    scan. Exit code 0 also when pictures are blocked; 1 when some could not be moderated.
    """
    from worker.process.supervisor import stop_on_signals

    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    samples = samples_of(folder, all_files)
    if not samples:
        raise click.UsageError(f"no pictures in {folder}; --all-files sends every file")
    settings = load_settings(WorkerSettings)
    configure_logging(settings, "scan")
    stop = stop_on_signals()
    with instance(settings, quiet=True):
        passages, seconds = run_samples(settings, samples, stop)
    summary = summarise(passages, seconds, interrupted=stop.is_set())
    if as_json:
        click.echo(json.dumps({"uploads": [p.to_json() for p in passages], "summary": summary}))
    elif as_csv:
        write_csv(passages)
    else:
        print_table(Console(), passages, summary)
    if summary["failed"] or summary["unfinished"]:
        raise SystemExit(1)


def samples_of(folder: Path, all_files: bool = False) -> list[Sample]:
    """Files below a folder (or one file), sorted by name."""
    if folder.is_file():
        return [Sample(_name(Path(folder.name)), folder.read_bytes)]
    files = pictures_below(folder, all_files=all_files)
    return [Sample(_name(path.relative_to(folder)), path.read_bytes) for path in files]


def _name(path: Path) -> str:
    """A file's name as text; bytes that are no UTF-8 are written out."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@contextlib.contextmanager
def instance(settings: WorkerSettings, *, quiet: bool) -> Iterator[None]:
    """The running instance, or one that is started and stopped here."""
    from worker.process.instance import wait_for_starting
    from worker.process.supervisor import Supervisor

    wait_for_starting(settings.data_folder)
    if settings.redis_url is not None or running_instance(settings.data_folder) is not None:
        yield
        return
    Console(stderr=True).print("No instance is running: starting one for this.", style="dim")
    env = {"AVATARMOD_LOG_LEVEL": "warning"} if quiet else {}
    with Supervisor(settings, env):
        yield


def run_samples(
    settings: WorkerSettings,
    samples: Sequence[Sample],
    stop: threading.Event,
    callback_url: str | None = NO_CALLBACK,
) -> tuple[list[Passage], float]:
    """Send samples with a progress bar on standard error; decided copies are removed."""
    producer = Producer.connect(settings)
    images = Images(settings)
    try:
        with progress_bar("moderating", len(samples)) as progress:
            passages, seconds = send_all(
                producer,
                images,
                samples,
                on_settled=progress,
                stop=stop,
                callback_url=callback_url,
            )
        clean_up(images, passages)
    finally:
        images.close()
    return passages, seconds


def print_table(console: Console, passages: Sequence[Passage], summary: dict[str, Any]) -> None:
    """Verdicts for people."""
    table = Rows()
    table.add_column("file", overflow="fold")
    table.add_column("verdict")
    table.add_column("probability", justify="right")
    table.add_column("why", overflow="fold")
    table.add_column("by")
    table.add_column("latency", justify="right")
    for passage in passages:
        row = passage.to_json()
        probability = row["probability"]
        table.add_row(
            row["file"],
            styled(row["state"], COLOURS[row["state"]]),
            "" if probability is None else f"{probability:.3f}",
            row["reason"],
            row["decided_by"],
            "" if row["latency_s"] is None else f"{row['latency_s']:.2f} s",
        )
    console.print(table)
    console.print(
        f"[bold]{counted(len(passages), 'picture')}[/]: "
        + ", ".join(
            f"{summary[name]} {name}"
            for name in ("approved", "gray", "blocked", "rejected", "failed")
        )
        + (f", {summary['unfinished']} unfinished" if summary["unfinished"] else "")
        + f"; {summary['images_per_second']:.1f} images per second"
    )


def write_csv(passages: Sequence[Passage]) -> None:
    """Verdicts for spreadsheets."""
    rows = [p.to_json() for p in passages]
    writer = csv.DictWriter(sys.stdout, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows({name: safe_cell(cell) for name, cell in row.items()} for row in rows)
