"""SQLite files in write-ahead mode, also when several programs open a new one at once."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Literal

#: Longest wait for other programs, in seconds.
WAIT_S = 10.0

#: Between two tries, in seconds.
AGAIN_S = 0.02


def open_file(path: Path) -> sqlite3.Connection:
    """A file for one program's own notes, made where there is none; every statement commits.

    Raises:
        sqlite3.OperationalError: see `use_wal`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)
    use_wal(connection, synchronous="NORMAL")
    return connection


def use_wal(connection: sqlite3.Connection, synchronous: Literal["FULL", "NORMAL"]) -> None:
    """Readers go on while one writes. `FULL`: what is committed survives a power cut.

    The change of mode takes a lock that it already half holds, so SQLite does not wait for it but
    says `SQLITE_BUSY` at once, whatever the connection's timeout is: the wait is done here.
    Source: https://www.sqlite.org/c3ref/busy_handler.html, on two processes that each hold a lock.

    Raises:
        sqlite3.OperationalError: the file is still locked after `WAIT_S`, or is none of SQLite's.
    """
    give_up = time.monotonic() + WAIT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > give_up:
                raise
            time.sleep(AGAIN_S)
    connection.execute(f"PRAGMA synchronous={synchronous}")
