import json
import random

import pytest
from click.testing import CliRunner

from worker.bundle import Bundle
from worker.calibration import Isotonic, Platt
from worker.commands.bundle import bundle


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("AVATARMOD_MODELS_FOLDER", str(tmp_path / "models"))

    def invoke(*arguments):
        return CliRunner().invoke(bundle, list(arguments))

    return invoke


@pytest.fixture
def scores(tmp_path):
    """A CSV file of 200 labelled scores."""
    dice = random.Random(0)
    path = tmp_path / "scores.csv"
    rows = [dice.random() for _ in range(200)]
    lines = [f"{raw},{int(dice.random() < raw)}" for raw in rows]
    path.write_text("raw_score,explicit\n" + "\n".join(lines) + "\n")
    return path


def test_list_tells_intact_from_broken(run, tmp_path):
    """A broken bundle is listed with what is wrong, and does not hide the others."""
    (tmp_path / "models/broken").mkdir(parents=True)
    (tmp_path / "models/broken/model.json").write_text("{}")
    rows = {row["name"]: row for row in json.loads(run("list", "--json").stdout)}
    assert rows["open-nsfw"]["state"] == "intact"
    assert rows["open-nsfw"]["in_use"] is True
    assert "is missing" in rows["broken"]["state"]
    assert "open-nsfw@864bb37b" in run("list").stdout


def test_show_prints_the_description(run):
    """As JSON everything that model.json says, with the id."""
    data = json.loads(run("show", "--json").stdout)
    assert data["id"] == "open-nsfw@864bb37b/fp32/identity"
    assert data["labels"] == ["sfw", "nsfw"]
    assert "BSD-2-Clause" in run("show", "open-nsfw").stdout


def test_verify_loads_the_model(run):
    """Verifying goes as far as scoring."""
    result = run("verify", "open-nsfw", "--json")
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert facts["intact"] is True
    assert facts["micro_batch"] >= 1


def test_unknown_bundle_is_one_clear_line(run):
    """No stack trace, exit code 1, and what is known."""
    result = run("verify", "nope")
    assert result.exit_code == 1
    assert "no bundle named 'nope'" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(("method", "kind"), [("platt", Platt), ("isotonic", Isotonic)])
def test_calibrate_makes_a_bundle_of_its_own(run, tmp_path, scores, method, kind):
    """The fitted calibration has its size and date, and its own id; the original is untouched."""
    result = run("calibrate", "open-nsfw", str(scores), "--method", method, "--as", "fitted")
    assert result.exit_code == 0, result.output
    made = Bundle.load("fitted", tmp_path / "models")
    assert isinstance(made.calibration, kind)
    assert made.calibration.pictures == 200
    assert f"/{method}-" in made.id
    again = run("calibrate", "open-nsfw", str(scores), "--as", "fitted")
    assert again.exit_code == 1
    assert "exists already" in again.stderr


def test_calibrate_names_the_bad_line(run, tmp_path, scores):
    """A score out of range is refused with its line, and nothing is written."""
    scores.write_text("raw_score,explicit\n0.5,1\n1.5,0\n")
    result = run("calibrate", "open-nsfw", str(scores), "--as", "fitted")
    assert result.exit_code == 1
    assert "line 3" in result.stderr
    assert not (tmp_path / "models").exists()
