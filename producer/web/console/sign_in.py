"""Signing in and out, and the choices that a browser remembers."""

from __future__ import annotations

import hmac
import math
import secrets

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from producer.web.auth import address_of
from producer.web.console.context import (
    LOOKS,
    PREFIX,
    Context,
    Refused,
    action,
    cookie_name,
    page,
    read_form,
    safe_target,
    text_field,
)
from producer.web.console.languages import LANGUAGES
from producer.web.console.rendering import show
from producer.web.limits import NoSlot, network_of
from producer.web.users import Role, User

router = APIRouter()

#: Attempts to sign in: at once and a second, for one name from one address and for one address.
ATTEMPTS_AT_ONCE, ATTEMPTS_PER_S = 8, 1 / 60
ADDRESS_AT_ONCE, ADDRESS_PER_S = 40, 1 / 10

#: Seconds after which to try again where too many passwords were being checked.
BUSY_S = 5.0

#: Seconds that a choice of language or colours is kept.
KEEP_CHOICE_S = 365 * 86400

#: Cookie that a sign-in form must match, before there is a session.
SIGN_IN_COOKIE = "avatarmod_sign_in"


@page(router, "/sign-in", None)
def sign_in_page(context: Context, next: str = "") -> Response:  # noqa: A002 - a query's name
    """The form."""
    if context.session is not None:
        return RedirectResponse(safe_target(next), 303)
    if context.trusted_name:
        return _come_in(context, safe_target(next))
    return _sign_in_form(context, safe_target(next), "", 200)


def _come_in(context: Context, place: str) -> Response:
    """A session for whom a proxy has signed in."""
    user = context.console.users.trusted(context.trusted_name)
    if user is None:
        message = context.gettext(
            "You are signed in as %(name)s, who has no role here. Ask an operator for one.",
            name=context.trusted_name,
        )
        raise Refused(403, message)
    return _start_session(context, user, place, is_trusted=True)


def _sign_in_form(
    context: Context, place: str, problem: str, status: int, *, retry_after_s: float = 0.0
) -> Response:
    token = secrets.token_urlsafe(24)
    answer = show(
        context, "sign_in.html", status=status, next=place, problem=problem, form_token=token
    )
    _set_cookie(context, answer, SIGN_IN_COOKIE, token, max_age=3600)
    if retry_after_s > 0:
        answer.headers["retry-after"] = str(math.ceil(retry_after_s))
    return answer


@action(router, "/sign-in", None)
async def sign_in(context: Context) -> Response:
    """Check a name and a password; a new session, whatever cookie was sent."""
    form = await read_form(context)
    place = safe_target(text_field(form, "next"))
    token = context.request.cookies.get(SIGN_IN_COOKIE, "")
    given = text_field(form, "form_token")
    if not token or not hmac.compare_digest(token.encode(), given.encode()):
        return _sign_in_form(
            context, place, context.gettext("This form is out of date. Try again."), 403
        )
    return await run_in_threadpool(
        _check_password, context, place, text_field(form, "name"), text_field(form, "password")
    )


def _check_password(context: Context, place: str, name: str, password: str) -> Response:
    rates, address = context.console.services.rates, network_of(address_of(context.request))
    name = name.strip()[:40]
    wait_s = max(
        rates.take(f"sign-in:{address}", per_s=ADDRESS_PER_S, burst=ADDRESS_AT_ONCE),
        rates.take(f"sign-in:{address}:{name}", per_s=ATTEMPTS_PER_S, burst=ATTEMPTS_AT_ONCE),
    )
    if wait_s > 0:
        problem = context.gettext(
            "Too many attempts. Wait %(wait)s.", wait=context.language.span(math.ceil(wait_s))
        )
        return _sign_in_form(context, place, problem, 429, retry_after_s=wait_s)
    try:
        user = context.console.users.check(name, password)
    except NoSlot:
        problem = context.gettext("Too many people are signing in. Try again in a moment.")
        return _sign_in_form(context, place, problem, 503, retry_after_s=BUSY_S)
    if user is None:
        return _sign_in_form(context, place, context.gettext("Name or password is wrong."), 403)
    return _start_session(context, user, place)


def _start_session(
    context: Context, user: User, place: str, *, is_trusted: bool = False
) -> Response:
    if context.token:
        context.console.sessions.end(context.token)
    answer = RedirectResponse(place, 303)
    token = context.console.sessions.start(user, is_trusted=is_trusted)
    _set_cookie(context, answer, cookie_name(context.request), token)
    answer.delete_cookie(SIGN_IN_COOKIE, path="/")
    return answer


def _set_cookie(
    context: Context, answer: Response, name: str, value: str, *, max_age: int | None = None
) -> None:
    answer.set_cookie(
        name,
        value,
        max_age=max_age,
        path="/",
        httponly=True,
        samesite="lax",
        secure=context.request.url.scheme == "https",
    )


@action(router, "/sign-out", Role.VIEWER)
def sign_out(context: Context) -> Response:
    """End this session."""
    context.console.sessions.end(context.token)
    answer = RedirectResponse(f"{PREFIX}/sign-in", 303)
    answer.delete_cookie(cookie_name(context.request), path="/")
    return answer


@page(router, "/choose", None)
def choose(
    context: Context,
    language: str = "",
    theme: str = "",
    look: str = "",
    next: str = "",  # noqa: A002
) -> Response:
    """Remember language, colours or how pictures are shown; bare pictures for this session only."""
    answer = RedirectResponse(safe_target(next), 303)
    if language in LANGUAGES:
        _set_cookie(context, answer, "avatarmod_language", language, max_age=KEEP_CHOICE_S)
    if theme in ("light", "dark", "auto"):
        _set_cookie(context, answer, "avatarmod_theme", theme, max_age=KEEP_CHOICE_S)
    if look in LOOKS:
        kept_s = KEEP_CHOICE_S if look != "shown" else None
        _set_cookie(context, answer, "avatarmod_look", look, max_age=kept_s)
    return answer
