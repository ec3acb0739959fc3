"""What a Redis refuses is called by its name."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from producer.connect import check_redis, redis_client
from producer.errors import ConfigurationError, RedisUnreachable
from tests.support import wait_until
from worker.process.valkey import server_binary


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """One node of a Cluster that is not whole."""
    sock = tmp_path / "s.sock"
    command = [server_binary(), "--port", "0", "--unixsocket", str(sock), "--dir", str(tmp_path)]
    command += ["--cluster-enabled", "yes", "--save", ""]
    # A Cluster needs a port to name itself by; nobody else comes to this one.
    command[command.index("--port") + 1] = "17391"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(sock.exists, 30, "the server starts")
        yield f"unix://{sock}"
    finally:
        process.terminate()
        process.wait(10)


def test_a_cluster_is_called_a_cluster(cluster: str) -> None:
    """It answers; it is the wrong kind."""
    with redis_client(cluster) as client, pytest.raises(ConfigurationError, match="Cluster") as it:
        check_redis(client)
    assert not isinstance(it.value, RedisUnreachable)


def test_missing_rights_are_called_so(redis_server: redis.Redis, valkey_url: str) -> None:
    """Whoever may not use INFO learns what to grant."""
    rules = ("on", ">secret", "~*", "+@all", "-info")
    redis_server.execute_command("ACL", "SETUSER", "narrow", *rules)  # type: ignore[no-untyped-call]
    path = valkey_url.removeprefix("unix://")
    with (
        redis_client(f"unix://narrow:secret@{path}") as client,
        pytest.raises(ConfigurationError, match="INFO") as it,
    ):
        check_redis(client)
    redis_server.execute_command("ACL", "DELUSER", "narrow")  # type: ignore[no-untyped-call]
    assert "does not answer" not in str(it.value)
