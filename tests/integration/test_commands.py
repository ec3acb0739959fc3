"""Commands as a person types them, on a real Valkey."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from producer.cli import COMMANDS, cli
from producer.contract import AvatarState, Stage
from producer.dead_letters import DeadLetter
from producer.store import Store
from tests.support import change, claim, submit


@pytest.fixture
def run(store: Store, valkey_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """One call of `avatarmod` on the test's store."""
    monkeypatch.setenv("AVATARMOD_REDIS_URL", valkey_url)
    monkeypatch.setenv("AVATARMOD_NAMESPACE", store.key("dead").partition(":")[0].strip("{}"))
    monkeypatch.setenv("AVATARMOD_DATA_FOLDER", str(tmp_path))

    def call(*words: str) -> Result:
        return CliRunner().invoke(cli, list(words))

    return call


def choices(command: click.Command, path: str) -> list[tuple[str, click.Choice[Any]]]:
    """Every choice below a command, with how it is typed."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        found = []
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            found += choices(child, f"{path} {name}")
        return found
    return [
        (f"{path} {parameter.name}", parameter.type)
        for parameter in command.params
        if isinstance(parameter.type, click.Choice)
    ]


def test_what_is_chosen_is_typed_as_it_is_written() -> None:
    """Plain lower-case words; click would take an enumeration's names instead."""
    found = choices(cli, "avatarmod")
    assert len(found) > 8
    assert len(COMMANDS) > 20
    for name, choice in found:
        assert [(type(word), word.lower()) for word in choice.choices] == [
            (str, word) for word in choice.choices
        ], name


def test_people_and_keys_are_made_as_documented(run: Any) -> None:
    """With and without a role; with a scope."""
    assert run("users", "add", "alice").exit_code == 0
    assert run("users", "add", "bob", "--role", "operator").exit_code == 0
    people = json.loads(run("users", "list", "--json").stdout)
    assert {one["name"]: one["role"] for one in people} == {"alice": "moderator", "bob": "operator"}
    made = run("keys", "create", "prometheus", "--scope", "read", "--json")
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["scopes"] == ["read"]


def test_a_dead_letter_tells_its_story(run: Any, store: Store) -> None:
    """Which upload, where it stands, why and how often it was tried."""
    submit(store, "u7", image="https://a.example/u7.png", callback_url="")
    claim(store)
    letter = DeadLetter(
        item="u7",
        stage=Stage.MODERATE,
        error="StorageUnavailable",
        message="a.example does not answer",
        attempts=5,
        first_failed_at=1.0,
        last_failed_at=2.0,
    )
    moved = change(store, "u7", AvatarState.DEAD, leaves=Stage.MODERATE, bury=letter.to_dict())
    store.advance([moved])
    shown = run("dlq", "show", "u7").output
    for part in ("u7", "dead", "https://a.example/u7.png", "5 attempts", "does not answer"):
        assert part in shown
    refused = run("dlq", "discard", "u7")
    assert refused.exit_code == 2
    assert "--yes" in refused.output
    assert store.redis.zcard(store.key("dead")) == 1


def test_doctor_checks_policy_and_misspelt_variables(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What would stop the workers, and what has no effect."""
    policy = tmp_path / "policy.toml"
    policy.write_text("[photo]\napprove_below = 0.99\nblock_from = 0.1\n")
    monkeypatch.setenv("AVATARMOD_POLICY_FILE", str(policy))
    monkeypatch.setenv("AVATARMOD_BACTH_SIZE", "5")
    done = run("doctor", "--json")
    assert done.exit_code == 1
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["policy"]["status"] == "critical"
    assert str(policy) in checks["policy"]["message"]
    assert checks["settings"]["status"] == "warning"
    assert "AVATARMOD_BATCH_SIZE is" in checks["settings"]["message"]
