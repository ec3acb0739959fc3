"""Composition root of a worker process: settings in, a running Celery worker out.

Two roles: `moderate` holds the model, `io` does the slow network calls (review and callback), so
that neither waits for the other. Everything is built here and passed down; a part that cannot be
built stops the process before it takes any work.
"""

from __future__ import annotations

import faulthandler
import importlib.metadata
import os
import signal
import socket
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import structlog
from celery.exceptions import CPendingDeprecationWarning, SecurityWarning
from celery.signals import setup_logging, worker_ready
from celery.worker import state

from producer.connect import connect_store, find_redis_url, make_celery, ring
from producer.contract import Region, Stage
from producer.dead_letters import DeadLetters
from producer.endpoints import Endpoints
from producer.errors import ConfigurationError
from producer.http_guard import parse_networks
from producer.images import Images
from producer.logs import configure_logging
from producer.metrics import Recorder
from producer.tracing import end_tracing, start_tracing
from worker.alarms import AlarmDuty, make_teller, provider_statuses
from worker.batch import BatchKnobs, ModerateDrain
from worker.callback import CallbackSender
from worker.decode import DecodeLimits, Decoder
from worker.drain import LineDrain
from worker.memory import keep_releasing, release_memory, rss_bytes, unmap_large_blocks
from worker.outcomes import Outcomes
from worker.pixels import InputSpec
from worker.policy import load_policy
from worker.received import ReceivedDuty
from worker.settings import WorkerSettings
from worker.style import StyleHead
from worker.supervised import follow_supervisor
from worker.sweeper import Sweeper
from worker.tasks import CallbackStep, Doorbell, ReviewStep, register
from worker.views import ViewOptions

log = structlog.get_logger()

Role = Literal["moderate", "io"]

#: Stages of each role; also the Celery queues it listens to.
ROLES: dict[Role, tuple[Stage, ...]] = {
    "moderate": (Stage.MODERATE,),
    "io": (Stage.REVIEW, Stage.CALLBACK),
}

#: Seconds that a callback is held at most without a sign of life. While its holder is dead it takes
#: one of its endpoint's few places; sent twice it does no harm, for its id is the same.
CALLBACK_LEASE_S = 15.0

#: Seconds after which a worker that was told to stop writes to the log where each thread stands;
#: its supervisor kills it ten seconds later, and what it held comes back with its leases.
SLOW_STOP_S = 20.0


class Worker:
    """One worker process of a role, from its parts to its end."""

    def __init__(self, role: Role, settings: WorkerSettings) -> None:
        self.role = role
        self.settings = settings
        self.stop = threading.Event()
        self.store = connect_store(settings)
        self.celery = make_celery(settings, find_redis_url(settings))
        self.images = Images(settings)
        self.recorder = Recorder()
        self.outcomes = Outcomes(
            self.store,
            settings.callback_url,
            self.recorder,
            lambda stage: ring(self.store, self.celery, stage),
        )
        self.facts: dict[str, Any] = {}
        self._bundle_folder = self._promoted_folder()
        self._closers: list[Callable[[], object]] = [self.images.close]
        build = self._build_moderate if role == "moderate" else self._build_io
        register(self.celery, build())

    # -- parts ---------------------------------------------------------------------------------

    def _build_moderate(self) -> dict[Stage, Doorbell]:
        from worker.bundle import Bundle
        from worker.engine import Engine

        settings = self.settings
        bundle = Bundle.load(settings.bundle, settings.models_folder)
        if bundle.random_weights and not settings.allow_random_weights:
            raise ConfigurationError(
                f"bundle {bundle.id} has random weights, made for benchmarks: its verdicts mean "
                "nothing; export a real model with `avatarmod export`"
            )
        policy = load_policy(settings.policy_file)
        engine = Engine(
            bundle,
            execution_providers=settings.execution_providers,
            threads=settings.threads,
            micro_batch=settings.micro_batch,
            max_rss_mb=settings.max_rss_mb,
        )
        if engine.keeps_memory:
            unmap_large_blocks()
        self.facts |= {**engine.description, "policy": policy.version}
        options = self._view_options(bundle.input)
        decoder = Decoder(self._decode_limits(), options)
        style = StyleHead()
        drain = ModerateDrain(
            store=self.store,
            outcomes=self.outcomes,
            fetch=self.images.fetch,
            decoder=decoder,
            engine=engine,
            policy=policy,
            drawn_probability=lambda view: style.drawn_probability(view.pixels),
            has_reviewers=self._has_reviewers,
            recorder=self.recorder,
            knobs=BatchKnobs(
                batch_size=settings.batch_size,
                batch_wait_s=settings.batch_wait_s,
                lease_s=settings.lease_s,
                fetch_threads=settings.fetch_threads,
                bundle_id=bundle.id,
                views_id=options.id,
            ),
        )
        self._closers += [drain.close, decoder.close]
        return {Stage.MODERATE: Doorbell(self.store, Stage.MODERATE, drain, self.stop)}

    def _build_io(self) -> dict[Stage, Doorbell]:
        settings = self.settings
        sender = CallbackSender(
            settings.callback_secrets,
            allowed=parse_networks(settings.private_networks),
            timeout_s=settings.callback_timeout_s,
            hub_signature=settings.callback_hub_signature,
        )
        endpoints = Endpoints(self.store, disable_after_s=settings.callback_disable_after_s)
        letters = DeadLetters(self.store, self.outcomes.callback_url)
        step = CallbackStep(
            store=self.store,
            sender=sender,
            dead_letters=letters,
            endpoints=endpoints,
            schedule_s=settings.callback_schedule_s,
            stop=self.stop,
            recorder=self.recorder,
        )
        callback_drain = LineDrain(
            store=self.store,
            # A failing endpoint gets one probe at a time, so that it holds one thread at most.
            lines=lambda: {
                line: 1 if failing else settings.callback_concurrency
                for line, failing in endpoints.open_lines().items()
            },
            handle=step.handle,
            threads=settings.callback_threads,
            lease_s=min(settings.lease_s, CALLBACK_LEASE_S),
        )
        self._closers += [callback_drain.close, sender.close]
        return {
            Stage.REVIEW: Doorbell(self.store, Stage.REVIEW, self._review_drain(), self.stop),
            Stage.CALLBACK: Doorbell(self.store, Stage.CALLBACK, callback_drain, self.stop),
        }

    def _review_drain(self) -> LineDrain:
        from worker.bundle import Bundle
        from worker.review.router import Router

        settings = self.settings
        # The child that decodes starts with the first gray picture.
        spec = Bundle.load(settings.bundle, settings.models_folder).input
        decoder = Decoder(self._decode_limits(), self._view_options(spec))
        step = ReviewStep(
            store=self.store,
            outcomes=self.outcomes,
            router=Router(settings, self.store.redis, self.store.prefix),
            fetch=self.images.fetch,
            decoder=decoder,
            stop=self.stop,
            recorder=self.recorder,
        )
        drain = LineDrain(
            store=self.store,
            lines=lambda: {Stage.REVIEW.value: 0},
            handle=step.handle,
            threads=settings.review_threads,
            lease_s=max(settings.lease_s, 3 * settings.review_timeout_s),
        )
        self._closers += [drain.close, decoder.close]
        return drain

    def _decode_limits(self) -> DecodeLimits:
        return DecodeLimits(**self.settings.decode_limits())  # type: ignore[arg-type]

    def _view_options(self, spec: InputSpec) -> ViewOptions:
        settings = self.settings
        return ViewOptions(
            spec=spec,
            max_frames=settings.scored_frames,
            served_crop=settings.served_crop,
            pad_to_square=settings.pad_to_square,
            flat_rule=settings.flat_rule,
            hidden_colours=settings.hidden_colours,
        )

    def _has_reviewers(self, region: Region) -> bool:
        return bool(self.settings.route_of(region))

    def _duties(self) -> dict[str, Callable[[], object]]:
        """What the sweeper does besides ringing, by the name of its lock.

        Alarms from any process, for the other kind may be the one that is missing; the rest only
        from io, which has the time, and whose memory SQLAlchemy may use.
        """
        duties: dict[str, Callable[[], object]] = {"alarms": self._alarm_duty()}
        if self.role != "io":
            return duties
        settings = self.settings
        if settings.received_retention_days and not settings.image_folder.startswith("s3://"):
            duties["received"] = ReceivedDuty(
                self.store,
                Path(settings.image_folder),
                retention_days=settings.received_retention_days,
                stop=self.stop,
            )
        url = settings.ledger_url
        if url is not None and url.get_secret_value() == "off":
            return duties
        try:
            from worker.ledger import LedgerDrain
        except ModuleNotFoundError as error:
            log.error("ledger_absent", package=error.name, hint="avatar-moderation[ledger]")
            return duties
        drain = LedgerDrain(self.settings, self.store)
        self._closers.append(drain.close)
        return {**duties, "ledger": drain}

    # -- life ----------------------------------------------------------------------------------

    def run(self) -> int:
        """Work until SIGTERM or SIGINT; returns the exit code."""
        name = f"{self.role}@{socket.gethostname()}:{os.getpid()}"
        duties = self._duties()
        alarms = duties["alarms"]
        assert isinstance(alarms, AlarmDuty)
        sweeper = Sweeper(
            store=self.store,
            celery=self.celery,
            name=name,
            facts=lambda: self._beat(name),
            stop=self.stop,
            recorder=self.recorder,
            duties=duties,
            outage=alarms.outage,
        )

        def on_ready(**_: object) -> None:
            sweeper.start()
            # What importing and loading left behind, and from then on what batches do.
            release_memory()
            threading.Thread(target=keep_releasing, args=(self.stop,), daemon=True).start()
            log.info("worker_ready", **self.facts)

        def on_signal(_number: int, _frame: object) -> None:
            faulthandler.dump_traceback_later(SLOW_STOP_S)
            self.stop.set()
            state.should_stop = 0  # type: ignore[assignment]

        worker_ready.connect(on_ready, weak=False)
        # Whoever is connected here has set up logging; Celery would set the root to WARNING.
        setup_logging.connect(_keep_logging, weak=False)
        stages = ROLES[self.role]
        # As root inside a container is a deployment's choice; the queue carries JSON only.
        warnings.simplefilter("ignore", SecurityWarning)
        # About tasks acknowledged late; a doorbell is acknowledged early.
        warnings.simplefilter("ignore", CPendingDeprecationWarning)
        process = self.celery.Worker(
            queues=[stage.value for stage in stages],
            pool="threads",
            # One thread to drain and one to note a doorbell that rings meanwhile.
            concurrency=2 * len(stages),
            hostname=name,
            loglevel="WARNING",
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
        )
        # Celery's own handlers print to the terminal and would stop before the drains give back.
        setattr(process, "install_platform_tweaks", lambda _worker: _install(on_signal))  # noqa: B010
        try:
            process.start()
        finally:
            self.stop.set()
            for close in self._closers:
                close()
        return int(process.exitcode or 0)

    def _alarm_duty(self) -> AlarmDuty:
        return AlarmDuty(
            self.store,
            self.settings,
            lambda: provider_statuses(self.store, self.settings),
            make_teller(self.settings),
        )

    def _beat(self, name: str) -> dict[str, Any]:
        """Every second: leave when another bundle was promoted, so that the next start loads it."""
        if self._bundle_folder is not None and self._bundle_folder != self._promoted_folder():
            log.warning("bundle_promoted", action="ending, to be started again with it")
            self._bundle_folder = None
            self.stop.set()
            state.should_stop = 0  # type: ignore[assignment]
        return self._sign_of_life(name)

    def _promoted_folder(self) -> Path | None:
        """Where `current` points to; None where the settings name a bundle outright."""
        if self.settings.bundle != "current":
            return None
        return (self.settings.models_folder / "current").resolve()

    def _sign_of_life(self, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "role": self.role,
            "stages": ROLES[self.role],
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "rss_bytes": rss_bytes(),
            "version": importlib.metadata.version("avatar-moderation"),
            **self.facts,
        }


def run_worker(role: Role, settings: WorkerSettings) -> int:
    """Build and run one worker process; returns its exit code."""
    configure_logging(settings, role)
    follow_supervisor()
    start_tracing(role)
    try:
        return Worker(role, settings).run()
    finally:
        end_tracing()


def _keep_logging(**_: object) -> None:
    """Logging is configured already."""


def _install(handler: Callable[[int, Any], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, handler)
