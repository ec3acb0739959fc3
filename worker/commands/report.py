"""`avatarmod report`: what was decided, how fast, and what it cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import click
from rich.console import Console

from producer.settings import Settings, load_settings
from worker.commands.terminal import html_option, print_rows, write_html
from worker.tools.report import TABLES, By, Report, make_report, saved_sentence


@click.command()
@click.option("--by", type=click.Choice(get_args(By)), default="day", show_default=True)
@click.option(
    "--last",
    type=click.IntRange(1, 400),
    default=14,
    show_default=True,
    help="Calendar periods, the present one included.",
)
@html_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def report(by: By, last: int, html_file: Path | None, as_json: bool) -> None:
    """Show decisions by tier, latencies, gray share, provider calls and money."""
    from worker.ledger.writer import Ledger

    settings = load_settings(Settings)
    ledger = Ledger.open(settings)
    try:
        made = make_report(ledger, settings, by, last)
    finally:
        ledger.close()
    write_html(html_file, lambda: _page(made))
    if as_json:
        click.echo(json.dumps(made.to_json()))
    else:
        print_report(Console(), made)


def _page(made: Report) -> str:
    from worker.tools.report_page import to_page

    return to_page(made)


def print_report(console: Console, made: Report) -> None:
    """For people."""
    for rows_of in TABLES:
        header, rows = rows_of(made)
        if rows:
            print_rows(console, (header, rows))
    for sentence in made.misses.sentences():
        console.print(sentence, highlight=False)
    if not made.total.uploads:
        console.print("The ledger has no uploads in this time.", style="yellow")
    console.print(f"{saved_sentence(made)}, without the machine.", highlight=False)
