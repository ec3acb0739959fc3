"""What came from elsewhere is printed as text: it obeys nobody, and nothing of it is lost."""

from __future__ import annotations

import ast
import io
import logging
import os
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner
from rich.console import Console

from producer.commands.shown import Rows, styled
from producer.logs import configure_logging
from producer.plain import plain, say
from producer.settings import Settings, load_settings
from worker.commands.scan import samples_of

ROOT = Path(__file__).parents[2]

HOSTILE = "\x1b[2J[red]x[/] [/nonsense]\nforged \u202egnp.exe\x9b31m \udcff 名字"


def test_a_line_obeys_nothing() -> None:
    """Escapes, line ends and turned writing are written out; letters of all scripts stay."""
    shown = plain(HOSTILE)
    assert shown == r"\x1b[2J[red]x[/] [/nonsense]\nforged \u202egnp.exe\x9b31m \udcff 名字"
    result = CliRunner().invoke(_printing())
    assert result.output == shown + "\n"


def _printing() -> object:
    import click

    @click.command()
    def show() -> None:
        say(HOSTILE)

    return show


def test_a_table_takes_no_markup() -> None:
    """Neither a tag that it knows nor one that it would fail at."""
    out = io.StringIO()
    table = Rows("what", "how")
    table.add_row(HOSTILE, styled("[b]", "red"))
    Console(file=out, width=200, color_system=None).print(table)
    assert r"\x1b[2J[red]x[/] [/nonsense]\nforged" in out.getvalue()
    assert "[b]" in out.getvalue()
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize(
    "path",
    [p for room in ("producer", "worker") for p in (ROOT / room / "commands").glob("*.py")],
    ids=lambda path: path.stem,
)
def test_no_command_makes_tables_of_its_own(path: Path) -> None:
    """A cell that a table takes for markup is a hole; there is one kind of table."""
    if path.name == "shown.py":
        return
    names = [
        alias.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "rich.table"
        for alias in node.names
    ]
    assert names == []


def test_a_log_that_people_read_obeys_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Text logs write it out; JSON does so by itself."""
    for kind in ("text", "json"):
        configure_logging(load_settings(Settings, log_format=kind))
        structlog.get_logger().warning("odd", message=HOSTILE, upload_id="a")
        logging.getLogger("other").warning("foreign %s", "\x1b[2J")
        said = capsys.readouterr().err
        assert "\x1b[2J" not in said
        assert "forged" in said
        assert "foreign" in said


def test_files_of_any_name_are_scanned(tmp_path: Path) -> None:
    """A name that is no UTF-8 is written out, so that it can be printed and saved."""
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    [sample] = samples_of(tmp_path, all_files=True)
    assert sample.name == r"caf\xe9.png"
    assert sample.name.encode()
