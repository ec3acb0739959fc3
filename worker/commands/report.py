"""`avatarmod report`: what was decided, how fast, and what it cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import click
from rich.console import Console
from rich.table import Table

from producer.settings import Settings, load_settings
from worker.tools.report import (
    By,
    Report,
    make_report,
    money_rows,
    period_rows,
    shadow_rows,
    tier_rows,
    to_page,
)


@click.command()
@click.option("--by", type=click.Choice(get_args(By)), default="day", show_default=True)
@click.option(
    "--last",
    type=click.IntRange(1, 400),
    default=14,
    show_default=True,
    help="Calendar periods, the present one included.",
)
@click.option(
    "--html",
    "html_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write one self-contained HTML file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def report(by: By, last: int, html_file: Path | None, as_json: bool) -> None:
    """Show decisions by tier, latencies, gray share, provider calls and money."""
    from worker.ledger import Ledger

    settings = load_settings(Settings)
    ledger = Ledger.open(settings)
    try:
        made = make_report(ledger, settings, by, last)
    finally:
        ledger.close()
    if html_file is not None:
        html_file.write_text(to_page(made), encoding="utf-8")
        click.echo(f"wrote {html_file}", err=True)
    if as_json:
        click.echo(json.dumps(made.to_json()))
    else:
        print_report(Console(), made)


def print_report(console: Console, made: Report) -> None:
    """For people."""
    tables = (period_rows(made), tier_rows(made), shadow_rows(made), money_rows(made))
    for header, rows in tables:
        if rows:
            print_rows(console, header, rows)
    if not made.total.uploads:
        console.print("The ledger has no uploads in this time.", style="yellow")
    console.print(
        f"Saved against sending every picture to the cloud: [bold]{made.saved_yuan:,.4f} yuan[/] "
        "in this time, without the machine.",
        highlight=False,
    )


def print_rows(console: Console, header: list[str], rows: list[list[object]]) -> None:
    """A plain table; all columns but the first stand right."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*("–" if cell is None else str(cell) for cell in row))
    console.print(table)
    console.print()
