"""People hear of it when Redis itself is what fails and no alarm can be kept there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery
from pydantic import SecretStr

from producer.contract import Avatar, AvatarState, Stage
from producer.dead_letters import DeadLetter, DeadLetters
from producer.errors import StorageMisconfigured
from producer.metrics import Recorder
from producer.store import Store, Transition
from tests.support import wait_until
from worker import alarms, sweeper
from worker.alarms import AlarmDuty, raised
from worker.settings import WorkerSettings
from worker.sweeper import Sweeper

AWAY = redis.ConnectionError("gone")


class Told:
    """Who is told, as `AlarmDuty` sees them."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, _title: str, text: str) -> None:
        self.texts.append(text)


@pytest.fixture
def told() -> Told:
    """Nobody has been told yet."""
    return Told()


@pytest.fixture
def duty(store: Store, told: Told, tmp_path: Path) -> AlarmDuty:
    """The alarms of one process."""
    settings = WorkerSettings(redis_url=SecretStr("redis://unused"), data_folder=tmp_path)
    return AlarmDuty(store, settings, lambda: [], told)


@pytest.fixture
def full(redis_server: redis.Redis) -> Iterator[None]:
    """A server that refuses every write for want of memory."""
    redis_server.config_set("maxmemory", 1)
    yield
    redis_server.config_set("maxmemory", 0)


@pytest.mark.usefixtures("full")
def test_a_full_redis_is_told(
    store: Store, duty: AlarmDuty, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweeper can neither lock nor remember, and says so all the same, once."""
    monkeypatch.setattr(alarms, "OUTAGE_S", 0.1)
    monkeypatch.setattr(sweeper, "TICK_S", 0.05)
    stop = threading.Event()
    thread = Sweeper(
        store=store,
        celery=Celery(set_as_current=False),
        name="test",
        facts=dict,
        stop=stop,
        recorder=Recorder(),
        duties={"alarms": duty},
        outage=duty.outage,
    )
    thread.start()
    try:
        wait_until(lambda: told.texts, 5, "somebody is told")
        stop.wait(0.3)
    finally:
        stop.set()
        thread.join()
    [text] = told.texts
    assert "refuses writes" in text
    assert "maxmemory" in text


def test_a_short_outage_is_nobodys_business(duty: AlarmDuty, told: Told) -> None:
    """A fail-over takes seconds; only what lasts is told, and told again the next time."""
    duty.outage(AWAY, 0.0)
    duty.outage(AWAY, 59.0)
    assert told.texts == []
    for seconds in (60.0, 61.0, 0.0, 60.0):
        duty.outage(AWAY, seconds)
    wait_until(lambda: len(told.texts) == 2, 5, "told once for each outage")
    assert all("does not answer" in text for text in told.texts)


def test_a_missing_key_of_the_image_store_is_an_alarm_until_the_replay(
    store: Store, duty: AlarmDuty
) -> None:
    """What waits in the dead letters for a repair of the configuration says what to repair."""
    store.submit(Avatar(upload_id="a", state=AvatarState.QUEUED, seq=1), max_backlog=9)
    avatar = store.get("a")
    assert avatar is not None
    error = StorageMisconfigured("bucket 'b' needs keys; set AVATARMOD_S3_ACCESS_KEY_ID")
    now = store.now()
    letter = DeadLetter.of("a", Stage.MODERATE, error, attempts=5, first_failed_at=now, now=now)
    change = Transition(
        avatar=avatar,
        to=AvatarState.DEAD,
        fields={"reason": "attempts_exhausted"},
        leaves=Stage.MODERATE,
        detail={},
        bury=letter.to_dict(),
    )
    assert store.advance([change])[0].applied
    duty()
    [alarm] = [a for a in raised(store) if a["code"] == "image_store_misconfigured"]
    assert "set AVATARMOD_S3_ACCESS_KEY_ID" in alarm["message"]
    assert "dlq replay --error StorageMisconfigured" in alarm["fix"]
    assert DeadLetters(store, lambda _: "").replay("a", by="test")
    duty._next_s = 0.0
    duty()
    assert "image_store_misconfigured" not in {a["code"] for a in raised(store)}
