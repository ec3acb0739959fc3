"""Which files are pictures to send or to score, and long lists in pieces."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

#: Files with these endings are taken; what they really are is the decoder's business.
ENDINGS = frozenset(
    [
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".webp"),
        *(".bmp", ".avif", ".heic", ".heif", ".tif", ".tiff", ".ico", ".svg"),
    ]
)

T = TypeVar("T")


def pictures_below(folder: Path, *, all_files: bool = False) -> list[Path]:
    """Files with a picture's ending, or all of them, sorted by name."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and (all_files or path.suffix.lower() in ENDINGS)
    )


def pieces(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of at most so many."""
    rest = iter(items)
    while piece := list(itertools.islice(rest, size)):
        yield piece
