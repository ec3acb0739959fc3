"""After a transition whoever acts next is woken at once, not by the sweeper a second later."""

from __future__ import annotations

import dataclasses

import pytest
import redis
from amqp.exceptions import AccessRefused
from celery import Celery

from producer.contract import Avatar, AvatarState, Stage
from producer.doorbell import Bells
from producer.errors import BrokerUnavailable
from producer.metrics import Recorder
from producer.record.store import Store, Transition
from worker.outcomes import Outcomes

AVATAR = Avatar(upload_id="a", state=AvatarState.QUEUED, seq=1)


def transition(callback_url: str = "none", **options: object) -> Transition:
    avatar = dataclasses.replace(AVATAR, callback_url=callback_url)
    return Transition(avatar=avatar, to=AvatarState.APPROVED, **options)  # type: ignore[arg-type]


def test_each_stage_that_got_work_is_rung_once(store: Store) -> None:
    """Callbacks for what is told, review for what is gray; several at once ring once."""
    rung: list[Stage] = []
    outcomes = Outcomes(store, Recorder(), rung.append)
    told, gray = transition(callback_url="https://x"), transition(enters=Stage.REVIEW)
    outcomes.wake([told, gray, told])
    assert sorted(rung) == [Stage.CALLBACK, Stage.REVIEW]
    outcomes.wake([told])
    assert len(rung) == 2, "rung a moment ago: its drain looks again by itself"


def test_nobody_is_rung_for_a_verdict_that_nobody_hears_of(store: Store) -> None:
    """Polling web tiers cost no doorbells."""
    rung: list[Stage] = []
    Outcomes(store, Recorder(), rung.append).wake([transition()])
    assert rung == []


def test_help_is_called_although_a_busy_worker_took_the_last_doorbell(store: Store) -> None:
    """The mark of a doorbell that woke nobody is removed, so that the next one goes out."""
    rung: list[bool] = []
    outcomes = Outcomes(store, Recorder(), lambda stage: rung.append(store.take_bell(stage)))
    assert store.take_bell(Stage.MODERATE)
    outcomes.call_help(Stage.MODERATE)
    outcomes.call_help(Stage.MODERATE)
    assert rung == [True], "once in half a second"


def test_a_bell_that_cannot_ring_harms_nothing(store: Store) -> None:
    """The verdict stands; the sweeper rings within a second or two."""

    def broken(_stage: Stage) -> None:
        raise BrokerUnavailable("gone")

    Outcomes(store, Recorder(), broken).wake([transition(callback_url="https://x")])


def test_after_a_bell_that_failed_the_ringing_is_left_to_the_sweeper(store: Store) -> None:
    """A broker that does not answer takes four seconds a ring; verdicts must not wait for each."""
    asked: list[Stage] = []

    def broken(stage: Stage) -> None:
        asked.append(stage)
        raise BrokerUnavailable("timed out")

    outcomes = Outcomes(store, Recorder(), broken)
    both = [transition(callback_url="https://x"), transition(enters=Stage.REVIEW)]
    for _ in range(3):
        outcomes.wake(both)
        outcomes._rang_s.clear()
    assert len(asked) == 1


def test_what_a_broker_refuses_is_an_error_that_everybody_who_rings_expects(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed password at RabbitMQ must end neither an enqueue, nor a commit, nor a tick."""
    app = Celery(set_as_current=False)

    def refuse(*_: object, **__: object) -> None:
        raise AccessRefused("ACCESS_REFUSED - Login was refused")

    monkeypatch.setattr(app, "send_task", refuse)
    with pytest.raises(BrokerUnavailable, match="AccessRefused"):
        Bells(store, app).ring(Stage.CALLBACK)


def test_a_redis_that_is_away_is_the_same_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever rings has one error to expect, whichever server failed."""

    def gone(_stage: Stage) -> bool:
        raise redis.ConnectionError("gone")

    monkeypatch.setattr(store, "take_bell", gone)
    with pytest.raises(BrokerUnavailable, match="ConnectionError"):
        Bells(store, Celery(set_as_current=False)).ring(Stage.CALLBACK)
