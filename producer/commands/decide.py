"""`avatarmod approve|block|undo`: a person's word from the command line, as the console's."""

from __future__ import annotations

import getpass

import click

from producer.connect import connect_store
from producer.decisions import Decisions
from producer.settings import Settings, load_settings


def _decisions() -> Decisions:
    settings = load_settings(Settings)
    return Decisions(
        connect_store(settings), lambda avatar: avatar.callback_url or settings.callback_url
    )


@click.command()
@click.argument("upload_ids", nargs=-1, required=True, metavar="ID...")
def approve(upload_ids: tuple[str, ...]) -> None:
    """Approve uploads; sticks to their content under any id."""
    for upload_id in upload_ids:
        avatar = _decisions().decide(upload_id, "approved", by=getpass.getuser())
        click.echo(f"{upload_id}  {avatar.state}")


@click.command()
@click.argument("upload_ids", nargs=-1, required=True, metavar="ID...")
def block(upload_ids: tuple[str, ...]) -> None:
    """Block uploads; sticks to their content under any id."""
    for upload_id in upload_ids:
        avatar = _decisions().decide(upload_id, "blocked", by=getpass.getuser())
        click.echo(f"{upload_id}  {avatar.state}")


@click.command()
@click.argument("upload_ids", nargs=-1, required=True, metavar="ID...")
def undo(upload_ids: tuple[str, ...]) -> None:
    """Take a person's decision back; the uploads are held again."""
    for upload_id in upload_ids:
        avatar = _decisions().undo(upload_id, by=getpass.getuser())
        click.echo(f"{upload_id}  {avatar.state}")
