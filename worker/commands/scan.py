"""`avatarmod scan FOLDER`: every picture of a folder through the queue, and a table of verdicts."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from producer.connect import running_instance
from producer.enqueue import Producer
from producer.images import Images
from producer.logs import configure_logging
from producer.settings import load_settings
from worker.passage import Passage, Sample, clean_up, send_all, summarise
from worker.settings import WorkerSettings

#: Files with these endings are sent; what they really are is the decoder's business.
ENDINGS = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".apng",
        ".gif",
        ".webp",
        ".bmp",
        ".avif",
        ".heic",
        ".heif",
        ".tif",
        ".tiff",
        ".ico",
        ".svg",
    ]
)

COLOURS = {
    "approved": "green",
    "blocked": "red",
    "rejected": "magenta",
    "held": "yellow",
    "reviewing": "yellow",
    "queued": "cyan",
    "dead": "red",
    "failed": "red",
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
    from worker.supervisor import stop_on_signals

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
    summary = summarise(passages, seconds)
    if as_json:
        click.echo(json.dumps({"uploads": [p.to_json() for p in passages], "summary": summary}))
    elif as_csv:
        write_csv(passages)
    else:
        print_table(Console(), passages, summary)
    if summary["failed"]:
        raise SystemExit(1)


def samples_of(folder: Path, all_files: bool = False) -> list[Sample]:
    """Files below a folder (or one file), sorted by name."""
    if folder.is_file():
        return [Sample(folder.name, folder.read_bytes)]
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and (all_files or path.suffix.lower() in ENDINGS)
    )
    return [Sample(str(path.relative_to(folder)), path.read_bytes) for path in files]


@contextlib.contextmanager
def instance(settings: WorkerSettings, *, quiet: bool) -> Iterator[None]:
    """The running instance, or one that is started and stopped here."""
    from worker.supervisor import Supervisor, wait_for_starting

    wait_for_starting(settings.data_folder)
    if settings.redis_url is not None or running_instance(settings.data_folder) is not None:
        yield
        return
    Console(stderr=True).print("No instance is running: starting one for this scan.", style="dim")
    env = {"AVATARMOD_LOG_LEVEL": "warning"} if quiet else {}
    with Supervisor(settings, env):
        yield


def run_samples(
    settings: WorkerSettings, samples: Sequence[Sample], stop: threading.Event
) -> tuple[list[Passage], float]:
    """Send samples with a progress bar on standard error; decided copies are removed."""
    producer = Producer.connect(settings)
    images = Images(settings)
    progress = Progress(
        TextColumn("moderating"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    try:
        with progress:
            bar = progress.add_task("", total=len(samples))
            passages, seconds = send_all(
                producer,
                images,
                samples,
                on_settled=lambda count: progress.update(bar, completed=count),
                stop=stop,
            )
        clean_up(images, passages)
    finally:
        images.close()
    return passages, seconds


def print_table(console: Console, passages: Sequence[Passage], summary: dict[str, Any]) -> None:
    """Verdicts for people."""
    table = Table(box=None, pad_edge=False, header_style="bold")
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
            escape(row["file"]),
            f"[{COLOURS[row['state']]}]{row['state']}[/]",
            "" if probability is None else f"{probability:.3f}",
            escape(row["reason"]),
            row["decided_by"],
            "" if row["latency_s"] is None else f"{row['latency_s']:.2f} s",
        )
    console.print(table)
    console.print(
        f"[bold]{len(passages)} pictures[/]: "
        + ", ".join(
            f"{summary[name]} {name}"
            for name in ("approved", "gray", "blocked", "rejected", "failed")
        )
        + f"; {summary['images_per_second']:.1f} images per second"
    )


def write_csv(passages: Sequence[Passage]) -> None:
    """Verdicts for spreadsheets."""
    rows = [p.to_json() for p in passages]
    writer = csv.DictWriter(sys.stdout, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
