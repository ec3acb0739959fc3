"""Errors of the HTTP API as problem documents: a code, a human sentence, the offending field.

Source: RFC 9457 (application/problem+json).
"""

from __future__ import annotations

import http
import math
import re
from typing import Any, TypeVar

import pydantic
import pydantic_core
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from producer import errors
from producer.web.headers import SECURITY_HEADERS
from producer.web.limits import NoSlot

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"

#: HTTP status of each error of ours; the first class that fits counts.
STATUS_OF: tuple[tuple[type[errors.ModerationError], int], ...] = (
    (errors.UnknownUpload, 404),
    (errors.ImageTooLarge, 413),
    (errors.UnsupportedImage, 415),
    (errors.InvalidInput, 422),
    (errors.Transient, 503),
    (errors.ModerationError, 500),
)

#: Where pydantic would tell the caller the name of a class of ours.
#: Source: pydantic 2, "Validation Errors", type names.
WITHOUT_CLASS_NAMES = {
    "model_type": "should be an object",
    "model_attributes_type": "should be an object",
    "dataclass_type": "should be an object",
    "dict_type": "should be an object",
}

ModelT = TypeVar("ModelT", bound=BaseModel)

#: Seconds after which a caller should try again where the error does not say.
RETRY_AFTER_S = 5.0


class ProblemBody(BaseModel):
    """What every error looks like."""

    type: str = Field("about:blank", description="Always about:blank; see `code`.")
    title: str = Field(description="The HTTP status in words.", examples=["Content Too Large"])
    status: int = Field(description="The HTTP status.", examples=[413])
    detail: str = Field(description="What is wrong with which value, and what would be right.")
    code: str = Field(description="Stable, machine-readable name.", examples=["too_large"])
    field: str | None = Field(None, description="The field at fault, if one is.")


class Problem(Exception):
    """Raised to answer a request with an error.

    Args:
        status: HTTP status.
        code: stable name.
        detail: one sentence for people; never holds a secret.
        field: the field at fault.
        retry_after_s: when to try again, in seconds.
        headers: more headers.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        field: str | None = None,
        retry_after_s: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.field = field
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["retry-after"] = str(max(1, math.ceil(retry_after_s)))

    @classmethod
    def of(cls, error: errors.ModerationError) -> Problem:
        """The problem that an error of the tree is for an HTTP caller."""
        status = next(status for kind, status in STATUS_OF if isinstance(error, kind))
        retry_after_s = getattr(error, "retry_after_s", None)
        if status == 503 and retry_after_s is None:
            retry_after_s = RETRY_AFTER_S
        return cls(
            status,
            error.code,
            str(error),
            field=getattr(error, "field", None),
            retry_after_s=retry_after_s,
        )

    def body(self) -> dict[str, Any]:
        """The document; `field` only where one is at fault."""
        found = {
            "type": "about:blank",
            "title": http.HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        return {**found, "field": self.field} if self.field else found

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.body(), self.status, self.headers, media_type=MEDIA_TYPE)


def validation_problem(error: Any) -> Problem:
    """The problem that one of pydantic's complaints is; the value itself is never repeated."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    field = ".".join(place) or None
    why = WITHOUT_CLASS_NAMES.get(first["type"], first["msg"])
    return Problem(422, "invalid_request", f"{field or 'body'}: {why}", field=field)


async def read_json(request: Request, model: type[ModelT]) -> ModelT:
    """A body as a model; read by the route itself, after the key was checked.

    Raises:
        Problem: 400 it is no JSON, 422 a field is wrong.
    """
    try:
        return model.model_validate(pydantic_core.from_json(await request.body()))
    except pydantic.ValidationError as error:
        raise validation_problem(error) from None
    except ValueError:
        raise Problem(400, "invalid_json", "the body is not JSON") from None


def _methods_of(app: FastAPI, path: str) -> list[str]:
    """What the document says may be sent to a path; the router knows of its first route only."""
    paths = app.openapi()["paths"]
    fitting = [one for one in paths if re.fullmatch(re.sub(r"{\w+}", ".+", one), path)]
    # The most literal one: an id may hold slashes.
    named = max(fitting, key=lambda one: len(re.sub(r"{\w+}", "", one)), default="")
    return sorted(method.upper() for method in paths.get(named, ()))


def install(app: FastAPI) -> None:
    """Make every error of the application a problem document."""

    @app.exception_handler(Problem)
    async def on_problem(_request: Request, problem: Problem) -> JSONResponse:
        return problem.response()

    @app.exception_handler(errors.ModerationError)
    async def on_error(_request: Request, error: errors.ModerationError) -> JSONResponse:
        return Problem.of(error).response()

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        return validation_problem(error).response()

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> JSONResponse:
        phrase = http.HTTPStatus(error.status_code).phrase
        code = phrase.lower().replace(" ", "_")
        headers = dict(error.headers or {})
        methods = _methods_of(app, request.url.path) if error.status_code == 405 else []
        if methods:
            headers["Allow"] = ", ".join(methods)
        return Problem(
            error.status_code, code, str(error.detail or phrase), headers=headers
        ).response()

    @app.exception_handler(NoSlot)
    async def on_no_slot(_request: Request, _error: NoSlot) -> JSONResponse:
        return Problem(
            503, "not_now", "too many of these are running; try again", retry_after_s=RETRY_AFTER_S
        ).response()

    @app.exception_handler(ClientDisconnect)
    async def on_gone(_request: Request, _error: ClientDisconnect) -> Response:
        # Nobody reads this; without a handler it would be logged as a bug of ours.
        return Response(status_code=400)

    @app.exception_handler(Exception)
    async def on_bug(request: Request, error: Exception) -> JSONResponse:
        log.error("request_crashed", path=request.url.path, exc_info=error)
        # This answer passes through no middleware.
        return Problem(
            500,
            "internal",
            "something went wrong here; the log says what",
            headers=dict(SECURITY_HEADERS),
        ).response()
