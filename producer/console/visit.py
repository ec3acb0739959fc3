"""One visit to a page: who is there, may they, in which language; and the headers of every answer.

Every console route is made by `page` or `action` of this module, which carry the role that the
route needs; there is no other way in.
"""

from __future__ import annotations

import dataclasses
import hmac
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from producer.api.gate import Services, address_of, services
from producer.audit import audit
from producer.console.parts import Parts
from producer.console.texts import LANGUAGES, Translator
from producer.users import Role, Session, Sessions, Users

PREFIX = "/console"

#: Attribute of a route's endpoint: the role it needs, None for everybody.
ROLE = "console_role"

COOKIE = "avatarmod_session"

#: Fields of one form; a page of dead letters has up to a hundred boxes.
MAX_FORM_FIELDS = 300

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Desk:
    """What every page works with; built once per process."""

    services: Services
    parts: Parts
    users: Users
    sessions: Sessions
    render: Callable[..., str]
    kept: Any


class Elsewhere(Exception):
    """Raised to send the browser to another page."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


class Refused(Exception):
    """Raised to refuse a request with a page that says why."""

    def __init__(self, status: int, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s


@dataclasses.dataclass(frozen=True, kw_only=True)
class Visit:
    """One request by one person, or by nobody yet."""

    request: Request
    desk: Desk
    session: Session | None
    token: str = dataclasses.field(repr=False)
    t: Translator
    theme: str

    @property
    def name(self) -> str:
        """Who; only where a role was asked for."""
        assert self.session is not None
        return self.session.user.name

    def may(self, role: str) -> bool:
        """Whether this person has at least a role."""
        return self.session is not None and self.session.user.role.includes(Role(role))

    def audit(self, action: str, item: str, outcome: str) -> None:
        """Note what somebody did: for the activity page, and in the ledger's stream."""
        audit(
            self.desk.services.store,
            by=self.name,
            action=action,
            item=item,
            outcome=outcome,
            address=address_of(self.request),
        )


def desk_of(request: Request) -> Desk:
    """The desk of the application that a request came to."""
    found: Desk = request.app.state.desk
    return found


def page(router: APIRouter, path: str, role: Role | None) -> Callable[[Any], Any]:
    """A GET route of the console for people with a role; None: for everybody.

    The endpoint's parameter `visit` is given by the guard of that role.
    """
    return _route(router, "GET", path, role)


def action(router: APIRouter, path: str, role: Role | None) -> Callable[[Any], Any]:
    """A POST route of the console; its form must carry the session's CSRF token."""
    return _route(router, "POST", path, role)


def _route(router: APIRouter, method: str, path: str, role: Role | None) -> Callable[[Any], Any]:
    def register(endpoint: Any) -> Any:
        setattr(endpoint, ROLE, role)
        endpoint.__annotations__["visit"] = Annotated[Visit, visitor(role)]
        router.add_api_route(
            PREFIX + path, endpoint, methods=[method], include_in_schema=False, response_model=None
        )
        return endpoint

    return register


def visitor(role: Role | None) -> Any:
    """A dependency that lets people with a role in and gives their `Visit`."""

    async def check(request: Request) -> Visit:
        visit = await run_in_threadpool(visit_of, request)
        if request.method == "POST":
            _refuse_foreign(request)
        if role is None:
            return visit
        if visit.session is None:
            if request.method == "POST":
                raise Refused(401, visit.t("Your session has ended. Sign in again."))
            raise Elsewhere(f"{PREFIX}/sign-in?next={quote(_place(request))}")
        if not visit.may(role):
            raise Refused(403, visit.t("Your role does not allow this."))
        if request.method == "POST":
            form = await read_form(request)
            given = form.get("csrf")
            if not isinstance(given, str) or not hmac.compare_digest(
                given.encode(), visit.session.csrf.encode()
            ):
                raise Refused(403, visit.t("This page was too old. Go back, reload and try again."))
        return visit

    return Depends(check)


async def read_form(request: Request) -> FormData:
    """The posted fields, read once."""
    return await request.form(max_files=0, max_fields=MAX_FORM_FIELDS)


def text_field(form: FormData, name: str) -> str:
    """One posted text, or an empty one."""
    value = form.get(name)
    return value if isinstance(value, str) else ""


def visit_of(request: Request) -> Visit:
    """Who visits, whether signed in or not."""
    desk = desk_of(request)
    token = request.cookies.get(cookie_name(request), "")
    language = request.cookies.get("avatarmod_language", "")
    if language not in LANGUAGES:
        wanted = request.headers.get("accept-language", "").lower()
        language = "zh-CN" if wanted.startswith("zh") else "en"
    theme = request.cookies.get("avatarmod_theme", "")
    return Visit(
        request=request,
        desk=desk,
        session=desk.sessions.find(token) if token else None,
        token=token,
        t=Translator(language),
        theme=theme if theme in ("light", "dark") else "auto",
    )


def cookie_name(request: Request) -> str:
    """Behind TLS the name binds the cookie to this host and to TLS.

    Source: RFC 6265bis, cookie name prefixes.
    """
    return f"__Host-{COOKIE}" if request.url.scheme == "https" else COOKIE


def _refuse_foreign(request: Request) -> None:
    """Browsers say where a form was sent from; another site's is refused before anything else."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin", "")
    host = request.headers.get("host", "")
    is_foreign_origin = origin not in ("", "null") and urlsplit(origin).netloc != host
    if site not in ("same-origin", "none") or is_foreign_origin:
        raise Refused(403, "This form came from another site.")


def _place(request: Request) -> str:
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def inside(url: str) -> str:
    """A place in the console to go to, whatever was asked for."""
    parts = urlsplit(url)
    is_ours = not parts.scheme and not parts.netloc and url.isprintable() and "\\" not in url
    if is_ours and (parts.path == PREFIX or parts.path.startswith(PREFIX + "/")):
        return url
    return PREFIX


class SecurityHeaders:
    """Adds the security headers to every answer, and keeps the console's pages out of caches."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_page = scope["path"].startswith(PREFIX)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if is_page:
                    headers.setdefault("cache-control", "no-store")
            await send(message)

        await self._app(scope, receive, with_headers)


def services_of(visit: Visit) -> Services:
    """Shorthand."""
    return services(visit.request)
