"""What people do: sign in and out, decide, replay, discard, reset. Each is a POST and is noted."""

from __future__ import annotations

import hmac
import secrets
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from producer.api.gate import address_of
from producer.console.pages import letter_filter, show
from producer.console.texts import LANGUAGES
from producer.console.visit import (
    PREFIX,
    Refused,
    Visit,
    action,
    cookie_name,
    inside,
    page,
    read_form,
    text_field,
)
from producer.contract import Avatar, callback_url_of
from producer.dead_letters import REPLAYS_PER_S, DeadLetters
from producer.decisions import Decisions
from producer.errors import ModerationError
from producer.users import Role

router = APIRouter()

#: Tries to sign in: at once and a second, for one name from one address and for one address.
TRIES_AT_ONCE, TRIES_PER_S = 8, 1 / 60
ADDRESS_TRIES_AT_ONCE, ADDRESS_TRIES_PER_S = 40, 1 / 10

#: Dead letters that one click handles at most; the command line has no limit.
MAX_AT_ONCE = 2000

#: Seconds that a choice of language or colours is kept.
KEEP_CHOICE_S = 365 * 86400

#: Cookie that a sign-in form must match, before there is a session.
SIGN_IN_COOKIE = "avatarmod_sign_in"


@page(router, "/sign-in", None)
def sign_in_page(visit: Visit, next: str = "") -> Response:  # noqa: A002 - a query's name
    """The form."""
    if visit.session is not None:
        return RedirectResponse(inside(next), 303)
    return _sign_in_form(visit, inside(next), "", 200)


def _sign_in_form(visit: Visit, place: str, problem: str, status: int) -> Response:
    token = secrets.token_urlsafe(24)
    answer = show(visit, "sign_in.html", next=place, problem=problem, form_token=token)
    answer.status_code = status
    _set_cookie(visit, answer, SIGN_IN_COOKIE, token, max_age=3600)
    return answer


@action(router, "/sign-in", None)
async def sign_in(visit: Visit) -> Response:
    """Check a name and a password; a new session, whatever cookie was sent."""
    form = await read_form(visit.request)
    place = inside(text_field(form, "next"))
    token = visit.request.cookies.get(SIGN_IN_COOKIE, "")
    given = text_field(form, "form_token")
    if not token or not hmac.compare_digest(token.encode(), given.encode()):
        return _sign_in_form(visit, place, visit.t("The form was too old. Try again."), 403)
    return await run_in_threadpool(
        _check_password, visit, place, text_field(form, "name"), text_field(form, "password")
    )


def _check_password(visit: Visit, place: str, name: str, password: str) -> Response:
    rates, address = visit.desk.services.rates, address_of(visit.request)
    name = name.strip()[:40]
    wait_s = max(
        rates.take(f"sign-in:{address}", per_s=ADDRESS_TRIES_PER_S, burst=ADDRESS_TRIES_AT_ONCE),
        rates.take(f"sign-in:{address}:{name}", per_s=TRIES_PER_S, burst=TRIES_AT_ONCE),
    )
    if wait_s > 0:
        problem = visit.t("Too many tries. Wait {seconds} seconds.", seconds=int(wait_s) + 1)
        answer = _sign_in_form(visit, place, problem, 429)
        answer.headers["retry-after"] = str(int(wait_s) + 1)
        return answer
    user = visit.desk.users.check(name, password)
    if user is None:
        return _sign_in_form(visit, place, visit.t("Name or password is wrong."), 403)
    if visit.token:
        visit.desk.sessions.end(visit.token)
    answer = RedirectResponse(place, 303)
    token = visit.desk.sessions.start(user)
    _set_cookie(visit, answer, cookie_name(visit.request), token)
    answer.delete_cookie(SIGN_IN_COOKIE, path="/")
    return answer


def _set_cookie(
    visit: Visit, answer: Response, name: str, value: str, *, max_age: int | None = None
) -> None:
    answer.set_cookie(
        name,
        value,
        max_age=max_age,
        path="/",
        httponly=True,
        samesite="lax",
        secure=visit.request.url.scheme == "https",
    )


@action(router, "/sign-out", Role.VIEWER)
def sign_out(visit: Visit) -> Response:
    """End this session."""
    visit.desk.sessions.end(visit.token)
    answer = RedirectResponse(f"{PREFIX}/sign-in", 303)
    answer.delete_cookie(cookie_name(visit.request), path="/")
    return answer


@page(router, "/choose", None)
def choose(visit: Visit, language: str = "", theme: str = "", next: str = "") -> Response:  # noqa: A002
    """Remember language or colours in this browser."""
    answer = RedirectResponse(inside(next), 303)
    if language in LANGUAGES:
        _set_cookie(visit, answer, "avatarmod_language", language, max_age=KEEP_CHOICE_S)
    if theme in ("light", "dark", "auto"):
        _set_cookie(visit, answer, "avatarmod_theme", theme, max_age=KEEP_CHOICE_S)
    return answer


@action(router, "/decide", Role.MODERATOR)
async def decide(visit: Visit) -> Response:
    """Approve, block or undo; then back to where the form says, or to the next picture."""
    form = await read_form(visit.request)
    verdict, upload_id = text_field(form, "verdict"), text_field(form, "upload_id")
    following, back = text_field(form, "following"), text_field(form, "back")
    await run_in_threadpool(_decide, visit, verdict, upload_id)
    if back:
        return RedirectResponse(inside(back), 303)
    place = f"{PREFIX}/review?done={quote(upload_id)}"
    if verdict == "undo":
        place = f"{PREFIX}/review?at={quote(upload_id)}"
    elif following:
        place += f"&at={quote(following)}"
    return RedirectResponse(place, 303)


def _decide(visit: Visit, verdict: str, upload_id: str) -> None:
    decisions = Decisions(visit.desk.services.store, _callback_url(visit))
    try:
        if verdict == "undo":
            decisions.undo(upload_id, by=visit.name)
        elif verdict in ("approved", "blocked"):
            decisions.decide(upload_id, verdict, by=visit.name)  # type: ignore[arg-type]
        else:
            raise Refused(422, visit.t("This decision is not known."))
    except ModerationError as error:
        raise Refused(409, str(error)) from error
    visit.audit(verdict, upload_id, "done")


def _callback_url(visit: Visit) -> Any:
    default = visit.desk.services.settings.callback_url

    def url_of(avatar: Avatar) -> str:
        return callback_url_of(avatar, default)

    return url_of


@action(router, "/dead-letters", Role.OPERATOR)
async def handle_letters(visit: Visit) -> Response:
    """Replay or discard the selected dead letters, or all that match the filter."""
    form = await read_form(visit.request)
    what = text_field(form, "what")
    if what not in ("replay", "discard"):
        raise Refused(422, visit.t("This action is not known."))
    items = [str(item) for item in form.getlist("item")]
    filters = {name: text_field(form, name) for name in ("stage", "error", "since")}
    done, total = await run_in_threadpool(
        _handle, visit, what, items, filters if text_field(form, "all") else None
    )
    query = "".join(f"&{name}={quote(value)}" for name, value in filters.items() if value)
    return RedirectResponse(f"{PREFIX}/dead-letters?done={what}:{done}:{total}{query}", 303)


def _handle(
    visit: Visit, what: str, items: list[str], filters: dict[str, str] | None
) -> tuple[int, int]:
    letters = DeadLetters(visit.desk.services.store, _callback_url(visit))
    if filters is not None:
        found = letters.find(**letter_filter(visit, **filters))
        items = [letter.item for letter, _ in zip(found, range(MAX_AT_ONCE), strict=False)]
    done = 0
    for number, item in enumerate(items):
        if what == "replay":
            ok = letters.replay(item, by=visit.name, delay_s=number / REPLAYS_PER_S)
        else:
            ok = letters.discard(item, by=visit.name)
        done += ok
        visit.audit(what, item, "done" if ok else "was gone already")
    return done, len(items)


@action(router, "/providers/{name}/reset", Role.OPERATOR)
def reset_provider(visit: Visit, name: str) -> Response:
    """Close a provider's breaker: it is asked again at once."""
    providers = visit.desk.parts.providers
    if providers is None or not providers.reset(name):
        raise Refused(404, visit.t("No route names this provider."))
    visit.audit("reset", name, "done")
    return RedirectResponse(f"{PREFIX}/providers?done={quote(name)}", 303)
