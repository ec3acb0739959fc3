"""Sums by hour beside the events, and an index by tier; the program fills them itself.

Written out, not taken from the program: a migration must stay what it was.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql, postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _key(name: str, length: int) -> sa.Column[str]:
    bytewise = postgresql.VARCHAR(length, collation="C")
    exact = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    kind = (
        sa.String(length)
        .with_variant(exact, "mysql", "mariadb")
        .with_variant(bytewise, "postgresql")
    )
    return sa.Column(name, kind, primary_key=True)


def upgrade() -> None:
    """To this version."""
    op.create_table(
        "sums",
        _key("namespace", 40),
        _key("figure", 16),
        sa.Column("hour", sa.Integer, primary_key=True, autoincrement=False),
        _key("kind", 16),
        _key("from_state", 16),
        _key("to_state", 16),
        _key("tier", 16),
        _key("name", 80),
        sa.Column("bin", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("calls", sa.BigInteger, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        mysql_charset="utf8mb4",
        mysql_engine="InnoDB",
        sqlite_with_rowid=False,
    )
    op.create_table(
        "sum_marks",
        _key("namespace", 40),
        sa.Column("last_id", sa.BigInteger, nullable=False),
        mysql_charset="utf8mb4",
        mysql_engine="InnoDB",
    )
    op.create_index("events_by_tier", "events", ["tier", "kind", "namespace", "at"])


def downgrade() -> None:
    """Back to the version before."""
    op.drop_index("events_by_tier", "events")
    op.drop_table("sum_marks")
    op.drop_table("sums")
