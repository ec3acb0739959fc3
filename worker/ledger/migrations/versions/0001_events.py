"""The table of events.

Written out, not taken from the program: a migration must stay what it was.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql, postgresql, sqlite

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _text(name: str, length: int) -> sa.Column[str]:
    bytewise = postgresql.VARCHAR(length, collation="C")
    exact = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    kind = (
        sa.String(length)
        .with_variant(exact, "mysql", "mariadb")
        .with_variant(bytewise, "postgresql")
    )
    return sa.Column(name, kind, nullable=False)


def upgrade() -> None:
    """To this version."""
    op.create_table(
        "events",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sqlite.INTEGER(), "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        _text("namespace", 40),
        _text("stream_id", 40),
        _text("kind", 16),
        _text("upload_id", 200),
        sa.Column("seq", sa.Integer, nullable=False),
        _text("from_state", 16),
        _text("to_state", 16),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("created_at", sa.Double),
        _text("region", 16),
        _text("sha256", 64),
        sa.Column("probability", sa.Double),
        sa.Column("raw_score", sa.Double),
        _text("style", 16),
        _text("bundle", 160),
        _text("policy", 40),
        _text("decided_by", 240),
        _text("tier", 16),
        _text("reason", 200),
        _text("provider", 40),
        sa.Column("provider_calls", sa.Integer, nullable=False),
        sa.Column("cost_microyuan", sa.BigInteger, nullable=False),
        sa.Column("latency_s", sa.Double),
        sa.Column("step_s", sa.Double),
        sa.Column(
            "detail",
            sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb"),
            nullable=False,
        ),
        sa.UniqueConstraint("namespace", "stream_id", name="events_stream_id"),
        mysql_charset="utf8mb4",
        mysql_engine="InnoDB",
    )
    op.create_index("events_by_time", "events", ["namespace", "at"])
    op.create_index("events_by_upload", "events", ["namespace", "upload_id", "seq"])
    op.create_index("events_by_content", "events", ["namespace", "sha256"])


def downgrade() -> None:
    """Back to the version before."""
    op.drop_table("events")
