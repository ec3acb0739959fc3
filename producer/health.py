"""Whether moderation is alive, for those who only read: the API, the console and `/metrics`.

Two sources: which workers live, seen here and now, and the alarms that the workers' sweeper has
raised (worker/alarms.py). The first are looked at here because a sweeper that stopped raises none.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, cast

from producer.contract import AvatarState, Stage
from producer.store import Store

#: Alarms under which uploads are accepted but not decided: a load balancer should know.
NOT_READY = frozenset(
    [
        "no_moderate_worker",
        "no_io_worker",
        "undecided_too_long",
        "no_verdicts",
        "sweeper_not_running",
        "redis_cannot_write",
    ]
)

#: Raised by the sweeper, and said better by the two alarms of this module.
_SAID_HERE = frozenset(f"no_worker_{stage}" for stage in Stage)


@dataclasses.dataclass(frozen=True)
class StandingAlarm:
    """One thing that is wrong now.

    Args:
        code: stable name.
        severity: `critical` or `warning`.
        message: what is wrong.
        fix: what to do.
        since: seconds since the epoch; None where it is not known.
    """

    code: str
    severity: str
    message: str
    fix: str
    since: float | None = None


_NO_MODERATE = StandingAlarm(
    "no_moderate_worker",
    "critical",
    "no worker with a model is running: uploads wait undecided",
    "start `avatarmod up` or `avatarmod worker moderate`",
)
_NO_IO = StandingAlarm(
    "no_io_worker",
    "critical",
    "no worker for reviews and callbacks is running: gray pictures and callbacks wait",
    "start `avatarmod up` or `avatarmod worker io`",
)


def find_alarms(store: Store, workers: list[dict[str, Any]] | None = None) -> list[StandingAlarm]:
    """What is wrong now, the critical first.

    Args:
        store: where to look.
        workers: `store.workers()`, where the caller has read it already.
    """
    workers = store.workers() if workers is None else workers
    stages = {stage for worker in workers for stage in worker.get("stages", ())}
    found: list[StandingAlarm] = []
    if Stage.MODERATE not in stages:
        found.append(_NO_MODERATE)
    if Stage.CALLBACK not in stages:
        found.append(_NO_IO)
    raised = cast("dict[str, str]", store.redis.hgetall(store.key("alarms")))
    for code, text in sorted(raised.items()):
        if code not in _SAID_HERE:
            fields = json.loads(text)
            found.append(
                StandingAlarm(
                    code,
                    str(fields.get("severity", "warning")),
                    str(fields.get("message", "")),
                    str(fields.get("fix", "")),
                    fields.get("since"),
                )
            )
    return sorted(found, key=lambda alarm: alarm.severity != "critical")


def oldest_at(store: Store, state: AvatarState) -> float | None:
    """Since when the longest-standing upload is in an open state, seconds since the epoch."""
    first = store.redis.zrange(store.key("open", state), 0, 0, withscores=True)
    return float(first[0][1]) if first else None
