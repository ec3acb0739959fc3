"""`avatarmod users`: who may sign in to the console."""

from __future__ import annotations

import json
import sys

import click
from rich.console import Console

from producer.commands.keys import iso
from producer.commands.shown import Rows, local_time
from producer.connect import connect_store
from producer.errors import ConfigurationError
from producer.settings import Settings, load_settings
from producer.web.users import Role, Users, make_password

#: By value: click would take an enumeration's names.
ROLES = click.Choice([str(role) for role in Role])


@click.group()
def users() -> None:
    """Users of the console: viewers, moderators and operators."""


def _users() -> Users:
    return Users(connect_store(load_settings(Settings)))


@users.command()
@click.argument("name")
@click.option(
    "--role",
    type=ROLES,
    default="moderator",
    show_default=True,
)
@click.option("--password-stdin", is_flag=True, help="Read the password instead of making one.")
def add(name: str, role: str, password_stdin: bool) -> None:
    """Add a user called NAME; a password is made and printed, once."""
    everybody = _users()
    if everybody.get(name) is not None:
        raise ConfigurationError(f"{name!r} exists; change it with: avatarmod users change {name}")
    _save(everybody, name, role, password_stdin)


@users.command()
@click.argument("name")
@click.option("--role", type=ROLES, help="The new role.")
@click.option("--password-stdin", is_flag=True, help="Read the password instead of making one.")
def change(name: str, role: str | None, password_stdin: bool) -> None:
    """Give a user a new password and, if wanted, another role; their sessions end."""
    everybody = _users()
    user = everybody.get(name)
    if user is None:
        raise ConfigurationError(f"no user {name!r}; `avatarmod users list` shows them")
    _save(everybody, name, role or user.role, password_stdin)


def _save(everybody: Users, name: str, role: str, password_stdin: bool) -> None:
    password = sys.stdin.readline().rstrip("\n") if password_stdin else make_password()
    everybody.save(name, role, password)
    if not password_stdin:
        click.echo(password)
    click.echo(f"{name} ({role}) may sign in to the console.", err=True)


@users.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def remove(names: tuple[str, ...]) -> None:
    """Remove users; their sessions end at once."""
    everybody = _users()
    unknown = [name for name in names if not everybody.remove(name)]
    if unknown:
        raise ConfigurationError(f"no user {', '.join(unknown)}")
    click.echo(f"{len(names)} removed", err=True)


@users.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def list_users(as_json: bool) -> None:
    """Show who may sign in, and as what."""
    everybody = _users().all()
    if as_json:
        rows = [
            {"name": u.name, "role": u.role, "created_at": iso(u.created_at)} for u in everybody
        ]
        click.echo(json.dumps(rows))
        return
    table = Rows("name", "role", "since")
    for user in everybody:
        table.add_row(user.name, user.role, local_time(user.created_at))
    Console().print(table if everybody else "No users yet: avatarmod users add NAME")
