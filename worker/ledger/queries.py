"""Every question that is asked of the ledger, by reports and by the console.

Counts come from the sums (sums.py), all else from the events; money leaves here in yuan. Imports
neither numpy nor onnxruntime.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import math
import zoneinfo
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa

from producer.contract import AvatarState
from worker.ledger.counts import (
    ALL_TIERS,
    GRAY_STATES,
    MICRO,
    Bin,
    Latency,
    PeriodCounts,
    ShadowCounts,
    make_period,
)
from worker.ledger.labels import Labels
from worker.ledger.lists import last_uploads
from worker.ledger.people import People
from worker.ledger.schema import MARK, events, in_order
from worker.ledger.sums import (
    HOUR_S,
    MOVES,
    SCORE_BINS,
    SCORES,
    WAITS,
    Amounts,
    Found,
    Key,
    read,
    snapshot,
)

#: Name of all tiers but the operators' together.
MACHINE = "machine"

#: Rows fetched at a time while streaming.
PAGE = 2_000


#: First looks: the transition by which an upload left the queue.
_LOOKED = sa.and_(
    events.c.kind == "transition",
    events.c.from_state == str(AvatarState.QUEUED),
    events.c.to_state != str(AvatarState.DEAD),
    events.c.tier != "operator",
)


class LedgerReads(Labels, People):
    """Read access to one namespace's events. Safe to share between threads."""

    # -- single uploads ------------------------------------------------------------------------

    def recent(
        self,
        limit: int = 50,
        before: int | None = None,
        state: str = "",
        search: str = "",
        reason: str = "",
    ) -> list[dict[str, Any]]:
        """Each upload's last transition, newest first.

        Args:
            limit: most rows.
            before: only rows whose `id` is below this: the last `id` of the page before.
            state: only uploads that stand in this state now.
            search: start of an upload id, or a whole sha256.
            reason: only uploads with this reason code, or blocked by a person for this reason.
        """
        asked = limit, before, state, search, reason
        with self.engine.connect() as connection:
            query = last_uploads(connection, self.namespace, *asked)
            return _public(connection, query)

    def story(self, upload_id: str) -> list[dict[str, Any]]:
        """Everything that happened to one upload, in order; `detail` is parsed."""
        query = self._select().where(events.c.upload_id == upload_id)
        return self._rows(query.order_by(events.c.seq, events.c.id))

    # -- counts --------------------------------------------------------------------------------

    def histogram(self, days: float = 30, bins: int = 50, *, now: float | None = None) -> list[Bin]:
        """Probabilities that the model gave in the last days, in bins of equal width over 0..1.

        Args:
            days: before now, from the beginning of an hour on.
            bins: how many, a divisor of 100.
            now: seconds since the epoch.
        """
        end = math.ceil((_now() if now is None else now) / HOUR_S + 1) * HOUR_S
        counts = {"approved": [0] * bins, "gray": [0] * bins, "blocked": [0] * bins}
        [found] = self._sums(SCORES, (end - days * 86400 - 2 * HOUR_S, end))
        for (key, amount), value in found.items():
            name = "gray" if key.to_state in GRAY_STATES else key.to_state
            if amount == "number" and name in counts:
                counts[name][key.bin * bins // SCORE_BINS] += value
        return [
            Bin(low, high, counts["approved"][n], counts["gray"][n], counts["blocked"][n])
            for n, (low, high) in enumerate(itertools.pairwise(b / bins for b in range(bins + 1)))
        ]

    def daily(
        self, days: int = 30, *, zone: str = "UTC", now: float | None = None
    ) -> list[PeriodCounts]:
        """Counts of the last days, oldest first, with today; days end at the zone's midnight."""
        return self.counts(day_bounds(days, zone, now), zone)

    def count(self, start: float, end: float, zone: str = "UTC") -> PeriodCounts:
        """Counts of one period; `zone` only names its date."""
        return self.counts([(start, end)], zone)[0]

    def counts(
        self, periods: Sequence[tuple[float, float]], zone: str = "UTC"
    ) -> list[PeriodCounts]:
        """Counts of each period, (start, end) in seconds since the epoch."""
        return [
            make_period(*each, zone, (_flat(found, key) for key in _keys(found)))
            for each, found in zip(periods, self._sums(MOVES, *periods), strict=True)
        ]

    def latencies(
        self, start: float, end: float, shares: Sequence[float] = (0.5, 0.9, 0.99)
    ) -> dict[str, Latency]:
        """Seconds from enqueue to the first final verdict, by tier.

        `machine` is every tier but the operators', who answer in hours and not in seconds. What was
        final before does not count again: neither an overruling, nor a decision after one that was
        taken back, nor a rescan. Percentiles are by nearest rank; what lies within 3 % of each
        other is counted together, as its mean.
        """
        values: dict[str, dict[int, tuple[int, int]]] = {}
        [found] = self._sums(WAITS, (start, end))
        for key in _keys(found):
            number, amount = found[key, "number"], found[key, "amount"]
            for tier in {key.tier, *([MACHINE] if key.tier != "operator" else [])}:
                before = values.setdefault(tier, {}).get(key.bin, (0, 0))
                values[tier][key.bin] = (before[0] + number, before[1] + amount)
        return {
            tier: Latency(
                sum(number for number, _ in bins.values()),
                tuple(_nearest_rank(bins, share) for share in shares),
            )
            for tier, bins in values.items()
        }

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
        # Each from its end of the index; asked for together, SQLite reads all of it.
        first, last = (
            sa.select(end(events.c.at)).where(self._mine()).scalar_subquery()
            for end in (sa.func.min, sa.func.max)
        )
        with self.engine.connect() as connection:
            first, last = connection.execute(sa.select(first, last)).one()
        return None if first is None else (float(first), float(last))

    # -- streams -------------------------------------------------------------------------------

    def stream(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        kind: str = "",
        upload_id: str = "",
        sha256: str = "",
    ) -> Iterator[dict[str, Any]]:
        """Every event in the order in which it was written; constant memory.

        Args:
            since: only events from then on, seconds since the epoch.
            until: only events before.
            kind: only these.
            upload_id: only this upload's.
            sha256: only those that tell of this content: of all its uploads, and of what looked
                like it.
        """
        c, asked, last = events.c, [], 0
        if since is not None:
            asked.append(c.at >= since)
        if until is not None:
            asked.append(c.at < until)
        if asked and not upload_id:
            # Rows are written nearly in the order of time: only those between are read.
            first, end = self._ends(*asked)
            last = first - 1
            asked += [c.id <= end] if until is not None else []
        if upload_id:
            asked += [self._mine(), c.upload_id == upload_id]
        else:
            asked.append(in_order(self.namespace))
        if sha256:
            asked.append(sa.or_(c.sha256 == sha256, c.detail.contains(sha256)))
        if kind:
            asked.append(c.kind == kind)
        query = sa.select(events).where(*asked).order_by(c.id).limit(PAGE)
        while rows := self._rows(query.where(c.id > last)):
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
        query = sa.select(events).where(
            in_order(self.namespace),
            events.c.id > last_id,
            _LOOKED,
            events.c.probability.is_not(None),
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
            .where(self._mine(), c.kind == "shadow", c.tier.in_(ALL_TIERS))
            .where(c.at >= start, c.at < end)
            .group_by(c.bundle, c.policy, c.from_state, c.to_state)
            .order_by(c.bundle, c.policy)
        )
        found: dict[tuple[str, str], dict[tuple[str, str], int]] = {}
        with self.engine.connect() as connection:
            for bundle, policy, live, would, number in connection.execute(query):
                found.setdefault((bundle, policy), {})[live, would] = int(number)
        return [ShadowCounts(*key, counts) for key, counts in found.items()]

    def broken_stories(self, limit: int = 100) -> list[tuple[str, int, int]]:
        """Uploads whose transitions have a hole: (upload id, transitions found, highest seq).

        A hole means that events were lost between Redis and here. Uploads whose beginning fell to
        retention have none.
        """
        c = events.c
        before = sa.func.lag(c.seq).over(partition_by=c.upload_id, order_by=(c.seq, c.id))
        steps = (
            sa.select(c.upload_id, c.seq, c.from_state, before.label("before"))
            .where(self._mine(), c.kind == "transition")
            .subquery()
        )
        # An id that was used again has another story, which begins with another seq.
        hole = sa.and_(steps.c.from_state != "", steps.c.seq != steps.c.before + 1)
        query = (
            sa.select(steps.c.upload_id, sa.func.count(), sa.func.max(steps.c.seq))
            .group_by(steps.c.upload_id)
            .having(sa.func.sum(sa.case((hole, 1), else_=0)) > 0)
            .order_by(steps.c.upload_id)
            .limit(limit)
        )
        with self.engine.connect() as connection:
            return [(row[0], int(row[1]), int(row[2])) for row in connection.execute(query)]

    def newest_mark(self) -> str:
        """The mark of the set of data that the newest event is of; empty where none is known."""
        mine = in_order(self.namespace)
        query = sa.select(events.c.stream_id).where(mine).order_by(events.c.id.desc())
        with self.engine.connect() as connection:
            return str(connection.scalar(query.limit(1)) or "").partition(MARK)[2]

    # -- inside --------------------------------------------------------------------------------

    def _sums(self, figure: str, *periods: tuple[float, float]) -> list[Found]:
        with snapshot(self.engine) as connection:
            return read(connection, self.namespace, figure, periods)

    def _ends(self, *asked: sa.ColumnElement[bool]) -> tuple[int, int]:
        """The first and the last row of some; (1, 0) where there is none."""
        ids = sa.func.min(events.c.id), sa.func.max(events.c.id)
        with self.engine.connect() as connection:
            first, last = connection.execute(sa.select(*ids).where(self._mine(), *asked)).one()
        return first or 1, last or 0

    def _select(self) -> sa.Select[Any]:
        return sa.select(events).where(self._mine())

    def _rows(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            return _public(connection, query)


def _public(connection: sa.Connection, query: sa.Select[Any]) -> list[dict[str, Any]]:
    return [public_row(dict(row)) for row in connection.execute(query).mappings()]


def public_row(row: dict[str, Any]) -> dict[str, Any]:
    """A table row as callers get it: detail parsed, money in yuan."""
    row["detail"] = json.loads(row["detail"])
    row["stream_id"] = row["stream_id"].partition(MARK)[0]
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


def _keys(found: Found) -> list[Key]:
    return sorted({key for key, _ in found})


def _flat(found: Found, key: Key) -> tuple[Any, ...]:
    """As `make_period` reads it."""
    names = (key.kind, key.from_state, key.to_state, key.tier, key.name)
    return *names, *(found[key, amount] for amount in Amounts._fields)


def _nearest_rank(bins: Mapping[int, tuple[int, int]], share: float) -> float:
    """Seconds; the bins hold numbers of verdicts and their millionths of a second together."""
    rank = max(1, math.ceil(share * sum(number for number, _ in bins.values())))
    reached = itertools.accumulate(bins[n][0] for n in sorted(bins))
    at = next(n for n, number in zip(sorted(bins), reached, strict=True) if number >= rank)
    number, microseconds = bins[at]
    return microseconds / number / 1_000_000


def _now() -> float:
    return dt.datetime.now(dt.UTC).timestamp()
