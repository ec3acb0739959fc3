"""The pages: what Redis and the ledger say, shown. Nothing here changes anything."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from producer.contract import Stage, is_upload_id
from producer.health import find_alarms
from producer.reasons import BLOCK_REASONS
from producer.record.claims import CLAIM_S
from producer.record.dead_letters import DeadLetters
from producer.record.settling import Settling
from producer.web.console import figures
from producer.web.console.context import PREFIX, Context, page
from producer.web.console.lanes import AUDITS, LANES, counts_of, oldest_of, to_decide
from producer.web.console.look_alikes import earlier_of
from producer.web.console.pictures import shown_of
from producer.web.console.rendering import show
from producer.web.console.uploads import (
    PAGE_ROWS,
    cut_offs_of,
    history_of,
    opinions_of,
    position_in,
    views_of,
)
from producer.web.users import Role

router = APIRouter()

#: Pictures shown beside the one that is decided.
NEXT_PICTURES = 8


@page(router, "", Role.VIEWER)
def overview(context: Context, period: str = "24h") -> Response:
    """Alarms, what waits, what was decided by whom, what it cost and saved."""
    store = context.store
    workers = store.workers()
    name = period if period in figures.PERIODS else "24h"
    found = figures.overview(context.console, name)
    tiers = found.tiers.items() if found else ()
    return show(
        context,
        "overview.html",
        series=[
            (f"tier-{tier}", context.language.word(tier), values)
            for tier, values in tiers
            if any(values)
        ],
        people=[
            (f"person-{n}" if who else "person-rest", who or context.gettext("others"), values)
            for n, (who, values) in enumerate(found.people.items() if found else ())
        ],
        alarms=find_alarms(store, workers),
        workers=workers,
        open=counts_of(store),
        oldest=oldest_of(store),
        now=store.now(),
        period=name,
        periods=list(figures.PERIODS),
        figures=found,
    )


@page(router, "/stats", Role.VIEWER)
def stats(context: Context, period: str = "24h") -> Response:
    """The overview's numbers as JSON."""
    store = context.store
    name = period if period in figures.PERIODS else "24h"
    found = figures.overview(context.console, name)
    return JSONResponse(
        {
            "open": store.open_counts(),
            "dead_letters": DeadLetters(context.store).count(),
            "alarms": [dataclasses.asdict(alarm) for alarm in find_alarms(store)],
            "period": name,
            "figures": found.to_json() if found else None,
        }
    )


@page(router, "/review", Role.VIEWER)
def review(context: Context, state: str = "held", at: str = "", done: str = "") -> Response:
    """One picture after the other, the longest waiting first; each person gets others."""
    store = context.store
    state = state if state in LANES else "held"
    if state == AUDITS:
        store.audits.drop_expired()
    avatars = to_decide(context, state, NEXT_PICTURES + 1, at)
    if not avatars and at:
        return Response(status_code=303, headers={"location": f"{PREFIX}/review?state={state}"})
    current = avatars[0] if avatars else None
    finished = store.get(done) if done and is_upload_id(done) else None
    counts = counts_of(store)
    same = Settling(store).counts(current.sha256, current.upload_id) if current else {}
    events = history_of(context, current.upload_id) if current else []
    return show(
        context,
        "review.html",
        state=state,
        counts=counts,
        avatar=current,
        upcoming=avatars[1:],
        position=1 + ((store.open_rank(state, current.upload_id) if current else None) or 0),
        claim_s=CLAIM_S,
        same=same,
        earlier=earlier_of(store, [current]).get(current.upload_id) if current else None,
        reasons=BLOCK_REASONS,
        finished=finished,
        can_undo=finished is not None
        and (finished.decided_by.startswith("operator:") or bool(store.approved_by(finished))),
        opinions=opinions_of(events),
        views=views_of(events),
        cut_offs=cut_offs_of(context, current.region if current else context.parts.region),
        now=store.now(),
    )


@page(router, "/dead-letters", Role.VIEWER)
def dead_letters(
    context: Context,
    stage: str = "",
    error: str = "",
    since: str = "",
    start: str = "",
    done: str = "",
) -> Response:
    """What failed for good, with why; filtered, to be selected."""
    first = position_in(start)
    found = DeadLetters(context.store).find(**letter_filter(context, stage, error, since))
    rows = list(itertools.islice(found, first, first + PAGE_ROWS + 1))
    filters = {"stage": stage, "error": error, "since": since}
    return show(
        context,
        "dead_letters.html",
        rows=rows[:PAGE_ROWS],
        shown=shown_of(context.store, [letter.item.partition("#")[0] for letter in rows]),
        total=DeadLetters(context.store).count(),
        stages=list(Stage),
        stage=stage,
        error=error,
        since=since,
        start=first,
        older=first + PAGE_ROWS if len(rows) > PAGE_ROWS else 0,
        query=urlencode({name: value for name, value in filters.items() if value}),
        done=done,
        names=figures.SINCE,
    )


def letter_filter(context: Context, stage: str, error: str, since: str) -> dict[str, Any]:
    """Arguments of `DeadLetters.find` from the texts of a form."""
    hours = figures.SINCE.get(since)
    now = context.store.now()
    return {
        "stage": stage if stage in set(Stage) else None,
        "error": error.strip()[:100] or None,
        "since": now - hours * 3600 if hours else None,
    }


@page(router, "/providers", Role.VIEWER)
def providers(context: Context, done: str = "") -> Response:
    """How each review provider stands: rate, budget, breaker."""
    parts = context.parts.providers
    statuses = list(parts.statuses()) if parts else []
    known = {status.name for status in statuses}
    return show(
        context,
        "providers.html",
        statuses=statuses,
        done=done if done in known else "",
        now=context.store.now(),
    )


@page(router, "/activity", Role.VIEWER)
def activity(context: Context, before: str = "") -> Response:
    """Who did what here, the newest first."""
    store = context.store
    place = before if figures.is_stream_id(before) else ""
    found = store.events.audited(PAGE_ROWS + 1, before=place)
    older = found[PAGE_ROWS - 1][0] if len(found) > PAGE_ROWS else ""
    rows = [fields for _, fields in found[:PAGE_ROWS]]
    shown = shown_of(store, [fields["item"].partition("#")[0] for fields in rows])
    return show(context, "activity.html", rows=rows, shown=shown, older=older, is_first=not before)
