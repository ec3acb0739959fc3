"""`avatarmod approve|block|undo|retry`: a person's word from the command line, as the console's."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterable

import click

from producer.commands.callbacks import told, wait_for
from producer.commands.due import say_what_is_due
from producer.connect import connect_store
from producer.findings import Seen
from producer.plain import say
from producer.reasons import BLOCK_REASONS
from producer.record.decisions import Decided, Decisions, Why
from producer.settings import Settings, load_settings


def _decide(
    upload_ids: Iterable[str], decide: Callable[[Decisions, str], Decided], wait_s: float = 0.0
) -> None:
    store = connect_store(load_settings(Settings))
    decisions, changed = Decisions(store), list[str]()
    for upload_id in upload_ids:
        done = decide(decisions, upload_id)
        avatar, others = done.avatar, done.others
        waits = "approved as soon as its safe copy is written" if avatar.approval else ""
        say(f"{upload_id}  {waits or avatar.state}  {told(store, [avatar, *others])}")
        changed += [upload_id, *(other.upload_id for other in others)]
        for other in others:
            say(f"{other.upload_id}  follows: the same picture, was {other.state}")
        if avatar.sha256 and (left := decisions.settling.counts(avatar.sha256, upload_id)):
            left.pop(str(avatar.state), None)
            for state, number in sorted(left.items()):
                say(f"{number} more with the same picture: {state}; --copies settles them too")
    avatars = [avatar for avatar in store.get_many(changed) if avatar]
    if wait_s and not wait_for(store, avatars, wait_s):
        say_what_is_due(store)
        raise SystemExit(1)
    say_what_is_due(store)


def deciding(command: click.decorators.FC) -> click.decorators.FC:
    """Arguments of the commands that decide about what somebody has seen."""
    for add in (
        click.option("--sha256", default="", help="Of the picture that was seen (with one ID)."),
        click.option(
            "--wait",
            "wait_s",
            type=click.FloatRange(0, 3600),
            default=0.0,
            metavar="SECONDS",
            help="Wait until the web tier has taken it; exit code 1 when it has not.",
        ),
        click.option("--seq", type=int, help="Of the record that was seen (with one ID)."),
        click.argument("upload_ids", nargs=-1, required=True, metavar="ID..."),
    ):
        command = add(command)
    return command


def _seen(upload_ids: tuple[str, ...], seq: int | None, sha256: str) -> Seen:
    if (seq is not None or sha256) and len(upload_ids) > 1:
        raise click.UsageError("--seq and --sha256 say what one upload was; give one ID with them")
    return Seen(seq, sha256.lower())


NOTE = click.option("--note", default="", help="For moderators only, at most 500 characters.")
COPIES = click.option(
    "--copies",
    is_flag=True,
    help="Settle uploads of the same picture, too, that are decided otherwise by now.",
)


@click.command()
@deciding
@NOTE
@COPIES
def approve(
    upload_ids: tuple[str, ...],
    seq: int | None,
    sha256: str,
    wait_s: float,
    note: str,
    copies: bool,
) -> None:
    """Approve uploads and all that wait with the same picture; sticks to it under any id."""
    by, seen = getpass.getuser(), _seen(upload_ids, seq, sha256)
    _decide(
        upload_ids,
        lambda decisions, one: decisions.decide(
            one, "approved", by=by, seen=seen, why=Why(note=note), copies=copies
        ),
        wait_s,
    )


@click.command()
@deciding
@click.option(
    "--reason", type=click.Choice(BLOCK_REASONS), default=None, help="What its owner is told."
)
@NOTE
@COPIES
def block(
    upload_ids: tuple[str, ...],
    seq: int | None,
    sha256: str,
    wait_s: float,
    reason: str | None,
    note: str,
    copies: bool,
) -> None:
    """Block uploads and all that wait with the same picture; sticks to it under any id."""
    by, seen = getpass.getuser(), _seen(upload_ids, seq, sha256)
    _decide(
        upload_ids,
        lambda decisions, one: decisions.decide(
            one, "blocked", by=by, seen=seen, why=Why(reason or "", note), copies=copies
        ),
        wait_s,
    )


@click.command()
@deciding
def undo(upload_ids: tuple[str, ...], seq: int | None, sha256: str, wait_s: float) -> None:
    """Take a person's decision back, with all that followed it; the uploads are held again."""
    by, seen = getpass.getuser(), _seen(upload_ids, seq, sha256)
    _decide(upload_ids, lambda decisions, one: decisions.undo(one, by=by, seen=seen), wait_s)


@click.command()
@click.argument("upload_ids", nargs=-1, required=True, metavar="ID...")
def retry(upload_ids: tuple[str, ...]) -> None:
    """Look again at uploads that were rejected as missing, changed or too_slow."""
    by = getpass.getuser()
    _decide(upload_ids, lambda decisions, upload_id: Decided(decisions.retry(upload_id, by=by), []))
