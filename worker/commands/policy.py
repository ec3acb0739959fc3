"""`avatarmod policy`: what the cut-offs are, who changed them; put others in force, go back."""

from __future__ import annotations

import dataclasses
import getpass
import json
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import click
from rich.console import Console

from producer.commands.shown import Rows
from producer.errors import ConfigurationError, PolicyError
from producer.settings import load_settings
from worker.moderation.policy_file import MAX_NOTE, Change, PolicyFile
from worker.settings import WorkerSettings

note_option = click.option("--note", default="", help=f"Why, up to {MAX_NOTE} characters.")


@click.group()
def policy() -> None:
    """The cut-offs and rules by which pictures are judged."""


@policy.command()
def show() -> None:
    """Print the policy in force as a policy file."""
    file = _file()
    try:
        found = file.policy()
    except PolicyError as error:
        raise click.ClickException(str(error)) from error
    where = str(file.path) if file.path.exists() else f"built in; {file.path} would be written"
    click.echo(found.to_toml([f"{where}, version {found.version}"]))


@policy.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@note_option
def apply(file: Path, note: str) -> None:
    """Put a policy file in force; workers of this machine take it up within seconds."""
    try:
        text = file.read_text(encoding="utf-8")
        made = _file().apply(text, by=getpass.getuser(), note=note)
    except (PolicyError, UnicodeDecodeError) as error:
        raise click.ClickException(str(error)) from error
    _say(made)


@policy.command()
@note_option
def rollback(note: str) -> None:
    """Go back to the policy before the last change."""
    try:
        made = _file().roll_back(by=getpass.getuser(), note=note)
    except PolicyError as error:
        raise click.ClickException(str(error)) from error
    _say(made)


@policy.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every policy's text.")
def history(as_json: bool) -> None:
    """Who changed the policy and why, the present one first."""
    try:
        found = _file().history()
    except PolicyError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(one) for one in found], indent=2))
        return
    zone = ZoneInfo(load_settings(WorkerSettings).report_timezone)
    table = Rows()
    for column in ("since", "who", "version", "why"):
        table.add_column(column, overflow="fold")
    for one in found:
        since = f"{datetime.fromtimestamp(one.at, zone):%Y-%m-%d %H:%M}" if one.at else "–"
        by_nobody = "built in" if one.text is None else "edited by hand"
        table.add_row(since, one.by or by_nobody, one.version, one.note)
    Console().print(table)


def _file() -> PolicyFile:
    try:
        return PolicyFile(load_settings(WorkerSettings))
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error


def _say(made: Change) -> None:
    what = "the built-in policy" if made.text is None else "the policy"
    click.echo(
        f"{what} of version {made.version} is in force: moderate workers and the console of this "
        "machine take it up within seconds; copy the file to other machines"
    )
