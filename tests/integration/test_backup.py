"""`avatarmod backup` and `restore FILE`: everything there was, and nothing else."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from producer.cli import cli
from producer.connect import redis_client
from producer.contract import AvatarState
from producer.errors import ConfigurationError
from producer.record.copying import NoSnapshot
from producer.record.store import Store
from producer.settings import load_settings
from tests.support import change, events, submit
from worker.ledger.writer import Ledger
from worker.process.valkey import EmbeddedValkey
from worker.settings import WorkerSettings


def state(store: Store) -> dict[str, Any]:
    """All that a namespace holds, but the clock."""
    found = {}
    for row in store.copying.rows():
        if row["key"] != "clock":
            found[row["key"]] = (row["type"], row["value"], bool(row["expires"]))
    return found


@pytest.fixture
def run(store: Store, valkey_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """One call of `avatarmod` on the test's store and folder."""
    monkeypatch.setenv("AVATARMOD_REDIS_URL", valkey_url)
    monkeypatch.setenv("AVATARMOD_NAMESPACE", store.prefix.strip("{}:"))
    monkeypatch.setenv("AVATARMOD_DATA_FOLDER", str(tmp_path / "data"))
    monkeypatch.setenv("AVATARMOD_POLICY_FILE", str(tmp_path / "policy.toml"))

    def call(*words: str) -> Result:
        return CliRunner().invoke(cli, list(words))

    return call


def fill(store: Store, folder: Path) -> None:
    """Records in several states, a ledger, a policy, a bundle."""
    for number in range(30):
        submit(store, f"u{number}", subject=f"s{number % 3}", image="头像.png")
    for number in range(20):
        to = AvatarState.APPROVED if number % 2 else AvatarState.HELD
        store.advance([change(store, f"u{number}", to, fields={"sha256": f"{number:064x}"})])
    store.audits.announce(0.25)
    book = Ledger.open(load_settings(WorkerSettings))
    while book.drain(store):
        continue
    book.close()
    submit(store, "after the drain")
    (folder / "policy.toml").write_text("[photo]\napprove_below = 0.1\n")
    bundle = folder / "data" / "models" / "mine"
    bundle.mkdir(parents=True)
    (bundle / "model.json").write_text("{}")
    (bundle / "model.onnx").write_bytes(os.urandom(1000))
    (bundle.parent / "current").symlink_to("mine")


def test_everything_comes_back(run: Any, store: Store, tmp_path: Path) -> None:
    """Every key with its type, value and time to live; ledger, policy, bundles and links."""
    (tmp_path / "policy.toml").write_text("")
    fill(store, tmp_path)
    before = state(store)
    assert len(before) > 40
    file = tmp_path / "kept.tar.gz"
    said = run("backup", str(file))
    assert said.exit_code == 0, said.output
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".backup")] == []
    weights = (tmp_path / "data/models/mine/model.onnx").read_bytes()
    ledger = Ledger.open(load_settings(WorkerSettings))
    known = ledger.last_id()
    ledger.close()

    store.redis.delete(*store.redis.scan_iter(match=store.prefix.replace("[", "\\[") + "*"))
    for path in sorted((tmp_path / "data").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    (tmp_path / "policy.toml").unlink()
    assert "add --yes" in run("restore", str(file)).output
    assert state(store) == {}
    done = run("restore", str(file), "--yes")
    assert done.exit_code == 0, done.output
    assert state(store) == before
    assert (tmp_path / "data/models/current/model.onnx").read_bytes() == weights
    assert "approve_below" in (tmp_path / "policy.toml").read_text()
    ledger = Ledger.open(load_settings(WorkerSettings))
    assert ledger.last_id() == known
    ledger.close()
    submit(store, "new")
    assert events(store)[-1]["upload_id"] == "new"


def test_who_changed_the_policy_comes_back(
    run: Any, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the notes, and with what can be gone back to; also where the built-in policy holds."""
    monkeypatch.delenv("AVATARMOD_POLICY_FILE")
    strict, place = tmp_path / "strict.toml", tmp_path / "data" / "policy.toml"
    place.parent.mkdir()
    strict.write_text("[photo]\napprove_below = 0.01\n")
    submit(store, "one")
    assert run("policy", "apply", str(strict), "--note", "too much passed").exit_code == 0
    assert run("policy", "rollback", "--note", "too much to look at").exit_code == 0
    known = run("policy", "history", "--json").output
    notes = [one["note"] for one in json.loads(known)]
    assert notes == ["too much to look at", "too much passed", ""]
    assert not place.exists()
    file = tmp_path / "kept.tar.gz"
    assert run("backup", str(file)).exit_code == 0
    store.redis.delete(*store.redis.scan_iter(match=store.prefix.replace("[", "\\[") + "*"))
    place.with_name("policy.toml.history").unlink()
    done = run("restore", str(file), "--yes")
    assert "policy.toml.history" in done.output
    assert run("policy", "history", "--json").output == known
    assert run("policy", "rollback").exit_code == 0
    assert "approve_below = 0.01" in place.read_text()


def test_nothing_that_is_there_is_overwritten(run: Any, store: Store, tmp_path: Path) -> None:
    """Neither records nor files; and no worker may be at it."""
    (tmp_path / "policy.toml").write_text("")
    fill(store, tmp_path)
    file = tmp_path / "kept.tar.gz"
    assert run("backup", str(file), "--no-bundles", "--json").exit_code == 0
    result = run("restore", str(file), "--yes")
    assert isinstance(result.exception, ConfigurationError)
    assert "holds data" in str(result.exception)
    store.redis.delete(*store.redis.scan_iter(match=store.prefix + "*"))
    store.show_life("io@h:1", {"name": "io@h:1", "role": "io", "stages": []})
    result = run("restore", str(file), "--yes")
    assert "stop them" in str(result.exception)
    store.end_life("io@h:1")
    done = run("restore", str(file), "--yes")
    assert "ledger.sqlite3 is there already and stays" in done.output


def test_a_copy_is_of_one_moment(store: Store, valkey_url: str, tmp_path: Path) -> None:
    """Whatever writers do while it is read."""
    submit(store, "a")
    store.copying.snapshot(tmp_path / "dump.rdb")
    assert (tmp_path / "dump.rdb").read_bytes()[:5] in (b"REDIS", b"VALKE")
    assert store.get("a") is not None, "the connection that sent it is not used again"


def test_a_server_that_refuses_is_said() -> None:
    """As services that others run do."""

    class Refusing:
        def makefile(self, _mode: str) -> Any:
            import io

            return io.BytesIO(b"-NOPERM this user has no permissions to run 'sync'\r\n")

        def settimeout(self, _seconds: float) -> None:
            """Nothing to wait for."""

    class Connection:
        _sock = Refusing()

        def send_command(self, *_: str) -> None:
            """Sent."""

        def disconnect(self) -> None:
            """Gone."""

    class Pool:
        def get_connection(self) -> Connection:
            return Connection()

        def release(self, _connection: Connection) -> None:
            """Nothing is kept."""

    client: Any = type("Client", (), {"connection_pool": Pool()})()
    with pytest.raises(NoSnapshot, match="NOPERM"):
        Store(client).copying.snapshot(Path("/nowhere"))


def test_rows_are_put_back_by_plain_commands(redis_server: redis.Redis, store: Store) -> None:
    """Also long streams, exact scores and odd texts; repeating it changes nothing."""
    r, p = redis_server, store.prefix
    r.zadd(p + "z", {"a": 1700000000.123456, "b": float("inf"), "头": -1})
    for number in range(2500):
        r.xadd(p + "s", {"n": str(number)}, id=f"5-{number + 1}")
    r.set(p + "t", 'quo"te\n', px=10**7)
    before, found = state(store), list(store.copying.rows())
    r.delete(p + "z", p + "s", p + "t")
    for _ in range(2):
        store.copying.write(json.loads(json.dumps(found)))
        assert state(store) == before


def test_an_instance_that_does_not_run_is_backed_up_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Valkey is started for it, and stopped."""
    monkeypatch.setenv("AVATARMOD_DATA_FOLDER", str(tmp_path / "data"))
    valkey = EmbeddedValkey(tmp_path / "data" / "valkey")
    valkey.start()
    with redis_client(valkey.url) as client:
        submit(Store(client), "kept")
    valkey.stop()
    result = CliRunner().invoke(cli, ["backup", "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.output)
    assert Path(said["file"]).parent == tmp_path / "data" / "backups"
    monkeypatch.setenv("AVATARMOD_DATA_FOLDER", str(tmp_path / "other"))
    assert CliRunner().invoke(cli, ["restore", said["file"], "--yes"]).exit_code == 0
    other = EmbeddedValkey(tmp_path / "other" / "valkey")
    other.start()
    with redis_client(other.url) as client:
        assert Store(client).get("kept") is not None
    other.stop()


def test_what_is_no_backup_is_refused(run: Any, tmp_path: Path) -> None:
    """In one line."""
    (tmp_path / "x.tar.gz").write_bytes(b"no")
    result = run("restore", str(tmp_path / "x.tar.gz"), "--yes")
    assert isinstance(result.exception, ConfigurationError)
    assert "no backup of ours" in str(result.exception)
