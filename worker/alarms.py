"""Is moderation alive? Facts in, alarms out; each alarm says what to do.

`gather` reads Redis, `evaluate` judges (pure), `AlarmDuty` runs both in the sweeper, remembers what
is raised and tells people: an avatar service was once suspended by its regulator because its
moderation had silently stopped.

Keys, behind the store's prefix:

    alarms    hash    code -> JSON {severity, message, fix, since, told_at} of what is raised now
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import redis
import structlog

from producer.contract import AvatarState, Region, Stage
from producer.dead_letters import DeadLetters
from producer.endpoints import Endpoint, Endpoints
from producer.errors import StorageMisconfigured
from producer.store import Store
from worker.review.limits import Limits, ProviderStatus
from worker.settings import WorkerSettings

log = structlog.get_logger()

#: Seconds between two evaluations.
EVERY_S = 5.0

#: Seconds after which people are told again of what is still raised.
REPEAT_S = 4 * 3600.0

#: Newest dead letters that are looked through for a fault of the configuration.
LETTERS_READ = 200

#: Seconds for which Redis may be away or refuse writes before people are told: a fail-over is over
#: by then.
OUTAGE_S = 60.0

Severity = Literal["warning", "critical"]


@dataclasses.dataclass(frozen=True)
class Alarm:
    """Something an operator must know. `code` is stable; one alarm a code at a time."""

    code: str
    severity: Severity
    message: str
    fix: str


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
    endpoints: Sequence[Endpoint]
    providers: Sequence[ProviderStatus]
    persistent: bool
    persisting_fails: bool
    eviction_policy: str
    memory_share: float


def gather(
    store: Store, settings: WorkerSettings, providers: Sequence[ProviderStatus] = ()
) -> Facts:
    """Read the facts; a few dozen commands."""
    client, now = store.redis, store.now()
    counts = cast("dict[str, str]", client.hgetall(store.key("counts")))
    memory: dict[str, Any] = client.info("memory")
    persistence: dict[str, Any] = client.info("persistence")
    limit = int(memory.get("maxmemory") or 0)
    open_counts = store.open_counts()
    last_verdict = counts.get("last_transition_at")
    return Facts(
        now=now,
        oldest_queued_at=_oldest(store, AvatarState.QUEUED),
        oldest_reviewing_at=_oldest(store, AvatarState.REVIEWING),
        backlog=open_counts[AvatarState.QUEUED] + open_counts[AvatarState.REVIEWING],
        last_verdict_at=float(last_verdict) if last_verdict else None,
        sweeper_alive=bool(client.exists(store.key("sweeper"))),
        stages_alive=frozenset(s for fact in store.workers() for s in fact.get("stages", ())),
        waiting={line: sum(store.waiting(line).values()) for line in store.lines()},
        dead_letters=int(client.zcard(store.key("dead"))),
        dead_letters_last_hour=int(client.zcount(store.key("dead"), now - 3600, "+inf")),
        image_store_fault=_image_store_fault(store),
        endpoints=Endpoints(store, disable_after_s=settings.callback_disable_after_s).all(),
        providers=providers,
        persistent=bool(int(persistence.get("aof_enabled", 0))),
        persisting_fails="err"
        in (persistence.get("aof_last_write_status"), persistence.get("rdb_last_bgsave_status")),
        eviction_policy=str(memory.get("maxmemory_policy", "noeviction"))
        if limit
        else "noeviction",
        memory_share=int(memory.get("used_memory", 0)) / limit if limit else 0.0,
    )


def _oldest(store: Store, state: AvatarState) -> float | None:
    first = store.redis.zrange(store.key("open", state), 0, 0, withscores=True)
    return float(first[0][1]) if first else None


def _image_store_fault(store: Store) -> str:
    """Why the image store refused us, by the newest dead letters; empty if none says so."""
    newest = itertools.islice(DeadLetters(store, lambda _: "").find(), LETTERS_READ)
    faults = (letter.message for letter in newest if letter.error == StorageMisconfigured.__name__)
    return next(faults, "")


def evaluate(facts: Facts, settings: WorkerSettings) -> list[Alarm]:
    """Judge the facts. Pure."""
    return [
        *_dead_man(facts, settings),
        *_workers(facts),
        *_queue(facts, settings),
        *_callbacks(facts, settings),
        *_providers(facts),
        *_redis(facts),
    ]


def _dead_man(facts: Facts, settings: WorkerSettings) -> list[Alarm]:
    alarms = []
    limit_s = settings.alarm_undecided_s
    oldest = min(filter(None, (facts.oldest_queued_at, facts.oldest_reviewing_at)), default=None)
    if oldest is not None and facts.now - oldest > limit_s:
        alarms.append(
            Alarm(
                "undecided_too_long",
                "critical",
                f"the oldest undecided upload waits for {_span(facts.now - oldest)} "
                f"(limit {_span(limit_s)})",
                "look at the workers below; add moderate workers if they are alive and busy",
            )
        )
    silence_s = settings.alarm_silence_s
    last = facts.last_verdict_at or 0.0
    waits = facts.oldest_queued_at
    if waits is not None and facts.now - waits > silence_s and facts.now - last > silence_s:
        alarms.append(
            Alarm(
                "no_verdicts",
                "critical",
                f"uploads arrive, but no verdict was reached for {_span(facts.now - last)}"
                if last
                else "uploads arrive, but no verdict was ever reached",
                "start `avatarmod worker moderate` and read its log",
            )
        )
    return alarms


def _workers(facts: Facts) -> list[Alarm]:
    alarms = []
    if not facts.sweeper_alive:
        alarms.append(
            Alarm(
                "sweeper_not_running",
                "critical",
                "no worker process rings for what is due: retries and lost messages wait",
                "start at least one worker: `avatarmod up`, or `avatarmod worker moderate|io`",
            )
        )
    for stage in Stage:
        waiting = sum(n for line, n in facts.waiting.items() if line.partition(":")[0] == stage)
        if waiting and stage not in facts.stages_alive:
            role = "moderate" if stage == Stage.MODERATE else "io"
            alarms.append(
                Alarm(
                    f"no_worker_{stage}",
                    "critical",
                    f"{waiting} items wait for {stage} and no worker of that kind is alive",
                    f"start `avatarmod worker {role}`; if it ends at once, its log says why "
                    "(for example a missing bundle)",
                )
            )
    return alarms


def _queue(facts: Facts, settings: WorkerSettings) -> list[Alarm]:
    alarms = []
    if facts.backlog > 0.8 * settings.max_backlog:
        alarms.append(
            Alarm(
                "backlog_nearly_full",
                "warning",
                f"{facts.backlog} of at most {settings.max_backlog} undecided uploads",
                "add moderate workers, or raise AVATARMOD_MAX_BACKLOG; enqueue refuses when full",
            )
        )
    if facts.dead_letters_last_hour >= settings.alarm_dead_letters:
        alarms.append(
            Alarm(
                "dead_letters_growing",
                "critical",
                f"{facts.dead_letters_last_hour} dead letters in the last hour, "
                f"{facts.dead_letters} in all",
                "`avatarmod dlq list` says why; repair it, then `avatarmod dlq replay --all`",
            )
        )
    if facts.image_store_fault:
        alarms.append(
            Alarm(
                "image_store_misconfigured",
                "critical",
                facts.image_store_fault,
                "set the keys for the workers and start them again, then `avatarmod dlq replay "
                f"--error {StorageMisconfigured.__name__}`: the uploads wait there",
            )
        )
    return alarms


def _callbacks(facts: Facts, settings: WorkerSettings) -> list[Alarm]:
    alarms = []
    for endpoint in facts.endpoints:
        waiting = facts.waiting.get(endpoint.line, 0)
        if endpoint.disabled:
            alarms.append(
                Alarm(
                    f"callback_disabled_{endpoint.name}",
                    "critical",
                    f"{endpoint.server} gets no callbacks any more ({endpoint.disabled}); "
                    f"{waiting} wait",
                    f"repair it, then `avatarmod callbacks enable {endpoint.name}`",
                )
            )
        elif (
            endpoint.failing_since is not None
            and facts.now - endpoint.failing_since > settings.alarm_callback_s
        ):
            alarms.append(
                Alarm(
                    f"callback_failing_{endpoint.name}",
                    "critical",
                    f"callbacks to {endpoint.server} fail for "
                    f"{_span(facts.now - endpoint.failing_since)}: {endpoint.last_error}",
                    "look at the web tier's log; callbacks are sent again by themselves",
                )
            )
    return alarms


def _providers(facts: Facts) -> list[Alarm]:
    alarms = []
    for provider in facts.providers:
        if provider.state == "open":
            alarms.append(
                Alarm(
                    f"provider_open_{provider.name}",
                    "critical",
                    f"review provider {provider.name} is left alone: {provider.reason}",
                    f"`avatarmod providers check {provider.name}` says what to repair, and opens "
                    "it again when it works",
                )
            )
        if provider.low:
            alarms.append(
                Alarm(
                    f"provider_budget_{provider.name}",
                    "warning",
                    f"{provider.name} has used 80 % or more of today's budget "
                    f"({provider.calls_today} calls, {provider.yuan_today:.2f} yuan)",
                    "raise its daily budget, or leave what is gray to people until midnight",
                )
            )
    return alarms


def _redis(facts: Facts) -> list[Alarm]:
    alarms = []
    if not facts.persistent:
        alarms.append(
            Alarm(
                "redis_not_persistent",
                "warning",
                "Redis has no append-only file: a restart loses accepted uploads",
                "set `appendonly yes` (and `appendfsync always`, or everysec to risk one second)",
            )
        )
    if facts.persisting_fails:
        alarms.append(
            Alarm(
                "redis_cannot_write",
                "critical",
                "Redis failed to write its data to disk",
                "look at the disk's free space and Redis' log",
            )
        )
    if facts.eviction_policy != "noeviction":
        alarms.append(
            Alarm(
                "redis_may_evict",
                "critical",
                f"Redis may drop records to make room (maxmemory-policy {facts.eviction_policy})",
                "set `maxmemory-policy noeviction`",
            )
        )
    if facts.memory_share > 0.8:
        alarms.append(
            Alarm(
                "redis_memory",
                "critical",
                f"Redis uses {facts.memory_share:.0%} of its memory limit",
                "raise maxmemory, or shorten AVATARMOD_RECORD_TTL_S",
            )
        )
    return alarms


def provider_statuses(store: Store, settings: WorkerSettings) -> list[ProviderStatus]:
    """How every provider on a route stands, without loading its SDK."""
    limits = Limits(store.redis, store.prefix, settings, random.random)
    names = dict.fromkeys(name for region in Region for name in settings.route_of(region))
    return [limits.status(name) for name in names]


def raised(store: Store) -> list[dict[str, Any]]:
    """What the sweeper has raised now, the longest first."""
    values = cast("dict[str, str]", store.redis.hgetall(store.key("alarms")))
    alarms = [{"code": code, **json.loads(text)} for code, text in values.items()]
    return sorted(alarms, key=lambda alarm: float(alarm["since"]))


class AlarmDuty:
    """Evaluates every few seconds in the process that holds the sweeper's lock.

    Args:
        store: facts and memory.
        settings: limits.
        providers: how the review providers stand.
        tell: sends texts to people (title, body); raises when it could not.
    """

    def __init__(
        self,
        store: Store,
        settings: WorkerSettings,
        providers: Callable[[], Sequence[ProviderStatus]],
        tell: Callable[[str, str], None] | None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._providers = providers
        self._tell = tell
        self._next_s = 0.0
        self._outage_told_s: float | None = None

    def __call__(self) -> None:
        """One evaluation, if it is time."""
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + EVERY_S
        facts = gather(self._store, self._settings, self._providers())
        self.note(evaluate(facts, self._settings), facts.now)

    def outage(self, error: redis.RedisError, seconds: float) -> None:
        """Redis fails, so neither a lock nor an alarm can be kept there: tell from here.

        Every process tells for itself.

        Args:
            error: why nothing works.
            seconds: for how long it has been so.
        """
        if seconds < OUTAGE_S:
            self._outage_told_s = None
            return
        now_s = time.monotonic()
        if self._outage_told_s is not None and now_s - self._outage_told_s < REPEAT_S:
            return
        self._outage_told_s = now_s
        alarm = _outage(error, seconds)
        log.error("alarm_raised", code=alarm.code, message=alarm.message, fix=alarm.fix)
        if self._tell is not None:
            self._tell_in_background(self._tell, "avatar-moderation: Redis", [_news(alarm)])

    def note(self, alarms: Sequence[Alarm], now: float) -> None:
        """Compare with what was raised, remember, log, and tell people in the background."""
        key = self._store.key("alarms")
        before = {alarm["code"]: alarm for alarm in raised(self._store)}
        present = {alarm.code: alarm for alarm in alarms}
        news: list[str] = []
        for code in before.keys() - present.keys():
            self._store.redis.hdel(key, code)
            log.info("alarm_cleared", code=code)
            news.append(f"Cleared: {before[code]['message']}")
        for code, alarm in present.items():
            earlier = before.get(code)
            told_at = float(earlier["told_at"]) if earlier else 0.0
            if earlier is None:
                log.error("alarm_raised", code=code, message=alarm.message, fix=alarm.fix)
            if now - told_at > REPEAT_S:
                news.append(_news(alarm))
                told_at = now
            since = earlier["since"] if earlier else now
            fields = {
                "severity": alarm.severity,
                "message": alarm.message,
                "fix": alarm.fix,
                "since": since,
                "told_at": told_at,
            }
            self._store.redis.hset(key, code, json.dumps(fields))
        if news and self._tell is not None:
            self._tell_in_background(self._tell, f"avatar-moderation: {len(news)} news", news)

    def _tell_in_background(
        self, tell: Callable[[str, str], None], title: str, news: list[str]
    ) -> None:
        def work() -> None:
            for pause_s in (0, 5, 30, 120):
                time.sleep(pause_s)
                try:
                    tell(title, "\n".join(news))
                    return
                except Exception as error:  # noqa: BLE001 - whatever the notifier does, log it
                    log.warning("alarm_not_told", error=type(error).__name__)

        threading.Thread(target=work, daemon=True, name="alarms").start()


def _news(alarm: Alarm) -> str:
    return f"{alarm.severity.upper()}: {alarm.message}\n  To do: {alarm.fix}"


def _outage(error: redis.RedisError, seconds: float) -> Alarm:
    where, since = socket.gethostname(), _span(seconds)
    if isinstance(error, redis.ResponseError):
        return Alarm(
            "redis_cannot_write",
            "critical",
            f"{where}: Redis refuses writes for {since} ({type(error).__name__}): nothing is "
            "accepted or decided",
            "make room in its memory (maxmemory) or on its disk; its log says which",
        )
    return Alarm(
        "redis_away",
        "critical",
        f"{where}: Redis does not answer for {since} ({type(error).__name__}): nothing is "
        "accepted or decided",
        "look at Redis and the way to it; work goes on by itself when it answers",
    )


def make_teller(settings: WorkerSettings) -> Callable[[str, str], None] | None:
    """What sends alarms to people, from `AVATARMOD_ALARM_URLS`; None when nobody is to be told.

    Raises:
        ConfigurationError: an address is not understood, or apprise is not installed.
    """
    if not settings.alarm_urls:
        return None
    from producer.errors import ConfigurationError

    try:
        import apprise
    except ImportError:
        raise ConfigurationError(
            "AVATARMOD_ALARM_URLS needs apprise: pip install 'avatar-moderation[alarms]'"
        ) from None
    notifier = apprise.Apprise()
    for number, url in enumerate(settings.alarm_urls, 1):
        if not notifier.add(url.get_secret_value()):
            raise ConfigurationError(
                f"AVATARMOD_ALARM_URLS: address number {number} is not one that apprise knows, "
                "such as mailto://, slack:// or json://host/path"
            )

    def tell(title: str, body: str) -> None:
        if not notifier.notify(title=title, body=body):
            raise OSError("not every address could be told")

    return tell


def _span(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
