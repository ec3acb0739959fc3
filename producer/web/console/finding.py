"""Finding uploads: by id, hash, state, reason or person, and by what they look like."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from producer.contract import MAX_SUBJECT_CHARS, Avatar, AvatarState, is_digest, is_upload_id
from producer.errors import ModerationError
from producer.findings import LooksLike
from producer.reasons import BLOCK_REASONS
from producer.record.settling import Settling
from producer.record.store import OPEN_STATES, Store
from producer.web.console.context import PREFIX, Context, Refused, action, page, read_picture
from producer.web.console.look_alikes import earlier_of, with_records
from producer.web.console.pictures import shown_of
from producer.web.console.rendering import show
from producer.web.console.uploads import PAGE_ROWS, position_in
from producer.web.console.words import REASONS
from producer.web.limits import NoSlot
from producer.web.users import Role

router = APIRouter()

#: Pictures on a page about a person, and records of theirs that are read at most.
PERSON_PICTURES, MOST_OF_PERSON = 48, 2000

#: Uploads with the very file that is looked up, and those that looked like one that was found.
MOST_SAME, MOST_LIKE_IT = 10, 6


@page(router, "/uploads", Role.VIEWER)
def uploads(
    context: Context,
    q: str = "",
    kind: str = "",
    state: str = "",
    reason: str = "",
    before: str = "",
) -> Response:
    """Uploads, newest first; found by id, start of an id, hash, person, state or reason."""
    q = q.strip()[:MAX_SUBJECT_CHARS]
    if q and kind == "person":
        return _to_person(context, q)
    state = state if state in set(AvatarState) else ""
    reason = reason if reason in REASONS or reason in BLOCK_REASONS else ""
    rows, older = _find_uploads(context, q, state, reason, before)
    if not rows and is_digest(q):
        # No file has this SHA-256: it may be a perceptual hash.
        return RedirectResponse(f"{PREFIX}/look-alikes?hash={q.lower()}", 303)
    return show(
        context,
        "uploads.html",
        rows=rows,
        shown=shown_of(context.store, [row["upload_id"] for row in rows]),
        q=q,
        state=state,
        reason=reason,
        states=list(AvatarState),
        reasons=list(REASONS),
        block_reasons=BLOCK_REASONS,
        older=older,
        is_first=not before,
    )


def _find_uploads(
    context: Context, q: str, state: str, reason: str, before: str
) -> tuple[list[dict[str, Any]], str]:
    """(rows, where the next page begins); open states come from Redis, all else from the ledger."""
    store = context.store
    ledger = context.parts.ledger()
    if state in OPEN_STATES and not q and not reason:
        start = position_in(before)
        ids = store.open_ids(state, start, PAGE_ROWS + 1)
        avatars = [avatar for avatar in store.get_many(ids[:PAGE_ROWS]) if avatar]
        older = str(start + PAGE_ROWS) if len(ids) > PAGE_ROWS else ""
        return [_row(avatar) for avatar in avatars], older
    exact = store.get(q) if q and is_upload_id(q) and not reason else None
    if ledger is None:
        return ([_row(exact)] if exact else []), ""
    found = ledger.recent(PAGE_ROWS + 1, position_in(before) or None, state, q, reason)
    older = str(found[PAGE_ROWS - 1]["id"]) if len(found) > PAGE_ROWS else ""
    rows = [_ledger_row(row) for row in found[:PAGE_ROWS]]
    if exact and not before and exact.upload_id not in {row["upload_id"] for row in rows}:
        rows.insert(0, _row(exact))
    return rows, older


def _row(avatar: Avatar) -> dict[str, Any]:
    return {
        "upload_id": avatar.upload_id,
        "state": str(avatar.state),
        "probability": avatar.probability,
        "reason": avatar.reason,
        "decided_by": avatar.decided_by,
        "at": avatar.updated_at,
    }


def _ledger_row(row: dict[str, Any]) -> dict[str, Any]:
    names = ("upload_id", "probability", "reason", "decided_by", "at")
    return {**{name: row[name] for name in names}, "state": row["to_state"]}


# -- of one person -----------------------------------------------------------------------------


def _to_person(context: Context, text: str) -> Response:
    """The page of a person, whose id does not travel on."""
    name = context.store.subjects.name_of(text)
    if not name:
        raise Refused(404, context.gettext("No recorded upload is of this person."))
    return RedirectResponse(f"{PREFIX}/people/{quote(name, safe='@:')}", 303)


@page(router, "/people/{name:path}", Role.VIEWER)
def person(context: Context, name: str, start: str = "") -> Response:
    """All recorded pictures of one person, the newest first, and what looked like them."""
    store, first = context.store, position_in(start)
    ids = store.subjects.uploads_of(name)
    if not ids:
        raise Refused(404, context.gettext("No recorded upload is of this person."))
    found = [avatar for avatar in store.get_many(ids[:MOST_OF_PERSON]) if avatar]
    found.sort(key=lambda avatar: avatar.created_at, reverse=True)
    avatars = found[first : first + PERSON_PICTURES]
    return show(
        context,
        "person.html",
        name=name,
        total=len(ids),
        states=Counter(str(avatar.state) for avatar in found),
        avatars=avatars,
        twins=_twins(store, avatars),
        earlier=earlier_of(store, avatars),
        start=first,
        older=first + PERSON_PICTURES if len(found) > first + PERSON_PICTURES else 0,
    )


def _twins(store: Store, avatars: Sequence[Avatar]) -> dict[str, int]:
    """By upload id, how many other uploads have the same picture."""
    contents = Settling(store).others([avatar.sha256 for avatar in avatars])
    return {
        avatar.upload_id: waits + decided - 1
        for avatar, (waits, decided) in zip(avatars, contents, strict=True)
        if avatar.sha256 and waits + decided > 1
    }


# -- by what it looks like ---------------------------------------------------------------------


@page(router, "/look-alikes", Role.VIEWER)
async def look_alikes(context: Context, hash: str = "") -> Response:  # noqa: A002 - a query's name
    """What has a perceptual hash near one."""
    if not is_digest(hash):
        raise Refused(422, context.gettext("A perceptual hash has 64 hexadecimal digits."))
    return await _look_up(context, b"", [bytes.fromhex(hash)], hash.lower())


@action(router, "/look-alikes", Role.VIEWER)
async def look_like_this(context: Context) -> Response:
    """What looks like a picture that is sent; it is not kept."""
    data = await read_picture(context)
    if not data:
        raise Refused(422, context.gettext("Choose a picture first."))
    most = context.console.services.settings.max_image_bytes
    if len(data) > most:
        size = context.language.size(most)
        raise Refused(413, context.gettext("The file is too large: at most %(size)s.", size=size))
    return await _look_up(context, data, [], hashlib.sha256(data).hexdigest())


async def _look_up(context: Context, data: bytes, prints: Sequence[bytes], name: str) -> Response:
    looks, ask = context.console.looks, context.parts.look_up
    if looks is None or ask is None:
        raise Refused(404, context.gettext("Pictures cannot be looked up by this process."))
    try:
        found = await looks.look_up(functools.partial(ask, data, prints))
    except NoSlot as error:
        message = context.gettext("Somebody else looks a picture up. Try again in a moment.")
        raise Refused(503, message) from error
    except ModerationError as error:
        why = context.language.reason(error.code)
        message = context.gettext("This picture cannot be looked up: %(why)s.", why=why)
        raise Refused(422, message) from error
    return await run_in_threadpool(_show_found, context, found, name, bool(data))


def _show_found(
    context: Context, found: Sequence[LooksLike], name: str, is_picture: bool
) -> Response:
    store = context.store
    like_it = {
        like.sha256: [a for a in store.get_many(ids) if a]
        for like in found
        if (ids := store.memory.alike(like.sha256, MOST_LIKE_IT))
    }
    return show(
        context,
        "look_alikes.html",
        name=name,
        is_picture=is_picture,
        same=Settling(store).uploads_with(name, "", MOST_SAME) if is_picture else [],
        found=list(with_records(store, {like.sha256: like for like in found}).values()),
        like_it=like_it,
    )
