"""One worker process from its start to its end: settings in, a running Celery worker out.

Two roles: `moderate` holds the model, `io` does the slow network calls (review and callback), so
that neither waits for the other. Everything is built at the start and passed down; a part that
cannot be built stops the process before it takes any work.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib.metadata
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import redis
import structlog

from producer.connect import connect_store, find_redis_url
from producer.doorbell import Bells, make_celery
from producer.images import Images
from producer.logs import configure_logging
from producer.loss_watch import LossWatch
from producer.metrics import Recorder
from producer.texts import pack
from producer.tracing import end_tracing, start_tracing
from worker import celery_app
from worker.duties.alarm_duty import AlarmDuty, make_teller
from worker.duties.facts import provider_statuses
from worker.duties.sweeper import Sweeper
from worker.outcomes import Outcomes
from worker.process.supervised import follow_supervisor
from worker.resources import hide_memory, keep_releasing, release_memory, rss_bytes
from worker.roles.parts import Parts, Role
from worker.settings import WorkerSettings

log = structlog.get_logger()

RoleName = Literal["moderate", "io"]

#: Seconds after which a worker that was told to stop writes to the log where each thread stands;
#: its supervisor kills it ten seconds later, and what it held comes back with its leases.
SLOW_STOP_S = 20.0


class Worker:
    """One worker process of a role, from its parts to its end."""

    def __init__(self, name: RoleName, settings: WorkerSettings) -> None:
        self._role_name = name
        self.name = f"{name}@{socket.gethostname()}:{os.getpid()}"
        store, images, recorder = connect_store(settings), Images(settings), Recorder()
        self._celery = make_celery(settings, find_redis_url(settings))
        bells = Bells(store, self._celery)
        self.parts = Parts(
            settings=settings,
            store=store,
            bells=bells,
            images=images,
            recorder=recorder,
            outcomes=Outcomes(store, recorder, bells.ring),
            stop=threading.Event(),
            facts={},
            closers=[images.close],
        )
        self._announce()
        self._bundle_folder = self._promoted_folder()
        self.role = self._build()

    def _build(self) -> Role:
        # Imported here: neither loads what only the other needs.
        if self._role_name == "moderate":
            from worker.roles.moderate import Moderate

            return Moderate(self.parts)
        from worker.roles.io import Io

        return Io(self.parts)

    def _announce(self) -> None:
        """Tell whoever enqueues or decides, with other settings or with none, what holds here."""
        store, settings = self.parts.store, self.parts.settings
        store.announce_callback(settings.callback_url)
        store.copies.promise(bool(settings.safe_copies))
        store.audits.announce(settings.audit_share)

    def run(self) -> int:
        """Work until SIGTERM or SIGINT; returns the exit code."""
        parts = self.parts
        # From any process, for the other kind may be the one that is missing.
        alarms = AlarmDuty(
            parts.store,
            parts.settings,
            lambda: provider_statuses(parts.store, parts.settings),
            make_teller(parts.settings),
        )
        duties: dict[str, Callable[[], object]] = {"alarms": alarms, **self.role.duties()}
        sweeper = Sweeper(
            store=parts.store,
            ring=parts.bells.ring,
            name=self.name,
            facts=self._beat,
            stop=parts.stop,
            recorder=parts.recorder,
            duties=duties,
            outage=alarms.outage,
            look=LossWatch(parts.store, parts.settings.data_folder).look,
        )

        def on_ready() -> None:
            sweeper.start()
            self.role.on_ready()
            # What importing and loading left behind, and from then on what batches do.
            release_memory()
            threading.Thread(target=keep_releasing, args=(parts.stop,), daemon=True).start()
            log.info("worker_ready", **parts.facts)

        def on_signal() -> None:
            faulthandler.dump_traceback_later(SLOW_STOP_S)
            parts.stop.set()

        try:
            return celery_app.consume(
                self._celery,
                self.role.doorbells,
                name=self.name,
                on_ready=on_ready,
                on_signal=on_signal,
            )
        finally:
            self.close()

    def close(self) -> None:
        """Stop, close every part, and say once more what was counted."""
        self.parts.stop.set()
        for close in self.parts.closers:
            close()
        with contextlib.suppress(redis.RedisError):
            self.parts.recorder.publish(self.parts.store)

    def _beat(self) -> dict[str, Any]:
        """Every second: leave for another bundle or policy, so that the next start takes it up."""
        if not self.parts.store.audits.is_announced():
            self._announce()
        if not self.parts.stop.is_set() and (event := self._outdated()):
            log.warning(event, action="ending, to be started again with it")
            self.parts.stop.set()
            celery_app.end()
        return self._sign_of_life()

    def _outdated(self) -> str:
        if self._bundle_folder != self._promoted_folder():
            return "bundle_promoted"
        return self.role.outdated()

    def _promoted_folder(self) -> Path | None:
        """Where `current` points to; None where the settings name a bundle outright."""
        if self.parts.settings.bundle != "current":
            return None
        return (self.parts.settings.models_folder / "current").resolve()

    def _sign_of_life(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "role": self._role_name,
            "stages": tuple(self.role.doorbells),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "rss_bytes": rss_bytes(),
            "image_store_fault": pack(self.parts.images.fault),
            "version": importlib.metadata.version("avatar-moderation"),
            **self.parts.facts,
            **{name: pack(fault) for name, fault in self.role.faults().items()},
        }


def run_worker(role: RoleName, settings: WorkerSettings) -> int:
    """Build and run one worker process; returns its exit code."""
    hide_memory()
    configure_logging(settings, role)
    follow_supervisor()
    start_tracing(role)
    try:
        return Worker(role, settings).run()
    finally:
        end_tracing()
