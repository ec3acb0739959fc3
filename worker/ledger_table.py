"""The ledger's one table: a row for each transition, ended callback, paid opinion or shadow score.

Rows are never changed. Times are seconds since the epoch, money is counted in millionths of a yuan.
A change here needs a migration in `migrations/versions`.
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
