"""One upload with all that happened to it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from producer.contract import Avatar, Region, is_upload_id
from producer.reasons import BLOCK_REASONS
from producer.record.decisions import DECIDABLE, is_scored
from producer.record.relatives import relatives_of
from producer.record.settling import Settling
from producer.web.console import figures
from producer.web.console.context import Context, Refused, page
from producer.web.console.lanes import is_own_appeal
from producer.web.console.look_alikes import earlier_of
from producer.web.console.rendering import show
from producer.web.console.story import tell
from producer.web.users import Role

router = APIRouter()

#: Rows on a page of a list.
PAGE_ROWS = 25

#: Undrained events looked through for one upload's history.
FRESH_EVENTS = 2000


@page(router, "/uploads/{upload_id:path}", Role.VIEWER)
def upload(context: Context, upload_id: str) -> Response:
    """One upload: where it stands, and everything that happened to it."""
    store = context.store
    avatar = store.get(upload_id) if is_upload_id(upload_id) else None
    events = history_of(context, upload_id)
    if avatar is None and not events:
        raise Refused(404, context.gettext("No upload has this id, or it has expired."))
    return show(
        context,
        "upload.html",
        upload_id=upload_id,
        avatar=avatar,
        story=tell(context, events),
        views=views_of(events),
        opinions=opinions_of(events),
        cut_offs=cut_offs_of(context, avatar.region if avatar else context.parts.region),
        callbacks=_pending_callbacks(context, upload_id, avatar),
        decidable=avatar is not None and avatar.state in DECIDABLE,
        same=Settling(store).counts(avatar.sha256, upload_id) if avatar else {},
        reasons=BLOCK_REASONS,
        earlier=earlier_of(store, [avatar]).get(upload_id),
        kin=relatives_of(store, avatar, PAGE_ROWS) if avatar else None,
        person=store.subjects.counts(avatar.subject) if avatar and avatar.subject else None,
        own_appeal=avatar is not None
        and context.may(Role.MODERATOR)
        and is_own_appeal(context, avatar),
        approvable=avatar is not None and is_scored(avatar),
    )


def position_in(text: str) -> int:
    """A place in a list from a query; 0 for whatever is none."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else 0


def history_of(context: Context, upload_id: str) -> list[dict[str, Any]]:
    """What the ledger has, and what still lies in the stream."""
    ledger = context.parts.ledger()
    events = list(ledger.story(upload_id)) if ledger else []
    known = {event["stream_id"] for event in events}
    return events + [
        event
        for event in figures.fresh_events(context.store, upload_id, FRESH_EVENTS)
        if event["stream_id"] not in known
    ]


def views_of(events: Sequence[dict[str, Any]]) -> list[Any]:
    """Scores of each view, from the last look of the model: [label, raw, probability]."""
    found: list[Any] = []
    for event in events:
        views = event["detail"].get("views")
        if isinstance(views, list):
            found = [view for view in views if isinstance(view, list) and len(view) == 3]
    return sorted(found, key=lambda view: -float(view[2]))


def opinions_of(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What review providers said, in order."""
    return [
        opinion
        for event in events
        for opinion in event["detail"].get("opinions") or []
        if isinstance(opinion, dict)
    ]


def cut_offs_of(context: Context, region: Region) -> dict[str, Any]:
    """The present cut-offs of a region, for the template."""
    photo, drawn = context.parts.policies.cut_offs(region)
    second = context.parts.second_cut_offs()
    return {
        "photo": photo,
        "drawn": drawn,
        "second": {"photo": second[0], "drawn": second[1]} if second else None,
    }


def _pending_callbacks(
    context: Context, upload_id: str, avatar: Avatar | None
) -> list[dict[str, Any]]:
    if avatar is None:
        return []
    store = context.store
    items = [f"{upload_id}#{seq}" for seq in range(max(1, avatar.seq - 20), avatar.seq + 1)]
    return [dataclasses.asdict(entry) for entry in store.outbox.get_many(items) if entry]
