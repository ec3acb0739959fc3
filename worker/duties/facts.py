"""What alarms are judged by, read from Redis in a few dozen commands."""

from __future__ import annotations

import dataclasses
import itertools
import random
import time
from collections.abc import Sequence

from producer.contract import AvatarState, Region, Stage
from producer.errors import StorageMisconfigured
from producer.record.dead_letters import DeadLetters
from producer.record.endpoints import Endpoint, Endpoints
from producer.record.room import memory_share
from producer.record.store import Store
from producer.texts import unpack
from worker.review.leave import ProviderStatus
from worker.review.limits import Limits
from worker.settings import WorkerSettings

#: Newest dead letters that are looked through for a fault of the configuration.
LETTERS_READ = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What alarms are judged by; times are seconds since the epoch by the Redis server's clock."""

    now: float
    oldest_queued_at: float | None
    oldest_reviewing_at: float | None
    backlog: int
    last_verdict_at: float | None
    sweeper_alive: bool
    stages_alive: frozenset[str]
    waiting: dict[str, int]
    dead_letters: int
    dead_letters_last_hour: int
    image_store_fault: str
    second_fault: str
    audits_explicit: int
    endpoints: Sequence[Endpoint]
    providers: Sequence[ProviderStatus]
    persistent: bool
    persisting_fails: bool
    eviction_policy: str
    memory_share: float
    lost_data: bool
    clock_off_s: float
    clock_lead_s: float
    events_waiting: int
    ledger_fault: str
    look_alikes: dict[str, int] = dataclasses.field(default_factory=dict)
    intake_oldest_at: float | None = None


def gather(
    store: Store, settings: WorkerSettings, providers: Sequence[ProviderStatus] = ()
) -> Facts:
    """Read the facts; a few dozen commands."""
    told_s, now = store.clock()
    letters, server, data_set = DeadLetters(store), store.server_facts(), store.data_sets.look()
    open_counts = store.open_counts()
    return Facts(
        now=now,
        oldest_queued_at=store.oldest_due_at(Stage.MODERATE),
        oldest_reviewing_at=store.oldest_at(AvatarState.REVIEWING),
        backlog=open_counts[AvatarState.QUEUED] + open_counts[AvatarState.REVIEWING],
        last_verdict_at=store.last_verdict_at(),
        sweeper_alive=store.is_rung_for(),
        stages_alive=frozenset(s for fact in store.workers() for s in fact.get("stages", ())),
        waiting={line: sum(store.waiting(line).values()) for line in store.lines()},
        dead_letters=letters.count(),
        dead_letters_last_hour=letters.count(since=now - 3600),
        image_store_fault=_image_store_fault(store, letters),
        second_fault=_said_by_workers(store, "second_fault"),
        audits_explicit=store.audits.found_since(now - 86400),
        endpoints=Endpoints(store, disable_after_s=settings.callback_disable_after_s).all(),
        providers=providers,
        persistent=bool(int(server.get("aof_enabled", 0))),
        persisting_fails="err"
        in (server.get("aof_last_write_status"), server.get("rdb_last_bgsave_status")),
        eviction_policy=str(server.get("maxmemory_policy", "noeviction"))
        if int(server.get("maxmemory") or 0)
        else "noeviction",
        memory_share=memory_share(server),
        lost_data=data_set is not None and data_set.lost_at is not None,
        clock_off_s=time.time() - told_s,
        clock_lead_s=now - told_s,
        events_waiting=store.events.count(),
        ledger_fault=_said_by_workers(store, "ledger_fault"),
        look_alikes=store.memory.met(),
        intake_oldest_at=store.intake.facts()[1],
    )


def _said_by_workers(store: Store, name: str) -> str:
    """What the first worker that says something says; else empty."""
    return unpack(str(next(filter(None, (fact.get(name) for fact in store.workers())), "")))


def _image_store_fault(store: Store, letters: DeadLetters) -> str:
    """What is wrong with the image store, by a worker or the newest dead letters; else empty."""
    if said := _said_by_workers(store, "image_store_fault"):
        return said
    newest = itertools.islice(letters.find(), LETTERS_READ)
    faults = (letter.said for letter in newest if letter.error == StorageMisconfigured.__name__)
    return next(faults, "")


def provider_statuses(store: Store, settings: WorkerSettings) -> list[ProviderStatus]:
    """How every provider on a route stands, without loading its SDK."""
    limits = Limits(*store.limits_client(), settings, random.random)
    names = dict.fromkeys(name for region in Region for name in settings.route_of(region))
    return [limits.status(name) for name in names]
