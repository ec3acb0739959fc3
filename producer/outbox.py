"""The callbacks that the web tier has yet to receive: entries that each transition leaves behind.

Each waits in the line of its endpoint, so that one slow endpoint cannot hold the others, until it
is delivered, buried in the dead letters, or forgotten by an operator.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from producer.contract import FINAL_STATES, Priority, Stage

if TYPE_CHECKING:
    from producer.store import Store


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


def server_of(url: str) -> str:
    """Scheme, host and port of a URL, without user and password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def endpoint_name(url: str) -> str:
    """Short stable name of the server behind a callback URL; safe inside a key."""
    return hashlib.sha256(server_of(url).encode()).hexdigest()[:12]


def callback_line(endpoint: str) -> str:
    """The line that callbacks to one endpoint wait in."""
    return f"{Stage.CALLBACK}:{endpoint}"


class Outbox:
    """Reads and ends callbacks; `Store.outbox`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._end = store.script("end_callback")
        self._replay = store.script("replay_callback")

    def endpoints(self) -> list[str]:
        """Names of all endpoints that callbacks ever went to."""
        return sorted(cast("set[str]", self._store.redis.smembers(self._store.key("endpoints"))))

    def get(self, item: str) -> CallbackEntry | None:
        """The outbox entry `<upload id>#<seq>`, or None when it is done."""
        fields = cast(
            "dict[str, str]", self._store.redis.hgetall(self._store.key("callback", item))
        )
        if not fields:
            return None
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

    def end(
        self,
        entry: CallbackEntry,
        *,
        token: str,
        detail: dict[str, Any],
        bury: dict[str, Any] | None = None,
    ) -> bool:
        """End one callback as delivered, or buried in the dead letters.

        Returns:
            False when the lease was no longer ours; its present holder goes on with it.
        """
        line = callback_line(entry.endpoint)
        return bool(
            self._end(
                keys=[
                    self._store.key("lease", line),
                    self._store.key("holder", line),
                    self._store.key("crashes", line),
                    self._store.key("callback", entry.item),
                    self._store.key("events"),
                    self._store.key("dead"),
                    self._store.key("dead", entry.item),
                    self._store.key("endpoint", entry.endpoint),
                ],
                args=[
                    entry.item,
                    token,
                    entry.upload_id,
                    entry.seq,
                    json.dumps(detail),
                    json.dumps(bury) if bury is not None else "",
                    server_of(entry.url),
                ],
            )
        )

    def resend(self, upload_id: str, url: str) -> bool:
        """Send the callback of a record's present state once more, with the same webhook id.

        Returns:
            False when there is no such record, or nothing but its acceptance to tell.
        """
        avatar = self._store.get(upload_id)
        if avatar is None or avatar.seq < 2:
            return False
        if self.get(f"{upload_id}#{avatar.seq}") is not None:
            return True  # on its way already, or a dead letter: replay that
        item, endpoint = f"{upload_id}#{avatar.seq}", endpoint_name(url)
        fields = avatar.to_hash()
        data = describe(upload_id, avatar.state, avatar.seq, avatar.region, fields)
        pipe = self._store.redis.pipeline()
        pipe.hset(
            self._store.key("callback", item),
            mapping={
                "url": url,
                "endpoint": endpoint,
                "data": json.dumps(data),
                "at": str(avatar.updated_at),
                "attempts": "0",
            },
        )
        pipe.zadd(
            self._store.due(callback_line(endpoint), Priority.NORMAL), {item: self._store.now()}
        )
        pipe.sadd(self._store.key("endpoints"), endpoint)
        pipe.execute()
        return True

    def unbury(self, item: str, line: str, *, delay_s: float, detail: dict[str, Any]) -> bool:
        """Take a callback out of the dead letters: due after `delay_s`, or (negative) forgotten.

        Returns:
            False when it was no dead letter (any more).
        """
        upload_id, _, seq = item.rpartition("#")
        endpoint = line.partition(":")[2]
        if endpoint and delay_s >= 0:
            # It may have been forgotten meanwhile, and nobody looks into the line of such a one.
            self._store.redis.sadd(self._store.key("endpoints"), endpoint)
        return bool(
            self._replay(
                keys=[
                    self._store.key("dead"),
                    self._store.key("dead", item),
                    self._store.key("callback", item),
                    self._store.due(line, Priority.NORMAL),
                    self._store.key("events"),
                ],
                args=[item, upload_id, seq, delay_s, self._store.record_ttl_s, json.dumps(detail)],
            )
        )


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
        "decided_by": fields.get("decided_by", ""),
        "region": region,
        "bundle": fields.get("bundle") or None,
        "policy": fields.get("policy") or None,
        "sha256": fields.get("sha256") or None,
    }


def _rounded(text: str | None) -> float | None:
    return round(float(text), 6) if text not in (None, "") else None
