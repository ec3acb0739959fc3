"""One request to the console: who sends it, may they, and in which language they read.

Every route is made by `page` or `action` of this module, which carry the role that the route
needs; there is no other way in.
"""

from __future__ import annotations

import dataclasses
import hmac
from collections.abc import Callable, Mapping
from typing import Annotated, Any
from urllib.parse import parse_qsl, quote, urlsplit

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from producer.record.store import Store
from producer.web.audit import audit
from producer.web.auth import address_of
from producer.web.bodies import MAX_FIELD_BYTES, media_type
from producer.web.console.cache import TimedCache
from producer.web.console.dependencies import Parts
from producer.web.console.languages import LANGUAGES, Language, preferred
from producer.web.console.pictures import Looks
from producer.web.services import Services
from producer.web.trusted_user import TRUSTED_USER
from producer.web.users import Role, Session, Sessions, Users

PREFIX = "/console"

#: The one form with a picture; all others are URL-encoded.
PICTURE_FORM = f"{PREFIX}/look-alikes"

#: Attribute of a route's endpoint: the role it needs, None for everybody.
ROLE = "console_role"

COOKIE = "avatarmod_session"

#: Ways to show pictures, the first one where nothing was chosen.
LOOKS = ("blur", "gray", "shown")

#: Bytes of one form.
MAX_FORM_BYTES = 64 * 1024

#: Fields of one form; a page of dead letters has up to a hundred boxes.
MAX_FORM_FIELDS = 300


@dataclasses.dataclass(frozen=True, kw_only=True)
class Console:
    """What every page works with; built once per process."""

    services: Services
    parts: Parts
    users: Users
    sessions: Sessions
    languages: Mapping[str, Language]
    render: Callable[..., str]
    looks: Looks | None
    cache: TimedCache = dataclasses.field(default_factory=TimedCache)


class Redirected(Exception):
    """Raised to send the browser to another page."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


class Refused(Exception):
    """Raised to refuse a request with a page that says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context:
    """One request by one person, or by nobody yet."""

    request: Request
    console: Console
    session: Session | None
    #: Whom a proxy in front has signed in; empty where there is none.
    trusted_name: str
    token: str = dataclasses.field(repr=False)
    language: Language
    theme: str
    #: How pictures are shown: `blur`, `gray`, or `shown` until the browser is closed.
    look: str

    @property
    def store(self) -> Store:
        """The records."""
        return self.console.services.store

    @property
    def parts(self) -> Parts:
        """What the worker's side gave."""
        return self.console.parts

    @property
    def name(self) -> str:
        """Who; only where a role was asked for."""
        assert self.session is not None
        return self.session.user.name

    def gettext(self, text: str, **values: object) -> str:
        """A sentence in this person's language."""
        return self.language.gettext(text, **values)

    def may(self, role: str) -> bool:
        """Whether this person has at least a role."""
        return self.session is not None and self.session.user.role.includes(Role(role))

    def audit(self, action: str, item: str, outcome: str) -> None:
        """Note what somebody did: for the activity page, and in the ledger's stream."""
        audit(
            self.store,
            by=self.name,
            action=action,
            item=item,
            outcome=outcome,
            address=address_of(self.request),
        )


def page(router: APIRouter, path: str, role: Role | None) -> Callable[[Any], Any]:
    """A GET route of the console for people with a role; None: for everybody.

    The endpoint's parameter `context` is given by the check of that role.
    """
    return _route(router, "GET", path, role)


def action(router: APIRouter, path: str, role: Role | None) -> Callable[[Any], Any]:
    """A POST route of the console; its form must carry the session's CSRF token."""
    return _route(router, "POST", path, role)


def _route(router: APIRouter, method: str, path: str, role: Role | None) -> Callable[[Any], Any]:
    def register(endpoint: Any) -> Any:
        setattr(endpoint, ROLE, role)
        endpoint.__annotations__["context"] = Annotated[Context, _require(role)]
        router.add_api_route(
            PREFIX + path, endpoint, methods=[method], include_in_schema=False, response_model=None
        )
        return endpoint

    return register


def _require(role: Role | None) -> Any:
    """A dependency that lets people with a role in and gives their `Context`."""

    async def check(request: Request) -> Context:
        context = await run_in_threadpool(context_of, request)
        is_post = request.method == "POST"
        if is_post:
            _refuse_foreign(context)
        if role is None:
            return context
        if context.session is None:
            if is_post:
                raise Refused(401, context.gettext("Your session has ended. Sign in again."))
            raise Redirected(f"{PREFIX}/sign-in?next={quote(_path_and_query(request))}")
        if not context.may(role):
            raise Refused(403, context.gettext("Your role does not allow this."))
        if is_post:
            await _check_csrf(context, context.session)
        return context

    return Depends(check)


async def _check_csrf(context: Context, session: Session) -> None:
    given = text_field(await read_form(context), "csrf")
    if not hmac.compare_digest(given.encode(), session.csrf.encode()):
        message = "This page is out of date. Go back, reload it and try again."
        raise Refused(403, context.gettext(message))


async def read_form(context: Context) -> FormData:
    """The posted fields, read once; they only come URL-encoded in UTF-8, but for a picture's form.

    Raises:
        Refused: 415 or 400, they came in any other way.
    """
    request = context.request
    if (form := getattr(request.state, "form", None)) is not None:
        return form  # type: ignore[no-any-return]
    if request.url.path == PICTURE_FORM and media_type(request) == "multipart/form-data":
        await _read_with_picture(request)
        return request.state.form  # type: ignore[no-any-return]
    kind, _, parameters = request.headers.get("content-type", "").lower().partition(";")
    charset = parameters.strip().removeprefix("charset=").strip('"')
    if kind.strip() != "application/x-www-form-urlencoded" or charset not in ("", "utf-8"):
        raise Refused(415, context.gettext("Forms must be URL-encoded in UTF-8."))
    try:
        text = (await request.body()).decode("utf-8")
        pairs = parse_qsl(
            text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FORM_FIELDS
        )
    except ValueError as error:
        raise Refused(400, context.gettext("This form cannot be read.")) from error
    request.state.form = FormData([(name, value) for name, value in pairs])
    return request.state.form  # type: ignore[no-any-return]


async def _read_with_picture(request: Request) -> None:
    limits = {"max_files": 1, "max_fields": 4, "max_part_size": MAX_FIELD_BYTES}
    async with request.form(**limits) as form:
        files = [value for value in form.values() if isinstance(value, UploadFile)]
        request.state.picture = await files[0].read() if files else b""
        request.state.form = FormData(
            [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
        )


async def read_picture(context: Context) -> bytes:
    """The picture that came with a form; nothing where none did."""
    await read_form(context)
    return getattr(context.request.state, "picture", b"")


def text_field(form: FormData, name: str) -> str:
    """One posted text, or an empty one."""
    value = form.get(name)
    return value if isinstance(value, str) else ""


def context_of(request: Request) -> Context:
    """Who sends a request, signed in or not."""
    console: Console = request.app.state.console
    token = request.cookies.get(cookie_name(request), "")
    language = request.cookies.get("avatarmod_language", "")
    if language not in LANGUAGES:
        language = preferred(request.headers.get("accept-language", ""))
    theme = request.cookies.get("avatarmod_theme", "")
    look = request.cookies.get("avatarmod_look", "")
    return Context(
        request=request,
        console=console,
        session=_session_of(request, token),
        trusted_name=trusted_name(request),
        token=token,
        language=console.languages[language],
        theme=theme if theme in ("light", "dark") else "auto",
        look=look if look in LOOKS else LOOKS[0],
    )


def _session_of(request: Request, token: str) -> Session | None:
    """The session of a browser; where a proxy names a person, only one of that person."""
    sessions: Sessions = request.app.state.console.sessions
    session = sessions.find(token) if token else None
    name = trusted_name(request)
    if session is None or (session.is_trusted and not name):
        return None
    return session if not name or session.user.name == name else None


def trusted_name(request: Request) -> str:
    """Whom a trusted proxy has signed in; empty for nobody."""
    return str(request.scope.get(TRUSTED_USER, ""))


def cookie_name(request: Request) -> str:
    """Behind TLS the name binds the cookie to this host and to TLS.

    Source: RFC 6265bis, cookie name prefixes.
    """
    return f"__Host-{COOKIE}" if request.url.scheme == "https" else COOKIE


def _refuse_foreign(context: Context) -> None:
    """Browsers say where a form was sent from; another site's is refused before anything else."""
    headers = context.request.headers
    site, origin = headers.get("sec-fetch-site", "same-origin"), headers.get("origin", "")
    is_foreign = origin not in ("", "null") and _host_of(origin) != headers.get("host", "")
    if site not in ("same-origin", "none") or is_foreign:
        raise Refused(403, context.gettext("This form came from another site."))


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _path_and_query(request: Request) -> str:
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def safe_target(url: str) -> str:
    """A page of the console to go to, whatever was asked for."""
    is_plain = url.isprintable() and "\\" not in url and "//" not in url.partition("?")[0]
    path = url.partition("?")[0].partition("#")[0]
    if is_plain and (path == PREFIX or path.startswith(PREFIX + "/")):
        return url
    return PREFIX
