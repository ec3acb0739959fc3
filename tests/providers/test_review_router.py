"""The router on a real Valkey: reuse, single flight, limits, budget, breaker, failover."""

from __future__ import annotations

import datetime
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zoneinfo
from pathlib import Path
from typing import Any

import pytest
import redis
from structlog.testing import CapturingLogger

from producer.contract import Region
from producer.errors import (
    ConfigurationError,
    ModerationError,
    ProviderAnswerUnknown,
    ProviderMisconfigured,
    ProviderRateLimited,
    ProviderRejectedImage,
    ProviderSilent,
    ProviderUnavailable,
    StorageUnavailable,
)
from producer.findings import Decision
from producer.texts import say
from producer.web.console.languages import load_languages
from tests.providers.support import (
    PREFIX,
    ScriptedProvider,
    ask,
    build,
    settings,
    sha,
)
from worker.ledger.rows import to_row
from worker.review import router as router_module
from worker.review.answers import Answered, Approve, GiveUp, Hold, Wait
from worker.review.leave import Admitted
from worker.review.router import Router

ROOT = Path(__file__).parents[2]


def approve(_: str) -> Decision:
    return Decision.APPROVE


def uncertain(_: str) -> Decision:
    return Decision.UNCERTAIN


def fail(error: ModerationError):
    return lambda _: error


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> CapturingLogger:
    """What the router logs, however logging is configured by then."""
    logger = CapturingLogger()
    monkeypatch.setattr(router_module, "log", logger)
    return logger


def rows(valkey: redis.Redis) -> list[dict[str, Any]]:
    """The events as the ledger takes them."""
    return [to_row("n", name, fields) for name, fields in valkey.xrange(f"{PREFIX}events")]


def books(valkey: redis.Redis, router: Router) -> list[tuple[int | None, int]]:
    """(calls, millionths of a yuan) by budget, ledger and metric."""
    calls, yuan = router.total_today()
    ledger = rows(valkey)
    totals = valkey.hgetall(f"{PREFIX}metrics")
    return [
        (calls, round(yuan * 1e6)),
        (sum(r["provider_calls"] for r in ledger), sum(r["cost_microyuan"] for r in ledger)),
        (None, round(sum(float(value) for value in totals.values()) * 1e6)),
    ]


class TestAnswers:
    def test_a_providers_answer_is_returned_and_kept(self, valkey: redis.Redis) -> None:
        """The second upload of the same content costs nothing and asks nobody."""
        router, providers = build(valkey, {"tencent": approve})
        first, second = ask(router, "a"), ask(router, "a")
        assert isinstance(first, Answered)
        assert isinstance(second, Answered)
        assert (first.opinion.reused, second.opinion.reused) == (False, True)
        assert (first.opinion.cost_yuan, second.opinion.cost_yuan) == (0.0015, 0.0)
        assert second.opinion.provider == "tencent"
        assert len(providers["tencent"].asked) == 1

    def test_an_unreadable_opinion_is_asked_for_again(self, valkey: redis.Redis) -> None:
        """What a newer or broken process left on file is not trusted and does no harm."""
        router, providers = build(valkey, {"tencent": approve})
        field = f"tencent@{providers['tencent'].rules}"
        valkey.hset(f"{PREFIX}review:opinions:{sha('a')}", field, '{"decision": "perhaps"}')
        assert isinstance(ask(router, "a"), Answered)
        assert len(providers["tencent"].asked) == 1

    def test_the_raw_reply_is_handed_out_once_and_not_kept_in_redis(
        self, valkey: redis.Redis
    ) -> None:
        """It belongs into the ledger; a month of replies would fill a small Redis."""
        router, _ = build(valkey, {"tencent": approve})
        first, second = ask(router, "a"), ask(router, "a")
        assert isinstance(first, Answered)
        assert isinstance(second, Answered)
        assert first.opinion.raw == {}
        assert second.opinion.raw is None

    def test_other_rules_ask_again(self, valkey: redis.Redis) -> None:
        """An opinion under rules that are no longer configured is not reused."""
        router, providers = build(valkey, {"tencent": approve})
        ask(router, "a")
        providers["tencent"].rules_version = 2
        ask(router, "a")
        assert len(providers["tencent"].asked) == 2

    def test_no_provider_holds(self, valkey: redis.Redis) -> None:
        """Without a route nothing is asked and a person decides."""
        router, providers = build(valkey, {"tencent": approve})
        answer = ask(router, "a", region=Region.OVERSEAS)
        assert isinstance(answer, Hold)
        assert answer.reason == "no_provider"
        assert providers["tencent"].asked == []

    def test_uncertain_goes_to_a_person(self, valkey: redis.Redis) -> None:
        """By default one uncertain opinion ends in a hold that carries it."""
        router, providers = build(valkey, {"tencent": uncertain, "aliyun2": approve})
        answer = ask(router, "a")
        assert isinstance(answer, Hold)
        assert answer.reason == "provider_uncertain"
        assert [opinion.provider for opinion in answer.opinions] == ["tencent"]
        assert providers["aliyun2"].asked == []

    def test_uncertain_asks_the_next_provider(self, valkey: redis.Redis) -> None:
        """With review_uncertain=next the next provider decides, one call per step."""
        router, providers = build(
            valkey, {"tencent": uncertain, "aliyun2": approve}, review_uncertain="next"
        )
        first = ask(router, "a")
        assert isinstance(first, Wait)
        assert (first.why, first.tried) == ("next_provider", ("tencent:uncertain",))
        assert [opinion.decision for opinion in first.opinions] == [Decision.UNCERTAIN]
        second = ask(router, "a", tried=first.tried)
        assert isinstance(second, Answered)
        assert second.opinion.provider == "aliyun2"
        assert len(providers["tencent"].asked) == 1

    def test_two_uncertain_opinions_hold(self, valkey: redis.Redis) -> None:
        """The last uncertain provider leads to a person, with both opinions."""
        router, _ = build(
            valkey, {"tencent": uncertain, "aliyun2": uncertain}, review_uncertain="next"
        )
        first = ask(router, "a")
        second = ask(router, "a", tried=first.tried)
        assert isinstance(second, Hold)
        assert {opinion.provider for opinion in second.opinions} == {"tencent", "aliyun2"}

    def test_same_picture_is_paid_once(self, valkey: redis.Redis) -> None:
        """Eight threads with one picture make one call; the others are told to wait, then reuse."""
        gate = threading.Event()

        def slow(_: str) -> Decision:
            gate.wait(5)
            return Decision.BLOCK

        router, providers = build(valkey, {"tencent": slow})
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(ask(router, "same"))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        while len(answers) < 7:
            time.sleep(0.005)
        gate.set()
        for thread in threads:
            thread.join()
        waits = [answer for answer in answers if isinstance(answer, Wait)]
        assert len(waits) == 7
        assert {wait.why for wait in waits} == {"same_picture"}
        assert all(0 < wait.delay_s < 2 and wait.tried == () for wait in waits)
        assert len(providers["tencent"].asked) == 1
        assert isinstance(ask(router, "same"), Answered)


class TestFailures:
    def test_failed_tries_are_spaced_and_then_the_next_provider_is_asked(
        self, valkey: redis.Redis
    ) -> None:
        """Three failures at the first provider, each counted, then the second decides."""
        router, _ = build(
            valkey, {"tencent": fail(ProviderUnavailable("down")), "aliyun2": approve}
        )
        tried: tuple[str, ...] = ()
        whys = []
        for attempt in range(3):
            answer = ask(router, "a", tried=tried)
            assert isinstance(answer, Wait)
            assert answer.tried == ("tencent:failed",) * (attempt + 1)
            whys.append((answer.why, answer.delay_s))
            tried = answer.tried
        assert whys == [("retry", 1.0), ("retry", 2.0), ("next_provider", 0.5)]
        last = ask(router, "a", tried=tried)
        assert isinstance(last, Answered)
        assert last.opinion.provider == "aliyun2"

    @pytest.mark.parametrize(
        ("policy", "kind"), [("hold", Hold), ("dead_letter", GiveUp)], ids=["hold", "dead_letter"]
    )
    def test_all_failed(self, valkey: redis.Redis, policy: str, kind: type) -> None:
        """After the last try the upload is held or given up, as settings say."""
        router, _ = build(
            valkey,
            {"tencent": fail(ProviderUnavailable("down"))},
            review_tries=1,
            review_exhausted=policy,
        )
        assert isinstance(ask(router, "a"), kind)

    def test_unknown_answer_is_asked_once_more(self, valkey: redis.Redis) -> None:
        """An answer nobody understands is repeated once, then a person decides."""
        router, providers = build(valkey, {"tencent": fail(ProviderAnswerUnknown("what?"))})
        first = ask(router, "a")
        assert isinstance(first, Wait)
        second = ask(router, "a", tried=first.tried)
        assert isinstance(second, Hold)
        assert second.reason == "providers_failed"
        assert len(providers["tencent"].asked) == 2

    def test_rejected_image_is_held_with_the_reason(self, valkey: redis.Redis) -> None:
        """A provider that will never judge the picture sends it to a person."""
        router, _ = build(valkey, {"tencent": fail(ProviderRejectedImage("side too short"))})
        answer = ask(router, "a")
        assert isinstance(answer, Hold)
        assert answer.reason == "provider_rejected_image"
        assert "side too short" in answer.detail

    def test_misconfigured_opens_at_once_and_loses_nothing(
        self, valkey: redis.Redis, logs: CapturingLogger
    ) -> None:
        """One refused key opens the breaker with one alarm; uploads go to the next provider."""
        router, providers = build(
            valkey, {"tencent": fail(ProviderMisconfigured("bad key")), "aliyun2": approve}
        )
        first = ask(router, "a")
        assert isinstance(first, Wait)
        assert first.tried == ()
        assert isinstance(ask(router, "a", tried=first.tried), Answered)
        assert isinstance(ask(router, "b"), Answered)
        (alarm,) = logs.calls
        assert (alarm.method_name, alarm.args) == ("error", ("review_provider_opened",))
        assert alarm.kwargs["error"] == "bad key"
        assert len(providers["tencent"].asked) == 1
        status = router.status()[0]
        assert status.state == "open"
        assert "bad key" in status.reason
        assert (status.calls_today, status.yuan_today) == (0, 0)

    def test_why_it_is_left_alone_is_said_in_the_readers_language(
        self, valkey: redis.Redis
    ) -> None:
        """The breaker keeps how the sentence was made, and so does what is held."""
        advice = say("{provider} {code}: {advice}", provider="x", code=403, advice=say("empty"))
        router, _ = build(valkey, {"tencent": fail(ProviderMisconfigured(advice))})
        ask(router, "a")
        status = router.status()[0]
        assert status.reason == "provider_misconfigured: x 403: empty"
        chinese = load_languages(timezone="UTC", currency="CNY")["zh-CN"]
        assert chinese.text(status.reason) == "provider_misconfigured：x 403：是空的"
        assert chinese.text(status.last_error) == chinese.text(status.reason)
        valkey.hset(f"{PREFIX}review:health:tencent", "reason", "as an old version wrote it")
        assert router.status()[0].reason == "as an old version wrote it"
        router, _ = build(valkey, {"aliyun2": fail(ProviderRejectedImage(say("too small")))})
        held = ask(router, "b")
        assert isinstance(held, Hold)
        assert chinese.text(held.detail) == "aliyun2 不审核这张图片：太小"

    def test_retry_after_is_honoured_for_all(self, valkey: redis.Redis) -> None:
        """A rate answer pauses the provider for everybody and counts no attempt."""
        router, providers = build(
            valkey, {"tencent": fail(ProviderRateLimited("slow down", retry_after_s=700))}
        )
        first, second = ask(router, "a"), ask(router, "b")
        assert isinstance(first, Wait)
        assert isinstance(second, Wait)
        assert 700 <= first.delay_s < 760
        assert first.tried == ()
        assert 600 < second.delay_s < 760
        assert second.why == "rate"
        assert len(providers["tencent"].asked) == 1
        assert router.status()[0].state == "paused"

    def test_too_long_a_wait_is_held(self, valkey: redis.Redis) -> None:
        """An upload that would wait past the limit goes to a person."""
        router, _ = build(
            valkey,
            {"tencent": fail(ProviderRateLimited("slow down", retry_after_s=7))},
            review_max_wait_s=60,
        )
        answer = ask(router, "a", waiting_since_s=55)
        assert isinstance(answer, Hold)
        assert answer.reason == "provider_wait_too_long"

    def test_a_picture_that_cannot_be_read_books_nothing(self, valkey: redis.Redis) -> None:
        """When the picture cannot be made the leave is given back and the error passes on."""
        router, providers = build(valkey, {"tencent": approve})

        def broken() -> bytes:
            raise StorageUnavailable("gone")

        with pytest.raises(StorageUnavailable):
            ask(router, "a", jpeg=broken)
        assert router.total_today() == (0, 0)
        assert router.status()[0].in_flight == 0
        assert providers["tencent"].asked == []
        assert isinstance(ask(router, "a"), Answered)

    def test_a_bug_of_an_adapter_is_an_answer_not_understood(self, valkey: redis.Redis) -> None:
        """An exception nobody foresaw is noted and booked, and then the next provider is asked."""

        def broken(_: str) -> Decision:
            raise ZeroDivisionError

        router, _ = build(valkey, {"tencent": broken, "aliyun2": approve})
        tried: tuple[str, ...] = ()
        for number in (1, 2):
            answer = ask(router, "a", tried=tried)
            assert isinstance(answer, Wait)
            tried = answer.tried
            assert tried == ("tencent:unknown",) * number
        status = router.status()[0]
        assert (status.in_flight, status.calls_today) == (0, 2)
        assert "ZeroDivisionError" in status.last_error
        last = ask(router, "a", tried=tried)
        assert isinstance(last, Answered)
        assert last.opinion.provider == "aliyun2"

    def test_an_answer_survives_a_redis_that_dies_meanwhile(
        self, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch, logs: CapturingLogger
    ) -> None:
        """What was paid for is used although it could not be put on file."""
        router, _ = build(valkey, {"tencent": approve})

        def gone(*_: object, **__: object) -> None:
            raise redis.ConnectionError

        monkeypatch.setattr(router._limits, "settle", gone)
        assert isinstance(ask(router, "a"), Answered)
        assert logs.calls[0].args == ("review_not_settled",)

    def test_a_dead_redis_is_a_transient_failure(self) -> None:
        """Without Redis the step fails in a way that is retried."""
        client = redis.Redis(unix_socket_path="/nowhere/redis.sock", decode_responses=True)
        router, _ = build(client, {"tencent": approve})
        with pytest.raises(StorageUnavailable):
            ask(router, "a")


class TestLimits:
    def test_rate(self, valkey: redis.Redis) -> None:
        """At one call in twenty seconds the second one waits until the first is that old."""
        router, providers = build(valkey, {"tencent": approve}, tencent_rate_per_s=0.05)
        assert isinstance(ask(router, 1), Answered)
        refused = ask(router, 2)
        assert isinstance(refused, Wait)
        assert refused.why == "rate"
        assert 10 < refused.delay_s < 21
        assert len(providers["tencent"].asked) == 1

    def test_waiters_are_spread_over_the_time_that_they_need(self, valkey: redis.Redis) -> None:
        """A thousand refused uploads come back over half of that time: two for each place."""
        draws = itertools.cycle(index / 100 for index in range(100))
        router, _ = build(
            valkey,
            {"tencent": approve},
            random=lambda: next(draws),
            tencent_rate_per_s=0.05,
            review_max_wait_s=1e6,
            review_patience_s=1e6,
        )
        answers = [ask(router, index) for index in range(1001)]
        delays_s = [answer.delay_s for answer in answers if isinstance(answer, Wait)]
        assert len(delays_s) == 1000
        assert router.status()[0].waiting == 1000
        assert max(delays_s) > 9_000
        assert max(delays_s) < 20.1 * 1000 / 2 + 21
        early = sum(delay_s < 1_000 for delay_s in delays_s[500:])
        assert early < 100, "who comes last does not all come back first"

    def test_who_asks_again_waits_once(self, valkey: redis.Redis) -> None:
        """However often an upload asks, it counts as one; when it is let through, as none."""
        router, _ = build(valkey, {"tencent": approve}, tencent_rate_per_s=0.05)
        ask(router, 1), ask(router, 2), ask(router, 3), ask(router, 3)
        assert router.status()[0].waiting == 2
        valkey.delete(f"{PREFIX}review:window:tencent")
        assert isinstance(ask(router, 3), Answered)
        assert router.status()[0].waiting == 1

    def test_who_has_waited_long_comes_back_sooner(self, valkey: redis.Redis) -> None:
        """Newcomers do not overtake for ever: an old upload asks up to four times as often."""
        router, _ = build(
            valkey, {"tencent": approve}, tencent_rate_per_s=1.0, review_patience_s=1e6
        )
        soon_us = int((time.time() + 5) * 1e6)
        valkey.zadd(
            f"{PREFIX}review:waiting:tencent", {f"one{index}": soon_us for index in range(100)}
        )
        ask(router, "first")
        new, old = ask(router, "new"), ask(router, "old", waiting_since_s=1000.0)
        assert isinstance(new, Wait)
        assert isinstance(old, Wait)
        assert old.delay_s < new.delay_s / 2

    def test_who_never_comes_back_is_forgotten(self, valkey: redis.Redis) -> None:
        """An upload that an operator decided meanwhile lengthens nobody's wait."""
        router, _ = build(valkey, {"tencent": approve}, tencent_rate_per_s=0.05)
        long_ago_us = int((time.time() - 61) * 1e6)
        gone = {f"gone{index}": long_ago_us for index in range(1000)}
        valkey.zadd(f"{PREFIX}review:waiting:tencent", gone)
        ask(router, 1)
        refused = ask(router, 2)
        assert isinstance(refused, Wait)
        assert refused.delay_s < 41

    def test_many_who_wait_are_a_reason_to_ask_the_next_provider(self, valkey: redis.Redis) -> None:
        """Patience counts the time that all who wait need, not only the next free place."""
        router, providers = build(
            valkey, {"tencent": approve, "aliyun2": approve}, tencent_rate_per_s=1.0
        )
        soon_us = int((time.time() + 5) * 1e6)
        crowd = {f"one{index}": soon_us for index in range(100)}
        valkey.zadd(f"{PREFIX}review:waiting:tencent", crowd)
        answer = ask(router, "a")
        assert isinstance(answer, Answered)
        assert answer.opinion.provider == "aliyun2"
        assert providers["tencent"].asked == []

    def test_concurrency_and_a_dead_holder(self, valkey: redis.Redis) -> None:
        """A full house refuses; the slot of a killed worker comes back by itself."""
        router, _ = build(valkey, {"tencent": approve}, tencent_concurrency=1)
        far_us = int((time.time() + 100) * 1e6)
        valkey.zadd(f"{PREFIX}review:slots:tencent", {"dead": far_us})
        refused = ask(router, "a")
        assert isinstance(refused, Wait)
        assert refused.why == "concurrency"
        valkey.zadd(f"{PREFIX}review:slots:tencent", {"dead": int((time.time() - 1) * 1e6)})
        valkey.delete(f"{PREFIX}review:waiting:tencent")
        assert isinstance(ask(router, "a"), Answered)

    def test_patience_decides_between_waiting_and_the_next_provider(
        self, valkey: redis.Redis
    ) -> None:
        """A short wait keeps the preferred provider, a long one passes on to the next."""
        given = {"tencent": fail(ProviderRateLimited("busy", retry_after_s=20)), "aliyun2": approve}
        router, _ = build(valkey, given, review_patience_s=30)
        ask(router, "a")
        assert isinstance(ask(router, "b"), Wait)
        impatient, _ = build(valkey, given, review_patience_s=5)
        answer = ask(impatient, "c")
        assert isinstance(answer, Answered)
        assert answer.opinion.provider == "aliyun2"


class TestBudget:
    def test_spent_holds(self, valkey: redis.Redis) -> None:
        """The call after the last one paid for is held, although another provider has budget."""
        router, providers = build(
            valkey, {"tencent": approve, "aliyun2": approve}, tencent_daily_calls=2
        )
        answers = [ask(router, index) for index in range(3)]
        assert isinstance(answers[2], Hold)
        assert answers[2].reason == "budget_spent"
        assert providers["aliyun2"].asked == []

    def test_spent_passes_to_another_provider(self, valkey: redis.Redis) -> None:
        """With other_provider the next one is asked until it has nothing left either."""
        router, providers = build(
            valkey,
            {"tencent": approve, "aliyun2": approve},
            tencent_daily_calls=2,
            aliyun2_daily_yuan=0.003,
            review_budget_spent="other_provider",
        )
        answers = [ask(router, index) for index in range(5)]
        assert [type(answer) for answer in answers] == [Answered] * 4 + [Hold]
        assert len(providers["aliyun2"].asked) == 2

    @pytest.mark.parametrize(
        ("probability", "kind"), [(0.29, Approve), (0.31, Hold)], ids=["below", "above"]
    )
    def test_spent_approves_below_the_declared_probability(
        self, valkey: redis.Redis, probability: float, kind: type
    ) -> None:
        """Only the declared rule approves unseen, and only below its number."""
        router, _ = build(
            valkey,
            {"tencent": approve},
            review_daily_calls=1,
            review_budget_spent="approve_below",
            review_approve_below=0.3,
        )
        ask(router, "a", probability=probability)
        assert isinstance(ask(router, "b", probability=probability), kind)

    @pytest.mark.parametrize(
        ("error", "billed"),
        [
            (ProviderUnavailable("connection refused"), 0),
            (ProviderRateLimited("busy"), 0),
            (ProviderRejectedImage("too small"), 0),
            (ProviderSilent("time-out"), 1),
            (ProviderAnswerUnknown("html"), 1),
        ],
        ids=lambda value: getattr(value, "code", value),
    )
    def test_refunds(self, valkey: redis.Redis, error: ModerationError, billed: int) -> None:
        """What was surely not billed is given back; what may have been is not."""
        router, _ = build(valkey, {"tencent": fail(error)})
        ask(router, "a")
        assert router.total_today() == (billed, pytest.approx(0.0015 * billed))

    def test_low_budget_is_told_once(self, valkey: redis.Redis, logs: CapturingLogger) -> None:
        """At 80 % of the calls one warning is logged and the status says low."""
        router, _ = build(valkey, {"tencent": approve}, tencent_daily_calls=10)
        for index in range(7):
            ask(router, index)
        assert not router.status()[0].low
        for index in range(7, 10):
            ask(router, index)
        assert router.status()[0].low
        (call,) = logs.calls
        assert (call.args, call.kwargs["budget"]) == (("review_budget_low",), "tencent")

    def test_a_day_ends_at_midnight_of_the_zone(self, valkey: redis.Redis) -> None:
        """The day's key carries the date in the budget's zone."""
        router, _ = build(valkey, {"tencent": approve}, review_budget_timezone="Pacific/Kiritimati")
        ask(router, "a")
        today = datetime.datetime.now(zoneinfo.ZoneInfo("Pacific/Kiritimati")).date()
        assert valkey.keys(f"{PREFIX}review:day:*") == [f"{PREFIX}review:day:{today}"]


class TestOneBookOfMoney:
    """Budget, ledger and metric say the same, whatever happens."""

    def test_every_way_a_call_can_end(self, valkey: redis.Redis) -> None:
        """Answered, unanswered, refunded, reused, checked by hand: three books, one sum."""
        endings: list[Decision | ModerationError] = [
            Decision.APPROVE,
            Decision.BLOCK,
            Decision.UNCERTAIN,
            ProviderSilent("silent"),
            ProviderAnswerUnknown("odd"),
            ProviderUnavailable("down"),
            ProviderRejectedImage("small"),
        ]
        script = iter(endings)
        router, _ = build(valkey, {"tencent": lambda _: next(script)}, tencent_rate_per_s=100)
        for index in range(len(endings)):
            ask(router, index)
        ask(router, 0), ask(router, 2)
        router._limits.book("tencent")
        assert books(valkey, router) == [(6, 9000)] * 2 + [(None, 9000)]

    def test_a_killed_worker(self, valkey: redis.Redis) -> None:
        """What was booked and never settled is told when its lease ends, once."""
        router, _ = build(valkey, {"tencent": approve}, tencent_yuan_per_1000=0.0015)
        leave = router._limits.admit(sha("a"), ["tencent"], opinions=0)
        assert isinstance(leave, Admitted)
        valkey.zadd(f"{PREFIX}review:slots:tencent", {leave.token: 1})
        ask(router, "b"), ask(router, "c")
        late = {"outcome": "answered", "billed": True}
        router._limits.settle(leave, sha("a"), **late)  # type: ignore[arg-type]
        assert books(valkey, router) == [(3, 6), (3, 6), (None, 6)]

    def test_the_ledger_knows_whose_picture_it_was(self, valkey: redis.Redis) -> None:
        """And what the provider said, raw, or why it said nothing."""
        endings: list[Decision | ModerationError] = [Decision.BLOCK, ProviderSilent("no answer")]
        script = iter(endings)
        router, _ = build(valkey, {"tencent": lambda _: next(script)})
        ask(router, "a"), ask(router, "b")
        first, second = rows(valkey)
        assert (first["kind"], first["upload_id"], first["to_state"]) == ("opinion", "a", "block")
        assert json.loads(first["detail"])["opinions"][0]["raw"] == {}
        assert (second["upload_id"], second["to_state"]) == ("b", "unanswered")
        assert "no answer" in second["detail"]
        assert first["sha256"] == sha("a")


class TestBreaker:
    def test_opens_on_failures_and_skips_to_the_next(self, valkey: redis.Redis) -> None:
        """Enough failed calls in a minute open it; later uploads go straight to the next one."""
        router, providers = build(
            valkey,
            {"tencent": fail(ProviderUnavailable("down")), "aliyun2": approve},
            review_breaker_calls=5,
        )
        for index in range(5):
            ask(router, index)
        assert router.status()[0].state == "open"
        assert isinstance(ask(router, "x"), Answered)
        assert len(providers["tencent"].asked) == 5

    def test_half_opens_with_one_probe_at_a_time(self, valkey: redis.Redis) -> None:
        """After the pause one call goes through; two good ones in a row close it."""
        state = {"up": False}
        gate = threading.Event()

        def answer(_: str) -> Decision | ModerationError:
            if not state["up"]:
                return ProviderUnavailable("down")
            gate.wait(20)
            return Decision.APPROVE

        router, providers = build(valkey, {"tencent": answer}, review_breaker_calls=2)
        ask(router, 1), ask(router, 2)
        assert router.status()[0].state == "open"
        refused = ask(router, 3)
        assert isinstance(refused, Wait)
        assert refused.why == "breaker"
        state["up"] = True
        self.end_pause(valkey)
        assert router.status()[0].state == "probing"
        results = []
        probe = threading.Thread(target=lambda: results.append(ask(router, 4)))
        probe.start()
        while len(providers["tencent"].asked) < 3:
            time.sleep(0.005)
        blocked = ask(router, 5)
        assert isinstance(blocked, Wait)
        assert blocked.why == "breaker"
        gate.set()
        probe.join()
        assert isinstance(results[0], Answered)
        assert router.status()[0].state == "probing"
        valkey.delete(f"{PREFIX}review:waiting:tencent")
        assert isinstance(ask(router, 6), Answered)
        assert router.status()[0].state == "ready"

    def test_a_failed_probe_doubles_the_pause(self, valkey: redis.Redis) -> None:
        """A provider that stays down is asked less and less often."""
        router, _ = build(
            valkey,
            {"tencent": fail(ProviderUnavailable("down"))},
            review_breaker_calls=1,
            review_breaker_open_s=100,
        )
        ask(router, 1)
        for pause_s in (200, 400, 600, 600):
            self.end_pause(valkey)
            ask(router, 2)
            clock = valkey.time()
            left_s = router.status()[0].until - (clock[0] + clock[1] / 1e6)
            assert left_s == pytest.approx(pause_s, abs=30)

    def test_a_late_answer_does_not_close_it(self, valkey: redis.Redis) -> None:
        """A call from before the failures that ends well proves nothing about now."""
        router, _ = build(
            valkey, {"tencent": fail(ProviderUnavailable("down"))}, review_breaker_calls=1
        )
        limits = router._limits
        early = limits.admit(sha("early"), ["tencent"], opinions=0)
        ask(router, 1)
        assert limits.settle(early, sha("early"), outcome="answered", billed=True).event == ""
        assert router.status()[0].state == "open"

    @staticmethod
    def end_pause(valkey: redis.Redis) -> None:
        """As if the time had passed."""
        valkey.hset(f"{PREFIX}review:health:tencent", "open_until", 1)
        valkey.delete(f"{PREFIX}review:waiting:tencent")

    def test_reset_closes_it(self, valkey: redis.Redis) -> None:
        """An operator who has mended the account need not wait."""
        router, _ = build(valkey, {"tencent": fail(ProviderMisconfigured("bad key"))})
        ask(router, "a")
        router._limits.reset("tencent")
        assert router.status()[0].state == "ready"


class TestRepeatedScripts:
    """The Redis client repeats a script whose reply was lost with the connection."""

    def test_admit_twice_books_once(self, valkey: redis.Redis) -> None:
        """The same token gets the same leave."""
        router, _ = build(valkey, {"tencent": approve})
        limits = router._limits
        days = limits._budget_days()
        question = limits._question(sha("a"), "token-1", ["tencent"], 0, 0.0, days)
        keys = [limits._key("opinions", sha("a")), limits._key("flight", sha("a"))]
        keys += [key for key, _ in days]
        keys += limits._books
        keys += [limits._key(kind, "tencent") for kind in ("window", "slots", "waiting", "health")]
        keys.append(limits._clock)
        first = limits._admit(keys=keys, args=[json.dumps(question)])
        assert first[0] == "go"
        assert limits._admit(keys=keys, args=[json.dumps(question)]) == first
        assert router.total_today()[0] == 1

    def test_settle_twice_refunds_once(self, valkey: redis.Redis) -> None:
        """The second settlement changes nothing."""
        router, _ = build(valkey, {"tencent": approve})
        limits = router._limits
        leave = limits.admit(sha("a"), ["tencent"], opinions=0)
        for _ in range(2):
            limits.settle(leave, sha("a"), outcome="failed", billed=False, error="x")
        assert router.total_today() == (0, 0)


class TestClocks:
    @pytest.mark.skipif(
        shutil.which("faketime") is None and "CI" not in os.environ,
        reason="faketime is not installed; on Debian: apt install faketime",
    )
    def test_a_host_whose_clock_is_days_off_spends_from_the_same_budget(
        self, valkey: redis.Redis
    ) -> None:
        """Only the server's clock says what day it is."""
        router, _ = build(valkey, {"tencent": approve}, review_daily_calls=2)
        assert isinstance(ask(router, "a"), Answered)

        code = (
            "import redis, sys, time\n"
            "from tests.providers.support import PREFIX, settings, sha\n"
            "from worker.review.limits import Limits\n"
            "client = redis.Redis(unix_socket_path=sys.argv[1], decode_responses=True)\n"
            "limits = Limits(client, PREFIX, settings(review_daily_calls=2), lambda: 0.5)\n"
            "for name in 'bc':\n"
            "    print(type(limits.admit(sha(name), ['tencent'], opinions=0)).__name__)\n"
        )
        path = valkey.connection_pool.connection_kwargs["path"]
        command = ["faketime", "+2 days", sys.executable, "-c", code, str(path)]
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert run.stdout.split() == ["Admitted", "Refused"], run.stderr
        assert router.total_today()[0] == 2


class TestBorders:
    def test_a_silent_crossing_is_refused(self, valkey: redis.Redis) -> None:
        """Naming an overseas provider for domestic pictures stops the start."""
        config = settings(
            review_domestic="huggingface", huggingface_token="hf_x", huggingface_endpoint=""
        )
        provider = ScriptedProvider(config, approve, name="huggingface", home=Region.OVERSEAS)
        with pytest.raises(ConfigurationError, match="domestic:huggingface"):
            Router(config, valkey, PREFIX, providers={"huggingface": provider})

    def test_an_explicit_crossing_is_allowed(self, valkey: redis.Redis) -> None:
        """The operator's word opens exactly one pair."""
        config = settings(review_domestic="huggingface", review_cross_border="domestic:huggingface")
        provider = ScriptedProvider(config, approve, name="huggingface", home=Region.OVERSEAS)
        router = Router(config, valkey, PREFIX, providers={"huggingface": provider})
        assert isinstance(ask(router, "a"), Answered)

    def test_every_key_has_the_prefix_and_an_end(self, valkey: redis.Redis) -> None:
        """Nothing is written outside the prefix and nothing lives for ever."""
        router, _ = build(valkey, {"tencent": approve}, tencent_rate_per_s=1)
        ask(router, "a"), ask(router, "b")
        keys = valkey.keys("*")
        assert keys
        assert all(key.startswith(PREFIX) for key in keys)
        shared = {f"{PREFIX}events", f"{PREFIX}metrics", f"{PREFIX}clock"}
        assert all(valkey.ttl(key) > 0 for key in set(keys) - shared)
        assert sha("a") in " ".join(keys)


def test_audits_have_a_budget_of_their_own_in_the_one_book(valkey: redis.Redis) -> None:
    """It bounds them alone, counts in the total, and gets back what was not billed."""
    answers: dict[str, Any] = {"n": Decision.APPROVE}
    router, _ = build(
        valkey,
        {"tencent": lambda _: answers["n"]},
        audit_daily_calls=2,
        review_budget_spent="approve_below",
        review_breaker_calls=100,
    )
    answers["n"] = ProviderUnavailable("503")
    assert isinstance(ask(router, "lost", is_audit=True), Wait)
    answers["n"] = Decision.APPROVE
    assert isinstance(ask(router, 1, is_audit=True), Answered)
    assert isinstance(ask(router, 2, is_audit=True), Answered)
    spent = ask(router, 3, is_audit=True, probability=0.0)
    assert isinstance(spent, Hold)
    assert (spent.reason, "for audit" in spent.detail) == ("budget_spent", True)
    assert isinstance(ask(router, "gray"), Answered)
    assert isinstance(ask(router, 1, is_audit=True), Answered)
    assert router.total_today()[0] == 3
    assert {money for _, money in books(valkey, router)} == {4500}
