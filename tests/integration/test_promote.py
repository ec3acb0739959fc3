"""Promotion and rollback: one link that workers follow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from producer.errors import BundleError
from worker.commands.bundle import bundle as command
from worker.model import promotion as module
from worker.model.bundle import SHIPPED_FOLDER, Bundle
from worker.model.promotion import promote, roll_back


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two bundles that differ by name."""
    for name in ("one", "two"):
        shutil.copytree(SHIPPED_FOLDER / "open-nsfw", tmp_path / name)
        path = tmp_path / name / "model.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "name": name}))
    monkeypatch.setenv("AVATARMOD_MODELS_FOLDER", str(tmp_path))
    return tmp_path


def current(models: Path) -> str:
    return Bundle.load("current", models).name


def test_promote_and_roll_back(models: Path) -> None:
    """`current` follows; the same again changes nothing; rolling back twice goes forth again."""
    promote("one", models)
    assert current(models) == "one"
    promote("two", models)
    promote("two", models)
    assert current(models) == "two"
    assert roll_back(models).name == "one"
    assert current(models) == "one"
    assert roll_back(models).name == "two"


def test_a_damaged_bundle_is_not_promoted(models: Path) -> None:
    """The one in use stays."""
    promote("one", models)
    (models / "two" / "model.json").write_text("{")
    with pytest.raises(BundleError):
        promote("two", models)
    assert current(models) == "one"


def test_nothing_to_roll_back_to(models: Path) -> None:
    """Said in words, exit code 1."""
    result = CliRunner().invoke(command, ["rollback"])
    assert result.exit_code == 1
    assert "nothing to go back to" in result.output


def test_a_bundle_that_is_called_current_is_left_alone(models: Path) -> None:
    """A folder of that name is somebody's bundle."""
    (models / "two").rename(models / "current")
    with pytest.raises(BundleError, match="rename it"):
        promote("one", models)
    assert (models / "current").is_dir()


def test_the_command_says_what_to_set(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers follow only when the setting says `current`."""
    result = CliRunner().invoke(command, ["promote", "one"])
    assert " is one@" in result.stdout
    assert "set it to 'current'" in result.stderr
    monkeypatch.setenv("AVATARMOD_BUNDLE", "current")
    assert CliRunner().invoke(command, ["promote", "two"]).stderr == ""


def test_killed_between_two_links_it_leaves_no_older_previous(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rolling back never goes further back than one promotion; the promotion can be repeated."""
    shutil.copytree(models / "one", models / "three")
    path = models / "three" / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "name": "three"}))
    promote("one", models)
    promote("two", models)
    real, links = module._point, []

    def killed(link: Path, folder: Path) -> None:
        links.append(link)
        if len(links) == 2:
            raise KeyboardInterrupt
        real(link, folder)

    monkeypatch.setattr(module, "_point", killed)
    with pytest.raises(KeyboardInterrupt):
        promote("three", models)
    monkeypatch.undo()
    assert current(models) == "two"
    with pytest.raises(BundleError, match="interrupted"):
        roll_back(models)
    promote("three", models)
    assert current(models) == "three"
    assert roll_back(models).name == "two"
