"""Connections through Sentinels; none is opened here."""

from __future__ import annotations

import pytest
import redis

from producer.connect import redis_client

URL = "redis+sentinel://:secret@s1:26379,s2:26379/0?master=avatars"


def test_a_broken_connection_asks_the_sentinels_before_it_is_made_anew() -> None:
    """The old address belongs to a master that may be cut off."""
    connection = redis_client(URL).connection_pool.make_connection()
    asked: list[str] = []

    def ask() -> None:
        asked.append("where is the master?")
        raise redis.ConnectionError("no network in a unit test")

    connection.connect = ask  # type: ignore[method-assign]
    with pytest.raises(redis.ConnectionError):
        connection.send_command("PING")
    assert len(asked) == 1


def test_a_sentinel_that_is_cut_off_is_asked_once() -> None:
    """Its silence costs a second, then the next is asked."""
    pool = redis_client(URL).connection_pool
    for sentinel in pool.sentinel_manager.sentinels:
        assert sentinel.get_retry().get_retries() == 0
        assert sentinel.connection_pool.connection_kwargs["socket_connect_timeout"] == 1
