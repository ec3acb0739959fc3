"""`POST /classify` and pict-rs validation: an answer on the open connection, through the queue.

The picture waits in the most urgent lane; a worker with the model answers within a deadline, or the
caller hears 503 and Retry-After. The model's verdict is remembered by content, so sending the same
picture again after a 503 is answered at once when it was decided meanwhile.
"""

from __future__ import annotations

import uuid
from typing import Any

import redis
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from producer.contract import NO_CALLBACK, Avatar, AvatarState, Priority, Stage
from producer.errors import ImageTooLarge, StorageUnavailable
from producer.web.api.avatars import document
from producer.web.api.schemas import AvatarData, form_docs, problem_docs
from producer.web.api.uploads import forget_picture, picture_name
from producer.web.auth import EnqueueKey
from producer.web.bodies import MAX_FIELD_BYTES, media_type
from producer.web.problems import Problem
from producer.web.services import Services, services

router = APIRouter(tags=["classify"])

#: Seconds that the record of a decided classification is kept; nobody comes back for it.
RECORD_TTL_S = 3600

#: Seconds after which a caller who met a busy or absent model should try again.
RETRY_AFTER_S = 3.0

#: Labels of the answer, as the models' own cards spell them.
NSFW, SFW = "NSFW", "SFW"

#: Reason of a rejected picture -> HTTP status; 422 for the others.
STATUS_OF_REASON = {"too_large": 413, "unsupported": 415}


class Prediction(BaseModel):
    """One label and how probable it is."""

    label: str = Field(examples=[NSFW])
    score: float = Field(ge=0, le=1, description="Calibrated probability.", examples=[0.013])


class Classified(AvatarData):
    """The verdict and the two probabilities, the likelier one first."""

    predictions: list[Prediction]


_PICTURE = {"type": "string", "format": "binary"}


@router.post(
    "/classify",
    response_model=Classified,
    responses=problem_docs(400, 401, 403, 408, 413, 415, 422, 429, 503),
    openapi_extra=form_docs(
        required=["file"], additionalProperties=False, properties={"file": _PICTURE}
    ),
    summary="Classify one picture and wait for the answer",
)
async def classify(request: Request, _key: EnqueueKey) -> Response:
    """Send a picture as the form field `file`; the answer has its predictions and our verdict.

    A gray picture is answered at once with state `reviewing` or `held`; its final verdict can be
    read later under its `upload_id`.
    """
    if media_type(request) != "multipart/form-data":
        raise Problem(415, "unsupported_media_type", "send multipart/form-data with a field `file`")
    async with request.form(max_files=2, max_fields=20, max_part_size=MAX_FIELD_BYTES) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile) or len(form.multi_items()) > 1:
            raise Problem(
                422,
                "invalid_request",
                "send one picture as the file `file` and no other field",
                field="file",
            )
        data = await file.read()
    if not data:
        raise Problem(422, "empty", "the file is empty; send the picture's bytes", field="file")
    avatar = await through_the_queue(services(request), data)
    if avatar.state == AvatarState.REJECTED:
        raise _rejected(avatar)
    answer = {**document(avatar)["data"], "predictions": predictions(avatar)}
    return JSONResponse(answer, headers={"cache-control": "no-store"})


@router.post(
    "/v1/validate",
    responses={
        200: {"description": "The picture is accepted.", "content": None},
        406: {**problem_docs(400)[400], "description": "The picture is refused."},
        **problem_docs(401, 403, 408, 413, 429, 503),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"image/*": {"schema": _PICTURE}, "video/*": {"schema": _PICTURE}},
        }
    },
    summary="pict-rs external validation",
)
async def validate(request: Request, _key: EnqueueKey) -> Response:
    """Answer 200 for a picture that may be stored and 406 for one that may not.

    The body is the picture itself. A time-out is answered 503, which pict-rs takes as a refusal:
    an unknown picture is never accepted. Set PICTRS__MEDIA__EXTERNAL_VALIDATION to
    `http://avatarmod:KEY@host:8042/v1/validate`.
    """
    data = await request.body()
    if not data:
        raise Problem(406, "empty", "the body is empty; send the picture's bytes")
    avatar = await through_the_queue(services(request), data)
    if avatar.state == AvatarState.APPROVED:
        return Response(status_code=200)
    is_gray = avatar.state in (AvatarState.REVIEWING, AvatarState.HELD)
    if is_gray and services(request).settings.api_accept_gray:
        return Response(status_code=200)
    raise Problem(406, avatar.reason or str(avatar.state), f"the picture is {avatar.state}")


async def through_the_queue(found: Services, data: bytes) -> Avatar:
    """The record of a picture once the model has looked at it.

    Raises:
        Problem: 413 it is too large; 503 nobody can look at it within the deadline.
        NoSlot: too many are classified; this one was not enqueued.
    """
    settings = found.settings
    if len(data) > settings.max_image_bytes:
        raise Problem.of(
            ImageTooLarge(
                f"the picture has {len(data)} bytes; at most {settings.max_image_bytes} are "
                "accepted"
            )
        )
    with found.classifications.take():
        return await _classify(found, data)


async def _classify(found: Services, data: bytes) -> Avatar:
    upload_id = f"classify/{uuid.uuid4().hex}"
    name = picture_name(upload_id, data)
    try:
        await run_in_threadpool(_enqueue, found, upload_id, name, data)
        avatar = await found.follower.wait(
            upload_id,
            lambda avatar: avatar is not None and avatar.state != AvatarState.QUEUED,
            found.settings.api_classify_deadline_s,
        )
        if avatar is None or avatar.state == AvatarState.QUEUED:
            raise _not_now("the model did not answer in time; the picture stays in the queue")
        if avatar.state == AvatarState.DEAD:
            raise _not_now("the picture could not be classified")
        if avatar.is_final:
            await run_in_threadpool(_clean_up, found, upload_id, name)
    except redis.RedisError as error:
        message = f"Redis did not answer ({type(error).__name__})"
        raise Problem.of(StorageUnavailable(message)) from error
    return avatar


def _enqueue(found: Services, upload_id: str, name: str, data: bytes) -> None:
    if not any(Stage.MODERATE in worker.get("stages", ()) for worker in found.store.workers()):
        raise _not_now("no worker with a model is running")
    found.images.put(name, data)
    found.producer.enqueue(upload_id, name, priority=Priority.HIGH, callback_url=NO_CALLBACK)


def _clean_up(found: Services, upload_id: str, name: str) -> None:
    forget_picture(found.images, name)
    found.store.forget_after(upload_id, RECORD_TTL_S)


def _not_now(why: str) -> Problem:
    return Problem(503, "not_now", f"{why}; try again", retry_after_s=RETRY_AFTER_S)


def _rejected(avatar: Avatar) -> Problem:
    status = STATUS_OF_REASON.get(avatar.reason, 422)
    return Problem(
        status, avatar.reason, f"the picture cannot be classified: {avatar.reason}", field="file"
    )


def predictions(avatar: Avatar) -> list[dict[str, Any]]:
    """Both labels, the likelier first; a verdict without the model counts as certain."""
    nsfw = avatar.probability
    if nsfw is None:
        nsfw = 1.0 if avatar.state == AvatarState.BLOCKED else 0.0
    nsfw = round(nsfw, 6)
    both = [(NSFW, nsfw), (SFW, round(1 - nsfw, 6))]
    ordered = sorted(both, key=lambda pair: pair[1], reverse=True)
    return [{"label": label, "score": score} for label, score in ordered]
