"""Chooses who gives the second opinion on one gray picture, and says what becomes of the upload.

The life of a gray upload here:

1. An opinion on the same content is on file: it is used again, nobody is asked or paid.
2. The same content is with a provider right now: wait for that answer.
3. Redis gives leave to ask the first provider of the region's list that is not failing, has budget,
   a free slot and a place in its rate soon enough; or promises a time to come back.
4. One call. approve or block: answered. Uncertain: the next provider or a person, by settings.
5. It failed: the same provider again after a growing, random delay (or the one it asked for), at
   most `review_tries` times; then the next provider; then a person or a dead letter, by settings.
6. It refuses the picture: a person. It refuses our key: it is left alone and the next is asked.

At most one provider is called per `Router.review`, nothing sleeps, and every way out is data.
An approval comes from a provider's explicit answer, or from the declared budget rule; from nothing
else.
"""

from __future__ import annotations

import dataclasses
import json
import random as random_module
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import redis
import structlog

from producer.contract import Decision, Opinion, Region
from producer.errors import (
    ConfigurationError,
    ModerationError,
    ProviderAnswerUnknown,
    ProviderMisconfigured,
    ProviderRateLimited,
    ProviderRejectedImage,
    ProviderSilent,
    ProviderUnavailable,
    StorageUnavailable,
)
from producer.tracing import span
from worker.review.answers import Answer, Answered, Approve, GiveUp, Hold, Question, Wait
from worker.review.base import ReviewProvider
from worker.review.limits import Admitted, Limits, Outcome, ProviderStatus, Refused, Settled
from worker.review.registry import border_problems, build_providers
from worker.review.settings import ReviewSettings

log = structlog.get_logger(__name__)

#: Seconds; a provider that asks for a longer pause is asked again after this.
LONGEST_PAUSE_S = 3600.0


class Router:
    """Built once per process; safe to use from several threads."""

    def __init__(
        self,
        settings: ReviewSettings,
        client: Any,
        prefix: str,
        *,
        random: Callable[[], float] = random_module.random,
        providers: Mapping[str, ReviewProvider] | None = None,
    ) -> None:
        """Build every provider that a route names.

        Args:
            settings: with routes, keys and limits.
            client: `redis.Redis` with `decode_responses=True`.
            prefix: put before every key, for example `{avatarmod}:`.
            random: 0..1; for tests.
            providers: ready-made adapters by name instead of those of `ADAPTERS`.

        Raises:
            ConfigurationError: the configuration cannot work; says everything that is wrong.
        """
        self._settings = settings
        self._random = random
        self._providers = dict(providers) if providers is not None else build_providers(settings)
        problems = [
            problem
            for name in settings.review_providers
            for problem in border_problems(settings, name, self._providers[name])
        ]
        if problems:
            raise ConfigurationError("review cannot start:\n  " + "\n  ".join(problems))
        self._limits = Limits(client, prefix, settings, random)

    @property
    def longest_call_s(self) -> float:
        """Upper bound of the time one `review` spends with a provider, in seconds."""
        return self._settings.review_timeout_s

    def has_route(self, region: Region) -> bool:
        """Whether any provider may see pictures of this region."""
        return bool(self._settings.route_of(region))

    def review(
        self,
        *,
        sha256: str,
        region: Region,
        jpeg: Callable[[], bytes],
        probability: float,
        attempts: int,
        waiting_since_s: float,
        tried: Sequence[str],
    ) -> Answer:
        """Take one gray upload one step further.

        Args:
            sha256: names what is shown, lower-case hex; an opinion on the same is reused.
            region: whose providers may see it.
            jpeg: gives the normalised picture; called only when a provider will be asked.
            probability: calibrated, 0..1; only the budget rule looks at it.
            attempts: failed tries so far; only the delay before the next one grows with it.
            waiting_since_s: seconds since the upload became gray.
            tried: what the last answer said.

        Raises:
            StorageUnavailable: Redis does not answer.
            Exception: whatever `jpeg` raises; nothing is booked then.
        """
        ask = Question(
            sha256=sha256,
            route=self._settings.route_of(region),
            jpeg=jpeg,
            probability=probability,
            attempts=attempts,
            age_s=waiting_since_s,
            tried=tuple(tried),
        )
        if not ask.route:
            return Hold(
                reason="no_provider",
                detail=f"no review provider is configured for {region} pictures",
                tried=ask.tried,
            )
        try:
            return self._review(ask)
        except redis.RedisError as error:
            raise StorageUnavailable(f"Redis does not answer: {error}") from error

    def _review(self, question: Question) -> Answer:
        while True:
            known = self._limits.opinions(question.sha256)
            ask = self._reuse(question, known)
            if isinstance(ask, Opinion):
                return Answered(opinion=ask, reused=True, tried=question.tried)
            if ask.is_uncertain and self._settings.review_uncertain == "hold":
                return self._uncertain(ask)
            left = ask.left(self._settings.review_tries)
            if not left:
                return self._exhausted(ask)
            leave = self._limits.admit(ask.sha256, left, opinions=len(known))
            if isinstance(leave, Refused):
                return self._refused(ask, leave)
            if leave is not None:
                return self._call(ask, leave)

    def _reuse(self, ask: Question, known: Mapping[str, str]) -> Opinion | Question:
        """A decisive opinion on file; else the question with the uncertain ones noted."""
        for name, provider in self._providers.items():
            opinion = _on_file(known.get(f"{name}@{provider.rules}"))
            if opinion is None:
                continue
            if opinion.decision is not Decision.UNCERTAIN:
                return opinion
            if name in ask.route:
                ask = ask.noting(f"{name}:uncertain").with_opinion(opinion)
        return ask

    def _call(self, ask: Question, leave: Admitted) -> Answer:
        self._warn(leave)
        provider = self._providers[leave.provider]
        started_s = time.monotonic()
        try:
            picture = ask.jpeg()
        except BaseException:
            self._limits.settle(leave, ask.sha256, outcome="dropped", billed=False)
            raise
        try:
            with span("review_call", provider=leave.provider, outcome="failed") as trace:
                opinion = provider.review(picture, data_id=ask.sha256[:32])
                trace.note(outcome=opinion.decision.value)
        except ModerationError as error:
            return self._failed(ask, leave, error, time.monotonic() - started_s)
        except BaseException as error:
            # A bug of an adapter: the task's boundary handles it; the shared state is kept right.
            name = type(error).__name__
            self._limits.settle(leave, ask.sha256, outcome="failed", billed=True, error=name)
            raise
        return self._opined(ask, leave, opinion)

    def _opined(self, ask: Question, leave: Admitted, opinion: Opinion) -> Answer:
        try:
            settled = self._limits.settle(
                leave,
                ask.sha256,
                outcome="answered",
                billed=True,
                latency_s=opinion.latency_s,
                opinion_field=f"{opinion.provider}@{self._providers[opinion.provider].rules}",
                opinion=_for_file(opinion),
            )
            self._tell(leave.provider, settled, "")
        except redis.RedisError as error:
            # The answer is paid for and right; only its reuse is lost. Leases end by themselves.
            log.error("review_not_settled", provider=leave.provider, error=type(error).__name__)
        if opinion.decision is not Decision.UNCERTAIN:
            return Answered(opinion=opinion, reused=False, tried=ask.tried)
        ask = ask.noting(f"{opinion.provider}:uncertain").with_opinion(opinion)
        if self._settings.review_uncertain == "next" and ask.left(self._settings.review_tries):
            return Wait(
                delay_s=0.0,
                why="next_provider",
                counts_as_attempt=False,
                tried=ask.tried,
                opinions=ask.opinions,
                detail=f"{opinion.provider} could not say; the next provider is asked",
            )
        return self._uncertain(ask)

    def _failed(
        self, ask: Question, leave: Admitted, error: ModerationError, latency_s: float
    ) -> Answer:
        outcome, billed = _consequence(error)
        pause_s = _pause_s(error)
        settled = self._limits.settle(
            leave,
            ask.sha256,
            outcome=outcome,
            billed=billed,
            latency_s=latency_s,
            error=f"{error.code}: {error}",
            pause_s=pause_s,
        )
        self._tell(leave.provider, settled, str(error))
        name = leave.provider
        if isinstance(error, ProviderRejectedImage):
            return Hold(
                reason=error.code,
                detail=f"{name} does not judge this picture: {error}",
                tried=ask.noting(f"{name}:rejected").tried,
                opinions=ask.opinions,
            )
        if isinstance(error, ProviderMisconfigured):
            return self._wait(ask, "next_provider", self._spread(1.0), detail=f"{name}: {error}")
        if isinstance(error, ProviderRateLimited):
            return self._wait(ask, "rate", settled.for_s + self._spread(1.0), detail=str(error))
        kind = "unknown" if isinstance(error, ProviderAnswerUnknown) else "failed"
        ask = ask.noting(f"{name}:{kind}")
        left = ask.left(self._settings.review_tries)
        if not left:
            return self._exhausted(ask, error)
        again = name in left
        delay_s = self._backoff(ask.attempts, pause_s) if again else self._spread(1.0)
        why = "retry" if again else "next_provider"
        return self._wait(ask, why, delay_s, counts=True, detail=f"{name}: {error}")

    def _refused(self, ask: Question, refused: Refused) -> Answer:
        if not refused.why.endswith("_spent"):
            who = refused.provider or "the provider that has the same picture"
            detail = f"waits for {who} ({refused.why})"
            return self._wait(ask, refused.why, refused.delay_s, detail=detail)
        what = "calls" if refused.why == "calls_spent" else "money"
        sentence = f"today's {what} for {refused.provider} is used up"
        limit = self._settings.review_approve_below
        if self._settings.review_budget_spent == "approve_below" and ask.probability < limit:
            return Approve(
                reason="budget_spent_approve_below",
                detail=f"{sentence}; probability {ask.probability:.3f} is below {limit:g}",
                tried=ask.tried,
            )
        return Hold(reason="budget_spent", detail=sentence, tried=ask.tried, opinions=ask.opinions)

    def _wait(
        self, ask: Question, why: str, delay_s: float, *, detail: str, counts: bool = False
    ) -> Answer:
        limit_s = self._settings.review_max_wait_s
        if ask.age_s + delay_s > limit_s:
            return Hold(
                reason="provider_wait_too_long",
                detail=f"would wait longer than {limit_s:g} s; {detail}",
                tried=ask.tried,
                opinions=ask.opinions,
            )
        return Wait(
            delay_s=delay_s,
            why=why,
            counts_as_attempt=counts,
            tried=ask.tried,
            opinions=ask.opinions,
            detail=detail,
        )

    def _uncertain(self, ask: Question) -> Hold:
        names = ", ".join(opinion.provider for opinion in ask.opinions) or "the provider"
        return Hold(
            reason="provider_uncertain",
            detail=f"{names} looked and could not say",
            tried=ask.tried,
            opinions=ask.opinions,
        )

    def _exhausted(self, ask: Question, error: ModerationError | None = None) -> Answer:
        if ask.is_uncertain:
            return self._uncertain(ask)
        sentence = f"no provider is left after {', '.join(ask.tried)}"
        if self._settings.review_exhausted == "dead_letter":
            return GiveUp(error=error or ProviderUnavailable(sentence), tried=ask.tried)
        detail = f"{sentence}: {error}" if error else sentence
        return Hold(
            reason="providers_failed", detail=detail, tried=ask.tried, opinions=ask.opinions
        )

    def _backoff(self, attempts: int, asked_s: float | None) -> float:
        """Full jitter below a doubling bound, and never earlier than the provider asked for.

        Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
        """
        base_s, cap_s = self._settings.review_retry_base_s, self._settings.review_retry_cap_s
        bound_s = min(cap_s, base_s * 2.0 ** min(attempts, 30))
        return min(asked_s or 0.0, cap_s) + self._spread(bound_s)

    def _spread(self, width_s: float) -> float:
        return self._random() * width_s

    def _warn(self, leave: Admitted) -> None:
        for whose in leave.warned:
            log.warning(
                "review_budget_low", budget=whose, used="80 % or more", day=leave.budget_key
            )

    def _tell(self, provider: str, settled: Settled, error: str) -> None:
        if settled.event == "opened":
            log.error("review_provider_opened", provider=provider, error=error, for_s=settled.for_s)
        elif settled.event == "closed":
            log.info("review_provider_closed", provider=provider)

    def status(self) -> list[ProviderStatus]:
        """How every configured provider stands, in the order of the routes."""
        return [self._limits.status(name) for name in self._providers]

    def total_today(self) -> tuple[int, float]:
        """(billed calls, yuan) of all providers today."""
        return self._limits.total_today()

    def close(self) -> None:
        """Close the adapters' connections; the router is not used after it."""
        for provider in self._providers.values():
            provider.close()


def _for_file(opinion: Opinion) -> str:
    """As JSON without the raw reply, which goes to the ledger once and would fill Redis here."""
    return json.dumps(dataclasses.replace(opinion, raw=None).to_dict(), ensure_ascii=False)


def _on_file(text: str | None) -> Opinion | None:
    """What `_for_file` wrote, now free of charge; None: nothing, or unreadable."""
    try:
        opinion = Opinion.from_dict(json.loads(text or ""))
    except (ValueError, KeyError, TypeError):
        return None
    return dataclasses.replace(opinion, cost_yuan=0.0, latency_s=0.0)


def _pause_s(error: ModerationError) -> float | None:
    """How long the provider asked for, within reason; None: it did not say."""
    asked_s: float | None = getattr(error, "retry_after_s", None)
    return None if asked_s is None else min(max(0.0, asked_s), LONGEST_PAUSE_S)


def _consequence(error: ModerationError) -> tuple[Outcome, bool]:
    """(what it says of the provider's health, whether the call may be billed)."""
    match error:
        case ProviderRejectedImage():
            return "dropped", False
        case ProviderMisconfigured():
            return "misconfigured", False
        case ProviderRateLimited():
            return "limited", False
        case ProviderSilent() | ProviderAnswerUnknown():
            return "failed", True
        case ProviderUnavailable():
            return "failed", False
    return "failed", True
