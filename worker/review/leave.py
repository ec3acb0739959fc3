"""What the shared limits answer: leave to call, or when to ask again; how a provider stands."""

from __future__ import annotations

import dataclasses
from typing import Literal

from producer.errors import (
    ModerationError,
    ProviderAnswerUnknown,
    ProviderMisconfigured,
    ProviderRateLimited,
    ProviderRejectedImage,
    ProviderSilent,
    ProviderUnavailable,
)

#: Seconds; a provider that asks for a longer pause is asked again after this.
LONGEST_PAUSE_S = 3600.0

#: How a call ended, as far as the provider's health is concerned.
Outcome = Literal["answered", "failed", "limited", "misconfigured", "dropped"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Admitted:
    """Leave to make one call; must be settled.

    Args:
        provider: whom to call.
        token: names this call's slot and flight.
        budget_key: the day it is booked on.
        is_audit: it is also booked on the budget of audits.
        warned: budgets that passed 80 % with this call: provider names, `audit` or `total`.
    """

    provider: str
    token: str
    budget_key: str
    is_audit: bool = False
    warned: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refused:
    """No leave now.

    Args:
        why: `same_picture`, `rate`, `concurrency`, `breaker`, `calls_spent`, `yuan_spent`.
        provider: who refused; for a spent budget whose it is, maybe `audit` or `total`.
        delay_s: when to ask again; 0 for a spent budget.
    """

    why: str
    provider: str
    delay_s: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settled:
    """What a finished call changed: `event` is "", "opened" or "closed" (the breaker)."""

    event: str
    for_s: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProviderStatus:
    """How one provider stands, for people; times are seconds since the epoch.

    Args:
        state: `ready`, `paused` (it asked for fewer calls), `open` (left alone), `probing`.
        reason: why it is not ready, as the provider said it.
        until: when that ends; 0 when ready.
        in_flight, waiting: calls under way, uploads that were told to come back.
        calls_today, yuan_today: billed or possibly billed since midnight in the budget's zone.
        low: a budget is used to 80 % or more.
    """

    name: str
    regions: tuple[str, ...]
    state: str
    reason: str
    until: float
    rate_per_s: float
    concurrency: int
    in_flight: int
    waiting: int
    latency_s: float | None
    calls_today: int
    daily_calls: int | None
    yuan_today: float
    daily_yuan: float | None
    yuan_per_1000: float
    low: bool
    last_error: str
    last_error_at: float


def asked_pause_s(error: ModerationError) -> float | None:
    """How long the provider asked for, within reason; None: it did not say."""
    asked_s: float | None = getattr(error, "retry_after_s", None)
    return None if asked_s is None else min(max(0.0, asked_s), LONGEST_PAUSE_S)


def consequence(error: ModerationError) -> tuple[Outcome, bool]:
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
