"""Every sentence of the security page's tables names what holds it, and that exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")


def rows() -> list[tuple[str, str]]:
    """(what holds, what proves it) of every table that has such a column."""
    found, proves = [], False
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            proves = False
        elif cells[-1] == "proven by":
            proves = True
        elif proves and set(line) - set("|- "):
            found.append((cells[-2][:60], cells[-1]))
    return found


def test_the_page_has_its_tables() -> None:
    """Who is not trusted, a stranger's upload, rules that hold everywhere."""
    assert len(rows()) > 30


@pytest.mark.parametrize(("what", "proof"), rows())
def test_a_sentence_is_held_by_a_test(what: str, proof: str) -> None:
    """Files of tests and benchmarks exist, `make` knows its target, a command is ours."""
    named = re.findall(r"`([^`]+)`", proof)
    assert named, what
    makefile = (ROOT / "Makefile").read_text()
    for name in named:
        if name.startswith("make "):
            assert f"\n{name.removeprefix('make ')}:" in makefile, name
        elif name.startswith("avatarmod ") or name == "sandbox":
            continue
        else:
            place = ROOT / name if name.startswith("benchmarks/") else ROOT / "tests" / name
            assert place.is_file(), name
