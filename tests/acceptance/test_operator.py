"""What an operator types beside a running instance does what it says, from any shell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from producer.record.keyspace import callback_line, endpoint_name
from producer.record.outbox import CallbackEntry
from tests.acceptance.conftest import PATIENCE_S, SECRET, Instance, enqueue_all, eventually, fill
from worker.demo.webhook_receiver import Receiver

#: Of the receiver of these tests; changed by them.
broken = {"is": True}


@pytest.fixture(scope="module")
def web_tier() -> Iterator[Receiver]:
    """A web tier that answers 500 while it is broken."""
    with Receiver(SecretStr(SECRET), fails=lambda: broken["is"]) as receiver:
        yield receiver


def shell(instance: Instance, *words: str) -> str:
    """One command in a shell that knows nothing but the data folder; it must succeed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AVATARMOD_")}
    done = subprocess.run(
        [sys.executable, "-m", "producer.cli", *words],
        env={**environment, "AVATARMOD_DATA_FOLDER": str(instance.folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def entries(instance: Instance, ids: list[str]) -> list[CallbackEntry]:
    """The callbacks of verdicts that are not delivered yet."""
    with instance.store() as store:
        items = [f"{a.upload_id}#{a.seq}" for a in store.get_many(ids) if a is not None]
        return [e for e in store.outbox.get_many(items) if e is not None]


def item_of(instance: Instance, upload_id: str) -> str:
    """The callback of an upload's present state."""
    with instance.store() as store:
        avatar = store.get(upload_id)
        assert avatar is not None
        return f"{upload_id}#{avatar.seq}"


def test_enable_resend_and_the_first_success_deliver_what_waits(
    make_instance: Callable[..., Instance], web_tier: Receiver
) -> None:
    """After an outage of the web tier nothing waits for the hour of its next attempt."""
    instance = make_instance(AVATARMOD_CALLBACK_SCHEDULE_S="3600,3600")
    instance.start()
    expected = fill(instance, "outage", 12)
    enqueue_all(instance, expected)
    ids = list(expected)
    eventually(
        lambda: len(failed := entries(instance, ids)) == 12 and all(e.attempts for e in failed),
        "every callback has failed once",
    )
    name = endpoint_name(web_tier.url)
    waits = shell(instance, "callbacks", "resend", ids[0])
    assert "due again; told: http://127.0.0.1" in waits
    assert re.search(r"11 later, the first in (59|6\d|7[0-2]) min", waits), waits
    eventually(
        lambda: [e.attempts for e in entries(instance, ids[:1])] == [2], "it was sent, and failed"
    )
    broken["is"] = False
    said = shell(instance, "callbacks", "enable", name)
    assert re.search(r"callbacks to http://127.0.0.1:\d+: .*due now", said), said
    assert "later" not in said
    eventually(lambda: not entries(instance, ids), "all are delivered")
    assert {r.data["upload_id"] for r in web_tier.received} == set(ids)

    broken["is"] = True
    more = fill(instance, "again", 8)
    enqueue_all(instance, more)
    eventually(
        lambda: (
            len(failed := entries(instance, list(more))) == 8 and all(e.attempts for e in failed)
        ),
        "every callback has failed once",
    )
    broken["is"] = False
    said = shell(instance, "callbacks", "resend", "again-0000")
    eventually(lambda: not entries(instance, list(more)), "one success sends the others")
    with instance.store() as store:
        assert store.waiting(callback_line(name)) == {"waiting": 0, "leased": 0}


def test_dead_callbacks_are_seen_resent_replayed_and_discarded(
    make_instance: Callable[..., Instance], web_tier: Receiver
) -> None:
    """Each command says what it did and what is still due."""
    broken["is"] = True
    instance = make_instance(AVATARMOD_CALLBACK_SCHEDULE_S="0.2")
    instance.start()
    expected = fill(instance, "dead", 3)
    enqueue_all(instance, expected)

    def dead() -> int:
        with instance.store() as store:
            return int(store.redis.zcard(store.key("dead")))

    eventually(lambda: dead() == 3, "every callback is a dead letter")
    assert "3: 0 uploads, 3 callbacks" in " ".join(shell(instance, "doctor").split())
    broken["is"] = False
    before = len(web_tier.received)
    assert "due again" in shell(instance, "callbacks", "resend", "dead-0000")
    eventually(lambda: len(web_tier.received) == before + 1, "the dead callback is sent")
    assert shell(instance, "dlq", "replay", item_of(instance, "dead-0001")).startswith("1 replayed")
    eventually(lambda: len(web_tier.received) == before + 2, "the replayed one is sent")
    said = shell(instance, "dlq", "discard", item_of(instance, "dead-0002"), "--yes")
    assert said.startswith("1 discarded")
    assert dead() == 0
    assert not entries(instance, list(expected))


def test_promote_and_rollback_say_who_takes_it_up(
    make_instance: Callable[..., Instance], tmp_path: Path
) -> None:
    """And the workers do, while uploads go on."""
    broken["is"] = False
    instance = make_instance()
    instance.start()
    said = instance.run("bundle", "promote", "open-nsfw", AVATARMOD_BUNDLE="current")
    assert said.returncode == 0, said.stderr
    assert "1 moderate workers (" in said.stdout
    assert said.stdout.rstrip().endswith("nothing waits")
