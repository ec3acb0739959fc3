"""Where each upload stands, filled from the events in one statement.

Written out, not taken from the program: a migration must stay what it was.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql, postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

REASONS = (
    *("nudity", "sexual_act", "minor", "violence", "hate", "advertising", "impersonation"),
    "other",
)

SAID = """WHEN detail LIKE '%"block!_reason": "{1}"%' ESCAPE '!' THEN '{0}'"""

FILL = """
INSERT INTO uploads (namespace, upload_id, seq, event_id, state, reason, block_reason, sha256)
SELECT namespace, upload_id, seq, id, to_state, reason, {block_reason}, sha256
FROM events
WHERE kind = 'transition' AND upload_id < '~' AND NOT EXISTS (
    SELECT 1 FROM events AS later
    WHERE later.namespace = events.namespace AND later.upload_id = events.upload_id
    AND later.seq >= events.seq AND later.kind = 'transition'
    AND (later.seq > events.seq OR later.id > events.id)
)
"""


def _text(name: str, length: int, *, is_key: bool = False) -> sa.Column[str]:
    bytewise = postgresql.VARCHAR(length, collation="C")
    exact = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    kind = (
        sa.String(length)
        .with_variant(exact, "mysql", "mariadb")
        .with_variant(bytewise, "postgresql")
    )
    return sa.Column(name, kind, primary_key=is_key, nullable=False)


def upgrade() -> None:
    """To this version."""
    op.create_table(
        "uploads",
        _text("namespace", 40, is_key=True),
        _text("upload_id", 200, is_key=True),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("event_id", sa.BigInteger, nullable=False),
        _text("state", 16),
        _text("reason", 200),
        _text("block_reason", 16),
        _text("sha256", 64),
        mysql_charset="utf8mb4",
        mysql_engine="InnoDB",
        sqlite_with_rowid=False,
    )
    said = " ".join(SAID.format(reason, reason.replace("_", "!_")) for reason in REASONS)
    block_reason = f"CASE WHEN tier <> 'operator' THEN '' {said} ELSE '' END"
    op.execute(sa.text(FILL.format(block_reason=block_reason).replace(":", r"\:")))
    op.create_index("uploads_by_time", "uploads", ["namespace", "event_id"])
    op.create_index("uploads_by_state", "uploads", ["namespace", "state", "event_id", "reason"])
    op.create_index("uploads_by_reason", "uploads", ["namespace", "reason", "event_id", "state"])
    op.create_index(
        "uploads_by_block_reason", "uploads", ["namespace", "block_reason", "event_id", "state"]
    )
    op.create_index("uploads_by_content", "uploads", ["namespace", "sha256", "event_id", "state"])


def downgrade() -> None:
    """Back to the version before."""
    op.drop_table("uploads")
