"""Whatever one client sends, and however slowly, the others are answered."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi.responses import PlainTextResponse, Response
from fastapi.testclient import TestClient
from starlette.concurrency import run_in_threadpool

from producer.errors import StorageUnavailable
from producer.logs import configure_logging
from producer.web import connections, middleware
from producer.web.headers import SECURITY_HEADERS
from producer.web.limits import NoSlot, Slots, network_of
from producer.web.problems import Problem
from tests.integration.web.conftest import Serve, show_worker, store_of, with_key
from tests.support import wait_until
from worker.commands.api import make_config

GET = b"GET /healthz HTTP/1.1\r\nhost: a\r\n"


@pytest.fixture
def live(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """The API behind a real socket, with short deadlines."""
    for name, value in {"HEAD_S": 0.6, "UNREAD_S": 0.6, "LINGER_S": 0.6, "LOOK_S": 0.05}.items():
        monkeypatch.setattr(connections, name, value)
    with listening(serve()) as address:
        yield address


@contextlib.contextmanager
def listening(client: TestClient) -> Iterator[tuple[str, int]]:
    """The client's API behind a real socket, as `avatarmod api` serves it."""
    app: Any = client.app
    settings = app.state.services.settings
    # As the real one logs: what is not configured draws local variables, which takes seconds.
    configure_logging(settings, process="api")
    server = uvicorn.Server(make_config(app, settings))
    server.config.lifespan = "off"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        wait_until(lambda: server.started, 30, "the server listens")
        yield listener.getsockname()
        server.should_exit = True
        thread.join(20)


def talk(address: tuple[str, int], *parts: bytes, pause_s: float = 0.0) -> bytes:
    """Send parts; what is answered until the server closes, within 10 s."""
    with socket.create_connection(address, timeout=60) as client:
        with contextlib.suppress(OSError):
            for part in parts:
                client.sendall(part)
                time.sleep(pause_s)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(65536):
                answer += part
        return answer


def is_well(address: tuple[str, int]) -> bool:
    """Whether the service answers others."""
    url = f"http://{address[0]}:{address[1]}/healthz"
    return httpx.get(url, trust_env=False, timeout=30).status_code == 200


@pytest.mark.parametrize(
    "parts",
    [
        (GET, b"x: " + b"a" * 300_000),
        (GET, b"".join(b"x%d: 1\r\n" % n for n in range(200)), b"\r\n"),
        (b"GET /" + b"a" * 100_000, b" HTTP/1.1\r\nhost: a\r\n\r\n"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: ", *[b"a" * 9000] * 20),
    ],
    ids=["long", "many", "path", "in pieces"],
)
def test_a_head_without_an_end_is_refused(live: tuple[str, int], parts: tuple[bytes, ...]) -> None:
    """One header, many headers or an address beyond 32 kB answer 431, and the connection ends."""
    answer = talk(live, *parts)
    assert answer.startswith(b"HTTP/1.1 431 ") or answer == b""
    assert is_well(live)


def test_the_refusal_has_the_security_headers(live: tuple[str, int]) -> None:
    """Also what is answered before any application saw it."""
    for sent in (b"nonsense\r\n\r\n", GET + b"x: " + b"a" * 40_000 + b"\r\n"):
        answer = talk(live, sent).lower()
        assert answer.startswith((b"http/1.1 400 ", b"http/1.1 431 "))
        for name in SECURITY_HEADERS:
            assert b"\r\n%s:" % name.encode() in answer


@pytest.mark.parametrize("sent", [b"", b"GET", GET, b"\r\n"])
def test_half_a_head_is_not_waited_for(live: tuple[str, int], sent: bytes) -> None:
    """A connection that says nothing, or not all, is told 408 and closed in time."""
    started_s = time.monotonic()
    answer = talk(live, sent)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - started_s < 15


def test_a_dripping_head_is_not_waited_for(live: tuple[str, int]) -> None:
    """A byte now and then does not lengthen the time, on a used connection neither."""
    started_s = time.monotonic()
    talk(live, *[b"G"] * 1, *[b"\r\n"] * 20, pause_s=0.1)
    answer = talk(live, GET + b"\r\n", *[b"\r\n"] * 20, pause_s=0.1)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in answer
    assert time.monotonic() - started_s < 30


@pytest.mark.parametrize(
    "rest",
    [
        b"transfer-encoding: chunked\r\n\r\n1;" + b"a" * 300_000,
        b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: " + b"a" * 300_000,
        b"\r\n" + (GET + b"\r\n") * 5000,
    ],
    ids=["chunk extension", "trailer", "pipeline"],
)
def test_what_follows_the_head_is_bounded_too(live: tuple[str, int], rest: bytes) -> None:
    """Extensions of chunks, trailers and requests before the answer to the first one."""
    with ThreadPoolExecutor() as pool:
        work = pool.submit(talk, live, GET + rest)
        assert is_well(live)
        assert len(work.result(10)) < 100_000
    assert is_well(live)


def test_an_address_has_so_many_connections(
    live: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more is told 503; when they are closed, or their time is over, it is served again."""
    monkeypatch.setattr(connections, "MAX_OF_ADDRESS", 5)
    monkeypatch.setattr(connections, "HEAD_S", 3.0)
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(socket.create_connection(live))
        time.sleep(0.2)
        assert talk(live, b"").startswith(b"HTTP/1.1 503 ")
        wait_until(lambda: is_well(live), 30, "the idle ones were closed")


def test_whoever_has_most_connections_makes_way(
    live: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all are taken: their oldest that waits for a request; who has as few is refused."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 6)
    monkeypatch.setattr(connections, "HEAD_S", 60.0)

    def connect(source: str) -> socket.socket:
        return stack.enter_context(socket.create_connection(live, 5, source_address=(source, 0)))

    with contextlib.ExitStack() as stack:
        greedy = [connect("127.0.0.2") for _ in range(4)]
        modest = [connect(f"127.0.0.{number}") for number in (3, 4)]
        time.sleep(0.3)
        assert is_well(live)
        assert greedy[0].recv(1) == b""
        for client in (*greedy[1:], *modest):
            client.settimeout(0.1)
            with pytest.raises(TimeoutError):
                client.recv(1)
    wait_until(lambda: is_well(live), 30, "all were closed")
    with contextlib.ExitStack() as stack:
        for number in range(6):
            connect(f"127.0.0.{number + 10}")
        time.sleep(0.3)
        assert talk(live, b"").startswith(b"HTTP/1.1 503 ")


def test_who_does_not_read_is_left(live: tuple[str, int]) -> None:
    """A client that asks for much and reads nothing does not hold its connection."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(live)
    with client:
        request = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nhost: a\r\n\r\n"
        client.sendall(request * 3)
        time.sleep(2)
        client.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            while client.recv(2**20):
                pass
    assert is_well(live)


def test_who_still_sends_reads_the_refusal(live: tuple[str, int]) -> None:
    """The connection is not reset before everything came: a reverse proxy would say 502."""
    head = b"POST /v1/uploads HTTP/1.1\r\nhost: a\r\ncontent-type: image/png\r\n"
    length = 40_000_000
    with socket.create_connection(live, timeout=60) as client:
        client.sendall(head + b"content-length: %d\r\n\r\n" % length)
        time.sleep(0.3)
        for _ in range(length // 1_000_000):
            client.sendall(b"x" * 1_000_000)
        assert client.recv(65536).startswith(b"HTTP/1.1 413")
    chunked = head + b"transfer-encoding: chunked\r\n\r\n"
    with socket.create_connection(live, timeout=60) as client:
        client.sendall(chunked)
        for _ in range(length // 1_000_000):
            client.sendall(b"f4240\r\n" + b"x" * 1_000_000 + b"\r\n")
        client.sendall(b"0\r\n\r\n")
        assert client.recv(65536).startswith((b"HTTP/1.1 413", b"HTTP/1.1 401"))


def test_a_body_that_waits_to_be_asked_for_is_not_asked_for(live: tuple[str, int]) -> None:
    """Whoever is refused before has nothing to send."""
    head = b"POST /v1/uploads HTTP/1.1\r\nhost: a\r\ncontent-type: image/png\r\n"
    answer = talk(live, head + b"expect: 100-continue\r\ncontent-length: 40000000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"100 Continue" not in answer


def test_a_refused_body_that_never_ends_is_not_waited_for(
    live: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of it has a deadline."""
    monkeypatch.setattr(middleware, "LINGER_S", 0.3)
    head = b"POST /v1/uploads HTTP/1.1\r\nhost: a\r\ncontent-type: image/png\r\n"
    began_s = time.monotonic()
    answer = talk(live, head + b"content-length: 40000000\r\n\r\n", b"x")
    assert answer.startswith(b"HTTP/1.1 413")
    assert time.monotonic() - began_s < 8


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("multipart/form-data; boundary=b", b"--b\r\n\r\n", 415),
        ("multipart/form-data; boundary=b; charset=punycode", b"a" * 60_000, 415),
        ("application/x-www-form-urlencoded; charset=punycode", b"name=a", 415),
        ("application/x-www-form-urlencoded; charset=utf-8; charset=utf-7", b"name=a", 415),
        ("application/x-www-form-urlencoded", b"name=" + b"a" * 70_000, 413),
        ("application/x-www-form-urlencoded", b"a=1&" * 400, 400),
        ("application/x-www-form-urlencoded", b"name=%ff", 400),
        ("application/x-www-form-urlencoded", b"\xff", 400),
        ("text/plain", b"", 415),
    ],
)
def test_a_form_before_any_sign_in_is_small_and_plain(
    client: TestClient, kind: str, body: bytes, status: int
) -> None:
    """Anything but URL-encoded UTF-8 of at most 64 kB is refused at once."""
    started_s = time.monotonic()
    answer = client.post("/console/sign-in", content=body, headers={"content-type": kind})
    assert answer.status_code == status
    assert time.monotonic() - started_s < 15


@pytest.mark.parametrize("path", ["/v1/uploads", "/classify"])
@pytest.mark.parametrize("charset", ["punycode", "utf-7", "utf-8; charset=punycode", "x" * 1000])
def test_the_api_reads_utf_8_alone(client: TestClient, path: str, charset: str) -> None:
    """Other charsets of a form are refused before its body is decoded."""
    kind = f"multipart/form-data; boundary=b; charset={charset}"
    body = b'--b\r\nContent-Disposition: form-data; name="upload_id"\r\n\r\na\r\n--b--\r\n'
    answer = client.post(path, content=body, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/console/sign-in?next=//[", {}),
        ("/console/sign-in?next=///console", {}),
        ("/console/choose?next=//[", {}),
        ("/healthz", {"host": "http://["}),
        ("/healthz", {"host": "a b"}),
        ("/console/sign-in", {"host": "[::1"}),
        ("/v1/uploads/", {"host": "evil.example/x"}),
        ("/v1/avatars/a?wait=" + "9" * 5000, {}),
        ("/v1/avatars/a?wait=²", {}),
        ("/v1/dead-letters?limit=" + "9" * 5000, {}),
        ("/v1/dead-letters?since=" + "9" * 5000, {}),
        ("/v1/dead-letters?limit=²", {}),
        ("/console/sign-in", {"cookie": "avatarmod_session=" + "é" * 300}),
        ("/console/sign-in", {"accept-language": "\xff" * 20}),
    ],
)
def test_odd_requests_are_no_crash(client: TestClient, path: str, headers: dict[str, str]) -> None:
    """Each is answered below 500, leads nowhere else, and has the security headers."""
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = client.get(path, headers=raw, follow_redirects=False)
    assert answer.status_code < 500
    assert answer.headers.get("location", "/console").startswith("/console")
    assert "evil" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("origin", ["http://[", "null, null", "\x00", "https://evil.example"])
def test_a_bad_origin_is_refused(client: TestClient, origin: str) -> None:
    """A form whose origin cannot be read came from another site."""
    answer = client.post("/console/sign-in", data={"name": "a"}, headers={"origin": origin})
    assert answer.status_code == 403


@pytest.mark.parametrize("path", ["//v1/uploads", "/v1/uploads/", "///v1/uploads//"])
def test_a_base_address_may_end_with_a_slash(client: TestClient, path: str) -> None:
    """A client that joins `http://host/` and `/v1/uploads` is understood, without a redirect."""
    answer = client.post("http://testserver" + path, json={"upload_id": "a"})
    assert answer.status_code == 202
    assert client.get("/v1/avatars/a/").status_code == 404, "an id may end with a slash"


def test_every_error_has_the_security_headers(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a body that is too large, and a crash of ours."""
    large = client.post("/v1/uploads", content=b" " * (2**20 + 1))
    assert large.status_code == 413
    monkeypatch.setattr(
        "producer.web.api.ops.find_alarms", lambda *_: (_ for _ in ()).throw(RuntimeError())
    )
    quiet = TestClient(client.app, raise_server_exceptions=False)
    crash = quiet.get("/readyz")
    assert crash.status_code == 500
    for answer in (large, crash):
        assert SECURITY_HEADERS.items() <= dict(answer.headers).items()


def test_bodies_have_a_budget_together() -> None:
    """While others hold all of it one more is refused with 503; what was held is given back."""
    holding, go = threading.Semaphore(0), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await receive()
            answer: Response = PlainTextResponse("whole")
            holding.release()
            await run_in_threadpool(go.wait, 60)
        except Problem as problem:
            answer = problem.response()
        await answer(scope, receive, send)

    most = middleware.MIN_BUDGET_BYTES // 2
    limited = middleware.BodyLimit(
        app, max_bytes=most, max_form_bytes=1, timeout_s=60, forms_below="/console"
    )
    body = b"x" * most
    client = TestClient(limited)
    with ThreadPoolExecutor(2) as pool:

        def send(_: int) -> Any:
            return client.post("/", content=body, headers={"content-type": "image/png"})

        first = [pool.submit(send, n) for n in range(2)]
        assert all(holding.acquire(timeout=60) for _ in first)
        assert (refused := send(0)).status_code == 503
        assert refused.json()["code"] == "not_now"
        go.set()
        assert {answer.result().status_code for answer in first} == {200}
        assert send(0).status_code == 200


def test_a_body_that_stops_in_the_middle_has_a_deadline(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a form is refused with 408; others are served afterwards."""
    monkeypatch.setattr(middleware, "LINGER_S", 0.3)
    kind = b"content-type: application/x-www-form-urlencoded\r\n"
    head = b"POST /console/sign-in HTTP/1.1\r\nhost: a\r\n" + kind
    with listening(serve(api_body_timeout_s=1.0)) as address:
        answer = talk(address, head + b"content-length: 500\r\n\r\n", b"name=a")
        assert answer.startswith(b"HTTP/1.1 408"), answer[:100]
        assert is_well(address)


# -- places ------------------------------------------------------------------------------------


def test_slots_are_never_given_twice() -> None:
    """A hundred threads at once get as many as there are."""
    slots, inside = Slots(7), threading.Barrier(8, timeout=60)

    def try_it(_: int) -> bool:
        try:
            with slots.take():
                inside.wait()
                return True
        except NoSlot:
            return False

    with ThreadPoolExecutor(100) as pool:
        results = [pool.submit(try_it, n) for n in range(100)]
        wait_until(lambda: sum(r.done() for r in results) == 93, 30, "the others were refused")
        inside.wait()
        assert sum(r.result() for r in results) == 7
    with slots.take():
        pass


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1%eth0", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("testclient", "testclient"),
    ],
)
def test_limits_are_counted_by_network(address: str, network: str) -> None:
    """Whoever has one IPv6 address has all of its /64."""
    assert network_of(address) == network


def classify(client: TestClient, _: int = 0) -> Any:
    return client.post("/classify", files={"file": ("a.png", b"\x89PNG")})


def test_a_classification_too_many_is_not_enqueued(serve: Serve) -> None:
    """The slot is taken before the upload: of many at once only as many as allowed are queued."""
    client = with_key(serve(api_classify_concurrency=2, api_classify_deadline_s=2.0))
    store = store_of(client)
    show_worker(store)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: classify(client, n), range(8)))
    assert {answer.status_code for answer in answers} == {503}
    assert all("retry-after" in answer.headers for answer in answers)
    assert store.open_counts()["queued"] == 2


def test_long_polls_take_no_place_of_classifications(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any number of waiting readers leaves `/classify` as it is; they have a limit of their own."""
    client = with_key(serve(api_classify_concurrency=1, api_classify_deadline_s=1.0))
    store = store_of(client)
    show_worker(store)
    client.post("/v1/uploads", json={"upload_id": "a"})
    services = client.app.state.services  # type: ignore[attr-defined]
    object.__setattr__(services, "long_polls", Slots(4))
    with ThreadPoolExecutor(9) as pool:
        polls = [pool.submit(client.get, "/v1/avatars/a?wait=3") for _ in range(8)]
        time.sleep(0.5)
        assert "in time" in classify(client).json()["detail"]
        codes = sorted(poll.result().status_code for poll in polls)
    assert codes == [200] * 4 + [503] * 4
    assert client.get("/v1/avatars/a").status_code == 200


# -- pictures ----------------------------------------------------------------------------------


class Hanging:
    """Pictures at an address that does not answer."""

    def __init__(self) -> None:
        self.asked = 0
        self.go = threading.Event()

    def safe_jpeg(self, _avatar: object) -> bytes:
        self.asked += 1
        self.go.wait(60)
        raise StorageUnavailable("gone")

    def close(self) -> None:
        self.go.set()


def test_looks_at_a_hanging_picture_hold_nobody_up(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API answers beside 45 of them; the failure is remembered and not asked for again."""
    from producer.web.console import pictures
    from tests.integration.web.test_console import PASSWORD, Users, sign_in

    client = with_key(serve())
    monkeypatch.setattr(pictures, "DEADLINE_S", 4.0)
    Users(store_of(client)).save("viewer", "viewer", PASSWORD)
    hanging = Hanging()
    console = client.app.state.console  # type: ignore[attr-defined]
    object.__setattr__(console, "looks", pictures.Looks(hanging))
    for number in range(45):
        client.post("/v1/uploads", json={"upload_id": f"u{number}"})
    client.follow_redirects = False
    sign_in(client, "viewer")

    def look(n: int) -> int:
        return client.get(f"/console/picture/u{n}").status_code

    with ThreadPoolExecutor(45) as pool:
        looks = [pool.submit(look, n) for n in range(45)]
        time.sleep(0.3)
        assert client.get("/v1/avatars/u1").status_code == 200
        assert not all(found.done() for found in looks), "it did not wait for them"
        assert {found.result() for found in looks} == {404, 503}
    assert hanging.asked <= pictures.THREADS
    hanging.go.set()
    wait_until(lambda: not console.looks._running, 30, "they ended")
    asked = hanging.asked
    assert look([found.result() for found in looks].index(404)) == 404
    assert hanging.asked == asked
