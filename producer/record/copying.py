"""A copy of all that one namespace holds in Redis, as of one moment, and its way back.

The server is asked for its data as a replica would ask, so nothing changes meanwhile and nobody
waits. The way back uses plain commands, so that it fits every server and version.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import redis

from producer.record.base import Base

#: Keys, or entries of a stream, read or written in one round trip.
PAGE = 1000

#: Seconds that a server may take to write its data down before it sends them.
SNAPSHOT_S = 300.0

#: Row of a copy: name of the key behind the namespace's prefix, type, value, and when it expires
#: (milliseconds since the epoch; 0: never).
Row = dict[str, Any]


class NoSnapshot(Exception):
    """Raised when a server does not give its data away."""


class Copying:
    """Copies one namespace, and puts a copy into one; `Store.copying`."""

    def __init__(self, base: Base) -> None:
        self._base = base

    def snapshot(self, target: Path) -> None:
        """Write all that a server holds into an RDB file, as of one moment.

        Source: https://redis.io/docs/latest/operate/oss_and_stack/management/replication/ (SYNC).

        Raises:
            NoSnapshot: the server refuses, as services that others run often do.
            redis.RedisError, OSError: it went away.
        """
        pool = self._base.redis.connection_pool
        connection: Any = pool.get_connection()
        try:
            connection.send_command("SYNC")
            sock = connection._sock
            sock.settimeout(SNAPSHOT_S)
            stream = sock.makefile("rb")
            line = b"\n"
            while line == b"\n":  # signs of life while it writes
                line = stream.readline()
            if not line.startswith(b"$"):
                raise NoSnapshot(line.decode(errors="replace").strip().lstrip("-") or "no answer")
            with target.open("wb") as file:
                if line.startswith(b"$EOF:"):
                    _until(stream, file, line.removeprefix(b"$EOF:").strip())
                else:
                    _exactly(stream, file, int(line[1:]))
        finally:
            # It would go on sending every change.
            connection.disconnect()
            pool.release(connection)

    def rows(self) -> Iterator[Row]:
        """All keys of the namespace, on a server that nobody changes."""
        client, prefix = self._base.redis, self._base.keys.prefix
        cursor, pattern = 0, f"{prefix}*"
        while True:
            cursor, keys = cast("Any", client.scan(cursor, match=pattern, count=PAGE))
            pipe: Any = client.pipeline(transaction=False)
            for key in keys:
                pipe.type(key)
                pipe.pexpiretime(key)
            found = iter(pipe.execute())
            for key, kind, expires in zip(keys, found, found, strict=False):
                name = str(key).removeprefix(prefix)
                for value in _values(client, key, kind):
                    yield {"key": name, "type": kind, "value": value, "expires": max(0, expires)}
            if cursor == 0:
                return

    def is_empty(self) -> bool:
        """Whether the namespace holds nothing but what processes write as they start."""
        client, prefix = self._base.redis, self._base.keys.prefix
        names = ("data_set", "clock", "workers", "sweeper", "counts")
        known = {f"{prefix}{name}" for name in names}
        keys = client.scan_iter(match=f"{prefix}*", count=PAGE)
        return not any(
            str(key) not in known and not str(key).startswith(f"{prefix}sweeper:") for key in keys
        )

    def write(self, found: Iterable[Row]) -> int:
        """Put rows of a copy into the namespace; returns how many.

        What is there under the same name is replaced, so this can be repeated.
        """
        client, prefix = self._base.redis, self._base.keys.prefix
        count, seen = 0, ""
        pipe = client.pipeline(transaction=False)
        for row in found:
            key = prefix + row["key"]
            if key != seen:
                pipe.delete(key)
                seen = key
            _put(pipe, key, row["type"], row["value"])
            if row["expires"]:
                pipe.pexpireat(key, row["expires"])
            count += 1
            if len(pipe.command_stack) > PAGE:
                pipe.execute()
        pipe.execute()
        return count


def _exactly(stream: Any, file: Any, left: int) -> None:
    while left:
        piece = stream.read(min(left, 2**20))
        if not piece:
            raise redis.ConnectionError("the copy was cut off")
        left -= file.write(piece)


def _until(stream: Any, file: Any, mark: bytes) -> None:
    """Up to a mark that the data do not hold."""
    tail = b""
    while not tail.endswith(mark):
        piece = stream.read1(2**16)
        if not piece:
            raise redis.ConnectionError("the copy was cut off")
        tail += piece
        keep = len(mark)
        file.write(tail[:-keep])
        tail = tail[-keep:]


def _values(client: redis.Redis, key: str, kind: str) -> Iterator[Any]:
    """Its whole value; of a stream, page by page."""
    if kind == "string":
        yield client.get(key)
    elif kind == "hash":
        yield client.hgetall(key)
    elif kind == "set":
        yield sorted(cast("set[str]", client.smembers(key)))
    elif kind == "zset":
        yield [[member, repr(score)] for member, score in client.zscan_iter(key, count=PAGE)]
    elif kind == "stream":
        start = "-"
        while page := cast("list[Any]", client.xrange(key, start, count=PAGE)):
            yield page
            start = f"({page[-1][0]}"
    elif kind != "none":
        raise ValueError(f"{key}: {kind}")


def _put(pipe: Any, key: str, kind: str, value: Any) -> None:
    if kind == "string":
        pipe.set(key, value)
    elif kind == "hash":
        pipe.hset(key, mapping=value)
    elif kind == "set":
        pipe.sadd(key, *value)
    elif kind == "zset":
        pipe.zadd(key, dict(value))
    else:
        for stream_id, fields in value:
            pipe.xadd(key, fields, id=stream_id)
