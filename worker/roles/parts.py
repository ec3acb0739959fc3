"""What every worker process has, and what its role adds."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

from producer.contract import Stage
from producer.doorbell import Bells
from producer.images import Images
from producer.metrics import Recorder
from producer.record.store import Store
from worker.outcomes import Outcomes
from worker.settings import WorkerSettings
from worker.tasks import Doorbell


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """Connections and clients of one process, with its end.

    Attributes:
        stop: set when the process is to end.
        facts: what the sign of life says of the process and does not change.
        closers: called in this order when it has ended.
    """

    settings: WorkerSettings
    store: Store
    bells: Bells
    images: Images
    recorder: Recorder
    outcomes: Outcomes
    stop: threading.Event
    facts: dict[str, Any]
    closers: list[Callable[[], object]]


class Role:
    """One kind of worker process, built from its parts."""

    #: What answers the doorbells, by stage.
    doorbells: dict[Stage, Doorbell]

    def duties(self) -> dict[str, Callable[[], object]]:
        """What its sweeper does besides ringing, by the name of the lock."""
        return {}

    def on_ready(self) -> None:
        """Begin what runs beside the doorbells."""

    def outdated(self) -> str:
        """Why the process must start again, as an event of the log; empty: it need not."""
        return ""

    def faults(self) -> dict[str, str]:
        """What is wrong now with what the role uses, for the sign of life."""
        return {}
