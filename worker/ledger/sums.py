"""The ledger's events added up by hour, so that a question about a month reads a few thousand rows.

Whoever writes events folds them in, in the same transaction. `sum_marks` says up to which row that
was done; a reader adds up by itself what came after, and the parts of hours at both ends of a
period, so an answer is exact at every moment, also while an old ledger is being added up.
"""

from __future__ import annotations

import bisect
import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from producer.contract import FINAL_STATES
from worker.ledger.counts import DECIDED, is_first_look
from worker.ledger.schema import events, in_order, sum_marks, sums

HOUR_S = 3600

#: Figures: transitions, callbacks and paid calls; scores of first looks in hundredths; seconds to
#: the first final verdict; decisions of people.
MOVES, SCORES, WAITS, PEOPLE = "moves", "scores", "waits", "people"

#: Rows folded in at a time.
FOLD_ROWS = 2_000

#: Bins of scores, and their edges.
SCORE_BINS = 100
EDGES = tuple(n / SCORE_BINS for n in range(SCORE_BINS + 1))

#: Seconds are counted in bins of which each ends this much above its beginning.
WAIT_STEP = math.log(1.03)

#: From this probability on the model holds a picture for explicit rather than harmless.
LIKELY = 0.5

#: Names of the dialect of MariaDB.
MYSQL = ("mysql", "mariadb")

#: What `bin` says of a person's decision.
AGREES, DIFFERS, NOT_SCORED = 1, 0, -1

FINAL = tuple(str(state) for state in FINAL_STATES)


class Key(NamedTuple):
    """What is counted together; the columns of `sums` between the hour and the numbers."""

    figure: str
    hour: int
    kind: str = ""
    from_state: str = ""
    to_state: str = ""
    tier: str = ""
    name: str = ""
    bin: int = 0


class Amounts(NamedTuple):
    """`amount` is millionths of a yuan, of seconds where the figure is `WAITS`."""

    number: int = 0
    calls: int = 0
    amount: int = 0


Sums = dict[Key, Amounts]

_KEYS = [sums.c[name] for name in Key._fields]
_KINDS = _KEYS[2:]
_BY_KEY = sa.select(*_KINDS, *(sa.func.sum(sums.c[name]) for name in Amounts._fields)).group_by(
    *_KINDS
)
_COLUMNS = [
    events.c[name]
    for name in (
        *("id", "kind", "upload_id", "from_state", "to_state", "at", "tier", "provider"),
        *("provider_calls", "cost_microyuan", "probability", "decided_by", "latency_s"),
    )
]


def _parts(row: Any, is_first: bool) -> Iterator[tuple[Key, Amounts]]:
    """What one event adds to.

    Args:
        row: of `events`.
        is_first: it is the first final verdict on its upload.
    """
    hour = int(row.at // HOUR_S)
    move = {"kind": row.kind, "from_state": row.from_state, "to_state": row.to_state}
    paid = Amounts(1, row.provider_calls, row.cost_microyuan)
    yield Key(MOVES, hour, **move, tier=row.tier, name=row.provider), paid
    if row.kind != "transition":
        return
    p = row.probability
    if p is not None and is_first_look(row.kind, row.from_state, row.to_state, row.tier):
        number = min(bisect.bisect_right(EDGES, p), SCORE_BINS) - 1
        yield Key(SCORES, hour, to_state=row.to_state, bin=number), Amounts(1)
    if row.tier == "operator" and row.to_state in DECIDED:
        agrees = NOT_SCORED if p is None else int((p >= LIKELY) == (row.to_state == DECIDED[1]))
        name = row.decided_by.partition(":")[2][:80]
        yield Key(PEOPLE, hour, to_state=row.to_state, name=name, bin=agrees), Amounts(1)
    if is_first and row.from_state not in FINAL and row.latency_s is not None:
        number = round(math.log(max(row.latency_s, 0.001)) / WAIT_STEP)
        seconds = Amounts(1, 0, round(row.latency_s * 1_000_000))
        yield Key(WAITS, hour, tier=row.tier, bin=number), seconds


def _add_up(connection: sa.Connection, namespace: str, rows: Iterable[Any]) -> Sums:
    rows = list(rows)
    first = _first_verdicts(connection, namespace, rows)
    return _total(part for row in rows for part in _parts(row, row.id in first))


def _total(parts: Iterable[tuple[Key, Amounts]]) -> Sums:
    found: Sums = {}
    for key, amounts in parts:
        before = found.get(key, Amounts())
        found[key] = Amounts(*map(sum, zip(before, amounts, strict=True)))
    return found


def _first_verdicts(connection: sa.Connection, namespace: str, rows: list[Any]) -> set[int]:
    """Ids of the first final verdict on each upload that got one in these rows."""
    c = events.c
    final = (r for r in rows if r.kind == "transition" and r.to_state in FINAL)
    ids = sorted({row.upload_id for row in final})
    found: set[int] = set()
    for start in range(0, len(ids), FOLD_ROWS):
        page = ids[start : start + FOLD_ROWS]
        query = (
            sa.select(sa.func.min(c.id))
            .where(c.namespace == namespace, c.upload_id.in_(page))
            .where(c.kind == "transition", c.to_state.in_(FINAL))
            .group_by(c.upload_id)
        )
        found.update(connection.scalars(query))
    return found


# -- writing -----------------------------------------------------------------------------------


def lock_mark(connection: sa.Connection, namespace: str) -> int:
    """The last row that is in the sums; nobody else folds or writes until this transaction ends.

    Without this a row could get a lower id than the mark and be committed after it.
    """
    new: Any = _insert(connection, sum_marks).values(namespace=namespace, last_id=0)
    if connection.dialect.name in MYSQL:
        # Two who look for a row that is not there, or share one that is, would wait for each other.
        new = new.on_duplicate_key_update(last_id=sum_marks.c.last_id)
    else:
        new = new.on_conflict_do_nothing()
    connection.execute(new)
    return int(connection.scalar(_mark_of(namespace).with_for_update()) or 0)


def _mark_of(namespace: str) -> sa.Select[Any]:
    return sa.select(sum_marks.c.last_id).where(sum_marks.c.namespace == namespace)


def is_behind(connection: sa.Connection, namespace: str) -> bool:
    """Whether there are events that are not in the sums."""
    mark, c = connection.scalar(_mark_of(namespace)) or 0, events.c
    later = sa.select(c.id).where(c.id > mark, in_order(namespace)).limit(1)
    return connection.scalar(later) is not None


def fold(connection: sa.Connection, namespace: str, mark: int) -> int:
    """Add the next events to the sums; returns how many there were, `FOLD_ROWS` at most.

    Args:
        connection: in the transaction in which `lock_mark` gave `mark`.
        namespace: whose events.
        mark: the last row that is in the sums.
    """
    c = events.c
    query = sa.select(*_COLUMNS).where(in_order(namespace), c.id > mark).order_by(c.id)
    rows = connection.execute(query.limit(FOLD_ROWS)).all()
    _put(connection, namespace, _add_up(connection, namespace, rows))
    if len(rows) == FOLD_ROWS:
        last = rows[-1].id
    else:
        # Past other namespaces' rows, so that they are not looked through again.
        last = connection.scalar(sa.select(sa.func.max(c.id))) or 0
    _set_mark(connection, namespace, max(mark, last))
    return len(rows)


def forget_before(connection: sa.Connection, namespace: str, hour: int) -> None:
    """Take out the hours before one, and add up anew what is left of that one's events.

    Args:
        connection: in a transaction that deleted older events.
        namespace: whose.
        hour: since the epoch.
    """
    mark, c = lock_mark(connection, namespace), events.c
    old = sa.and_(sums.c.namespace == namespace, sums.c.hour <= hour)
    connection.execute(sa.delete(sums).where(old))
    left = sa.select(*_COLUMNS).where(c.namespace == namespace, c.id <= mark)
    left = left.where(c.at >= hour * HOUR_S, c.at < (hour + 1) * HOUR_S)
    _put(connection, namespace, _add_up(connection, namespace, connection.execute(left)))
    # A file gives ids again that were the highest ones.
    last = connection.scalar(sa.select(sa.func.max(c.id))) or 0
    _set_mark(connection, namespace, min(mark, last))


def start_again(connection: sa.Connection, namespace: str) -> None:
    """Take out everything; `fold` adds it up anew."""
    lock_mark(connection, namespace)
    connection.execute(sa.delete(sums).where(sums.c.namespace == namespace))
    _set_mark(connection, namespace, 0)


def _set_mark(connection: sa.Connection, namespace: str, last_id: int) -> None:
    mine = sum_marks.c.namespace == namespace
    connection.execute(sa.update(sum_marks).where(mine).values(last_id=last_id))


def _put(connection: sa.Connection, namespace: str, found: Sums) -> None:
    if not found:
        return
    # In order, so that two who write lock rows in the same one.
    rows = [
        {"namespace": namespace, **key._asdict(), **amounts._asdict()}
        for key, amounts in sorted(found.items())
    ]
    query: Any = _insert(connection, sums)
    is_mysql = connection.dialect.name in MYSQL
    new = query.inserted if is_mysql else query.excluded
    more = {name: sums.c[name] + new[name] for name in Amounts._fields}
    if is_mysql:
        query = query.on_duplicate_key_update(more)
    else:
        query = query.on_conflict_do_update(index_elements=list(sums.primary_key), set_=more)
    connection.execute(query, rows)


def _insert(connection: sa.Connection, table: sa.Table) -> Any:
    """An insert of this kind of database, which can say what to do with a row that is there."""
    name = connection.dialect.name
    return (mysql if name in MYSQL else postgresql if name == "postgresql" else sqlite).insert(
        table
    )


# -- reading -----------------------------------------------------------------------------------


@contextlib.contextmanager
def snapshot(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction whose statements all see the same rows, as they do in SQLite anyway."""
    options = {} if engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
    with engine.connect().execution_options(**options) as connection, connection.begin():
        yield connection


#: Of one period: (key with hour 0, name of the amount) to the sum.
Found = Counter[tuple[Key, str]]


def read(
    connection: sa.Connection,
    namespace: str,
    figure: str,
    periods: Sequence[tuple[float, float]],
) -> list[Found]:
    """Sums of one figure for each period from its start (included) to its end (excluded).

    Args:
        connection: of `snapshot`.
        namespace: whose.
        figure: `MOVES`, `SCORES`, `WAITS` or `PEOPLE`.
        periods: seconds since the epoch.
    """
    is_late = is_behind(connection, namespace)
    return [_read(connection, namespace, figure, *each, is_late) for each in periods]


def _read(
    connection: sa.Connection, namespace: str, figure: str, start: float, end: float, is_late: bool
) -> Found:
    found: Found = Counter()
    first, last = math.ceil(start / HOUR_S), math.floor(end / HOUR_S)
    c, at = events.c, events.c.at
    rest = [(start, end)]
    if first < last:
        rest = [(start, first * HOUR_S), (last * HOUR_S, end)]
        hours = sa.and_(sums.c.hour >= first, sums.c.hour < last)
        query = _BY_KEY.where(sums.c.namespace == namespace, sums.c.figure == figure, hours)
        for row in connection.execute(query):
            _add(found, Key(figure, 0, *row[: len(_KINDS)]), row[len(_KINDS) :])
    mine = c.namespace == namespace
    chosen = [sa.and_(mine, at >= low, at < high) for low, high in rest if low < high]
    if is_late and first < last:
        later = c.id > sa.func.coalesce(_mark_of(namespace).scalar_subquery(), 0)
        late = (in_order(namespace), later, at >= first * HOUR_S, at < last * HOUR_S)
        chosen.append(sa.and_(*late))
    for part in chosen:
        rows = connection.execute(sa.select(*_COLUMNS).where(part))
        for key, amounts in _add_up(connection, namespace, rows).items():
            if key.figure == figure:
                _add(found, key._replace(hour=0), amounts)
    return found


def _add(found: Found, key: Key, amounts: Iterable[int]) -> None:
    for name, value in zip(Amounts._fields, amounts, strict=True):
        found[key, name] += int(value)


def differences(connection: sa.Connection, namespace: str) -> list[Key]:
    """Keys under which the sums are not what the events come to; reads every event.

    The seconds to the first verdict are left out: which verdict was the first one cannot be told
    any more of an upload whose beginning fell to retention, or whose name was forgotten.

    Args:
        connection: of `snapshot`.
        namespace: whose.
    """
    c, mark = events.c, connection.scalar(_mark_of(namespace)) or 0
    rows = connection.execution_options(yield_per=FOLD_ROWS).execute(
        sa.select(*_COLUMNS).where(c.namespace == namespace, c.id <= mark)
    )
    counted = _total(part for row in rows for part in _parts(row, is_first=False))
    kept = sa.select(*_KEYS, *(sums.c[name] for name in Amounts._fields)).where(
        sums.c.namespace == namespace, sums.c.figure != WAITS
    )
    there = {
        Key(*row[: len(_KEYS)]): Amounts(*row[len(_KEYS) :]) for row in connection.execute(kept)
    }
    return sorted(
        key for key in counted.keys() | there.keys() if counted.get(key) != there.get(key)
    )
