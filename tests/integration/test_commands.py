"""Commands as a person types them, on a real Valkey."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from producer.cli import COMMANDS, cli, main
from producer.contract import AvatarState, Stage
from producer.record.dead_letters import DeadLetter
from producer.record.keyspace import endpoint_name
from producer.record.store import Store
from tests.support import CALLBACK_URL, TOKEN, callback_line_of, change, claim, submit


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


def test_a_site_gets_all_it_needs_in_one_line(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Address, key and secret; without a secret there is no key either."""
    refused = run("keys", "connect", "blog")
    assert refused.exit_code != 0
    assert "AVATARMOD_CALLBACK_SECRETS" in str(refused.exception)
    assert json.loads(run("keys", "list", "--json").stdout) == []
    secret = "whsec_" + base64.b64encode(b"+/" * 16).decode()
    monkeypatch.setenv("AVATARMOD_CALLBACK_SECRETS", secret)
    line = run("keys", "connect", "blog", "--url", "https://avatars.example.org/x/").stdout.strip()
    assert re.fullmatch(r"https://avm_[\w-]{56}@avatars\.example\.org/x\?secret=(.+)", line)
    assert line.endswith(secret)
    assert "@127.0.0.1:8042?secret=" in run("keys", "connect", "blog").stdout
    first, _ = json.loads(run("keys", "list", "--json").stdout)
    assert first["scopes"] == ["enqueue", "read"]
    assert run("keys", "connect", "blog", "--url", "avatars.example.org").exit_code != 0


def test_a_dead_letter_tells_its_story(run: Any, store: Store) -> None:
    """Which upload, where it stands, why and how often it was tried; no key of its address."""
    submit(store, "u7", image="https://me:s3cret@a.example/u7.png?s3cret", callback_url="")
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
    assert "s3cret" not in shown
    refused = run("dlq", "discard", "u7")
    assert refused.exit_code == 2
    assert "--yes" in refused.output
    assert store.redis.zcard(store.key("dead")) == 1


def test_doctor_looks_at_the_sandbox_and_the_image_store(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What a decoding process can do here, and whether the store can be the right one."""

    def checks() -> dict[str, dict[str, str]]:
        return {c["name"]: c for c in json.loads(run("doctor", "--json").stdout)["checks"]}

    found = checks()
    assert found["sandbox"]["status"] == "fine", found["sandbox"]
    assert "compute and nothing else" in found["sandbox"]["message"]
    assert found["image store"]["status"] == "fine", "a new instance has no pictures yet"
    monkeypatch.setenv("AVATARMOD_IMAGE_STORE", str(tmp_path / "not-mounted"))
    found = checks()
    assert found["image store"]["status"] == "critical"
    assert "is it mounted" in found["image store"]["message"]


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


@pytest.mark.parametrize("elsewhere", ["", "https://another.example/hook"])
def test_a_decision_in_another_shell_tells_whom_the_upload_names(
    run: Any, store: Store, monkeypatch: pytest.MonkeyPatch, elsewhere: str
) -> None:
    """Whatever is configured there; the command says who was told."""
    monkeypatch.setenv("AVATARMOD_CALLBACK_URL", elsewhere)
    for upload_id, url in (("mine", CALLBACK_URL), ("silent", "none")):
        submit(store, upload_id, callback_url=url)
    for word in ("block", "approve", "undo"):
        done = run(word, "mine", "silent")
        assert done.exit_code == 0, done.output
        mine, silent, *due = done.output.splitlines()
        assert due[-1].startswith("  callbacks to ")
        assert " due now" in due[-1]
        assert mine.endswith("told: http://web.example")
        assert silent.endswith("told: nobody")
    assert store.waiting(callback_line_of()) == {"waiting": 3, "leased": 0}
    assert store.outbox.endpoints() == [endpoint_name(CALLBACK_URL)], "nobody else, and no `none`"


def test_a_replay_in_another_shell_tells_whom_the_upload_names(run: Any, store: Store) -> None:
    """And so does sending again; where nobody hears, that is said and fails."""
    for upload_id, url in (("dead", CALLBACK_URL), ("silent", "none")):
        submit(store, upload_id, callback_url=url)
        bury(store, upload_id)
    replayed = run("dlq", "replay", "--all")
    first, *due = replayed.output.splitlines()
    assert first.split("  ") == ["2 replayed", "told: http://web.example, nobody"]
    assert due[0].startswith("  moderate: ")
    again = run("callbacks", "resend", "dead").output.splitlines()
    assert again[0].endswith("told: http://web.example")
    assert "due now" in again[-1]
    refused = run("callbacks", "resend", "silent", "unknown")
    assert refused.exit_code == 1
    assert "without a callback address" in refused.output
    assert "unknown (never enqueued" in refused.output
    assert store.outbox.endpoints() == [endpoint_name(CALLBACK_URL)]


def test_a_discarded_upload_cannot_be_held_again(run: Any, store: Store) -> None:
    """There is no picture to decide about; the reason is said."""
    submit(store, "a")
    bury(store, "a")
    assert run("dlq", "discard", "a", "--yes").exit_code == 0
    refused = run("undo", "a")
    assert refused.exit_code == 1
    assert "was rejected (discarded)" in str(refused.exception)
    avatar = store.get("a")
    assert avatar is not None
    assert avatar.state == AvatarState.REJECTED


def bury(store: Store, upload_id: str) -> None:
    """A dead letter of an upload."""
    error = ValueError("no light")
    letter = DeadLetter.of(
        upload_id, Stage.MODERATE, error, attempts=1, first_failed_at=1.0, now=1.0
    ).to_dict()
    store.advance([change(store, upload_id, AvatarState.DEAD, bury=letter)])


def test_doctor_counts_dead_callbacks(run: Any, store: Store) -> None:
    """A callback in the dead letters is not `0 dead`."""
    submit(store, "told", callback_url=CALLBACK_URL)
    store.advance([change(store, "told", AvatarState.APPROVED, leaves=Stage.MODERATE)])
    [lease] = claim(store, callback_line_of())
    entry = store.outbox.get(lease.item)
    assert entry is not None
    letter = {"item": lease.item, "stage": "callback", "error": "x", "message": "", "attempts": 1}
    letter |= {"first_failed_at": 1.0, "last_failed_at": 2.0}
    store.outbox.end(entry, token=TOKEN, detail={}, bury=letter)
    found = json.loads(run("doctor", "--json").output)["checks"]
    [said] = [check for check in found if check["name"] == "dead letters"]
    assert (said["status"], said["message"]) == ("warning", "1: 0 uploads, 1 callbacks")
    assert not any("0 dead" in check["message"] for check in found)


@pytest.mark.parametrize("words", [[], ["keys"], ["callbacks"]])
def test_a_group_alone_shows_its_help_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """Not the usage, and then the help that begins with it."""
    monkeypatch.setattr("sys.argv", ["avatarmod", *words])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr()
    assert (said.out + said.err).count("Usage:") == 1
    assert "error:" not in said.err


def test_status_tells_no_secrets_of_addresses(run: Any, store: Store) -> None:
    """Who hears of an upload and where its picture lies, without user, password and query."""
    submit(
        store,
        "a",
        callback_url="https://me:hunter2@site.example/hook?token=s3cret",
        image="https://you:hunter3@pictures.example/a.png?sig=s3cret",
    )
    [row] = json.loads(run("status", "--json", "a").output)
    assert row["callback_url"] == "https://site.example/hook"
    assert row["image"] == "https://pictures.example/a.png"
