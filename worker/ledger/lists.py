"""Where each upload stands: its last transition, kept beside the events for the console's lists.

Whoever writes events brings it up to date in the same transaction. Every filter of a list has an
index in the list's order, so what is rare is not looked for among all the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from producer.contract import is_digest
from producer.reasons import BLOCK_REASONS
from worker.ledger.schema import events, uploads

#: Sorts after every character of an upload id; what is forgotten has an alias that begins so.
AFTER_IDS = "~"


#: Uploads with the beginning of an id that are read and sorted; more are met often enough by going
#: through all of them from the newest on.
FEW = 2_000


def last_uploads(
    connection: sa.Connection,
    namespace: str,
    limit: int,
    before: int | None = None,
    state: str = "",
    search: str = "",
    reason: str = "",
) -> sa.Select[Any]:
    """What to select for `LedgerReads.recent`."""
    c, is_hash = uploads.c, is_digest(search)
    order: sa.ColumnElement[Any] = c.event_id
    equal: list[tuple[sa.ColumnElement[str], str]] = [
        (c.state, state),
        (c.block_reason if reason in BLOCK_REASONS else c.reason, reason),
        (c.sha256, search.lower() if is_hash else ""),
    ]
    chosen = sa.select(c.event_id).where(c.namespace == namespace)
    if search and not is_hash:
        # Ids are compared byte by byte, so a beginning is a range of the primary key. What is made
        # an expression is looked up in no index: no other is taken than the primary key's for few,
        # and for many not that one, which some versions of SQLite prefer.
        few = chosen.where(c.upload_id >= search, c.upload_id < search + AFTER_IDS)
        if _are_few(connection, few):
            chosen = few
            order += 0
            equal = [(column.concat(""), value) for column, value in equal]
        else:
            ids = c.upload_id.concat("")
            chosen = chosen.where(ids >= search, ids < search + AFTER_IDS)
    if before is not None:
        chosen = chosen.where(c.event_id < before)
    chosen = chosen.where(*(column == value for column, value in equal if value))
    found = chosen.order_by(order.desc()).limit(limit).subquery()
    query = sa.select(events).join(found, found.c.event_id == events.c.id)
    return query.order_by(events.c.id.desc())


def _are_few(connection: sa.Connection, query: sa.Select[Any]) -> bool:
    some = query.limit(FEW + 1).subquery()
    found = connection.scalar(sa.select(sa.func.count()).select_from(some))
    return (found or 0) <= FEW


def keep_last(
    connection: sa.Connection, namespace: str, fresh: Mapping[str, Mapping[str, Any]]
) -> None:
    """Let the uploads of some events stand where the last of these leaves them.

    Args:
        connection: in the transaction that wrote the events, in which nobody else writes any.
        namespace: whose.
        fresh: the events just written, by `stream_id`.
    """
    moves = {
        key: row
        for key, row in fresh.items()
        if row["kind"] == "transition" and row["upload_id"] < AFTER_IDS
    }
    c, now = events.c, uploads.c
    query = sa.select(c.id, c.stream_id).where(c.namespace == namespace, c.stream_id.in_(moves))
    places = sorted((moves[key]["seq"], n, key) for n, key in connection.execute(query))
    last = {moves[key]["upload_id"]: (seq, n, moves[key]) for seq, n, key in places}
    ours = sa.and_(now.namespace == namespace, now.upload_id.in_(last))
    there = connection.execute(sa.select(now.upload_id, now.seq, now.event_id).where(ours)).all()
    for upload_id, *place in there:
        if last[upload_id][:2] < tuple(place):
            del last[upload_id]
    old = [upload_id for upload_id, *_ in there if upload_id in last]
    if old:
        gone = sa.and_(now.namespace == namespace, now.upload_id.in_(old))
        connection.execute(sa.delete(uploads).where(gone))
    if last:
        connection.execute(sa.insert(uploads), [_row(n, row) for _, n, row in last.values()])


def _row(event_id: int, row: Mapping[str, Any]) -> dict[str, Any]:
    said = json.loads(row["detail"]) if row["tier"] == "operator" else {}
    block_reason = said.get("block_reason")
    return {
        **{name: row[name] for name in ("namespace", "upload_id", "seq", "reason", "sha256")},
        "event_id": event_id,
        "state": row["to_state"],
        "block_reason": block_reason if block_reason in BLOCK_REASONS else "",
    }


def drop_last(connection: sa.Connection, namespace: str, event_ids: Sequence[int]) -> None:
    """Take out the uploads that stand where some events left them, which are deleted or renamed."""
    c = uploads.c
    gone = sa.and_(c.namespace == namespace, c.event_id.in_(event_ids))
    connection.execute(sa.delete(uploads).where(gone))


def misplaced(connection: sa.Connection, namespace: str) -> int:
    """Uploads that do not stand where their events leave them; reads every event.

    Args:
        connection: of `snapshot`.
        namespace: whose.
    """
    c, later, count = events.c, events.alias("later"), sa.func.count()
    has_later = sa.exists().where(
        later.c.namespace == c.namespace,
        later.c.upload_id == c.upload_id,
        # A range of its own, or SQLite takes all ids above one for the second half of the next.
        later.c.seq >= c.seq,
        sa.or_(later.c.seq > c.seq, later.c.id > c.id),
        later.c.kind == "transition",
    )
    is_last = (c.namespace == namespace, c.kind == "transition", c.upload_id < AFTER_IDS)
    last = sa.select(count).select_from(events).where(*is_last, ~has_later)
    mine = uploads.c.namespace == namespace
    is_it = (uploads.c.upload_id == c.upload_id, uploads.c.event_id == c.id)
    stands = sa.exists().where(mine, *is_it)
    wanted, right = connection.scalar(last) or 0, connection.scalar(last.where(stands)) or 0
    there = connection.scalar(sa.select(count).select_from(uploads).where(mine)) or 0
    return max(wanted, there) - right
