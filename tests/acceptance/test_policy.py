"""`avatarmod policy` beside a running instance: its workers judge by what was put in force."""

from __future__ import annotations

import getpass
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from producer.contract import Avatar
from tests.acceptance.conftest import Instance, picture
from tests.support import wait_until

#: Whatever the model says, a picture is approved, held or blocked. No second model is asked: a
#: version of the policy for one model alone is another one.
APPROVES, HOLDS, BLOCKS = (
    "".join(
        f"[{name}]\napprove_below = {low}\nblock_from = {high}\n" for name in ("photo", "drawn")
    )
    + '[second]\nask = "off"\n'
    for low, high in ((1.0, 1.0), (0.0, 1.0), (0.0, 0.0))
)


@pytest.fixture(scope="module")
def instance(make_instance: Callable[..., Instance]) -> Instance:
    """Without the rule that approves what is flat, and without a second look at anything."""
    found = make_instance(AVATARMOD_FLAT_RULE="false")
    found.start()
    return found


def look(instance: Instance, number: int, state: str, version: str) -> None:
    """A new picture is judged by a version of the policy."""
    with instance.store() as store:

        def is_taken_up() -> bool:
            facts = (fact for fact in store.workers() if fact["role"] == "moderate")
            return [fact["policy"] for fact in facts] == [version]

        wait_until(is_taken_up, 60, "the worker has taken it up")
    upload_id = f"picture-{number}"
    instance.put_image(upload_id, picture(number))
    with instance.producer() as producer:
        producer.enqueue(upload_id)
        found: list[Avatar] = []

        def is_looked_at() -> bool:
            avatar = producer.store.get(upload_id)
            found[:] = [avatar] if avatar is not None and avatar.state != "queued" else []
            return bool(found)

        wait_until(is_looked_at, 60, "looked at")
    assert (str(found[0].state), found[0].policy) == (state, version), found[0]


def put_in_force(instance: Instance, *words: str) -> str:
    """One change by the command line; returns the version that is in force then."""
    done = instance.run("policy", *words)
    assert done.returncode == 0, done.stderr
    assert "take it up within seconds" in done.stdout
    return str(history(instance)[0]["version"])


def history(instance: Instance) -> list[dict[str, object]]:
    done = instance.run("policy", "history", "--json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def test_workers_judge_by_what_was_put_in_force(instance: Instance, tmp_path: Path) -> None:
    """Applied, applied again, gone back: each time the worker ends and is started with it."""
    [first] = history(instance)
    assert (first["by"], first["text"]) == ("", None)
    versions = []
    for number, (text, state) in enumerate(((APPROVES, "approved"), (BLOCKS, "blocked"))):
        file = tmp_path / f"{state}.toml"
        file.write_text(text)
        versions.append(put_in_force(instance, "apply", str(file), "--note", f"all {state}"))
        look(instance, number, state, versions[-1])
    shown = instance.run("policy", "show").stdout
    assert f"version {versions[1]}" in shown
    assert "block_from = 0\n" in shown
    assert put_in_force(instance, "rollback", "--note", "too strict") == versions[0]
    look(instance, 2, "approved", versions[0])
    told = [(one["by"], one["note"]) for one in history(instance)]
    me = getpass.getuser()
    assert told == [(me, "too strict"), (me, "all blocked"), (me, "all approved"), ("", "")]
    lines = instance.run("policy", "history", COLUMNS="160").stdout
    assert all(word in lines for word in ("too strict", "all blocked", "built in", versions[1]))
    left = [line for line in instance.log.read_text().splitlines() if "worker_left" in line]
    assert [json.loads(line)["code"] for line in left] == [0, 0, 0]


def test_a_wrong_file_changes_nothing(instance: Instance, tmp_path: Path) -> None:
    """Neither by the command, which says what is wrong, nor by hand: the last good one holds."""
    good = tmp_path / "good.toml"
    good.write_text(HOLDS)
    version = put_in_force(instance, "apply", str(good))
    known = history(instance)
    for text, says in (
        ("[photo]\napprove_below = 0.9\nblock_from = 0.1\n", "nothing could be gray"),
        ("[photo", "not TOML"),
        ("[potho]\n", "unknown key"),
    ):
        wrong = tmp_path / "wrong.toml"
        wrong.write_text(text)
        done = instance.run("policy", "apply", str(wrong))
        assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
        assert says in done.stderr
    assert history(instance) == known
    look(instance, 10, "held", version)
    (instance.folder / "policy.toml").write_text("[photo")
    look(instance, 11, "held", version)
    wait_until(
        lambda: "policy_wrong" in instance.log.read_text(), 60, "the file is said to be wrong"
    )
    done = instance.run("policy", "show")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (instance.folder / "policy.toml").write_text(APPROVES)
    look(instance, 12, "approved", str(history(instance)[0]["version"]))
    assert history(instance)[0]["by"] == "", "edited by hand"
