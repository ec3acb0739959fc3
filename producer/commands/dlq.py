"""`avatarmod dlq`: look at dead letters, replay them, give them up."""

from __future__ import annotations

import getpass
import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice

import click
from rich.console import Console
from rich.table import Table

from producer.connect import connect_store
from producer.contract import Stage
from producer.dead_letters import REPLAYS_PER_S, DeadLetter, DeadLetters
from producer.settings import Settings, load_settings
from producer.store import Store

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_since(text: str | None) -> float | None:
    """Seconds since the epoch of `90m`, `2d` or an ISO date.

    Raises:
        click.BadParameter: it is neither.
    """
    if text is None:
        return None
    age = re.fullmatch(r"(\d+)([smhd])", text)
    if age:
        return time.time() - int(age[1]) * SECONDS[age[2]]
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is neither an age such as 90m, 12h, 2d nor a date such as 2026-11-22"
        ) from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def open_letters() -> DeadLetters:
    """The dead letters of the configured or running Redis."""
    return _open()[0]


def _open() -> tuple[DeadLetters, Store]:
    settings = load_settings(Settings)
    store = connect_store(settings)
    return DeadLetters(store, lambda avatar: avatar.callback_url or settings.callback_url), store


@click.group()
def dlq() -> None:
    """Dead letters: uploads and callbacks that failed for good."""


FILTERS = (
    click.option("--stage", type=click.Choice([str(s) for s in Stage]), help="Where it stopped."),
    click.option("--error", help="Part of the error's name or message."),
    click.option("--since", help="Last failure within 90m, 12h, 2d, or since an ISO date."),
)


def filtered(command: click.decorators.FC) -> click.decorators.FC:
    """Add the three filter options."""
    for option in reversed(FILTERS):
        command = option(command)
    return command


@dlq.command("list")
@filtered
@click.option("--limit", default=50, show_default=True, help="Most letters to show.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def list_command(
    stage: str | None, error: str | None, since: str | None, limit: int, as_json: bool
) -> None:
    """Show dead letters, the newest first."""
    letters = open_letters()
    found = list(islice(letters.find(stage=stage, error=error, since=parse_since(since)), limit))
    if as_json:
        click.echo(json.dumps([letter.to_dict() for letter in found]))
        return
    if not found:
        click.echo("No dead letters." if not letters.count() else "No dead letter matches.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("item", "stage", "error", "message", "attempts", "last failure", "replays"):
        table.add_column(name, overflow="fold")
    for letter in found:
        table.add_row(
            letter.item,
            letter.stage,
            letter.error,
            letter.message,
            str(letter.attempts),
            f"{_age(letter.last_failed_at)} ago",
            str(len(letter.history)),
        )
    Console().print(table)
    oldest = letters.oldest_at()
    click.echo(
        f"{len(found)} of {letters.count()} shown; the oldest is "
        f"{_age(oldest) if oldest else '0 s'} old. Replay: avatarmod dlq replay ID... | --all"
    )


@dlq.command()
@click.argument("item", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(item: str, as_json: bool) -> None:
    """Show one dead letter with the history of its earlier deaths."""
    letters, store = _open()
    letter = letters.get(item)
    if letter is None:
        raise click.ClickException(f"no dead letter {item!r}")
    if as_json:
        click.echo(json.dumps(letter.to_dict()))
        return
    avatar = store.get(item.partition("#")[0])
    click.echo(f"{item}  stopped at {letter.stage}; replayed {len(letter.history)} times")
    if avatar is not None:
        picture = avatar.image or "the image store's, by its id"
        click.echo(f"now {avatar.state}  region {avatar.region}  picture {picture}")
    for earlier in [*letter.history, letter.to_dict()]:
        click.echo(
            f"{_date(earlier['last_failed_at'])}  {earlier['stage']}  {earlier['error']}: "
            f"{earlier['message']}  ({earlier['attempts']} attempts since "
            f"{_date(earlier['first_failed_at'])})"
        )


@dlq.command()
@click.argument("items", nargs=-1, metavar="[ID...]")
@click.option("--all", "all_", is_flag=True, help="Every dead letter.")
@filtered
@click.option("--rate", default=REPLAYS_PER_S, show_default=True, help="Replays due per second.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def replay(
    items: tuple[str, ...],
    all_: bool,
    stage: str | None,
    error: str | None,
    since: str | None,
    rate: float,
    as_json: bool,
) -> None:
    """Let dead letters re-enter the stage they failed at.

    Name them, or --all, or a filter. Repeating a replay is harmless. Exit code 1 when a named one
    is no dead letter.
    """
    letters = open_letters()
    chosen = _chosen(letters, items, all_, stage, error, since)
    done: list[str] = []
    missed: list[str] = []
    for item in chosen:
        delay_s = len(done) / rate if rate > 0 else 0.0
        (done if letters.replay(item, by=getpass.getuser(), delay_s=delay_s) else missed).append(
            item
        )
    _report("replayed", done, missed, as_json)


@dlq.command()
@click.argument("items", nargs=-1, metavar="[ID...]")
@click.option("--all", "all_", is_flag=True, help="Every dead letter.")
@filtered
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def discard(
    items: tuple[str, ...],
    all_: bool,
    stage: str | None,
    error: str | None,
    since: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Give dead letters up: an upload becomes rejected (discarded), a callback is forgotten."""
    letters = open_letters()
    chosen = _chosen(letters, items, all_, stage, error, since)
    if not yes and chosen:
        if not sys.stdin.isatty():
            raise click.UsageError("nobody can be asked here; say --yes to give them up for good")
        click.confirm(f"Give up {_count(chosen)} for good?", abort=True, err=True)
    done: list[str] = []
    missed: list[str] = []
    for item in chosen:
        (done if letters.discard(item, by=getpass.getuser()) else missed).append(item)
    _report("discarded", done, missed, as_json)


@dlq.command()
@filtered
def export(stage: str | None, error: str | None, since: str | None) -> None:
    """Print every matching dead letter as one JSON object a line."""
    for letter in open_letters().find(stage=stage, error=error, since=parse_since(since)):
        sys.stdout.write(json.dumps(letter.to_dict()) + "\n")


def _chosen(
    letters: DeadLetters,
    items: Iterable[str],
    all_: bool,
    stage: str | None,
    error: str | None,
    since: str | None,
) -> list[str]:
    named = list(items)
    filters = any(value is not None for value in (stage, error, since))
    if sum([bool(named), all_, filters]) != 1:
        raise click.UsageError(
            "say which: ID..., or --all, or a filter (--stage, --error, --since)"
        )
    if named:
        return named
    found: Iterable[DeadLetter] = letters.find(stage=stage, error=error, since=parse_since(since))
    return [letter.item for letter in found]


def _report(what: str, done: list[str], missed: list[str], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({what: done, "not_dead": missed}))
    else:
        click.echo(f"{len(done)} {what}")
        for item in missed:
            click.echo(f"{item}: no dead letter (any more)", err=True)
    if missed:
        raise SystemExit(1)


def _count(letters: Sequence[object]) -> str:
    return f"{len(letters)} dead letter{'' if len(letters) == 1 else 's'}"


def _age(at: float) -> str:
    seconds = max(0.0, time.time() - at)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _date(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().isoformat(sep=" ", timespec="seconds")
