"""The grid: many pictures at once, decided by keys.

The page works without its script: each picture is a link to a page of its own. With it, decisions
are sent one by one, and the page asks for news of what it shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from producer.contract import Avatar, is_upload_id
from producer.reasons import BLOCK_REASONS
from producer.record.claims import CLAIM_S
from producer.record.settling import Settling
from producer.web.console import deciding
from producer.web.console.context import Context, Refused, action, page, read_form, text_field
from producer.web.console.lanes import (
    AUDITS,
    LANES,
    counts_of,
    keep_and_take,
    to_decide,
    waiting,
)
from producer.web.console.rendering import render, show
from producer.web.console.uploads import cut_offs_of, position_in
from producer.web.users import Role

router = APIRouter()

#: Tiles of a page: those that come with it, and at most.
FIRST_TILES, MOST_TILES = 12, 60

#: Uploads that one page may ask about: a page, what it has fetched ahead, and what is for later.
MAX_HAVE = 250


@page(router, "/grid", Role.VIEWER)
def grid(context: Context, state: str = "held") -> Response:
    """The pictures that wait the longest; the script asks for as many more as there is room for."""
    lane = state if state in LANES else "held"
    if lane == AUDITS:
        context.store.audits.drop_expired()
    avatars = to_decide(context, lane, FIRST_TILES)
    return show(
        context,
        "grid.html",
        lane=lane,
        most=MOST_TILES,
        first=FIRST_TILES,
        reasons=BLOCK_REASONS,
        poll_s=CLAIM_S / 6,
        counts=counts_of(context.store),
        words=script_words(context),
        **_tiles(context, avatars),
    )


@action(router, "/grid/tiles", Role.MODERATOR)
async def tiles(context: Context) -> Response:
    """Keep what a page has, say what became of the rest, give it more."""
    form = await read_form(context)
    lane, have = text_field(form, "state"), [str(item) for item in form.getlist("item")]
    if lane not in LANES or len(have) > MAX_HAVE or not all(map(is_upload_id, have)):
        raise Refused(422, context.gettext("Unknown action."))
    count = min(position_in(text_field(form, "count")), MOST_TILES)
    return JSONResponse(await run_in_threadpool(_news, context, lane, have, count))


def _news(context: Context, lane: str, have: Sequence[str], count: int) -> dict[str, Any]:
    given = keep_and_take(context, lane, have, count)
    counts = counts_of(context.store)
    return {
        "tiles": _html(context, lane, given.fresh),
        "lost": {one: _fate(context, avatar, lane) for one, avatar in given.lost.items()},
        **counts_in_words(context, counts),
    }


@page(router, "/live", Role.VIEWER)
def live(context: Context) -> Response:
    """What waits, for every page's title and navigation."""
    return JSONResponse(counts_in_words(context, counts_of(context.store)))


def counts_in_words(context: Context, counts: Mapping[str, int]) -> dict[str, Any]:
    """For the script: counts as they are shown, and how many wait for a person."""
    shown = {name: context.language.number(number) for name, number in counts.items()}
    return {"counts": shown, "waiting": counts["held"] + counts["appeals"]}


def _fate(context: Context, avatar: Avatar | None, lane: str) -> str:
    """What happened to a picture that is not this person's any more."""
    if avatar is None:
        return context.gettext("No upload has this id, or it has expired.")
    if waiting(context.store, [avatar.upload_id], lane, {avatar.upload_id: avatar}):
        return context.gettext("Somebody else has it in front of them.")
    return context.gettext(
        "%(state)s by %(who)s",
        state=context.language.word(deciding.state_of(context, avatar)),
        who=deciding.who_decided(context, avatar),
    )


@action(router, "/grid/decide", Role.MODERATOR)
async def decide(context: Context) -> Response:
    """One decision; its answer says how the picture stands then, also where it was refused."""
    form = await read_form(context)
    word, lane = deciding.read_word(context, form), text_field(form, "lane")
    return await run_in_threadpool(_decide, context, word, lane)


def _decide(context: Context, word: deciding.Word, lane: str) -> Response:
    try:
        done = deciding.decide(context, word)
    except Refused as refused:
        avatar = context.store.get(word.upload_id) if is_upload_id(word.upload_id) else None
        found = _present(context, avatar, lane)
        return JSONResponse({"problem": refused.message, **found}, refused.status)
    found = _present(context, done.avatar, lane)
    if word.verdict == "undo" and found["waits"]:
        found["tile"] = _html(context, lane, [done.avatar])
    return JSONResponse({**found, "others": len(done.others)})


def _present(context: Context, avatar: Avatar | None, lane: str) -> dict[str, Any]:
    """How an upload stands, for the script."""
    if avatar is None:
        return {"state": "", "seq": 0, "waits": False}
    waits = lane in LANES and bool(
        waiting(context.store, [avatar.upload_id], lane, {avatar.upload_id: avatar})
    )
    word = context.language.word(str(avatar.state))
    return {"state": str(avatar.state), "word": word, "seq": avatar.seq, "waits": waits}


def _html(context: Context, lane: str, avatars: Sequence[Avatar]) -> str:
    return render(context, "tiles.html", lane=lane, **_tiles(context, list(avatars)))


def _tiles(context: Context, avatars: list[Avatar]) -> dict[str, Any]:
    """What the template of tiles needs."""
    found = Settling(context.store).others([avatar.sha256 for avatar in avatars])
    same = [
        (max(0, waits - 1), decided) if avatar.sha256 else (0, 0)
        for avatar, (waits, decided) in zip(avatars, found, strict=True)
    ]
    return {
        "pictures": list(zip(avatars, same, strict=True)),
        "cut_offs": {
            region: cut_offs_of(context, region) for region in {a.region for a in avatars}
        },
        "now": context.store.now(),
    }


def script_words(context: Context) -> dict[str, str]:
    """What the script says, in the reader's language."""
    words = {
        "undone": context.gettext("taken back"),
        "later": context.gettext("later"),
        "left": context.gettext("%(n)s left on this page", n="{n}"),
        "ask_rest": context.gettext("Approve the %(n)s pictures left on this page?", n="{n}"),
        "offline": context.gettext("The server does not answer. Decisions kept: %(n)s", n="{n}"),
        "signed_out": context.gettext(
            "Not sent: %(n)s. Sign in again in this window; nothing is lost.", n="{n}"
        ),
        "reason_for": context.gettext("Reason for %(id)s? Press a digit, or go on.", id="{id}"),
        "selected": context.gettext("selected"),
        "sending": context.gettext("being sent: %(n)s", n="{n}"),
    }
    verdicts = ("approved", "blocked", "held", "harmless", "explicit", *BLOCK_REASONS)
    return {**words, **{name: context.language.word(name) for name in verdicts}}
