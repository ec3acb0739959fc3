"""The Chinese pages say what the English ones say: same sections, commands, figures and links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAIRS = [
    ("README.md", "README.zh-CN.md"),
    ("docs/quickstart.md", "docs/quickstart.zh-CN.md"),
    ("docs/models.md", "docs/models.zh-CN.md"),
    ("docs/review.md", "docs/review.zh-CN.md"),
    ("docs/integration.md", "docs/integration.zh-CN.md"),
    ("docs/operations.md", "docs/operations.zh-CN.md"),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: What only readers in China need: another address of the package index or the hub.
MIRROR = re.compile(r".*(PIP_INDEX_URL|HF_ENDPOINT)=")
HAN = r"[\u4e00-\u9fff]"


def read(name: str) -> str:
    """A page's text."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str) -> list[tuple[str, list[str]]]:
    """(language, lines without comments) of every fenced block."""
    return [
        (
            language,
            [re.sub(r'\s*(# .*|""".*"""|/\*\*.*\*/)$', "", line) for line in body.split("\n")],
        )
        for language, body in FENCE.findall(text)
    ]


def sections(text: str) -> list[int]:
    """The level of every heading, in order."""
    return [len(marks) for marks in re.findall(r"^(#+) ", FENCE.sub("", text), re.MULTILINE)]


def rows(text: str) -> list[list[str]]:
    """The codes in the first cell of every table row."""
    cells = re.findall(r"^\| ?((?:\\\||[^|\n])*)\|", FENCE.sub("", text), re.MULTILINE)
    return [re.findall(r"`([^`]+)`", cell) for cell in cells]


def links(text: str, pair: tuple[str, str]) -> set[str]:
    """Where a page's links lead, the other language's pages under one name."""
    found = set(re.findall(r"\]\(([^)]+)\)", FENCE.sub("", text)))
    # A heading's name is in its page's language.
    pages = {re.sub(r"(?<=\.md)#.*", "", target.replace(".zh-CN.md", ".md")) for target in found}
    return pages - {Path(pair[0]).name}


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0])
class TestPair:
    """An English page and its translation."""

    def test_sections_are_the_same(self, pair: tuple[str, str]) -> None:
        """As many, of the same levels, in the same order."""
        english, chinese = map(read, pair)
        assert sections(chinese) == sections(english)

    def test_blocks_are_the_same_but_for_comments(self, pair: tuple[str, str]) -> None:
        """Every command, program and output is there, character for character."""
        english, chinese = map(read, pair)
        assert blocks(chinese) == blocks(english)

    def test_tables_are_about_the_same_names(self, pair: tuple[str, str]) -> None:
        """Row by row: the states, commands and settings of the first column."""
        english, chinese = map(read, pair)
        assert rows(chinese) == rows(english)

    def test_every_code_of_the_text_is_in_both(self, pair: tuple[str, str]) -> None:
        """No setting, command, state or address is left out or added, but for Chinese mirrors."""
        one_line = (re.sub(r"\s*\n\s*", " ", FENCE.sub("", read(page))) for page in pair)
        english, chinese = (set(re.findall(r"`([^`]+)`", text)) for text in one_line)
        assert {code for code in chinese if not MIRROR.match(code)} == english

    def test_links_lead_to_the_same_places(self, pair: tuple[str, str]) -> None:
        """The translation points at everything that the original points at."""
        english, chinese = map(read, pair)
        assert links(chinese, pair) == links(english, pair)

    def test_no_line_breaks_inside_a_chinese_sentence(self, pair: tuple[str, str]) -> None:
        """A browser would show a space there."""
        text = FENCE.sub("", read(pair[1]))
        assert re.findall(rf"{HAN}\n{HAN}", text) == []
