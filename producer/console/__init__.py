"""The operators' console: server-rendered pages, one stylesheet, one small script, no build step.

`mount` adds it to the API's application. It reads the store, the dead letters and what it is given
as `Parts`; the path of an upload never touches it.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any
from urllib.parse import quote

import redis
import structlog
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from producer.api.gate import Services
from producer.console import actions, charts, pages
from producer.console.numbers import Kept
from producer.console.parts import Parts
from producer.console.visit import (
    PREFIX,
    Desk,
    Elsewhere,
    Refused,
    SecurityHeaders,
    Visit,
    visit_of,
)
from producer.users import Sessions, Users

__all__ = ["Parts", "mount"]

log = structlog.get_logger()

#: Files served as they are: name -> media type.
STATIC = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


def mount(app: FastAPI, services: Services, parts: Parts) -> None:
    """Add the console to the application."""
    users = Users(services.store)
    app.state.desk = Desk(
        services=services,
        parts=parts,
        users=users,
        sessions=Sessions(services.store, users, services.settings.session_ttl_s),
        render=_renderer(parts),
        kept=Kept(),
    )
    app.include_router(actions.router)
    app.include_router(pages.router)
    app.add_api_route("/", _to_the_console, methods=["GET"], include_in_schema=False)
    _serve_static(app)
    _handle_errors(app)
    app.add_middleware(SecurityHeaders)


async def _to_the_console() -> Response:
    return RedirectResponse(PREFIX, 302)


def _renderer(parts: Parts) -> Any:
    environment = Environment(
        loader=PackageLoader("producer.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        charts=charts,
        chart_of=pages.chart_of,
        local_time=lambda at: pages.local_time(float(at), parts.timezone),
        prefix=PREFIX,
        link=lambda upload_id: f"{PREFIX}/uploads/{quote(upload_id, safe='@:')}",
    )
    environment.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False, indent=2)

    def render(template: str, **values: Any) -> str:
        return environment.get_template(template).render(**values)

    return render


def _serve_static(app: FastAPI) -> None:
    folder = resources.files("producer.console") / "static"
    contents = {name: (folder / name).read_bytes() for name in STATIC}

    async def static(name: str) -> Response:
        if name not in contents:
            return Response(status_code=404)
        headers = {"cache-control": "public, max-age=300"}
        return Response(contents[name], media_type=STATIC[name], headers=headers)

    app.add_api_route(PREFIX + "/static/{name}", static, methods=["GET"], include_in_schema=False)


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(Elsewhere)
    async def on_elsewhere(_request: Request, found: Elsewhere) -> Response:
        return RedirectResponse(found.url, 303)

    @app.exception_handler(Refused)
    async def on_refused(request: Request, refused: Refused) -> Response:
        return _error_page(visit_of(request), refused.status, refused.message)

    @app.exception_handler(redis.RedisError)
    async def on_redis(_request: Request, error: redis.RedisError) -> Response:
        log.error("redis_away", error=type(error).__name__)
        text = "Redis does not answer; moderation goes on when it is back. Reload this page."
        return Response(text, 503, {"retry-after": "5"}, media_type="text/plain")


def _error_page(visit: Visit, status: int, message: str) -> HTMLResponse:
    answer = pages.show(visit, "error.html", status=status, message=message)
    answer.status_code = status
    return answer
