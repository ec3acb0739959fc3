"""`POST /v1/uploads`: the queue for those who speak HTTP.

A multipart picture is on disk (or in S3) before its upload is enqueued, and the upload is in Redis
before the answer is sent: what was accepted survives the death of this process.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from typing import Any

import pydantic_core
import redis
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from producer import Enqueued, Upload
from producer.contract import Avatar
from producer.errors import ImageTooLarge, ModerationError
from producer.images import RECEIVED, Images
from producer.web.api.schemas import (
    MAX_BATCH,
    UPLOADS_BODY,
    Accepted,
    BatchIn,
    BatchOut,
    UploadIn,
    problem_docs,
)
from producer.web.api_keys import ApiKey
from producer.web.auth import EnqueueKey, take
from producer.web.bodies import MAX_FIELD_BYTES, media_type
from producer.web.problems import Problem, validation_problem
from producer.web.services import Services, services

router = APIRouter(prefix="/v1", tags=["uploads"])

#: Fields of a form that hold for all its pictures.
SHARED_FIELDS = ("region", "priority", "callback_url", "subject", "language")

#: Digits of each hash in the name of a picture.
NAME_CHARS = 24

#: Characters of a refused item's id that are repeated.
MAX_ID_CHARS = 200


@router.post(
    "/uploads",
    status_code=202,
    response_model=Accepted | BatchOut,
    responses={
        200: {"description": "One upload whose id is known already.", "model": Accepted},
        202: {"description": "All accepted."},
        207: {"description": "Some or all of a batch were refused.", "model": BatchOut},
        **problem_docs(400, 401, 403, 408, 409, 413, 415, 422, 429, 503),
    },
    openapi_extra={"requestBody": UPLOADS_BODY},
    summary="Enqueue one upload or up to 100",
)
async def post_uploads(request: Request, key: EnqueueKey) -> Response:
    """Accept pictures for moderation, by reference (JSON) or with their bytes (multipart).

    Sending the same `upload_id` again changes nothing and returns its present state, so a request
    that was answered with an error, or not at all, can be repeated. With the bytes of another
    picture it is refused with 409; by reference, compare `sha256`.
    """
    found = services(request)
    kind = media_type(request)
    if kind == "application/json":
        items, is_batch = await _from_json(request)
        results = await run_in_threadpool(_enqueue, found, key, items)
    elif kind == "multipart/form-data":
        async with request.form(
            max_files=MAX_BATCH + 1, max_fields=2 * MAX_BATCH, max_part_size=MAX_FIELD_BYTES
        ) as form:
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
    unknown = set(form) - {"upload_id", "image", *SHARED_FIELDS}
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
    shared = {name: form[name] for name in SHARED_FIELDS if name in form}
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
        answer: Enqueued | ModerationError | Problem
        if avatar is not None and (file.size or 0) <= found.settings.max_image_bytes:
            answer = _unless_other(avatar, file.file.read())
        else:
            answer = _enqueue_picture(found, item, file)
        results.append((item.upload_id, answer))
    return results


def _unless_other(avatar: Avatar, data: bytes) -> Enqueued | Problem:
    """What is known under an id; a conflict where that is another picture than these bytes.

    An upload by reference that nothing has looked at yet has no bytes to compare.
    """
    digest = hashlib.sha256(data).hexdigest()
    name, has = avatar.image, bool(avatar.sha256)
    is_other = has and avatar.sha256 != digest
    if not has and name.startswith(f"{RECEIVED}/"):
        is_other = not name.endswith(f"-{digest[:NAME_CHARS]}")
    if not is_other:
        return Enqueued(avatar, created=False)
    return Problem(
        409,
        "conflict",
        f"upload id {avatar.upload_id} is known with another picture"
        + (f" (sha256 {avatar.sha256})" if has else "")
        + "; a new picture needs a new id",
        field="upload_id",
    )


def _enqueue_picture(
    found: Services, item: UploadIn, file: UploadFile
) -> Enqueued | ModerationError | Problem:
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
        forget_picture(found.images, name)
    if isinstance(answer, Enqueued) and not answer.created:
        # Enqueued by somebody else in this moment.
        return _unless_other(answer.avatar, data)
    return answer


def _may_stand(error: ModerationError) -> bool:
    """Whether the upload may have been accepted although we heard an error."""
    return error.code == "storage_unavailable"


def forget_picture(images: Images, name: str) -> None:
    """Remove the bytes of an upload that nobody will ask for."""
    try:
        images.remove(name)
    except ModerationError:
        return  # an orphan in the store, nothing worse


def picture_name(upload_id: str, data: bytes) -> str:
    """Where the bytes of an upload are kept: a name that no other request has, before or after.

    So whoever removes it takes nothing away from somebody who sends the same again. The folder is
    the day; see worker/duties/retention.py.
    """
    day = time.strftime("%Y-%m-%d", time.gmtime())
    parts = (upload_id.encode(), data)
    who, what = (hashlib.sha256(part).hexdigest()[:NAME_CHARS] for part in parts)
    return f"{RECEIVED}/{day}/{who}-{secrets.token_hex(6)}-{what}"


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
        "sha256": avatar.sha256 or None,
        "created": answer.created,
        "href": f"/v1/avatars/{upload_id}",
    }
