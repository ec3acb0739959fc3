"""Adds the console to the API's application.

It reads the store, the dead letters and what it is given as `Parts`; the path of an upload never
touches it.
"""

from __future__ import annotations

from importlib import resources

import redis
import structlog
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from producer.web.console import (
    actions,
    finding,
    grid,
    images,
    pages,
    sign_in,
    thresholds,
    uploads,
)
from producer.web.console.context import PREFIX, Console, Redirected, Refused, context_of
from producer.web.console.dependencies import Parts
from producer.web.console.languages import load_languages
from producer.web.console.pictures import Looks
from producer.web.console.rendering import make_renderer, show
from producer.web.services import Services
from producer.web.users import Role, Sessions, Users

log = structlog.get_logger()

#: Files served as they are: name -> media type.
STATIC = {
    **dict.fromkeys(("console.css", "grid.css", "lists.css"), "text/css; charset=utf-8"),
    **dict.fromkeys(
        ("console.js", "grid.js", "live.js", "preview.js", "queue.js", "session.js"),
        "text/javascript; charset=utf-8",
    ),
    "icon.svg": "image/svg+xml",
}


def mount(app: FastAPI, services: Services, parts: Parts) -> None:
    """Add the console to the application."""
    settings = services.settings
    role = settings.trusted_user_role
    users = Users(services.store, Role(role) if role else None)
    languages = load_languages(timezone=parts.timezone, currency=settings.currency)
    app.state.console = Console(
        services=services,
        parts=parts,
        users=users,
        sessions=Sessions(services.store, users, settings.session_ttl_s),
        languages=languages,
        render=make_renderer(languages),
        looks=Looks(parts.pictures) if parts.pictures else None,
    )
    for module in (sign_in, actions, finding, grid, images, pages, thresholds, uploads):
        app.include_router(module.router)
    app.add_api_route("/", _to_the_console, methods=["GET"], include_in_schema=False)
    _serve_static(app)
    _handle_errors(app)


async def _to_the_console() -> Response:
    return RedirectResponse(PREFIX, 302)


def _serve_static(app: FastAPI) -> None:
    folder = resources.files("producer.web.console") / "static"
    contents = {name: (folder / name).read_bytes() for name in STATIC}

    async def static(name: str) -> Response:
        if name not in contents:
            return Response(status_code=404)
        headers = {"cache-control": "public, max-age=300"}
        return Response(contents[name], media_type=STATIC[name], headers=headers)

    app.add_api_route(PREFIX + "/static/{name}", static, methods=["GET"], include_in_schema=False)


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(Redirected)
    async def on_redirected(_request: Request, found: Redirected) -> Response:
        return RedirectResponse(found.url, 303)

    @app.exception_handler(Refused)
    def on_refused(request: Request, refused: Refused) -> Response:
        context, status = context_of(request), refused.status
        if request.headers.get("accept") == "application/json":
            return JSONResponse({"problem": refused.message}, status)
        return show(context, "error.html", status=status, code=status, message=refused.message)

    @app.exception_handler(redis.RedisError)
    async def on_redis(_request: Request, error: redis.RedisError) -> Response:
        log.error("redis_away", error=type(error).__name__)
        text = "Redis does not answer; moderation continues when it is back. Reload this page."
        return Response(text, 503, {"retry-after": "5"}, media_type="text/plain")
