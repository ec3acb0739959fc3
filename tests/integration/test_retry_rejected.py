"""`avatarmod retry`: what was rejected for a fault of ours is looked at again."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from producer.cli import cli
from producer.contract import AvatarState, Stage
from producer.errors import InvalidUpload, UnknownUpload
from producer.record.decisions import RETRYABLE, Decisions
from producer.record.store import Store
from tests.support import change, events, places, submit


def reject(store: Store, upload_id: str, reason: str) -> None:
    """A rejected upload."""
    submit(store, upload_id)
    fields = {"reason": reason, "decided_by": "rule", "sha256": "ab" * 32}
    done = change(store, upload_id, AvatarState.REJECTED, fields=fields, leaves=Stage.MODERATE)
    assert store.advance([done])[0].applied


@pytest.mark.parametrize("reason", sorted(RETRYABLE))
def test_it_waits_for_the_model_again(store: Store, reason: str) -> None:
    """With a clean record, once, and in the ledger with the name of who asked."""
    reject(store, "a", reason)
    decisions = Decisions(store)
    for _ in range(2):
        avatar = decisions.retry("a", by="ann")
    assert (avatar.state, avatar.reason, avatar.sha256) == (AvatarState.QUEUED, "retried", "")
    assert places(store, "a") == ["due:normal"]
    assert store.redis.ttl(store.key("avatar", "a")) == -1
    [said] = [event for event in events(store) if "retried" in event.get("detail", "")]
    assert '"by": "ann"' in said["detail"]


@pytest.mark.parametrize("reason", ["damaged", "unsupported", "too_large", "discarded"])
def test_what_its_bytes_decided_stays_decided(store: Store, reason: str) -> None:
    """The same bytes would be rejected for the same reason."""
    reject(store, "a", reason)
    with pytest.raises(InvalidUpload, match=f"rejected \\({reason}\\)"):
        Decisions(store).retry("a", by="ann")
    assert places(store, "a") == []


def test_what_is_not_rejected_is_left_alone(store: Store) -> None:
    """A verdict is not undone by trying again."""
    decisions = Decisions(store)
    with pytest.raises(UnknownUpload):
        decisions.retry("a", by="ann")
    submit(store, "a")
    store.advance([change(store, "a", AvatarState.BLOCKED, leaves=Stage.MODERATE)])
    with pytest.raises(InvalidUpload, match="a is blocked"):
        decisions.retry("a", by="ann")


def test_the_command_does_it(
    store: Store, valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several at once; one that cannot be tried again is an error that names it."""
    monkeypatch.setenv("AVATARMOD_REDIS_URL", valkey_url)
    monkeypatch.setenv("AVATARMOD_NAMESPACE", store.prefix.strip("{}:"))
    monkeypatch.setenv("AVATARMOD_DATA_FOLDER", str(tmp_path))
    reject(store, "a", "missing")
    reject(store, "b", "too_slow")
    done = CliRunner().invoke(cli, ["retry", "a", "b"])
    assert done.output.splitlines()[:2] == [
        "a  queued  told: nobody",
        "b  queued  told: nobody",
    ], done.output
    reject(store, "c", "damaged")
    failed = CliRunner().invoke(cli, ["retry", "c"])
    assert isinstance(failed.exception, InvalidUpload)
