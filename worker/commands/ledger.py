"""`avatarmod ledger`: take events out of the ledger, check them, drain by hand."""

from __future__ import annotations

import csv
import datetime as dt
import json
import sys
import zoneinfo
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from producer.errors import ConfigurationError
from producer.settings import Settings, load_settings
from worker.tools.words import counted

#: Stories with a hole that a check names.
MOST_BROKEN = 100

#: Rows of one Parquet row group.
ROW_GROUP = 20_000


@click.group()
def ledger() -> None:
    """Every decision, as kept in SQL."""


@ledger.command("export")
@click.option("--since", help="From this date on (2026-11-01), in the report's time zone.")
@click.option("--until", help="Before this date.")
@click.option("--kind", type=click.Choice(["transition", "callback", "shadow", "opinion"]))
@click.option(
    "--format", "form", type=click.Choice(["csv", "parquet"]), default="csv", show_default=True
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write; without it CSV goes to standard output.",
)
def export_command(
    since: str | None, until: str | None, kind: str | None, form: str, out: Path | None
) -> None:
    """Write events, oldest first, as CSV or Parquet; memory stays constant."""
    from worker.ledger import Ledger

    if form == "parquet" and out is None:
        raise click.UsageError("--format parquet needs --out FILE")
    settings = load_settings(Settings)
    book = Ledger.open(settings)
    rows = map(
        _flat_row,
        book.stream(
            since=parse_date(since, settings.report_timezone),
            until=parse_date(until, settings.report_timezone),
            kind=kind or "",
        ),
    )
    try:
        if form == "parquet":
            assert out is not None
            written = _write_parquet(rows, out)
        elif out is None:
            written = _write_csv(rows, sys.stdout)
        else:
            with out.open("w", newline="", encoding="utf-8") as file:
                written = _write_csv(rows, file)
    finally:
        book.close()
    click.echo(counted(written, "event"), err=True)


@ledger.command("check")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check_command(as_json: bool) -> None:
    """Look for uploads whose story has a hole, and for events lost before they got here."""
    from producer.connect import connect_store
    from worker.ledger import Ledger

    settings = load_settings(Settings)
    book = Ledger.open(settings)
    broken = book.broken_stories(MOST_BROKEN)
    span = book.span()
    book.close()
    waiting: int | None = None
    dropped: int | None = None
    try:
        store = connect_store(settings)
        waiting = int(store.redis.xlen(store.key("events")))
        dropped = store.events.dropped()
    except ConfigurationError:
        click.echo("no Redis runs: only the ledger was looked at", err=True)
    facts = {
        "first_at": span[0] if span else None,
        "last_at": span[1] if span else None,
        "waiting_in_redis": waiting,
        "dropped_by_the_memory_guard": dropped,
        "broken_stories": [
            {"upload_id": upload_id, "transitions": count, "seq": seq}
            for upload_id, count, seq in broken
        ],
    }
    if as_json:
        click.echo(json.dumps(facts))
    else:
        _say_checked(facts, settings.report_timezone)
    if broken or dropped:
        raise SystemExit(1)


def _say_checked(facts: dict[str, Any], zone: str) -> None:
    for name in ("first_at", "last_at"):
        click.echo(f"{name.removesuffix('_at')} event: {_when(facts[name], zone)}")
    for name in ("waiting_in_redis", "dropped_by_the_memory_guard"):
        words = name.replace("_", " ").replace("redis", "Redis")
        value = facts[name]
        click.echo(f"{words}: {'not known' if value is None else counted(value, 'event')}")
    broken = facts["broken_stories"]
    if not broken:
        click.echo("stories with a hole: none")
        return
    most = " or more" if len(broken) == MOST_BROKEN else ""
    click.echo(f"stories with a hole: {len(broken)}{most}")
    for story in broken:
        kept, last = counted(story["transitions"], "transition"), story["seq"]
        click.echo(f"  {story['upload_id']}: {kept} kept, the last one is number {last}")


def _when(at: float | None, zone: str) -> str:
    if at is None:
        return "none"
    moment = dt.datetime.fromtimestamp(at, zoneinfo.ZoneInfo(zone))
    return f"{moment:%Y-%m-%d %H:%M:%S} {zone}"


@ledger.command("drain")
def drain_command() -> None:
    """Move what waits in Redis into the ledger now; workers do this every second."""
    from producer.connect import connect_store
    from worker.ledger import Ledger

    settings = load_settings(Settings)
    store = connect_store(settings)
    book = Ledger.open(settings)
    total = 0
    while moved := book.drain(store):
        total += moved
    book.close()
    click.echo(counted(total, "event"))


def parse_date(text: str | None, zone: str) -> float | None:
    """Midnight of an ISO date in a zone as seconds since the epoch; None stays None."""
    if text is None:
        return None
    try:
        day = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise click.UsageError(f"{text!r} is no date; write it like 2026-11-01") from error
    return (day if day.tzinfo else day.replace(tzinfo=zoneinfo.ZoneInfo(zone))).timestamp()


def _flat_row(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "detail": json.dumps(row["detail"])}


def _columns() -> list[str]:
    from worker.ledger_table import events

    names = [column.name for column in events.columns if column.name != "cost_microyuan"]
    return [*names, "cost_yuan"]


def _write_csv(rows: Iterable[dict[str, Any]], file: Any) -> int:
    writer = csv.DictWriter(file, fieldnames=_columns())
    writer.writeheader()
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007 - the last count is the answer
        writer.writerow({name: _safe_cell(value) for name, value in row.items()})
    return count


def _safe_cell(value: Any) -> Any:
    """A cell that no spreadsheet runs as a formula."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value


def _write_parquet(rows: Iterator[dict[str, Any]], out: Path) -> int:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "Parquet needs the Python package 'pyarrow'; install it with: "
            "pip install 'avatar-moderation[parquet]'"
        ) from error
    import itertools

    numbers = {"id": pa.int64(), "seq": pa.int64(), "provider_calls": pa.int64()}
    numbers |= dict.fromkeys(
        ("at", "created_at", "probability", "raw_score", "latency_s", "step_s", "cost_yuan"),
        pa.float64(),
    )
    schema = pa.schema([(name, numbers.get(name, pa.string())) for name in _columns()])
    count = 0
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        while group := list(itertools.islice(rows, ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            count += len(group)
    return count
