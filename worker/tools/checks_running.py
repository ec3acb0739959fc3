"""What can be wrong with what runs: the clock, the ledger, the workers, the queue."""

from __future__ import annotations

import contextlib
import importlib.metadata
import time
from collections.abc import Iterator

from producer.contract import AvatarState
from producer.errors import ConfigurationError, LedgerUnavailable
from producer.record.dead_letters import DeadLetters
from producer.record.store import Store
from worker.duties.alarms import MANY_EVENTS, evaluate
from worker.duties.alarms_redis import CLOCK_LIMIT_S
from worker.duties.facts import gather, provider_statuses
from worker.settings import WorkerSettings
from worker.tools.checks import Check


def running(store: Store, settings: WorkerSettings) -> Iterator[Check]:
    """Everything that stands in Redis or in SQL."""
    offset_s = time.time() - store.clock()[0]
    if abs(offset_s) <= CLOCK_LIMIT_S:
        yield Check("clock", "fine", f"{offset_s:+.1f} s from Redis")
    yield _ledger(store, settings)
    yield from _workers(store)
    statuses = provider_statuses(store, settings)
    alarms = evaluate(gather(store, settings, statuses), settings)
    for alarm in alarms:
        yield Check(alarm.code, alarm.severity, alarm.message, alarm.fix)
    counts = store.open_counts()
    uploads = counts.pop(AvatarState.DEAD)
    if letters := DeadLetters(store).count():
        yield Check(
            "dead letters",
            "warning",
            f"{letters}: {uploads} uploads, {letters - uploads} callbacks",
            "`avatarmod dlq list` says why; then `avatarmod dlq replay` or `discard`",
        )
    if not alarms:
        yield Check("queue", "fine", ", ".join(f"{n} {state}" for state, n in counts.items()))


def _ledger(store: Store, settings: WorkerSettings) -> Check:
    """Whether SQL takes events, and what has not come there."""
    from worker.ledger.writer import Ledger

    waiting, lost = store.events.count(), store.events.dropped()
    if not settings.has_ledger:
        return Check("ledger", "fine", "switched off")
    found = f"{waiting:,} events wait in Redis"
    if lost:
        found += f"; {lost:,} were lost, for nobody took them away"
    try:
        with contextlib.closing(Ledger.open(settings)) as book:
            book.check()
    except (LedgerUnavailable, ConfigurationError) as error:
        fix = "repair it; events wait in Redis, then in a file of the data folder, and follow then"
        return Check("ledger", "critical", f"{error}; {found}", fix)
    if waiting >= MANY_EVENTS:
        return Check("ledger", "warning", f"answers; {found}", "is an io worker running?")
    return Check("ledger", "fine", f"answers; {found}")


def _workers(store: Store) -> Iterator[Check]:
    mine = importlib.metadata.version("avatar-moderation")
    workers = store.workers()
    if not workers:
        yield Check("workers", "critical", "none is alive", "start `avatarmod up`")
    for worker in workers:
        where = f"{worker['role']} on {worker['host']} (process {worker['pid']})"
        if worker["version"] != mine:
            yield Check(
                "worker",
                "warning",
                f"{where} runs version {worker['version']}, this is {mine}",
                "restart it after the upgrade",
            )
        else:
            yield Check("worker", "fine", where)
