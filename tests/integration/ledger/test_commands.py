"""`avatarmod ledger`: what comes out of it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from producer.settings import Settings
from producer.store import Store
from tests.integration.ledger.conftest import upload
from worker.commands.ledger import ledger as command
from worker.ledger import Ledger, write_transaction
from worker.ledger_table import events


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


def test_dates_limit_the_export(filled: Path) -> None:
    """--until excludes; a date that cannot be read is bad usage."""
    assert CliRunner().invoke(command, ["export", "--until", "2020-01-01"]).stderr == "0 events\n"
    result = CliRunner().invoke(command, ["export", "--since", "soon"])
    assert result.exit_code == 2
    assert "write it like 2026-11-01" in result.output


def test_a_check_can_be_read(filled: Path) -> None:
    """Dates instead of seconds since 1970, and no Python where nothing is broken."""
    book = Ledger.open(Settings(data_folder=filled))
    with write_transaction(book.engine) as connection:
        connection.execute(events.update().values(at=0.0).where(events.c.upload_id == "two"))
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
