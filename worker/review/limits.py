"""What all processes together may ask of each provider: rate, concurrency, money, health, queue.

Two Lua scripts decide: `admit` before a call and `settle` after it, each one atomic step by the
server's clock. The opinions already paid for are kept here too. Keys, all under the prefix given
(its hash tag keeps them in one Cluster slot):

    review:opinions:{sha256}   hash    provider@rules -> opinion as JSON     opinion_ttl_s
    review:flight:{sha256}     string  token of the call that is under way   the call's lease
    review:day:{date}          hash    whose:calls, whose:microyuan, whose:warned  8 days
    review:window:{provider}   zset    token -> time of each call in the last second or so
    review:slots:{provider}    zset    token -> end of lease of each call under way
    review:queue:{provider}    zset    sha256 -> promised time of who waits  a day after the last
    review:health:{provider}   hash    breaker, pause, latency, last error   30 days

Why not GCRA or a bucket: providers publish "N calls a second". A log of the last N calls keeps
exactly N in *every* second, without the factor two that a bucket's burst or a fixed window's edge
lets through, and still hands out the whole N at once when a one-second ticker wakes many uploads
together. At most 1,000 entries are kept per provider.

Why waiting costs nothing: a refused upload gets a promised time behind all who wait (their number
times the spacing that rate and concurrency allow), so thousands come back one by one, each about
when its turn comes, instead of polling. The queue's length is the only state; it corrects itself
when uploads are decided otherwise or the limits change.

Slots and flights are leases: a killed worker's end by themselves. Its money stays spent, for the
provider may have answered.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import math
import secrets
import zoneinfo
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, Literal

from producer.contract import Region
from worker.review.settings import ProviderLimits, ReviewSettings

MICRO = 1_000_000

#: Seconds between the deadline of a call and the end of its lease.
LEASE_MARGIN_S = 5.0

#: Seconds added to each window: the way to the provider takes longer for one call than for another,
#: and the rate shall hold where the provider counts. At 10 calls a second it costs one in twenty.
JITTER_MARGIN_S = 0.05

#: How a call ended, as far as the provider's health is concerned.
Outcome = Literal["answered", "failed", "limited", "misconfigured", "dropped"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Admitted:
    """Leave to make one call; must be settled.

    Args:
        provider: whom to call.
        token: names this call's slot and flight.
        budget_key: the day it is booked on.
        warned: budgets that passed 80 % with this call: provider names or `total`.
    """

    provider: str
    token: str
    budget_key: str
    warned: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refused:
    """No leave now.

    Args:
        why: `same_picture`, `rate`, `concurrency`, `queue`, `breaker`, `calls_spent`, `yuan_spent`.
        provider: who refused; for a spent budget whose budget it is, maybe `total`.
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
        in_flight, waiting: calls under way, uploads with a promised time.
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


class Limits:
    """The shared limits of all providers of one installation."""

    def __init__(
        self, client: Any, prefix: str, settings: ReviewSettings, random: Callable[[], float]
    ) -> None:
        self._redis = client
        self._prefix = prefix
        self._settings = settings
        self._random = random
        self._zone = zoneinfo.ZoneInfo(settings.review_budget_timezone)
        self.lease_s = settings.review_timeout_s + LEASE_MARGIN_S
        self._admit = client.register_script(_script("admit"))
        self._settle = client.register_script(_script("settle"))

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}review:{kind}:{name}"

    def opinions(self, sha256: str) -> dict[str, str]:
        """Opinions of this content as JSON, by `provider@rules`."""
        return dict(self._redis.hgetall(self._key("opinions", sha256)))

    def admit(
        self, sha256: str, candidates: Sequence[str], *, opinions: int
    ) -> Admitted | Refused | None:
        """Ask for leave to send one picture to the first candidate that can take it.

        Args:
            sha256: of the content.
            candidates: providers in order of preference; at least one.
            opinions: how many opinions of this content the caller has seen.

        Returns:
            None when another process has stored an opinion meanwhile: read them again.
        """
        token = secrets.token_hex(8)
        days = self._days()
        keys = [self._key("opinions", sha256), self._key("flight", sha256)]
        keys += [key for key, _ in days]
        for name in candidates:
            keys += [self._key(kind, name) for kind in ("window", "slots", "queue", "health")]
        reply = self._admit(
            keys=keys,
            args=[json.dumps(self._question(sha256, token, candidates, opinions, days))],
        )
        return self._read(reply, candidates, token, days)

    def _question(
        self,
        sha256: str,
        token: str,
        candidates: Sequence[str],
        opinions: int,
        days: list[tuple[str, int]],
    ) -> dict[str, Any]:
        settings = self._settings
        return {
            "sha": sha256,
            "token": token,
            "random": self._random(),
            "opinions": opinions,
            "lease_us": int(self.lease_s * MICRO),
            "patience_us": int(settings.review_patience_s * MICRO),
            "day_starts_us": [start for _, start in days],
            "total_calls": _or_none(settings.review_daily_calls),
            "total_microyuan": _or_none(settings.review_daily_yuan, MICRO),
            "skip_spent": settings.review_budget_spent == "other_provider",
            "candidates": [_candidate(name, settings.limits_of(name)) for name in candidates],
        }

    def _read(
        self, reply: list[Any], candidates: Sequence[str], token: str, days: list[tuple[str, int]]
    ) -> Admitted | Refused | None:
        match reply:
            case ["reuse"]:
                return None
            case ["flight", delay_us]:
                return Refused(why="same_picture", provider="", delay_s=delay_us / MICRO)
            case ["wait", index, delay_us, why]:
                name = candidates[index - 1]
                return Refused(why=why, provider=name, delay_s=delay_us / MICRO)
            case ["spent", _, what, whose]:
                return Refused(why=f"{what}_spent", provider=whose)
            case ["go", index, day, *warned]:
                return Admitted(
                    provider=candidates[index - 1],
                    token=token,
                    budget_key=days[day - 1][0],
                    warned=tuple(warned),
                )
        raise AssertionError(f"admit.lua answered {reply!r}")

    def settle(
        self,
        leave: Admitted,
        sha256: str,
        *,
        outcome: Outcome,
        billed: bool,
        latency_s: float = 0.0,
        error: str = "",
        pause_s: float | None = None,
        opinion_field: str = "",
        opinion: str = "",
    ) -> Settled:
        """Close an admitted call; a second time nothing is refunded or counted.

        Args:
            leave: what `admit` returned.
            sha256: of the content.
            outcome: how it ended; `dropped` says nothing about the provider.
            billed: False gives calls and money back to the budget.
            latency_s: how long it took.
            error: what went wrong, for people.
            pause_s: how long the provider asked to be left alone; None: it did not say.
            opinion_field: `provider@rules`.
            opinion: the opinion as JSON; empty: there is none.
        """
        settings = self._settings
        keys = [self._key("opinions", sha256), self._key("flight", sha256), leave.budget_key]
        keys += [self._key(kind, leave.provider) for kind in ("slots", "health")]
        done = {
            "provider": leave.provider,
            "token": leave.token,
            "price": settings.limits_of(leave.provider).call_microyuan,
            "outcome": outcome,
            "billed": billed,
            "latency_us": int(latency_s * MICRO),
            "error": error[:500],
            "pause_us": -1 if pause_s is None else int(pause_s * MICRO),
            "opinion_field": opinion_field,
            "opinion": opinion,
            "opinion_ttl_ms": int(settings.review_opinion_ttl_s * 1000),
            "breaker_failures": settings.review_breaker_failures,
            "breaker_calls": settings.review_breaker_calls,
            "breaker_open_us": int(settings.review_breaker_open_s * MICRO),
            "misconfigured_us": int(settings.review_misconfigured_s * MICRO),
        }
        event, length_us = self._settle(keys=keys, args=[json.dumps(done)])
        return Settled(event=event, for_s=length_us / MICRO)

    def book(self, provider: str) -> None:
        """Count one call that did not ask for leave (a check by an operator)."""
        key = self._today()
        price = self._settings.limits_of(provider).call_microyuan
        with self._redis.pipeline(transaction=True) as pipe:
            for whose in ("total", provider):
                pipe.hincrby(key, f"{whose}:calls", 1)
                pipe.hincrby(key, f"{whose}:microyuan", price)
            pipe.expire(key, 8 * 86400)
            pipe.execute()

    def reset(self, provider: str) -> None:
        """Close a provider's breaker and end its pause, for an operator who has mended it."""
        self._redis.hdel(
            self._key("health", provider),
            *("open_until", "kind", "reason", "opens", "probe", "probe_until", "probes_ok"),
            *("paused_until", "pauses", "b0", "b1", "b2", "b3", "b4", "b5"),
        )

    def status(self, provider: str) -> ProviderStatus:
        """How one provider stands now."""
        limits = self._settings.limits_of(provider)
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.hgetall(self._key("health", provider))
            pipe.zrange(self._key("slots", provider), 0, -1, withscores=True)
            pipe.zcard(self._key("queue", provider))
            pipe.hgetall(self._today())
            clock, health, slots, waiting, day = pipe.execute()
        now_us = clock[0] * MICRO + clock[1]
        state, until_us = _state(health, now_us)
        calls = int(day.get(f"{provider}:calls", 0))
        yuan = int(day.get(f"{provider}:microyuan", 0)) / MICRO
        return ProviderStatus(
            name=provider,
            regions=tuple(
                str(region) for region in Region if provider in self._settings.route_of(region)
            ),
            state=state,
            reason=health.get("reason", "") if state in ("open", "probing") else "",
            until=until_us / MICRO,
            rate_per_s=limits.rate_per_s,
            concurrency=limits.concurrency,
            in_flight=sum(1 for _, end_us in slots if end_us > now_us),
            waiting=waiting,
            latency_s=int(health["latency_us"]) / MICRO if "latency_us" in health else None,
            calls_today=calls,
            daily_calls=limits.daily_calls,
            yuan_today=yuan,
            daily_yuan=limits.daily_yuan,
            yuan_per_1000=limits.yuan_per_1000,
            low=_is_low(calls, limits.daily_calls) or _is_low(yuan, limits.daily_yuan),
            last_error=health.get("error", ""),
            last_error_at=int(health.get("error_at", 0)) / MICRO,
        )

    def total_today(self) -> tuple[int, float]:
        """(billed calls, yuan) of all providers since midnight in the budget's zone."""
        calls, microyuan = self._redis.hmget(self._today(), "total:calls", "total:microyuan")
        return int(calls or 0), int(microyuan or 0) / MICRO

    def _today(self) -> str:
        now_us = _microseconds(self._redis.time())
        return [key for key, start_us in self._days() if start_us <= now_us][-1]

    def _days(self) -> list[tuple[str, int]]:
        """(key, first microsecond) of yesterday, today and tomorrow; the server's clock picks one.

        Lua knows no time zones; three days leave room for a clock of this host that is off.
        """
        today = datetime.datetime.now(self._zone).date()
        return [
            (self._key("day", date.isoformat()), _midnight_us(date, self._zone))
            for date in (today + datetime.timedelta(days=shift) for shift in (-1, 0, 1))
        ]


@functools.lru_cache(maxsize=16)
def _midnight_us(date: datetime.date, zone: zoneinfo.ZoneInfo) -> int:
    midnight = datetime.datetime.combine(date, datetime.time(), tzinfo=zone)
    return int(midnight.timestamp()) * MICRO


def _microseconds(clock: tuple[int, int]) -> int:
    return clock[0] * MICRO + clock[1]


def _state(health: dict[str, str], now_us: int) -> tuple[str, float]:
    open_until_us = float(health.get("open_until", 0))
    if open_until_us:
        probing = open_until_us <= now_us
        return ("probing", 0.0) if probing else ("open", open_until_us)
    paused_until_us = float(health.get("paused_until", 0))
    return ("paused", paused_until_us) if paused_until_us > now_us else ("ready", 0.0)


def _is_low(used: float, limit: float | None) -> bool:
    return limit is not None and used >= 0.8 * limit


def _or_none(limit: float | None, factor: int = 1) -> int:
    return -1 if limit is None else int(limit * factor)


def _candidate(name: str, limits: ProviderLimits) -> dict[str, Any]:
    calls, window_s = limits.window
    return {
        "name": name,
        "calls": calls,
        "window_us": math.ceil((window_s + JITTER_MARGIN_S) * MICRO),
        "concurrency": limits.concurrency,
        "daily_calls": _or_none(limits.daily_calls),
        "daily_microyuan": _or_none(limits.daily_yuan, MICRO),
        "price": limits.call_microyuan,
    }


def _script(name: str) -> str:
    return resources.files("worker.review").joinpath(f"lua/{name}.lua").read_text("utf-8")
