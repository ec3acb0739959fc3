"""All that the worker knows of Celery: the tasks that answer doorbells, and their consumer."""

from __future__ import annotations

import signal
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from celery import Celery
from celery.exceptions import CPendingDeprecationWarning, SecurityWarning
from celery.signals import setup_logging, worker_ready
from celery.worker import state
from celery.worker.consumer import Consumer

from producer.contract import TASK_NAMES, Stage
from worker.tasks import Doorbell

#: Seconds between two tries to listen to a broker that takes the connection and then refuses.
REFUSED_S = 1.0


class PatientConsumer(Consumer):
    """Leaves no connection behind where one is taken and cannot be used, as in a full Redis.

    Celery's own tries again at once, six times a second, and each try leaves a connection open:
    together they take more of the server's memory than the ledger's drain can free.
    """

    def connection_for_read(self, heartbeat: float | None = None) -> Any:
        """As Celery's; the connection is remembered."""
        self._opened = super().connection_for_read(heartbeat)
        return self._opened

    def connect(self) -> Any:
        """As Celery's; a connection that cannot be used is closed."""
        try:
            return super().connect()
        except self._opened.connection_errors + self._opened.channel_errors:
            self._opened.close()
            time.sleep(REFUSED_S)
            raise


def register(app: Celery, doorbells: Mapping[Stage, Doorbell]) -> None:
    """Give the application the tasks of the stages that this process works on."""
    for stage, doorbell in doorbells.items():
        app.task(name=TASK_NAMES[stage], ignore_result=True)(doorbell.answer)


def consume(
    app: Celery,
    doorbells: Mapping[Stage, Doorbell],
    *,
    name: str,
    on_ready: Callable[[], None],
    on_signal: Callable[[], None],
) -> int:
    """Answer the doorbells of some stages until `end` or a signal; returns the exit code.

    Args:
        app: on the broker that the doorbells come from.
        doorbells: by stage, which is also the queue's name.
        name: of this process, unique.
        on_ready: called once the queues are listened to.
        on_signal: called at SIGTERM, SIGINT or SIGQUIT, before the consumer ends.
    """
    register(app, doorbells)

    def stop(_number: int, _frame: object) -> None:
        on_signal()
        end()

    def install(_worker: object) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, stop)

    def ready(**_: object) -> None:
        on_ready()

    worker_ready.connect(ready, weak=False)
    # Whoever is connected here has set up logging; Celery would set the root to WARNING.
    setup_logging.connect(_keep_logging, weak=False)
    # As root inside a container is a deployment's choice; the queue carries JSON only.
    warnings.simplefilter("ignore", SecurityWarning)
    # About tasks acknowledged late; a doorbell is acknowledged early.
    warnings.simplefilter("ignore", CPendingDeprecationWarning)
    process: Any = app.Worker(
        queues=[stage.value for stage in doorbells],
        pool="threads",
        # One thread to drain and one to note a doorbell that rings meanwhile.
        concurrency=2 * len(doorbells),
        hostname=name,
        loglevel="WARNING",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
        consumer_cls=PatientConsumer,
    )
    # Celery's own handlers print to the terminal and would stop before the drains give back.
    process.install_platform_tweaks = install
    # `ps` goes on saying which role this is.
    process.set_process_status = lambda _info: None
    process.start()
    return int(process.exitcode or 0)


def end() -> None:
    """Let `consume` return once the running drains have."""
    state.should_stop = 0  # type: ignore[assignment]


def _keep_logging(**_: object) -> None:
    """Logging is configured already."""
