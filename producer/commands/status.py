"""`avatarmod status`: where uploads stand, who decided on what, what else has such a picture."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from producer.connect import connect_store
from producer.contract import Avatar, check_upload_id, public_url
from producer.plain import say
from producer.record.relatives import Relatives, relatives_of
from producer.settings import Settings, load_settings

#: Other uploads that are named for one.
MOST_RELATIVES = 50


@click.command()
@click.argument("upload_ids", nargs=-1, required=True, metavar="ID...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def status(upload_ids: tuple[str, ...], as_json: bool) -> None:
    """Show where uploads stand, and what is known of the same picture and of look-alikes.

    Exit code 1 when one is unknown.
    """
    store = connect_store(load_settings(Settings))
    avatars = store.get_many([check_upload_id(upload_id) for upload_id in upload_ids])
    kin = [relatives_of(store, avatar, MOST_RELATIVES) if avatar else None for avatar in avatars]
    if as_json:
        rows = [
            {**dataclasses.asdict(avatar), **_plain(avatar), **found.to_json()}
            if avatar and found
            else {"upload_id": upload_id, "state": "unknown"}
            for upload_id, avatar, found in zip(upload_ids, avatars, kin, strict=True)
        ]
        click.echo(json.dumps(rows))
    else:
        for upload_id, avatar, found in zip(upload_ids, avatars, kin, strict=True):
            say(_status_line(upload_id, avatar))
            for line in _more_lines(avatar, found):
                say(f"  {line}")
    if None in avatars:
        raise SystemExit(1)


def _plain(avatar: Avatar) -> dict[str, Any]:
    """Addresses without what may be secret, and what is kept of what a person had seen."""
    addresses = {name: public_url(getattr(avatar, name)) for name in ("image", "callback_url")}
    seen = avatar.decided_on.to_json() if avatar.decided_on else ""
    return addresses | {"decided_on": json.loads(seen) if seen else None}


def _status_line(upload_id: str, avatar: Avatar | None) -> str:
    if avatar is None:
        return f"{upload_id}  unknown (never enqueued, or expired)"
    parts = [upload_id, str(avatar.state)]
    if avatar.probability is not None:
        parts.append(f"probability {avatar.probability:.3f}")
    if avatar.second_probability is not None:
        parts.append(f"second model {avatar.second_probability:.3f}")
    parts += [part for part in (avatar.reason, avatar.decided_by) if part]
    if (like := avatar.looks_like) is not None:
        earlier = like.upload_id or like.sha256
        parts.append(f"looks like {earlier}, {like.state} by {like.decided_by} ({like.distance})")
    if avatar.safe_copy is not None:
        parts.append(f"safe copy {avatar.safe_copy.name} sha256 {avatar.safe_copy.sha256}")
    elif avatar.approval:
        parts.append("approved as soon as its safe copy is written")
    return "  ".join(parts)


def _more_lines(avatar: Avatar | None, kin: Relatives | None) -> list[str]:
    """Who else has the picture, what looked like it, and what its decider had seen."""
    if avatar is None or kin is None:
        return []
    lines = []
    for title, others in (("the same picture", kin.same), ("looked like it", kin.alike)):
        if others:
            named = ", ".join(f"{one.upload_id} ({one.state})" for one in others)
            more = " and more" if len(others) == MOST_RELATIVES else ""
            lines.append(f"{title}: {named}{more}")
    if avatar.decided_by.startswith("operator:"):
        seen = avatar.decided_on
        parts = [f"seq {seen.seq}"] if seen and seen.seq is not None else []
        parts += [f"sha256 {seen.sha256}"] if seen and seen.sha256 else []
        lines.append(f"decided on: {', '.join(parts) or 'not said'}")
    return lines
