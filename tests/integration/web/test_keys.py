"""API keys: hashed, scoped, several at once, limited, and refused alike whatever is wrong."""

from __future__ import annotations

import getpass
import json
import re
import statistics
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient

from producer.commands.callbacks import callbacks
from producer.commands.keys import list_keys
from producer.commands.users import list_users
from producer.errors import ConfigurationError
from producer.web import api_keys as keys
from producer.web.api_keys import ApiKeys, Rates, Scope, make_token
from producer.web.first_start import ensure_access
from producer.web.users import Users
from tests.integration.web.conftest import Serve, avatar_of, decide, store_of, with_key

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

CALLS = [
    ("POST", "/v1/uploads", Scope.ENQUEUE),
    ("GET", "/v1/avatars/a", Scope.READ),
    ("GET", "/v1/changes", Scope.READ),
    ("POST", "/classify", Scope.ENQUEUE),
    ("POST", "/v1/validate", Scope.ENQUEUE),
    ("POST", "/v1/detect-images", Scope.ENQUEUE),
    ("GET", "/metrics", Scope.READ),
    ("POST", "/v1/avatars/a/decision", Scope.OPERATE),
    ("POST", "/v1/uploads/a/retry", Scope.OPERATE),
    ("POST", "/v1/uploads/a/appeal", Scope.ENQUEUE),
    ("DELETE", "/v1/uploads/a", Scope.OPERATE),
    ("DELETE", "/v1/uploads", Scope.OPERATE),
    ("GET", "/v1/dead-letters", Scope.OPERATE),
    ("POST", "/v1/dead-letters/a", Scope.OPERATE),
]


def test_every_route_is_in_the_table(client: TestClient) -> None:
    """No route of the API exists that the tests below do not know; the open ones are named."""
    documented = {
        (method.upper(), re.sub(r"{.*}", "a", path))
        for path, methods in client.get("/openapi.json").json()["paths"].items()
        for method in methods
    }
    open_routes = {("GET", path) for path in ("/healthz", "/readyz", "/v1/reasons")}
    assert documented - open_routes == {(method, path) for method, path, _ in CALLS}


@pytest.mark.parametrize(("method", "path", "scope"), CALLS)
def test_no_key_no_entry(client: TestClient, method: str, path: str, scope: Scope) -> None:
    """Without a key, with a wrong or a malformed one, every route answers the same 401."""
    good = client.headers.pop("x-api-key")
    right_id_wrong_secret = good[:17] + make_token()[17:]
    bodies = set()
    for headers in (
        {},
        {"x-api-key": make_token()},
        {"x-api-key": right_id_wrong_secret},
        {"x-api-key": "nonsense"},
        {"authorization": "Basic !!!"},
        {"authorization": "Bearer "},
    ):
        answer = client.request(method, path, headers=headers)
        assert answer.status_code == 401
        bodies.add(answer.text)
    assert len(bodies) == 1
    assert good[17:] not in bodies.pop()


@pytest.mark.parametrize(("method", "path", "scope"), CALLS)
def test_a_key_opens_only_its_scope(
    client: TestClient, method: str, path: str, scope: Scope
) -> None:
    """A key without the scope answers 403; with it, the request is looked at."""
    others = [other for other in Scope if other is not scope]
    with_key(client, *others)
    assert client.request(method, path).status_code == 403
    with_key(client, scope)
    assert client.request(method, path).status_code not in (401, 403)


def test_three_ways_to_send_a_key(client: TestClient) -> None:
    """X-API-Key, a bearer token and the password of Basic are the same."""
    token = client.headers.pop("x-api-key")
    for headers, auth in (
        ({"x-api-key": token}, None),
        ({"authorization": f"Bearer {token}"}, None),
        ({}, ("anybody", token)),
    ):
        assert client.get("/v1/avatars/x", headers=headers, auth=auth).status_code == 404


def test_keys_are_stored_hashed(client: TestClient) -> None:
    """Nothing in Redis contains the secret of a key."""
    token = client.headers["x-api-key"]
    client.get("/v1/avatars/x")
    store = store_of(client)
    stored = json.dumps(store.redis.hgetall(store.key("api_keys")))
    assert token[4:16] in stored
    assert token[17:] not in stored
    assert token not in repr(ApiKeys(store).all())


def test_rotation_and_revocation(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two keys work side by side; a revoked one stops, the other goes on."""
    monkeypatch.setattr(keys, "CACHE_S", 0.0)
    old = client.headers["x-api-key"]
    store = store_of(client)
    _, new = ApiKeys(store).create("new", ["read"])
    assert ApiKeys(store).revoke(old[4:16])
    assert not ApiKeys(store).revoke(old[4:16])
    assert client.get("/v1/avatars/x").status_code == 401
    assert client.get("/v1/avatars/x", headers={"x-api-key": new}).status_code == 404


def test_an_expired_key_is_refused(client: TestClient) -> None:
    """After its lifetime a key answers 401."""
    _, token = ApiKeys(store_of(client)).create("short", ["read"], lifetime_s=1e-6)
    time.sleep(0.01)
    assert client.get("/v1/avatars/x", headers={"x-api-key": token}).status_code == 401


@pytest.mark.parametrize("off_s", [-2 * 86400.0, 2 * 86400.0])
def test_a_machine_whose_clock_is_off_ends_no_key(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, off_s: float
) -> None:
    """Only the server's clock counts: neither too early nor too late."""
    monkeypatch.setattr(keys, "CACHE_S", 0.0)
    store, now_s = store_of(client), time.time()
    _, living = ApiKeys(store).create("a day", ["read"], lifetime_s=86400)
    _, ended = ApiKeys(store).create("short", ["read"], lifetime_s=1e-6)
    time.sleep(0.01)
    monkeypatch.setattr(time, "time", lambda: now_s + off_s)
    assert client.get("/v1/avatars/x", headers={"x-api-key": living}).status_code == 404
    assert client.get("/v1/avatars/x", headers={"x-api-key": ended}).status_code == 401


def test_a_key_has_a_rate(serve: Serve) -> None:
    """Beyond its burst a key answers 429 with Retry-After; another key is not affected."""
    client = with_key(serve(api_rate_per_s=0.5, api_burst=100))
    batch = {"uploads": [{"upload_id": f"u{n}"} for n in range(99)]}
    assert client.post("/v1/uploads", json=batch).status_code == 202
    assert client.get("/v1/avatars/u1").status_code == 200
    refused = client.post("/v1/uploads", json=batch)
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
    assert 1 <= int(refused.headers["retry-after"]) <= 400
    with_key(client)
    assert client.get("/v1/avatars/u1").status_code == 200


def test_guessing_is_slowed(client: TestClient) -> None:
    """After some wrong keys from one address the answer is 429; the right key still works."""
    headers = {"x-api-key": "wrong"}
    codes = [client.get("/v1/avatars/x", headers=headers).status_code for _ in range(40)]
    assert codes[0] == 401
    assert codes[-1] == 429
    assert client.get("/v1/avatars/x").status_code == 404


def test_a_rate_refills_evenly(client: TestClient) -> None:
    """Places come back one by one; what was refused took none."""
    rates = Rates(store_of(client))
    assert rates.take("x", per_s=2, burst=2, places=2) == 0
    wait_s = rates.take("x", per_s=2, burst=2, places=2)
    assert 0 < wait_s <= 1
    time.sleep(wait_s + 0.02)
    assert rates.take("x", per_s=2, burst=2, places=2) == 0
    assert rates.take("x", per_s=20, burst=2, places=3) > 0


def test_the_comparison_takes_as_long_for_every_key(client: TestClient) -> None:
    """Unknown id, wrong first and wrong last character cost the same within the noise."""
    checker = ApiKeys(store_of(client))
    token = client.headers["x-api-key"]
    flip = {"first": token[:17] + "~"[:0] + _other(token[17]) + token[18:]}
    flip["last"] = token[:-1] + _other(token[-1])
    medians = {}
    for name, wrong in flip.items():
        times = []
        for _ in range(300):
            started = time.perf_counter()
            assert checker.check(wrong) is None
            times.append(time.perf_counter() - started)
        medians[name] = statistics.median(times)
    assert 1 / 5 < medians["first"] / medians["last"] < 5


def _other(character: str) -> str:
    return "A" if character != "A" else "B"


@pytest.mark.parametrize(
    ("name", "scopes"), [("", ["read"]), ("x" * 61, ["read"]), ("a", []), ("a", ["everything"])]
)
def test_malformed_keys_are_not_made(client: TestClient, name: str, scopes: list[str]) -> None:
    """A key without a name or with an unknown scope is a configuration error."""
    with pytest.raises(ConfigurationError):
        ApiKeys(store_of(client)).create(name, scopes)


def test_the_first_start_makes_one_key_and_one_password(serve: Serve, tmp_path: Path) -> None:
    """They are shown once, kept in files of mode 0600, and registered again in an empty Redis."""
    client = serve()
    store = store_of(client)
    first = ensure_access(store, tmp_path)
    assert first.api_key
    assert first.password
    for name in ("api-key", "console-password"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    assert not ensure_access(store, tmp_path).api_key
    store.redis.flushall()
    again = ensure_access(store, tmp_path)
    assert (again.api_key, again.password) == ("", "")
    assert ApiKeys(store).check(first.api_key)
    assert Users(store).check("admin", first.password)
    assert first.api_key not in repr(first)


def test_users_and_keys_are_listed_with_times_of_one_form(
    client: TestClient, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that reads one list reads the other."""
    monkeypatch.setenv("AVATARMOD_REDIS_URL", redis_url)
    Users(store_of(client)).save("ann", "viewer", "correct horse battery")
    for command in (list_users, list_keys):
        [row] = json.loads(CliRunner().invoke(command, ["--json"]).stdout)
        assert TIME.fullmatch(row["created_at"])


def test_an_endpoint_is_forgotten_from_the_command_line(
    client: TestClient, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused while a callback waits; with --drop it goes, and the activity says by whom."""
    monkeypatch.setenv("AVATARMOD_REDIS_URL", redis_url)
    store = store_of(client)
    client.post("/v1/uploads", json={"upload_id": "a"})
    decide(store, "a")
    store.outbox.resend(avatar_of(store, "a"), "http://gone.example/hook")
    [name] = store.outbox.endpoints()

    refused = CliRunner().invoke(callbacks, ["forget", name])
    assert (refused.exit_code, "1 callbacks wait" in refused.output) == (1, True)
    assert CliRunner().invoke(callbacks, ["forget", "nobody"]).exit_code == 1
    done = CliRunner().invoke(callbacks, ["forget", name, "--drop"])
    assert (done.exit_code, store.outbox.endpoints()) == (0, [])
    [(_, entry)] = store.redis.xrange(store.key("audit"))  # type: ignore[misc, union-attr]
    assert (entry["action"], entry["by"]) == ("forget", getpass.getuser())
    assert entry["outcome"] == "1 callbacks dropped"
