"""The ledger's table, and every question that is asked of it; read by reports and by the console.

One row for each transition, each ended callback and each shadow score, as drained from Redis by
`ledger.py`; never changed afterwards. Times are seconds since the epoch, money is counted in
millionths of a yuan and leaves here in yuan. Imports neither numpy nor onnxruntime.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import json
import math
import zoneinfo
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, sqlite

from producer.contract import FINAL_STATES, AvatarState

#: Millionths of a yuan in one yuan.
MICRO = 1_000_000

#: Rows fetched at a time while streaming.
PAGE = 2_000


def _text(length: int) -> sa.types.TypeEngine[str]:
    """Text that is compared byte by byte everywhere; MySQL folds case by default."""
    exact = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return sa.String(length).with_variant(exact, "mysql", "mariadb")


metadata = sa.MetaData()

events = sa.Table(
    "events",
    metadata,
    sa.Column(
        "id",
        sa.BigInteger().with_variant(sqlite.INTEGER(), "sqlite"),
        primary_key=True,
        autoincrement=True,
    ),
    sa.Column("namespace", _text(40), nullable=False),
    sa.Column("stream_id", _text(40), nullable=False),
    sa.Column("kind", _text(16), nullable=False),
    sa.Column("upload_id", _text(200), nullable=False),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("from_state", _text(16), nullable=False),
    sa.Column("to_state", _text(16), nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("created_at", sa.Double),
    sa.Column("region", _text(16), nullable=False),
    sa.Column("sha256", _text(64), nullable=False),
    sa.Column("probability", sa.Double),
    sa.Column("raw_score", sa.Double),
    sa.Column("style", _text(16), nullable=False),
    sa.Column("bundle", _text(160), nullable=False),
    sa.Column("policy", _text(40), nullable=False),
    sa.Column("decided_by", _text(240), nullable=False),
    sa.Column("tier", _text(16), nullable=False),
    sa.Column("reason", _text(200), nullable=False),
    sa.Column("provider", _text(40), nullable=False),
    sa.Column("provider_calls", sa.Integer, nullable=False),
    sa.Column("cost_microyuan", sa.BigInteger, nullable=False),
    sa.Column("latency_s", sa.Double),
    sa.Column("step_s", sa.Double),
    sa.Column(
        "detail", sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb"), nullable=False
    ),
    sa.UniqueConstraint("namespace", "stream_id", name="events_stream_id"),
    sa.Index("events_by_time", "namespace", "at"),
    sa.Index("events_by_upload", "namespace", "upload_id", "seq"),
    sa.Index("events_by_content", "namespace", "sha256"),
    mysql_charset="utf8mb4",
    mysql_engine="InnoDB",
)

#: First looks: the transition by which an upload left the queue.
_LOOKED = sa.and_(
    events.c.kind == "transition",
    events.c.from_state == str(AvatarState.QUEUED),
    events.c.to_state != str(AvatarState.DEAD),
)

_FINAL = tuple(str(state) for state in FINAL_STATES)
_GRAY_STATES = (str(AvatarState.REVIEWING), str(AvatarState.HELD))


@dataclasses.dataclass(frozen=True)
class Bin:
    """How many pictures the model put between two probabilities, and what became of them."""

    low: float
    high: float
    approved: int
    gray: int
    blocked: int


@dataclasses.dataclass(frozen=True)
class Latency:
    """How many verdicts, and percentiles of their seconds in the order asked for."""

    count: int
    percentiles_s: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeriodCounts:
    """What happened from `start` (included) to `end` (excluded), seconds since the epoch.

    Args:
        uploads: accepted.
        first_looks: verdicts of the first tier: approved, blocked, gray or rejected.
        states: transitions by the state they led to.
        tiers: final verdicts by who gave them: model, cache, rule, review, operator.
        providers: billed calls and yuan by review provider.
        callbacks: ended callbacks by outcome.
    """

    start: float
    end: float
    uploads: int
    first_looks: dict[str, int]
    states: dict[str, int]
    tiers: dict[str, int]
    providers: dict[str, tuple[int, float]]
    callbacks: dict[str, int]
    zone: str = "UTC"

    @property
    def date(self) -> str:
        """The local date of its start, in the zone that made the period begin at midnight."""
        zone = zoneinfo.ZoneInfo(self.zone)
        return dt.datetime.fromtimestamp(self.start, zone).date().isoformat()

    @property
    def judged(self) -> int:
        """Pictures that the first tier judged; rejected files are none."""
        return sum(self.first_looks.get(name, 0) for name in ("approved", "blocked", "gray"))

    @property
    def gray_share(self) -> float | None:
        """Share of judged pictures that were not clear; None where none was judged."""
        return self.first_looks.get("gray", 0) / self.judged if self.judged else None

    @property
    def provider_calls(self) -> int:
        """Billed calls at all providers."""
        return sum(calls for calls, _ in self.providers.values())

    @property
    def cost_yuan(self) -> float:
        """Paid to all providers."""
        return sum(yuan for _, yuan in self.providers.values())

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "date": self.date,
            "start": self.start,
            "end": self.end,
            "uploads": self.uploads,
            "judged": self.judged,
            "gray_share": self.gray_share,
            "first_looks": self.first_looks,
            "states": self.states,
            "tiers": self.tiers,
            "provider_calls": self.provider_calls,
            "cost_yuan": round(self.cost_yuan, 6),
            "providers": {
                name: {"calls": calls, "yuan": round(yuan, 6)}
                for name, (calls, yuan) in self.providers.items()
            },
            "callbacks": self.callbacks,
        }


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
        query = self._select().where(events.c.kind == "transition", ~has_later)
        if before is not None:
            query = query.where(events.c.id < before)
        if state:
            query = query.where(events.c.to_state == state)
        if search:
            query = query.where(
                sa.or_(
                    events.c.upload_id.startswith(search, autoescape=True),
                    events.c.sha256 == search.lower(),
                )
            )
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
                name = "gray" if state in _GRAY_STATES else state
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
            return _period(start, end, zone, connection.execute(query).all())

    def latencies(
        self, start: float, end: float, shares: Sequence[float] = (0.5, 0.9, 0.99)
    ) -> dict[str, Latency]:
        """Seconds from enqueue to the first final verdict, by tier; `all` is everything together.

        Later overrulings do not count. Percentiles are by nearest rank.
        """
        c = events.c
        chosen = sa.and_(
            self._mine(),
            c.kind == "transition",
            c.at >= start,
            c.at < end,
            c.to_state.in_(_FINAL),
            c.from_state.not_in(_FINAL),
            c.latency_s.is_not(None),
        )
        counts = sa.select(c.tier, sa.func.count()).where(chosen).group_by(c.tier)
        with self.engine.connect() as connection:
            numbers = {tier: int(number) for tier, number in connection.execute(counts)}
            found = {}
            for tier, number in {**numbers, "all": sum(numbers.values())}.items():
                query = sa.select(c.latency_s).where(chosen).order_by(c.latency_s)
                if tier != "all":
                    query = query.where(c.tier == tier)
                ranks = [max(0, math.ceil(share * number) - 1) for share in shares]
                values = [connection.scalar(query.offset(rank).limit(1)) for rank in ranks]
                if number:
                    found[tier] = Latency(number, tuple(float(v or 0.0) for v in values))
        return found

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

    def labels(self) -> dict[str, tuple[bool, str]]:
        """What people and providers said of each content: sha256 -> (explicit, who said so).

        An operator's word beats a provider's; of two by the same kind the later one counts. The
        content's hash stands on the first look of the same upload where the verdict has none.
        """
        c = events.c
        looked = (
            sa.select(c.upload_id, sa.func.max(c.sha256).label("sha256"))
            .where(self._mine(), c.kind == "transition", c.sha256 != "")
            .group_by(c.upload_id)
            .subquery()
        )
        query = (
            sa.select(looked.c.sha256, c.to_state, c.tier, c.decided_by)
            .join(looked, looked.c.upload_id == c.upload_id)
            .where(
                self._mine(),
                c.kind == "transition",
                c.tier.in_(("review", "operator")),
                c.to_state.in_(("approved", "blocked")),
            )
            .order_by(c.id)
        )
        found: dict[str, tuple[bool, str]] = {}
        with self.engine.connect() as connection:
            for sha256, state, tier, who in connection.execute(query):
                known = found.get(sha256)
                if known and known[1].startswith("operator") and tier != "operator":
                    continue
                found[sha256] = (state == "blocked", who)
        return found

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


def _period(start: float, end: float, zone: str, rows: Sequence[Any]) -> PeriodCounts:
    uploads = 0
    first_looks: dict[str, int] = {}
    states: dict[str, int] = {}
    tiers: dict[str, int] = {}
    providers: dict[str, tuple[int, float]] = {}
    callbacks: dict[str, int] = {}

    def add(counts: dict[str, int], name: str, number: int) -> None:
        counts[name] = counts.get(name, 0) + number

    for kind, from_state, to_state, tier, provider, number, calls, microyuan in rows:
        if provider:
            before = providers.get(provider, (0, 0.0))
            providers[provider] = (before[0] + int(calls), before[1] + int(microyuan) / MICRO)
        if kind == "callback":
            add(callbacks, to_state, number)
        if kind != "transition":
            continue
        if not from_state:
            uploads += number
            continue
        add(states, to_state, number)
        if from_state == "queued" and to_state != "dead" and tier != "operator":
            add(first_looks, "gray" if to_state in _GRAY_STATES else to_state, number)
        if to_state in ("approved", "blocked"):
            add(tiers, tier or "unknown", number)
    return PeriodCounts(
        start=start,
        end=end,
        uploads=uploads,
        first_looks=first_looks,
        states=states,
        tiers=tiers,
        providers=providers,
        callbacks=callbacks,
        zone=zone,
    )
