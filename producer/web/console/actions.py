"""What people do: decide, replay, discard, reset. Each is a POST and is noted."""

from __future__ import annotations

from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from producer.contract import is_upload_id
from producer.record.claims import Claims
from producer.record.dead_letters import REPLAYS_PER_S, DeadLetters
from producer.web.auth import address_of
from producer.web.console import deciding
from producer.web.console.context import (
    PREFIX,
    Context,
    Refused,
    action,
    read_form,
    safe_target,
    text_field,
)
from producer.web.console.lanes import AUDITS, LANES
from producer.web.console.pages import letter_filter
from producer.web.console.rendering import show
from producer.web.users import Role

router = APIRouter()

#: Dead letters that one click handles at most; the command line has no limit.
MAX_AT_ONCE = 2000

#: Pictures that one page keeps at most.
MAX_CLAIMS = 100


@action(router, "/decide", Role.MODERATOR)
async def decide(context: Context) -> Response:
    """Approve, block or undo; then back to where the form says, or to the next picture."""
    form = await read_form(context)
    word = deciding.read_word(context, form)
    verdict, upload_id = word.verdict, word.upload_id
    following, back = text_field(form, "following"), text_field(form, "back")
    await run_in_threadpool(deciding.decide, context, word)
    if back:
        return RedirectResponse(safe_target(back), 303)
    place = f"{PREFIX}/review?done={quote(upload_id)}"
    lane = AUDITS if verdict in deciding.LABELS else text_field(form, "lane")
    if lane in LANES and lane != "held":
        place = f"{PREFIX}/review?state={lane}&done={quote(upload_id)}"
    if verdict == "undo":
        place = f"{PREFIX}/review?at={quote(upload_id)}"
    elif following:
        place += f"&at={quote(following)}"
    return RedirectResponse(place, 303)


@action(router, "/forget", Role.OPERATOR)
async def forget(context: Context) -> Response:
    """Erase one upload; the form's box must be ticked."""
    form = await read_form(context)
    upload_id = text_field(form, "upload_id")
    if not is_upload_id(upload_id):
        raise Refused(422, context.gettext("No upload has this id, or it has expired."))
    if not text_field(form, "sure"):
        raise Refused(422, context.gettext("Tick the box to erase it for good."))
    [answer] = await run_in_threadpool(
        context.console.services.forgetter.forget,
        [upload_id],
        by=context.name,
        address=address_of(context.request),
    )
    return show(context, "forgotten.html", answer=answer)


@action(router, "/claims", Role.MODERATOR)
async def renew_claims(context: Context) -> Response:
    """Keep the pictures of an open page; answers which of them are this person's still."""
    form = await read_form(context)
    items = [str(item) for item in form.getlist("item")][:MAX_CLAIMS]
    state = text_field(form, "state")
    if state not in LANES or not all(map(is_upload_id, items)):
        raise Refused(422, context.gettext("Unknown action."))
    mine = await run_in_threadpool(Claims(context.store).renew, context.name, state, items)
    return JSONResponse({"mine": mine})


@action(router, "/dead-letters", Role.OPERATOR)
async def handle_letters(context: Context) -> Response:
    """Replay or discard the selected dead letters, or all that match the filter."""
    form = await read_form(context)
    what = text_field(form, "what")
    if what not in ("replay", "discard"):
        raise Refused(422, context.gettext("Unknown action."))
    items = [str(item) for item in form.getlist("item")]
    filters = {name: text_field(form, name) for name in ("stage", "error", "since")}
    done, total = await run_in_threadpool(
        _handle, context, what, items, filters if text_field(form, "all") else None
    )
    query = "".join(f"&{name}={quote(value)}" for name, value in filters.items() if value)
    return RedirectResponse(f"{PREFIX}/dead-letters?done={what}:{done}:{total}{query}", 303)


def _handle(
    context: Context, what: str, items: list[str], filters: dict[str, str] | None
) -> tuple[int, int]:
    letters = DeadLetters(context.store)
    if filters is not None:
        found = letters.find(**letter_filter(context, **filters))
        items = [letter.item for letter, _ in zip(found, range(MAX_AT_ONCE), strict=False)]
    done = 0
    for number, item in enumerate(items):
        if what == "replay":
            ok = letters.replay(item, by=context.name, delay_s=number / REPLAYS_PER_S)
        else:
            ok = letters.discard(item, by=context.name)
        done += ok
        context.audit(what, item, "done" if ok else "was gone already")
    return done, len(items)


@action(router, "/providers/{name}/reset", Role.OPERATOR)
def reset_provider(context: Context, name: str) -> Response:
    """Close a provider's breaker: it is asked again at once."""
    providers = context.parts.providers
    if providers is None or not providers.reset(name):
        raise Refused(404, context.gettext("This provider is not configured."))
    context.audit("reset", name, "done")
    return RedirectResponse(f"{PREFIX}/providers?done={quote(name)}", 303)
