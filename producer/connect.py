"""Open the two connections that everything else is given: the Redis client and the Celery sender.

Where no Redis is configured, the address of the embedded Valkey of a running `avatarmod up` is read
from its instance file in the data folder.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import redis
from celery import Celery
from kombu.exceptions import OperationalError
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool, SentinelManagedConnection

from producer.contract import TASK_NAMES, Stage
from producer.errors import ConfigurationError
from producer.settings import ENV_PREFIX, Settings
from producer.store import Store

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


def check_redis(client: redis.Redis) -> None:
    """Fail early and in words.

    Raises:
        ConfigurationError: Redis does not answer, refuses us or is too old.
    """
    place = place_of(client)
    try:
        info: dict[str, Any] = client.info("server")
    except redis.AuthenticationError as error:
        raise ConfigurationError(
            f"Redis at {place} refuses the password in {ENV_PREFIX}REDIS_URL"
        ) from error
    except redis.RedisError as error:
        raise ConfigurationError(
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
    check_redis(client)
    return Store(
        client,
        settings.namespace,
        record_ttl_s=settings.record_ttl_s,
        replicas=settings.redis_replicas,
    )


def celery_broker(redis_url: str) -> tuple[str, dict[str, Any]]:
    """The same server in kombu's spelling, and the transport options that go with it."""
    parts = urlsplit(redis_url)
    if parts.scheme == "unix":
        database = dict(parse_qsl(parts.query)).get("db", "0")
        credentials = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        return f"redis+socket://{credentials}{parts.path}?virtual_host={database}", {}
    if parts.scheme != "redis+sentinel":
        return redis_url, {}
    place = parse_sentinel(redis_url)
    credentials = ""
    if place.password:
        credentials = f"{quote(place.username or '', safe='')}:{quote(place.password, safe='')}@"
    hosts = [(f"[{host}]" if ":" in host else host, port) for host, port in place.hosts]
    urls = [f"sentinel://{credentials}{host}:{port}/{place.db}" for host, port in hosts]
    limits = {**SENTINEL_LIMITS, "password": place.sentinel_password}
    return ";".join(urls), {"master_name": place.master, "sentinel_kwargs": limits}


def make_celery(settings: Settings, redis_url: str) -> Celery:
    """The Celery application, the same on both sides: JSON only, no results, doorbells only.

    A doorbell carries nothing and loses nothing when it is lost, so it is acknowledged early: a
    killed worker leaves no message behind that comes back minutes later.
    """
    broker, options = celery_broker(redis_url)
    if settings.broker_url is not None:
        broker, options = settings.broker_url.get_secret_value(), {}
    if broker.startswith("amqp"):
        transport: dict[str, Any] = {
            "read_timeout": SOCKET_TIMEOUT_S,
            "write_timeout": SOCKET_TIMEOUT_S,
            # Without these, an enqueue would wait for a broker that is away until it comes back.
            "max_retries": 1,
            "interval_start": 0,
            "connect_retries_timeout": CONNECT_TIMEOUT_S,
        }
    else:
        transport = {
            "global_keyprefix": f"{settings.namespace}:celery:",
            "socket_timeout": SOCKET_TIMEOUT_S,
            "socket_connect_timeout": CONNECT_TIMEOUT_S,
            "socket_keepalive": True,
            # A worker whose broker's host was cut off hears no doorbell for so long.
            "health_check_interval": 5,
            "retry_on_timeout": False,
            "unacked_mutex_expire": 15,
            **options,
        }
    app = Celery("avatarmod", broker=broker, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        result_backend=None,
        task_ignore_result=True,
        task_acks_late=False,
        task_create_missing_queues=True,
        task_routes={name: {"queue": stage.value} for stage, name in TASK_NAMES.items()},
        task_default_queue=Stage.MODERATE.value,
        task_publish_retry_policy={
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.2,
            "interval_max": 0.2,
        },
        task_send_sent_event=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_prefetch_multiplier=1,
        worker_disable_rate_limits=True,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_prefetch_count_reduction=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=4,
        broker_pool_limit=2,
        broker_transport_options=transport,
        timezone="UTC",
    )
    return app


def ring(store: Store, app: Celery, stage: Stage) -> bool:
    """Wake a worker of this stage, unless somebody just did; returns whether a message went out.

    A lost or failed message costs a second: the ticker in every worker rings for what is due.

    Raises:
        redis.RedisError, OperationalError, OSError: it did not go out; nothing else is raised, for
            what a bell follows (an accepted upload, a verdict) stands.
    """
    if not store.take_bell(stage):
        return False
    try:
        app.send_task(TASK_NAMES[stage], queue=stage.value, ignore_result=True, retry=False)
    except (redis.RedisError, OperationalError, OSError):
        raise
    except Exception as error:
        # What RabbitMQ refuses (a password, a virtual host) comes as an error of py-amqp's own.
        raise OperationalError(f"{type(error).__name__}: {error}") from error
    return True
