"""`avatarmod ledger`: what comes out of it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from producer.contract import Avatar, AvatarState
from producer.findings import LooksLike, Seen
from producer.record.decisions import Decisions
from producer.record.store import Store
from producer.settings import Settings
from tests.integration.ledger.conftest import advance, upload
from worker.commands.ledger import ledger as command
from worker.ledger.database import write_transaction
from worker.ledger.schema import events
from worker.ledger.writer import Ledger


@pytest.fixture
def filled(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder whose ledger has two uploads."""
    monkeypatch.setenv("AVATARMOD_DATA_FOLDER", str(tmp_path))
    upload(store, "@one", probability=0.25)
    upload(store, "two")
    book = Ledger.open(Settings(data_folder=tmp_path))
    assert book.drain(store) == 4
    book.close()
    return tmp_path


def test_csv_holds_every_event_and_no_formula(filled: Path) -> None:
    """Rows come in order; a cell that a spreadsheet would run is made harmless."""
    result = CliRunner().invoke(command, ["export"])
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["upload_id"] for row in rows] == ["'@one", "'@one", "two", "two"]
    assert rows[1]["probability"] == "0.25"
    assert json.loads(rows[1]["detail"])["decided_by"] == "model"
    assert result.stderr == "4 events\n"


def test_parquet_holds_the_same(filled: Path) -> None:
    """Types survive: numbers are numbers, absent ones are null."""
    out = filled / "events.parquet"
    result = CliRunner().invoke(command, ["export", "--format", "parquet", "--out", str(out)])
    assert result.exit_code == 0, result.output
    table = pq.read_table(out).to_pylist()
    assert [row["probability"] for row in table] == [None, 0.25, None, 0.01]


def export(*options: str) -> list[dict[str, str]]:
    result = CliRunner().invoke(command, ["export", *options])
    assert result.exit_code == 0, result.output
    return list(csv.DictReader(io.StringIO(result.stdout)))


def test_the_export_tells_of_one_picture(filled: Path, store: Store) -> None:
    """Who else uploaded it, what looked like it, who decided, and on what they saw."""
    sha256 = Ledger.open(Settings(data_folder=filled)).story("two")[1]["sha256"]
    fields = {"decided_by": "model", "sha256": sha256}
    store.submit(Avatar(upload_id="again", state=AvatarState.QUEUED, seq=1), max_backlog=9)
    advance(store, "again", AvatarState.HELD, fields)
    like = LooksLike(
        sha256=sha256, upload_id="two", state="blocked", decided_by="operator:eve", distance=9
    )
    upload(store, "like", AvatarState.HELD, looks_like=like.to_json())
    seen = Seen(2, sha256)
    Decisions(store).decide("again", "blocked", by="eve", seen=seen)
    book = Ledger.open(Settings(data_folder=filled))
    while book.drain(store):
        continue
    rows = export("--sha256", sha256.upper(), "--kind", "transition")
    assert {row["upload_id"] for row in rows} == {"two", "again", "like"}
    assert {row["upload_id"] for row in rows if row["looks_like"] == sha256} == {"like"}
    [decision] = [row for row in rows if row["decided_by"] == "operator:eve"]
    assert (decision["upload_id"], decision["to_state"]) == ("again", "blocked")
    assert (decision["seen_seq"], decision["seen_sha256"]) == ("2", sha256)
    assert {row["upload_id"] for row in export("--upload", "like")} == {"like"}
    wrong = CliRunner().invoke(command, ["export", "--sha256", "ab%"])
    assert (wrong.exit_code, "64 hexadecimal digits" in wrong.output) == (2, True)


def test_dates_limit_the_export(filled: Path) -> None:
    """--until excludes; a date that cannot be read is bad usage."""
    assert CliRunner().invoke(command, ["export", "--until", "2020-01-01"]).stderr == "0 events\n"
    result = CliRunner().invoke(command, ["export", "--since", "soon"])
    assert result.exit_code == 2
    assert "a date such as 2026-11-22" in result.output


def test_a_check_can_be_read(filled: Path) -> None:
    """Dates instead of seconds since 1970, and no Python where nothing is broken."""
    book = Ledger.open(Settings(data_folder=filled))
    with write_transaction(book.engine) as connection:
        connection.execute(events.update().values(at=0.0).where(events.c.upload_id == "two"))
    result = CliRunner().invoke(command, ["check"])
    assert result.exit_code == 1
    assert "not what their events come to: 6; add --repair" in result.output
    assert "added up again" in CliRunner().invoke(command, ["check", "--repair"]).output
    book.close()
    result = CliRunner().invoke(command, ["check"])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == "first event: 1970-01-01 08:00:00 Asia/Shanghai"
    assert result.stdout.splitlines()[-1] == "stories with a hole: none"
    assert "waiting in Redis: not known" in result.stdout


def test_a_check_names_what_is_broken(filled: Path) -> None:
    """One line a story, and exit code 1."""
    book = Ledger.open(Settings(data_folder=filled))
    with write_transaction(book.engine) as connection:
        second = (events.c.upload_id == "two") & (events.c.seq == 2)
        connection.execute(events.update().values(seq=3).where(second))
    book.close()
    result = CliRunner().invoke(command, ["check"])
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-2:] == [
        "stories with a hole: 1",
        "  two: 2 transitions kept, the last one is number 3",
    ]


def test_check_answers_also_without_redis(filled: Path) -> None:
    """No Redis runs: the ledger alone is looked at."""
    result = CliRunner().invoke(command, ["check", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["broken_stories"] == []
