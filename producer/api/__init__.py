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

from producer.api import classify, ops, problems, reference, uploads
from producer.api.gate import BodyLimit, Services, Timed
from producer.console import Parts, mount

__all__ = ["Services", "create_app"]

DESCRIPTION = """\
Send avatars, read verdicts. Every call but `/healthz` and `/readyz` needs a key, made with
`avatarmod keys create`, sent as `X-API-Key`, as a bearer token or as the password of Basic.
Errors are problem documents (RFC 9457) with a stable `code`.
"""


def create_app(services: Services, parts: Parts) -> FastAPI:
    """The application on ready-made services and the console's parts."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        services.follower.start()
        yield
        services.follower.stop()

    app = FastAPI(
        title="avatar-moderation",
        version=importlib.metadata.version("avatar-moderation"),
        description=DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.services = services
    problems.install(app)
    app.include_router(ops.router)
    app.include_router(uploads.router)
    app.include_router(classify.router)
    app.include_router(reference.router)
    mount(app, services, parts)
    app.add_middleware(
        BodyLimit,
        max_bytes=services.settings.api_max_body_bytes,
        timeout_s=services.settings.api_body_timeout_s,
    )
    app.add_middleware(Timed, recorder=services.recorder)
    setattr(app, "openapi", lambda: _document(app))  # noqa: B010 - FastAPI's own extension point
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document with the bodies that the routes read themselves."""
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        schemas = document["components"]["schemas"]
        for model in (uploads.UploadIn, uploads.BatchIn):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
        schemas["BatchIn"]["properties"]["uploads"]["items"] = uploads.BATCH_ITEM
        app.openapi_schema = document
    return app.openapi_schema
