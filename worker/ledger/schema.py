"""The ledger's tables: a row a transition, ended callback, paid opinion, audit or shadow score.

Rows are never changed. Times are seconds since the epoch, money is counted in millionths of a yuan.
Their sums by hour stand beside them (sums.py), and where each upload stands (lists.py). A change
here needs a migration in `migrations/versions`.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite


def _text(length: int) -> sa.types.TypeEngine[str]:
    """Text that is compared byte by byte everywhere; MySQL folds case by default."""
    bytewise = postgresql.VARCHAR(length, collation="C")
    exact = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return (
        sa.String(length)
        .with_variant(exact, "mysql", "mariadb")
        .with_variant(bytewise, "postgresql")
    )


#: Between an event's id in the stream and the mark of its set of data.
MARK = "@"

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
    # The tier first, which few questions name: SQLite would take an index that begins with the kind
    # for pages by id, too, and sort all of them.
    sa.Index("events_by_tier", "tier", "kind", "namespace", "at"),
    mysql_charset="utf8mb4",
    mysql_engine="InnoDB",
)


def in_order(namespace: str) -> sa.ColumnElement[bool]:
    """A namespace's events for pages by id: SQLite would take an index and sort all of them."""
    return events.c.namespace.concat("") == namespace


#: Each upload's last transition. The columns after `event_id` spare a list the table itself.
uploads = sa.Table(
    "uploads",
    metadata,
    sa.Column("namespace", _text(40), primary_key=True),
    sa.Column("upload_id", _text(200), primary_key=True),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("event_id", sa.BigInteger, nullable=False),
    sa.Column("state", _text(16), nullable=False),
    sa.Column("reason", _text(200), nullable=False),
    sa.Column("block_reason", _text(16), nullable=False),
    sa.Column("sha256", _text(64), nullable=False),
    sa.Index("uploads_by_time", "namespace", "event_id"),
    sa.Index("uploads_by_state", "namespace", "state", "event_id", "reason"),
    sa.Index("uploads_by_reason", "namespace", "reason", "event_id", "state"),
    sa.Index("uploads_by_block_reason", "namespace", "block_reason", "event_id", "state"),
    sa.Index("uploads_by_content", "namespace", "sha256", "event_id", "state"),
    mysql_charset="utf8mb4",
    mysql_engine="InnoDB",
    sqlite_with_rowid=False,
)

#: What `sums.py` counts, by hour since the epoch.
sums = sa.Table(
    "sums",
    metadata,
    sa.Column("namespace", _text(40), primary_key=True),
    sa.Column("figure", _text(16), primary_key=True),
    sa.Column("hour", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", _text(16), primary_key=True),
    sa.Column("from_state", _text(16), primary_key=True),
    sa.Column("to_state", _text(16), primary_key=True),
    sa.Column("tier", _text(16), primary_key=True),
    sa.Column("name", _text(80), primary_key=True),
    sa.Column("bin", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("calls", sa.BigInteger, nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    mysql_charset="utf8mb4",
    mysql_engine="InnoDB",
    sqlite_with_rowid=False,
)

#: The last row of `events` that is in the sums.
sum_marks = sa.Table(
    "sum_marks",
    metadata,
    sa.Column("namespace", _text(40), primary_key=True),
    sa.Column("last_id", sa.BigInteger, nullable=False),
    mysql_charset="utf8mb4",
    mysql_engine="InnoDB",
)
