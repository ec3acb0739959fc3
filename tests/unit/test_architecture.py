"""Who may import whom, checked on the syntax trees and in a fresh interpreter."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: What a host that only enqueues need not have.
HEAVY = ("numpy", "onnxruntime", "PIL", "pi_heif", "scipy", "sqlalchemy", "fastapi", "boto3")

#: Modules of the worker that join the others; everything else is a spoke.
HUBS = {"app", "tasks", "batch", "outcomes", "supervisor", "passage", "commands"}

#: Tools that people run beside the queue: they join spokes, and the task path never imports them.
OFFLINE = {
    "scoring",
    "dataset",
    "evaluation",
    "evaluation_page",
    "recalibration",
    "tuning",
    "what_if",
    "shadow",
    "rescan",
    "backfill",
    "report",
}

#: Modules of the worker that anybody may use: pure, or below everything.
LEAVES = {
    "settings",
    "pixels",
    "policy",
    "retry",
    "colours",
    "frames",
    "flat",
    "formats",
    "views",
    "memory",
    "cpus",
    "supervised",
    "sweeper",
    "data",
    "accuracy",
    "money",
    "page",
}

#: Spokes that are one part in several files.
PARTS = [
    {"decode", "decode_child"},
    {"bundle", "engine", "calibration", "style"},
    {"ledger", "ledger_reads", "ledger_table", "ledger_counts", "migrations"},
    {"review"},
    {"alarms", "review"},
    {"metrics"},
]


def imports(path: Path, *, at_import: bool = False) -> Iterator[str]:
    """Dotted names that a file imports; `at_import` leaves out those inside functions."""
    tree = ast.parse(path.read_text())
    inside: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        ):
            inside.update(ast.walk(node))
    for node in ast.walk(tree):
        if at_import and node in inside:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(package: str) -> list[Path]:
    """Source files of a package."""
    return sorted((ROOT / package).rglob("*.py"))


def part_of(module: str) -> str:
    """`worker.review.router` -> `review`."""
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("path", files("producer"), ids=str)
def test_the_producer_never_imports_the_worker(path: Path) -> None:
    """Not even inside a function: the light side stands alone."""
    assert [name for name in imports(path) if name.partition(".")[0] == "worker"] == []


@pytest.mark.parametrize("module", ["producer.enqueue", "producer.cli", "producer.dead_letters"])
def test_a_host_that_enqueues_loads_nothing_heavy(module: str) -> None:
    """Neither arrays nor pictures nor models nor databases, in a fresh interpreter."""
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def spokes() -> list[Path]:
    """Files of the worker that are neither hub nor leaf."""
    return [
        path
        for path in files("worker")
        if part_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        not in HUBS | LEAVES | OFFLINE
        and path.name != "__init__.py"
    ]


@pytest.mark.parametrize("path", spokes(), ids=str)
def test_spokes_do_not_import_each_other(path: Path) -> None:
    """They import the producer, libraries and pure leaves; the hub joins them."""
    mine = part_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    friends = {mine}.union(*(part for part in PARTS if mine in part))
    foreign = {
        part_of(name)
        for name in imports(path)
        if name.startswith("worker.") and part_of(name) not in friends | LEAVES
    }
    assert foreign == set()


@pytest.mark.parametrize(
    "path",
    [
        ROOT / "producer/contract.py",
        ROOT / "producer/errors.py",
        ROOT / "worker/policy.py",
        ROOT / "worker/retry.py",
    ],
    ids=lambda path: path.name,
)
def test_pure_modules_have_neither_clock_nor_chance_nor_input(path: Path) -> None:
    """Time and randomness are parameters; only a policy file is read, by its own loader."""
    banned = {"time", "random", "os", "socket", "redis", "httpx", "secrets", "datetime", "uuid"}
    assert {name.partition(".")[0] for name in imports(path)} & banned == set()
    assert "settings" not in path.read_text() or path.name != "retry.py"


@pytest.mark.parametrize("path", [*files("producer"), *files("worker")], ids=str)
def test_importing_a_module_does_nothing(path: Path) -> None:
    """No module reads the environment or opens anything on its top level."""
    suspicious = {"open", "connect", "mkdir", "environ", "getenv", "from_url", "Popen", "run"}
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.If):
            continue
        for inner in ast.walk(node):
            if isinstance(inner, ast.Call):
                name = getattr(inner.func, "attr", getattr(inner.func, "id", ""))
                assert name not in suspicious, f"{path.name}:{inner.lineno} calls {name}"
            assert getattr(inner, "attr", "") != "environ", f"{path.name}:{node.lineno}"


def test_the_task_path_never_imports_the_tools_beside_it() -> None:
    """What evaluates, tunes and backfills may be slow and large; the workers must not carry it."""
    for path in files("worker"):
        part = part_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        if part not in OFFLINE | {"commands"}:
            assert {part_of(name) for name in imports(path)} & OFFLINE == set(), path
