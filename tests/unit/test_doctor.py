"""What `avatarmod doctor` says about this machine, without a Redis."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from producer.cli import cli
from producer.settings import load_settings
from worker.settings import WorkerSettings
from worker.tools import checks, checks_models


@pytest.mark.parametrize(
    ("mode", "says"), [(0o700, False), (0o750, False), (0o755, True), (0o701, True)]
)
def test_a_data_folder_that_others_can_read_is_said(tmp_path: Path, mode: int, says: bool) -> None:
    """With the command that closes it; a group of the operator's own is fine."""
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(mode)
    found = list(checks.privacy(load_settings(WorkerSettings, data_folder=folder)))
    assert [check.status for check in found] == ["warning"] * says
    assert all("chmod o-rwx" in check.fix for check in found)


def test_a_data_folder_that_is_not_there_yet_is_no_finding(tmp_path: Path) -> None:
    """It is made private at the first start."""
    assert list(checks.privacy(load_settings(WorkerSettings, data_folder=tmp_path / "none"))) == []


@pytest.mark.parametrize(
    ("policy", "status", "says"),
    [
        ("", "warning", "one model judges alone"),
        ("[second]\nask = 'gray'\n", "critical", "nothing passes without it"),
        ("[second]\nbundle = 'open-nsfw'\n", "fine", "open-nsfw@864bb37b"),
        ("[second]\nask = 'off'\n", None, ""),
    ],
)
def test_a_second_model_that_is_missing_is_said(
    tmp_path: Path, policy: str, status: str | None, says: str
) -> None:
    """A lack where nobody asked for it, an outage where a policy file does."""
    path = tmp_path / "policy.toml"
    path.write_text(policy)
    found = list(
        checks_models.second_model(
            load_settings(WorkerSettings, data_folder=tmp_path, policy_file=path)
        )
    )
    assert [check.status for check in found] == ([status] if status else [])
    assert all(says in check.message for check in found)


@pytest.mark.parametrize(
    ("versions", "named"),
    [
        ({"pip": "26.3"}, []),
        ({"pip": "24.0", "setuptools": "65.5.0"}, ["pip 24.0", "setuptools 65.5.0"]),
        ({"pip": "25.3", "setuptools": "80.9.0"}, []),
    ],
)
def test_old_tools_of_the_environment_are_said(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], named: list[str]
) -> None:
    """With what to do; one that is not installed is no fault."""

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = list(checks.environment())
    assert [check.message.removesuffix(" has known vulnerabilities") for check in found] == named
    assert all("pip install --upgrade" in check.fix for check in found)


def test_a_provider_without_keys_has_a_line_of_its_own(tmp_path: Path) -> None:
    """Each that a route names, beside those that are well; nothing is called."""
    settings = load_settings(
        WorkerSettings, data_folder=tmp_path, review_domestic="tencent,fake", review_overseas="fake"
    )
    found = {check.name: check for check in checks.providers(settings)}
    assert found["provider tencent"].status == "critical"
    assert "AVATARMOD_TENCENT_SECRET_ID" in found["provider tencent"].message
    assert found["provider fake"].status == "fine"


@pytest.mark.process
def test_everything_that_is_wrong_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One fault does not hide the next, and each names what to do."""
    policy = tmp_path / "policy.toml"
    policy.write_text("[photo]\nblock_from = 7\n")
    for name, value in {
        "REDIS_URL": "redis://127.0.0.1:9/0",
        "DATA_FOLDER": str(tmp_path),
        "POLICY_FILE": str(policy),
        "BUNDLE": "nope",
        "REVIEW_DOMESTIC": "tencent",
        "IMAGE_STORE": str(tmp_path / "unmounted"),
        "CALLBACK_URL": "http://127.0.0.1/verdict",
    }.items():
        monkeypatch.setenv(f"AVATARMOD_{name}", value)
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    assert result.exit_code == 1, result.output
    found = json.loads(result.stdout)["checks"]
    critical = {check["name"]: check for check in found if check["status"] == "critical"}
    wrong = {"policy", "bundle", "image store", "callback", "provider tencent", "redis"}
    assert wrong <= set(critical)
    assert all(critical[name]["fix"] for name in wrong)


def test_a_data_folder_that_cannot_be_made_is_named_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is told to change the owner of the folder above it."""
    monkeypatch.setattr(checks.os, "access", lambda *_: False)
    found = checks.disk(load_settings(WorkerSettings, data_folder=tmp_path / "none" / "data"))
    assert found.status == "critical"
    assert f"{tmp_path}/none/data does not exist" in found.message
    assert "owner" not in found.fix
