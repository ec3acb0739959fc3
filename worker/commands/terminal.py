"""What several commands show: plain tables, a bar of progress, a page of HTML."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from producer.commands.shown import Rows
from producer.errors import ConfigurationError
from producer.installed import how_to_install
from worker.tools.figures import Table as Figures


def print_rows(console: Console, rows: Figures) -> None:
    """A plain table; all columns but the first stand right."""
    header, body = rows
    table = Rows(pad_edge=True, padding=(0, 1, 0, 0))
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left")
    for row in body:
        table.add_row(*("–" if cell is None else str(cell) for cell in row))
    console.print(table)
    console.print()


@contextlib.contextmanager
def progress_bar(text: str, total: int) -> Iterator[Callable[[int], object]]:
    """A bar on standard error; gives a function that is told how many are done."""
    with Progress(
        TextColumn(text),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task("", total=total)
        yield lambda done: progress.update(task, completed=done)


html_option = click.option(
    "--html",
    "html_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write one self-contained HTML file.",
)


def write_html(file: Path | None, make: Callable[[], str]) -> None:
    """Write a page where one was asked for."""
    if file is None:
        return
    with needs_tuning("--html"):
        file.write_text(make(), encoding="utf-8")
    click.echo(f"wrote {file}", err=True)


@contextlib.contextmanager
def needs_tuning(what: str) -> Iterator[None]:
    """Around imports of what only evaluation and tuning need.

    Raises:
        ConfigurationError: it is not installed; names the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{what} needs the Python package {error.name!r}; install it with: "
            + how_to_install("tuning")
        ) from error
