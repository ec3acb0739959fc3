"""`avatarmod forget`: erase uploads, or all of one person's, wherever they left a trace."""

from __future__ import annotations

import contextlib
import getpass
import json
import sys
from collections.abc import Iterator

import click

from producer.connect import connect_store
from producer.contract import check_upload_id
from producer.forget import Forgetter, Forgotten, in_words
from producer.images import Images
from producer.plain import counted, say
from producer.settings import Settings, load_settings


@click.command()
@click.argument("upload_ids", nargs=-1, metavar="[ID...]")
@click.option("--subject", help="Your id of a person: all uploads that came with it.")
@click.option("--dry-run", is_flag=True, help="Say what there is; remove nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def forget(
    upload_ids: tuple[str, ...], subject: str | None, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Erase uploads: picture, safe copy, record, callbacks, dead letters, names in the ledger.

    The ledger keeps anonymous numbers; the workers look again for what was written late. A second
    time nothing is left, which is no error. Nobody is called back.
    """
    if bool(upload_ids) == (subject is not None):
        raise click.UsageError("say which: ID..., or --subject")
    for upload_id in upload_ids:
        check_upload_id(upload_id)
    with _forgetter() as forgetter:
        chosen = list(upload_ids) or forgetter.uploads_of(subject or "")
        if dry_run:
            answers = [forgetter.look(upload_id) for upload_id in chosen]
        else:
            _confirm(len(chosen), yes)
            answers = forgetter.forget(chosen, by=getpass.getuser())
    if as_json:
        click.echo(json.dumps([answer.to_dict() for answer in answers]))
        return
    if not answers:
        click.echo("No upload that is still recorded came with this subject.")
    for answer in answers:
        _say(answer, "there is" if dry_run else "forgotten")


@contextlib.contextmanager
def _forgetter() -> Iterator[Forgetter]:
    from worker.forget import make_forgetter
    from worker.ledger.lazy import LazyLedger

    settings = load_settings(Settings)
    with (
        contextlib.closing(connect_store(settings)) as store,
        contextlib.closing(Images(settings)) as images,
        contextlib.closing(LazyLedger(settings)) as ledger,
    ):
        yield make_forgetter(settings, store, images, ledger)


def _confirm(count: int, yes: bool) -> None:
    if yes or not count:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here; say --yes to erase them for good")
    click.confirm(f"Erase {counted(count, 'upload')} for good?", abort=True, err=True)


def _say(answer: Forgotten, verb: str) -> None:
    say(
        f"{answer.upload_id}  "
        + (f"{verb}: {in_words(answer.removed)}" if answer.removed else "nothing is left")
    )
    for sentence in answer.kept:
        say(f"  kept: {sentence}")
    for sentence in answer.pending:
        say(f"  the workers go on with this: {sentence}")
