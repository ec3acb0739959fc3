"""The pages: what Redis and the ledger say, shown. Nothing here changes anything."""

from __future__ import annotations

import dataclasses
import datetime as dt
import zoneinfo
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, JSONResponse, Response

from producer.console import charts, numbers
from producer.console.visit import PREFIX, Refused, Visit, page
from producer.contract import Avatar, AvatarState, Region, Stage, check_upload_id
from producer.dead_letters import DeadLetters
from producer.decisions import DECIDABLE
from producer.errors import ModerationError
from producer.health import find_alarms
from producer.store import OPEN_STATES
from producer.users import Role

router = APIRouter()

#: Rows on a page of a list.
PAGE_ROWS = 25

#: Pictures shown beside the one that is decided.
NEXT_PICTURES = 8

#: Undrained events looked through for one upload's story.
FRESH_EVENTS = 2000

VIEWER = Role.VIEWER


def show(visit: Visit, template: str, **values: Any) -> HTMLResponse:
    """A rendered page."""
    return HTMLResponse(visit.desk.render(template, visit=visit, t=visit.t, **values))


@page(router, "", VIEWER)
def overview(visit: Visit, period: str = "24h") -> Response:
    """Alarms, what waits, what was decided by whom, what it cost and saved."""
    desk = visit.desk
    store = desk.services.store
    workers = store.workers()
    name = period if period in numbers.PERIODS else "24h"
    return show(
        visit,
        "overview.html",
        alarms=find_alarms(store, workers),
        workers=workers,
        open=store.open_counts(),
        dead=int(store.redis.zcard(store.key("dead"))),
        period=name,
        periods=list(numbers.PERIODS),
        figures=numbers.overview(desk, name),
    )


@page(router, "/stats", VIEWER)
def stats(visit: Visit, period: str = "24h") -> Response:
    """The overview's numbers as JSON."""
    store = visit.desk.services.store
    name = period if period in numbers.PERIODS else "24h"
    figures = numbers.overview(visit.desk, name)
    return JSONResponse(
        {
            "open": store.open_counts(),
            "dead_letters": int(store.redis.zcard(store.key("dead"))),
            "alarms": [dataclasses.asdict(alarm) for alarm in find_alarms(store)],
            "period": name,
            "figures": figures.to_json() if figures else None,
        }
    )


@page(router, "/uploads", VIEWER)
def uploads(visit: Visit, q: str = "", state: str = "", before: str = "") -> Response:
    """Uploads, newest first; found by id, start of an id, hash or state."""
    q = q.strip()[:200]
    state = state if state in set(AvatarState) else ""
    rows, older = _find_uploads(visit, q, state, before)
    return show(
        visit,
        "uploads.html",
        rows=rows,
        q=q,
        state=state,
        states=list(AvatarState),
        older=older,
        is_first=not before,
        has_ledger=visit.desk.parts.ledger() is not None,
    )


def _find_uploads(
    visit: Visit, q: str, state: str, before: str
) -> tuple[list[dict[str, Any]], str]:
    """(rows, where the next page begins); open states come from Redis, all else from the ledger."""
    store = visit.desk.services.store
    ledger = visit.desk.parts.ledger()
    if state in OPEN_STATES and not q:
        start = int(before) if before.isdigit() else 0
        key = store.key("open", state)
        ids = [str(item) for item in store.redis.zrange(key, start, start + PAGE_ROWS)]
        avatars = [avatar for avatar in store.get_many(ids[:PAGE_ROWS]) if avatar]
        older = str(start + PAGE_ROWS) if len(ids) > PAGE_ROWS else ""
        return [_row(avatar) for avatar in avatars], older
    exact = store.get(q) if q and _is_id(q) else None
    if ledger is None:
        return ([_row(exact)] if exact else []), ""
    cursor = int(before) if before.isdigit() else None
    found = ledger.recent(PAGE_ROWS + 1, cursor, state, q)
    older = str(found[PAGE_ROWS - 1]["id"]) if len(found) > PAGE_ROWS else ""
    rows = [_ledger_row(row) for row in found[:PAGE_ROWS]]
    if exact and not before and exact.upload_id not in {row["upload_id"] for row in rows}:
        rows.insert(0, _row(exact))
    return rows, older


def _is_id(text: str) -> bool:
    try:
        check_upload_id(text)
    except ModerationError:
        return False
    return True


def _row(avatar: Avatar) -> dict[str, Any]:
    return {
        "upload_id": avatar.upload_id,
        "state": str(avatar.state),
        "probability": avatar.probability,
        "reason": avatar.reason,
        "decided_by": avatar.decided_by,
        "at": avatar.updated_at,
    }


def _ledger_row(row: dict[str, Any]) -> dict[str, Any]:
    names = ("upload_id", "probability", "reason", "decided_by", "at")
    return {**{name: row[name] for name in names}, "state": row["to_state"]}


@page(router, "/uploads/{upload_id:path}", VIEWER)
def story(visit: Visit, upload_id: str) -> Response:
    """One upload: where it stands, and everything that happened to it."""
    store = visit.desk.services.store
    avatar = store.get(upload_id) if _is_id(upload_id) else None
    events = _story(visit, upload_id)
    if avatar is None and not events:
        raise Refused(404, visit.t("No upload has this id, or it has expired."))
    return show(
        visit,
        "story.html",
        upload_id=upload_id,
        avatar=avatar,
        events=events,
        views=_views(events),
        opinions=_opinions(events),
        cut_offs=_cut_offs(visit, avatar.region if avatar else Region.DOMESTIC),
        callbacks=_pending_callbacks(visit, upload_id, avatar),
        decidable=avatar is not None and avatar.state in DECIDABLE,
    )


def _story(visit: Visit, upload_id: str) -> list[dict[str, Any]]:
    """What the ledger has, and what still lies in the stream."""
    ledger = visit.desk.parts.ledger()
    events = list(ledger.story(upload_id)) if ledger else []
    known = {event["stream_id"] for event in events}
    return events + [
        event
        for event in numbers.fresh_events(visit.desk.services.store, upload_id, FRESH_EVENTS)
        if event["stream_id"] not in known
    ]


def _views(events: Sequence[dict[str, Any]]) -> list[Any]:
    """Scores of each view, from the last look of the model: [label, raw, probability]."""
    found: list[Any] = []
    for event in events:
        views = event["detail"].get("views")
        if isinstance(views, list):
            found = [view for view in views if isinstance(view, list) and len(view) == 3]
    return sorted(found, key=lambda view: -float(view[2]))


def _opinions(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        opinion
        for event in events
        for opinion in event["detail"].get("opinions") or []
        if isinstance(opinion, dict)
    ]


def _cut_offs(visit: Visit, region: Region) -> dict[str, Any]:
    photo, drawn = visit.desk.parts.cut_offs(region)
    return {"photo": photo, "drawn": drawn}


def _pending_callbacks(visit: Visit, upload_id: str, avatar: Avatar | None) -> list[dict[str, Any]]:
    if avatar is None:
        return []
    store = visit.desk.services.store
    items = [f"{upload_id}#{seq}" for seq in range(max(1, avatar.seq - 20), avatar.seq + 1)]
    pipe = store.redis.pipeline(transaction=False)
    for item in items:
        pipe.hgetall(store.key("callback", item))
    return [
        {"seq": item.rpartition("#")[2], **entry}
        for item, entry in zip(items, pipe.execute(), strict=True)
        if entry
    ]


@page(router, "/picture/{upload_id:path}", VIEWER)
def picture(visit: Visit, upload_id: str) -> Response:
    """The upload's picture, drawn anew; never its own bytes."""
    if visit.desk.parts.pictures is None:
        raise Refused(404, visit.t("Pictures cannot be shown by this process."))
    avatar = visit.desk.services.store.get(upload_id) if _is_id(upload_id) else None
    if avatar is None:
        raise Refused(404, visit.t("No upload has this id, or it has expired."))
    try:
        jpeg = visit.desk.parts.pictures.safe_jpeg(avatar)
    except ModerationError as error:
        raise Refused(404, f"{visit.t('There is no picture to show.')} ({error.code})") from error
    headers = {
        "cache-control": "private, max-age=300",
        "content-disposition": "inline",
        "content-security-policy": "default-src 'none'; sandbox",
    }
    return Response(jpeg, media_type="image/jpeg", headers=headers)


@page(router, "/review", VIEWER)
def review(visit: Visit, state: str = "held", at: str = "", done: str = "") -> Response:
    """One picture after the other, the longest waiting first."""
    store = visit.desk.services.store
    state = state if state in ("held", "reviewing") else "held"
    key = store.key("open", state)
    rank: Any = store.redis.zrank(key, at) if at else 0
    start = int(rank or 0)
    ids = [str(i) for i in store.redis.zrange(key, start, start + NEXT_PICTURES)]
    avatars = [avatar for avatar in store.get_many(ids) if avatar and avatar.state == state]
    if not avatars and start:
        return Response(status_code=303, headers={"location": f"{PREFIX}/review?state={state}"})
    current = avatars[0] if avatars else None
    finished = store.get(done) if done and _is_id(done) else None
    counts = store.open_counts()
    events = _story(visit, current.upload_id) if current else []
    return show(
        visit,
        "review.html",
        state=state,
        counts=counts,
        avatar=current,
        upcoming=avatars[1:],
        position=start + 1,
        finished=finished,
        can_undo=finished is not None and finished.decided_by.startswith("operator:"),
        opinions=_opinions(events),
        views=_views(events),
        cut_offs=_cut_offs(visit, current.region if current else Region.DOMESTIC),
        now=store.now(),
    )


@page(router, "/dead-letters", VIEWER)
def dead_letters(
    visit: Visit, stage: str = "", error: str = "", since: str = "", start: int = 0, done: str = ""
) -> Response:
    """What failed for good, with why; filtered, to be selected."""
    store = visit.desk.services.store
    letters = DeadLetters(store, lambda avatar: "")
    filters = letter_filter(visit, stage, error, since)
    rows, is_more = [], False
    for number, letter in enumerate(letters.find(**filters)):
        if number >= max(start, 0) + PAGE_ROWS:
            is_more = True
            break
        if number >= start:
            rows.append(letter)
    query = "&".join(
        f"{name}={quote(value)}"
        for name, value in (("stage", stage), ("error", error), ("since", since))
        if value
    )
    return show(
        visit,
        "dead_letters.html",
        rows=rows,
        total=letters.count(),
        stages=list(Stage),
        stage=stage,
        error=error,
        since=since,
        start=start,
        older=start + PAGE_ROWS if is_more else 0,
        page_rows=PAGE_ROWS,
        query=query,
        done=done,
        names=numbers.SINCE,
    )


def letter_filter(visit: Visit, stage: str, error: str, since: str) -> dict[str, Any]:
    """Arguments of `DeadLetters.find` from the texts of a form."""
    hours = numbers.SINCE.get(since)
    now = visit.desk.services.store.now()
    return {
        "stage": stage if stage in set(Stage) else None,
        "error": error.strip()[:100] or None,
        "since": now - hours * 3600 if hours else None,
    }


@page(router, "/providers", VIEWER)
def providers(visit: Visit, done: str = "") -> Response:
    """How each review provider stands: rate, budget, breaker."""
    parts = visit.desk.parts.providers
    statuses = list(parts.statuses()) if parts else []
    known = {status.name for status in statuses}
    return show(
        visit,
        "providers.html",
        statuses=statuses,
        done=done if done in known else "",
        now=visit.desk.services.store.now(),
    )


@page(router, "/thresholds", VIEWER)
def thresholds(
    visit: Visit,
    days: str = "30",
    approve_below: str = "",
    block_from: str = "",
) -> Response:
    """What the model said lately, and what other cut-offs would do."""
    span = int(days) if days in ("1", "7", "30") else 30
    photo, drawn = visit.desk.parts.cut_offs(Region.DOMESTIC)
    proposed = (
        numbers.number(approve_below, photo.approve_below),
        numbers.number(block_from, photo.block_from),
    )
    is_valid = 0 <= proposed[0] <= proposed[1] <= 1
    return show(
        visit,
        "thresholds.html",
        days=span,
        photo=photo,
        drawn=drawn,
        proposed=proposed,
        is_valid=is_valid,
        found=numbers.what_if(visit.desk, span, proposed) if is_valid else None,
    )


@page(router, "/activity", VIEWER)
def activity(visit: Visit, before: str = "") -> Response:
    """Who did what here, the newest first."""
    store = visit.desk.services.store
    top = f"({before}" if numbers.is_stream_id(before) else "+"
    key = store.key("audit")
    found: Any = store.redis.xrevrange(key, max=top, count=PAGE_ROWS + 1)
    older = str(found[PAGE_ROWS - 1][0]) if len(found) > PAGE_ROWS else ""
    rows = [fields for _, fields in found[:PAGE_ROWS]]
    return show(visit, "activity.html", rows=rows, older=older, is_first=not before)


def chart_of(visit: Visit, figures: Any) -> Any:
    """For the template: the chart of decisions by tier."""
    series = [
        (f"tier-{tier}", visit.t.tier(tier), figures.tiers[tier])
        for tier in numbers.TIERS
        if any(figures.tiers[tier])
    ]
    return charts.stacked_bars(series, figures.labels, visit.t("Decisions by who made them"))


def local_time(at: float, zone: str) -> str:
    """A time for people, in the operator's zone."""
    moment = dt.datetime.fromtimestamp(at, zoneinfo.ZoneInfo(zone))
    return moment.strftime("%Y-%m-%d %H:%M:%S")
