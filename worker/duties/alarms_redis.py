"""Alarms about Redis itself: what it lost, lacks or refuses."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import redis

from producer.health import LOST_DATA, LOST_DATA_FIX
from producer.record.room import FULL_SHARE
from producer.texts import say
from worker.duties.alarm import Alarm
from worker.duties.facts import Facts

#: Seconds by which clocks may differ; receivers of callbacks tolerate 300.
CLOCK_LIMIT_S = 30.0


def of_redis(facts: Facts) -> Iterator[Alarm]:
    """About its data, its disk and its memory."""
    if facts.lost_data:
        yield Alarm("redis_lost_data", "critical", LOST_DATA, LOST_DATA_FIX)
    if not facts.persistent:
        yield Alarm(
            "redis_not_persistent",
            "warning",
            say("Redis keeps no append-only file: a restart loses accepted uploads"),
            say("set `appendonly yes` and `appendfsync always` (everysec risks one second)"),
        )
    if facts.persisting_fails:
        yield Alarm(
            "redis_cannot_write",
            "critical",
            say("Redis failed to write its data to disk"),
            say("check the free space on the disk and the log of Redis"),
        )
    if facts.eviction_policy != "noeviction":
        yield Alarm(
            "redis_may_evict",
            "critical",
            say(
                "Redis may drop records to make room (maxmemory-policy {policy})",
                policy=facts.eviction_policy,
            ),
            say("set `maxmemory-policy noeviction`"),
        )
    if facts.memory_share >= FULL_SHARE:
        yield Alarm(
            "redis_full",
            "critical",
            say(
                "Redis uses {share} of its memory limit: uploads are refused, the rest is kept "
                "for verdicts",
                share=f"{facts.memory_share:.0%}",
            ),
            say(
                "raise maxmemory; bring back the ledger's database or the web tier if they are "
                "away, for their events and callbacks wait in Redis"
            ),
        )
    elif facts.memory_share > 0.8:
        yield Alarm(
            "redis_memory",
            "critical",
            say("Redis uses {share} of its memory limit", share=f"{facts.memory_share:.0%}"),
            say("raise maxmemory or lower AVATARMOD_RECORD_TTL_S"),
        )


def of_clocks(facts: Facts) -> list[Alarm]:
    """About its clock and ours."""
    fix = say(
        "synchronise the clock of Redis' host, and of this one; nothing is lost meanwhile: work "
        "goes by the highest time seen, at half speed until Redis has caught up"
    )
    if facts.clock_lead_s > CLOCK_LIMIT_S:
        message = say(
            "the clock of Redis' host was set back by {age_s} or more", age_s=facts.clock_lead_s
        )
        return [Alarm("clock_set_back", "critical", message, fix)]
    if abs(facts.clock_off_s) > CLOCK_LIMIT_S:
        message = say(
            "the clocks of {host} and of Redis' host differ by {age_s}",
            host=socket.gethostname(),
            age_s=abs(facts.clock_off_s),
        )
        return [Alarm("clocks_differ", "warning", message, fix)]
    return []


def outage(error: redis.RedisError, seconds: float) -> Alarm:
    """What to say where Redis fails, so that no facts can be read."""
    values = {"host": socket.gethostname(), "age_s": seconds, "error": type(error).__name__}
    if isinstance(error, redis.ResponseError):
        return Alarm(
            "redis_cannot_write",
            "critical",
            say(
                "{host}: Redis refuses writes ({error}, for {age_s}): nothing is accepted or "
                "decided",
                **values,
            ),
            say("make room in its memory (maxmemory) or on its disk; its log says which"),
        )
    return Alarm(
        "redis_away",
        "critical",
        say(
            "{host}: Redis does not answer ({error}, for {age_s}): nothing is accepted or decided",
            **values,
        ),
        say("check Redis and the network; work continues by itself when it answers"),
    )
