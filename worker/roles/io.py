"""The role of slow network calls: reviews and audits, safe copies, callbacks, and long duties."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from producer.contract import Avatar, Stage
from producer.installed import how_to_install
from producer.networks import parse_networks
from producer.record.endpoints import Endpoints
from producer.record.indexing import index_former
from producer.record.settling import Settling
from producer.safe_copies import SafeCopies
from worker.callback import ASIDE, CallbackSender, CallbackStep, callback_rooms
from worker.consumer import LineDrain, Room
from worker.duties.forgetting import ForgettingDuty
from worker.duties.retention import CopiesDuty, ReceivedDuty
from worker.forget import make_forgetter
from worker.intake import make_intake
from worker.ledger.lazy import LazyLedger
from worker.memory.duty import MemoryDuty
from worker.memory.memory import shared_file
from worker.model.bundle import Bundle
from worker.moderation.road import make_decoder
from worker.ping import unreachable
from worker.review.audit import AuditStep
from worker.review.router import Router
from worker.review.step import ReviewStep
from worker.roles.parts import Parts, Role
from worker.safe_copies import Copier, CopyStep
from worker.settings import WorkerSettings
from worker.tasks import Doorbell

if TYPE_CHECKING:
    from worker.ledger.drain import LedgerDrain

log = structlog.get_logger()

#: Seconds that a callback is held at most without a sign of life. While its holder is dead it takes
#: one of its endpoint's few places; sent twice it does no harm, for its id is the same.
CALLBACK_LEASE_S = 15.0

#: Safe copies on their way at the same time; encoded one by one, they mostly wait for stores.
COPY_THREADS = 4


class Io(Role):
    """Everything that waits for others, so that the model never does.

    Raises:
        ConfigurationError: a provider or the bundle cannot be used.
    """

    #: Moves events into SQL; None where the ledger is off.
    _ledger_drain: LedgerDrain | None = None

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        settings = parts.settings
        callbacks = self._callback_drain()
        # The child that decodes starts with the first gray picture, or the first safe copy.
        spec = Bundle.load(settings.bundle, settings.models_folder).input
        self._decoder = make_decoder(settings, spec)
        self._copier = self._make_copier() if settings.safe_copies else None
        drains = {
            **self._review_drains(),
            Stage.COPY: self._copy_drain(),
            Stage.CALLBACK: callbacks,
        }
        parts.closers.append(self._decoder.close)
        self.doorbells = {
            stage: Doorbell(parts.store, stage, drain, parts.stop, drain.look)
            for stage, drain in drains.items()
        }

    # -- parts ---------------------------------------------------------------------------------

    def _drain(self, **how: Any) -> LineDrain:
        drain = LineDrain(store=self._parts.store, **how)
        self._parts.closers.append(drain.close)
        return drain

    def _callback_drain(self) -> LineDrain:
        parts, settings = self._parts, self._parts.settings
        networks = parse_networks(settings.private_networks)
        if settings.callback_url and (fault := unreachable(settings.callback_url, networks)):
            parts.facts["callback_fault"] = fault
            log.warning("callback_unreachable", why=fault, effect="no verdict arrives there")
        sender = CallbackSender(
            settings.callback_secrets,
            allowed=networks,
            timeout_s=settings.callback_timeout_s,
            hub_signature=settings.callback_hub_signature,
        )
        endpoints = Endpoints(parts.store, disable_after_s=settings.callback_disable_after_s)
        step = CallbackStep(
            store=parts.store,
            outcomes=parts.outcomes,
            sender=sender,
            endpoints=endpoints,
            schedule_s=settings.callback_schedule_s,
            stop=parts.stop,
            recorder=parts.recorder,
        )
        drain = self._drain(
            lines=lambda: callback_rooms(endpoints.due(), settings.callback_concurrency),
            handle=step.handle,
            threads=settings.callback_threads,
            aside=ASIDE * settings.callback_threads,
            follows=True,
            lease_s=min(settings.lease_s, CALLBACK_LEASE_S),
        )
        parts.closers.append(sender.close)
        return drain

    def _review_drains(self) -> dict[Stage, LineDrain]:
        """Of gray uploads and of audits."""
        parts, settings, decoder = self._parts, self._parts.settings, self._decoder

        def normalise(data: bytes, avatar: Avatar) -> bytes:
            return decoder.normalise(data, frame=avatar.frame, background=avatar.background)

        shared: dict[str, Any] = {
            "store": parts.store,
            "outcomes": parts.outcomes,
            "router": Router(settings, *parts.store.limits_client()),
            "fetch": parts.images.fetch,
            "normalise": normalise,
            "stop": parts.stop,
            "recorder": parts.recorder,
        }
        audit = AuditStep(**shared)
        lease_s = max(settings.lease_s, 3 * settings.review_timeout_s)
        return {
            Stage.REVIEW: self._drain(
                lines=lambda: {Stage.REVIEW.value: Room()},
                handle=ReviewStep(**shared).handle,
                threads=settings.review_threads,
                lease_s=lease_s,
                next_s=lambda: parts.store.depth(Stage.REVIEW).next_s,
            ),
            Stage.AUDIT: self._drain(
                lines=lambda: {Stage.AUDIT.value: Room()} if audit.may_run() else {},
                handle=audit.handle,
                threads=1,
                lease_s=lease_s,
            ),
        }

    def _copy_drain(self) -> LineDrain:
        parts = self._parts
        step = CopyStep(
            store=parts.store, outcomes=parts.outcomes, copier=self._copier, stop=parts.stop
        )
        return self._drain(
            lines=lambda: {Stage.COPY.value: Room()},
            handle=step.handle,
            threads=COPY_THREADS,
            lease_s=parts.settings.lease_s,
        )

    def _make_copier(self) -> Copier:
        """What writes and removes safe copies."""
        parts = self._parts
        return Copier(
            store=parts.store,
            fetch=parts.images.fetch,
            encoder=self._decoder,
            copies=SafeCopies(parts.settings),
            max_side_px=parts.settings.safe_copy_max_side_px,
        )

    # -- duties --------------------------------------------------------------------------------

    def duties(self) -> dict[str, Callable[[], object]]:
        """Those that take time, and those whose memory SQLAlchemy uses."""
        parts = self._parts
        duties: dict[str, Callable[[], object]] = {
            "memory": self._memory_duty(),
            "forgetting": self._forgetting_duty(),
            "settling": lambda: Settling(parts.store).finish_all(),
            "indexing": lambda: index_former(parts.store),
        }
        if sweeps_received(parts.settings):
            duties["received"] = ReceivedDuty(
                parts.store,
                Path(parts.settings.image_folder),
                retention_days=parts.settings.received_retention_days,
                stop=parts.stop,
            )
        if self._copier is not None:
            duties["copies"] = CopiesDuty(parts.store, self._copier.remove, stop=parts.stop)
        if (drain := self._open_ledger()) is not None:
            duties["ledger"] = drain
        return duties

    def _open_ledger(self) -> LedgerDrain | None:
        if not self._parts.settings.has_ledger:
            return None
        try:
            from worker.ledger.drain import LedgerDrain
        except ModuleNotFoundError as error:
            log.error("ledger_absent", package=error.name, hint=how_to_install("ledger"))
            return None
        drain = self._ledger_drain = LedgerDrain(self._parts.settings, self._parts.store)
        self._parts.closers.append(drain.close)
        return drain

    def _memory_duty(self) -> MemoryDuty:
        parts, decoder = self._parts, self._decoder
        return MemoryDuty(
            parts.store,
            fetch=parts.images.fetch,
            prints=lambda data, avatar: decoder.prints(
                data, frame=avatar.frame, background=avatar.background
            ),
            path=shared_file(parts.settings),
            retention_days=parts.settings.memory_retention_days,
            stop=parts.stop,
        )

    def _forgetting_duty(self) -> ForgettingDuty:
        parts = self._parts
        ledger = LazyLedger(parts.settings)
        parts.closers.append(ledger.close)
        forgetter = make_forgetter(parts.settings, parts.store, parts.images, ledger)
        return ForgettingDuty(parts.store, forgetter, stop=parts.stop)

    # -- life ----------------------------------------------------------------------------------

    def on_ready(self) -> None:
        """Listen to what other programs put in the queue."""
        parts = self._parts
        make_intake(parts.settings, parts.store, parts.bells, parts.stop).start()

    def faults(self) -> dict[str, str]:
        """Of the stores and of the ledger."""
        copier_fault = self._copier.fault if self._copier else ""
        return {
            "image_store_fault": self._parts.images.fault or copier_fault,
            "ledger_fault": self._ledger_drain.fault if self._ledger_drain else "",
        }


def sweeps_received(settings: WorkerSettings) -> bool:
    """Whether pictures that came in with their bytes are deleted here: S3 has rules of its own."""
    in_folder = not settings.image_folder.startswith("s3://")
    return in_folder and settings.received_retention_days > 0
