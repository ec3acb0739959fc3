"""Takes an upload's name out of the ledger and leaves its numbers: reports keep their counts.

Its rows get an alias in place of the id, drawn at random, which keeps them together without telling
whose they were. Hashes, addresses and texts go; states, times, scores, money and who decided stay.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from worker.ledger.database import translated, write_transaction
from worker.ledger.lists import drop_last
from worker.ledger.schema import events

#: Details that are numbers or the model's, and who of the operators acted.
KEPT_DETAILS = frozenset(
    {"by", "doubt", "frame", "second_bundle", "second_hold", "second_probability", "second_raw"}
    | {"small", "views"}
)


class Eraser:
    """Forgets uploads of one namespace. Safe to share between threads."""

    def __init__(self, engine: sa.Engine, namespace: str) -> None:
        self._engine = engine
        self._namespace = namespace

    def known_of(self, upload_id: str) -> tuple[str, set[str]] | None:
        """Its image reference and the hashes of its content; None where no row names it.

        Raises:
            LedgerUnavailable: the database does not answer.
        """
        c = events.c
        query = sa.select(c.kind, c.from_state, c.sha256, c.detail).where(self._is(upload_id))
        with translated(self._engine.url), self._engine.connect() as connection:
            rows = connection.execute(query).all()
        if not rows:
            return None
        images = [
            str(json.loads(row.detail).get("image", ""))
            for row in rows
            if row.kind == "transition" and not row.from_state
        ]
        return next(filter(None, images), ""), {row.sha256 for row in rows if row.sha256}

    def erase(self, upload_id: str, alias: str, *, before: float) -> int:
        """Give an upload's rows of before a time to an alias; returns how many.

        Args:
            upload_id: which.
            alias: stands for it from now on; no upload id looks like it.
            before: seconds since the epoch.

        Raises:
            LedgerUnavailable: nothing was changed.
        """
        with translated(self._engine.url):
            if self._engine.dialect.name == "sqlite":
                return self._erase_sqlite(upload_id, alias, before)
            with write_transaction(self._engine) as connection:
                return self._rename(connection, upload_id, alias, before)

    def _erase_sqlite(self, upload_id: str, alias: str, before: float) -> int:
        """What was changed must not stay readable in free pages or in the log of writes."""
        with self._engine.connect().execution_options(writes=True) as connection:
            connection.connection.execute("PRAGMA secure_delete=ON")
            with connection.begin():
                count = self._rename(connection, upload_id, alias, before)
            if count:
                connection.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return count

    def _rename(self, connection: sa.Connection, upload_id: str, alias: str, before: float) -> int:
        c = events.c
        query = sa.select(c.id, c.detail).where(self._is(upload_id), c.at < before)
        rows = connection.execute(query).all()
        for row in rows:
            values = {"upload_id": alias, "sha256": "", "detail": _anonymous(row.detail)}
            connection.execute(sa.update(events).where(c.id == row.id).values(values))
        drop_last(connection, self._namespace, [row.id for row in rows])
        return len(rows)

    def _is(self, upload_id: str) -> sa.ColumnElement[bool]:
        return sa.and_(events.c.namespace == self._namespace, events.c.upload_id == upload_id)


def _anonymous(detail: str) -> str:
    found: dict[str, Any] = json.loads(detail)
    return json.dumps({name: value for name, value in found.items() if name in KEPT_DETAILS})
