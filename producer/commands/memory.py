"""`avatarmod memory`: what is remembered of decided pictures, and lists of hashes of others."""

from __future__ import annotations

import csv
import getpass
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, TextIO

import click
from rich.console import Console

from producer.commands.keys import iso
from producer.commands.shown import Rows, cell_of, safe_cell
from producer.connect import connect_store
from producer.record.memory import LABELS, LISTED, PRINT_BYTES, Remembered
from producer.record.store import Store
from producer.settings import Settings, load_settings
from producer.web.audit import audit

#: Columns of a list as services exchange them; only the first is required.
COLUMNS = ("hash", "label", "note")


@click.group()
def memory() -> None:
    """Pictures that were decided, and what looks like them."""


def _store() -> Store:
    return connect_store(load_settings(Settings))


def _row(entry: Remembered) -> dict[str, Any]:
    return {
        "key": entry.key,
        "state": entry.state,
        "by": entry.by,
        "upload_id": entry.upload_id,
        "note": entry.note,
        "at": iso(entry.at),
        "hashes": len(entry.prints.hashes),
        "pixels": entry.prints.pixels,
    }


@memory.command("list")
@click.option("--state", type=click.Choice(["approved", *LABELS]), help="Only these.")
@click.option("--limit", default=100, show_default=True, help="Most entries, the oldest first.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def list_command(state: str | None, limit: int, as_json: bool) -> None:
    """Show what is remembered: a decided picture, or a hash of a list, a row."""
    chosen = (one for one in _store().memory.all() if state in (None, one.state))
    rows = [_row(entry) for entry in itertools.islice(chosen, limit)]
    if as_json:
        click.echo(json.dumps(rows))
        return
    if not rows:
        click.echo("Nothing is remembered: nobody has decided about a picture yet.")
        return
    table = Rows("content", "state", "by", "upload", "note", "since", "hashes")
    for row in rows:
        cells = ("key", "state", "by", "upload_id", "note", "at", "hashes")
        table.add_row(*(str(row[name]) for name in cells))
    Console().print(table)


@memory.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def stats(as_json: bool) -> None:
    """Count what is remembered, and what looked like it within the hour."""
    book = _store().memory
    states: Counter[str] = Counter()
    hashes = unprinted = 0
    for entry in book.all():
        states[f"{entry.state}, listed" if entry.key.startswith(LISTED) else entry.state] += 1
        hashes += len(entry.prints.hashes)
        unprinted += not entry.prints.hashes
    met = book.met()
    found = {
        "entries": dict(sorted(states.items())),
        "hashes": hashes,
        "without_hashes": unprinted,
        "look_alikes_last_hour": sum(met.values()),
        "contents_met_last_hour": len(met),
    }
    if as_json:
        click.echo(json.dumps(found))
        return
    for state, number in sorted(states.items()):
        click.echo(f"{number:>8}  {state}")
    click.echo(f"{hashes:>8}  hashes; {unprinted} entries have none: their exact bytes count")
    click.echo(f"{sum(met.values()):>8}  look-alikes within the last hour, of {len(met)} pictures")


@memory.command("import")
@click.argument("file", type=click.File("r", encoding="utf-8-sig"))
@click.option(
    "--label", type=click.Choice(LABELS), help="Of rows that name none; required for those."
)
def import_command(file: TextIO, label: str | None) -> None:
    """Add the PDQ hashes of a CSV FILE (or -): hash, label (blocked or harmless), note.

    What looks like a blocked one is held; what looks more like a harmless one is not.
    """
    rows = list(_read(file, label))
    store = _store()
    added = store.memory.add_listed(rows)
    _note(store, "import", "list", f"{added} hashes")
    click.echo(f"{added} hashes added or replaced")


def _read(file: TextIO, label: str | None) -> Iterator[tuple[bytes, str, str]]:
    for number, row in enumerate(csv.reader(file), start=1):
        first, said, note = (*(cell.strip() for cell in row[:3]), "", "", "")[:3]
        if not first or first.startswith("#") or (number == 1 and first.lower() == COLUMNS[0]):
            continue
        try:
            digest = bytes.fromhex(first)
        except ValueError:
            digest = b""
        if len(digest) != PRINT_BYTES:
            raise click.ClickException(f"line {number}: {first[:80]!r} is no PDQ hash of 64 digits")
        said = said or label or ""
        if said not in LABELS:
            raise click.ClickException(
                f"line {number}: label {said[:40]!r} is not one of {', '.join(LABELS)}; "
                "--label gives one to rows without"
            )
        yield digest, said, cell_of(note)[:500]


@memory.command("export")
@click.option("--state", type=click.Choice(LABELS), default="blocked", show_default=True)
def export_command(state: str) -> None:
    """Print a CSV of hashes that `import` reads; it names no upload and no person."""
    writer = csv.writer(sys.stdout)
    writer.writerow(COLUMNS)
    for entry in _store().memory.all():
        if entry.state == state:
            for digest in entry.prints.hashes:
                writer.writerow((digest.hex(), entry.state, safe_cell(entry.note)))


@memory.command()
@click.argument("contents", nargs=-1, required=True, metavar="SHA256|HASH|ID...")
def forget(contents: tuple[str, ...]) -> None:
    """Take contents out of the memory: by sha256, by the hash of a list, or by upload.

    Uploads that were decided keep their verdicts; see `avatarmod undo`.
    """
    store, failed = _store(), False
    for content in contents:
        keys = [content, f"{LISTED}{content}"]
        avatar = store.get(content)
        if avatar is not None and avatar.sha256:
            keys.append(avatar.sha256)
        gone = [key for key in keys if store.memory.forget(key, by=getpass.getuser())]
        failed = failed or not gone
        _note(store, "forget", content, "forgotten" if gone else "was not remembered")
        click.echo(f"{content}  {'forgotten' if gone else 'was not remembered'}")
    if failed:
        raise SystemExit(1)


def _note(store: Store, action: str, item: str, outcome: str) -> None:
    audit(store, by=getpass.getuser(), action=f"memory {action}", item=item, outcome=outcome)
