"""What must still happen: due items that a worker takes under a lease, gives back or ends.

A message on the broker only says "look now". What is due waits in a sorted set, is worked on under
a lease, and comes back by itself when the lease runs out.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from producer.contract import Priority, Stage
from producer.record.base import Base, Step
from producer.record.keyspace import ALL_LANES, LANES, callback_line

#: Seconds that a doorbell keeps others from ringing; a lost message costs this and one tick.
BELL_S = 2


@dataclasses.dataclass(frozen=True)
class Lease:
    """One item in our hands; `crashes` counts earlier holders that died with it."""

    item: str
    crashes: int


@dataclasses.dataclass(frozen=True)
class Depth:
    """How many items of a line are `leased`, `due` and due `later`, the first in `next_s`."""

    leased: int
    due: int
    later: int
    next_s: float | None


class Leases:
    """Takes, renews and ends leases; the part of a `Store` that workers share work by."""

    base: Base

    def claim(
        self,
        line: str,
        limit: int,
        *,
        lease_s: float,
        token: str,
        most_leased: int = 0,
        lanes: Iterable[str] = LANES,
        busy: bool = False,
    ) -> list[Lease]:
        """Take up to `limit` due items of a line; an item whose holder died comes alone.

        Args:
            line: a stage, or `callback_line(endpoint)`.
            limit: most items to take.
            lease_s: seconds until others may take them.
            token: names this holder in `renew`, `put_back` and `end_callback`.
            most_leased: most items of this line in all workers' hands together; 0 for any.
            lanes: the priorities to take from, most urgent first, or `SLOW` or `FAR`.
            busy: the holder has items in hand that one whose holder died must not endanger; while
                such an item waits, nothing is given, so that the hands become empty.
        """
        step = claiming(self.base, line, limit, lease_s, token, most_leased, lanes, busy)
        return claimed(self.base.run_all([step])[0])

    def claim_each(
        self, claims: Sequence[tuple[str, int, int]], *, lease_s: float, token: str
    ) -> list[list[Lease]]:
        """`claim` for several lines, in one round trip.

        Args:
            claims: for each line its name, `limit` and `most_leased`.
            lease_s: see `claim`.
            token: see `claim`.
        """
        steps = [claiming(self.base, *claim[:2], lease_s, token, claim[2]) for claim in claims]
        return [claimed(found) for found in self.base.run_all(steps)] if steps else []

    def claim_beside(
        self,
        line: str,
        wishes: Sequence[tuple[int, Iterable[str]]],
        *,
        lease_s: float,
        token: str,
    ) -> list[list[Lease]]:
        """`claim` by a holder that is busy, for several (limit, lanes), in one round trip."""
        steps = [
            claiming(self.base, line, limit, lease_s, token, 0, lanes, busy=True)
            for limit, lanes in wishes
        ]
        return [claimed(found) for found in self.base.run_all(steps)] if steps else []

    def renew(self, line: str, items: Sequence[str], *, lease_s: float, token: str) -> int:
        """Lengthen our leases; returns how many were still ours."""
        if not items:
            return 0
        keys = [self.base.keys.lease(line), self.base.keys.holder(line)]
        return int(self.base.run("renew", keys, lease_s=lease_s, token=token, items=list(items)))

    def put_back(
        self,
        line: str,
        item: str,
        *,
        token: str,
        priority: str,
        delay_s: float | None,
        fields: dict[str, str] | None = None,
        keep_crashes: bool = False,
    ) -> bool:
        """Make an item due again after `delay_s` seconds, and set fields of its hash.

        `priority` may also be `SLOW` or `FAR`.

        Returns:
            False when the lease was no longer ours; nothing was changed then.
        """
        keys = self.base.keys
        is_callback = line.startswith(Stage.CALLBACK)
        return bool(
            self.base.run(
                "put_back",
                [
                    keys.lease(line),
                    keys.holder(line),
                    keys.crashes(line),
                    keys.due(line, priority),
                    keys.callback(item) if is_callback else keys.avatar(item),
                ],
                item=item,
                token=token,
                delay_s=delay_s,
                keep_crashes=keep_crashes,
                fields=fields or {},
            )
        )

    def drop(self, line: str, item: str, *, token: str) -> bool:
        """End the lease of an item that has nothing left to do on this line."""
        return self.put_back(line, item, token=token, priority=Priority.NORMAL, delay_s=None)

    # -- doorbells and depth -------------------------------------------------------------------

    def take_bell(self, stage: Stage) -> bool:
        """Whether the caller should send a doorbell now (nobody did in the last two seconds)."""
        # Each ring has a token of its own: nobody holds the bell, it is silent until its mark ends.
        token = secrets.token_hex(4)
        return bool(self.base.run("hold", [self.base.keys.bell(stage)], token=token, ttl_s=BELL_S))

    def answer_bell(self, stage: Stage) -> None:
        """A worker woke up: whatever is enqueued from now on rings again."""
        self.base.redis.delete(self.base.keys.bell(stage))

    def lines(self) -> list[str]:
        """Every line that can hold work."""
        endpoints = self.base.redis.smembers(self.base.keys.endpoints)
        callbacks = (callback_line(str(name)) for name in sorted(endpoints))
        return [Stage.MODERATE, Stage.REVIEW, Stage.COPY, Stage.AUDIT, *callbacks]

    def due_lines(self) -> list[str]:
        """Lines with an item that is due now or whose lease ran out."""
        lines, now, keys = self.lines(), self.base.now(), self.base.keys
        pipe = self.base.redis.pipeline(transaction=False)
        for line in lines:
            pipe.zcount(keys.lease(line), "-inf", now)
            for lane in ALL_LANES:
                pipe.zcount(keys.due(line, lane), "-inf", now)
        counts = pipe.execute()
        width = 1 + len(ALL_LANES)
        return [
            line
            for number, line in enumerate(lines)
            if any(counts[number * width : (number + 1) * width])
        ]

    def has_expired(self, line: str) -> bool:
        """Whether an item waits whose holder died with it; it will be given to idle hands only."""
        return bool(self.base.redis.zcount(self.base.keys.lease(line), "-inf", self.base.now()))

    def oldest_due_at(self, line: str) -> float | None:
        """Since when an item of a line has been due, the longest; seconds since the epoch.

        What is to be tried again later is not due, and what was set aside is not counted: neither a
        host that is away nor a slow picture says anything about the workers.
        """
        keys, now = self.base.keys, self.base.now()
        pipe = self.base.redis.pipeline(transaction=False)
        for key in (keys.lease(line), *(keys.due(line, lane) for lane in LANES)):
            pipe.zrangebyscore(key, "-inf", now, start=0, num=1, withscores=True)
        return min((found[0][1] for found in pipe.execute() if found), default=None)

    def waiting(self, line: str) -> dict[str, int]:
        """How many items of a line wait (`due` or later) and how many are `leased`."""
        keys = self.base.keys
        pipe = self.base.redis.pipeline(transaction=False)
        pipe.zcard(keys.lease(line))
        for lane in ALL_LANES:
            pipe.zcard(keys.due(line, lane))
        leased, *waiting = pipe.execute()
        return {"waiting": sum(waiting), "leased": leased}

    def depth(self, line: str) -> Depth:
        """How much of a line is under way, due now and due later."""
        keys, now = self.base.keys, self.base.now()
        pipe = self.base.redis.pipeline(transaction=False)
        pipe.zcard(keys.lease(line))
        for lane in ALL_LANES:
            due = keys.due(line, lane)
            pipe.zcount(due, "-inf", now)
            pipe.zcount(due, f"({now}", "+inf")
            pipe.zrangebyscore(due, f"({now}", "+inf", start=0, num=1, withscores=True)
        leased, *found = pipe.execute()
        firsts = [first[0][1] for first in found[2::3] if first]
        next_s = min(firsts) - now if firsts else None
        return Depth(leased, sum(found[0::3]), sum(found[1::3]), next_s)


def claiming(
    base: Base,
    line: str,
    limit: int,
    lease_s: float,
    token: str,
    most_leased: int,
    lanes: Iterable[str] = LANES,
    busy: bool = False,
) -> Step:
    """The step of `Leases.claim`; `claimed` reads its answer."""
    keys = base.keys
    return Step(
        "claim",
        [
            keys.lease(line),
            keys.holder(line),
            keys.crashes(line),
            *(keys.due(line, lane) for lane in lanes),
        ],
        {
            "limit": limit,
            "lease_s": lease_s,
            "token": token,
            "most_leased": most_leased,
            "busy": busy,
        },
    )


def claimed(found: list[Any]) -> list[Lease]:
    """What the step claimed: item, crashes, item, ..."""
    return [
        Lease(str(item), int(crashes))
        for item, crashes in zip(found[::2], found[1::2], strict=True)
    ]
