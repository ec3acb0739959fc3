"""Events that wait in files while SQL is away, so that Redis' memory need not hold them all.

One file, one event a line; only what is on the disk leaves Redis. When SQL is back the file's
events go first. Each step may be repeated: events have ids that SQL knows again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from producer.record.events import Entry
from producer.record.store import Store

if TYPE_CHECKING:
    from worker.ledger.writer import Ledger

#: Events that one step moves.
PIECE = 1_000


class Spill:
    """The file of one namespace in one data folder; used by one thread.

    Args:
        folder: the data folder.
        namespace: whose events.
    """

    def __init__(self, folder: Path, namespace: str) -> None:
        self._path = folder / f"ledger-events-{namespace}.jsonl"
        self._descriptor: int | None = None

    def is_empty(self) -> bool:
        """Whether nothing waits here."""
        return not self._path.exists()

    def take(self, store: Store) -> int:
        """Move the oldest events out of Redis; returns how many.

        Raises:
            OSError: the disk does not take them; they are still in Redis.
        """
        from worker.ledger.rows import event_key

        mark, entries = store.events.first_marked(PIECE)
        if not entries:
            return 0
        lines = [json.dumps([event_key(stream_id, mark), fields]) for stream_id, fields in entries]
        self._append("\n".join(lines) + "\n")
        store.events.forget(entries[-1][0])
        return len(entries)

    def drain(self, ledger: Ledger) -> int:
        """Bring everything into SQL, oldest first, and remove the file; returns how many.

        Raises:
            LedgerUnavailable: what is not in SQL is still here.
        """
        if self.is_empty():
            return 0
        self.close()
        total = 0
        for entries in self._pieces():
            ledger.write(entries)
            total += len(entries)
        self._path.unlink()
        return total

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _append(self, text: str) -> None:
        try:
            if self._descriptor is None:
                self._descriptor = self._open()
            # A line that a full disk or a kill cut short is ended here, and left out when read.
            rest = memoryview(b"\n" + text.encode())
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            os.fsync(self._descriptor)
        except OSError as error:
            error.filename = str(self._path)
            raise

    def _open(self) -> int:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        folder = os.open(self._path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        return descriptor

    def _pieces(self) -> Iterator[list[Entry]]:
        piece: list[Entry] = []
        with self._path.open("rb") as file:
            for line in file:
                try:
                    key, fields = json.loads(line)
                except ValueError:
                    continue  # its events did not leave Redis
                piece.append((key, fields))
                if len(piece) == PIECE:
                    yield piece
                    piece = []
        if piece:
            yield piece
