"""What an operator does, for programs: decide, try again, replay and discard dead letters.

Each call needs the scope `operate`, and is noted with the key's name like a click in the console.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal

import redis
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from producer.contract import MAX_SUBJECT_CHARS, Avatar, AvatarState, Stage, check_upload_id
from producer.errors import InvalidUpload, StorageUnavailable
from producer.findings import Seen
from producer.reasons import BlockReason
from producer.record.dead_letters import REPLAYS_PER_S, DeadLetter, DeadLetters
from producer.record.decisions import MAX_APPEAL, MAX_NOTE, Decisions, Why
from producer.web.api.avatars import document
from producer.web.api.schemas import AvatarOut, json_body, problem_docs
from producer.web.api_keys import ApiKey
from producer.web.audit import audit
from producer.web.auth import EnqueueKey, OperateKey, address_of
from producer.web.problems import Problem, read_json
from producer.web.services import services

router = APIRouter(prefix="/v1", tags=["operations"])

#: Dead letters in one answer or one request.
MAX_LETTERS = 1000

DOCS = problem_docs(401, 403, 422, 429, 503)
KNOWN_DOCS = {**problem_docs(404, 409), **DOCS}


class DecisionIn(BaseModel):
    """What a person decided about an upload."""

    model_config = ConfigDict(extra="forbid", strict=True)

    verdict: Literal["approved", "blocked", "undo"] = Field(
        description="undo takes an earlier decision back: the upload is held again."
    )
    by: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._@-]{0,40}$",
        description="Who decided, recorded as operator:<name>; empty: the name of the key.",
    )
    seq: int | None = Field(
        None, ge=1, description="Of the record that was decided about: 409 when it has changed."
    )
    sha256: str = Field(
        "",
        pattern=r"^([0-9a-f]{64})?$",
        description="Of the picture that was shown: 409 when another one lies there.",
    )
    reason: BlockReason | None = Field(
        None, description="What it is blocked for; its owner is told in words, see /v1/reasons."
    )
    note: str = Field("", max_length=MAX_NOTE, description="For moderators only.")
    copies: bool = Field(
        False,
        description="Settle uploads of the same picture, too, that are decided otherwise by now; "
        "those that wait are settled in any case.",
    )


class LetterOut(BaseModel):
    """Why one item stopped for good."""

    item: str = Field(description="The upload's id, or <id>#<seq> for a callback.")
    stage: Stage
    error: str = Field(description="The kind of the last error.")
    message: str
    attempts: int
    first_failed_at: float = Field(description="Seconds since the epoch.")
    last_failed_at: float = Field(description="Seconds since the epoch.")


class LettersOut(BaseModel):
    """Dead letters, the newest first."""

    total: int = Field(description="How many there are, whatever was asked for.")
    letters: list[LetterOut]


class LettersIn(BaseModel):
    """Which dead letters to handle."""

    model_config = ConfigDict(extra="forbid", strict=True)

    items: list[str] = Field(min_length=1, max_length=MAX_LETTERS)


class HandledOut(BaseModel):
    """What came of it; an item that is no dead letter any more is not counted, and no error."""

    done: int
    total: int


@router.post(
    "/avatars/{upload_id:path}/decision",
    response_model=AvatarOut,
    responses={**problem_docs(400), **KNOWN_DOCS},
    openapi_extra=json_body(DecisionIn),
    summary="Approve, block, or undo a decision",
)
async def decide(request: Request, upload_id: str, key: OperateKey) -> Any:
    """Decide about an upload as a moderator does in the console; the web tier hears of it.

    The decision is about the content: the same file under another id gets the same verdict. What
    nothing has scored yet can be blocked, but not approved.
    """
    body = await read_json(request, DecisionIn)
    by, seen = body.by or key.name, Seen(body.seq, body.sha256)

    def change(decisions: Decisions) -> Avatar:
        if body.verdict == "undo":
            return decisions.undo(upload_id, by=by, seen=seen).avatar
        why = Why(body.reason or "", body.note)
        done = decisions.decide(
            upload_id, body.verdict, by=by, seen=seen, why=why, copies=body.copies
        )
        return done.avatar

    return await run_in_threadpool(_changed, request, key, upload_id, body.verdict, change)


class AppealIn(BaseModel):
    """What the owner of a blocked picture says."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: str = Field("", max_length=MAX_APPEAL, description="Shown to the moderator.")


@router.post(
    "/uploads/{upload_id:path}/appeal",
    status_code=202,
    response_model=AvatarOut,
    responses={**problem_docs(400), **KNOWN_DOCS},
    openapi_extra=json_body(AppealIn),
    summary="Have a blocked picture looked at once more",
)
async def appeal(request: Request, upload_id: str, key: EnqueueKey) -> Any:
    """Its owner objects: the picture is held until a moderator has looked at it.

    Another moderator than before, where there is one. Once for an upload; repeating it changes
    nothing while it waits.
    """
    body = await read_json(request, AppealIn)

    def change(decisions: Decisions) -> Avatar:
        return decisions.appeal(upload_id, body.text)

    return await run_in_threadpool(_changed, request, key, upload_id, "appeal", change)


@router.post(
    "/uploads/{upload_id:path}/retry",
    status_code=202,
    response_model=AvatarOut,
    responses=KNOWN_DOCS,
    summary="Try a rejected or dead upload again",
)
def retry(request: Request, upload_id: str, key: OperateKey) -> Any:
    """Send an upload to the model again: `rejected` as missing, changed or too_slow, or `dead`.

    Repeating it changes nothing while the upload waits.
    """
    found = services(request)

    def change(decisions: Decisions) -> Avatar:
        avatar = found.store.get(upload_id)
        if avatar is not None and avatar.state == AvatarState.DEAD:
            DeadLetters(found.store).replay(upload_id, by=key.name)
            return found.store.get(upload_id) or avatar
        return decisions.retry(upload_id, by=key.name)

    return _changed(request, key, upload_id, "retry", change)


class ForgottenOut(BaseModel):
    """What was erased."""

    upload_id: str
    removed: dict[str, int] = Field(
        description="How much of what: record, picture, safe copy, callback, dead letter, verdict, "
        "event, activity, ledger row. Empty: nothing is left."
    )
    kept: list[str] = Field(description="What is not ours to remove, and why.")
    pending: list[str] = Field(description="What the workers will remove as soon as they can.")


class AllForgottenOut(BaseModel):
    """What was erased of one person."""

    uploads: list[ForgottenOut]


@router.delete(
    "/uploads/{upload_id:path}",
    response_model=ForgottenOut,
    responses=DOCS,
    summary="Erase one upload",
)
def forget(request: Request, upload_id: str, key: OperateKey) -> Any:
    """Erase picture, safe copy, record, callbacks, dead letters and names in the ledger.

    The ledger keeps anonymous numbers. Nobody is called back. Repeating it is no error.
    """
    return _forget(request, key, [check_upload_id(upload_id)])[0]


@router.delete(
    "/uploads",
    response_model=AllForgottenOut,
    responses=DOCS,
    summary="Erase all uploads of one person",
)
def forget_person(
    request: Request,
    key: OperateKey,
    subject: Annotated[
        str, Query(min_length=1, max_length=MAX_SUBJECT_CHARS, description="As it was enqueued.")
    ],
) -> Any:
    """Erase uploads that came with this subject and are still recorded, up to 1,000 at a time."""
    try:
        uploads = services(request).forgetter.uploads_of(subject)
    except redis.RedisError as error:
        raise Problem.of(StorageUnavailable("Redis did not answer")) from error
    return {"uploads": _forget(request, key, uploads[:MAX_LETTERS])}


def _forget(request: Request, key: ApiKey, upload_ids: list[str]) -> list[dict[str, Any]]:
    forgetter = services(request).forgetter
    try:
        answers = forgetter.forget(upload_ids, by=key.name, address=address_of(request))
    except redis.RedisError as error:
        raise Problem.of(StorageUnavailable("Redis did not answer; try again")) from error
    return [answer.to_dict() for answer in answers]


def _changed(request: Request, key: ApiKey, upload_id: str, action: str, change: Any) -> Any:
    """The record after a change, which is noted.

    Raises:
        Problem: 409, its state does not allow this.
    """
    check_upload_id(upload_id)
    found = services(request)
    try:
        avatar = change(Decisions(found.store))
        _note(request, key, action, upload_id, "done")
    except InvalidUpload as error:
        raise Problem(409, "conflict", str(error)) from error
    except redis.RedisError as error:
        raise Problem.of(StorageUnavailable("Redis did not answer")) from error
    return document(avatar)


@router.get(
    "/dead-letters",
    response_model=LettersOut,
    responses=DOCS,
    summary="What failed for good, and why",
)
def list_letters(
    request: Request,
    _key: OperateKey,
    stage: Annotated[Stage | None, Query(description="Where it stopped.")] = None,
    error: Annotated[
        str | None, Query(max_length=100, description="Part of the error's kind or message.")
    ] = None,
    since: Annotated[
        float | None,
        Query(ge=0, allow_inf_nan=False, description="Failed since then, seconds since the epoch."),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LETTERS)] = 100,
) -> Any:
    """Dead letters that match all that is given, the newest first."""
    letters = DeadLetters(services(request).store)
    try:
        found = letters.find(stage=stage, error=error, since=since)
        chosen = [_shown(letter) for letter in itertools.islice(found, limit)]
        return {"total": letters.count(), "letters": chosen}
    except redis.RedisError as failure:
        raise Problem.of(StorageUnavailable("Redis did not answer")) from failure


def _shown(letter: DeadLetter) -> dict[str, Any]:
    return {name: getattr(letter, name) for name in LetterOut.model_fields}


@router.post(
    "/dead-letters/{what}",
    response_model=HandledOut,
    responses={**problem_docs(400), **DOCS},
    openapi_extra=json_body(LettersIn),
    summary="Replay or discard dead letters",
)
async def handle_letters(
    request: Request, what: Literal["replay", "discard"], key: OperateKey
) -> Any:
    """`replay` lets each item continue where it failed; `discard` gives it up for good."""
    body = await read_json(request, LettersIn)
    try:
        done = await run_in_threadpool(_handle, request, what, body.items, key)
    except redis.RedisError as error:
        raise Problem.of(StorageUnavailable("Redis did not answer")) from error
    return {"done": done, "total": len(body.items)}


def _handle(request: Request, what: str, items: list[str], key: ApiKey) -> int:
    letters, done = DeadLetters(services(request).store), 0
    for number, item in enumerate(items):
        if what == "replay":
            ok = letters.replay(item, by=key.name, delay_s=number / REPLAYS_PER_S)
        else:
            ok = letters.discard(item, by=key.name)
        done += ok
        _note(request, key, what, item, "done" if ok else "was gone already")
    return done


def _note(request: Request, key: ApiKey, action: str, item: str, outcome: str) -> None:
    audit(
        services(request).store,
        by=key.name,
        action=action,
        item=item[:400],
        outcome=outcome,
        address=address_of(request),
    )
