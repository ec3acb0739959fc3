"""People hear of it when Redis itself is what fails and no alarm can be kept there."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import SecretStr

from producer.contract import Avatar, AvatarState, Priority, Stage
from producer.errors import StorageMisconfigured
from producer.health import NOT_READY, find_alarms
from producer.metrics import Recorder
from producer.record.dead_letters import DeadLetter, DeadLetters
from producer.record.decisions import Decisions, end_audit
from producer.record.endpoints import Endpoints
from producer.record.store import Store, Transition
from producer.texts import pack, say
from producer.web.console.languages import Language, load_languages
from tests.support import change, claim, put_back, submit, wait_until
from worker.duties import alarm_duty, sweeper
from worker.duties.alarm_duty import AlarmDuty, raised
from worker.duties.alarms import evaluate
from worker.duties.facts import gather
from worker.duties.sweeper import Sweeper
from worker.settings import WorkerSettings

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
    """The sweeper says so although most writes are refused, once."""
    monkeypatch.setattr(alarm_duty, "OUTAGE_S", 0.1)
    monkeypatch.setattr(sweeper, "TICK_S", 0.05)
    stop = threading.Event()
    thread = Sweeper(
        store=store,
        ring=lambda _stage: None,
        name="test",
        facts=dict,
        stop=stop,
        recorder=Recorder(),
        duties={"alarms": duty},
        outage=duty.outage,
    )
    thread.start()
    try:
        wait_until(lambda: told.texts, 30, "somebody is told")
        stop.wait(0.3)
    finally:
        stop.set()
        thread.join()
    [text] = told.texts
    assert "of its memory limit: uploads are refused" in text
    assert "maxmemory" in text


def limits(tmp_path: Path, **settings: Any) -> WorkerSettings:
    """Settings under which nothing is an alarm but what a test sets."""
    far = {"alarm_undecided_s": 9e9, "alarm_review_s": 9e9, "alarm_silence_s": 9e9}
    return WorkerSettings(
        redis_url=SecretStr("redis://unused"), data_folder=tmp_path, **{**far, **settings}
    )


def codes(store: Store, settings: WorkerSettings) -> set[str]:
    """What is wrong now."""
    return {alarm.code for alarm in evaluate(gather(store, settings), settings)}


def test_what_waits_for_a_provider_is_no_fault_of_the_model(store: Store, tmp_path: Path) -> None:
    """A provider's outage has an alarm of its own, under which uploads are still decided."""
    submit(store, "gray")
    gray = change(store, "gray", AvatarState.REVIEWING, leaves=Stage.MODERATE, enters=Stage.REVIEW)
    store.advance([gray])
    time.sleep(0.02)
    assert "undecided_too_long" not in codes(store, limits(tmp_path, alarm_undecided_s=0.01))
    assert "review_too_long" in codes(store, limits(tmp_path, alarm_review_s=0.01))
    assert "review_too_long" not in NOT_READY
    submit(store, "queued")
    time.sleep(0.02)
    assert "undecided_too_long" in codes(store, limits(tmp_path, alarm_undecided_s=0.01))


def test_only_the_machine_silences_the_alarm_about_its_silence(
    store: Store, tmp_path: Path
) -> None:
    """Clicks, replays and dead letters of a model that fails are no sign of life."""
    silence = limits(tmp_path, alarm_silence_s=0.05)
    submit(store, "waits")
    for name in ("clicked", "broken", "judged"):
        submit(store, name)
    time.sleep(0.06)
    assert "no_verdicts" in codes(store, silence)
    Decisions(store).decide("clicked", "blocked", by="ann")
    letter = {"item": "broken", "stage": "moderate", "error": "E", "message": "", "attempts": 1}
    letter |= {"first_failed_at": 1.0, "last_failed_at": 1.0}
    store.advance([change(store, "broken", AvatarState.DEAD, leaves=Stage.MODERATE, bury=letter)])
    assert DeadLetters(store).replay("broken", by="ann")
    assert "no_verdicts" in codes(store, silence)
    store.advance([change(store, "judged", AvatarState.HELD, leaves=Stage.MODERATE)])
    assert "no_verdicts" not in codes(store, silence)


def test_a_short_outage_is_nobodys_business(duty: AlarmDuty, told: Told) -> None:
    """A fail-over takes seconds; only what lasts is told, and told again the next time."""
    duty.outage(AWAY, 0.0)
    duty.outage(AWAY, 59.0)
    assert told.texts == []
    for seconds in (60.0, 61.0, 0.0, 60.0):
        duty.outage(AWAY, seconds)
    wait_until(lambda: len(told.texts) == 2, 30, "told once for each outage")
    assert all("does not answer" in text for text in told.texts)


@pytest.mark.parametrize("lane", ["later", "slow", "far"])
def test_what_waits_for_its_own_host_or_a_long_look_is_not_undecided_too_long(
    store: Store, duty: AlarmDuty, lane: str
) -> None:
    """Else a stranger's silent address would turn readiness to 503 for everybody."""
    submit(store, "a")
    store.redis.zadd(store.key("open", AvatarState.QUEUED), {"a": store.now() - 7200})
    claim(store)
    if lane == "later":
        put_back(store, "a", delay_s=600.0)
    else:
        put_back(store, "a", priority=lane)
        store.redis.zadd(store.keys.due(Stage.MODERATE, lane), {"a": store.now() - 7200})
    duty()
    codes = {alarm["code"] for alarm in raised(store)}
    assert not codes & {"undecided_too_long", "no_verdicts"}


def test_what_nobody_takes_is_undecided_too_long(store: Store, duty: AlarmDuty) -> None:
    """Due and not claimed, or in the hands of a worker that died."""
    submit(store, "a")
    store.redis.zadd(store.keys.due(Stage.MODERATE, Priority.NORMAL), {"a": store.now() - 7200})
    duty()
    assert "undecided_too_long" in {alarm["code"] for alarm in raised(store)}
    claim(store)
    store.redis.zadd(store.key("lease", Stage.MODERATE), {"a": store.now() - 7200})
    duty._next_s = 0.0
    duty()
    assert "undecided_too_long" in {alarm["code"] for alarm in raised(store)}


def test_a_worker_that_is_started_again_wakes_nobody(
    store: Store, duty: AlarmDuty, told: Told
) -> None:
    """As after a change of the policy; one that stays away does."""
    submit(store, "u1")
    settings = WorkerSettings(redis_url=SecretStr("redis://unused"))
    found = evaluate(gather(store, settings), settings)
    [away] = [alarm for alarm in found if alarm.code == "no_worker_moderate"]
    for seconds in (0, 20, 40):
        duty.note([away], 1e6 + seconds)
        assert raised(store) == []
    duty.note([], 1e6 + 50)
    for seconds in (60, 100, 119):
        duty.note([away], 1e6 + seconds)
        assert raised(store) == [], "counted anew"
    duty.note([away], 1e6 + 121)
    assert [alarm["code"] for alarm in raised(store)] == ["no_worker_moderate"]
    wait_until(lambda: told.texts, 30, "somebody is told")
    duty.note([], 1e6 + 130)
    assert raised(store) == []


def test_an_image_store_that_is_not_mounted_is_an_alarm_at_once(
    store: Store, duty: AlarmDuty
) -> None:
    """While uploads are still tried again, by a worker's word; gone when it gives pictures."""
    fault = "the image folder /mnt/avatars is empty: is it mounted?"
    store.show_life("moderate@a:1", {"stages": ["moderate"], "image_store_fault": fault})
    duty()
    [alarm] = [a for a in raised(store) if a["code"] == "image_store_misconfigured"]
    assert (alarm["severity"], alarm["message"]) == ("critical", fault)
    assert alarm["code"] in NOT_READY
    store.show_life("moderate@a:1", {"stages": ["moderate"], "image_store_fault": ""})
    duty._next_s = 0.0
    duty()
    assert "image_store_misconfigured" not in {a["code"] for a in raised(store)}


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
    assert DeadLetters(store).replay("a", by="test")
    duty._next_s = 0.0
    duty()
    assert "image_store_misconfigured" not in {a["code"] for a in raised(store)}


def test_a_second_model_that_does_not_look_is_told(store: Store, tmp_path: Path) -> None:
    """By what the workers say of themselves."""
    settings = limits(tmp_path)
    store.show_life("m", {"name": "m", "stages": ["moderate"], "second_fault": "s@1 does not load"})
    assert "second_model_failed" in codes(store, settings)
    store.show_life("m", {"name": "m", "stages": ["moderate"], "second_fault": ""})
    assert "second_model_failed" not in codes(store, settings)


def test_an_explicit_picture_that_had_passed_is_told(store: Store, tmp_path: Path) -> None:
    """For a day, so that somebody looks at the cut-offs."""
    settings = limits(tmp_path)
    store.audits.announce(1.0)
    submit(store, "a")
    store.advance([change(store, "a", AvatarState.APPROVED, leaves=Stage.MODERATE)])
    assert "audit_explicit" not in codes(store, settings)
    avatar = store.get("a")
    assert avatar is not None
    end_audit(store, avatar, "explicit", decided_by="review:tencent")
    assert "audit_explicit" in codes(store, settings)
    store.redis.zadd(store.key("audits", "explicit"), {"a": store.now() - 90000})
    assert "audit_explicit" not in codes(store, settings)


@pytest.fixture(scope="module")
def chinese() -> Language:
    return load_languages(timezone="Asia/Shanghai", currency="CNY")["zh-CN"]


def test_what_alarms_quote_is_said_in_the_readers_language(
    store: Store, duty: AlarmDuty, chinese: Language
) -> None:
    """A worker's fault and a server's failure, as Redis keeps them; an old version's as it is."""
    fault = say("{bundle} does not load", bundle="s@1")
    old = "the database is away"
    store.show_life(
        "m",
        {"name": "m", "stages": ["moderate"], "second_fault": pack(fault), "ledger_fault": old},
    )
    submit(store, "a", callback_url="https://blog.example.com/verdict")
    store.advance([change(store, "a", AvatarState.APPROVED, leaves=Stage.MODERATE)])
    [line] = [line for line in store.lines() if line.startswith("callback:")]
    entry = store.outbox.get("a#" + str(store.get("a").seq))  # type: ignore[union-attr]
    assert entry is not None
    endpoints = Endpoints(store, disable_after_s=1e6)
    endpoints.note_failure(entry, say("no answer: {error}", error="ConnectError"), gone=False)
    store.redis.hset(store.keys.endpoint(line.partition(":")[2]), "failing_since", "1")
    duty()
    shown = {alarm.code: chinese.text(alarm.message) for alarm in find_alarms(store)}
    assert "（s@1 无法加载）" in shown["second_model_failed"]
    [failing] = [text for code, text in shown.items() if code.startswith("callback_failing")]
    assert failing.endswith("：没有回答：ConnectError")
    assert shown["ledger_behind"].endswith(old)


def test_a_dead_letter_is_said_in_the_readers_language(chinese: Language) -> None:
    """Through JSON; one that an old version wrote has its sentence alone."""
    error = StorageMisconfigured(say("safe copies: {fault}", fault=say("does not exist")))
    letter = DeadLetter.of("a", Stage.COPY, error, attempts=1, first_failed_at=1.0, now=2.0)
    kept = json.loads(json.dumps(letter.to_dict()))
    assert kept["message"] == "safe copies: does not exist"
    assert chinese.text(DeadLetter.from_dict(kept).said) == "安全副本：不存在"
    del kept["parts"]
    assert chinese.text(DeadLetter.from_dict(kept).said) == "safe copies: does not exist"
