"""The server that comes with the program: its crashes, its orphans, its odd folders."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from producer.connect import (
    check_redis,
    connect_store,
    find_redis_url,
    instance_file,
    redis_client,
    running_instance,
)
from producer.errors import ConfigurationError
from producer.settings import Settings, load_settings
from tests.support import wait_until
from worker.process.valkey import EmbeddedValkey


def value_of(server: EmbeddedValkey, key: str) -> object:
    """One value, by a client of its own."""
    with redis_client(server.url) as client:
        return client.get(key)


@pytest.mark.parametrize("name", ["plain", "with space", 'with "quotes"', "with\\slash", "名前"])
def test_it_runs_in_any_folder(tmp_path: Path, name: str) -> None:
    """Application folders have blanks in their names on some systems."""
    server = EmbeddedValkey(tmp_path / name)
    server.start()
    try:
        with redis_client(server.url) as client:
            assert client.set("key", "value")
            assert client.config_get("appendonly") == {"appendonly": "yes"}
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert list((tmp_path / name).glob("appendonlydir/*"))
        assert not list((tmp_path / name).glob("*.conf")), "nothing to write on a full disk"
    finally:
        server.stop()


def test_a_folder_with_a_very_long_name_gets_its_socket_elsewhere(tmp_path: Path) -> None:
    """The path of a socket has a limit of its own."""
    server = EmbeddedValkey(tmp_path / ("n" * 120))
    server.start()
    try:
        assert len(server.url) < 110
        assert value_of(server, "key") is None
    finally:
        server.stop()


def test_a_crash_loses_nothing_that_was_confirmed_and_takes_a_moment(tmp_path: Path) -> None:
    """SIGKILL, start again: everything is there, within a second on an idle machine."""
    server = EmbeddedValkey(tmp_path / "valkey")
    server.start()
    try:
        with redis_client(server.url) as client:
            client.set("key", "value")
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not server.is_running(), 30, "it is dead")
        started_s = time.monotonic()
        server.start()
        assert time.monotonic() - started_s < 30
        assert value_of(server, "key") == "value"
    finally:
        server.stop()
    assert not server.is_running()


def test_an_orphan_is_ended_before_its_files_are_used(tmp_path: Path) -> None:
    """Two servers never share a folder; the new one has all that the old one confirmed."""
    orphan, heir = EmbeddedValkey(tmp_path / "valkey"), EmbeddedValkey(tmp_path / "valkey")
    orphan.start()
    with redis_client(orphan.url) as client:
        client.set("key", "value")
    heir.start()
    try:
        wait_until(lambda: not orphan.is_running(), 30, "the orphan ends")
        assert value_of(heir, "key") == "value"
    finally:
        heir.stop()
        orphan.stop()


def test_somebody_who_does_not_stop_is_not_overrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second server on the same files would damage them."""
    monkeypatch.setattr("worker.process.valkey.START_TIMEOUT_S", 0.3)
    server = EmbeddedValkey(tmp_path / "valkey")
    (tmp_path / "valkey").mkdir()
    path = server.url.removeprefix("unix://")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        other.settimeout(0.05)
        monkeypatch.setattr("producer.connect.SOCKET_TIMEOUT_S", 0.1)
        with pytest.raises(ConfigurationError, match="does not stop; end it first"):
            server.start()
    assert Path(path).exists()


def test_a_damaged_file_is_said_in_the_servers_own_words(tmp_path: Path) -> None:
    """Not a stack trace, and not silence."""
    server = EmbeddedValkey(tmp_path / "valkey")
    server.start()
    server.stop()
    for part in (tmp_path / "valkey/appendonlydir").glob("*.incr.aof"):
        part.write_bytes(b"*1\r\n$9\r\nnonsense" * 3)
    with pytest.raises(
        ConfigurationError, match=r"ended with code 1; its log says: .*append only file"
    ):
        server.start()
    server.stop()


class TestFinding:
    def test_without_redis_and_instance_it_says_what_to_do(self, tmp_path: Path) -> None:
        """Both ways out are named."""
        settings = load_settings(Settings, data_folder=tmp_path)
        with pytest.raises(ConfigurationError, match="start one, or set AVATARMOD_REDIS_URL=redis"):
            find_redis_url(settings)

    @pytest.mark.parametrize(
        "content",
        ["", "{", "[]", "null", "{}", '{"pid": "x"}', '{"pid": null}', '{"pid": 999999999}'],
    )
    def test_a_stale_or_torn_instance_file_is_no_instance(
        self, tmp_path: Path, content: str
    ) -> None:
        """A killed supervisor leaves its file behind."""
        instance_file(tmp_path).write_text(content)
        assert running_instance(tmp_path) is None

    def test_an_instance_on_a_configured_redis_says_so(self, tmp_path: Path) -> None:
        """Its address may hold a password and is not written down."""
        instance_file(tmp_path).write_text(f'{{"pid": {os.getpid()}, "redis_url": ""}}')
        with pytest.raises(ConfigurationError, match="set the same AVATARMOD_REDIS_URL here"):
            find_redis_url(load_settings(Settings, data_folder=tmp_path))

    @pytest.mark.parametrize("url", ["redis://:hunter2@127.0.0.1:1/0", "unix:///nowhere/v.sock"])
    def test_an_unreachable_redis_is_named_without_its_password(self, url: str) -> None:
        """Place, kind of error and what to look at."""
        settings = load_settings(Settings, redis_url=url)
        with pytest.raises(ConfigurationError, match="does not answer") as caught:
            connect_store(settings)
        assert "hunter2" not in str(caught.value)

    def test_a_wrong_password_is_said(self, tmp_path: Path) -> None:
        """Not taken for an absent server."""
        server = EmbeddedValkey(tmp_path / "valkey")
        server.start()
        try:
            with redis_client(server.url) as client:
                client.config_set("requirepass", "right")
            with (
                redis_client(server.url + "?password=wrong") as client,
                pytest.raises(ConfigurationError, match="refuses the password"),
            ):
                check_redis(client)
        finally:
            os.kill(server.pid or 0, signal.SIGTERM)
            server.stop()

    def test_a_bad_option_in_the_address_is_a_configuration_error(self) -> None:
        """Also what only the client library finds out."""
        settings = load_settings(Settings, redis_url="redis://127.0.0.1:6379/0?db=first")
        with pytest.raises(ConfigurationError, match="AVATARMOD_REDIS_URL is no Redis address"):
            connect_store(settings)
