"""Is moderation alive? Facts in, alarms out; each alarm says what to do.

`facts.py` reads Redis, `evaluate` judges (pure); `alarm_duty.py` runs both and tells people.
"""

from __future__ import annotations

from collections.abc import Iterator

from producer.contract import Stage
from producer.errors import StorageMisconfigured
from producer.texts import say
from worker.duties.alarm import Alarm
from worker.duties.alarms_redis import of_clocks, of_redis
from worker.duties.facts import Facts
from worker.settings import WorkerSettings

#: Seconds for a worker to be started again, and to load its model, before people are told.
RESTART_S = 60.0

#: Events that wait for the ledger from which people are told.
MANY_EVENTS = 10_000


def evaluate(facts: Facts, settings: WorkerSettings) -> list[Alarm]:
    """Judge the facts. Pure."""
    return [
        *_dead_man(facts, settings),
        *_workers(facts),
        *_models(facts),
        *_queue(facts, settings),
        *_callbacks(facts, settings),
        *_providers(facts, settings.currency),
        *of_redis(facts),
        *of_clocks(facts),
        *_ledger(facts),
        *_look_alikes(facts, settings),
    ]


def _dead_man(facts: Facts, settings: WorkerSettings) -> Iterator[Alarm]:
    limit_s = settings.alarm_undecided_s
    oldest = facts.oldest_queued_at
    if oldest is not None and facts.now - oldest > limit_s:
        yield Alarm(
            "undecided_too_long",
            "critical",
            say(
                "the oldest upload has waited {age_s} for the model (limit: {limit_s})",
                age_s=facts.now - oldest,
                limit_s=limit_s,
            ),
            say("check that the moderate workers are running; add more if they are all busy"),
        )
    taken = facts.intake_oldest_at
    if taken is not None and facts.now - taken > limit_s:
        yield Alarm(
            "intake_waits",
            "critical",
            say(
                "the oldest entry of the intake has waited {age_s} to be taken over "
                "(limit: {limit_s})",
                age_s=facts.now - taken,
                limit_s=limit_s,
            ),
            say("check that an io worker is running and that the queue is not full"),
        )
    reviewing = facts.oldest_reviewing_at
    if reviewing is not None and facts.now - reviewing > settings.alarm_review_s:
        yield Alarm(
            "review_too_long",
            "warning",
            say(
                "the oldest gray upload has waited {age_s} for a review provider "
                "(limit: {limit_s})",
                age_s=facts.now - reviewing,
                limit_s=settings.alarm_review_s,
            ),
            say(
                "`avatarmod providers status` says which provider fails or is out of budget; "
                "people can decide on the console's review page"
            ),
        )
    silence_s = settings.alarm_silence_s
    last = facts.last_verdict_at or 0.0
    waits = facts.oldest_queued_at
    if waits is not None and facts.now - waits > silence_s and facts.now - last > silence_s:
        yield Alarm(
            "no_verdicts",
            "critical",
            say(
                "uploads are arriving, but there has been no verdict for {age_s}",
                age_s=facts.now - last,
            )
            if last
            else say("uploads are arriving, but there has never been a verdict"),
            say("start `avatarmod worker moderate` and read its log"),
        )


def _workers(facts: Facts) -> Iterator[Alarm]:
    if not facts.sweeper_alive:
        yield Alarm(
            "sweeper_not_running",
            "critical",
            say("no worker is running the sweeper: retries and lost messages wait"),
            say("start at least one worker: `avatarmod up` or `avatarmod worker moderate`"),
        )
    for stage in Stage:
        waiting = sum(n for line, n in facts.waiting.items() if line.partition(":")[0] == stage)
        if waiting and stage not in facts.stages_alive:
            role = "moderate" if stage == Stage.MODERATE else "io"
            yield Alarm(
                f"no_worker_{stage}",
                "critical",
                say(
                    "{waiting} items wait for the stage {stage}, but no such worker is running",
                    waiting=waiting,
                    stage=str(stage),
                ),
                say(
                    "start `avatarmod worker {role}`; if it stops at once, its log says why, "
                    "for example a missing model bundle",
                    role=role,
                ),
                after_s=RESTART_S,
            )


def _models(facts: Facts) -> Iterator[Alarm]:
    if facts.second_fault:
        yield Alarm(
            "second_model_failed",
            "critical",
            say(
                "the second model does not look ({fault}): what needs it goes to review",
                fault=facts.second_fault,
            ),
            say("run `avatarmod doctor`: it says how to install or repair the bundle"),
        )
    if facts.audits_explicit:
        yield Alarm(
            "audit_explicit",
            "critical",
            say(
                "approved avatars that audits found explicit within a day, now held: {number}",
                number=facts.audits_explicit,
            ),
            say(
                "decide about them under Review; `avatarmod report` says how many pass, "
                "`avatarmod tune` finds stricter cut-offs"
            ),
        )


def _queue(facts: Facts, settings: WorkerSettings) -> Iterator[Alarm]:
    if facts.backlog > 0.8 * settings.max_backlog:
        yield Alarm(
            "backlog_nearly_full",
            "warning",
            say(
                "the queue is nearly full: {backlog} of at most {limit} undecided uploads",
                backlog=facts.backlog,
                limit=settings.max_backlog,
            ),
            say(
                "add moderate workers or raise AVATARMOD_MAX_BACKLOG; when the queue is full, "
                "new uploads are refused"
            ),
        )
    if facts.dead_letters_last_hour >= settings.alarm_dead_letters:
        yield Alarm(
            "dead_letters_growing",
            "critical",
            say(
                "{new} dead letters in the last hour, {total} in total",
                new=facts.dead_letters_last_hour,
                total=facts.dead_letters,
            ),
            say("`avatarmod dlq list` says why; fix that, then `avatarmod dlq replay --all`"),
        )
    if facts.image_store_fault:
        yield Alarm(
            "image_store_misconfigured",
            "critical",
            facts.image_store_fault,
            say(
                "repair it; uploads are tried again for eight hours by themselves, and after "
                "that wait for `avatarmod dlq replay --error {error}`",
                error=StorageMisconfigured.__name__,
            ),
        )


def _callbacks(facts: Facts, settings: WorkerSettings) -> Iterator[Alarm]:
    for endpoint in facts.endpoints:
        waiting = facts.waiting.get(endpoint.line, 0)
        if endpoint.disabled:
            yield Alarm(
                f"callback_disabled_{endpoint.name}",
                "critical",
                say(
                    "callbacks to {server} are switched off ({why}); {waiting} wait",
                    server=endpoint.server,
                    why=endpoint.disabled,
                    waiting=waiting,
                ),
                say(
                    "fix the receiver, then run `avatarmod callbacks enable {name}`",
                    name=endpoint.name,
                ),
            )
        elif (
            endpoint.failing_since is not None
            and facts.now - endpoint.failing_since > settings.alarm_callback_s
        ):
            yield Alarm(
                f"callback_failing_{endpoint.name}",
                "critical",
                say(
                    "callbacks to {server} have failed for {age_s}: {error}",
                    server=endpoint.server,
                    age_s=facts.now - endpoint.failing_since,
                    error=endpoint.last_error,
                ),
                say("read the receiver's log; callbacks are retried automatically"),
            )
        elif endpoint.is_page:
            yield Alarm(
                f"callback_page_{endpoint.name}",
                "warning",
                say(
                    "{server} answers callbacks with a web page: perhaps nothing there reads "
                    "them, and verdicts are lost",
                    server=endpoint.server,
                ),
                say(
                    "`avatarmod callbacks test` says more; afterwards the web tier reads what "
                    "it missed with GET /v1/changes"
                ),
            )


def _providers(facts: Facts, currency: str) -> Iterator[Alarm]:
    for provider in facts.providers:
        if provider.state == "open":
            yield Alarm(
                f"provider_open_{provider.name}",
                "critical",
                say(
                    "review provider {name} is not called at the moment: {why}",
                    name=provider.name,
                    why=provider.reason,
                ),
                say(
                    "`avatarmod providers check {name}` says what to fix, and calls it again "
                    "once it works",
                    name=provider.name,
                ),
            )
        if provider.low:
            yield Alarm(
                f"provider_budget_{provider.name}",
                "warning",
                say(
                    "review provider {name} has used 80 % or more of today's budget "
                    "({calls} calls, {amount} {currency})",
                    name=provider.name,
                    calls=provider.calls_today,
                    amount=f"{provider.yuan_today:.2f}",
                    currency=currency,
                ),
                say("raise its daily budget, or let people decide gray pictures until midnight"),
            )


def _ledger(facts: Facts) -> Iterator[Alarm]:
    if facts.events_waiting >= MANY_EVENTS or facts.ledger_fault:
        message = say("{waiting} events wait for the ledger", waiting=facts.events_waiting)
        if facts.ledger_fault:
            message = say(
                "{waiting} events wait in Redis for the ledger: {why}",
                waiting=facts.events_waiting,
                why=facts.ledger_fault,
            )
        fix = say(
            "repair its database (AVATARMOD_LEDGER_URL); events are kept in Redis, then in a file "
            "of the data folder, and move into it by themselves"
        )
        yield Alarm("ledger_behind", "critical", message, fix)


def _look_alikes(facts: Facts, settings: WorkerSettings) -> list[Alarm]:
    return [
        Alarm(
            f"look_alikes_{content[:12]}",
            "warning",
            say(
                "{uploads} uploads within an hour look like the same blocked picture ({content})",
                uploads=uploads,
                content=content[:17],
            ),
            say(
                "somebody may be trying to get it past the model; if the pictures are harmless, "
                "approve them or run `avatarmod memory forget {content}`",
                content=content,
            ),
        )
        for content, uploads in facts.look_alikes.items()
        if uploads >= settings.alarm_look_alikes
    ]
