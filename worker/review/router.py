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
import functools
import json
import random as random_module
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import redis
import structlog

from producer.contract import Region
from producer.errors import (
    ConfigurationError,
    ModerationError,
    ProviderAnswerUnknown,
    ProviderMisconfigured,
    ProviderRateLimited,
    ProviderRejectedImage,
    ProviderUnavailable,
    StorageUnavailable,
)
from producer.findings import Decision, Opinion
from producer.texts import N_, of_error, say
from producer.tracing import span
from worker.review.answers import Answer, Answered, Approve, GiveUp, Hold, Question, Wait
from worker.review.leave import (
    Admitted,
    ProviderStatus,
    Refused,
    Settled,
    asked_pause_s,
    consequence,
)
from worker.review.limits import Limits
from worker.review.providers.base import ReviewProvider
from worker.review.registry import border_problems, build_providers
from worker.review.settings import ReviewSettings

log = structlog.get_logger(__name__)


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

    def review(
        self,
        *,
        upload_id: str,
        seq: int,
        sha256: str,
        region: Region,
        jpeg: Callable[[], bytes],
        probability: float,
        waiting_since_s: float,
        tried: Sequence[str],
        is_audit: bool = False,
    ) -> Answer:
        """Take one gray upload, or one audit of an approval, one step further.

        Args:
            upload_id: for the ledger, which is told of every billed call.
            seq: of its record.
            sha256: names what is shown, lower-case hex; an opinion on the same is reused.
            region: whose providers may see it.
            jpeg: gives the normalised picture; called only when a provider will be asked.
            probability: calibrated, 0..1; only the budget rule looks at it.
            waiting_since_s: seconds since the upload became gray.
            tried: what the last answer said.
            is_audit: paid from the budget of audits too; never answered unseen.

        Raises:
            StorageUnavailable: Redis does not answer.
            Exception: whatever `jpeg` raises; nothing is booked then.
        """
        ask = Question(
            upload_id=upload_id,
            seq=seq,
            sha256=sha256,
            route=self._settings.route_of(region),
            jpeg=jpeg,
            probability=probability,
            age_s=waiting_since_s,
            tried=tuple(tried),
            is_audit=is_audit,
        )
        if not ask.route:
            return Hold(
                reason="no_provider",
                detail=say(
                    "no review provider is configured for {region} pictures", region=str(region)
                ),
                tried=ask.tried,
            )
        try:
            return self._review(ask)
        except redis.RedisError as error:
            raise StorageUnavailable(
                say("Redis does not answer: {error}", error=of_error(error))
            ) from error

    def _review(self, question: Question) -> Answer:
        while True:
            known = self._limits.opinions(question.sha256)
            ask = self._reuse(question, known)
            if isinstance(ask, Opinion):
                return Answered(opinion=ask, tried=question.tried)
            if ask.is_uncertain and self._settings.review_uncertain == "hold":
                return self._uncertain(ask)
            left = ask.left(self._settings.review_tries)
            if not left:
                return self._exhausted(ask)
            leave = self._limits.admit(
                ask.sha256, left, opinions=len(known), age_s=ask.age_s, is_audit=ask.is_audit
            )
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
                opinion = provider.review(
                    picture,
                    data_id=ask.sha256[:32],
                    place_s=functools.partial(self._limits.place_s, leave),
                )
                trace.note(outcome=opinion.decision.value)
        except ModerationError as error:
            return self._failed(ask, leave, error, time.monotonic() - started_s)
        return self._opined(ask, leave, opinion)

    def _opined(self, ask: Question, leave: Admitted, opinion: Opinion) -> Answer:
        try:
            settled = self._limits.settle(
                leave,
                ask.sha256,
                outcome="answered",
                billed=True,
                latency_s=opinion.latency_s,
                upload_id=ask.upload_id,
                seq=ask.seq,
                opinion_field=f"{opinion.provider}@{self._providers[opinion.provider].rules}",
                opinion=opinion,
            )
            self._tell(leave.provider, settled, "")
        except redis.RedisError as error:
            # The answer is paid for and right; only its reuse is lost. Leases end by themselves.
            log.error("review_not_settled", provider=leave.provider, error=type(error).__name__)
        if opinion.decision is not Decision.UNCERTAIN:
            return Answered(opinion=opinion, tried=ask.tried)
        ask = ask.noting(f"{opinion.provider}:uncertain").with_opinion(opinion)
        if self._settings.review_uncertain == "next" and ask.left(self._settings.review_tries):
            return Wait(
                delay_s=0.0,
                why="next_provider",
                tried=ask.tried,
                opinions=ask.opinions,
                detail=say(
                    "{provider} could not say; the next provider is asked",
                    provider=opinion.provider,
                ),
            )
        return self._uncertain(ask)

    def _failed(
        self, ask: Question, leave: Admitted, error: ModerationError, latency_s: float
    ) -> Answer:
        outcome, billed = consequence(error)
        pause_s = asked_pause_s(error)
        settled = self._limits.settle(
            leave,
            ask.sha256,
            outcome=outcome,
            billed=billed,
            latency_s=latency_s,
            upload_id=ask.upload_id,
            seq=ask.seq,
            error=say("{who}: {error}", who=error.code, error=of_error(error)),
            pause_s=pause_s,
        )
        self._tell(leave.provider, settled, str(error))
        name = leave.provider
        if isinstance(error, ProviderRejectedImage):
            return Hold(
                reason=error.code,
                detail=say(
                    "{provider} does not judge this picture: {error}",
                    provider=name,
                    error=of_error(error),
                ),
                tried=ask.noting(f"{name}:rejected").tried,
                opinions=ask.opinions,
            )
        detail = say("{who}: {error}", who=name, error=of_error(error))
        if isinstance(error, ProviderMisconfigured):
            return self._wait(ask, "next_provider", self._spread(1.0), detail=detail)
        if isinstance(error, ProviderRateLimited):
            return self._wait(
                ask, "rate", settled.for_s + self._spread(1.0), detail=of_error(error)
            )
        kind = "unknown" if isinstance(error, ProviderAnswerUnknown) else "failed"
        ask = ask.noting(f"{name}:{kind}")
        left = ask.left(self._settings.review_tries)
        if not left:
            return self._exhausted(ask, error)
        again = name in left
        delay_s = self._backoff(ask.failures, pause_s) if again else self._spread(1.0)
        why = "retry" if again else "next_provider"
        return self._wait(ask, why, delay_s, detail=detail)

    def _refused(self, ask: Question, refused: Refused) -> Answer:
        if not refused.why.endswith("_spent"):
            who = refused.provider or say("the provider that has the same picture")
            detail = say("waits for {provider} ({why})", provider=who, why=refused.why)
            return self._wait(ask, refused.why, refused.delay_s, detail=detail)
        what = (
            N_("today's calls for {provider} are used up")
            if refused.why == "calls_spent"
            else N_("today's money for {provider} is used up")
        )
        sentence = say(what, provider=refused.provider)
        limit = self._settings.review_approve_below
        is_approved_unseen = (
            self._settings.review_budget_spent == "approve_below" and not ask.is_audit
        )
        if is_approved_unseen and ask.probability < limit:
            return Approve(
                reason="budget_spent_approve_below",
                detail=say(
                    "{sentence}; probability {probability:.3f} is below {limit:g}",
                    sentence=sentence,
                    probability=ask.probability,
                    limit=limit,
                ),
                tried=ask.tried,
            )
        return Hold(reason="budget_spent", detail=sentence, tried=ask.tried, opinions=ask.opinions)

    def _wait(self, ask: Question, why: str, delay_s: float, *, detail: str) -> Answer:
        limit_s = self._settings.review_max_wait_s
        if ask.age_s + delay_s > limit_s:
            return Hold(
                reason="provider_wait_too_long",
                detail=say(
                    "would wait longer than {limit_s}; {detail}", limit_s=limit_s, detail=detail
                ),
                tried=ask.tried,
                opinions=ask.opinions,
            )
        return Wait(
            delay_s=delay_s,
            why=why,
            tried=ask.tried,
            opinions=ask.opinions,
            detail=detail,
        )

    def _uncertain(self, ask: Question) -> Hold:
        names = ", ".join(opinion.provider for opinion in ask.opinions) or say("the provider")
        return Hold(
            reason="provider_uncertain",
            detail=say("{providers} looked and could not say", providers=names),
            tried=ask.tried,
            opinions=ask.opinions,
        )

    def _exhausted(self, ask: Question, error: ModerationError | None = None) -> Answer:
        if ask.is_uncertain:
            return self._uncertain(ask)
        sentence = say("no provider is left after {tried}", tried=", ".join(ask.tried))
        if self._settings.review_exhausted == "dead_letter":
            return GiveUp(error=error or ProviderUnavailable(sentence), tried=ask.tried)
        detail = say("{who}: {error}", who=sentence, error=of_error(error)) if error else sentence
        return Hold(
            reason="providers_failed", detail=detail, tried=ask.tried, opinions=ask.opinions
        )

    def _backoff(self, failures: int, asked_s: float | None) -> float:
        """Full jitter below a doubling bound, and never earlier than the provider asked for.

        Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
        """
        base_s, cap_s = self._settings.review_retry_base_s, self._settings.review_retry_cap_s
        bound_s = min(cap_s, base_s * 2.0 ** min(failures - 1, 30))
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


def _on_file(text: str | None) -> Opinion | None:
    """What `for_file` wrote, now free of charge; None: nothing, or unreadable."""
    try:
        opinion = Opinion.from_dict(json.loads(text or ""))
    except (ValueError, KeyError, TypeError):
        return None
    return dataclasses.replace(opinion, cost_yuan=0.0, latency_s=0.0, reused=True)
