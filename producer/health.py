"""Whether moderation is alive: what an operator must know, as a short list of alarms.

Read from Redis alone, so that the API, the console, `/metrics` and any command say the same. The
worst failure of a moderating service is to stop silently; the first three alarms are about that.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from producer.contract import AvatarState, Stage
from producer.settings import Settings
from producer.store import Store

#: Undecided uploads, as a share of the backlog's limit, that deserve a word.
BACKLOG_SHARE = 0.8


@dataclasses.dataclass(frozen=True)
class Alarm:
    """One thing that is wrong.

    Args:
        code: stable name, for metrics and translations.
        level: `error`: uploads are not decided or callbacks not sent; `warning`: look soon.
        message: what is wrong and what to do, in English.
        values: the numbers in the message.
    """

    code: str
    level: Literal["error", "warning"]
    message: str
    values: dict[str, Any] = dataclasses.field(default_factory=dict)


#: Every alarm there is: code -> level and message.
ALARMS: dict[str, tuple[Literal["error", "warning"], str]] = {
    "no_moderate_worker": (
        "error",
        "No worker with a model is running: uploads wait undecided. Start `avatarmod up`, or "
        "`avatarmod worker moderate`.",
    ),
    "no_io_worker": (
        "error",
        "No worker for reviews and callbacks is running: gray pictures and callbacks wait. Start "
        "`avatarmod worker io`.",
    ),
    "undecided_too_long": (
        "error",
        "The oldest undecided upload has waited {oldest_s:.0f} s, longer than {limit_s:.0f} s.",
    ),
    "backlog": (
        "warning",
        "{backlog} uploads wait; at {limit} new ones are refused. Add a moderate worker.",
    ),
    "dead_letters": (
        "warning",
        "{count} dead letters wait for an operator: replay or discard them.",
    ),
}


def oldest_at(store: Store, state: AvatarState) -> float | None:
    """Since when the longest-standing upload is in an open state, seconds since the epoch."""
    first = store.redis.zrange(store.key("open", state), 0, 0, withscores=True)
    return float(first[0][1]) if first else None


def find_alarms(
    store: Store, settings: Settings, workers: list[dict[str, Any]] | None = None
) -> list[Alarm]:
    """What is wrong now, the worst first.

    Args:
        store: where to look.
        settings: the limits.
        workers: `store.workers()`, where the caller has read it already.
    """
    workers = store.workers() if workers is None else workers
    stages = {stage for worker in workers for stage in worker.get("stages", ())}
    open_ = store.open_counts()
    backlog = open_[AvatarState.QUEUED] + open_[AvatarState.REVIEWING]
    found: list[Alarm] = []
    if Stage.MODERATE not in stages:
        found.append(_alarm("no_moderate_worker"))
    if Stage.CALLBACK not in stages:
        found.append(_alarm("no_io_worker"))
    oldest = oldest_at(store, AvatarState.QUEUED)
    oldest_s = store.now() - oldest if oldest else 0.0
    if oldest_s > settings.alarm_undecided_s:
        limit_s = settings.alarm_undecided_s
        found.append(_alarm("undecided_too_long", oldest_s=oldest_s, limit_s=limit_s))
    if backlog >= BACKLOG_SHARE * settings.max_backlog:
        found.append(_alarm("backlog", backlog=backlog, limit=settings.max_backlog))
    dead = int(store.redis.zcard(store.key("dead")))
    if dead:
        found.append(_alarm("dead_letters", count=dead))
    return found


def _alarm(code: str, **values: Any) -> Alarm:
    level, message = ALARMS[code]
    return Alarm(code, level, message.format(**values), values)
