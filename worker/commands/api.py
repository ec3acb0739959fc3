"""`avatarmod api`: the process of the HTTP API and the console; its composition root."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import random
import signal
import socket
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
import redis
import structlog

from producer.errors import ConfigurationError
from worker.memory import release_memory, rss_bytes

if TYPE_CHECKING:
    from producer.api import Services
    from producer.console.parts import Parts
    from producer.contract import Region
    from worker.ledger_reads import LedgerReads
    from worker.settings import WorkerSettings

log = structlog.get_logger()

#: Tried first where no port is configured; then the next ones.
DEFAULT_PORT, PORTS_TRIED = 8042, 20


#: Seconds after which a ledger that could not be opened is tried again.
LEDGER_AGAIN_S = 10.0

#: Seconds between two signs of life.
BEAT_S = 2.0

#: Seconds for requests in flight to end after SIGTERM.
GRACE_S = 10


@click.command()
def api() -> None:
    """Run HTTP API and console until SIGTERM."""
    from producer.logs import configure_logging
    from producer.settings import load_settings
    from producer.tracing import end_tracing, start_tracing
    from worker.settings import WorkerSettings
    from worker.supervised import follow_supervisor

    settings = load_settings(WorkerSettings)
    configure_logging(settings, "api")
    follow_supervisor()
    start_tracing("api")
    try:
        serve(settings)
    finally:
        end_tracing()


def serve(settings: WorkerSettings) -> None:
    """Build the services, listen, answer until a signal; connections in flight are finished."""
    import uvicorn

    from producer.api import create_app

    services = build_services(settings)
    parts = build_parts(settings, services)
    listening = listen(settings.api_host, settings.api_port)
    config = uvicorn.Config(
        create_app(services, parts),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.api_trusted_proxies),
        forwarded_allow_ips=list(settings.api_trusted_proxies),
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=30,
        backlog=512,
    )
    stop = threading.Event()

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            """Let long polls answer at once."""
            services.follower.release()
            super().handle_exit(sig, frame)

    url = "http://{}:{}".format(*listening.getsockname()[:2])
    heart = threading.Thread(target=beat, args=(services, url, stop), daemon=True)
    heart.start()
    # uvicorn raises the signal again after its shutdown; it has been obeyed by then.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    # What importing left behind.
    release_memory()
    try:
        Server(config).run(sockets=[listening])
    finally:
        stop.set()
        heart.join(BEAT_S)
        parts.close()
        services.images.close()


def build_services(settings: WorkerSettings) -> Services:
    """Connections and parts of one API process.

    Raises:
        ConfigurationError: Redis or a setting cannot be used.
    """
    from producer.api import Services
    from producer.api.follow import Follower
    from producer.enqueue import Producer
    from producer.images import Images
    from producer.keys import ApiKeys, Rates

    producer = Producer.connect(settings)
    store = producer.store
    return Services(
        settings=settings,
        store=store,
        producer=producer,
        images=Images(settings),
        keys=ApiKeys(store),
        rates=Rates(store),
        follower=Follower(store),
    )


def build_parts(settings: WorkerSettings, services: Services) -> Parts:
    """What the console needs of the worker's side; what is absent or not installed is left out.

    Raises:
        ConfigurationError: the policy file cannot be used.
    """
    from producer.console.parts import CutOffs, Parts
    from worker.pictures import SafePictures
    from worker.policy import load_policy

    policy = load_policy(settings.policy_file)

    def cut_offs(region: Region) -> tuple[CutOffs, CutOffs]:
        photo, drawn = policy.cut_offs(region)
        return (
            CutOffs(photo.approve_below, photo.block_from),
            CutOffs(drawn.approve_below, drawn.block_from),
        )

    asked_first = next(iter(settings.review_providers), None)
    return Parts(
        ledger=LazyLedger(settings).get,
        providers=ProviderDesk(settings, services),
        pictures=SafePictures(services.images, settings.decode_limits()),
        cut_offs=cut_offs,
        cloud_yuan_per_1000=settings.cloud_yuan_per_1000,
        review_yuan_per_1000=settings.limits_of(asked_first).yuan_per_1000
        if asked_first
        else settings.cloud_yuan_per_1000,
        timezone=settings.report_timezone,
    )


class LazyLedger:
    """Opens the ledger for reading with the first question; again later when it was away."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._ledger: LedgerReads | None = None
        self._next_try_s = 0.0
        self._lock = threading.Lock()

    def get(self) -> LedgerReads | None:
        """The ledger, or None while it is off, not installed or not reachable."""
        from producer.errors import LedgerUnavailable

        url = self._settings.ledger_url
        if url is not None and url.get_secret_value() == "off":
            return None
        with self._lock:
            if self._ledger is None and time.monotonic() >= self._next_try_s:
                self._next_try_s = time.monotonic() + LEDGER_AGAIN_S
                try:
                    self._ledger = open_ledger(self._settings)
                except (LedgerUnavailable, ConfigurationError, ModuleNotFoundError) as error:
                    log.warning("ledger_absent", error=type(error).__name__)
            return self._ledger


def open_ledger(settings: WorkerSettings) -> LedgerReads | None:
    """The ledger for reading, or None before a worker has made its tables.

    Migrations are the worker's; without them this process saves Alembic's memory.

    Raises:
        ConfigurationError: the address cannot be used, or a driver is not installed.
        LedgerUnavailable: the database does not answer.
    """
    import sqlalchemy as sa

    from producer.errors import LedgerUnavailable
    from worker.ledger import make_engine
    from worker.ledger_reads import LedgerReads
    from worker.ledger_table import events

    engine = make_engine(settings)
    try:
        is_there = sa.inspect(engine).has_table(events.name)
    except sa.exc.SQLAlchemyError as error:
        engine.dispose()
        raise LedgerUnavailable(f"the ledger does not answer: {type(error).__name__}") from error
    if not is_there:
        engine.dispose()
        return None
    return LedgerReads(engine, settings.namespace)


class ProviderDesk:
    """The review providers' shared limits, without their SDKs."""

    def __init__(self, settings: WorkerSettings, services: Services) -> None:
        from worker.review.limits import Limits

        store = services.store
        self._settings = settings
        self._limits = Limits(store.redis, store.prefix, settings, random.random)

    def statuses(self) -> list[Any]:
        """How each provider on a route stands."""
        return [self._limits.status(name) for name in self._settings.review_providers]

    def reset(self, name: str) -> bool:
        """Close a provider's breaker; False when no route names it."""
        if name not in self._settings.review_providers:
            return False
        self._limits.reset(name)
        return True


def beat(services: Services, url: str, stop: threading.Event) -> None:
    """Show this process's life every two seconds until `stop`, and its end."""
    name = f"api@{socket.gethostname()}:{os.getpid()}"
    facts = {
        "name": name,
        "role": "api",
        "stages": [],
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "version": importlib.metadata.version("avatar-moderation"),
        "url": url,
    }
    while True:
        with contextlib.suppress(redis.RedisError):
            services.store.show_life(name, {**facts, "rss_bytes": rss_bytes()})
            services.recorder.publish(services.store)
        if stop.wait(BEAT_S):
            break
    with contextlib.suppress(redis.RedisError):
        services.store.end_life(name)


def listen(host: str, port: int | None) -> socket.socket:
    """A listening socket on the configured port, or on 8042 or the next free one.

    Raises:
        ConfigurationError: the port is taken, or this machine has no such address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ports = [port] if port is not None else [*range(DEFAULT_PORT, DEFAULT_PORT + PORTS_TRIED), 0]
    for number in ports:
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, number))
            listening.listen(512)
        except OSError as error:
            listening.close()
            if port is None and number != 0:
                continue
            raise ConfigurationError(
                f"cannot listen on {host}:{number} ({error.strerror}); set AVATARMOD_API_HOST and "
                "AVATARMOD_API_PORT"
            ) from error
        return listening
    raise AssertionError("unreachable: the last port is always free")
