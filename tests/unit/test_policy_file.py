"""The policy file as people change it: nothing is lost, everything says who and why."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from producer.contract import Region
from producer.errors import PolicyError
from worker.moderation import policy_file
from worker.moderation.policy import CutOffs, load_policy, parse_policy
from worker.moderation.policy_file import PolicyFile, PolicyInUse
from worker.moderation.road import policy_in_use
from worker.settings import WorkerSettings
from worker.tools.policies import PROPOSAL_FILE, Policies

#: As the first version's manual gave it.
OLD_FILE = """
[photo]
approve_below = 0.04
block_from = 0.95
[drawn]
block_from = 0.98
[region.domestic.photo]
approve_below = 0.02
block_from = 0.90
[animation]
frames_to_block = 3
"""

STRICT = "[photo]\napprove_below = 0.01\nblock_from = 0.8\n"


@pytest.fixture
def settings(tmp_path: Path) -> WorkerSettings:
    return WorkerSettings(data_folder=tmp_path)


def test_an_applied_policy_holds_and_the_one_before_comes_back(settings: WorkerSettings) -> None:
    """From the built-in policy on, without a setting; going back twice undoes the going back."""
    file, built_in = PolicyFile(settings), load_policy(None).version
    assert settings.policy_path() is None
    first = file.apply(STRICT, by="ann", note="too many misses")
    assert policy_in_use(settings).photo == CutOffs(approve_below=0.01, block_from=0.8)
    assert file.roll_back(by="eve", note="").version == built_in
    assert settings.policy_path() is None
    assert file.roll_back(by="eve", note="").version == first.version
    known = file.history()
    assert [(one.by, one.note) for one in known] == [
        ("eve", ""),
        ("eve", ""),
        ("ann", "too many misses"),
        ("", ""),
    ]
    assert [one.text for one in known] == [STRICT, None, STRICT, None]


def test_what_was_edited_by_hand_is_in_the_history(settings: WorkerSettings) -> None:
    """So that going back finds it, whoever wrote it."""
    place = settings.data_folder / "policy.toml"
    place.write_text(OLD_FILE)
    file = PolicyFile(settings)
    file.apply(STRICT, by="ann", note="")
    place.write_text(OLD_FILE + "# by hand\n")
    file.apply(STRICT, by="ann", note="")
    assert [one.by for one in file.history()] == ["ann", "", "ann", ""]
    file.roll_back(by="ann", note="")
    assert place.read_text() == OLD_FILE + "# by hand\n"


@pytest.mark.parametrize("text", ["[photo", "[foto]\n", "[photo]\napprove_below = 2\n"])
def test_what_is_no_policy_changes_nothing(settings: WorkerSettings, text: str) -> None:
    """It is refused before anything is written."""
    file = PolicyFile(settings)
    file.apply(STRICT, by="ann", note="")
    with pytest.raises(PolicyError):
        file.apply(text, by="ann", note="")
    assert file.path.read_text() == STRICT
    assert len(file.history()) == 2


def test_a_file_that_may_not_be_written_is_said(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its name, before anybody tries."""
    file = PolicyFile(settings)
    assert file.problem() == ""
    monkeypatch.setattr(policy_file.os, "access", lambda *_: False)
    assert str(settings.data_folder) in file.problem()
    with pytest.raises(PolicyError, match="may not write"):
        file.apply(STRICT, by="ann", note="")
    assert not file.path.exists()


def test_a_policy_that_was_killed_half_way_is_found_out(settings: WorkerSettings) -> None:
    """The history has a state that the file never got: the file is what holds."""
    file = PolicyFile(settings)
    file.apply(STRICT, by="ann", note="")
    history = file.path.with_name("policy.toml.history")
    lines = history.read_text().splitlines()
    history.write_text("\n".join([*lines, lines[0]]) + "\n")
    assert json.loads(lines[0])["text"] is None
    assert file.history()[0].text == STRICT


def test_a_file_that_the_settings_name_is_not_taken_away(settings: WorkerSettings) -> None:
    """Without it no worker would start again."""
    named = settings.model_copy(update={"policy_file": settings.data_folder / "mine.toml"})
    file = PolicyFile(named)
    file.apply(STRICT, by="ann", note="")
    with pytest.raises(PolicyError, match="no worker starts"):
        file.roll_back(by="ann", note="")
    assert file.path.read_text() == STRICT
    assert len(file.history()) == 2


def test_a_process_takes_up_a_change_and_survives_a_wrong_file(settings: WorkerSettings) -> None:
    """A wrong file leaves the last good policy in force."""
    in_use = PolicyInUse(settings)
    before = in_use.get().version
    made = PolicyFile(settings).apply(STRICT, by="ann", note="")
    assert in_use.get().photo.block_from == 0.8
    (settings.data_folder / "policy.toml").write_text("[photo]\nblock_from = 7\n")
    assert in_use.get().photo.block_from == 0.8
    (settings.data_folder / "policy.toml").unlink()
    assert in_use.get().version == before
    assert made.version != before


@pytest.mark.parametrize("text", ["", OLD_FILE, STRICT, "[second]\nask = 'gray'\n"])
def test_a_policy_written_out_is_the_same_policy(text: str) -> None:
    """Those of the first version too: the version does not change, so no cached verdict is lost."""
    policy = parse_policy(tomllib.loads(text), "test")
    again = parse_policy(tomllib.loads(policy.to_toml(["a comment"])), "test")
    assert again == policy
    assert again.version == policy.version


@pytest.mark.parametrize("note", ["why\x01not", "a\r\n[photo]", "\x7f\u202e", "x" * 9000])
def test_a_note_cannot_spoil_the_file(settings: WorkerSettings, note: str) -> None:
    """It is a comment there; TOML knows no control characters, and a comment ends with its line."""
    policies = Policies(settings, lambda: None, lambda: 0.0)
    photo = CutOffs(approve_below=0.03, block_from=0.91)
    policies.apply(photo, photo, by="ann", note=note)
    assert policies.cut_offs(Region.DOMESTIC) == (photo, photo)
    assert policies.history()[0].note == note[:500]


def test_other_cut_offs_leave_all_other_rules(settings: WorkerSettings) -> None:
    """The region's own pair where it has one; frames and the other region as they were."""
    (settings.data_folder / "policy.toml").write_text(OLD_FILE)
    policies = Policies(settings, lambda: None, lambda: 0.0)
    photo = CutOffs(approve_below=0.03, block_from=0.91)
    policies.apply(photo, photo, by="ann", note="a\nb")
    found = policies.in_use()
    assert found.cut_offs(Region.DOMESTIC) == (photo, photo)
    assert found.cut_offs(Region.OVERSEAS)[0] == CutOffs(approve_below=0.04, block_from=0.95)
    assert found.frames_to_block == 3


def test_what_tune_proposed_is_shown_with_its_words(settings: WorkerSettings) -> None:
    """Numbers of the configured region; nothing where there is no proposal, or it is broken."""
    policies = Policies(settings, lambda: None, lambda: 0.0)
    assert policies.proposal() is None
    place = settings.data_folder / PROPOSAL_FILE
    place.write_text("# Made by avatarmod tune\n" + STRICT)
    found = policies.proposal()
    assert found is not None
    assert found[0][0] == CutOffs(approve_below=0.01, block_from=0.8)
    assert found[1] == ["Made by avatarmod tune"]
    place.write_text("[photo")
    assert policies.proposal() is None
