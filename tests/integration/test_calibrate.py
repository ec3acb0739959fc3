"""`avatarmod calibrate` from folders to a new bundle; the scores are made up, the rest is real."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from producer.errors import ConfigurationError
from tests.integration.scores import score_in_content
from worker.commands.calibrate import calibrate
from worker.model.bundle import Bundle
from worker.tools.scoring import Scorer


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """300 files whose content is their raw score; explicit by logit(p) = 3 logit(raw)."""
    rng = random.Random(5)
    root = tmp_path / "dataset"
    for number in range(300):
        raw = rng.uniform(0.05, 0.95)
        explicit = rng.random() < 1 / (1 + math.exp(-3 * math.log(raw / (1 - raw))))
        folder = root / ("explicit" if explicit else "harmless")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_text(str(raw))

    monkeypatch.setattr(Scorer, "score", score_in_content)
    monkeypatch.setenv("AVATARMOD_DATA_FOLDER", str(tmp_path / "data"))
    monkeypatch.setenv("AVATARMOD_MODELS_FOLDER", str(tmp_path / "models"))
    return root


def run(*arguments: str) -> Result:
    return CliRunner().invoke(calibrate, list(arguments))


def test_a_better_calibration_becomes_a_new_bundle(dataset: Path, tmp_path: Path) -> None:
    """The new bundle verifies, differs in its id, and its curve is the fitted one."""
    page = tmp_path / "c.html"
    result = run(str(dataset), "--as", "tuned", "--json", "--html", str(page))
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["best"] == "platt"
    [fit] = answer["fits"]
    assert fit["after_held_out"]["brier"] < fit["before"]["brier"]
    made = Bundle.load("tuned", tmp_path / "models")
    assert made.id == answer["written"]
    assert "/platt-" in made.id
    assert made.calibration.probability(0.9) > 0.97
    assert "Reliability" in page.read_text()


def test_without_a_name_nothing_is_written(dataset: Path, tmp_path: Path) -> None:
    """Looking is free."""
    assert run(str(dataset)).exit_code == 0
    assert not (tmp_path / "models").exists()


def test_too_few_for_isotonic_says_how_many(dataset: Path) -> None:
    """One clear sentence with the number."""
    result = run(str(dataset), "--method", "isotonic")
    assert isinstance(result.exception, ConfigurationError)
    assert "at least 500 explicit and 500 harmless" in str(result.exception)


def test_the_ledgers_labels_are_refused(dataset: Path) -> None:
    """Gray pictures are no fair sample."""
    result = run("ledger")
    assert result.exit_code == 2
    assert "no fair sample" in result.output
