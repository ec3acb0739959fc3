"""Open the connection that everything else is given: the Redis client and the store on it.

Where no Redis is configured, the address of the embedded Valkey of a running `avatarmod up` is read
from its instance file in the data folder.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool, SentinelManagedConnection

from producer.environment import ENV_PREFIX
from producer.errors import ConfigurationError, RedisUnreachable
from producer.record.keyspace import Keyspace
from producer.record.store import Store
from producer.settings import Settings

#: Seconds; a Redis that answers slower than this is treated as unreachable.
SOCKET_TIMEOUT_S = 5.0

#: Seconds; a host that does not accept a connection within this is treated as gone.
CONNECT_TIMEOUT_S = 3.0

#: Limits of connections to Sentinels. Without times a frozen one would hold its asker for ever, and
#: redis-py's own ten retries would hold it for eleven seconds; the next Sentinel is asked instead.
SENTINEL_LIMITS: dict[str, Any] = {
    "socket_timeout": 1.0,
    "socket_connect_timeout": 1.0,
    "retry": Retry(NoBackoff(), 0),
}


def instance_file(data_folder: Path) -> Path:
    """Where a running `avatarmod up` writes its process id and the address of its Redis."""
    return data_folder / "instance.json"


def running_instance(data_folder: Path) -> dict[str, Any] | None:
    """What the instance file says, or None when no such process lives."""
    try:
        instance: dict[str, Any] = json.loads(instance_file(data_folder).read_text())
        os.kill(int(instance["pid"]), 0)
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    return instance


def find_redis_url(settings: Settings) -> str:
    """The configured Redis, or the embedded one of a running instance.

    Raises:
        ConfigurationError: neither exists.
    """
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    instance = running_instance(settings.data_folder)
    if instance is None:
        raise ConfigurationError(
            f"no Redis: {ENV_PREFIX}REDIS_URL is not set and no `avatarmod up` is running on "
            f"{settings.data_folder}; start one, or set {ENV_PREFIX}REDIS_URL=redis://host:6379/0"
        )
    if not instance.get("redis_url"):
        raise ConfigurationError(
            f"the instance on {settings.data_folder} uses a Redis of its own configuration; set "
            f"the same {ENV_PREFIX}REDIS_URL here"
        )
    return str(instance["redis_url"])


def redis_client(url: str) -> redis.Redis:
    """A client with time limits on every call; text in, text out.

    Args:
        url: as in the setting `redis_url`.
    """
    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "health_check_interval": 10,
        "retry": Retry(ExponentialBackoff(cap=1.0, base=0.05), 3),
        "retry_on_error": [redis.ConnectionError, redis.ReadOnlyError],
    }
    if not url.startswith("redis+sentinel://"):
        try:
            return redis.Redis.from_url(url, **options)
        except ValueError:
            # The library's message repeats a piece of the address, which may be of the password.
            raise ConfigurationError(
                f"{ENV_PREFIX}REDIS_URL is no Redis address; write one such as "
                "redis://:password@host:6379/0, with / ? # @ % in a password percent-encoded"
            ) from None
    place = parse_sentinel(url)
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        place.hosts,
        sentinel_kwargs={**SENTINEL_LIMITS, "password": place.sentinel_password},
        db=place.db,
        username=place.username,
        password=place.password,
        **options,
    )
    client: redis.Redis = sentinel.master_for(  # type: ignore[no-untyped-call]
        place.master, connection_class=MasterConnection
    )
    return client


class MasterConnection(SentinelManagedConnection):
    """A connection that asks the Sentinels for the master whenever it is made anew.

    redis-py's own asks only before its first command; when it breaks in the middle of one, it tries
    the old address again and again, for most of a minute where that host is cut off.
    """

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """As the base class, but after asking."""
        if self._sock is None:
            self.connect()  # type: ignore[no-untyped-call]
        super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]


@dataclasses.dataclass(frozen=True)
class SentinelPlace:
    """A parsed `redis+sentinel://[user:password@]host:port,host:port/db?master=name`."""

    hosts: list[tuple[str, int]]
    master: str
    db: int
    username: str | None
    password: str | None = dataclasses.field(repr=False)
    sentinel_password: str | None = dataclasses.field(repr=False)


def parse_sentinel(url: str) -> SentinelPlace:
    """Read a Sentinel address.

    Raises:
        ConfigurationError: the master's name, a host or a port is missing or wrong.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    try:
        pairs = [_host_and_port(host) for host in hosts.split(",")]
        db = int(parts.path.strip("/") or 0)
        master = query["master"]
    except (ValueError, KeyError):
        # Nothing of the address is repeated: an unencoded password may stand where a port should.
        raise ConfigurationError(
            f"{ENV_PREFIX}REDIS_URL is no Sentinel address; write "
            "redis+sentinel://:password@host:26379,host:26379/0?master=mymaster, with / ? # @ % "
            "in a password percent-encoded"
        ) from None
    return SentinelPlace(
        hosts=pairs,
        master=master,
        db=db,
        username=unquote(username) or None,
        password=unquote(password) or None,
        sentinel_password=query.get("sentinel_password"),
    )


def _host_and_port(text: str) -> tuple[str, int]:
    """`host`, `host:port`, `[::1]` or `[::1]:port`.

    Raises:
        ValueError: there is no host, or the port is no number.
    """
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("no host")
    return parts.hostname, parts.port or 26379


def place_of(client: redis.Redis) -> str:
    """Where a client connects to, in words and without secrets."""
    pool = client.connection_pool
    options = pool.connection_kwargs
    if isinstance(pool, SentinelConnectionPool):
        return f"the master {pool.service_name!r} that the Sentinels name"
    return str(options.get("path") or f"{options.get('host')}:{options.get('port')}")


def check_redis(client: redis.Redis, namespace: str = "avatarmod") -> None:
    """Fail early and in words.

    Args:
        client: the connections.
        namespace: in whose keys we work.

    Raises:
        RedisUnreachable: Redis does not answer.
        ConfigurationError: Redis refuses us or is too old.
    """
    place = place_of(client)
    try:
        info: dict[str, Any] = client.info("server")
        client.exists(Keyspace(namespace).data_set)
    except redis.exceptions.NoPermissionError as error:
        raise ConfigurationError(
            f"the user in {ENV_PREFIX}REDIS_URL lacks rights at {place}: {error}; give it "
            f"~{{{namespace}}}:* ~* for the broker's keys, +@all and so INFO"
        ) from error
    except (redis.exceptions.MovedError, redis.exceptions.ClusterDownError) as error:
        raise ConfigurationError(
            f"Redis at {place} is one node of a Cluster that keeps our keys elsewhere or is not "
            f"whole ({error}); use one server, or Sentinels"
        ) from error
    except redis.AuthenticationError as error:
        raise ConfigurationError(
            f"Redis at {place} refuses the password in {ENV_PREFIX}REDIS_URL"
        ) from error
    except redis.RedisError as error:
        raise RedisUnreachable(
            f"Redis at {place} does not answer ({type(error).__name__}); is it running, and is "
            f"{ENV_PREFIX}REDIS_URL right?"
        ) from error
    version = str(info.get("valkey_version") or info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2]) < (6, 2):
        raise ConfigurationError(f"Redis at {place} is version {version}; 6.2 or newer is needed")


def connect_store(settings: Settings) -> Store:
    """The store on the configured or running Redis, checked.

    Raises:
        ConfigurationError: Redis cannot be used.
    """
    client = redis_client(find_redis_url(settings))
    check_redis(client, settings.namespace)
    return Store(
        client,
        settings.namespace,
        record_ttl_s=settings.record_ttl_s,
        replicas=settings.redis_replicas,
        default_callback_url=settings.callback_url,
    )
