"""`avatarmod callbacks`: how endpoints do, enable or forget one, send one callback again."""

from __future__ import annotations

import dataclasses
import getpass
import json
import time
from collections.abc import Iterable

import click
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from producer.commands.due import say_what_is_due
from producer.commands.lazy import LazyGroup
from producer.commands.shown import Rows, styled
from producer.connect import connect_store
from producer.contract import NO_CALLBACK, Avatar, is_web_address
from producer.plain import say
from producer.record.endpoints import Endpoint, Endpoints
from producer.record.keyspace import server_of
from producer.record.moving import move_callbacks
from producer.record.store import Store
from producer.settings import Settings, load_settings
from producer.web.audit import audit

#: Seconds between two looks whether a callback was taken.
WAIT_S = 0.2


def _open() -> tuple[Store, Endpoints]:
    store = connect_store(load_settings(Settings))
    return store, Endpoints(store, disable_after_s=float("inf"))


@click.group(cls=LazyGroup, places={"test": "worker.commands.ping:test"})
def callbacks() -> None:
    """Callback endpoints and their deliveries."""


@callbacks.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def list_command(as_json: bool) -> None:
    """Show every endpoint: health, waiting callbacks."""
    store, endpoints = _open()
    rows = [(endpoint, store.waiting(endpoint.line)) for endpoint in endpoints.all()]
    if as_json:
        click.echo(json.dumps([{**dataclasses.asdict(e), **w} for e, w in rows]))
        return
    if not rows:
        click.echo("No callback was ever due. Set AVATARMOD_CALLBACK_URL to send some.")
        return
    table = Rows("name", "server", "health", "waiting", "under way", "last error")
    for endpoint, waiting in rows:
        table.add_row(
            endpoint.name,
            endpoint.server,
            _health(endpoint),
            str(waiting["waiting"]),
            str(waiting["leased"]),
            endpoint.last_error,
        )
    Console().print(table)


@callbacks.command()
@click.argument("name")
def enable(name: str) -> None:
    """Open a disabled endpoint again, or end a failing one's waits; what waited is due at once."""
    store, endpoints = _open()
    server = {endpoint.name: endpoint.server for endpoint in endpoints.all()}.get(name)
    if server is None:
        raise click.ClickException(f"no endpoint {name!r}; see `avatarmod callbacks list`")
    outcome = "enabled" if endpoints.enable(name) else "was not disabled"
    audit(store, by=getpass.getuser(), action="enable", item=server or name, outcome=outcome)
    click.echo(f"{outcome}: {server or name}")
    say_what_is_due(store)


@callbacks.command()
@click.argument("name")
@click.option("--drop", is_flag=True, help="Give up the callbacks that wait for it.")
def forget(name: str, drop: bool) -> None:
    """Remove the endpoint NAME of a receiver that is gone; a new callback brings it back."""
    store, endpoints = _open()
    server = {endpoint.name: endpoint.server for endpoint in endpoints.all()}.get(name)
    if server is None:
        raise click.ClickException(f"no endpoint {name!r}; see `avatarmod callbacks list`")
    done, count = endpoints.forget(name, drop=drop)
    if not done and drop:
        raise click.ClickException(f"{name}: {count} callbacks, some under way; try again")
    if not done:
        raise click.ClickException(
            f"{count} callbacks wait for {name} ({server or 'never answered'}); deliver them, or "
            "give them up with --drop"
        )
    outcome = f"{count} callbacks dropped" if count else "done"
    audit(store, by=getpass.getuser(), action="forget", item=server or name, outcome=outcome)
    say(f"forgotten: {server or name}" + (f"; {outcome}" if count else ""))


@callbacks.command()
@click.argument("upload_ids", nargs=-1, required=True, metavar="ID...")
def resend(upload_ids: tuple[str, ...]) -> None:
    """Send the callback of an upload's present state once more, with the same webhook id.

    Also one that waits for a later attempt or lies in the dead letters.
    """
    store, _ = _open()
    failed = False
    for upload_id in upload_ids:
        avatar = store.get(upload_id)
        url = store.callback_url(avatar) if avatar else ""
        if avatar is None:
            said = "unknown (never enqueued, or expired)"
        elif not url:
            said = "nobody is told: it was enqueued without a callback address"
        elif sent := store.outbox.resend(avatar, url, by=getpass.getuser()):
            said = f"due again; {told(store, [avatar])}"
        else:
            said = "nothing to tell"
        failed = failed or not (url and sent)
        say(f"{upload_id}  {said}")
    say_what_is_due(store)
    if failed:
        raise SystemExit(1)


@callbacks.command()
@click.argument("old")
@click.argument("new")
def move(old: str, new: str) -> None:
    """Let the address NEW hear of everything that the address OLD hears of; `none`: nobody."""
    if new != NO_CALLBACK and not is_web_address(new):
        raise click.UsageError(f"{new!r} is no address: https://... or none")
    store, _ = _open()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("records looked at", total=None)
        moved = move_callbacks(
            store, old, new, seen=lambda count: progress.update(task, completed=count)
        )
    names = " -> ".join(server_of(one) if one != NO_CALLBACK else "nobody" for one in (old, new))
    said = (
        f"{moved.records} uploads, {moved.callbacks} waiting callbacks, {moved.letters} dead ones"
    )
    audit(store, by=getpass.getuser(), action="move", item=names, outcome=said)
    say(f"{names}: {said}")
    if moved.under_way:
        say(f"{moved.under_way} callbacks are on their way to the old address; run this again")
    if store.announced_callback() == old:
        say(
            "workers still announce the old address: set AVATARMOD_CALLBACK_URL and start them anew"
        )
    say_what_is_due(store)


def wait_for(store: Store, avatars: Iterable[Avatar], timeout_s: float) -> bool:
    """Wait until the web tier has taken these changes, and say so; whether it has taken all."""
    deadline_s, all_taken = time.monotonic() + timeout_s, True
    health = Endpoints(store, disable_after_s=float("inf"))
    for avatar in avatars:
        while store.approval_of(avatar) and time.monotonic() < deadline_s:
            time.sleep(WAIT_S)
            avatar = store.get(avatar.upload_id) or avatar
        if store.approval_of(avatar):
            all_taken = False
            say(f"{avatar.upload_id}  not approved within {timeout_s:g} s: no safe copy yet")
            continue
        item = f"{avatar.upload_id}#{avatar.seq}"
        while (entry := store.outbox.get(item)) and time.monotonic() < deadline_s:
            time.sleep(WAIT_S)
        if entry is None:
            taken = "taken by the web tier" if store.callback_url(avatar) else "nobody is told"
            say(f"{avatar.upload_id}  {taken}")
            continue
        all_taken = False
        errors = {one.name: one.last_error for one in health.all()}
        why = errors.get(entry.endpoint) or "no answer yet"
        say(f"{avatar.upload_id}  not taken within {timeout_s:g} s: {why}")
    return all_taken


def told(store: Store, avatars: Iterable[Avatar | None]) -> str:
    """Whom changes of these uploads are told to, for people."""
    urls = {store.callback_url(avatar) for avatar in avatars if avatar}
    names = {server_of(url) if url else "nobody" for url in urls}
    return f"told: {', '.join(sorted(names))}"


def _health(endpoint: Endpoint) -> Text:
    if endpoint.disabled:
        return styled(f"disabled: {endpoint.disabled}", "red")
    if endpoint.failing_since:
        return styled(
            f"failing for {(time.time() - endpoint.failing_since) / 60:.0f} min", "yellow"
        )
    if endpoint.is_page:
        return styled("answers with web pages: `avatarmod callbacks test`", "yellow")
    return styled("fine", "green")
