"""Doorbells: the messages that wake a worker, and all that this side knows of Celery and kombu.

A doorbell carries nothing and loses nothing when it is lost: what must be done stands in Redis.
"""

from __future__ import annotations

from typing import Any, Self
from urllib.parse import parse_qsl, quote, urlsplit

from celery import Celery
from kombu.exceptions import OperationalError

from producer.connect import (
    CONNECT_TIMEOUT_S,
    SENTINEL_LIMITS,
    SOCKET_TIMEOUT_S,
    find_redis_url,
    parse_sentinel,
)
from producer.contract import TASK_NAMES, Stage
from producer.errors import BrokerUnavailable
from producer.record.store import Store
from producer.settings import Settings


class Bells:
    """Sends doorbells; safe to share between threads."""

    def __init__(self, store: Store, app: Celery) -> None:
        self._store = store
        self._app = app

    @classmethod
    def connect(cls, store: Store, settings: Settings) -> Self:
        """Bells on the configured broker, by default the store's own Redis; nothing is sent yet."""
        return cls(store, make_celery(settings, find_redis_url(settings)))

    def ring(self, stage: Stage) -> bool:
        """Wake a worker of this stage, unless somebody just did; returns whether one went out.

        A lost or failed message costs a second: the ticker in every worker rings for what is due.

        Raises:
            BrokerUnavailable: it did not go out; nothing else is raised, for what a bell follows
                (an accepted upload, a verdict) stands.
        """
        try:
            if not self._store.take_bell(stage):
                return False
            self._app.send_task(
                TASK_NAMES[stage], queue=stage.value, ignore_result=True, retry=False
            )
        except Exception as error:
            # What RabbitMQ refuses (a password, a virtual host) comes as an error of py-amqp's own.
            raise BrokerUnavailable(f"no doorbell went out: {type(error).__name__}") from error
        return True


def check_broker(settings: Settings) -> str:
    """Connect once; returns the broker's address without its password.

    Raises:
        BrokerUnavailable: it does not answer; the message names the address.
    """
    app = make_celery(settings, find_redis_url(settings))
    with app.connection_for_write() as connection:
        place = str(connection.as_uri())
        try:
            connection.ensure_connection(max_retries=1, timeout=int(CONNECT_TIMEOUT_S))
        except (OperationalError, OSError) as error:
            raise BrokerUnavailable(f"{place} does not answer ({type(error).__name__})") from error
    return place


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
    # Without fixups: where DJANGO_SETTINGS_MODULE is set, Celery's would make us part of that site.
    app = Celery("avatarmod", broker=broker, set_as_current=False, fixups=[])
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
        # A Redis that refuses to write, because it or its disk is full, is waited for as well.
        broker_channel_error_retry=True,
        broker_connection_timeout=4,
        broker_pool_limit=2,
        broker_transport_options=transport,
        timezone="UTC",
    )
    return app
