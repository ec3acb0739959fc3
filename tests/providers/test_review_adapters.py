"""Every adapter against a stub that speaks its wire and checks its signature."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

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
)
from producer.findings import Decision, Opinion
from tests.providers.stub import Call, Response, Stub
from tests.providers.support import settings, sha, tiny_jpeg
from tests.providers.wires import SECRET, WIRES, Wire
from worker.review.providers.base import ReviewProvider
from worker.review.registry import build_providers

# The SDKs keep sockets that nothing can close; the collector finds them and Python complains.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Bench:
    """One provider's adapter in front of its stub."""

    def __init__(self, wire: Wire, stub: Stub) -> None:
        self.wire = wire
        self.stub = stub
        self.built: list[ReviewProvider] = []
        self.adapter: ReviewProvider = self.build()

    def build(self, **values: Any) -> ReviewProvider:
        name = self.wire.name
        given = {
            "review_domestic": (name,),
            "review_timeout_s": 20.0,
            **self.wire.settings(self.stub.url),
            **values,
        }
        self.built.append(build_providers(settings(**given))[name])
        return self.built[-1]

    def ask(self, scenario: str = "clean", **values: Any) -> Opinion:
        self.wire.scenario = scenario
        adapter = self.build(**values) if values else self.adapter
        return adapter.review(tiny_jpeg(), data_id=sha("x")[:32])


@pytest.fixture(scope="module")
def benches() -> Iterator[Callable[[type[Wire]], Bench]]:
    """One stub and one adapter for each provider: building the SDKs' clients takes a while."""
    made: dict[str, Bench] = {}
    with contextlib.ExitStack() as stack:

        def get(kind: type[Wire]) -> Bench:
            if kind.name not in made:
                wire = kind()
                made[kind.name] = Bench(wire, stack.enter_context(Stub(wire.respond)))
            return made[kind.name]

        yield get
        for bench in made.values():
            for adapter in bench.built:
                adapter.close()
    made.clear()
    gc.collect()


@pytest.fixture(params=WIRES, ids=lambda wire: wire.name)
def bench(
    request: pytest.FixtureRequest,
    benches: Callable[[type[Wire]], Bench],
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    bench = benches(request.param)
    bench.wire.reset()
    bench.stub.calls.clear()
    return bench


class TestEveryAdapter:
    @pytest.mark.parametrize(
        ("scenario", "decision"),
        [
            ("clean", Decision.APPROVE),
            ("explicit", Decision.BLOCK),
            ("gray", Decision.UNCERTAIN),
        ],
    )
    def test_verdicts(self, bench: Bench, scenario: str, decision: Decision) -> None:
        """A signed request is answered; the answer becomes our word, with its evidence."""
        opinion = bench.ask(scenario)
        assert opinion.decision is decision
        assert opinion.provider == bench.wire.name
        assert opinion.request_id
        assert opinion.raw
        assert opinion.latency_s > 0
        assert opinion.score is None or 0 <= opinion.score <= 1
        assert bench.wire.judged == 1
        Opinion.from_dict(opinion.to_dict())

    @pytest.mark.parametrize("scenario", ["unknown_label", "unknown_verdict", "missing"])
    def test_an_unknown_answer_never_approves(self, bench: Bench, scenario: str) -> None:
        """What the tables do not know is uncertain or a typed failure."""
        decision = None
        with contextlib.suppress(ProviderAnswerUnknown, ProviderMisconfigured):
            decision = bench.ask(scenario).decision
        assert decision in (None, Decision.UNCERTAIN)
        assert bench.wire.judged == 1

    @pytest.mark.parametrize(
        ("scenario", "kind"),
        [
            ("throttled", ProviderRateLimited),
            ("5xx", ProviderUnavailable),
            ("business_error", ProviderUnavailable),
            ("not_activated", ProviderMisconfigured),
            ("rejected", ProviderRejectedImage),
            ("odd_code", ProviderAnswerUnknown),
            ("html", ProviderAnswerUnknown),
        ],
    )
    def test_failures(self, bench: Bench, scenario: str, kind: type[ModerationError]) -> None:
        """Each failure has its type, is asked for once, and the next call works."""
        with pytest.raises(kind) as caught:
            bench.ask(scenario)
        assert type(caught.value) is kind
        assert bench.wire.judged == 1
        assert str(caught.value).startswith(bench.wire.name)
        assert SECRET not in str(caught.value)
        assert bench.ask("clean").decision is Decision.APPROVE
        assert bench.wire.judged == 2

    def test_a_proxys_error_page_is_no_verdict(self, bench: Bench) -> None:
        """HTML with status 502 is a transient failure."""
        with pytest.raises((ProviderUnavailable, ProviderAnswerUnknown)):
            bench.ask("html_502")
        assert bench.wire.judged == 1

    def test_a_silent_provider(self, bench: Bench) -> None:
        """No answer in time is told apart: the call may be billed."""
        started_s = time.monotonic()
        with pytest.raises(ProviderSilent):
            bench.ask("timeout", review_timeout_s=0.7)
        assert time.monotonic() - started_s < 15
        assert bench.wire.judged == 1

    def test_a_dripping_answer_meets_the_deadline(self, bench: Bench) -> None:
        """A reply that comes byte by byte outlives read time-outs, not the deadline."""
        started_s = time.monotonic()
        with pytest.raises(ProviderSilent):
            bench.ask("drip", review_timeout_s=0.7)
        assert time.monotonic() - started_s < 15

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_a_redirect_is_never_followed(self, bench: Bench, status: int) -> None:
        """A picture goes where the settings say and nowhere else; no other host is believed."""
        with Stub(lambda call: bench.wire.play("clean", call)) as elsewhere:
            headers = {"Location": f"{elsewhere.url}/moved", "Content-Type": "application/json"}
            bench.wire.edit = lambda clean: dataclasses.replace(
                clean, status=status, headers=headers
            )
            with pytest.raises(ProviderAnswerUnknown, match=str(status)):
                bench.ask("clean")
            assert elsewhere.calls == []
        assert bench.wire.judged == 1

    @pytest.mark.parametrize("status", [201, 202, 203, 206])
    def test_only_status_200_is_an_answer(self, bench: Bench, status: int) -> None:
        """A good body under another status is none."""
        bench.wire.edit = lambda clean: dataclasses.replace(clean, status=status)
        with pytest.raises(ProviderAnswerUnknown):
            bench.ask("clean")

    def test_a_cut_answer_is_none(self, bench: Bench) -> None:
        """Whatever stands in the part that came."""
        bench.wire.edit = lambda clean: dataclasses.replace(clean, length=len(clean.body) + 1)
        with pytest.raises(ProviderSilent):
            bench.ask("clean")

    def test_the_deadline_closes_the_socket(self, bench: Bench) -> None:
        """A reply without end is not read on after the call was given up."""
        bench.stub.hung_up.clear()
        bench.wire.edit = lambda clean: dataclasses.replace(
            clean, length=2**19, for_ever=b" " * 100
        )
        with pytest.raises(ProviderSilent):
            bench.ask("clean", review_timeout_s=0.7)
        assert bench.stub.hung_up.wait(10)

    @pytest.mark.parametrize("packed", [gzip.compress(bytes(16 * 2**20)), b"{}"])
    def test_a_bomb_and_a_false_gzip_are_not_understood(self, bench: Bench, packed: bytes) -> None:
        """Neither fills the memory nor ends in an error that nobody expects."""
        bench.wire.edit = lambda clean: dataclasses.replace(
            clean, body=packed, headers={**clean.headers, "Content-Encoding": "gzip"}
        )
        with pytest.raises(ProviderAnswerUnknown):
            bench.ask("clean")

    def test_more_than_a_mebibyte_is_not_read(self, bench: Bench) -> None:
        """Even if it is what was asked for, with blanks."""
        bench.wire.edit = lambda clean: dataclasses.replace(clean, body=clean.body + b" " * 2**20)
        with pytest.raises(ProviderAnswerUnknown):
            bench.ask("clean")

    @pytest.mark.parametrize(
        "body", [b"[]", b"null", b'"approve"', b"0", b"[[[]]]", b"{}", b"\xff"]
    )
    def test_json_of_another_shape_is_not_understood(self, bench: Bench, body: bytes) -> None:
        """No adapter stumbles over it."""
        bench.wire.edit = lambda clean: dataclasses.replace(clean, body=body)
        with pytest.raises(ProviderAnswerUnknown):
            bench.ask("clean")

    @pytest.mark.parametrize(
        "value", ["\u00b2", "-1", "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT", "soon"]
    )
    def test_no_retry_after_breaks_an_adapter(self, bench: Bench, value: str) -> None:
        """Whatever stands there, the failure keeps its type and its pause has an end."""
        bench.wire.edit = lambda busy: dataclasses.replace(
            busy, headers={**busy.headers, "Retry-After": value}
        )
        with pytest.raises(ProviderRateLimited) as caught:
            bench.ask("throttled")
        pause_s = caught.value.retry_after_s
        assert pause_s is None or 0 <= pause_s <= 86_400

    def test_nobody_listens(self, bench: Bench) -> None:
        """A refused connection is surely not billed."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        endpoint = {f"{bench.wire.name}_endpoint": f"http://127.0.0.1:{port}"}
        with pytest.raises(ProviderUnavailable) as caught:
            bench.ask("clean", **endpoint)
        assert type(caught.value) is ProviderUnavailable

    def test_a_wrong_secret_says_what_to_fix(self, bench: Bench) -> None:
        """The stub's own signature differs; the message names the variable."""
        secret = list(bench.wire.keys)[-1]
        with pytest.raises(ProviderMisconfigured) as caught:
            bench.ask("clean", **{secret: "another-secret-0123456789"})
        assert "AVATARMOD_" in str(caught.value)
        assert "another-secret" not in str(caught.value)
        assert bench.wire.judged == 0

    def test_a_clock_that_is_off(self, bench: Bench) -> None:
        """Stale signatures are refused, and the message speaks of the clock."""
        if bench.wire.name in ("cloudflare", "huggingface"):
            pytest.skip("bearer tokens carry no time")
        bench.wire.clock_s = 3600
        with pytest.raises(ProviderMisconfigured, match="clock"):
            bench.ask("clean")

    def test_four_threads_share_one_client(self, bench: Bench) -> None:
        """One adapter serves four threads at once."""
        results: list[Opinion] = []

        def run() -> None:
            for _ in range(5):
                results.append(bench.adapter.review(tiny_jpeg(), data_id="abc"))

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 20
        assert bench.wire.judged == 20

    def test_missing_keys_are_named(self, bench: Bench) -> None:
        """Without keys the process does not start, and says which variables to set."""
        if bench.wire.name == "rekognition":
            pytest.skip("boto3 searches for keys itself")
        with pytest.raises(ConfigurationError) as caught:
            bench.build(**dict.fromkeys(bench.wire.keys, ""))
        for name in bench.wire.keys:
            assert f"AVATARMOD_{name.upper()}" in str(caught.value)

    def test_not_a_jpeg_is_refused_before_sending(self, bench: Bench) -> None:
        """The adapter sends normalised pictures only."""
        with pytest.raises(ProviderRejectedImage, match="JPEG"):
            bench.adapter.review(b"GIF89a....", data_id="abc")
        assert bench.stub.calls == []

    def test_rules_change_with_what_shapes_an_opinion(self, bench: Bench) -> None:
        """The hash is stable, short, and holds no secret."""
        assert bench.adapter.rules == bench.build().rules
        assert len(bench.adapter.rules) == 12


def one(name: str) -> Any:
    """Only this provider's bench."""
    wires = [wire for wire in WIRES if wire.name == name]
    return pytest.mark.parametrize("bench", wires, indirect=True, ids=[name])


@pytest.mark.parametrize(
    "bench", [wire for wire in WIRES if wire.name.startswith("aliyun")], indirect=True
)
class TestTemporaryBucket:
    """What both adapters of Alibaba Cloud do before they ask."""

    @pytest.mark.parametrize("step", ["keys", "upload"])
    def test_no_step_follows_a_redirect(self, bench: Bench, step: str) -> None:
        """Neither the request for keys nor the upload of the picture goes to another host."""
        with Stub(bench.wire.respond) as elsewhere:

            def respond(call: Call) -> Response:
                if (call.method == "PUT") is (step == "upload"):
                    return Response(307, b"", {"Location": f"{elsewhere.url}{call.target}"})
                return bench.wire.respond(call)

            bench.stub.respond = respond
            try:
                with pytest.raises((ProviderUnavailable, ProviderAnswerUnknown)):
                    bench.build().review(tiny_jpeg(), data_id="abc")
            finally:
                bench.stub.respond = bench.wire.respond
            assert elsewhere.calls == []
        assert bench.wire.judged == 0

    def test_an_upload_without_end_is_not_billed(self, bench: Bench) -> None:
        """The bucket's answer is cut; nothing was judged."""

        def respond(call: Call) -> Response:
            if call.method == "PUT":
                return Response(200, b"x", length=100)
            return bench.wire.respond(call)

        bench.stub.respond = respond
        try:
            with pytest.raises(ProviderUnavailable, match="bucket") as caught:
                bench.build().review(tiny_jpeg(), data_id="abc")
        finally:
            bench.stub.respond = bench.wire.respond
        assert type(caught.value) is ProviderUnavailable


@one("aliyun")
class TestAliyun:
    def test_keys_are_fetched_once(self, bench: Bench) -> None:
        """Upload keys are kept: three pictures need one credential call, three uploads."""
        adapter = bench.build()
        for _ in range(3):
            adapter.review(tiny_jpeg(), data_id="abc")
        targets = [call.target.split("?")[0] for call in bench.stub.calls]
        assert targets.count("/green/credentials/uploadcredentials") == 1
        assert len([call for call in bench.stub.calls if call.method == "PUT"]) == 3

    def test_a_failed_upload_is_not_a_verdict(self, bench: Bench) -> None:
        """The bucket's 503 is transient, judged nothing, and fresh keys are used next time."""
        bench.wire.bucket.fails = 1
        with pytest.raises(ProviderUnavailable, match="bucket"):
            bench.ask("clean")
        assert bench.wire.judged == 0
        assert bench.ask("clean").decision is Decision.APPROVE

    def test_a_signature_error_without_a_colon(self, bench: Bench) -> None:
        """The SDK's IndexError is understood as the wrong secret it is."""
        bench.wire.has_colon = False
        with pytest.raises(ProviderMisconfigured, match="ACCESS_KEY_SECRET"):
            bench.ask("clean", aliyun_access_key_secret="another-secret-0123456789")

    @pytest.mark.parametrize(
        ("scenario", "kind"),
        [
            ("two_tasks", ProviderAnswerUnknown),
            ("other_scene", ProviderAnswerUnknown),
            ("request_code", ProviderMisconfigured),
            ("gateway_throttled", ProviderRateLimited),
            ("forbidden", ProviderMisconfigured),
        ],
    )
    def test_its_own_failures(self, bench: Bench, scenario: str, kind: type) -> None:
        """Gateway and body layers are both read."""
        with pytest.raises(kind):
            bench.ask(scenario)

    def test_https_is_the_default(self, bench: Bench) -> None:
        """Without an endpoint of the operator's the SDK is told https, which it does not assume."""
        adapter = bench.build(aliyun_endpoint="")
        assert adapter._scheme == "https"
        assert adapter._host == "green.cn-shanghai.aliyuncs.com"

    def test_region_and_home(self, bench: Bench) -> None:
        """A wrong region is named; Singapore is overseas."""
        with pytest.raises(ConfigurationError, match="cn-shangai"):
            bench.build(aliyun_region="cn-shangai", aliyun_endpoint="")
        assert bench.build().home is Region.DOMESTIC
        assert bench.build(aliyun_region="ap-southeast-1").home is Region.OVERSEAS


@one("aliyun2")
class TestAliyun2:
    @pytest.mark.parametrize(
        ("scenario", "decision"),
        [
            ("mild_porn", Decision.UNCERTAIN),
            ("underage", Decision.BLOCK),
            ("advert", Decision.APPROVE),
            ("two_labels", Decision.UNCERTAIN),
            ("allowed", Decision.APPROVE),
        ],
    )
    def test_labels(self, bench: Bench, scenario: str, decision: Decision) -> None:
        """Only sexual labels count, the worst one decides."""
        assert bench.ask(scenario).decision is decision

    @pytest.mark.parametrize(
        ("scenario", "kind"),
        [
            ("no_level", ProviderAnswerUnknown),
            ("gateway_throttled", ProviderRateLimited),
            ("forbidden", ProviderMisconfigured),
        ],
    )
    def test_its_own_failures(self, bench: Bench, scenario: str, kind: type) -> None:
        """Throttling comes as a client error; the code decides."""
        with pytest.raises(kind):
            bench.ask(scenario)

    def test_the_avatar_service_is_mainland_only(self, bench: Bench) -> None:
        """ProfilePhotoCheck outside the mainland is refused at start."""
        with pytest.raises(ConfigurationError, match="profilePhotoCheck"):
            bench.build(aliyun2_region="ap-southeast-1")


@one("tencent")
class TestTencent:
    @pytest.mark.parametrize(
        ("scenario", "decision"),
        [
            ("advert", Decision.UNCERTAIN),
            ("two_labels", Decision.BLOCK),
            ("pass_porn", Decision.UNCERTAIN),
        ],
    )
    def test_labels(self, bench: Bench, scenario: str, decision: Decision) -> None:
        """A block for an advertisement asks a person; a porn scene below it blocks."""
        assert bench.ask(scenario).decision is decision

    @pytest.mark.parametrize(
        ("scenario", "kind"),
        [
            ("charset", ProviderAnswerUnknown),
            ("busy", ProviderUnavailable),
            ("sold_out", ProviderMisconfigured),
            ("bad_request", ProviderMisconfigured),
        ],
    )
    def test_its_own_failures(self, bench: Bench, scenario: str, kind: type) -> None:
        """An error the SDK overlooks because of its content type is no verdict."""
        with pytest.raises(kind):
            bench.ask(scenario)

    def test_below_the_floor(self, bench: Bench) -> None:
        """A picture below 51 px is refused here, with the floor in the message."""
        with pytest.raises(ProviderRejectedImage, match="51 px"):
            bench.adapter.review(tiny_jpeg(50, 200), data_id="abc")
        assert bench.stub.calls == []


@one("cloudflare")
class TestCloudflare:
    @pytest.mark.parametrize(
        ("scenario", "kind"),
        [
            ("quota", ProviderMisconfigured),
            ("overloaded", ProviderUnavailable),
            ("too_large", ProviderRejectedImage),
            ("agree", ProviderMisconfigured),
            ("bad_account", ProviderMisconfigured),
            ("not_success", ProviderAnswerUnknown),
            ("result_list", ProviderAnswerUnknown),
        ],
    )
    def test_its_own_failures(self, bench: Bench, scenario: str, kind: type) -> None:
        """Status and code decide together: 5012 is ours with 422, theirs with 529."""
        with pytest.raises(kind):
            bench.ask(scenario)

    def test_retry_after(self, bench: Bench) -> None:
        """The pause asked for reaches the router."""
        with pytest.raises(ProviderRateLimited) as caught:
            bench.ask("retry_after")
        assert caught.value.retry_after_s == 17

    def test_impossible_settings(self, bench: Bench) -> None:
        """A model that answers prose, a strange account and crossed cut-offs are refused."""
        for values in (
            {"cloudflare_model": "@cf/microsoft/resnet-50"},
            {"cloudflare_account_id": "my account"},
            {"cloudflare_approve_to": 0.9},
        ):
            with pytest.raises(ConfigurationError, match=next(iter(values)).upper()):
                bench.build(**values)


@one("huggingface")
class TestHuggingFace:
    def test_nested_answer(self, bench: Bench) -> None:
        """The older list of lists is read too."""
        assert bench.ask("nested").decision is Decision.APPROVE

    def test_a_missing_label_is_a_wrong_setting(self, bench: Bench) -> None:
        """Not zero: the message lists the model's labels."""
        with pytest.raises(ProviderMisconfigured, match="label_0, label_1"):
            bench.ask("unknown_label")

    def test_loading_and_retry_after(self, bench: Bench) -> None:
        """The time a cold endpoint names is handed on."""
        with pytest.raises(ProviderUnavailable) as caught:
            bench.ask("loading")
        assert caught.value.retry_after_s == 20
        with pytest.raises(ProviderRateLimited) as caught:
            bench.ask("retry_after")
        assert caught.value.retry_after_s == 17

    def test_serverless_address(self, bench: Bench) -> None:
        """Without an endpoint the serverless road is taken."""
        adapter = bench.build(huggingface_endpoint="")
        assert adapter._url == (
            "https://router.huggingface.co/hf-inference/models/Falconsai/nsfw_image_detection"
        )


@one("rekognition")
class TestRekognition:
    @pytest.mark.parametrize(
        ("scenario", "decision"),
        [
            ("unknown_leaf", Decision.BLOCK),
            ("mixed_leaf", Decision.UNCERTAIN),
            ("swimwear", Decision.APPROVE),
            ("pills", Decision.APPROVE),
            ("suggestive", Decision.UNCERTAIN),
            ("bare_back", Decision.APPROVE),
            ("drawn", Decision.UNCERTAIN),
            ("gore", Decision.UNCERTAIN),
        ],
    )
    def test_labels(self, bench: Bench, scenario: str, decision: Decision) -> None:
        """The taxonomy decides by branch; drawings go to a person where photos are blocked."""
        opinion = bench.ask(scenario)
        assert opinion.decision is decision
        assert opinion.model_version == "7.0"

    @pytest.mark.parametrize(
        ("scenario", "kind"),
        [("provisioned", ProviderRateLimited), ("expired", ProviderMisconfigured)],
    )
    def test_its_own_failures(self, bench: Bench, scenario: str, kind: type) -> None:
        """Throttling has two names, one of them with status 500."""
        with pytest.raises(kind):
            bench.ask(scenario)

    def test_half_a_key_pair(self, bench: Bench) -> None:
        """An id without its secret is refused at start."""
        with pytest.raises(ConfigurationError, match="SECRET_ACCESS_KEY"):
            bench.build(rekognition_secret_access_key=None)

    def test_below_the_floor(self, bench: Bench) -> None:
        """A picture below 80 px is refused here: the service's own answer would not say why."""
        with pytest.raises(ProviderRejectedImage, match="80 px"):
            bench.adapter.review(tiny_jpeg(79, 200), data_id="abc")
