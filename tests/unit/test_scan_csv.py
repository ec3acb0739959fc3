"""`avatarmod scan --csv`: what spreadsheets open."""

from __future__ import annotations

import csv
import io

import pytest

from worker.commands.scan import write_csv
from worker.tools.send_and_wait import Passage, Sample


def test_no_cell_is_run_as_a_formula(capsys: pytest.CaptureFixture[str]) -> None:
    """A file's name is text, whatever it begins with."""
    names = ["=HYPERLINK(1).png", "+a.png", "@b.png", "plain.png"]
    write_csv([Passage(Sample(name, bytes), "id", error="-1") for name in names])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["file"] for row in rows] == [*(f"'{name}" for name in names[:3]), "plain.png"]
    assert {row["reason"] for row in rows} == {"'-1"}
