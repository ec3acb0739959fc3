"""The callbacks that the web tier has yet to receive: entries that each transition leaves behind.

Each waits in the line of its endpoint, so that one slow endpoint cannot hold the others, until it
is delivered, buried in the dead letters, or forgotten by an operator.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

from producer.contract import EVENT_TYPE, FINAL_STATES, Avatar, Priority
from producer.reasons import public_text
from producer.record.base import Base, Step
from producer.record.keyspace import LANES, callback_line, endpoint_name, server_of
from producer.record.leases import Lease, claimed, claiming


@dataclasses.dataclass(frozen=True)
class CallbackEntry:
    """One undelivered callback. `at` is the transition's time, seconds since the epoch."""

    item: str
    upload_id: str
    seq: int
    url: str
    endpoint: str
    data: dict[str, Any]
    at: float
    attempts: int
    first_failed_at: float | None


class Ended(enum.IntEnum):
    """What came of ending a callback."""

    #: The lease was no longer ours; its present holder goes on with it.
    NOT_OURS = 0
    ENDED = 1
    #: The first success of an endpoint that had failed.
    RECOVERED = 2


class Outbox:
    """Reads and ends callbacks; `Store.outbox`."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._redis = base.redis
        self._keys = base.keys

    def endpoints(self) -> list[str]:
        """Names of all endpoints that callbacks ever went to."""
        return sorted(cast("set[str]", self._redis.smembers(self._keys.endpoints)))

    def get(self, item: str) -> CallbackEntry | None:
        """The outbox entry `<upload id>#<seq>`, or None when it is done."""
        return self.get_many([item])[0]

    def get_and_clock(self, item: str) -> tuple[CallbackEntry | None, tuple[float, float]]:
        """`get` and the store's `clock`, in one round trip."""
        (time, told), fields = self._base.run_all(
            [Step("now", [], {})], lambda pipe: pipe.hgetall(self._keys.callback(item))
        )
        return _entry(item, fields) if fields else None, (float(told), float(time))

    def get_many(self, items: Sequence[str]) -> list[CallbackEntry | None]:
        """Outbox entries in the order asked for, one round trip."""
        pipe = self._redis.pipeline(transaction=False)
        for item in items:
            pipe.hgetall(self._keys.callback(item))
        return [
            _entry(item, fields) if fields else None
            for item, fields in zip(items, pipe.execute(), strict=True)
        ]

    def end(self, entry: CallbackEntry, *, token: str, **ending: Any) -> Ended:
        """End one callback: delivered, or buried in the dead letters.

        Args:
            entry: which.
            token: of its holder.
            ending: see `_end`.
        """
        return Ended(self._base.run_all([self._end(entry, token, **ending)])[0])

    def end_and_claim(
        self, entry: CallbackEntry, *, token: str, lease_s: float, most_leased: int, **ending: Any
    ) -> tuple[Ended, Lease | None]:
        """`end` one and take the next of its endpoint under the same token, in one round trip.

        Args:
            entry: see `end`.
            token: see `end`.
            lease_s: see `Leases.claim`.
            most_leased: see `Leases.claim`.
            ending: see `_end`.
        """
        line = callback_line(entry.endpoint)
        ended, found = self._base.run_all(
            [
                self._end(entry, token, **ending),
                claiming(self._base, line, 1, lease_s, token, most_leased),
            ]
        )
        return Ended(ended), next(iter(claimed(found)), None)

    def _end(
        self,
        entry: CallbackEntry,
        token: str,
        *,
        detail: dict[str, Any],
        bury: dict[str, Any] | None = None,
        took_s: float = 0.0,
        is_page: bool = False,
    ) -> Step:
        """The step that ends one.

        Args:
            entry: which.
            token: of its holder.
            detail: goes into the ledger; JSON-ready.
            bury: its dead letter; None: it was delivered.
            took_s: seconds that the delivery took.
            is_page: a web page answered, which may not have read it.
        """
        line, keys = callback_line(entry.endpoint), self._keys
        return Step(
            "end_callback",
            [
                keys.lease(line),
                keys.holder(line),
                keys.crashes(line),
                keys.callback(entry.item),
                keys.events,
                keys.dead,
                keys.letter(entry.item),
                keys.endpoint(entry.endpoint),
            ],
            {
                "item": entry.item,
                "token": token,
                "id": entry.upload_id,
                "seq": entry.seq,
                "detail": json.dumps(detail),
                "letter": json.dumps(bury) if bury is not None else None,
                "server": server_of(entry.url),
                "took_s": took_s,
                "is_page": is_page,
            },
        )

    def resend(self, avatar: Avatar, url: str, *, by: str = "") -> str:
        """Send the callback of a record's present state once more, with the same webhook id.

        It is due at once, also where it lies in the dead letters or waits for a later attempt.

        Returns:
            Its item; empty when there is nothing but its acceptance to tell.
        """
        if avatar.updated_at == avatar.created_at:
            return ""
        item = f"{avatar.upload_id}#{avatar.seq}"
        if self.unbury(item, delay_s=0.0, detail={"by": by}):
            return item
        waiting = self.get(item)
        endpoint = waiting.endpoint if waiting else endpoint_name(url)
        pipe = self._redis.pipeline()
        for lane in LANES:
            due = self._keys.due(callback_line(endpoint), lane)
            pipe.zadd(due, {item: avatar.updated_at}, xx=True, lt=True)
        if waiting is None:
            data = describe(
                avatar.upload_id, avatar.state, avatar.seq, avatar.region, avatar.to_hash()
            )
            pipe.hset(
                self._keys.callback(item),
                mapping={
                    "url": url,
                    "endpoint": endpoint,
                    "data": json.dumps(data),
                    "at": f"{avatar.updated_at:.6f}",
                    "attempts": "0",
                },
            )
            due = self._keys.due(callback_line(endpoint), Priority.NORMAL)
            pipe.zadd(due, {item: avatar.updated_at})
        pipe.sadd(self._keys.endpoints, endpoint)
        pipe.execute()
        return item

    def unbury(self, item: str, *, delay_s: float | None, detail: dict[str, Any]) -> bool:
        """Take a callback out of the dead letters: due after `delay_s`, or (None) forgotten.

        Returns:
            False when it was no dead letter (any more).
        """
        entry = self.get(item)
        endpoint = entry.endpoint if entry else ""
        upload_id, _, seq = item.rpartition("#")
        if endpoint and delay_s is not None:
            # It may have been forgotten meanwhile, and nobody looks into the line of such a one.
            self._redis.sadd(self._keys.endpoints, endpoint)
        return bool(
            self._base.run(
                "replay_callback",
                [
                    self._keys.dead,
                    self._keys.letter(item),
                    self._keys.callback(item),
                    self._keys.due(callback_line(endpoint), Priority.NORMAL),
                    self._keys.events,
                ],
                item=item,
                id=upload_id,
                seq=seq,
                delay_s=delay_s,
                letter_ttl_s=self._base.record_ttl_s,
                detail=json.dumps(detail),
            )
        )


def _entry(item: str, fields: dict[str, str]) -> CallbackEntry:
    upload_id, _, seq = item.rpartition("#")
    first_failed = fields.get("first_failed_at")
    return CallbackEntry(
        item=item,
        upload_id=upload_id,
        seq=int(seq),
        url=fields["url"],
        endpoint=fields["endpoint"],
        data=json.loads(fields["data"]),
        at=float(fields["at"]),
        attempts=int(fields["attempts"]),
        first_failed_at=float(first_failed) if first_failed else None,
    )


def document(data: dict[str, Any], at: float, kind: str = EVENT_TYPE) -> dict[str, Any]:
    """What a callback and a poll answer: `{type, timestamp, data}`.

    Args:
        data: of `describe`, or a ping's.
        at: time of the transition, seconds since the epoch.
        kind: the type.
    """
    timestamp = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return {"type": kind, "timestamp": timestamp.replace("+00:00", "Z"), "data": data}


def describe(
    upload_id: str, state: str, seq: int, region: str, fields: dict[str, str]
) -> dict[str, Any]:
    """Public form of a record; numbers are rounded to six digits."""
    return {
        "upload_id": upload_id,
        "state": state,
        "seq": seq,
        "final": state in FINAL_STATES,
        "probability": _rounded(fields.get("probability")),
        "raw_score": _rounded(fields.get("raw_score")),
        "style": fields.get("style") or None,
        "reason": fields.get("reason", ""),
        "reason_text": public_text(
            state,
            fields.get("reason", ""),
            fields.get("block_reason", ""),
            fields.get("language", ""),
        ),
        "block_reason": fields.get("block_reason") or None,
        "subject_blocked": int(fields["subject_blocked"])
        if fields.get("subject_blocked")
        else None,
        "decided_by": fields.get("decided_by", ""),
        "region": region,
        "bundle": fields.get("bundle") or None,
        "second": _second(fields),
        "policy": fields.get("policy") or None,
        "sha256": fields.get("sha256") or None,
        "safe_copy": json.loads(fields.get("safe_copy") or "null"),
    }


def _second(fields: dict[str, str]) -> dict[str, Any] | None:
    """What a second model said, where one looked."""
    if not fields.get("second_bundle"):
        return None
    return {
        "bundle": fields["second_bundle"],
        "probability": _rounded(fields.get("second_probability")),
        "raw_score": _rounded(fields.get("second_raw")),
    }


def _rounded(text: str | None) -> float | None:
    return round(float(text), 6) if text not in (None, "") else None
