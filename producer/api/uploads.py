"""`POST /v1/uploads` and `GET /v1/avatars/{upload_id}`: the queue for those who speak HTTP.

A multipart picture is on disk (or in S3) before its upload is enqueued, and the upload is in Redis
before the answer is sent: what was accepted survives the death of this process.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import pydantic_core
import redis
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from producer.api.gate import EnqueueKey, ReadKey, Services, services, take
from producer.api.problems import Problem, ProblemBody, validation_problem
from producer.contract import (
    EVENT_TYPE,
    Avatar,
    AvatarState,
    Priority,
    Region,
    check_upload_id,
)
from producer.enqueue import Enqueued, Upload
from producer.errors import ImageTooLarge, ModerationError, UnknownUpload
from producer.images import RECEIVED, Images
from producer.keys import ApiKey
from producer.outbox import describe

router = APIRouter(prefix="/v1", tags=["uploads"])

#: Uploads in one request.
MAX_BATCH = 100

#: Characters of a refused item's id that are repeated.
MAX_ID_CHARS = 200

#: Longest `wait` of a long poll, in seconds; proxies cut connections at 60.
MAX_WAIT_S = 30.0

#: States in which nothing more happens by itself.
SETTLED = frozenset(AvatarState) - {AvatarState.QUEUED, AvatarState.REVIEWING}

_REF = "#/components/schemas/"

ID_PATTERN = r"^[A-Za-z0-9._:@/-]{1,200}$"

EXAMPLE = {
    "upload_id": "user-17@2026-11-22T10:00",
    "image": "https://example.org/avatars/17.png",
    "region": "overseas",
}


class UploadIn(BaseModel):
    """One upload to moderate."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": dict[str, Any](EXAMPLE)}
    )

    upload_id: str = Field(
        pattern=ID_PATTERN,
        description="Your id of this picture; a new picture is a new id. No part between slashes "
        "may be `.` or `..`.",
    )
    image: str = Field(
        "",
        max_length=2000,
        description="Where the picture is: a name in the image store, s3://bucket/key or https://; "
        "empty: in the store, under the upload id. Private addresses are refused.",
    )
    region: Literal["domestic", "overseas"] | None = Field(
        None, description="Which review providers may see it; empty: the configured region."
    )
    priority: Literal["high", "normal", "low"] = Field(
        "normal", description="high while somebody waits for the answer, low for a backfill."
    )
    callback_url: str = Field(
        "",
        max_length=2000,
        description="Hears of this upload instead of the configured address; must be allowed by "
        "AVATARMOD_CALLBACK_ALLOWED_URLS. `none`: nobody.",
    )

    def to_upload(self, image: str | None = None) -> Upload:
        """What the producer takes."""
        return Upload(
            upload_id=self.upload_id,
            image=image or self.image,
            region=self.region,
            priority=self.priority,
            callback_url=self.callback_url,
        )


class BatchIn(BaseModel):
    """Up to 100 uploads, each accepted or refused on its own."""

    model_config = ConfigDict(extra="forbid", strict=True)

    uploads: list[Any] = Field(min_length=1, max_length=MAX_BATCH)


class Accepted(BaseModel):
    """What became of one upload."""

    upload_id: str | None = Field(description="Null where the refused item has none to repeat.")
    status: int = Field(description="202 accepted, 200 known already, 4xx or 503 refused.")
    state: AvatarState | None = Field(None, description="Where it stands now; null when refused.")
    seq: int | None = Field(None, description="Grows with every change of state.")
    created: bool = Field(False, description="False when the id was known already.")
    href: str | None = Field(None, description="Where to read its verdict.")
    error: ProblemBody | None = Field(None, description="Why it was refused.")


class BatchOut(BaseModel):
    """One answer for each upload, in order."""

    results: list[Accepted]


class AvatarData(BaseModel):
    """The public part of a record; a callback carries the same."""

    upload_id: str
    state: AvatarState
    seq: int = Field(description="Grows with every change; drop what is older than you have.")
    final: bool = Field(description="Whether only an operator can still change it.")
    probability: float | None = Field(description="Calibrated probability of nudity, 0 to 1.")
    raw_score: float | None = Field(description="The model's own number, 0 to 1.")
    style: str | None = Field(description="drawn or photo, where it mattered.")
    reason: str = Field(description="A code such as clear, explicit, damaged, overruled.")
    decided_by: str = Field(description="model, cache, rule, review:<provider>, operator:<name>.")
    region: Region
    bundle: str | None = Field(description="The model bundle that looked.")
    policy: str | None = Field(description="The version of the cut-offs that applied.")
    sha256: str | None = Field(description="Of the picture's bytes.")


class AvatarOut(BaseModel):
    """Where one upload stands; the same document as a callback's body."""

    type: str = Field(description="Always avatar.moderated.", examples=[EVENT_TYPE])
    timestamp: str = Field(description="When it changed last, UTC.")
    data: AvatarData


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemBody, "description": text}
    for status, text in {
        400: "The body cannot be read.",
        401: "No valid key.",
        403: "The key lacks the scope.",
        408: "The request arrived too slowly.",
        413: "Too many bytes.",
        415: "Not a media type or picture format that is accepted.",
        422: "A field is wrong; `field` names it.",
        429: "Too many calls; see Retry-After.",
        503: "Not now; see Retry-After. Sending the same again is safe.",
    }.items()
}


def problem_docs(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documented errors of a route."""
    return {
        status: {
            "description": ERRORS[status]["description"],
            "content": {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemBody"}}
            },
        }
        for status in statuses
    }


def _one_or_many(item: dict[str, Any]) -> dict[str, Any]:
    """The schema of a form field that may be repeated."""
    many = {"type": "array", "items": item, "minItems": 1, "maxItems": MAX_BATCH}
    return {"anyOf": [item, many]}


#: The schema of one of `BatchIn.uploads`, which is validated by itself.
BATCH_ITEM = {
    "anyOf": [
        {"$ref": _REF + "UploadIn"},
        {"description": "Anything else is refused alone, with its own problem."},
    ]
}

_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"anyOf": [{"$ref": _REF + "UploadIn"}, {"$ref": _REF + "BatchIn"}]},
            "examples": {
                "one": {"summary": "one upload", "value": EXAMPLE},
                "several": {
                    "summary": "several at once",
                    "value": {"uploads": [EXAMPLE, {"upload_id": "user-18", "image": "18.png"}]},
                },
            },
        },
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "description": "Pictures with their bytes. Repeat `upload_id` and `image` in the "
                "same order for several; the other fields hold for all.",
                "required": ["upload_id", "image"],
                "additionalProperties": False,
                "properties": {
                    "upload_id": _one_or_many({"type": "string", "pattern": ID_PATTERN}),
                    "image": _one_or_many({"type": "string", "format": "binary"}),
                    "region": {"type": "string", "enum": list(Region)},
                    "priority": {"type": "string", "enum": list(Priority)},
                    "callback_url": {"type": "string", "maxLength": 2000},
                },
            },
        },
    },
}


@router.post(
    "/uploads",
    status_code=202,
    response_model=Accepted | BatchOut,
    responses={
        200: {"description": "One upload whose id is known already.", "model": Accepted},
        202: {"description": "All accepted."},
        207: {"description": "Some or all of a batch were refused.", "model": BatchOut},
        **problem_docs(400, 401, 403, 408, 413, 415, 422, 429, 503),
    },
    openapi_extra={"requestBody": _BODY},
    summary="Enqueue one upload or up to 100",
)
async def post_uploads(request: Request, key: EnqueueKey) -> Response:
    """Accept pictures for moderation, by reference (JSON) or with their bytes (multipart).

    Sending the same `upload_id` again changes nothing and returns its present state, so a request
    that was answered with an error, or not at all, can be repeated.
    """
    found = services(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        items, is_batch = await _from_json(request)
        results = await run_in_threadpool(_enqueue, found, key, items)
    elif kind == "multipart/form-data":
        async with request.form(max_files=MAX_BATCH + 1, max_fields=2 * MAX_BATCH) as form:
            pictures, is_batch = _from_form(form)
            results = await run_in_threadpool(_enqueue_pictures, found, key, pictures)
    else:
        raise Problem(415, "unsupported_media_type", "send application/json or multipart/form-data")
    return _answer(results, is_batch)


#: One item of a request: what to enqueue, or the id as it was given and what is wrong.
Item = Upload | tuple[str | None, Problem]


async def _from_json(request: Request) -> tuple[list[Item], bool]:
    try:
        body = pydantic_core.from_json(await request.body())
    except ValueError:
        raise Problem(400, "invalid_json", "the body is not JSON") from None
    try:
        if isinstance(body, dict) and "uploads" in body:
            return [_item(value) for value in BatchIn.model_validate(body).uploads], True
        return [UploadIn.model_validate(body).to_upload()], False
    except ValidationError as error:
        raise validation_problem(error) from None


def _item(value: Any) -> Item:
    """One of a batch, which is refused alone if it is no upload."""
    try:
        return UploadIn.model_validate(value).to_upload()
    except ValidationError as error:
        given = value.get("upload_id") if isinstance(value, dict) else None
        upload_id = given[:MAX_ID_CHARS] if isinstance(given, str) else None
        return upload_id, validation_problem(error)


def _from_form(form: FormData) -> tuple[list[tuple[UploadIn, UploadFile]], bool]:
    unknown = set(form) - {"upload_id", "image", "region", "priority", "callback_url"}
    if unknown:
        raise Problem(
            422, "invalid_request", "this form field is not known", field=sorted(unknown)[0][:60]
        )
    ids, files = form.getlist("upload_id"), form.getlist("image")
    pictures = [file for file in files if isinstance(file, UploadFile)]
    if not ids or len(ids) != len(files) or len(pictures) != len(files):
        raise Problem(
            422,
            "invalid_request",
            f"{len(ids)} upload_id fields and {len(pictures)} image files: give one file for each "
            "id, in the same order",
            field="image",
        )
    if len(ids) > MAX_BATCH:
        raise Problem(422, "invalid_request", f"at most {MAX_BATCH} at once", field="upload_id")
    shared = {name: form[name] for name in ("region", "priority", "callback_url") if name in form}
    try:
        items = [UploadIn.model_validate({"upload_id": id_, **shared}) for id_ in ids]
    except ValidationError as error:
        raise validation_problem(error) from None
    return list(zip(items, pictures, strict=True)), len(ids) > 1


Result = tuple[str | None, Enqueued | ModerationError | Problem]


def _enqueue(found: Services, key: ApiKey, items: Sequence[Item]) -> list[Result]:
    if len(items) > 1:
        take(found, key, len(items) - 1)
    good = [item for item in items if isinstance(item, Upload)]
    answers = iter(found.producer.enqueue_many(good) if good else ())
    return [(item.upload_id, next(answers)) if isinstance(item, Upload) else item for item in items]


def _enqueue_pictures(
    found: Services, key: ApiKey, items: Sequence[tuple[UploadIn, UploadFile]]
) -> list[Result]:
    if len(items) > 1:
        take(found, key, len(items) - 1)
    try:
        known = found.store.get_many([item.upload_id for item, _ in items])
    except redis.RedisError as error:
        raise Problem(503, "storage_unavailable", "Redis did not answer") from error
    results: list[Result] = []
    for (item, file), avatar in zip(items, known, strict=True):
        if avatar is not None:
            results.append((item.upload_id, Enqueued(avatar, created=False)))
            continue
        results.append((item.upload_id, _enqueue_picture(found, item, file)))
    return results


def _enqueue_picture(
    found: Services, item: UploadIn, file: UploadFile
) -> Enqueued | ModerationError:
    limit = found.settings.max_image_bytes
    if (file.size or 0) > limit:
        return ImageTooLarge(f"the picture has {file.size} bytes; at most {limit} are accepted")
    data = file.file.read()
    name = picture_name(item.upload_id, data)
    try:
        found.images.put(name, data)
        answer = found.producer.enqueue_many([item.to_upload(name)])[0]
    except ModerationError as error:
        return error
    is_refused = isinstance(answer, ModerationError) and not _may_stand(answer)
    if is_refused or (isinstance(answer, Enqueued) and answer.avatar.image != name):
        _forget(found.images, name)
    return answer


def _may_stand(error: ModerationError) -> bool:
    """Whether the upload may have been accepted although we heard an error."""
    return error.code == "storage_unavailable"


def _forget(images: Images, name: str) -> None:
    try:
        images.remove(name)
    except ModerationError:
        return  # an orphan in the store, nothing worse


def picture_name(upload_id: str, data: bytes) -> str:
    """Where the bytes of an upload are kept: a name that no later bytes can overwrite.

    The folder is the day; see worker/received.py.
    """
    day = time.strftime("%Y-%m-%d", time.gmtime())
    parts = (upload_id.encode(), data)
    who, what = (hashlib.sha256(part).hexdigest()[:24] for part in parts)
    return f"{RECEIVED}/{day}/{who}-{what}"


def _answer(results: Sequence[Result], is_batch: bool) -> Response:
    if not is_batch:
        upload_id, answer = results[0]
        if not isinstance(answer, Enqueued):
            return _problem(answer).response()
        accepted = _accepted(upload_id, answer)
        headers = {"location": str(accepted["href"])}
        return JSONResponse(accepted, accepted["status"], headers)
    problems = [_problem(answer) for _, answer in results if not isinstance(answer, Enqueued)]
    if len(problems) == len(results) and all(p.status == 503 for p in problems):
        return problems[0].response()
    body = {"results": [_accepted(upload_id, answer) for upload_id, answer in results]}
    return JSONResponse(body, 207 if problems else 202)


def _problem(error: ModerationError | Problem) -> Problem:
    return error if isinstance(error, Problem) else Problem.of(error)


def _accepted(
    upload_id: str | None, answer: Enqueued | ModerationError | Problem
) -> dict[str, Any]:
    if not isinstance(answer, Enqueued):
        problem = _problem(answer)
        return {"upload_id": upload_id, "status": problem.status, "error": problem.body()}
    avatar = answer.avatar
    return {
        "upload_id": upload_id,
        "status": 202 if answer.created else 200,
        "state": str(avatar.state),
        "seq": avatar.seq,
        "created": answer.created,
        "href": f"/v1/avatars/{upload_id}",
    }


@router.get(
    "/avatars/{upload_id:path}",
    response_model=AvatarOut,
    responses={
        304: {"description": "It still is what If-None-Match names."},
        404: {
            **problem_docs(401)[401],
            "description": "Never enqueued, or its record has expired.",
        },
        **problem_docs(401, 403, 422, 429, 503),
    },
    summary="Where one upload stands",
)
async def get_avatar(
    request: Request,
    upload_id: str,
    _key: ReadKey,
    wait: Annotated[
        float,
        Query(
            ge=0,
            le=MAX_WAIT_S,
            allow_inf_nan=False,
            description="Seconds to wait for news: with If-None-Match until it changed, else until "
            "it is decided or held.",
        ),
    ] = 0,
) -> Response:
    """The verdict, in the same form as a callback; with an ETag, and a long poll by `wait`."""
    check_upload_id(upload_id)
    found = services(request)
    known = _etags(request.headers.get("if-none-match", ""))

    def is_news(avatar: Avatar | None) -> bool:
        if avatar is None:
            return True
        return etag(avatar) not in known if known else avatar.state in SETTLED

    try:
        avatar = await found.follower.wait(upload_id, is_news, wait)
    except redis.RedisError as error:
        raise Problem(
            503, "storage_unavailable", "Redis did not answer", retry_after_s=2
        ) from error
    if avatar is None:
        raise Problem.of(
            UnknownUpload(f"no record of {upload_id!r}: never enqueued, or expired since")
        )
    headers = {"etag": etag(avatar), "cache-control": "private, no-cache"}
    if etag(avatar) in known:
        return Response(status_code=304, headers=headers)
    return JSONResponse(document(avatar), headers=headers)


def etag(avatar: Avatar) -> str:
    """Changes with every transition, and when the id is used anew after its record expired."""
    return f'"{avatar.seq}-{int(avatar.created_at * 1e6):x}"'


def _etags(header: str) -> frozenset[str]:
    return frozenset(part.strip().removeprefix("W/") for part in header.split(",") if part.strip())


def document(avatar: Avatar) -> dict[str, Any]:
    """The record as the web tier sees it; equal to the body of a callback."""
    at = datetime.fromtimestamp(avatar.updated_at, UTC).isoformat(timespec="milliseconds")
    fields = avatar.to_hash()
    return {
        "type": EVENT_TYPE,
        "timestamp": at.replace("+00:00", "Z"),
        "data": describe(
            avatar.upload_id, str(avatar.state), avatar.seq, str(avatar.region), fields
        ),
    }
