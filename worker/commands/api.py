"""`avatarmod api`: the process of the HTTP API and the console; its composition root."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import random
import signal
import socket
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
import redis
import structlog

from producer.errors import ConfigurationError, RedisUnreachable
from worker.resources import release_memory, rss_bytes

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from producer.web.console.dependencies import Parts
    from producer.web.services import Services
    from worker.settings import WorkerSettings
    from worker.tools.misses import MissRate

log = structlog.get_logger()

#: Ports tried where none is configured, from the default on.
PORTS_TRIED = 20

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
    from worker.process.supervised import follow_supervisor
    from worker.settings import WorkerSettings

    settings = load_settings(WorkerSettings)
    configure_logging(settings, "api")
    follow_supervisor()
    start_tracing("api")
    try:
        serve(settings)
    except RedisUnreachable as error:
        # Exit code 1: systemd and `avatarmod up` start it again; after code 2 they do not.
        raise click.ClickException(str(error)) from error
    finally:
        end_tracing()


def serve(settings: WorkerSettings) -> None:
    """Build the services, listen, answer until a signal; connections in flight are finished."""
    import uvicorn

    from producer.web.app import create_app
    from worker.resources import hide_memory

    hide_memory()
    services = build_services(settings)
    parts = build_parts(settings, services)
    listening = listen(settings.api_host, settings.api_port)
    config = make_config(create_app(services, parts), settings)
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


def make_config(app: FastAPI, settings: WorkerSettings) -> uvicorn.Config:
    """How uvicorn serves the application, with bounds that hold without a reverse proxy."""
    import uvicorn
    from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

    from producer.web.connections import bounded_protocol
    from producer.web.trusted_user import TrustedUser

    outer: Any = app
    proxies = list(settings.api_trusted_proxies)
    if proxies:
        outer = ProxyHeadersMiddleware(outer, trusted_hosts=proxies)
    if settings.trusted_user_header:
        # Before the peer's address gives way to the one that the proxy names.
        outer = TrustedUser(outer, header=settings.trusted_user_header, proxies=proxies)
    return uvicorn.Config(
        outer,
        http=bounded_protocol(settings.api_trusted_proxies),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=30,
        backlog=512,
    )


def build_services(settings: WorkerSettings) -> Services:
    """Connections and parts of one API process.

    Raises:
        ConfigurationError: Redis or a setting cannot be used.
    """
    from producer.client import Producer
    from producer.images import Images
    from producer.web.api_keys import ApiKeys, Rates
    from producer.web.long_poll import Follower
    from producer.web.services import Services
    from worker.forget import make_forgetter
    from worker.ledger.lazy import LazyLedger

    producer = Producer.connect(settings)
    store, images = producer.store, Images(settings)
    return Services(
        settings=settings,
        store=store,
        producer=producer,
        images=images,
        forgetter=make_forgetter(settings, store, images, LazyLedger(settings)),
        keys=ApiKeys(store),
        rates=Rates(store),
        follower=Follower(store),
    )


def build_parts(settings: WorkerSettings, services: Services) -> Parts:
    """What the console needs of the worker's side; what is absent or not installed is left out.

    Raises:
        ConfigurationError: the policy file cannot be used.
    """
    from producer.web.console.dependencies import CutOffs, Parts
    from worker.image.preview import SafePictures
    from worker.ledger.lazy import LazyLedger
    from worker.look_up import look_up
    from worker.tools.policies import Policies
    from worker.tools.route_prices import route_price, routes

    ledger = LazyLedger(settings)
    policies = Policies(settings, ledger.get, services.store.now)

    def second_cut_offs() -> tuple[CutOffs, CutOffs] | None:
        rules = policies.in_use().second
        if rules.ask == "off":
            return None
        photo, drawn = rules.veto_from, rules.drawn_veto_from
        return CutOffs(rules.clear_below, photo), CutOffs(rules.clear_below, drawn)

    def misses(start: float, end: float) -> MissRate | None:
        from worker.tools.misses import Misses

        book = ledger.get()
        return Misses(answers=book.audits(start, end)).overall if book is not None else None

    return Parts(
        ledger=ledger.get,
        providers=ReviewProviders(settings, services),
        pictures=SafePictures(services.images, settings.decode_limits()),
        look_up=functools.partial(look_up, settings),
        region=settings.default_region,
        policies=policies,
        second_cut_offs=second_cut_offs,
        misses=misses,
        cloud_yuan_per_1000=settings.cloud_yuan_per_1000,
        review_yuan_per_1000=route_price(routes(settings, {})),
        timezone=settings.report_timezone,
    )


class ReviewProviders:
    """The review providers' shared limits, without their SDKs."""

    def __init__(self, settings: WorkerSettings, services: Services) -> None:
        from worker.review.limits import Limits

        store = services.store
        self._settings = settings
        self._limits = Limits(*store.limits_client(), settings, random.random)

    def statuses(self) -> list[Any]:
        """How each provider on a route stands."""
        return [self._limits.status(name) for name in self._settings.review_providers]

    def today(self) -> tuple[float, float | None]:
        """What all were paid today by the book of the budgets, and the budget."""
        return self._limits.total_today()[1], self._settings.review_daily_yuan

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
    from producer.loss_watch import LossWatch

    watch = LossWatch(services.store, services.settings.data_folder)
    while True:
        with contextlib.suppress(redis.RedisError):
            watch.look()
            services.store.show_life(name, {**facts, "rss_bytes": rss_bytes()})
            services.recorder.publish(services.store)
        if stop.wait(BEAT_S):
            break
    with contextlib.suppress(redis.RedisError):
        services.recorder.publish(services.store)
        services.store.end_life(name)


def listen(host: str, port: int | None) -> socket.socket:
    """A listening socket on the configured port, or on 8042 or the next free one.

    Raises:
        ConfigurationError: the port is taken, or this machine has no such address.
    """
    from producer.settings import DEFAULT_API_PORT as FIRST

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ports = [port] if port is not None else [*range(FIRST, FIRST + PORTS_TRIED), 0]
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
