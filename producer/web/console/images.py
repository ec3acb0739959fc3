"""Pictures of uploads, drawn anew: whole, small, or frame by frame; never their own bytes."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from producer.contract import Avatar, is_upload_id
from producer.errors import ModerationError
from producer.web.console.context import Context, Refused, page
from producer.web.console.pictures import Looks
from producer.web.users import Role

router = APIRouter()

#: Nothing in a picture may run, whatever a browser takes it for.
HEADERS = {
    "cache-control": "private, max-age=300",
    "content-disposition": "inline",
    "content-security-policy": "default-src 'none'; sandbox",
}

#: Header with the seconds of each frame, comma-separated.
DURATIONS = "avatarmod-durations"


@page(router, "/picture/{upload_id:path}", Role.VIEWER)
async def picture(context: Context, upload_id: str, size: str = "") -> Response:
    """The upload's picture; `size=small`: at most 320 px."""
    looks, avatar = await _asked(context, upload_id)
    look = looks.small_jpeg if size == "small" else looks.safe_jpeg
    try:
        jpeg = await look(avatar, context.name)
    except ModerationError as error:
        raise _no_picture(context, error) from error
    return Response(jpeg, media_type="image/jpeg", headers=HEADERS)


@page(router, "/frames/{upload_id:path}", Role.VIEWER)
async def frames(context: Context, upload_id: str) -> Response:
    """An animation's frames as squares in a row; 204 for a still picture."""
    looks, avatar = await _asked(context, upload_id)
    try:
        jpeg, durations_s = await looks.frames(avatar)
    except ModerationError as error:
        raise _no_picture(context, error) from error
    if not jpeg:
        return Response(status_code=204, headers={"cache-control": HEADERS["cache-control"]})
    lengths = ",".join(f"{seconds:.3f}" for seconds in durations_s)
    return Response(jpeg, media_type="image/jpeg", headers={**HEADERS, DURATIONS: lengths})


async def _asked(context: Context, upload_id: str) -> tuple[Looks, Avatar]:
    if context.console.looks is None:
        raise Refused(404, context.gettext("Pictures cannot be shown by this process."))
    is_id = is_upload_id(upload_id)
    avatar = await run_in_threadpool(context.store.get, upload_id) if is_id else None
    if avatar is None:
        raise Refused(404, context.gettext("No upload has this id, or it has expired."))
    return context.console.looks, avatar


def _no_picture(context: Context, error: ModerationError) -> Refused:
    why = context.language.reason(error.code)
    return Refused(404, context.gettext("No picture to show: %(why)s.", why=why))
