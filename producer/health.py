"""Whether moderation is alive, for those who only read: the API, the console and `/metrics`.

Two sources: which workers live, seen here and now, and the alarms that the workers' sweeper has
raised (worker/duties/). The first are looked at here because a sweeper that stopped
raises none.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from producer.contract import Stage
from producer.record.store import Store
from producer.texts import of_json, say

#: Alarms under which uploads are accepted but not decided: a load balancer should know.
NOT_READY = frozenset(
    [
        "no_moderate_worker",
        "no_io_worker",
        "undecided_too_long",
        "no_verdicts",
        "sweeper_not_running",
        "redis_cannot_write",
        "redis_full",
        "image_store_misconfigured",
        "redis_lost_data",
    ]
)

#: Raised by the sweeper, and said better by the alarms of this module.
_SAID_HERE = frozenset(["redis_lost_data", *(f"no_worker_{stage}" for stage in Stage)])


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
    say("no worker with a model is running: uploads wait undecided"),
    say("start `avatarmod up` or `avatarmod worker moderate`"),
)
_NO_IO = StandingAlarm(
    "no_io_worker",
    "critical",
    say("no worker for reviews and callbacks is running: gray pictures and callbacks wait"),
    say("start `avatarmod up` or `avatarmod worker io`"),
)


#: What Redis forgot, and what brings it back; also raised by the sweeper, for people to be told.
LOST_DATA = say("Redis lost its data: open uploads, people's decisions and undelivered callbacks")
LOST_DATA_FIX = say(
    "`avatarmod restore --from-ledger` says what the ledger can bring back, and with --yes does "
    "it; where there is no ledger: `avatarmod restore --accept-loss`"
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
    data_set = store.data_sets.look()
    if data_set is not None and data_set.lost_at is not None:
        found.append(
            StandingAlarm("redis_lost_data", "critical", LOST_DATA, LOST_DATA_FIX, data_set.lost_at)
        )
    for code, fields in sorted(store.alarms.all().items()):
        if code not in _SAID_HERE:
            message, fix = fields.get("texts") or (None, None)
            found.append(
                StandingAlarm(
                    code,
                    str(fields.get("severity", "warning")),
                    of_json(str(fields.get("message", "")), message),
                    of_json(str(fields.get("fix", "")), fix),
                    fields.get("since"),
                )
            )
    return sorted(found, key=lambda alarm: alarm.severity != "critical")
