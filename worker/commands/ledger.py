"""`avatarmod ledger`: take events out of the ledger, check them, drain by hand."""

from __future__ import annotations

import csv
import datetime as dt
import itertools
import json
import sys
import zoneinfo
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from producer.commands.shown import parse_time, safe_cell
from producer.contract import FINAL_STATES, is_digest
from producer.errors import ConfigurationError
from producer.installed import how_to_install
from producer.plain import counted
from producer.settings import Settings, load_settings
from worker.tools.files import pieces

if TYPE_CHECKING:
    from worker.ledger.last_words import LastWord

#: Stories with a hole that a check names.
MOST_BROKEN = 100

#: Rows of one Parquet row group.
ROW_GROUP = 20_000


@click.group()
def ledger() -> None:
    """Every decision, as kept in SQL."""


@ledger.command("export")
@click.option("--since", help="From this age (12h, 2d) or date on, in the report's zone.")
@click.option("--until", help="Before this age or date.")
@click.option(
    "--kind", type=click.Choice(["transition", "callback", "shadow", "opinion", "memory"])
)
@click.option("--upload", "upload_id", default="", help="Only of this upload.")
@click.option(
    "--sha256",
    default="",
    metavar="HASH",
    help="Only of this picture: all its uploads, and what looked like it.",
)
@click.option(
    "--format", "form", type=click.Choice(["csv", "parquet"]), default="csv", show_default=True
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write; without it CSV goes to standard output.",
)
def export_command(
    since: str | None,
    until: str | None,
    kind: str | None,
    upload_id: str,
    sha256: str,
    form: str,
    out: Path | None,
) -> None:
    """Write events, oldest first, as CSV or Parquet; memory stays constant.

    Of people's decisions the columns seen_seq and seen_sha256 say what they had in front of them;
    looks_like is the sha256 of the earlier picture.
    """
    from worker.ledger.writer import Ledger

    if form == "parquet" and out is None:
        raise click.UsageError("--format parquet needs --out FILE")
    if sha256 and not is_digest(sha256):
        raise click.UsageError(f"{sha256[:80]!r} is no SHA-256 of 64 hexadecimal digits")
    settings = load_settings(Settings)
    book = Ledger.open(settings)
    rows = map(
        _flat_row,
        book.stream(
            since=parse_time(since, settings.report_timezone),
            until=parse_time(until, settings.report_timezone),
            kind=kind or "",
            upload_id=upload_id,
            sha256=sha256.lower(),
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
@click.option("--repair", is_flag=True, help="Make sums and lists again where they are wrong.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check_command(repair: bool, as_json: bool) -> None:
    """Look for holes in stories, lost events, wrong sums and lists, uploads unknown to Redis."""
    from producer.connect import connect_store
    from worker.ledger.writer import Ledger
    from worker.tools.restore import find_open

    settings = load_settings(Settings)
    book = Ledger.open(settings)
    broken = book.broken_stories(MOST_BROKEN)
    wrong = book.wrong_sums()
    misplaced = book.wrong_uploads()
    if wrong and repair:
        book.add_up_again()
    if misplaced and repair:
        book.place_again()
    span = book.span()
    waiting: int | None = None
    dropped: int | None = None
    unknown: list[str] = []
    try:
        store = connect_store(settings)
        waiting = store.events.count()
        dropped = store.events.dropped()
        found = itertools.islice(find_open(store, book), MOST_BROKEN)
        unknown = [f"{word.upload_id}: {_last_seen(word)}" for word in found]
    except ConfigurationError:
        click.echo("no Redis runs: only the ledger was looked at", err=True)
    book.close()
    facts = {
        "first_at": span[0] if span else None,
        "last_at": span[1] if span else None,
        "waiting_in_redis": waiting,
        "dropped_by_the_memory_guard": dropped,
        "broken_stories": [
            {"upload_id": upload_id, "transitions": count, "seq": seq}
            for upload_id, count, seq in broken
        ],
        "open_but_unknown_to_redis": unknown,
        "wrong_sums": len(wrong),
        "sums_repaired": bool(wrong and repair),
        "wrong_uploads": misplaced,
        "uploads_repaired": bool(misplaced and repair),
    }
    if as_json:
        click.echo(json.dumps(facts))
    else:
        _say_checked(facts, settings.report_timezone)
    if broken or dropped or unknown or ((wrong or misplaced) and not repair):
        raise SystemExit(1)


def _say_checked(facts: dict[str, Any], zone: str) -> None:
    for name in ("first_at", "last_at"):
        click.echo(f"{name.removesuffix('_at')} event: {_when(facts[name], zone)}")
    for name in ("waiting_in_redis", "dropped_by_the_memory_guard"):
        words = name.replace("_", " ").replace("redis", "Redis")
        value = facts[name]
        click.echo(f"{words}: {'not known' if value is None else counted(value, 'event')}")
    unknown = facts["open_but_unknown_to_redis"]
    click.echo(f"open uploads that Redis does not know: {len(unknown) or 'none'}")
    for line in unknown:
        click.echo(f"  {line}")
    if unknown:
        click.echo("  `avatarmod restore --from-ledger` brings them back")
    said = "added up again" if facts["sums_repaired"] else "add --repair to add them up again"
    wrong = facts["wrong_sums"]
    click.echo(
        f"sums that are not what their events come to: {f'{wrong}; {said}' if wrong else 'none'}"
    )
    said = "mended" if facts["uploads_repaired"] else "add --repair to mend that"
    wrong = facts["wrong_uploads"]
    shown = f"{wrong}; {said}" if wrong else "none"
    click.echo(f"uploads that lists show elsewhere than their events: {shown}")
    broken = facts["broken_stories"]
    if not broken:
        click.echo("stories with a hole: none")
        return
    most = " or more" if len(broken) == MOST_BROKEN else ""
    click.echo(f"stories with a hole: {len(broken)}{most}")
    for story in broken:
        kept, last = counted(story["transitions"], "transition"), story["seq"]
        click.echo(f"  {story['upload_id']}: {kept} kept, the last one is number {last}")


def _last_seen(word: LastWord) -> str:
    state = word.row["to_state"]
    return f"{state}, and nobody was told" if state in FINAL_STATES else str(state)


def _when(at: float | None, zone: str) -> str:
    if at is None:
        return "none"
    moment = dt.datetime.fromtimestamp(at, zoneinfo.ZoneInfo(zone))
    return f"{moment:%Y-%m-%d %H:%M:%S} {zone}"


@ledger.command("drain")
def drain_command() -> None:
    """Move what waits in Redis into the ledger now; workers do this every second."""
    from producer.connect import connect_store
    from worker.ledger.writer import Ledger

    settings = load_settings(Settings)
    store = connect_store(settings)
    book = Ledger.open(settings)
    total = 0
    while moved := book.drain(store):
        total += moved
    book.close()
    click.echo(counted(total, "event"))


def _flat_row(row: dict[str, Any]) -> dict[str, Any]:
    detail = row["detail"]
    like, seen = (_part(detail, name) for name in ("looks_like", "decided_on"))
    return {
        **row,
        "detail": json.dumps(detail),
        "looks_like": like.get("sha256", ""),
        "seen_seq": seen.get("seq"),
        "seen_sha256": seen.get("sha256", ""),
    }


def _part(detail: dict[str, Any], name: str) -> dict[str, Any]:
    """A field of the record that is JSON itself."""
    try:
        found = json.loads(detail.get(name) or "{}")
    except (TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _columns() -> list[str]:
    from worker.ledger.schema import events

    names = [column.name for column in events.columns if column.name != "cost_microyuan"]
    return [*names, "cost_yuan", "looks_like", "seen_seq", "seen_sha256"]


def _write_csv(rows: Iterable[dict[str, Any]], file: Any) -> int:
    writer = csv.DictWriter(file, fieldnames=_columns())
    writer.writeheader()
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007 - the last count is the answer
        writer.writerow({name: safe_cell(value) for name, value in row.items()})
    return count


def _write_parquet(rows: Iterator[dict[str, Any]], out: Path) -> int:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "Parquet needs the Python package 'pyarrow'; install it with: "
            + how_to_install("parquet")
        ) from error
    numbers = dict.fromkeys(("id", "seq", "provider_calls", "seen_seq"), pa.int64())
    numbers |= dict.fromkeys(
        ("at", "created_at", "probability", "raw_score", "latency_s", "step_s", "cost_yuan"),
        pa.float64(),
    )
    schema = pa.schema([(name, numbers.get(name, pa.string())) for name in _columns()])
    count = 0
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for group in pieces(rows, ROW_GROUP):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            count += len(group)
    return count
