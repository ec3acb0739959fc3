"""Every decision, durable, in SQL: drained from the stream of events in Redis, exactly once.

The drain reads a piece of the stream, commits it in one transaction and only then trims the stream.
Killed in between, it reads the same events again; their ids are known by then and they are left
out. While SQL is away the events wait in Redis, then in files (spill.py), and moderation goes on.

Input: `events` of producer/record/store.py. Output: the tables of schema.py, about which queries.py
answers every question. Importing this module needs SQLAlchemy but neither numpy
nor onnxruntime.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from producer.record.events import Entry
from producer.record.store import Store
from producer.settings import Settings
from worker.ledger.database import (
    make_engine,
    migrate,
    translated,
    write_transaction,
)
from worker.ledger.lists import drop_last, keep_last, misplaced
from worker.ledger.queries import LedgerReads
from worker.ledger.rows import event_key, is_known, to_row
from worker.ledger.schema import MARK, events, in_order, uploads
from worker.ledger.sums import (
    FOLD_ROWS,
    HOUR_S,
    Key,
    differences,
    fold,
    forget_before,
    is_behind,
    lock_mark,
    snapshot,
    start_again,
)

#: Events of one transaction.
DRAIN_EVENTS = 1_000

#: Rows deleted in one transaction when their time is over.
EXPIRE_ROWS = 1_000


class Ledger(LedgerReads):
    """Writes and reads. Safe to share between threads."""

    @classmethod
    def open(cls, settings: Settings) -> Ledger:
        """Connect, and bring the tables up to this version.

        Raises:
            ConfigurationError: the address cannot be used, a driver is not installed, or the tables
                are of a newer version than this program.
            LedgerUnavailable: the database does not answer.
        """
        engine = make_engine(settings)
        try:
            with translated(engine.url):
                migrate(engine)
        except BaseException:
            engine.dispose()
            raise
        found = cls(engine, settings.namespace)
        found.fold()
        return found

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    def check(self) -> None:
        """Try whether the database takes writes.

        Raises:
            LedgerUnavailable: it does not.
        """
        with translated(self.engine.url), write_transaction(self.engine) as connection:
            connection.execute(sa.select(events.c.id).limit(1))

    def drain(self, store: Store, max_events: int = DRAIN_EVENTS) -> int:
        """Move up to `max_events` events from Redis into SQL; returns how many left the stream.

        Raises:
            LedgerUnavailable: nothing was committed; the events are still in Redis.
        """
        mark, entries = store.events.first_marked(max_events)
        if entries:
            self.write([(event_key(stream_id, mark), fields) for stream_id, fields in entries])
            store.events.forget(entries[-1][0])
        return len(entries)

    def write(self, entries: Sequence[Entry]) -> None:
        """Commit events under the ids of `event_key`, but for those that are here already.

        Raises:
            LedgerUnavailable: nothing was committed.
        """
        rows = [to_row(self.namespace, key, fields) for key, fields in entries]
        plain = [key.partition(MARK)[0] for key, _ in entries]
        with translated(self.engine.url), write_transaction(self.engine) as connection:
            mark = lock_mark(connection, self.namespace)
            c = events.c
            query = sa.select(c.stream_id, c.upload_id, c.seq, c.to_state).where(
                c.namespace == self.namespace, c.stream_id.in_([*plain, *(k for k, _ in entries)])
            )
            found = {row[0]: tuple(row[1:]) for row in connection.execute(query)}
            # A file holds an event twice where it could not be written at once.
            fresh = {row["stream_id"]: row for row in rows if not is_known(row, found)}
            if fresh:
                connection.execute(sa.insert(events), list(fresh.values()))
                keep_last(connection, self.namespace, fresh)
                fold(connection, self.namespace, mark)

    def fold(self) -> None:
        """Add what is not in the sums yet to them: after an upgrade, all that there is.

        Raises:
            LedgerUnavailable: what was added stays; call again.
        """
        with translated(self.engine.url):
            with snapshot(self.engine) as connection:
                behind = is_behind(connection, self.namespace)
            while behind:
                with write_transaction(self.engine) as connection:
                    mark = lock_mark(connection, self.namespace)
                    behind = fold(connection, self.namespace, mark) == FOLD_ROWS

    def add_up_again(self) -> None:
        """Throw the sums away and add all events up; readers meanwhile do so by themselves.

        Raises:
            LedgerUnavailable: what was added stays; `fold` goes on with it.
        """
        with translated(self.engine.url), write_transaction(self.engine) as connection:
            start_again(connection, self.namespace)
        self.fold()

    def wrong_sums(self) -> list[Key]:
        """Where the sums are not what the events come to; reads every event."""
        with translated(self.engine.url), snapshot(self.engine) as connection:
            return differences(connection, self.namespace)

    def wrong_uploads(self) -> int:
        """How many uploads do not stand where their events leave them; reads every event."""
        with translated(self.engine.url), snapshot(self.engine) as connection:
            return misplaced(connection, self.namespace)

    def place_again(self) -> None:
        """Go through all events for where each upload stands; lists meanwhile lack some.

        Raises:
            LedgerUnavailable: call again.
        """
        with translated(self.engine.url), write_transaction(self.engine) as connection:
            lock_mark(connection, self.namespace)
            connection.execute(sa.delete(uploads).where(uploads.c.namespace == self.namespace))
        page = sa.select(events).where(in_order(self.namespace))
        last, page = 0, page.order_by(events.c.id).limit(FOLD_ROWS)
        while True:
            with translated(self.engine.url), write_transaction(self.engine) as connection:
                lock_mark(connection, self.namespace)
                rows = connection.execute(page.where(events.c.id > last)).mappings().all()
                keep_last(connection, self.namespace, {row["stream_id"]: dict(row) for row in rows})
            if not rows:
                return
            last = rows[-1]["id"]

    def expire(self, before: float) -> int:
        """Delete events older than `before` (seconds since the epoch), a piece at a time."""
        total = 0
        oldest = (
            sa.select(events.c.id)
            .where(events.c.namespace == self.namespace, events.c.at < before)
            .order_by(events.c.at)
            .limit(EXPIRE_ROWS)
        )
        with translated(self.engine.url):
            while True:
                with write_transaction(self.engine) as connection:
                    lock_mark(connection, self.namespace)
                    ids = list(connection.scalars(oldest))
                    connection.execute(sa.delete(events).where(events.c.id.in_(ids)))
                    drop_last(connection, self.namespace, ids)
                    if len(ids) < EXPIRE_ROWS:
                        forget_before(connection, self.namespace, int(before // HOUR_S))
                total += len(ids)
                if len(ids) < EXPIRE_ROWS:
                    return total
