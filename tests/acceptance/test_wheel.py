"""What is published works where there is no clone: the wheel has every file and runs by itself."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("producer", "worker")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from that sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return folder


def sources() -> set[str]:
    """Every file of the packages, but for what Python itself writes."""
    return {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_and_the_sdist_have_every_file(built: Path) -> None:
    """Lua scripts, templates, migrations, bundles and heads; the sdist also tests and documents."""
    (wheel,) = built.glob("*.whl")
    (sdist,) = built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert sources() - names == set()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == set(PACKAGES)
    with tarfile.open(sdist) as archive:
        shipped = {name.partition("/")[2] for name in archive.getnames()}
    assert sources() - shipped == set()
    assert {"README.zh-CN.md", "SECURITY.md", "deploy/install.sh", "tests/conftest.py"} <= shipped


def test_the_wheel_runs_outside_of_the_clone(built: Path, tmp_path: Path) -> None:
    """The whole way on sample pictures, from an empty folder and with the wheel's files only."""
    (wheel,) = built.glob("*.whl")
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run([sys.executable, *install], check=True, capture_output=True)
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AVATARMOD_")},
        "HOME": str(tmp_path),
        "PYTHONPATH": str(site),
        "AVATARMOD_DATA_FOLDER": str(tmp_path / "data"),
        "AVATARMOD_API_PORT": "0",
    }
    where = [sys.executable, "-c", "import worker, producer; print(worker.__file__)"]
    found = subprocess.run(where, cwd=empty, env=env, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).is_relative_to(site)
    demo = subprocess.run(
        [sys.executable, str(site / "bin" / "avatarmod"), "demo", "--once"],
        cwd=empty,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert demo.returncode == 0, demo.stdout[-3000:] + demo.stderr[-3000:]
    assert "12 pictures: 7 approved, 1 gray, 0 blocked, 4 rejected, 0 failed" in demo.stdout
    assert "12 callbacks received, 12 verified" in demo.stdout
    assert list(empty.iterdir()) == []
