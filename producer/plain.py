"""Any text as a terminal may show it; for commands and for logs that people read."""

from __future__ import annotations

import unicodedata

import click

#: Categories of Unicode that are not shown as they are: control characters, format characters (they
#: turn the direction of writing, for example), halves of characters, and what is not assigned.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"})


def plain(value: object) -> str:
    r"""A text with everything written out that a terminal would obey: `\x1b`, `\n`, `\u202e`."""
    text = str(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in _HIDDEN else char
        for char in text
    )


def counted(number: int, noun: str) -> str:
    """`1 picture`, `2,000 pictures`; the noun takes an s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def say(line: str, *, err: bool = False) -> None:
    """Print one line."""
    click.echo(plain(line), err=err)
