"""What all processes together may ask of each provider: rate, concurrency, money and health.

Two Lua scripts decide: `admit` before a call and `settle` after it, each one atomic step by the
server's clock. The opinions already paid for are kept here too. The daily budget is the one book of
money: what it keeps is told, in the same atomic step, to the ledger (an event `opinion`) and to the
metric of money, so that all three agree. Keys, all under the prefix given
(its hash tag keeps them in one Cluster slot):

    review:opinions:{sha256}   hash    provider@rules -> opinion as JSON     opinion_ttl_s
    review:flight:{sha256}     string  token of the call that is under way   the call's lease
    review:day:{date}          hash    whose:calls, whose:microyuan, whose:warned  8 days
    review:window:{provider}   zset    token -> when its call went out, of the last second or so;
                                       for:sha256 -> when a waiting upload has a place
    review:slots:{provider}    zset    token -> end of lease of each call under way
    review:waiting:{provider}  zset    sha256 -> when it asks again          a day after the last
    review:health:{provider}   hash    breaker, pause, latency, last error   30 days

Why not GCRA or a bucket: providers publish "N calls a second". A log of the last N calls keeps
exactly N in *every* second, without the burst that a bucket or a fixed window's edge lets through,
and still hands out the whole N at once when a ticker wakes many uploads together. A call may be let
in long before it goes out: the picture is loaded, a connection is made. So the log is asked once
more, at the moment when the request is written (`place_s`).

How waiting works: a refused upload gets a place, the next free time in the log, and comes back
then. Places are given for a few calls ahead, to those who wait already before newcomers. Whoever
gets none comes back at a random time within half of the time that all who wait need (their number
times the spacing that rate and concurrency allow), and sooner when it has waited long. So the rate
is used to the full, about two ask for each place, and thousands do not poll.

Slots and flights are leases: a killed worker's end by themselves. Its money stays spent.
"""

from __future__ import annotations

import dataclasses
import json
import math
import secrets
import time
import zoneinfo
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

import redis

from producer.contract import Region
from producer.findings import Opinion
from producer.metrics import COST, total_field
from producer.record.base import with_clock
from producer.record.keyspace import book_keys, clock_key, review_key
from producer.texts import pack, unpack
from worker.review.leave import Admitted, Outcome, ProviderStatus, Refused, Settled
from worker.review.money import MICRO, Unanswered, days_around, event_detail, for_file
from worker.review.providers.fields import ProviderLimits
from worker.review.settings import ReviewSettings

#: Seconds between the deadline of a call and the end of its lease.
LEASE_MARGIN_S = 5.0

#: Seconds added to each window: the way to the provider takes longer for one request than for
#: another, and the rate shall hold where the provider counts. At 10 a second it costs a twentieth.
JITTER_MARGIN_S = 0.05

#: Seconds for which a process reckons with its own clock's pace from what the server told.
CLOCK_EVERY_S = 60.0


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
        self._books = book_keys(prefix)
        self._clock = clock_key(prefix)
        self._told: tuple[float, float] = (-math.inf, 0.0)
        self._tell = client.register_script(with_clock("return string.format('%.6f', tell_time())"))
        self._admit = client.register_script(_script("admit"))
        self._settle = client.register_script(_script("settle"))
        self._place = client.register_script(_script("place"))

    def _key(self, kind: str, name: str) -> str:
        return review_key(self._prefix, kind, name)

    def opinions(self, sha256: str) -> dict[str, str]:
        """Opinions of this content as JSON, by `provider@rules`."""
        return dict(self._redis.hgetall(self._key("opinions", sha256)))

    def admit(
        self,
        sha256: str,
        candidates: Sequence[str],
        *,
        opinions: int,
        age_s: float = 0.0,
        is_audit: bool = False,
    ) -> Admitted | Refused | None:
        """Ask for leave to send one picture to the first candidate that can take it.

        Args:
            sha256: of the content.
            candidates: providers in order of preference; at least one.
            opinions: how many opinions of this content the caller has seen.
            age_s: seconds that the upload has waited.
            is_audit: what audits may cost a day is a limit too.

        Returns:
            None when another process has stored an opinion meanwhile: read them again.
        """
        token = secrets.token_hex(8)
        days = self._budget_days()
        keys = [self._key("opinions", sha256), self._key("flight", sha256)]
        keys += [key for key, _ in days]
        keys += self._books
        for name in candidates:
            keys += [self._key(kind, name) for kind in ("window", "slots", "waiting", "health")]
        keys.append(self._clock)
        ask = self._question(sha256, token, candidates, opinions, age_s, days)
        if is_audit:
            ask |= self._audit_limits()
        leave = self._read(self._admit(keys=keys, args=[json.dumps(ask)]), candidates, token, days)
        return (
            dataclasses.replace(leave, is_audit=is_audit) if isinstance(leave, Admitted) else leave
        )

    def _audit_limits(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "audit_calls": _or_none(settings.audit_daily_calls),
            "audit_microyuan": _or_none(settings.audit_daily_yuan, MICRO),
        }

    def _question(
        self,
        sha256: str,
        token: str,
        candidates: Sequence[str],
        opinions: int,
        age_s: float,
        days: list[tuple[str, int]],
    ) -> dict[str, Any]:
        settings = self._settings
        return {
            "sha": sha256,
            "token": token,
            "random": self._random(),
            "opinions": opinions,
            "age_us": int(max(0.0, age_s) * MICRO),
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

    def place_s(self, leave: Admitted) -> float:
        """Take a place in the rate for a request that is about to be written.

        Returns:
            0 when it may go out, else the seconds after which to ask again. Where Redis does not
            answer it may go out: it was let in.
        """
        calls, window_us = _window(self._settings.limits_of(leave.provider))
        keys = [self._key("window", leave.provider), self._clock]
        try:
            return int(self._place(keys=keys, args=[leave.token, calls, window_us])) / MICRO
        except redis.RedisError:
            return 0.0

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
        upload_id: str = "",
        seq: int = 0,
        opinion_field: str = "",
        opinion: Opinion | None = None,
    ) -> Settled:
        """Close an admitted call; a second time nothing is refunded or counted.

        Args:
            leave: what `admit` returned.
            sha256: of the content.
            outcome: how it ended; `dropped` says nothing about the provider.
            billed: False gives the money back.
            error: what went wrong, for people.
            pause_s: how long the provider asked to be left alone; None: it did not say.
            latency_s: how long it took.
            upload_id: whose picture it was, for the ledger.
            seq: of its record.
            opinion_field: `provider@rules`.
            opinion: None: there is none.
        """
        settings = self._settings
        keys = [self._key("opinions", sha256), self._key("flight", sha256), leave.budget_key]
        keys += [self._key(kind, leave.provider) for kind in ("slots", "health")]
        keys += [*self._books, self._clock]
        price = settings.limits_of(leave.provider).call_microyuan
        said = opinion or Unanswered(provider=leave.provider, error=error, microyuan=price)
        done = {
            "provider": leave.provider,
            "token": leave.token,
            "price": price,
            "upload_id": upload_id,
            "seq": seq,
            "to": said.decision,
            "detail": event_detail(said, sha256, opinion_field if opinion else ""),
            "total_field": total_field(COST, leave.provider),
            "outcome": outcome,
            "billed": billed,
            "booked": ["total", leave.provider, *(["audit"] if leave.is_audit else [])],
            "latency_us": int(latency_s * MICRO),
            "error": pack(error),
            "pause_us": -1 if pause_s is None else int(pause_s * MICRO),
            "opinion_field": opinion_field,
            "opinion": for_file(opinion) if opinion else "",
            "opinion_ttl_ms": int(settings.review_opinion_ttl_s * 1000),
            "breaker_failures": settings.review_breaker_failures,
            "breaker_calls": settings.review_breaker_calls,
            "breaker_open_us": int(settings.review_breaker_open_s * MICRO),
            "misconfigured_us": int(settings.review_misconfigured_s * MICRO),
        }
        event, length_us = self._settle(keys=keys, args=[json.dumps(done)])
        return Settled(event=event, for_s=length_us / MICRO)

    def keep_opinion(self, sha256: str, field: str, opinion: Opinion, dry_run: bool) -> bool:
        """Put an opinion back that was paid for, or only look; False when there is one by now."""
        key = self._key("opinions", sha256)
        if dry_run:
            return not self._redis.hexists(key, field)
        is_new = bool(self._redis.hsetnx(key, field, for_file(opinion)))
        self._redis.expire(key, int(self._settings.review_opinion_ttl_s))
        return is_new

    def book(self, provider: str) -> None:
        """Count one call that did not ask for leave (a check by an operator)."""
        key, (events, metrics) = self._today(), self._books
        price = self._settings.limits_of(provider).call_microyuan
        said = Unanswered(provider=provider, error="a check by an operator", microyuan=price)
        entry = {"kind": "opinion", "upload_id": "", "seq": 0, "to": "check"}
        with self._redis.pipeline(transaction=True) as pipe:
            for whose in ("total", provider):
                pipe.hincrby(key, f"{whose}:calls", 1)
                pipe.hincrby(key, f"{whose}:microyuan", price)
            pipe.expire(key, 8 * 86400)
            pipe.xadd(events, {**entry, "detail": event_detail(said, "")})
            pipe.hincrbyfloat(metrics, total_field(COST, provider), price / MICRO)
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
            pipe.hgetall(self._key("health", provider))
            pipe.zrange(self._key("slots", provider), 0, -1, withscores=True)
            pipe.zcard(self._key("waiting", provider))
            pipe.hgetall(self._today())
            health, slots, waiting, day = pipe.execute()
        now_us = self._now_us()
        state, until_us = _state(health, now_us)
        calls = int(day.get(f"{provider}:calls", 0))
        yuan = int(day.get(f"{provider}:microyuan", 0)) / MICRO
        return ProviderStatus(
            name=provider,
            regions=tuple(
                str(region) for region in Region if provider in self._settings.route_of(region)
            ),
            state=state,
            reason=unpack(health.get("reason", "")) if state in ("open", "probing") else "",
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
            last_error=unpack(health.get("error", "")),
            last_error_at=int(health.get("error_at", 0)) / MICRO,
        )

    def total_today(self) -> tuple[int, float]:
        """(billed calls, yuan) of all providers since midnight in the budget's zone."""
        calls, microyuan = self._redis.hmget(self._today(), "total:calls", "total:microyuan")
        return int(calls or 0), int(microyuan or 0) / MICRO

    def _budget_days(self) -> list[tuple[str, int]]:
        days = days_around(self._now_us() / MICRO, self._zone)
        return [(self._key("day", date), start_us) for date, start_us in days]

    def _now_us(self) -> int:
        """By the server's clock, asked once a minute: this host's may be days off."""
        told_s, offset_s = self._told
        if time.monotonic() - told_s > CLOCK_EVERY_S:
            now = float(self._tell(keys=[self._clock]))
            told_s, offset_s = self._told = time.monotonic(), now - time.monotonic()
        return int((time.monotonic() + offset_s) * MICRO)

    def _today(self) -> str:
        now_us = self._now_us()
        return [key for key, start_us in self._budget_days() if start_us <= now_us][-1]


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


def _window(limits: ProviderLimits) -> tuple[int, int]:
    """(calls, microseconds): at most so many calls in any stretch so long."""
    calls, window_s = limits.window
    return calls, math.ceil((window_s + JITTER_MARGIN_S) * MICRO)


def _candidate(name: str, limits: ProviderLimits) -> dict[str, Any]:
    calls, window_us = _window(limits)
    return {
        "name": name,
        "calls": calls,
        "window_us": window_us,
        "concurrency": limits.concurrency,
        "daily_calls": _or_none(limits.daily_calls),
        "daily_microyuan": _or_none(limits.daily_yuan, MICRO),
        "price": limits.call_microyuan,
        "total_field": total_field(COST, name),
        "lost": event_detail(
            Unanswered(
                provider=name, error="its worker died over it", microyuan=limits.call_microyuan
            ),
            "",
        ),
    }


def _script(name: str) -> str:
    folder = resources.files("worker.review") / "lua"
    return with_clock((folder / f"{name}.lua").read_text("utf-8"))
