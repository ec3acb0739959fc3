"""`avatarmod keys`: make, list and revoke API keys."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import click
from rich.console import Console

from producer.commands.shown import Rows
from producer.connect import connect_store
from producer.contract import is_web_address
from producer.errors import ConfigurationError
from producer.settings import DEFAULT_API_PORT, Settings, load_settings
from producer.web.api_keys import ApiKey, ApiKeys, Scope


@click.group()
def keys() -> None:
    """API keys: who may call the HTTP API."""


def _keys() -> ApiKeys:
    return ApiKeys(connect_store(load_settings(Settings)))


def _row(key: ApiKey, used_at: float | None) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "created_at": iso(key.created_at),
        "expires_at": iso(key.expires_at) if key.expires_at else None,
        "last_used_at": iso(used_at) if used_at else None,
    }


def iso(at: float) -> str:
    """Seconds since the epoch as a UTC date and time."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@keys.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice([str(scope) for scope in Scope]),
    multiple=True,
    help="What it allows; repeat for several. Default: enqueue and read.",
)
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="Days until it expires.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def create(name: str, scopes: tuple[str, ...], days: float | None, as_json: bool) -> None:
    """Make a key called NAME and print it, once."""
    wanted = scopes or (Scope.ENQUEUE, Scope.READ)
    key, token = _keys().create(name, wanted, lifetime_s=(days or 0) * 86400)
    if as_json:
        click.echo(json.dumps({**_row(key, None), "key": token}))
        return
    click.echo(token)
    click.echo(f"Key {key.id} ({', '.join(sorted(key.scopes))}): it is not shown again.", err=True)


@keys.command()
@click.argument("name")
@click.option(
    "--url", help="Where the site reaches the API. Default: this machine, by its settings."
)
def connect(name: str, url: str | None) -> None:
    """Make a key called NAME and print all that a site needs, in one line.

    The line has the API's address, a key that may send pictures and read verdicts, and the secret
    that callbacks are signed with; the WordPress plugin takes it as it is.
    """
    settings = load_settings(Settings)
    if not settings.callback_secrets:
        raise ConfigurationError(
            "callbacks are not signed: set AVATARMOD_CALLBACK_SECRETS for all workers, for example "
            "to whsec_$(openssl rand -base64 32)"
        )
    if url is not None and not is_web_address(url):
        raise ConfigurationError(f"--url: {url[:80]!r} is no address; write https://host")
    scheme, _, place = (url or f"http://{_this_api(settings)}").rstrip("/").partition("://")
    key, token = _keys().create(name, (Scope.ENQUEUE, Scope.READ))
    secret = settings.callback_secrets[0].get_secret_value()
    click.echo(f"{scheme}://{token}@{place}?secret={secret}")
    click.echo(f"Key {key.id}: the line is a secret, and is not shown again.", err=True)


def _this_api(settings: Settings) -> str:
    host = settings.api_host
    if host in ("0.0.0.0", "::", ""):
        host = "127.0.0.1"
    return f"{f'[{host}]' if ':' in host else host}:{settings.api_port or DEFAULT_API_PORT}"


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def list_keys(as_json: bool) -> None:
    """Show all keys, without their secrets."""
    rows = [_row(key, used_at) for key, used_at in _keys().all()]
    if as_json:
        click.echo(json.dumps(rows))
        return
    table = Rows("id", "name", "scopes", "created", "expires", "last used")
    for row in rows:
        scopes = row["scopes"]
        assert isinstance(scopes, list)
        cells = (row["created_at"], row["expires_at"] or "never", row["last_used_at"] or "never")
        table.add_row(str(row["id"]), str(row["name"]), ", ".join(scopes), *map(str, cells))
    Console().print(table if rows else "No keys yet: avatarmod keys create NAME")


@keys.command()
@click.argument("key_ids", nargs=-1, required=True, metavar="ID...")
def revoke(key_ids: tuple[str, ...]) -> None:
    """Revoke keys by their id; they stop working within five seconds."""
    keys_ = _keys()
    unknown = [key_id for key_id in key_ids if not keys_.revoke(key_id)]
    if unknown:
        raise ConfigurationError(
            f"no key with the id {', '.join(unknown)}; `avatarmod keys list` shows them"
        )
    click.echo(f"{len(key_ids)} revoked", err=True)
