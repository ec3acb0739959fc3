"""What a web tier may expect of `enqueue`: the real one and the one for tests answer alike."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import producer as face
from producer import InvalidUpload, Producer, QueueFull, Upload
from producer.connect import connect_store
from producer.contract import AvatarState, Stage
from producer.record.outbox import document
from producer.record.store import Store, Transition
from producer.settings import Settings, load_settings
from producer.testing import InMemoryProducer
from worker.callback import body

URL = "https://web.example/verdict"
DEFAULTS: dict[str, Any] = {"callback_url": URL, "callback_allowed_urls": ("https://ok.example",)}

Make = Callable[..., Producer]


class Silent:
    """Takes every doorbell."""

    def ring(self, _stage: Stage) -> bool:
        return True


@pytest.fixture(params=["redis", "memory"])
def make(request: pytest.FixtureRequest, store: Store) -> Make:
    """Makes the real producer on a Valkey, or the one in memory."""

    def start(**settings: Any) -> Producer:
        settings = {**DEFAULTS, **settings}
        if request.param == "memory":
            return InMemoryProducer(**settings)
        return Producer(store, Silent(), load_settings(Settings, **settings))

    return start


def decide(producer: Producer, upload_id: str, to: str) -> dict[str, Any]:
    """Decide as a worker does; what the web tier is told."""
    fields = {"reason": "explicit", "decided_by": "model", "probability": "0.970000"}
    if isinstance(producer, InMemoryProducer):
        return producer.decide(upload_id, to, reason="explicit", probability=0.97)
    avatar = producer.get(upload_id)
    assert avatar is not None
    change = Transition(avatar=avatar, to=AvatarState(to), fields=fields, leaves=Stage.MODERATE)
    assert producer.store.advance([change])[0].applied
    entry = producer.store.outbox.get(f"{upload_id}#{avatar.seq + 1}")
    if entry is None:
        return {}
    assert body(entry)
    return document(entry.data, entry.at)


def test_a_new_upload_is_accepted_and_the_same_id_again_tells_its_state(make: Make) -> None:
    """Whatever the second call brings along."""
    producer = make()
    first = producer.enqueue("a", "one.png", region="overseas", priority="high")
    assert (first.created, first.avatar.state, first.avatar.seq) == (True, "queued", 1)
    second = producer.enqueue("a", "two.png")
    assert (second.created, second.avatar.image, second.avatar.region) == (
        False,
        "one.png",
        "overseas",
    )
    decide(producer, "a", "blocked")
    third = producer.enqueue("a")
    assert (third.created, third.avatar.state, third.avatar.seq) == (False, "blocked", 2)
    assert producer.get("b") is None


@pytest.mark.parametrize(
    ("upload", "field"),
    [
        (Upload(""), "upload_id"),
        (Upload("a b"), "upload_id"),
        (Upload("头像"), "upload_id"),
        (Upload("a/../b"), "upload_id"),
        (Upload("a", region="mars"), "region"),
        (Upload("a", priority="urgent"), "priority"),
        (Upload("a", callback_url="https://elsewhere.example"), "callback_url"),
        (Upload("a", callback_url="https://[ok.example/"), "callback_url"),
        (Upload("a", image="http://10.0.0.1/a.png"), "image"),
    ],
)
def test_what_is_malformed_is_refused_with_the_name_of_the_argument(
    make: Make, upload: Upload, field: str
) -> None:
    """Alone it raises; among others it takes its own place."""
    producer = make()
    with pytest.raises(InvalidUpload) as refused:
        producer.enqueue(
            upload.upload_id,
            upload.image,
            region=upload.region,
            priority=upload.priority,
            callback_url=upload.callback_url,
        )
    assert refused.value.field == field
    good, bad = producer.enqueue_many([Upload("fine"), upload])
    assert isinstance(bad, InvalidUpload)
    assert not isinstance(good, Exception)
    assert good.created


def test_a_full_queue_refuses_until_something_is_decided(make: Make) -> None:
    """What is known already is answered all the same."""
    producer = make(max_backlog=2)
    producer.enqueue_many([Upload("a"), Upload("b")])
    with pytest.raises(QueueFull) as full:
        producer.enqueue("c")
    assert full.value.retry_after_s == pytest.approx(30.0)
    assert not producer.enqueue("a").created
    assert producer.get("c") is None
    decide(producer, "a", "held")
    assert producer.enqueue("c").created


@pytest.mark.parametrize(
    ("settings", "given", "hears"),
    [
        ({}, None, URL),
        ({}, "https://ok.example/mine", "https://ok.example/mine"),
        ({}, "none", "none"),
        ({"callback_url": ""}, None, ""),
    ],
)
def test_who_hears_of_it_is_in_the_record(
    make: Make, settings: dict[str, Any], given: str | None, hears: str
) -> None:
    """From the first moment, so that no other process has to work it out."""
    producer = make(**settings)
    producer.enqueue("a", callback_url=given)
    avatar = producer.get("a")
    assert avatar is not None
    assert avatar.callback_url == hears


def test_both_tell_the_same(make: Make) -> None:
    """The document that a script for a test returns is the body that a receiver gets."""
    producer = make()
    producer.enqueue("a", region="overseas")
    told = decide(producer, "a", "blocked")
    assert told["type"] == "avatar.moderated"
    assert told["timestamp"].endswith("Z")
    assert told["data"] == {
        "upload_id": "a",
        "state": "blocked",
        "seq": 2,
        "final": True,
        "probability": 0.97,
        "raw_score": None,
        "second": None,
        "safe_copy": None,
        "style": None,
        "reason": "explicit",
        "reason_text": "Your picture appears to be sexually explicit. If that is wrong, tell the "
        "site.",
        "block_reason": None,
        "subject_blocked": None,
        "decided_by": "model",
        "region": "overseas",
        "bundle": None,
        "policy": None,
        "sha256": None,
    }


def test_the_one_in_memory_remembers_whom_it_told() -> None:
    """Nobody where nobody hears."""
    producer = InMemoryProducer(**DEFAULTS)
    producer.enqueue_many([Upload("a"), Upload("b", callback_url="none")])
    for upload_id in ("a", "b"):
        producer.decide(upload_id, "approved")
    assert [(url, told["data"]["upload_id"]) for url, told in producer.callbacks] == [(URL, "a")]


def test_the_public_face_is_pinned() -> None:
    """What a web tier may import from `producer`; nothing goes without a new major version."""
    assert sorted(face.__all__) == [
        "Avatar",
        "AvatarState",
        "ConfigurationError",
        "Enqueued",
        "InvalidUpload",
        "ModerationError",
        "Priority",
        "Producer",
        "QueueFull",
        "Region",
        "StorageUnavailable",
        "Upload",
        "enqueue",
        "enqueue_many",
    ]
    assert all(hasattr(face, name) for name in face.__all__)


def test_a_host_prints_nothing(valkey_url: str, tmp_path: Path) -> None:
    """Not even where a host has no logging of its own and the broker is away."""
    code = (
        "from producer import Upload, enqueue, enqueue_many\n"
        "from producer.enqueue import Producer, enqueue as as_before\n"
        "assert as_before is enqueue\n"
        "import producer; assert producer.enqueue is enqueue and producer.Producer is Producer\n"
        "assert enqueue('printed-1', 'a.png').created\n"
        "enqueue_many([Upload('printed-2')])\n"
    )
    env = {
        "AVATARMOD_REDIS_URL": valkey_url,
        "AVATARMOD_NAMESPACE": "prints",
        "AVATARMOD_BROKER_URL": "amqp://127.0.0.1:9//",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_the_address_that_workers_announce_is_everybodys(store: Store, valkey_url: str) -> None:
    """A host without an address of its own enqueues for the workers' receiver."""
    store.announce_callback("https://workers.example/hook")
    env: dict[str, Any] = {"redis_url": valkey_url, "namespace": store.prefix.strip("{}:")}
    producer = Producer(store, Silent(), load_settings(Settings, callback_url="", **env))
    producer.enqueue("a")
    avatar = producer.get("a")
    assert avatar is not None
    assert avatar.callback_url == "https://workers.example/hook"
    other = connect_store(load_settings(Settings, callback_url="https://another.example", **env))
    unaddressed = dataclasses.replace(avatar, callback_url="")
    assert other.callback_url(unaddressed) == "https://workers.example/hook"
    store.announce_callback("")
    producer.enqueue("b")
    assert (other.get("b") or avatar).callback_url == ""
    other.close()
