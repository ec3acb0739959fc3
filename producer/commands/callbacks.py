"""`avatarmod callbacks`: how endpoints do, enable or forget one, send one callback again."""

from __future__ import annotations

import dataclasses
import getpass
import json
import time

import click
from rich.console import Console
from rich.table import Table

from producer.audit import audit
from producer.connect import connect_store
from producer.endpoints import Endpoint, Endpoints
from producer.settings import Settings, load_settings
from producer.store import Store


def _open() -> tuple[Settings, Store, Endpoints]:
    settings = load_settings(Settings)
    store = connect_store(settings)
    return settings, store, Endpoints(store, disable_after_s=float("inf"))


@click.group()
def callbacks() -> None:
    """Callback endpoints and their deliveries."""


@callbacks.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def list_command(as_json: bool) -> None:
    """Show every endpoint: health, waiting callbacks."""
    _, store, endpoints = _open()
    rows = [(endpoint, store.waiting(endpoint.line)) for endpoint in endpoints.all()]
    if as_json:
        click.echo(json.dumps([{**dataclasses.asdict(e), **w} for e, w in rows]))
        return
    if not rows:
        click.echo("No callback was ever due. Set AVATARMOD_CALLBACK_URL to send some.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("name", "server", "health", "waiting", "under way", "last error"):
        table.add_column(name, overflow="fold")
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
    """Open a disabled endpoint again; what waited is delivered."""
    _, _, endpoints = _open()
    if name not in {endpoint.name for endpoint in endpoints.all()}:
        raise click.ClickException(f"no endpoint {name!r}; see `avatarmod callbacks list`")
    click.echo("enabled" if endpoints.enable(name) else "was not disabled")


@callbacks.command()
@click.argument("name")
@click.option("--drop", is_flag=True, help="Give up the callbacks that wait for it.")
def forget(name: str, drop: bool) -> None:
    """Remove the endpoint NAME of a receiver that is gone; a new callback brings it back."""
    _, store, endpoints = _open()
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
    click.echo(f"forgotten: {server or name}" + (f"; {outcome}" if count else ""))


@callbacks.command()
@click.argument("upload_ids", nargs=-1, required=True, metavar="ID...")
def resend(upload_ids: tuple[str, ...]) -> None:
    """Send the callback of an upload's present state once more, with the same webhook id."""
    settings, store, _ = _open()
    failed = False
    for upload_id in upload_ids:
        avatar = store.get(upload_id)
        url = (avatar.callback_url if avatar else "") or settings.callback_url
        if not url:
            raise click.ClickException("no callback address: set AVATARMOD_CALLBACK_URL")
        sent = store.outbox.resend(upload_id, url)
        failed = failed or not sent
        click.echo(f"{upload_id}  {'due again' if sent else 'nothing to tell'}")
    if failed:
        raise SystemExit(1)


def _health(endpoint: Endpoint) -> str:
    if endpoint.disabled:
        return f"[red]disabled: {endpoint.disabled}[/]"
    if endpoint.failing_since:
        return f"[yellow]failing for {(time.time() - endpoint.failing_since) / 60:.0f} min[/]"
    return "[green]fine[/]"
