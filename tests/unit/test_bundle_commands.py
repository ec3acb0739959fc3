import json
import random

import pytest
from click.testing import CliRunner

from producer.errors import BundleError
from worker.commands.bundle import bundle
from worker.model.bundle import Bundle
from worker.model.calibration import Isotonic, Platt


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("AVATARMOD_MODELS_FOLDER", str(tmp_path / "models"))

    def invoke(*arguments):
        return CliRunner().invoke(bundle, list(arguments))

    return invoke


@pytest.fixture
def scores(tmp_path):
    """A CSV file of 2,000 labelled scores that claim too little at both ends."""
    dice = random.Random(0)
    path = tmp_path / "scores.csv"
    rows = [dice.random() for _ in range(2000)]
    lines = [f"{raw},{int(dice.random() < raw**2 / (raw**2 + (1 - raw) ** 2))}" for raw in rows]
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
    assert data["id"] == "open-nsfw@864bb37b.2/fp32/identity"
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
    assert made.calibration.pictures == 2000
    assert f"/{method}-" in made.id
    again = run("calibrate", "open-nsfw", str(scores), "--as", "fitted")
    assert again.exit_code == 1
    assert "exists already" in again.stderr


def test_calibrate_has_the_limits_of_the_other_calibrate(run, tmp_path, scores):
    """Too few pictures and fits that are no better are refused; --anyway writes the latter."""
    lines = scores.read_text().splitlines()
    scores.write_text("\n".join(lines[:201]) + "\n")
    arguments = ("calibrate", "open-nsfw", str(scores), "--as", "fitted", "--method")
    result = run(*arguments, "isotonic")
    assert "isotonic needs at least 500 explicit and 500 harmless" in str(result.exception)
    dice = random.Random(1)
    right = [f"{raw},{int(dice.random() < raw)}" for raw in (dice.random() for _ in range(200))]
    scores.write_text("raw_score,explicit\n" + "\n".join(right) + "\n")
    result = run(*arguments, "platt")
    assert result.exit_code == 1
    assert "no better" in result.stderr
    assert not (tmp_path / "models").exists()
    assert run(*arguments, "platt", "--anyway").exit_code == 0


def test_calibrate_names_the_bad_line(run, tmp_path, scores):
    """A score out of range is refused with its line, and nothing is written."""
    scores.write_text("raw_score,explicit\n0.5,1\n1.5,0\n")
    result = run("calibrate", "open-nsfw", str(scores), "--as", "fitted")
    assert result.exit_code == 1
    assert "line 3" in result.stderr
    assert not (tmp_path / "models").exists()


def test_list_offers_what_is_not_installed_and_for_what(run):
    """Every recipe, with the command that gets it; two of them are the recommended pair."""
    rows = {row["name"]: row for row in json.loads(run("list", "--json").stdout)}
    assert rows["image-safety-s"]["recommended_as"] == "second"
    assert rows["image-safety-s"]["id"] is None
    assert "avatarmod bundle install image-safety-s" in rows["image-safety-s"]["state"]
    assert rows["open-nsfw"]["recommended_as"] == "first"
    assert (rows["open-nsfw"]["used_as"], rows["image-safety-s"]["used_as"]) == ("first", "")


def test_list_tells_which_second_model_is_used(run, tmp_path):
    """As soon as it is installed the built-in policy asks it, intact or not."""
    (tmp_path / "models/image-safety-s").mkdir(parents=True)
    (tmp_path / "models/image-safety-s/model.json").write_text("{}")
    rows = {row["name"]: row for row in json.loads(run("list", "--json").stdout)}
    assert rows["image-safety-s"]["used_as"] == "second"


def test_what_was_measured_stands_in_the_list(run, tmp_path):
    """By the id, so that another calibration or edition is not said to cost what it may not."""
    assert json.loads(run("list", "--json").stdout)[0]["ms"] is None
    run("verify", "open-nsfw")
    [row] = [r for r in json.loads(run("list", "--json").stdout) if r["name"] == "open-nsfw"]
    assert 0 < row["ms"] < 10_000
    assert row["mb"] >= 0
    (tmp_path / "models/.costs.json").write_text("[1]")
    assert json.loads(run("list", "--json").stdout)[0]["ms"] is None


def test_an_optional_model_that_cannot_be_had_is_one_line(run, monkeypatch):
    """A machine without the index goes on with what is there; otherwise it is an error."""

    def absent(*_arguments, **_options):
        raise BundleError("the package index does not answer")

    monkeypatch.setattr("worker.commands.bundle_install.install", absent)
    result = run("install", "--optional", "image-safety-s")
    assert result.exit_code == 0
    assert result.stderr.count("\n") == 1
    assert "going on without image-safety-s: the package index does not answer" in result.stderr
    assert run("install", "image-safety-s").exit_code == 1


def test_an_optional_model_that_is_there_is_left_alone(run, tmp_path, monkeypatch):
    """Setting up again costs nothing."""
    (tmp_path / "models/image-safety-s").mkdir(parents=True)
    monkeypatch.setattr("worker.commands.bundle_install.install", None)
    result = run("install", "--optional", "image-safety-s")
    assert (result.exit_code, result.output) == (0, "")
