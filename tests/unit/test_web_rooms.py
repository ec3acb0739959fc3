"""The web side's files and folders import downwards only: gate, then API and console, then app."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

ROOT = Path(__file__).parents[2]
WEB = ROOT / "producer" / "web"


def modules() -> dict[str, Path]:
    """Dotted name -> file."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in WEB.rglob("*.py")
    }


def imported(path: Path) -> set[str]:
    """Modules of the web side that a file imports anywhere, also for type checking alone."""
    known, found = modules(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & known.keys() or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & known.keys()


def room_of(name: str) -> str:
    """`api`, `console`, `app` for the joiner, `gate` for the plain modules that all may use."""
    first = name.removeprefix("producer.web").lstrip(".").partition(".")[0]
    return first if first in ("api", "console", "app") else "gate"


def test_no_file_imports_in_a_circle() -> None:
    """Not even under TYPE_CHECKING or inside a function."""
    graph = {name: imported(path) for name, path in modules().items()}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) > 20


def test_only_the_app_joins_api_and_console() -> None:
    """Neither knows the other, and what both use knows neither."""
    below = {"gate": {"gate"}, "api": {"gate", "api"}, "console": {"gate", "console"}}
    for name, path in modules().items():
        if (room := room_of(name)) != "app":
            assert {room_of(other) for other in imported(path)} <= below[room], name
