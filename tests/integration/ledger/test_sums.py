"""The sums by hour in each kind of database: they are what the events come to, at every moment."""

from __future__ import annotations

import math
import random
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from producer.contract import AvatarState
from producer.record.decisions import Decisions
from producer.record.store import Store
from producer.settings import Settings
from tests.integration.ledger.conftest import advance, upload
from worker.ledger.database import MIGRATIONS, make_engine, write_transaction
from worker.ledger.last_words import LastWords
from worker.ledger.queries import LedgerReads
from worker.ledger.schema import events, sums
from worker.ledger.sums import FOLD_ROWS, fold
from worker.ledger.writer import Ledger

START = 1_790_000_000.0


def entries(count: int, seed: int = 1) -> list[tuple[str, dict[str, str]]]:
    """Events of `count` uploads over two days, at odd seconds: looked at, reviewed, decided."""
    rng = random.Random(seed)
    found = []
    for n in range(count):
        at = START + rng.uniform(0, 2 * 86400)
        steps = [("", "queued", "{}")]
        p = rng.choice([0.0, 0.004, 0.29, 0.5, 0.57, 0.99, 1.0])
        to = "approved" if p < 0.05 else "blocked" if p > 0.95 else "held"
        steps.append(("queued", to, f'{{"decided_by": "model", "probability": {p}}}'))
        if to == "held":
            who, verdict = rng.choice(["ann", "eve"]), rng.choice(["approved", "blocked"])
            said = f'{{"decided_by": "operator:{who}", "probability": {p}}}'
            steps.append(("held", verdict, said))
        for seq, (before, after, detail) in enumerate(steps, 1):
            fields = {"kind": "transition", "upload_id": f"{seed}-{n}", "seq": str(seq)}
            fields |= {"from": before, "to": after, "detail": detail}
            fields |= {"at": str(at + 0.7 * seq), "created_at": str(at)}
            found.append((f"{seed}{n:06d}-{seq}", fields))
    return found


def plain_counts(ledger: LedgerReads, start: float, end: float) -> dict[str, int]:
    """Counts of a period from the events themselves."""
    rows = [row for row in ledger.stream() if start <= row["at"] < end]
    decided = [row for row in rows if row["to_state"] in ("approved", "blocked")]
    return {
        "uploads": sum(row["from_state"] == "" for row in rows),
        "gray": sum((row["from_state"], row["to_state"]) == ("queued", "held") for row in rows),
        "model": sum(row["tier"] == "model" for row in decided),
        "operator": sum(row["tier"] == "operator" for row in decided),
    }


def sum_counts(ledger: LedgerReads, start: float, end: float) -> dict[str, int]:
    """The same as it is reported."""
    found = ledger.count(start, end)
    names = ("model", "operator")
    tiers = {name: found.tiers.get(name, 0) for name in names}
    return {"uploads": found.uploads, "gray": found.first_looks.get("gray", 0), **tiers}


def test_any_period_is_exact(ledger: Ledger) -> None:
    """Whole hours come from the sums, the parts at both ends from the events."""
    ledger.write(entries(400))
    rng = random.Random(2)
    for _ in range(25):
        start, end = sorted(START + rng.uniform(-3600, 2 * 86400 + 3600) for _ in range(2))
        assert sum_counts(ledger, start, end) == plain_counts(ledger, start, end)
    assert ledger.wrong_sums() == []


def test_percentiles_are_those_of_the_events_within_three_percent(ledger: Ledger) -> None:
    """By nearest rank, of the first final verdict on each upload."""
    ledger.write(entries(300))
    for tier, found in ledger.latencies(0, 1e10).items():
        seconds = sorted(
            row["latency_s"]
            for row in ledger.stream()
            if row["to_state"] in ("approved", "blocked")
            and (row["tier"] == tier or (tier == "machine" and row["tier"] != "operator"))
        )
        assert found.count == len(seconds)
        for share, value in zip((0.5, 0.9, 0.99), found.percentiles_s, strict=True):
            exact = seconds[math.ceil(share * len(seconds)) - 1]
            assert value == pytest.approx(exact, rel=0.03)


def test_an_old_ledger_is_added_up_when_it_is_opened(settings: Settings) -> None:
    """Tables of the first version get their sums; more events than are folded in at a time."""
    engine = make_engine(settings)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    from worker.ledger.rows import to_row

    rows = [to_row(settings.namespace, key, fields) for key, fields in entries(FOLD_ROWS)]
    assert len(rows) > 2 * FOLD_ROWS
    with engine.begin() as connection:
        connection.execute(sa.insert(events), rows)
    engine.dispose()
    ledger = Ledger.open(settings)
    assert ledger.wrong_sums() == []
    assert sum_counts(ledger, 0, 1e10) == plain_counts(ledger, 0, 1e10)
    ledger.close()


def test_a_reader_counts_what_an_older_program_wrote(ledger: Ledger) -> None:
    """Rows that nobody folded in are counted all the same, and once after they were."""
    from worker.ledger.rows import to_row

    ledger.write(entries(50))
    more = [to_row(ledger.namespace, key, fields) for key, fields in entries(50, seed=3)]
    with ledger.engine.begin() as connection:
        connection.execute(sa.insert(events), more)
    before = sum_counts(ledger, 0, 1e10)
    assert before == plain_counts(ledger, 0, 1e10)
    ledger.fold()
    assert sum_counts(ledger, 0, 1e10) == before
    assert ledger.wrong_sums() == []


def test_events_that_come_twice_are_counted_once(ledger: Ledger) -> None:
    """A drain that was killed before it trimmed the stream comes again."""
    ledger.write(entries(40))
    ledger.write(entries(40))
    ledger.write(entries(41))
    assert sum_counts(ledger, 0, 1e10)["uploads"] == 41
    assert ledger.wrong_sums() == []


def test_several_write_at_once(ledger: Ledger, settings: Settings) -> None:
    """What two processes bring in at the same time is in the sums once each."""
    others = [Ledger.open(settings) for _ in range(3)]
    threads = []
    for n, book in enumerate(others):
        pages = [entries(30, seed=10 * n + k) for k in range(1, 6)]

        def bring(book: Ledger = book, pages: list[object] = pages) -> None:  # type: ignore[assignment]
            for page in pages:
                book.write(page)  # type: ignore[arg-type]

        threads.append(threading.Thread(target=bring))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for book in others:
        book.close()
    assert sum_counts(ledger, 0, 1e10)["uploads"] == 3 * 5 * 30
    assert ledger.wrong_sums() == []


def test_retention_takes_the_sums_along(ledger: Ledger) -> None:
    """In the middle of an hour, and until nothing is left, after which rows are counted again."""
    ledger.write(entries(300))
    middle = START + 86400 + 1234
    assert ledger.expire(middle) > 0
    assert ledger.wrong_sums() == []
    assert sum_counts(ledger, 0, middle) == dict.fromkeys(
        ("uploads", "gray", "model", "operator"), 0
    )
    assert sum_counts(ledger, middle, 1e10) == plain_counts(ledger, middle, 1e10)
    ledger.expire(1e10)
    with ledger.engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(sums)) == 0
    ledger.write(entries(20, seed=9))
    assert sum_counts(ledger, 0, 1e10)["uploads"] == 20
    assert ledger.wrong_sums() == []


def test_wrong_sums_are_found_and_added_up_again(ledger: Ledger) -> None:
    """Whatever touched the table."""
    ledger.write(entries(60))
    right = sum_counts(ledger, 0, 1e10)
    with ledger.engine.begin() as connection:
        connection.execute(sa.update(sums).where(sums.c.figure == "moves").values(number=7))
    assert ledger.wrong_sums() != []
    ledger.add_up_again()
    assert ledger.wrong_sums() == []
    assert sum_counts(ledger, 0, 1e10) == right


def test_decisions_taken_back_and_names_forgotten(ledger: Ledger, store: Store) -> None:
    """Through the record, as it happens."""
    for name in ("a", "b"):
        upload(store, name, AvatarState.HELD, probability=0.4)
        Decisions(store).decide(name, "approved", by="eve")
    Decisions(store).undo("a", by="eve")
    advance(store, "a", AvatarState.BLOCKED, {"decided_by": "operator:ann"})
    ledger.drain(store)
    assert ledger.count(0, 1e12).tiers == {"operator": 3}
    assert ledger.latencies(0, 1e12)["operator"].count == 2
    assert ledger.wrong_sums() == []


def test_no_index_makes_pages_by_id_a_sort(tmp_path: Path) -> None:
    """Without statistics SQLite would take one that begins with the kind or the namespace."""
    ledger = Ledger.open(Settings(data_folder=tmp_path))
    asked: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, text: str, values: Any, *_: object) -> None:
        asked.append((text, values))

    sa.event.listen(ledger.engine, "before_cursor_execute", note)
    with write_transaction(ledger.engine) as connection:
        fold(connection, ledger.namespace, 5)
    ledger.place_again()
    ledger.judged_after(5, 10)
    ledger.newest_mark()
    for limits in ({}, {"kind": "memory"}, {"since": 5.0}, {"since": 5.0, "until": 9.0}):
        list(ledger.stream(**limits))  # type: ignore[arg-type]
    list(LastWords(ledger, since=5.0).pages())
    sa.event.remove(ledger.engine, "before_cursor_execute", note)
    pages = [(text, values) for text, values in asked if "ORDER BY events.id" in text]
    assert len(pages) == 9
    with ledger.engine.connect() as connection:
        for text, values in pages:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values).all()
            assert "TEMP B-TREE" not in str(plan), text
    ledger.close()
