"""Texts that came from elsewhere, as a terminal may show them: no markup, no escapes.

A file's name, a provider's label, a receiver's error or a web tier's address may hold anything.
Whatever a command prints of them goes through here. Times, too, as people write and read them.
"""

from __future__ import annotations

import re
import time
import zoneinfo
from datetime import datetime
from typing import Any

import click
from rich.console import ConsoleRenderable, RichCast
from rich.table import Table
from rich.text import Text

from producer.plain import plain

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def local_time(at: float) -> str:
    """Seconds since the epoch in the reader's zone, which is named; `TZ` chooses another."""
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def short_time(seconds: float) -> str:
    """`40 s`, `90 min`, `3 h`, `5 d`; nothing is negative."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def parse_time(text: str | None, zone: str = "UTC") -> float | None:
    """Seconds since the epoch of an age (`90m`, `2d`) or an ISO date; None stays None.

    Args:
        text: as it was given.
        zone: of dates that name none.

    Raises:
        click.BadParameter: it is neither.
    """
    if text is None:
        return None
    if age := re.fullmatch(r"(\d+)([smhd])", text):
        return time.time() - int(age[1]) * _SECONDS[age[2]]
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is neither an age such as 90m, 12h, 2d nor a date such as 2026-11-22"
        ) from None
    return (when if when.tzinfo else when.replace(tzinfo=zoneinfo.ZoneInfo(zone))).timestamp()


class Rows(Table):
    """A table whose cells are shown as they are; `Text` gives a cell a style."""

    def __init__(self, *titles: str, **options: Any) -> None:
        super().__init__(**{"box": None, "pad_edge": False, "header_style": "bold", **options})
        for title in titles:
            self.add_column(title, overflow="fold")

    def add_row(self, *cells: ConsoleRenderable | RichCast | str | None, **options: Any) -> None:
        """As `Table.add_row`, without markup."""
        super().add_row(
            *(Text(plain(cell)) if isinstance(cell, str) else cell for cell in cells), **options
        )


def styled(value: object, style: str) -> Text:
    """A cell in a style."""
    return Text(plain(value), style)


#: What a spreadsheet takes for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def safe_cell(value: Any) -> Any:
    """A cell of a CSV file that no spreadsheet runs as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def cell_of(text: str) -> str:
    """What `safe_cell` was given."""
    return text[1:] if text[:1] == "'" and text[1:].startswith(_FORMULA) else text
