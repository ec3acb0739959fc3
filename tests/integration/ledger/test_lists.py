"""Where each upload stands, kept beside the events: always what they come to, and quick to find."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from producer.contract import AvatarState
from producer.record.events import Entry
from producer.record.store import Store
from producer.settings import Settings
from tests.integration.ledger.conftest import advance, upload
from worker.ledger.database import MIGRATIONS, make_engine
from worker.ledger.erase import Eraser
from worker.ledger.lists import FEW, last_uploads, misplaced
from worker.ledger.rows import to_row
from worker.ledger.schema import events, uploads
from worker.ledger.writer import Ledger

START = 1_700_000_000

STATES = ("approved", "blocked", "held", "reviewing", "rejected", "dead")
REASONS = ("clear", "explicit", "gray")
BLOCK_REASONS = ("nudity", "sexual_act", "other")


def stories(count: int, *, first: int = 0, seed: int = 1) -> list[Entry]:
    """Uploads of three sites with one to four transitions, and with what is none between them."""
    rng, found = random.Random(seed), []
    for number in range(first, first + count):
        upload_id = f"site{rng.randrange(3)}/{number}"
        for seq in range(1, rng.randint(1, 4) + 1):
            to = "queued" if seq == 1 else rng.choice(STATES)
            said: dict[str, Any] = {"reason": rng.choice(REASONS), "sha256": f"{number % 7:064x}"}
            if seq > 2 and to in ("approved", "blocked"):
                said |= {"decided_by": "operator:ann", "reason": "overruled"}
            if said["reason"] == "overruled" and to == "blocked":
                said["block_reason"] = rng.choice(BLOCK_REASONS)
            for kind in ("transition", rng.choice(("callback", "shadow"))):
                fields = {
                    "kind": kind,
                    "upload_id": upload_id,
                    "seq": str(seq),
                    "from": "" if seq == 1 else "queued",
                    "to": to,
                    "at": f"{START + number}.{seq}",
                    "detail": json.dumps(said if seq > 1 else {}),
                }
                found.append((f"{seed}{number}-{seq}{len(kind)}", fields))
    return found


def plain(ledger: Ledger) -> list[dict[str, Any]]:
    """Each upload's last transition, newest first, as the events tell it."""
    last: dict[str, dict[str, Any]] = {}
    for row in ledger.stream(kind="transition"):
        before = last.get(row["upload_id"])
        if row["upload_id"] < "~" and (before is None or row["seq"] >= before["seq"]):
            last[row["upload_id"]] = row
    return sorted(last.values(), key=lambda row: -row["id"])


def check(ledger: Ledger) -> None:
    """Every filter gives what going through all events gives."""
    rows = plain(ledger)
    shas = {row["sha256"] for row in rows if row["sha256"]}
    searches = ("", "site1/", "site", "site2/1", "nobody", *sorted(shas)[:2])
    states, reasons = ("", "queued", *STATES), ("", *REASONS, "overruled", *BLOCK_REASONS)
    asked = list(itertools.product(searches, states, reasons))
    for search, state, reason in [*with_one(asked), *random.Random(4).sample(asked, 25)]:
        wanted = [
            row
            for row in rows
            if state in ("", row["to_state"])
            and reason in ("", row["reason"], row["detail"].get("block_reason"))
            and (row["upload_id"].startswith(search) or row["sha256"] == search)
        ]
        filters = {"state": state, "search": search, "reason": reason}
        assert ledger.recent(1000, **filters) == wanted, filters
        if len(wanted) > 1:
            assert ledger.recent(1, wanted[0]["id"], **filters) == wanted[1:2], filters


def with_one(asked: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Of all combinations those with one filter at most."""
    return [one for one in asked if sum(map(bool, one)) <= 1]


def test_every_filter_gives_what_the_events_say(ledger: Ledger) -> None:
    """In order, mixed up and twice, after retention, and where much begins alike."""
    entries = stories(120)
    ledger.write(entries[:200])
    check(ledger)
    rest = entries[150:]
    random.Random(2).shuffle(rest)
    for start in range(0, len(rest), 90):
        ledger.write(rest[start : start + 90])
    check(ledger)
    assert ledger.wrong_uploads() == 0
    ledger.expire(START + 40.5)
    assert ledger.wrong_uploads() == 0
    assert len(plain(ledger)) == 120 - 41
    check(ledger)


def test_beginnings_that_many_ids_have(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether all of them are read, or all uploads are gone through, the rows are alike."""
    ledger.write(stories(60))
    monkeypatch.setattr("worker.ledger.lists.FEW", 10)
    check(ledger)


def test_an_old_ledger_gets_its_lists(settings: Settings) -> None:
    """Tables of each earlier version, of two services, are filled when they are opened."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = make_engine(settings)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    ours = [to_row(settings.namespace, key, fields) for key, fields in stories(80)]
    theirs = [to_row("other", key, fields) for key, fields in stories(20)]
    with engine.begin() as connection:
        connection.execute(sa.insert(events), [*ours, *theirs])
    engine.dispose()
    ledger = Ledger.open(settings)
    check(ledger)
    ledger.write(stories(30, first=60, seed=3))
    check(ledger)
    ledger.close()
    other = Ledger.open(settings.model_copy(update={"namespace": "other"}))
    check(other)
    other.close()


def test_taken_back_and_forgotten(ledger: Ledger, store: Store) -> None:
    """What is forgotten is in no list; the same id used again is."""
    for name in ("a", "b"):
        upload(store, name, AvatarState.HELD, probability=0.4)
    advance(store, "a", AvatarState.BLOCKED, {"decided_by": "operator:ann"})
    ledger.drain(store)
    Eraser(ledger.engine, ledger.namespace).erase("a", "~1", before=store.now())
    assert [row["upload_id"] for row in ledger.recent()] == ["b"]
    with ledger.engine.connect() as connection:
        assert list(connection.scalars(sa.select(uploads.c.upload_id))) == ["b"]
    store.forget_after("a", 0)
    store.redis.delete(store.key("avatar", "a"))
    upload(store, "a")
    ledger.drain(store)
    assert [row["upload_id"] for row in ledger.recent()] == ["a", "b"]


def test_wrong_places_are_found_and_mended(ledger: Ledger) -> None:
    """Whatever touched the table: missing, too early, and what is nobody's any more."""
    ledger.write(stories(40))
    with ledger.engine.begin() as connection:
        ids = list(connection.scalars(sa.select(uploads.c.event_id).order_by("event_id")))
        connection.execute(sa.delete(uploads).where(uploads.c.event_id.in_(ids[:2])))
        moved = sa.update(uploads).where(uploads.c.event_id == ids[5])
        connection.execute(moved.values(event_id=ids[5] - 1))
        odd = dict.fromkeys(("state", "reason", "block_reason", "sha256"), "")
        extra = {"namespace": ledger.namespace, "upload_id": "x", "seq": 1, "event_id": 10**6}
        connection.execute(sa.insert(uploads), extra | odd)
    assert ledger.wrong_uploads() == 3
    ledger.place_again()
    assert ledger.wrong_uploads() == 0
    check(ledger)


FILTERS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "the next page": {"before": 4000},
    "a state": {"state": "blocked"},
    "a rare state": {"state": "dead"},
    "a reason": {"reason": "gray"},
    "a rare reason": {"reason": "second_veto"},
    "why a person blocked": {"reason": "other"},
    "a rare reason to block": {"reason": "minor"},
    "a hash": {"search": f"{3:064x}"},
    "a hash that many have": {"search": "ab" * 32},
    "an id": {"search": "site1/77"},
    "an id and its state": {"search": "site1/77", "state": "approved"},
    "a beginning of few ids": {"search": "few/"},
    "a beginning of all ids": {"search": "site"},
    "nobody's id": {"search": "nobody", "reason": "gray"},
}


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> list[Ledger]:
    """Two SQLite ledgers; the second one holds eight times as many uploads."""
    books = []
    for count in (3_000, 24_000):
        book = Ledger.open(Settings(data_folder=tmp_path_factory.mktemp("grown")))
        row = to_row(book.namespace, "0-1", stories(1)[0][1])
        rows = [
            row | {"stream_id": f"{n}-1", "upload_id": f"{'few' if n < 40 else f'site{n % 3}'}/{n}"}
            for n in range(count)
        ]
        _place(rows)
        with book.engine.begin() as connection:
            connection.execute(sa.insert(events), rows)
            query = sa.select(events.c.id, *(events.c[name] for name in COPIED)).order_by("id")
            there = [
                dict(zip(("event_id", *COPIED), found, strict=True)) | {"block_reason": ""}
                for found in connection.execute(query)
            ]
            for found in there:
                found["state"] = found.pop("to_state")
                if found["reason"] == "overruled":
                    found["block_reason"] = "minor" if found["event_id"] < 30 else "other"
            connection.execute(sa.insert(uploads), there)
        books.append(book)
    return books


COPIED = ("namespace", "upload_id", "seq", "to_state", "reason", "sha256")


def _place(rows: list[dict[str, Any]]) -> None:
    """What is rare stands at the old end, which a list comes to last."""
    for n, row in enumerate(rows):
        row["to_state"] = "dead" if n < 15 else ("approved", "blocked", "held")[n % 3]
        row["reason"] = "second_veto" if n < 9 else ("clear", "gray", "overruled")[n % 3]
        row["sha256"] = "ab" * 32 if n % 2 else f"{n:064x}"


def steps(ledger: Ledger, asked: dict[str, Any]) -> int:
    """SQLite's steps until a page of a list is read: about 20 a row of it."""
    with ledger.engine.connect() as connection, counted(connection) as count:
        connection.execute(last_uploads(connection, ledger.namespace, 26, **asked)).all()
    return count[0]


@contextlib.contextmanager
def counted(connection: sa.Connection) -> Iterator[list[int]]:
    """SQLite's steps meanwhile."""
    count = [0]

    def step() -> int:
        count[0] += 1
        return 0

    raw: Any = connection.connection.driver_connection
    raw.set_progress_handler(step, 1)
    try:
        yield count
    finally:
        raw.set_progress_handler(None, 1)


@pytest.mark.parametrize("asked", FILTERS.values(), ids=FILTERS)
def test_no_filter_takes_longer_in_a_larger_ledger(
    grown: list[Ledger], asked: dict[str, Any]
) -> None:
    """However rare what is looked for is: the steps are counted, which no load changes."""
    small, large = (steps(book, asked) for book in grown)
    assert large <= small * 1.1 + FEW * 8


def test_one_pass_over_an_index_at_most(grown: list[Ledger]) -> None:
    """Two frequent filters that hardly meet, and ids that stopped coming: a few steps an upload."""
    for asked in (
        {"state": "dead", "search": "site"},
        {"state": "reviewing", "search": "ab" * 32},
        {"state": "dead", "reason": "overruled"},
        {"state": "blocked", "reason": "second_veto"},
        {"state": "approved", "reason": "gray"},
    ):
        assert steps(grown[1], asked) < 24_000 * 6, asked


def test_the_check_looks_each_upload_up(grown: list[Ledger]) -> None:
    """Some 60 steps an event, however many there are; nothing is compared with everything."""
    counts = []
    for book in grown:
        with book.engine.connect() as connection, counted(connection) as count:
            assert misplaced(connection, book.namespace) == 0
        counts.append(count[0])
    assert counts[1] < counts[0] * 8 * 1.2


def test_lists_are_read_from_indexes_in_their_order(grown: list[Ledger]) -> None:
    """Nothing is sorted but the rows of a page, and the table of uploads is not read through."""
    for name, asked in FILTERS.items():
        with grown[1].engine.connect() as connection:
            query = last_uploads(connection, grown[1].namespace, 26, **asked)
            text = query.compile(grown[1].engine, compile_kwargs={"literal_binds": True})
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}").all()
        said = [row[3] for row in plan]
        assert not [line for line in said if line.startswith("SCAN uploads")], name
        is_by_id = not any("COVERING INDEX uploads_by" in line for line in said)
        assert is_by_id == name.endswith((" id", "few ids", "its state")), (name, said)
