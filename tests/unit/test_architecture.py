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

#: Modules of the worker that join the others.
HUBS = {"app", "tasks", "batch", "outcomes", "supervisor"}

#: Parts of the task path; each stands alone.
SPOKES = [
    {"decode", "decode_child", "formats", "frames", "views", "colours", "flat"},
    {"bundle", "engine", "calibration", "style", "cpus", "memory"},
    {"review"},
    {"judging"},
    {"callback"},
    {"drain"},
    {"ledger", "ledger_reads", "ledger_table", "ledger_counts", "migrations"},
    {"alarms"},
    {"sweeper"},
    {"received"},
    {"embedded"},
]

#: Pure, or below everything: anybody may use them.
LEAVES = {"settings", "pixels", "policy", "retry", "sqlite_wal", "supervised"}


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


def members(names: set[str]) -> list[Path]:
    """Files of parts of the worker."""
    return [
        path
        for path in files("worker")
        if part_of(".".join(path.relative_to(ROOT).with_suffix("").parts)) in names
    ]


def parts_used(path: Path) -> set[str]:
    """Parts of the worker that a file imports."""
    return {part_of(name) for name in imports(path) if name.startswith("worker.")}


@pytest.mark.parametrize("part", SPOKES, ids=lambda part: min(part))
def test_spokes_do_not_import_each_other(part: set[str]) -> None:
    """They import the producer, libraries and pure leaves; the hub joins them."""
    allowed = part | LEAVES | ({"review"} if part == {"alarms"} else set())
    for path in members(part):
        assert parts_used(path) <= allowed, path


@pytest.mark.parametrize("path", members(HUBS), ids=str)
def test_the_task_path_uses_no_tool(path: Path) -> None:
    """Evaluation, tuning and reports stay out of the workers' memory and of their faults."""
    assert parts_used(path) <= HUBS | LEAVES | set().union(*SPOKES)


def test_every_name_above_exists() -> None:
    """A module that is renamed must be renamed here."""
    names = {path.stem for path in (ROOT / "worker").iterdir()}
    assert names >= HUBS | LEAVES | set().union(*SPOKES)


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
