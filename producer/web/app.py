"""The HTTP edge: uploads in, verdicts out, and the operators' console beside it.

`create_app` builds the application and nothing more; connections are opened by its caller and given
to it. FastAPI's own documentation pages load scripts from elsewhere and are switched off for one of
ours (reference.py); `/openapi.json` is there for every tool that reads it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI

from producer.web import problems
from producer.web.api import (
    avatars,
    classify,
    misskey,
    operate,
    ops,
    reasons,
    reference,
    schemas,
    uploads,
)
from producer.web.console.context import MAX_FORM_BYTES, PICTURE_FORM, PREFIX
from producer.web.console.dependencies import Parts
from producer.web.console.mount import mount
from producer.web.headers import SecurityHeaders
from producer.web.middleware import Addressed, BodyLimit, Timed
from producer.web.services import Services

__all__ = ["Services", "create_app"]

DESCRIPTION = """\
Send avatars, read verdicts. Every call but `/healthz`, `/readyz` and `/v1/reasons` needs a key,
made with `avatarmod keys create`, sent as `X-API-Key`, as a bearer token or as the password of
Basic. Errors are problem documents (RFC 9457) with a stable `code`.
"""


def create_app(services: Services, parts: Parts) -> FastAPI:
    """The application on ready-made services and the console's parts."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        services.follower.start()
        yield
        services.follower.stop()
        if app.state.console.looks is not None:
            app.state.console.looks.close()

    app = FastAPI(
        title="avatar-moderation",
        version=importlib.metadata.version("avatar-moderation"),
        description=DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        docs_url=None,
        redoc_url=None,
        # A redirect would repeat the Host that the client sent; see Addressed.
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.services = services
    problems.install(app)
    for module in (ops, uploads, operate, avatars, classify, misskey, reasons, reference):
        app.include_router(module.router)
    mount(app, services, parts)
    app.add_middleware(
        BodyLimit,
        max_bytes=services.settings.api_max_body_bytes,
        max_form_bytes=MAX_FORM_BYTES,
        timeout_s=services.settings.api_body_timeout_s,
        forms_below=PREFIX,
        but=PICTURE_FORM,
    )
    app.add_middleware(Addressed, ids_below=("/v1/avatars/", "/v1/uploads/", f"{PREFIX}/"))
    app.add_middleware(SecurityHeaders, private=PREFIX)
    app.add_middleware(Timed, recorder=services.recorder)
    setattr(app, "openapi", lambda: _document(app))  # noqa: B010 - FastAPI's own extension point
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document with the bodies that the routes read themselves."""
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        known = document["components"]["schemas"]
        for model in (schemas.UploadIn, schemas.BatchIn, operate.DecisionIn, operate.LettersIn):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            known.update(schema.pop("$defs", {}))
            known[model.__name__] = schema
        known["BatchIn"]["properties"]["uploads"]["items"] = schemas.BATCH_ITEM
        app.openapi_schema = document
    return app.openapi_schema
