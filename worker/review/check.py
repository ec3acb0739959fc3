"""Calls one provider once, past limits and breaker, and says what works and what to fix."""

from __future__ import annotations

import dataclasses
import io
import time
from typing import Any

from producer.errors import (
    ConfigurationError,
    ModerationError,
    ProviderMisconfigured,
    ProviderRateLimited,
    ProviderSilent,
    ProviderUnavailable,
)
from worker.review.limits import Limits
from worker.review.registry import border_problems, build_provider
from worker.review.settings import ReviewSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """What one call showed; None: not known.

    Args:
        verdict: its answer in our words; empty: none.
        latency_s: until the answer or the failure.
        cost_yuan: what the call cost by the price list.
        fix: one sentence; empty: nothing to fix.
    """

    provider: str
    reachable: bool | None
    authenticated: bool | None
    verdict: str
    latency_s: float | None
    cost_yuan: float
    model_version: str
    fix: str

    @property
    def is_fine(self) -> bool:
        """Whether the provider gave an opinion."""
        return bool(self.verdict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**dataclasses.asdict(self), "is_fine": self.is_fine}


def harmless_jpeg() -> bytes:
    """A grey gradient of 256x256 px."""
    from PIL import Image

    target = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(target, "JPEG", quality=90)
    return target.getvalue()


def check_provider(name: str, settings: ReviewSettings, limits: Limits | None) -> Check:
    """Send one harmless picture to one provider.

    Args:
        name: the provider.
        settings: with its keys.
        limits: where the call is booked and, when it succeeds, the breaker closed; None: nowhere.
    """
    try:
        provider = build_provider(name, settings)
    except ConfigurationError as error:
        return _row(name, fix=str(error))
    problems = border_problems(settings, name, provider)
    if problems:
        provider.close()
        return _row(name, fix="; ".join(problems))
    started_s = time.monotonic()
    try:
        if limits:
            limits.book(name)
        opinion = provider.review(harmless_jpeg(), data_id="avatarmod-check")
    except ModerationError as error:
        return _failed(name, error, time.monotonic() - started_s)
    finally:
        provider.close()
    if limits:
        limits.reset(name)
    return _row(
        name,
        reachable=True,
        authenticated=True,
        verdict=str(opinion.decision),
        latency_s=opinion.latency_s,
        cost_yuan=opinion.cost_yuan,
        model_version=opinion.model_version,
    )


def _failed(name: str, error: ModerationError, latency_s: float) -> Check:
    if isinstance(error, ProviderMisconfigured):
        return _row(name, reachable=True, authenticated=False, latency_s=latency_s, fix=str(error))
    if isinstance(error, ProviderUnavailable) and not isinstance(error, ProviderRateLimited):
        hint = "raise AVATARMOD_REVIEW_TIMEOUT_S, or " if isinstance(error, ProviderSilent) else ""
        return _row(
            name,
            reachable=False,
            latency_s=latency_s,
            fix=f"{error}: {hint}check the network, proxy and endpoint",
        )
    return _row(name, reachable=True, latency_s=latency_s, fix=str(error))


def _row(name: str, **values: Any) -> Check:
    blank: dict[str, Any] = {
        "reachable": None,
        "authenticated": None,
        "verdict": "",
        "latency_s": None,
        "cost_yuan": 0.0,
        "model_version": "",
        "fix": "",
    }
    return Check(provider=name, **{**blank, **values})
