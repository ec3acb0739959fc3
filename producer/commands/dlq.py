"""`avatarmod dlq`: look at dead letters, replay them, give them up."""

from __future__ import annotations

import getpass
import json
import sys
import time
from collections.abc import Iterable
from itertools import islice

import click
from rich.console import Console

from producer.commands.callbacks import told
from producer.commands.due import say_what_is_due
from producer.commands.shown import Rows, local_time, parse_time, short_time
from producer.connect import connect_store
from producer.contract import Stage, public_url
from producer.plain import counted, say
from producer.record.dead_letters import REPLAYS_PER_S, DeadLetter, DeadLetters
from producer.record.store import Store
from producer.settings import Settings, load_settings


def _open() -> tuple[DeadLetters, Store]:
    store = connect_store(load_settings(Settings))
    return DeadLetters(store), store


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
    letters, _ = _open()
    found = list(islice(letters.find(stage=stage, error=error, since=parse_time(since)), limit))
    if as_json:
        click.echo(json.dumps([letter.to_dict() for letter in found]))
        return
    if not found:
        click.echo("No dead letters." if not letters.count() else "No dead letter matches.")
        return
    table = Rows("item", "stage", "error", "message", "attempts", "last failure", "replays")
    for letter in found:
        table.add_row(
            letter.item,
            letter.stage,
            letter.error,
            letter.message,
            str(letter.attempts),
            f"{short_time(time.time() - letter.last_failed_at)} ago",
            str(len(letter.history)),
        )
    Console().print(table)
    oldest = letters.oldest_at()
    age = short_time(time.time() - oldest if oldest else 0)
    click.echo(
        f"{len(found)} of {letters.count()} shown; the oldest is {age} old. "
        "Replay: avatarmod dlq replay ID... | --all"
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
    say(f"{item}  stopped at {letter.stage}; replayed {len(letter.history)} times")
    if avatar is not None:
        picture = public_url(avatar.image) or "the image store's, by its id"
        say(f"now {avatar.state}  region {avatar.region}  picture {picture}")
    for earlier in [*letter.history, letter.to_dict()]:
        say(
            f"{local_time(earlier['last_failed_at'])}  {earlier['stage']}  {earlier['error']}: "
            f"{earlier['message']}  ({earlier['attempts']} attempts since "
            f"{local_time(earlier['first_failed_at'])})"
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
    letters, store = _open()
    chosen = _chosen(letters, items, all_, stage, error, since)
    done: list[str] = []
    missed: list[str] = []
    for item in chosen:
        delay_s = len(done) / rate if rate > 0 else 0.0
        (done if letters.replay(item, by=getpass.getuser(), delay_s=delay_s) else missed).append(
            item
        )
    _report("replayed", done, missed, store, as_json)


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
    letters, store = _open()
    chosen = _chosen(letters, items, all_, stage, error, since)
    if not yes and chosen:
        if not sys.stdin.isatty():
            raise click.UsageError("nobody can be asked here; say --yes to give them up for good")
        click.confirm(
            f"Give up {counted(len(chosen), 'dead letter')} for good?", abort=True, err=True
        )
    done: list[str] = []
    missed: list[str] = []
    for item in chosen:
        (done if letters.discard(item, by=getpass.getuser()) else missed).append(item)
    _report("discarded", done, missed, store, as_json)


@dlq.command()
@filtered
def export(stage: str | None, error: str | None, since: str | None) -> None:
    """Print every matching dead letter as one JSON object a line."""
    letters, _ = _open()
    for letter in letters.find(stage=stage, error=error, since=parse_time(since)):
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
    found: Iterable[DeadLetter] = letters.find(stage=stage, error=error, since=parse_time(since))
    return [letter.item for letter in found]


def _report(what: str, done: list[str], missed: list[str], store: Store, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({what: done, "not_dead": missed}))
    else:
        avatars = store.get_many([item for item in done if "#" not in item])
        click.echo(f"{len(done)} {what}" + (f"  {told(store, avatars)}" if avatars else ""))
        for item in missed:
            say(f"{item}: no dead letter (any more)", err=True)
        say_what_is_due(store)
    if missed:
        raise SystemExit(1)
