"""`avatarmod config`: which settings hold, where each is from, and what is wrong with them."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr
from rich.console import Console

from producer.commands.shown import Rows
from producer.contract import public_url
from producer.environment import ENV_FILE, ENV_PREFIX, env_file, foreign, from_file, variable
from producer.errors import ConfigurationError
from producer.plain import say
from producer.settings import load_settings
from worker.settings import WorkerSettings, unknown_variables

MASK = "********"

#: Settings that name a folder or a file.
PLACES = ("data_folder", "image_store", "safe_copies", "models_folder", "policy_file", "ca_file")


@click.group()
def config() -> None:
    """Settings: what holds, where from, what is wrong."""


@config.command()
@click.option("--all", "show_all", is_flag=True, help="Also what is at its default.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with every setting.")
def show(show_all: bool, as_json: bool) -> None:
    """Print settings with their values and where each is from; secrets are masked.

    Exit code 2 when they cannot be used.
    """
    settings, sources, file = load_settings(WorkerSettings), where_from(), env_file()
    shown = {
        f"{ENV_PREFIX}{name.upper()}": (masked(getattr(settings, name)), sources.get(name, ""))
        for name in WorkerSettings.model_fields
    }
    if as_json:
        rows = {name: {"value": v, "from": at or "default"} for name, (v, at) in shown.items()}
        click.echo(json.dumps({"file": str(file) if file else None, "settings": rows}))
        return
    table = Rows("variable", "value", "from")
    for name, (value, source) in shown.items():
        if source or show_all:
            table.add_row(name, "" if value is None else str(value), source or "default")
    if table.row_count:
        Console().print(table)
    rest = 0 if show_all else sum(1 for _, source in shown.values() if not source)
    say(f"file: {file or f'none (no .env here, {ENV_FILE} is not set)'}")
    if rest:
        say(f"{rest} more are at their defaults: --all")


@config.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(as_json: bool) -> None:
    """Say what is wrong with the settings, without connecting to anything.

    Exit code 0: nothing; 1: something has no effect or is unwise; 2: nothing would start with them.
    """
    try:
        settings = load_settings(WorkerSettings)
        _load_policy(settings)
    except ConfigurationError as error:
        if as_json:
            click.echo(json.dumps({"usable": False, "findings": [str(error)]}))
            raise SystemExit(2) from None
        raise
    findings = list(doubts(settings))
    if as_json:
        click.echo(json.dumps({"usable": True, "findings": findings}))
    else:
        for finding in findings or ["nothing is wrong"]:
            say(finding)
    if findings:
        raise SystemExit(1)


def _load_policy(settings: WorkerSettings) -> None:
    from worker.moderation.road import policy_in_use

    policy_in_use(settings)


def where_from() -> dict[str, str]:
    """Setting -> where it is from; what is at its default is left out."""
    file, folder = env_file(), variable("SECRETS_FOLDER")
    named = {name.upper(): f"file {file}" for name in from_file()}
    named |= {name.upper(): "environment" for name, value in os.environ.items() if value}
    found = {}
    for name in WorkerSettings.model_fields:
        secret = Path(folder) / f"{ENV_PREFIX}{name}".lower() if folder else None
        if source := named.get(f"{ENV_PREFIX}{name}".upper()):
            found[name] = source
        elif secret is not None and secret.is_file():
            found[name] = f"file {secret}"
    return found


def masked(value: Any) -> Any:
    """A value for people, JSON-ready: secrets are hidden, and passwords inside addresses."""
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, tuple):
        return ",".join(str(masked(part)) for part in value)
    if isinstance(value, str) and "@" in value and "://" in value:
        return public_url(value)
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def doubts(settings: WorkerSettings) -> Iterator[str]:
    """What works and is not as it should be, each with what to do."""
    for name, nearest in unknown_variables().items():
        hint = f", {nearest} is" if nearest else ""
        yield f"{name} is no setting{hint}: correct or remove it, it has no effect"
    here = Path.cwd() / ".env"
    if os.environ.get(ENV_FILE) is None and os.path.isfile(here) and foreign(here):
        yield f"{here} is not read: it belongs to somebody else, or everybody may write it"
    file = env_file()
    if file is not None and stat.S_IMODE(file.stat().st_mode) & 0o004 and _secrets_in_file():
        yield f"everybody on this machine can read the secrets in {file}: chmod 600 {file}"
    for name in PLACES:
        value = str(getattr(settings, name) or "")
        if name in where_from() and value and "://" not in value and not Path(value).is_absolute():
            yield (
                f"{ENV_PREFIX}{name.upper()} is relative ({value}): a process started in another "
                "folder looks elsewhere; write the whole path"
            )
    if settings.callback_url and not settings.callback_secrets:
        yield f"callbacks are not signed: set {ENV_PREFIX}CALLBACK_SECRETS"


def is_secret(name: str) -> bool:
    """Whether a setting is one that nobody may read."""
    return "SecretStr" in str(WorkerSettings.model_fields[name].annotation)


def _secrets_in_file() -> bool:
    """Whether the file names a setting that is a secret."""
    fields = WorkerSettings.model_fields
    secret = {f"{ENV_PREFIX}{name.upper()}" for name in fields if is_secret(name)}
    return bool(secret & {name.upper() for name in from_file()})
