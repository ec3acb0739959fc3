"""List the licences of everything that an installation brings, from the packages' own metadata.

Run: .venv/bin/python -m scripts.list_licences    (writes docs/licences.md)
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TARGET = Path(__file__).parents[1] / "docs" / "licences.md"

PROJECT = "avatar-moderation"

HEADER = """\
# Licences of what is installed

avatar-moderation itself is Apache-2.0. Below is every package that its extras bring on Linux, with
the licence that the package states. Made by `python -m scripts.list_licences`.

"""

#: Not to be linked into a service that others install without a thought.
REFUSED = re.compile(r"\bA?GPL\b|General Public License", re.IGNORECASE)
#: The Lesser GPL asks nothing of a program that imports a library as it is.
LESSER = re.compile(r"\bLGPL|Lesser General Public", re.IGNORECASE)


def closure(extras: Iterable[str]) -> Iterator[str]:
    """Names of the installed packages that the project needs with these extras, sorted."""
    seen: set[tuple[str, str]] = set()
    found: set[str] = set()
    waiting = [(PROJECT, extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform or Python
        found.add(name)
        for text in needs:
            need = Requirement(text)
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(need.name), more) for more in ("", *need.extras)]
    yield from sorted(found - {PROJECT})


def licence_of(name: str) -> str:
    """The licence that a package states; empty where it states none."""
    metadata = importlib.metadata.metadata(name)
    trove = [
        text.rpartition(" :: ")[2]
        for text in metadata.get_all("Classifier") or []
        if text.startswith("License ::") and text != "License :: OSI Approved"
    ]
    stated = " ".join(metadata.get_all("License") or []).strip()
    short = stated if stated and "\n" not in stated and len(stated) < 60 else ""
    expression = " ".join(metadata.get_all("License-Expression") or [])
    return expression or ", ".join(trove) or short


def is_refused(licence: str) -> bool:
    """Whether a licence asks more than this project may ask of who installs it."""
    return bool(REFUSED.search(LESSER.sub("", licence)))


def render() -> str:
    """The whole page."""
    base = set(closure([]))
    rows = ["| package | licence | in |", "|---|---|---|"]
    for name in closure(["all"]):
        place = "every installation" if name in base else "all"
        rows.append(f"| {name} | {licence_of(name) or 'not stated'} | {place} |")
    return HEADER + "\n".join(rows) + "\n"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
