"""Every question that is asked of the ledger, by reports and by the console.

Reads the table of ledger_table.py; money leaves here in yuan. Imports neither numpy nor
onnxruntime.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import math
import re
import zoneinfo
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import sqlalchemy as sa

from producer.contract import FINAL_STATES, AvatarState
from producer.decisions import UNDONE
from worker.ledger_counts import (
    GRAY_STATES,
    MICRO,
    Bin,
    Latency,
    PeriodCounts,
    ShadowCounts,
    make_period,
)
from worker.ledger_table import events

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")

#: Sorts after every character of an upload id.
_AFTER_ALL = "~"

#: Name of all tiers but the operators' together.
MACHINE = "machine"

#: Rows fetched at a time while streaming.
PAGE = 2_000


#: First looks: the transition by which an upload left the queue.
_LOOKED = sa.and_(
    events.c.kind == "transition",
    events.c.from_state == str(AvatarState.QUEUED),
    events.c.to_state != str(AvatarState.DEAD),
)

_FINAL = tuple(str(state) for state in FINAL_STATES)


class LedgerReads:
    """Read access to one namespace's events. Safe to share between threads."""

    def __init__(self, engine: sa.Engine, namespace: str) -> None:
        self.engine = engine
        self.namespace = namespace

    # -- single uploads ------------------------------------------------------------------------

    def recent(
        self,
        limit: int = 50,
        before: int | None = None,
        state: str = "",
        search: str = "",
    ) -> list[dict[str, Any]]:
        """Each upload's last transition, newest first.

        Args:
            limit: most rows.
            before: only rows whose `id` is below this: the last `id` of the page before.
            state: only uploads that stand in this state now.
            search: start of an upload id, or a whole sha256.
        """
        later = events.alias("later")
        has_later = sa.exists().where(
            later.c.namespace == events.c.namespace,
            later.c.upload_id == events.c.upload_id,
            later.c.seq > events.c.seq,
            later.c.kind == "transition",
        )
        query = sa.select(events).where(
            # An expression, so that the few rows asked for are read backwards by id: an index by
            # namespace would give them all, to be sorted.
            events.c.namespace.concat("") == self.namespace,
            events.c.kind == "transition",
            ~has_later,
        )
        if before is not None:
            query = query.where(events.c.id < before)
        if state:
            query = query.where(events.c.to_state == state)
        if _SHA256.fullmatch(search):
            query = query.where(self._mine(), events.c.sha256 == search.lower())
        elif search:
            # Ids are compared byte by byte, so a prefix is a range of the index.
            c = events.c.upload_id
            query = query.where(self._mine(), c >= search, c < search + _AFTER_ALL)
        return self._rows(query.order_by(events.c.id.desc()).limit(limit))

    def story(self, upload_id: str) -> list[dict[str, Any]]:
        """Everything that happened to one upload, in order; `detail` is parsed."""
        query = self._select().where(events.c.upload_id == upload_id)
        return self._rows(query.order_by(events.c.seq, events.c.id))

    # -- counts --------------------------------------------------------------------------------

    def histogram(self, days: float = 30, bins: int = 50, *, now: float | None = None) -> list[Bin]:
        """Probabilities that the model gave in the last days, in bins of equal width over 0..1."""
        edges = [number / bins for number in range(bins + 1)]
        probability = events.c.probability
        columns = [
            sa.func.sum(sa.case((_between(probability, low, high, high == 1.0), 1), else_=0))
            for low, high in itertools.pairwise(edges)
        ]
        since = (_now() if now is None else now) - days * 86400
        query = (
            sa.select(events.c.to_state, *columns)
            .where(self._mine(), _LOOKED, probability.is_not(None), events.c.at >= since)
            .group_by(events.c.to_state)
        )
        counts = {"approved": [0] * bins, "gray": [0] * bins, "blocked": [0] * bins}
        with self.engine.connect() as connection:
            for state, *numbers in connection.execute(query):
                name = "gray" if state in GRAY_STATES else state
                if name in counts:
                    counts[name] = [a + int(b) for a, b in zip(counts[name], numbers, strict=True)]
        return [
            Bin(low, high, counts["approved"][n], counts["gray"][n], counts["blocked"][n])
            for n, (low, high) in enumerate(itertools.pairwise(edges))
        ]

    def daily(
        self, days: int = 30, *, zone: str = "UTC", now: float | None = None
    ) -> list[PeriodCounts]:
        """Counts of the last days, oldest first, with today; days end at the zone's midnight."""
        return [self.count(*bounds, zone) for bounds in day_bounds(days, zone, now)]

    def count(self, start: float, end: float, zone: str = "UTC") -> PeriodCounts:
        """Counts of one period; `zone` only names its date."""
        c = events.c
        query = (
            sa.select(
                c.kind,
                c.from_state,
                c.to_state,
                c.tier,
                c.provider,
                sa.func.count(),
                sa.func.sum(c.provider_calls),
                sa.func.sum(c.cost_microyuan),
            )
            .where(self._mine(), c.at >= start, c.at < end)
            .group_by(c.kind, c.from_state, c.to_state, c.tier, c.provider)
        )
        with self.engine.connect() as connection:
            return make_period(start, end, zone, connection.execute(query).all())

    def latencies(
        self, start: float, end: float, shares: Sequence[float] = (0.5, 0.9, 0.99)
    ) -> dict[str, Latency]:
        """Seconds from enqueue to the first final verdict, by tier.

        `machine` is every tier but the operators', who answer in hours and not in seconds. What was
        final before does not count again: neither an overruling, nor a decision after one that was
        taken back, nor a rescan. Percentiles are by nearest rank.
        """
        c, before = events.c, events.alias("before")
        was_final = sa.exists().where(
            before.c.namespace == c.namespace,
            before.c.upload_id == c.upload_id,
            before.c.seq < c.seq,
            before.c.kind == "transition",
            before.c.to_state.in_(_FINAL),
        )
        chosen = sa.and_(
            self._mine(),
            c.kind == "transition",
            c.at >= start,
            c.at < end,
            c.to_state.in_(_FINAL),
            c.from_state.not_in(_FINAL),
            c.latency_s.is_not(None),
            ~was_final,
        )
        by_machine = c.tier != "operator"
        counts = sa.select(c.tier, sa.func.count()).where(chosen).group_by(c.tier)
        with self.engine.connect() as connection:
            numbers = {tier: int(number) for tier, number in connection.execute(counts)}
            machine = sum(number for tier, number in numbers.items() if tier != "operator")
            found = {}
            for tier, number in {**numbers, MACHINE: machine}.items():
                query = sa.select(c.latency_s).where(chosen).order_by(c.latency_s)
                query = query.where(by_machine if tier == MACHINE else c.tier == tier)
                ranks = [max(0, math.ceil(share * number) - 1) for share in shares]
                values = [connection.scalar(query.offset(rank).limit(1)) for rank in ranks]
                if number:
                    found[tier] = Latency(number, tuple(float(v or 0.0) for v in values))
        return found

    def regions(self) -> dict[str, int]:
        """Accepted uploads by region; an upload that named none is under the empty name."""
        query = (
            sa.select(events.c.region, sa.func.count())
            .where(self._mine(), events.c.kind == "transition", events.c.from_state == "")
            .group_by(events.c.region)
        )
        with self.engine.connect() as connection:
            return {region: int(number) for region, number in connection.execute(query)}

    def span(self) -> tuple[float, float] | None:
        """Times of the first and the last event, or None when there is none."""
        query = sa.select(sa.func.min(events.c.at), sa.func.max(events.c.at)).where(self._mine())
        with self.engine.connect() as connection:
            first, last = connection.execute(query).one()
        return None if first is None else (float(first), float(last))

    # -- streams -------------------------------------------------------------------------------

    def stream(
        self, *, since: float | None = None, until: float | None = None, kind: str = ""
    ) -> Iterator[dict[str, Any]]:
        """Every event in the order in which it was written; constant memory."""
        query = self._select().order_by(events.c.id)
        if since is not None:
            query = query.where(events.c.at >= since)
        if until is not None:
            query = query.where(events.c.at < until)
        if kind:
            query = query.where(events.c.kind == kind)
        last = 0
        while rows := self._rows(query.where(events.c.id > last).limit(PAGE)):
            yield from rows
            last = rows[-1]["id"]

    def judged(
        self, *, since: float | None = None, until: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """First looks by the model: upload_id, sha256, probability, style, region, to_state...

        The same content under several uploads comes as often as it was uploaded.
        """
        for row in self.stream(since=since, until=until, kind="transition"):
            if row["from_state"] == str(AvatarState.QUEUED) and row["probability"] is not None:
                yield row

    def judged_after(self, last_id: int, limit: int) -> list[dict[str, Any]]:
        """First looks by the model written after row `last_id`, in order."""
        query = self._select().where(
            events.c.id > last_id, _LOOKED, events.c.probability.is_not(None)
        )
        return self._rows(query.order_by(events.c.id).limit(limit))

    def last_id(self) -> int:
        """The last row's id; 0 in an empty ledger."""
        with self.engine.connect() as connection:
            return int(connection.scalar(sa.select(sa.func.max(events.c.id))) or 0)

    def image_of(self, upload_id: str) -> str:
        """The image reference that an upload came with; empty: the store's own, under its id."""
        query = self._select().where(
            events.c.upload_id == upload_id,
            events.c.kind == "transition",
            events.c.from_state == "",
        )
        rows = self._rows(query.order_by(events.c.id.desc()).limit(1))
        return str(rows[0]["detail"].get("image", "")) if rows else ""

    def shadows(self, start: float, end: float) -> list[ShadowCounts]:
        """What each shadow would have said beside the live verdicts, uploads counted once."""
        c = events.c
        query = (
            sa.select(
                c.bundle,
                c.policy,
                c.from_state,
                c.to_state,
                sa.func.count(sa.distinct(c.upload_id)),
            )
            .where(self._mine(), c.kind == "shadow", c.at >= start, c.at < end)
            .group_by(c.bundle, c.policy, c.from_state, c.to_state)
            .order_by(c.bundle, c.policy)
        )
        found: dict[tuple[str, str], dict[tuple[str, str], int]] = {}
        with self.engine.connect() as connection:
            for bundle, policy, live, would, number in connection.execute(query):
                found.setdefault((bundle, policy), {})[live, would] = int(number)
        return [ShadowCounts(*key, counts) for key, counts in found.items()]

    def labels(self) -> dict[str, tuple[bool, str]]:
        """What people and providers said of each content: sha256 -> (explicit, who said so).

        An operator's word beats a provider's until it is taken back; of two by the same kind the
        later one counts. The content's hash stands on the first look of the same upload where the
        verdict has none.
        """
        c = events.c
        looked = (
            sa.select(c.upload_id, sa.func.max(c.sha256).label("sha256"))
            .where(self._mine(), c.kind == "transition", c.sha256 != "")
            .group_by(c.upload_id)
            .subquery()
        )
        taken_back = sa.and_(c.to_state == str(AvatarState.HELD), c.reason == UNDONE)
        said = sa.and_(c.tier.in_(("review", "operator")), c.to_state.in_(("approved", "blocked")))
        query = (
            sa.select(looked.c.sha256, c.to_state, c.tier, c.decided_by)
            .join(looked, looked.c.upload_id == c.upload_id)
            .where(self._mine(), c.kind == "transition", sa.or_(said, taken_back))
            .order_by(c.id)
        )
        providers: dict[str, tuple[bool, str]] = {}
        operators: dict[str, tuple[bool, str]] = {}
        with self.engine.connect() as connection:
            for sha256, state, tier, who in connection.execute(query):
                if state == AvatarState.HELD:
                    operators.pop(sha256, None)
                else:
                    words = operators if tier == "operator" else providers
                    words[sha256] = (state == "blocked", who)
        return providers | operators

    def broken_stories(self, limit: int = 100) -> list[tuple[str, int, int]]:
        """Uploads whose transitions have a hole: (upload id, transitions found, highest seq).

        A hole means that events were lost between Redis and here. Uploads whose beginning fell to
        retention have none.
        """
        c = events.c
        count, low, high = sa.func.count(), sa.func.min(c.seq), sa.func.max(c.seq)
        query = (
            sa.select(c.upload_id, count, high)
            .where(self._mine(), c.kind == "transition")
            .group_by(c.upload_id)
            .having(count != high - low + 1)
            .order_by(c.upload_id)
            .limit(limit)
        )
        with self.engine.connect() as connection:
            return [(row[0], int(row[1]), int(row[2])) for row in connection.execute(query)]

    # -- inside --------------------------------------------------------------------------------

    def _mine(self) -> sa.ColumnElement[bool]:
        return events.c.namespace == self.namespace

    def _select(self) -> sa.Select[Any]:
        return sa.select(events).where(self._mine())

    def _rows(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            return [public_row(dict(row)) for row in connection.execute(query).mappings()]


def public_row(row: dict[str, Any]) -> dict[str, Any]:
    """A table row as callers get it: detail parsed, money in yuan."""
    row["detail"] = json.loads(row["detail"])
    row["cost_yuan"] = row.pop("cost_microyuan") / MICRO
    return row


def day_bounds(days: int, zone: str = "UTC", now: float | None = None) -> list[tuple[float, float]]:
    """(start, end) of the last days, today included."""
    return period_bounds("day", days, zone, now)


def period_bounds(
    by: Literal["day", "week", "month"], count: int, zone: str = "UTC", now: float | None = None
) -> list[tuple[float, float]]:
    """(start, end) of the last calendar periods, the present one included; weeks begin on Monday.

    They end at the zone's midnight; a day of a clock change has 23 or 25 hours.
    """
    tz = zoneinfo.ZoneInfo(zone)
    today = dt.datetime.fromtimestamp(_now() if now is None else now, tz).date()
    if by == "month":
        months = today.year * 12 + today.month - 1
        numbers = range(months - count + 1, months + 2)
        dates = [dt.date(number // 12, number % 12 + 1, 1) for number in numbers]
    else:
        length = 1 if by == "day" else 7
        first = today - dt.timedelta(days=0 if by == "day" else today.weekday())
        dates = [first + dt.timedelta(days=length * n) for n in range(1 - count, 2)]
    edges = [dt.datetime.combine(date, dt.time(), tz).timestamp() for date in dates]
    return list(itertools.pairwise(edges))


def _now() -> float:
    return dt.datetime.now(dt.UTC).timestamp()


def _between(
    column: sa.ColumnElement[Any], low: float, high: float, closed: bool
) -> sa.ColumnElement[bool]:
    return sa.and_(column >= low, column <= high if closed else column < high)
