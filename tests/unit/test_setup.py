"""What setting up relies on: the lock file, and the choice of a Python that runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = [Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines()]

#: Extras that the lock leaves out; tests/export pins its own PyTorch.
UNLOCKED = {"export"}


def pins(name: str) -> set[str]:
    """Versions that the lock gives a package, one for each range of Pythons."""
    found = [pin for pin in LOCK if canonicalize_name(pin.name) == canonicalize_name(name)]
    return {part.version for pin in found for part in pin.specifier}


def test_every_requirement_is_locked_to_a_version_that_it_allows() -> None:
    """After a change of pyproject.toml: make lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = [*project["dependencies"]]
    for extra, more in project["optional-dependencies"].items():
        needs += [] if extra in UNLOCKED else more
    for need in map(Requirement, needs):
        if need.name == "avatar-moderation":
            continue
        assert pins(need.name), f"{need.name} is not in requirements.lock"
        for version in pins(need.name):
            assert need.specifier.contains(version, prereleases=True), (str(need), version)


def test_the_lock_holds_exact_versions_and_nothing_of_a_machine() -> None:
    """It installs from any index: no address, no path, no option."""
    for pin in LOCK:
        assert [part.operator for part in pin.specifier] == ["=="]
        assert pin.url is None
        assert not pin.extras
    assert not re.search(r"^-|://|file:|/opt|/root", (ROOT / "requirements.lock").read_text(), re.M)


def find_python(*names: str, path: Path, pyenv: Path) -> str:
    """What `.ci/find-python` prints."""
    answer = subprocess.run(
        [str(ROOT / ".ci/find-python"), *names],
        env={"PATH": f"{path}:/usr/bin:/bin", "PYENV_ROOT": str(pyenv), "HOME": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip()


def write(path: Path, text: str) -> None:
    """A program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.process
def test_a_stand_in_that_does_not_run_is_passed_over(tmp_path: Path) -> None:
    """As pyenv's for a version that is not switched on; the version itself is found."""
    shims, pyenv = tmp_path / "shims", tmp_path / "pyenv"
    write(shims / "python3.13", 'echo "pyenv: python3.13: command not found" >&2; exit 127')
    kept = pyenv / "versions/3.13.0/bin/python3.13"
    assert find_python("python3.13", path=shims, pyenv=pyenv) == ""
    write(kept, f'exec {sys.executable} "$@"')
    assert find_python("python3.13", path=shims, pyenv=pyenv) == sys.executable


@pytest.mark.process
def test_a_python_that_is_too_old_is_passed_over(tmp_path: Path) -> None:
    """Whatever it is called."""
    write(tmp_path / "python3.11", "exit 1")
    assert find_python("python3.11", path=tmp_path, pyenv=tmp_path) == ""


@pytest.mark.process
def test_an_index_that_does_not_answer_is_said_in_one_sentence(tmp_path: Path) -> None:
    """Within seconds, with the setting that names a mirror, and without a password."""
    answer = subprocess.run(
        [str(ROOT / "deploy/install-packages"), sys.executable, "--target", str(tmp_path), "wheel"],
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith("PIP_")},
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": "http://user:hunter2@127.0.0.1:9/simple",
            "PIP_RETRIES": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 1
    [sentence] = answer.stderr.splitlines()
    assert sentence.startswith("error: the package index http://127.0.0.1:9/simple does not answer")
    assert "PIP_INDEX_URL=" in sentence
