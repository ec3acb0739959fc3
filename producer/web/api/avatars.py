"""Where one upload stands, now or as soon as it changes, and what became of all of them."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

import redis
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from producer.contract import Avatar, AvatarState, Region, check_upload_id
from producer.errors import UnknownUpload
from producer.record import outbox
from producer.record.changes import Change, CursorInvalid, CursorTooOld
from producer.record.outbox import describe
from producer.web.api.schemas import AvatarOut, ChangesOut, problem_docs
from producer.web.auth import ReadKey
from producer.web.problems import Problem
from producer.web.services import services

router = APIRouter(prefix="/v1", tags=["uploads"])

#: Longest `wait` of a long poll, in seconds; proxies cut connections at 60.
MAX_WAIT_S = 30.0

#: Changes in one answer.
MAX_CHANGES = 1000

#: States in which nothing more happens by itself.
SETTLED = frozenset(AvatarState) - {AvatarState.QUEUED, AvatarState.REVIEWING}


@router.get(
    "/avatars/{upload_id:path}",
    response_model=AvatarOut,
    responses={
        304: {"description": "It still is what If-None-Match names."},
        **problem_docs(401, 403, 404, 422, 429, 503),
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
        with found.long_polls.take() if wait else contextlib.nullcontext():
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


@router.get(
    "/changes",
    response_model=ChangesOut,
    responses=problem_docs(401, 403, 410, 422, 429, 503),
    summary="What became of all uploads, in order",
)
def list_changes(
    request: Request,
    _key: ReadKey,
    since: Annotated[
        str,
        Query(max_length=100, description="The cursor of the last answer; empty: from the oldest."),
    ] = "",
    limit: Annotated[int, Query(ge=1, le=MAX_CHANGES, description="Most changes to answer.")] = 100,
) -> dict[str, Any]:
    """Every change of the last two weeks as a callback tells it, for who was down or cannot hear.

    Each upload comes as it stands now, once in an answer, at the place of its last change there. A
    change may come again in a later answer; none is left out. Keep the new cursor once you have
    acted on all of them.
    """
    found = services(request)
    try:
        page = found.store.changes.since(since, limit)
        newest: dict[str, Change] = {}
        for change in page.changes:
            newest.pop(change.upload_id, None)
            newest[change.upload_id] = change
        records = found.store.get_many(list(newest))
    except CursorInvalid:
        raise Problem(
            422, "invalid_cursor", "since: not a cursor of ours; leave it out", field="since"
        ) from None
    except CursorTooOld:
        raise Problem(
            410,
            "cursor_too_old",
            "changes since then are not all listed any more: begin again without `since`, and ask "
            "for each upload that still waits on your side",
            field="since",
        ) from None
    except redis.RedisError as error:
        raise Problem(
            503, "storage_unavailable", "Redis did not answer", retry_after_s=2
        ) from error
    region = found.settings.default_region
    return {
        "changes": [
            document(avatar) if avatar and avatar.seq >= change.seq else _without(change, region)
            for avatar, change in zip(records, newest.values(), strict=True)
        ],
        "cursor": page.cursor,
        "more": page.more,
    }


def _without(change: Change, region: Region) -> dict[str, Any]:
    """A change whose record has expired: what is left of it."""
    data = describe(change.upload_id, change.state, change.seq, region, {})
    return outbox.document(data, change.at)


def etag(avatar: Avatar) -> str:
    """Changes with every transition, and when the id is used anew after its record expired."""
    return f'"{avatar.seq}-{int(avatar.created_at * 1e6):x}"'


def _etags(header: str) -> frozenset[str]:
    return frozenset(part.strip().removeprefix("W/") for part in header.split(",") if part.strip())


def document(avatar: Avatar) -> dict[str, Any]:
    """The record as the web tier sees it; equal to the body of a callback."""
    fields = avatar.to_hash()
    data = describe(avatar.upload_id, avatar.state, avatar.seq, avatar.region, fields)
    return outbox.document(data, avatar.updated_at)
