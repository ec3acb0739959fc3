"""`POST /v1/detect-images`: what Misskey asks of its detector of sensitive media.

Source: misskey-dev/sensitive-detector, docs/api-detect-images.md, and Misskey's
`SensitiveMediaDetectionService`, which sends up to four PNGs a call as `image0`, `image1`, ... with
the key as a bearer token, and takes whatever it cannot read for a harmless picture.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile

from producer.contract import Avatar, AvatarState
from producer.web.api.classify import through_the_queue
from producer.web.api.schemas import form_docs, problem_docs
from producer.web.auth import EnqueueKey, take
from producer.web.bodies import MAX_FIELD_BYTES, media_type
from producer.web.limits import NoSlot
from producer.web.problems import Problem
from producer.web.services import Services, services

router = APIRouter(tags=["classify"])

#: Pictures in one call. Source: `maxParts` of sensitive-detector.
MAX_PARTS = 10

#: The classes that Misskey's rules look at: sensitive is Sexy or Porn, pornographic is Porn.
NEUTRAL, SEXY, PORN = "Neutral", "Sexy", "Porn"

#: HTTP status of what went wrong with one picture -> the detector's code.
CODES = {413: "REQUEST_TOO_LARGE", 415: "IMAGE_DECODE_FAILED", 422: "IMAGE_DECODE_FAILED"}


class Prediction(BaseModel):
    """One class and how probable it is: our verdict is certain, so 1 or 0."""

    className: str = Field(examples=[PORN])
    probability: float = Field(ge=0, le=1)


class DetectionError(BaseModel):
    """Why one picture has no predictions."""

    code: str = Field(examples=["IMAGE_DECODE_FAILED"])
    message: str


class Detected(BaseModel):
    """A picture that was looked at; the likeliest class first."""

    success: Literal[True] = True
    predictions: list[Prediction]


class NotDetected(BaseModel):
    """A picture that was not; Misskey takes it for harmless."""

    success: Literal[False] = False
    error: DetectionError


class Detections(BaseModel):
    """One result for each picture, in order."""

    results: list[Detected | NotDetected]


class DetectionsOut(BaseModel):
    """The answer."""

    success: Literal[True] = True
    result: Detections


@router.post(
    "/v1/detect-images",
    response_model=DetectionsOut,
    responses=problem_docs(400, 401, 403, 408, 413, 415, 422, 429, 503),
    openapi_extra=form_docs(
        minProperties=1,
        maxProperties=MAX_PARTS,
        additionalProperties={"type": "string", "format": "binary"},
    ),
    summary="Misskey's detection of sensitive media",
)
async def detect_images(request: Request, key: EnqueueKey) -> DetectionsOut:
    """Look at up to 10 pictures at once; the names of their fields do not matter.

    The class follows our verdict: approved is Neutral, gray is Sexy (sensitive until somebody has
    decided), blocked is Porn. So the cut-offs of the policy hold, not Misskey's slider.
    """
    if media_type(request) != "multipart/form-data":
        raise Problem(415, "unsupported_media_type", "send multipart/form-data with pictures")
    async with request.form(
        max_files=MAX_PARTS + 1, max_fields=MAX_PARTS + 1, max_part_size=MAX_FIELD_BYTES
    ) as form:
        parts = [part for _, part in form.multi_items()]
        if not 1 <= len(parts) <= MAX_PARTS:
            raise Problem(
                422, "invalid_request", f"send 1 to {MAX_PARTS} pictures, not {len(parts)}"
            )
        pictures = [await part.read() if isinstance(part, UploadFile) else b"" for part in parts]
    found = services(request)
    if len(pictures) > 1:
        take(found, key, len(pictures) - 1)
    results = await asyncio.gather(*(_detect(found, picture) for picture in pictures))
    return DetectionsOut(result=Detections(results=list(results)))


async def _detect(found: Services, picture: bytes) -> Detected | NotDetected:
    if not picture:
        return _failed("INVALID_REQUEST", "the part is empty or no file")
    try:
        avatar = await through_the_queue(found, picture)
    except NoSlot:
        return _failed("MODEL_UNAVAILABLE", "too many pictures are looked at; try again")
    except Problem as problem:
        return _failed(CODES.get(problem.status, "MODEL_UNAVAILABLE"), problem.detail)
    if avatar.state == AvatarState.REJECTED:
        code = CODES[413] if avatar.reason == "too_large" else CODES[422]
        return _failed(code, f"the picture cannot be looked at: {avatar.reason}")
    return Detected(predictions=_predictions(avatar, found.settings.api_accept_gray))


def _failed(code: str, message: str) -> NotDetected:
    return NotDetected(error=DetectionError(code=code, message=message))


def _predictions(avatar: Avatar, accept_gray: bool) -> list[Prediction]:
    if avatar.state == AvatarState.BLOCKED:
        said = PORN
    elif avatar.state == AvatarState.APPROVED or accept_gray:
        said = NEUTRAL
    else:
        said = SEXY
    others = [name for name in (NEUTRAL, SEXY, PORN) if name != said]
    return [Prediction(className=name, probability=float(name == said)) for name in (said, *others)]
