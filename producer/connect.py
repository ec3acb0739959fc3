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
from redis.backoff import ExponentialBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from producer.contract import TASK_NAMES, Stage
from producer.errors import ConfigurationError
from producer.settings import ENV_PREFIX, Settings
from producer.store import Store

#: Seconds; a Redis that answers slower than this is treated as unreachable.
SOCKET_TIMEOUT_S = 5.0


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
        "socket_connect_timeout": 3.0,
        "health_check_interval": 10,
        "retry": Retry(ExponentialBackoff(cap=1.0, base=0.05), 3),
        "retry_on_error": [redis.ConnectionError, redis.ReadOnlyError],
    }
    if not url.startswith("redis+sentinel://"):
        try:
            return redis.Redis.from_url(url, **options)
        except ValueError as error:
            raise ConfigurationError(f"{ENV_PREFIX}REDIS_URL: {error}") from error
    place = parse_sentinel(url)
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        place.hosts,
        sentinel_kwargs={"socket_timeout": SOCKET_TIMEOUT_S, "password": place.sentinel_password},
        db=place.db,
        username=place.username,
        password=place.password,
        **options,
    )
    client: redis.Redis = sentinel.master_for(place.master)  # type: ignore[no-untyped-call]
    return client


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
        ConfigurationError: the master's name is missing or a port is no number.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    if "master" not in query:
        raise ConfigurationError(
            f"{ENV_PREFIX}REDIS_URL: say which master, as in "
            "redis+sentinel://host:26379,host:26379/0?master=mymaster"
        )
    try:
        pairs = [
            (host, int(port or 26379))
            for host, _, port in (h.partition(":") for h in hosts.split(","))
        ]
        db = int(parts.path.strip("/") or 0)
    except ValueError as error:
        raise ConfigurationError(f"{ENV_PREFIX}REDIS_URL: {error}") from error
    return SentinelPlace(
        hosts=pairs,
        master=query["master"],
        db=db,
        username=unquote(username) or None,
        password=unquote(password) or None,
        sentinel_password=query.get("sentinel_password"),
    )


def check_redis(client: redis.Redis) -> None:
    """Fail early and in words.

    Raises:
        ConfigurationError: Redis does not answer, refuses us or is too old.
    """
    options = client.connection_pool.connection_kwargs
    place = options.get("path") or f"{options.get('host')}:{options.get('port')}"
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
    return Store(client, settings.namespace, record_ttl_s=settings.record_ttl_s)


def celery_broker(redis_url: str) -> tuple[str, dict[str, Any]]:
    """The same server in kombu's spelling, and the transport options that go with it."""
    parts = urlsplit(redis_url)
    if parts.scheme == "unix":
        return f"redis+socket://{parts.path}?virtual_host=0", {}
    if parts.scheme != "redis+sentinel":
        return redis_url, {}
    place = parse_sentinel(redis_url)
    credentials = ""
    if place.password:
        credentials = f"{quote(place.username or '', safe='')}:{quote(place.password, safe='')}@"
    urls = [f"sentinel://{credentials}{host}:{port}/{place.db}" for host, port in place.hosts]
    options: dict[str, Any] = {"master_name": place.master}
    if place.sentinel_password:
        options["sentinel_kwargs"] = {"password": place.sentinel_password}
    return ";".join(urls), options


def make_celery(settings: Settings, redis_url: str) -> Celery:
    """The Celery application, the same on both sides: JSON only, no results, doorbells only.

    A doorbell carries nothing and loses nothing when it is lost, so it is acknowledged early: a
    killed worker leaves no message behind that comes back minutes later.
    """
    broker, options = celery_broker(redis_url)
    if settings.broker_url is not None:
        broker, options = settings.broker_url.get_secret_value(), {}
    if broker.startswith("amqp"):
        transport: dict[str, Any] = {"read_timeout": SOCKET_TIMEOUT_S, "write_timeout": 5}
    else:
        transport = {
            "global_keyprefix": f"{settings.namespace}:celery:",
            "socket_timeout": SOCKET_TIMEOUT_S,
            "socket_connect_timeout": 3,
            "socket_keepalive": True,
            "health_check_interval": 10,
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
    """
    if not store.take_bell(stage):
        return False
    app.send_task(TASK_NAMES[stage], queue=stage.value, ignore_result=True, retry=False)
    return True
