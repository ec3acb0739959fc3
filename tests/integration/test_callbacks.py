"""Callbacks to real local servers, from the outbox to the dead letters."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from pydantic import SecretStr

from producer.contract import AvatarState, Priority, Stage
from producer.errors import CallbackFailed, CallbackRefused
from producer.metrics import Recorder
from producer.networks import parse_networks
from producer.record.dead_letters import DeadLetters
from producer.record.endpoints import Endpoints
from producer.record.keyspace import callback_line, endpoint_name
from producer.record.outbox import CallbackEntry
from producer.record.store import Lease, Store
from tests.integration.servers import Request, Server, serving
from tests.support import TOKEN, change, claim, events, places, submit, wait_until
from worker.callback import CallbackSender, CallbackStep, callback_rooms
from worker.consumer import Follow, LineDrain
from worker.demo.webhook_receiver import Receiver
from worker.outcomes import Outcomes


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Every route of these tests."""

    def huge(request: Request) -> None:
        request.send_response(200)
        request.send_header("content-length", str(10**9))
        request.end_headers()
        for _ in range(10**4):
            request.wfile.write(b"x" * 10**5)

    def endless(request: Request) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        request.drip(b"z" * 600, 0.05)

    with serving(
        ok=lambda r: r.answer(200),
        created=lambda r: r.answer(201, b"{}"),
        page=lambda r: r.answer(200, b"\n<!DOCTYPE HTML>\n<html>", content_type="text/html"),
        php=lambda r: r.answer(200, b"", content_type="text/html; charset=UTF-8"),
        gone=lambda r: r.answer(410),
        moved=lambda r: r.answer(301, location="/ok"),
        found=lambda r: r.answer(302, location="/ok"),
        bad=lambda r: r.answer(400),
        busy=lambda r: r.answer(429, retry_after="120"),
        closed=lambda r: r.answer(503, retry_after="Thu, 01 Jan 1970 00:01:00 GMT"),
        silent=lambda r: time.sleep(30),
        drip=lambda r: r.drip(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 600, 0.05),
        huge=huge,
        endless=endless,
    ) as server:
        yield server


def make_sender(
    secret: SecretStr | None = None, *networks: str, timeout_s: float = 0.6
) -> CallbackSender:
    """A sender with little patience."""
    return CallbackSender(
        [secret] if secret else [],
        allowed=parse_networks(networks or ("127.0.0.0/8",)),
        timeout_s=timeout_s,
    )


@pytest.fixture
def sender(secret: SecretStr) -> Iterator[CallbackSender]:
    """A sender to this machine."""
    sender = make_sender(secret)
    yield sender
    sender.close()


def entry(url: str, item: str = "a#2") -> CallbackEntry:
    """An outbox entry for a URL."""
    return CallbackEntry(
        item=item,
        upload_id=item.partition("#")[0],
        seq=2,
        url=url,
        endpoint=endpoint_name(url),
        data={"upload_id": "a", "state": "approved", "seq": 2},
        at=1.0,
        attempts=0,
        first_failed_at=None,
    )


class TestSender:
    @pytest.mark.parametrize(
        ("path", "status"), [("ok", 200), ("created", 201), ("huge", 200), ("endless", 200)]
    )
    def test_every_2xx_is_delivered(
        self, sender: CallbackSender, server: Server, path: str, status: int
    ) -> None:
        """Whatever the answer's body is, and however long."""
        started_s = time.monotonic()
        assert sender.deliver(entry(f"{server.url}/{path}"), now_s=time.time()).status == status
        assert time.monotonic() - started_s < 15

    def test_a_web_page_as_an_answer_is_noticed(
        self, sender: CallbackSender, server: Server
    ) -> None:
        """A server that gives its front page to everything has read nothing."""
        for path, is_page in (("page", True), ("php", False), ("created", False)):
            found = sender.deliver(entry(f"{server.url}/{path}"), now_s=time.time())
            assert (path, found.is_page) == (path, is_page)

    @pytest.mark.parametrize(
        ("path", "status", "retry_after_s"),
        [
            ("moved", 301, None),
            ("found", 302, None),
            ("bad", 400, None),
            ("busy", 429, 120.0),
            ("closed", 503, 60.0),
        ],
    )
    def test_every_other_answer_is_tried_again(
        self,
        sender: CallbackSender,
        server: Server,
        path: str,
        status: int,
        retry_after_s: float | None,
    ) -> None:
        """A redirect is not followed; Retry-After is read by the clock that is handed in."""
        before = len(server.seen)
        with pytest.raises(CallbackFailed, match=f"answers {status}") as caught:
            sender.deliver(entry(f"{server.url}/{path}"), now_s=0.0)
        assert (caught.value.status, caught.value.retry_after_s) == (status, retry_after_s)
        assert [path_ for _, path_, _ in server.seen[before:]] == [f"/{path}"]

    @pytest.mark.parametrize("path", ["silent", "drip"])
    def test_a_slow_server_has_only_so_long(
        self, sender: CallbackSender, server: Server, path: str
    ) -> None:
        """Also one that keeps sending a byte now and then."""
        started_s = time.monotonic()
        with pytest.raises(CallbackFailed, match="no answer: ReadTimeout"):
            sender.deliver(entry(f"{server.url}/{path}"), now_s=time.time())
        assert time.monotonic() - started_s < 15

    def test_gone_is_the_end(self, sender: CallbackSender, server: Server) -> None:
        """410: the server wants no more."""
        with pytest.raises(CallbackRefused, match="410 Gone") as caught:
            sender.deliver(entry(f"{server.url}/gone"), now_s=time.time())
        assert caught.value.gone

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "[::1]", "10.0.0.1"])
    def test_a_private_address_is_refused(self, server: Server, host: str) -> None:
        """By any spelling and by a name that leads there; nothing is sent."""
        sender, before = make_sender(None, "192.168.7.0/24"), len(server.seen)
        with pytest.raises(CallbackRefused, match="private address"):
            sender.deliver(entry(f"http://{host}:{server.port}/ok"), now_s=time.time())
        sender.close()
        assert len(server.seen) == before

    @pytest.mark.parametrize(
        "url", ["ftp://127.0.0.1/x", "http://0177.0.0.1/", "nonsense", "https://xn--/"]
    )
    def test_an_address_that_is_none_is_refused(self, sender: CallbackSender, url: str) -> None:
        """Trying again cannot help."""
        with pytest.raises(CallbackRefused):
            sender.deliver(
                CallbackEntry(**{**entry("http://x/").__dict__, "url": url}), now_s=time.time()
            )

    def test_the_receiver_accepts_the_signature(
        self, sender: CallbackSender, receiver: Receiver
    ) -> None:
        """The demo's web tier verifies with the standard's own library."""
        assert sender.deliver(entry(receiver.url), now_s=time.time()).status == 204
        assert [(r.verified, r.data["state"]) for r in receiver.received] == [(True, "approved")]

    def test_the_time_in_the_signature_is_the_stores(
        self, sender: CallbackSender, server: Server
    ) -> None:
        """A wrong clock on this host makes no stale signature."""
        headers: dict[str, str] = {}
        with serving(look=lambda r: (headers.update(r.headers), r.answer(200))) as looking:
            sender.deliver(entry(f"{looking.url}/look"), now_s=1_795_000_000.9)
        assert headers["webhook-timestamp"] == "1795000000"


class Desk:
    """Everything that delivers, on one store."""

    def __init__(self, store: Store, sender: CallbackSender) -> None:
        self.store = store
        self.sender = sender
        self.stop = threading.Event()
        self.letters = DeadLetters(store)
        self.endpoints = Endpoints(store, disable_after_s=86400.0)
        self.step = CallbackStep(
            store=store,
            sender=sender,
            outcomes=Outcomes(store, Recorder()),
            endpoints=self.endpoints,
            schedule_s=(5.0, 300.0),
            stop=self.stop,
            recorder=Recorder(),
        )

    def outbox(self, url: str, upload_id: str = "a") -> str:
        """One callback that is due; returns its line."""
        submit(self.store, upload_id)
        done = change(
            self.store, upload_id, AvatarState.APPROVED, leaves=Stage.MODERATE, callback_url=url
        )
        self.store.advance([done])
        return callback_line(endpoint_name(url))

    def once(self, line: str) -> None:
        """One attempt."""
        for lease in claim(self.store, line):
            self.step.handle(line, lease, "worker-1")

    def drain(self, handle: Callable[..., Any] | None = None, **options: Any) -> Any:
        """A drain over every open endpoint."""
        options = {"threads": 4, "lease_s": 30.0, **options}
        return LineDrain(
            store=self.store,
            lines=lambda: callback_rooms(self.endpoints.due(), 2),
            handle=handle or self.step.handle,
            **options,
        )


@pytest.fixture
def desk(store: Store, sender: CallbackSender) -> Desk:
    """A delivering desk."""
    return Desk(store, sender)


class TestStep:
    def test_delivered_is_done(self, desk: Desk, server: Server) -> None:
        """Nothing is left but the event."""
        line = desk.outbox(f"{server.url}/ok")
        desk.once(line)
        assert desk.store.outbox.get("a#2") is None
        assert places(desk.store, "a#2", line) == []
        assert events(desk.store)[-1]["to"] == "delivered"

    def test_a_failure_waits_for_its_next_attempt_and_then_is_a_dead_letter(
        self, desk: Desk, server: Server
    ) -> None:
        """The attempts are counted, the first failure is remembered, the last one is told."""
        line = desk.outbox(f"{server.url}/bad")
        for attempt in (1, 2):
            desk.once(line)
            waiting = desk.store.outbox.get("a#2")
            assert waiting is not None
            assert waiting.attempts == attempt
            assert places(desk.store, "a#2", line) == ["due:normal"]
            assert claim(desk.store, line) == []
            desk.store.redis.zadd(desk.store.key("due", line, "normal"), {"a#2": 0})
        desk.once(line)
        letter = desk.letters.get("a#2")
        assert letter is not None
        assert (letter.error, letter.attempts, letter.stage) == ("CallbackFailed", 3, "callback")
        assert letter.first_failed_at <= letter.last_failed_at
        assert places(desk.store, "a#2", line) == []
        [endpoint] = desk.endpoints.all()
        assert endpoint.failing_since is not None
        assert "400" in endpoint.last_error

    def test_retry_after_is_honoured(self, desk: Desk, server: Server) -> None:
        """Two minutes asked for are two minutes waited."""
        line = desk.outbox(f"{server.url}/busy")
        desk.once(line)
        due = desk.store.redis.zscore(desk.store.key("due", line, "normal"), "a#2")
        assert 115 < float(due or 0) - desk.store.now() < 150  # type: ignore[arg-type]

    def test_retry_after_is_bounded(self, desk: Desk, server: Server) -> None:
        """Eleven days asked for are an hour and its jitter."""
        with serving(long=lambda r: r.answer(503, retry_after="999999")) as asking:
            line = desk.outbox(f"{asking.url}/long")
            desk.once(line)
        due = desk.store.redis.zscore(desk.store.key("due", line, "normal"), "a#2")
        assert 3500 < float(due or 0) - desk.store.now() <= 3600 * 1.2  # type: ignore[arg-type]

    def postpone(self, desk: Desk, url: str, count: int) -> str:
        """Callbacks of `u0`, `u1`, ... that wait for an attempt in hours, the newest the first."""
        for number in range(count):
            line = desk.outbox(url, f"u{number}")
        due = desk.store.key("due", line, "normal")
        later = desk.store.now() + 9000
        desk.store.redis.zadd(due, {f"u{n}#2": later - 60 * n for n in range(count)})
        return line

    def test_the_first_success_after_an_outage_makes_what_waits_due(self, desk: Desk) -> None:
        """At once and the oldest first, not on the schedule of its own last failure."""
        status, heard = [500], []
        with serving(
            hook=lambda r: (
                heard.append(json.loads(r.seen[-1][2])["data"]["upload_id"]),
                r.answer(status[0]),
            )
        ) as web:
            line = self.postpone(desk, f"{web.url}/hook", 6)
            desk.outbox(f"{web.url}/hook", "probe")
            desk.once(line)
            assert claim(desk.store, line) == []
            status[0] = 200
            desk.store.redis.zadd(desk.store.key("due", line, "normal"), {"probe#2": 0})
            desk.once(line)
            desk.once(line)
        assert heard == ["probe", "probe", *(f"u{n}" for n in range(6))]
        assert desk.store.waiting(line) == {"waiting": 0, "leased": 0}

    @pytest.mark.parametrize("disabled", [True, False])
    def test_enabling_makes_what_waits_due(
        self, desk: Desk, server: Server, disabled: bool
    ) -> None:
        """Also where the endpoint only fails; the oldest first."""
        line = self.postpone(desk, f"{server.url}/ok", 3)
        name = line.partition(":")[2]
        desk.store.redis.hset(desk.store.key("endpoint", name), "failing_since", "1")
        if disabled:
            desk.store.redis.hset(desk.store.key("endpoint", name), "disabled", "410 Gone")
        assert desk.endpoints.due() == []
        assert desk.endpoints.enable(name) == disabled
        assert [lease.item for lease in claim(desk.store, line)] == ["u0#2", "u1#2", "u2#2"]

    @pytest.mark.parametrize("where", ["delivered", "waiting", "leased", "dead"])
    def test_sending_again_sends(self, desk: Desk, server: Server, where: str) -> None:
        """Wherever its callback is: due at once, in one place only, and no dead letter any more."""
        line = self.postpone(desk, f"{server.url}/ok", 1)
        due = desk.store.key("due", line, "normal")
        if where != "waiting":
            desk.store.redis.zadd(due, {"u0#2": 0})
            leases = claim(desk.store, line)
            waiting = desk.store.outbox.get("u0#2")
            assert waiting is not None
            if where == "delivered":
                desk.store.outbox.end(waiting, token=TOKEN, detail={})
            if where == "dead":
                letter: dict[str, Any] = {"item": "u0#2", "stage": "callback", "error": "x"}
                letter |= {
                    "message": "",
                    "attempts": 1,
                    "first_failed_at": 1.0,
                    "last_failed_at": 2.0,
                }
                desk.store.outbox.end(waiting, token=TOKEN, detail={}, bury=letter)
            assert [lease.item for lease in leases] == ["u0#2"]
        avatar = desk.store.get("u0")
        assert avatar is not None
        assert desk.store.outbox.resend(avatar, f"{server.url}/ok") == "u0#2"
        assert not desk.letters.is_buried("u0#2")
        expected = ["leased"] if where == "leased" else ["due:normal"]
        assert places(desk.store, "u0#2", line) == expected
        if where != "leased":
            assert [lease.item for lease in claim(desk.store, line)] == ["u0#2"]

    def test_gone_buries_and_disables(self, desk: Desk, server: Server) -> None:
        """The endpoint's other callbacks wait until an operator enables it."""
        line = desk.outbox(f"{server.url}/gone")
        desk.once(line)
        assert desk.letters.is_buried("a#2")
        desk.outbox(f"{server.url}/gone", "b")
        assert desk.endpoints.due() == []
        assert desk.endpoints.enable(line.partition(":")[2])
        [endpoint] = desk.endpoints.due()
        assert (endpoint.line, endpoint.failing_since) == (line, None)

    def test_a_forgotten_endpoint_leaves_nothing_and_may_come_back(
        self, desk: Desk, server: Server
    ) -> None:
        """Not while a callback waits, unless it is given up; a later one is delivered as ever."""
        line = desk.outbox(f"{server.url}/ok")
        name = line.partition(":")[2]
        assert desk.endpoints.forget(name, drop=False) == (False, 1)
        [lease] = claim(desk.store, line)
        assert desk.endpoints.forget(name, drop=True) == (False, 1)
        desk.store.put_back(
            line, lease.item, token=TOKEN, priority=Priority.NORMAL, delay_s=0.0, fields={}
        )
        assert desk.endpoints.forget(name, drop=True) == (True, 1)
        assert desk.endpoints.all() == []
        assert desk.store.outbox.get("a#2") is None
        keys = desk.store.redis.keys(desk.store.key("*"))
        assert not [key for key in keys if name in str(key)]  # type: ignore[union-attr]
        desk.once(desk.outbox(f"{server.url}/ok", "b"))
        assert desk.endpoints.forget(name, drop=False) == (True, 0)

    def test_an_endpoint_whose_callback_a_worker_died_with_can_be_forgotten(
        self, desk: Desk, server: Server
    ) -> None:
        """Though it is disabled, so that nobody takes the callback up."""
        line = desk.outbox(f"{server.url}/ok")
        name = line.partition(":")[2]
        claim(desk.store, line, lease_s=0.01)
        desk.store.redis.hset(desk.store.key("endpoint", name), "disabled", "410 Gone")
        time.sleep(0.05)
        assert desk.endpoints.forget(name, drop=True) == (True, 1)
        assert desk.store.waiting(line) == {"waiting": 0, "leased": 0}

    def test_a_letter_of_a_forgotten_endpoint_can_be_replayed(
        self, desk: Desk, server: Server
    ) -> None:
        """Its line is looked into again."""
        line = desk.outbox(f"{server.url}/gone")
        desk.once(line)
        assert desk.endpoints.forget(line.partition(":")[2], drop=False) == (True, 0)
        assert desk.letters.replay("a#2", by="ann")
        [endpoint] = desk.endpoints.due()
        assert (endpoint.line, endpoint.failing_since) == (line, None)

    def test_a_callback_that_kills_workers_is_quarantined(self, desk: Desk, server: Server) -> None:
        """After three deaths it is a dead letter; the endpoint is not blamed."""
        line = desk.outbox(f"{server.url}/ok")
        for _ in range(3):
            claim(desk.store, line, lease_s=0.001, token="dead")
            time.sleep(0.01)
        desk.once(line)
        letter = desk.letters.get("a#2")
        assert letter is not None
        assert letter.error == "WorkerKilled"
        assert desk.endpoints.all()[0].failing_since is None

    def test_a_replayed_letter_is_delivered_with_the_same_id(
        self, desk: Desk, receiver: Receiver, server: Server
    ) -> None:
        """The web tier can tell that it is the same transition."""
        line = desk.outbox(receiver.url)
        [lease] = claim(desk.store, line)
        waiting = desk.store.outbox.get("a#2")
        assert waiting is not None
        letter = {"item": "a#2", "stage": "callback", "error": "x", "message": "", "attempts": 1}
        letter |= {"first_failed_at": 1.0, "last_failed_at": 2.0}
        desk.store.outbox.end(waiting, token="worker-1", detail={}, bury=letter)
        assert desk.letters.replay(lease.item, by="ann")
        assert not desk.letters.replay(lease.item, by="ann")
        desk.once(line)
        assert [r.data["seq"] for r in receiver.received] == [2]

    def test_an_entry_that_is_gone_is_dropped(self, desk: Desk, server: Server) -> None:
        """Nothing is sent for what was delivered or discarded meanwhile."""
        line, before = desk.outbox(f"{server.url}/ok"), len(server.seen)
        desk.store.redis.delete(desk.store.key("callback", "a#2"))
        desk.once(line)
        assert places(desk.store, "a#2", line) == []
        assert len(server.seen) == before


class TestDrain:
    def test_one_slow_endpoint_does_not_hold_up_another(
        self, store: Store, secret: SecretStr, server: Server
    ) -> None:
        """While no slow callback has its answer, the quick ones all arrive."""
        desk, released = Desk(store, make_sender(secret, timeout_s=60)), threading.Event()
        with serving(slow=lambda r: (released.wait(60), r.answer(204))) as slow:
            for number in range(6):
                desk.outbox(f"{slow.url}/slow", f"slow{number}")
            lines = {desk.outbox(f"{server.url}/ok", f"quick{number}") for number in range(6)}
            drain = desk.drain()
            thread = threading.Thread(target=drain.drain, args=(desk.stop,))
            thread.start()
            wait_until(
                lambda: desk.store.waiting(next(iter(lines))) == {"waiting": 0, "leased": 0},
                30,
                "the quick ones are delivered",
            )
            desk.stop.set()
            released.set()
            thread.join(10)
            drain.close()
            desk.sender.close()

    def test_twenty_slow_endpoints_keep_to_their_places(
        self, store: Store, secret: SecretStr, server: Server
    ) -> None:
        """More than there are threads, known or new: ten quick ones arrive before any answers."""
        desk, released = Desk(store, make_sender(secret, timeout_s=120)), threading.Event()
        with contextlib.ExitStack() as stack:
            for number in range(20):
                slow = stack.enter_context(
                    serving(slow=lambda r: (released.wait(120), r.answer(204)))
                )
                for copy in range(3):
                    line = desk.outbox(f"{slow.url}/slow", f"slow{number}-{copy}")
                if number % 2:
                    name = desk.store.key("endpoint", line.partition(":")[2])
                    desk.store.redis.hset(name, mapping={"took_s": "0.01", "last_success_at": "1"})
            drain = desk.drain(aside=32, follows=True)
            thread = threading.Thread(target=drain.drain, args=(desk.stop,))
            thread.start()
            for number in range(10):
                line = desk.outbox(f"{server.url}/ok", f"quick{number}")
                drain.look()
                wait_until(
                    lambda: desk.store.waiting(line) == {"waiting": 0, "leased": 0},  # noqa: B023
                    60,
                    "the quick one is delivered",
                )
            desk.stop.set()
            released.set()
            thread.join(30)
            drain.close()
            desk.sender.close()

    def test_a_place_goes_on_with_its_line(
        self, desk: Desk, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With the end of one the next is taken: the loop takes the first ones only."""
        desk.once(desk.outbox(f"{server.url}/ok"))
        for number in range(20):
            line = desk.outbox(f"{server.url}/ok", f"u{number}")
        real = desk.store.claim_each
        taken: list[str] = []

        def claim_each(*args: Any, **options: Any) -> Any:
            found = real(*args, **options)
            taken.extend(lease.item for leases in found for lease in leases)
            return found

        monkeypatch.setattr(desk.store, "claim_each", claim_each)
        drain = desk.drain(follows=True)
        assert drain.drain(desk.stop) == 20
        drain.close()
        assert len(taken) <= 10
        assert desk.store.waiting(line) == {"waiting": 0, "leased": 0}

    def test_a_place_leaves_an_endpoint_that_was_disabled(self, desk: Desk, server: Server) -> None:
        """Within a look of the loop, although everything that is sent there is taken."""
        desk.once(desk.outbox(f"{server.url}/ok"))
        for number in range(200):
            line = desk.outbox(f"{server.url}/ok", f"u{number}")
        name = desk.store.key("endpoint", line.partition(":")[2])

        def handle(line: str, lease: Lease, token: str, follow: Follow | None) -> Lease | None:
            desk.store.redis.hset(name, "disabled", "410 Gone")
            time.sleep(0.05)
            return desk.step.handle(line, lease, token, follow)

        drain = desk.drain(handle, threads=1, follows=True)
        assert 0 < drain.drain(desk.stop) < 200
        drain.close()
        assert desk.store.waiting(line)["waiting"] > 0

    def test_a_line_without_a_place_has_its_turn(self, desk: Desk, server: Server) -> None:
        """Where there is one place, a busy line does not keep it until it is empty."""
        for number in range(40):
            desk.outbox(f"{server.url}/ok", f"u{number}")
        heard: list[int] = []
        with serving(other=lambda r: (heard.append(len(server.seen)), r.answer(200))) as other:
            before = len(server.seen)
            desk.outbox(f"{other.url}/other", "other")
            drain = desk.drain(threads=1, follows=True)
            assert drain.drain(desk.stop) == 41
            drain.close()
        [after] = heard
        assert after - before < 40

    def test_redis_going_away_leaves_nothing_in_hand_behind(
        self, desk: Desk, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A claim that fails does not forget what is being delivered: its lease is renewed."""
        released, held = threading.Event(), threading.Event()

        def handle(line: str, lease: Lease, token: str) -> None:
            held.set()
            released.wait(10)
            desk.step.handle(line, lease, token)

        line = desk.outbox(f"{server.url}/ok")
        drain = desk.drain(handle, lease_s=0.9)
        real = desk.store.claim

        def flaky(*args: Any, **options: Any) -> Any:
            if held.is_set() and not released.is_set():
                raise redis.ConnectionError("gone")
            return real(*args, **options)

        monkeypatch.setattr(desk.store, "claim", flaky)
        thread = threading.Thread(target=drain.drain, args=(desk.stop,))
        thread.start()
        assert held.wait(5)
        time.sleep(1.8)
        assert real(line, 1, lease_s=30, token="thief") == []
        released.set()
        thread.join(10)
        drain.close()
        assert desk.store.outbox.get("a#2") is None

    def test_a_stop_finishes_what_is_in_hand_and_takes_nothing_more(
        self, desk: Desk, server: Server
    ) -> None:
        """What is left stays due for the next worker."""
        seen: list[str] = []

        def handle(line: str, lease: Lease, token: str, follow: Follow | None) -> Lease | None:
            desk.stop.set()
            seen.append(lease.item)
            return desk.step.handle(line, lease, token, follow)

        for number in range(5):
            line = desk.outbox(f"{server.url}/ok", f"u{number}")
        drain = desk.drain(handle, threads=1, follows=True)
        assert drain.drain(desk.stop) == 1
        drain.close()
        assert len(seen) == 1
        assert desk.store.waiting(line) == {"waiting": 4, "leased": 0}


def test_bodies_are_what_was_true_at_the_transition(desk: Desk) -> None:
    """Two transitions, two bodies, in one line: the later one does not rewrite the earlier."""
    bodies: list[dict[str, Any]] = []
    with serving(look=lambda r: (bodies.append(json.loads(r.seen[-1][2])), r.answer(200))) as look:
        line = desk.outbox(f"{look.url}/look")
        desk.store.advance(
            [change(desk.store, "a", AvatarState.BLOCKED, callback_url=f"{look.url}/look")]
        )
        desk.once(line)
    told = sorted((body["data"]["seq"], body["data"]["state"]) for body in bodies)
    assert told == [(2, "approved"), (3, "blocked")]
    times = [datetime.fromisoformat(body["timestamp"]) for body in bodies]
    assert all(when.tzinfo == UTC for when in times)
