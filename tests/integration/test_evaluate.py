"""`avatarmod evaluate` with the real default bundle; harmless pictures stand for both labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from producer.errors import ConfigurationError
from worker.commands.evaluate import evaluate_command
from worker.demo.pictures import dunes, encode, landscape
from worker.tools.dataset import Words, all_harmless, read_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Warm dunes stand for explicit pictures: the default bundle scores them higher."""
    root = tmp_path_factory.mktemp("dataset")
    for name, picture in (("harmless/photo", landscape), ("explicit", dunes)):
        folder = root / name
        folder.mkdir(parents=True)
        for number in range(6):
            (folder / f"{number}.jpg").write_bytes(encode(picture(number), "JPEG"))
    (root / "harmless" / "copy.jpg").write_bytes((root / "harmless/photo/0.jpg").read_bytes())
    (root / "harmless" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return root


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AVATARMOD_DATA_FOLDER", str(tmp_path))
    monkeypatch.setenv("AVATARMOD_FLAT_RULE", "false")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(evaluate_command, list(arguments))


def test_every_picture_counts_once_in_every_grouping(dataset: Path, home: Path) -> None:
    """Groups add up to all pictures; copies and damaged files are left out and named."""
    result = run(str(dataset), "--json", "--html", str(home / "e.html"))
    assert result.exit_code == 0, result.output
    [one] = json.loads(result.stdout)["evaluations"]
    assert (one["pictures"], one["duplicates"], one["skipped"]) == (12, 1, {"damaged": 1})
    for by in ("style", "size", "format"):
        groups = [g for g in one["groups"] if g["by"] == by]
        assert sum(g["harmless"] + g["explicit"] for g in groups) == 12
    everything = one["groups"][0]
    assert everything["false_blocks"]["total"] == 6
    assert everything["false_approvals"]["total"] == 6
    assert 0 <= everything["auroc"] <= 1
    page = (home / "e.html").read_text()
    assert "<script" not in page
    assert "data:image/jpeg;base64," in page


def test_people_read_words(dataset: Path, home: Path, tmp_path: Path) -> None:
    """One picture is no `1 pictures`, and what was left out is no Python."""
    assert "Left out: 1 damaged, 1 the same as another." in run(str(dataset)).output
    folder = tmp_path / "one" / "harmless"
    folder.mkdir(parents=True)
    (folder / "0.jpg").write_bytes((dataset / "harmless/photo/0.jpg").read_bytes())
    page = tmp_path / "one.html"
    result = run(str(folder.parent), "--html", str(page))
    assert "No false blocks among 1 harmless picture: the true rate" in result.output.replace(
        "\n", " "
    )
    assert "1 picture: 1 harmless, 0 explicit" in page.read_text()


def test_pictures_that_all_are_damaged_are_a_usage_error(home: Path, tmp_path: Path) -> None:
    """One clear line instead of a stack trace."""
    (tmp_path / "bad" / "harmless").mkdir(parents=True)
    (tmp_path / "bad" / "harmless" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    result = run(str(tmp_path / "bad"))
    assert isinstance(result.exception, ConfigurationError)
    assert str(result.exception) == "none of 1 picture could be scored: 1 damaged"


def test_a_picture_is_scored_once(
    dataset: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run needs no model: what was scored is remembered."""
    first = run(str(dataset), "--json")
    monkeypatch.setattr("worker.tools.scoring.make_engine", lambda *_: pytest.fail("scored again"))
    assert run(str(dataset), "--json").stdout == first.stdout


def test_harmless_pictures_alone_say_what_cannot_be_known(dataset: Path, home: Path) -> None:
    """No AUROC, no misses, and the reader is told."""
    result = run(str(dataset / "harmless"), "--all-harmless", "--json")
    [one] = json.loads(result.stdout)["evaluations"]
    assert one["groups"][0]["auroc"] is None
    assert one["groups"][0]["false_approvals"]["rate"] is None
    assert "cannot be known" in one["unknown"][0]


def test_bundles_stand_side_by_side(dataset: Path, home: Path) -> None:
    """The same pictures, one evaluation a bundle."""
    result = run(str(dataset), "--bundle", "open-nsfw", "--bundle", "open-nsfw", "--json")
    evaluations = json.loads(result.stdout)["evaluations"]
    assert len(evaluations) == 2
    assert evaluations[0] == evaluations[1]


def test_a_manifest_names_labels_and_styles(dataset: Path, tmp_path: Path) -> None:
    """Paths are relative to the manifest."""
    manifest = dataset / "list.csv"
    manifest.write_text("path,label,style\nexplicit/0.jpg,NSFW,anime\nharmless/photo/1.jpg,ok,\n")
    first, second = read_dataset(manifest)
    assert (first.explicit, first.style, second.explicit, second.style) == (
        True,
        "drawn",
        False,
        "",
    )
    manifest.unlink()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("file,label\n", "needs the columns path and label"),
        ("path,label\nexplicit/0.jpg,maybe\n", "line 2: label 'maybe'"),
        ("path,label\nabsent.jpg,nsfw\n", "line 2: no file"),
        ("path,label\n", "no pictures in"),
    ],
)
def test_a_bad_manifest_is_refused_with_its_line(
    dataset: Path, tmp_path: Path, text: str, match: str
) -> None:
    """What is wrong where, and what would be right."""
    manifest = dataset / f"{abs(hash(text))}.csv"
    manifest.write_text(text)
    with pytest.raises(ConfigurationError, match=match):
        read_dataset(manifest)
    manifest.unlink()


def test_folders_that_are_no_labels_are_named(tmp_path: Path) -> None:
    """Nothing is silently taken for harmless."""
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "a.png").write_bytes(b"x")
    with pytest.raises(ConfigurationError, match="folders cats are no labels"):
        read_dataset(tmp_path)
    assert [s.explicit for s in read_dataset(tmp_path, Words.with_more([], ["cats"]))] == [False]
    assert len(all_harmless(tmp_path)) == 1


def test_a_word_cannot_mean_both() -> None:
    """Contradicting options are refused."""
    with pytest.raises(ConfigurationError, match="'x' cannot be"):
        Words.with_more(["X"], ["x"])
