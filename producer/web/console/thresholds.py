"""Cut-offs: what the model said lately, what others would do, put in force, taken back."""

from __future__ import annotations

from urllib.parse import urlencode

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData

from producer.contract import Avatar
from producer.errors import PolicyError
from producer.web.console import figures
from producer.web.console.context import (
    PREFIX,
    Context,
    Refused,
    action,
    page,
    read_form,
    text_field,
)
from producer.web.console.dependencies import CutOffs
from producer.web.console.rendering import show
from producer.web.users import Role

router = APIRouter()

#: Fields of a pair of pairs, in forms and addresses.
FIELDS = ("approve_below", "block_from", "drawn_approve_below", "drawn_block_from")

#: Changes of the policy that are shown.
SHOWN_HISTORY = 20


@page(router, "/thresholds", Role.VIEWER)
def thresholds(
    context: Context,
    days: str = "30",
    approve_below: str = "",
    block_from: str = "",
    drawn_approve_below: str = "",
    drawn_block_from: str = "",
    done: str = "",
) -> Response:
    """The present cut-offs, and what other ones would do."""
    policies = context.parts.policies
    span = int(days) if days in ("1", "7", "30") else 30
    photo, drawn = policies.cut_offs(context.parts.region)
    present = _numbers(photo, drawn)
    given = (approve_below, block_from, drawn_approve_below, drawn_block_from)
    numbers = tuple(map(figures.number, given, present))
    proposed = CutOffs(*numbers[:2]), CutOffs(*numbers[2:])
    by_name = dict(zip(FIELDS, numbers, strict=True))
    is_valid = all(map(_is_valid, proposed))
    found = figures.what_if(context.console, span, *proposed) if is_valid else None
    proposal = policies.proposal()
    return show(
        context,
        "thresholds.html",
        days=span,
        photo=photo,
        drawn=drawn,
        proposed=proposed,
        numbers=by_name,
        query=urlencode(by_name),
        is_other=numbers != present,
        is_valid=is_valid,
        found=found,
        avatars=_avatars(context, found),
        proposal=proposal,
        proposal_query=urlencode(dict(zip(FIELDS, _numbers(*proposal[0]), strict=True)))
        if proposal
        else "",
        policies=policies,
        problem=policies.problem(),
        history=policies.history()[:SHOWN_HISTORY],
        followers=_followers(context),
        done=done if done in ("applied", "back") else "",
        now=context.store.now(),
    )


@action(router, "/thresholds", Role.OPERATOR)
async def change(context: Context) -> Response:
    """Put cut-offs in force, or go back to what held before."""
    form = await read_form(context)
    what = text_field(form, "what")
    if what not in ("apply", "back"):
        raise Refused(422, context.gettext("Unknown action."))
    note = text_field(form, "note").strip()
    try:
        if what == "apply":
            photo, drawn = _read(context, form)
            made = await run_in_threadpool(
                context.parts.policies.apply, photo, drawn, by=context.name, note=note
            )
        else:
            made = await run_in_threadpool(
                context.parts.policies.roll_back, by=context.name, note=note
            )
    except PolicyError as error:
        raise Refused(409, str(error)) from error
    context.audit("policy", made.version, note or what)
    return RedirectResponse(
        f"{PREFIX}/thresholds?done={'applied' if what == 'apply' else 'back'}", 303
    )


def _read(context: Context, form: FormData) -> tuple[CutOffs, CutOffs]:
    numbers = [figures.number(text_field(form, name), -1.0) for name in FIELDS]
    pairs = CutOffs(*numbers[:2]), CutOffs(*numbers[2:])
    if not all(map(_is_valid, pairs)):
        message = "Use numbers from 0 to 1; the first must not be above the second."
        raise Refused(422, context.gettext(message))
    if not text_field(form, "note").strip():
        raise Refused(422, context.gettext("Say why, so that others can follow it."))
    return pairs


def _is_valid(pair: CutOffs) -> bool:
    return 0 <= pair.approve_below <= pair.block_from <= 1


def _numbers(photo: CutOffs, drawn: CutOffs) -> tuple[float, ...]:
    """In the order of `FIELDS`."""
    return photo.approve_below, photo.block_from, drawn.approve_below, drawn.block_from


def _avatars(context: Context, found: figures.WhatIf | None) -> dict[str, Avatar]:
    """Records of the pictures that would change; what has expired is left out."""
    ids = [c.upload_id for _, _, shown in (found.changes if found else ()) for c in shown]
    return {one.upload_id: one for one in context.store.get_many(ids) if one}


def _followers(context: Context) -> tuple[int, int]:
    """(workers that judge by the present policy, all that judge)."""
    workers = [worker for worker in context.store.workers() if worker.get("policy")]
    version = context.parts.policies.version
    return sum(worker["policy"] == version for worker in workers), len(workers)
