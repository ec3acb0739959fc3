"""Fixtures for every tier: a clean environment, a real Valkey, a store of one's own, a web tier."""

from __future__ import annotations

import base64
import itertools
import logging
import os
import time
from collections.abc import Iterator

import pytest
import redis
import structlog
from pydantic import SecretStr

from producer.connect import redis_client
from producer.record.base import Base
from producer.record.store import Store
from tests.support import FREE_NETWORKS
from tests.tiers import no_outside_world, sort_into_tiers
from worker.demo.webhook_receiver import Receiver
from worker.process.valkey import EmbeddedValkey

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test belongs to a tier."""
    sort_into_tiers(items)


@pytest.fixture(autouse=True)
def _outside_world(request: pytest.FixtureRequest) -> Iterator[None]:
    """A fast test starts no process and opens no socket."""
    if request.node.get_closest_marker("fast") is None:
        yield
    else:
        with no_outside_world():
            yield


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine that runs the tests reaches them."""
    for name in list(os.environ):
        if name.startswith("AVATARMOD_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AVATARMOD_ENV_FILE", "")


@pytest.fixture(autouse=True)
def _small_seqs(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process records begin with seq 1, so that tests can name seqs."""
    monkeypatch.setattr(Base, "seq_from", time.time() + 86400)


@pytest.fixture(autouse=True)
def _clean_logging() -> Iterator[None]:
    """A command that configured logging in this process does not do so for the next test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of one embedded Valkey for the whole run; tests keep apart by their namespaces."""
    server = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    try:
        with redis_client(server.url) as client:
            # Nothing here survives the run, so no write needs to reach the disk.
            client.config_set("appendfsync", "no")
        yield server.url
    finally:
        server.stop()


@pytest.fixture(scope="session")
def redis_server(valkey_url: str) -> Iterator[redis.Redis]:
    """A client of the shared server."""
    with redis_client(valkey_url) as client:
        yield client


@pytest.fixture
def store(redis_server: redis.Redis) -> Store:
    """An empty store of this test's own."""
    return Store(redis_server, f"test{next(_numbers)}", record_ttl_s=3600.0)


@pytest.fixture
def secret() -> SecretStr:
    """A secret to sign callbacks with."""
    return SecretStr("whsec_" + base64.b64encode(os.urandom(32)).decode())


@pytest.fixture
def receiver(secret: SecretStr) -> Iterator[Receiver]:
    """A web tier that verifies what it is sent."""
    with Receiver(secret) as receiver:
        yield receiver


@pytest.fixture
def local_callbacks(monkeypatch: pytest.MonkeyPatch, receiver: Receiver, secret: SecretStr) -> None:
    """Settings under which verdicts go to `receiver`."""
    monkeypatch.setenv("AVATARMOD_CALLBACK_URL", receiver.url)
    monkeypatch.setenv("AVATARMOD_CALLBACK_SECRETS", secret.get_secret_value())
    monkeypatch.setenv("AVATARMOD_PRIVATE_NETWORKS", FREE_NETWORKS)
