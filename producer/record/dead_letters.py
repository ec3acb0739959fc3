"""Dead letters: what failed for good, why, and what an operator does about it.

A letter is written by the script that ends the upload's or callback's progress; see store.py. An
item is an upload id, or `<upload id>#<seq>` for a callback.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator
from typing import Any, cast

from producer.contract import AvatarState, Stage
from producer.fields import known_fields
from producer.record.store import Store, Transition
from producer.texts import of_error, of_json, parts_of

log = logging.getLogger(__name__)

#: Characters of an error message that are kept.
MAX_MESSAGE_CHARS = 500

#: Earlier deaths of one item that are kept.
MAX_HISTORY = 20

#: Letters read in one round trip.
PAGE = 200

#: Replays that become due in one second, so that a thousand letters are no new burst.
REPLAYS_PER_S = 20.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """Why one item stopped.

    Args:
        item: upload id, or `<upload id>#<seq>` for a callback.
        stage: where it stopped; a replay re-enters here.
        error: class name of the last error.
        message: its message, cut to 500 characters.
        parts: how the message was made, for other languages; None where it is not known.
        attempts: how many attempts failed.
        first_failed_at: seconds since the epoch.
        last_failed_at: seconds since the epoch.
        history: earlier deaths of the same item, oldest first.
    """

    item: str
    stage: Stage
    error: str
    message: str
    attempts: int
    first_failed_at: float
    last_failed_at: float
    history: tuple[dict[str, Any], ...] = ()
    parts: dict[str, Any] | None = None

    @property
    def said(self) -> str:
        """The message, as a `Text` where it was made as one."""
        return of_json(self.message, self.parts)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> DeadLetter:
        """Read what `to_dict` wrote; unknown fields of a newer version are ignored."""
        values = known_fields(cls, data)
        values["stage"] = Stage(values["stage"])
        values["history"] = tuple(values.get("history") or ())
        return cls(**values)

    @classmethod
    def of(
        cls,
        item: str,
        stage: Stage,
        error: BaseException,
        *,
        attempts: int,
        first_failed_at: float,
        now: float,
    ) -> DeadLetter:
        """A letter for an error that ends an item's progress."""
        return cls(
            item=item,
            stage=stage,
            error=type(error).__name__,
            message=str(error)[:MAX_MESSAGE_CHARS],
            parts=parts_of(of_error(error)),
            attempts=attempts,
            first_failed_at=first_failed_at or now,
            last_failed_at=now,
        )

    def matches(self, *, stage: str | None, error: str | None, since: float | None) -> bool:
        """Whether a filter takes this letter; None takes everything."""
        return (
            (stage is None or self.stage == stage)
            and (error is None or error.lower() in f"{self.error}: {self.message}".lower())
            and (since is None or self.last_failed_at >= since)
        )

    def after(self, earlier: DeadLetter | None) -> DeadLetter:
        """This letter with the history of the item's earlier death, the newest `MAX_HISTORY`."""
        if earlier is None:
            return self
        past = earlier.to_dict()
        history = (*past.pop("history"), past)[-MAX_HISTORY:]
        return dataclasses.replace(self, history=history)


class DeadLetters:
    """Reads, replays and discards dead letters. Safe to share between threads and processes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._redis = store.base.redis
        self._keys = store.keys

    def count(self, *, since: float | None = None) -> int:
        """How many there are; `since`: only those buried at or after, seconds since the epoch."""
        oldest = "-inf" if since is None else since
        return int(self._redis.zcount(self._keys.dead, oldest, "+inf"))

    def oldest_at(self) -> float | None:
        """When the oldest was buried, seconds since the epoch."""
        first: Any = self._redis.zrange(self._keys.dead, 0, 0, withscores=True)
        return float(first[0][1]) if first else None

    def find(
        self, *, stage: str | None = None, error: str | None = None, since: float | None = None
    ) -> Iterator[DeadLetter]:
        """Letters that match, the newest first, read page by page.

        Args:
            stage: a `Stage`, or None for all.
            error: part of the error's class name or message, in any case.
            since: last failure at or after, seconds since the epoch.
        """
        start = 0
        while items := self._redis.zrevrange(self._keys.dead, start, start + PAGE - 1):
            pipe = self._redis.pipeline(transaction=False)
            for item in items:
                pipe.hget(self._keys.letter(str(item)), "letter")
            for item, text in zip(items, pipe.execute(), strict=True):
                letter = _read(str(item), text)
                if letter and letter.matches(stage=stage, error=error, since=since):
                    yield letter
            start += PAGE

    def get(self, item: str) -> DeadLetter | None:
        """The letter of one item, also after a replay while its history is kept."""
        text = cast("str | None", self._redis.hget(self._keys.letter(item), "letter"))
        return _read(item, text)

    def is_buried(self, item: str) -> bool:
        """Whether it is a dead letter now."""
        return self._redis.zscore(self._keys.dead, item) is not None

    def replay(self, item: str, *, by: str, delay_s: float = 0.0) -> bool:
        """Let an item re-enter the stage it failed at, with a fresh attempt count.

        Args:
            item: upload id, or `<upload id>#<seq>` for a callback.
            by: who asks; goes into the ledger.
            delay_s: when it becomes due.

        Returns:
            False when it is no dead letter (any more); repeating a replay changes nothing.
        """
        letter = self.get(item)
        if letter is None or not self.is_buried(item):
            return False
        if letter.stage == Stage.CALLBACK:
            return self._store.outbox.unbury(item, delay_s=delay_s, detail={"by": by})
        to = AvatarState.REVIEWING if letter.stage == Stage.REVIEW else AvatarState.QUEUED
        fields = {"reason": "replayed", "tried": ""}
        # What has no safe copy is judged anew: the verdict on its content is on file.
        stage = Stage.MODERATE if letter.stage == Stage.COPY else letter.stage
        return self._leave(item, to, fields, stage, by, delay_s)

    def discard(self, item: str, *, by: str) -> bool:
        """Give an item up: an upload becomes `rejected` (discarded), a callback is forgotten.

        Returns:
            False when it is no dead letter (any more).
        """
        letter = self.get(item)
        if letter is None or not self.is_buried(item):
            return False
        if letter.stage == Stage.CALLBACK:
            return self._store.outbox.unbury(item, delay_s=None, detail={"by": by})
        fields = {"reason": "discarded", "decided_by": f"operator:{by}"}
        return self._leave(item, AvatarState.REJECTED, fields, None, by, 0.0)

    def _leave(
        self,
        upload_id: str,
        to: AvatarState,
        fields: dict[str, str],
        enters: Stage | None,
        by: str,
        delay_s: float,
    ) -> bool:
        avatar = self._store.get(upload_id)
        if avatar is None or avatar.state != AvatarState.DEAD:
            return False
        change = Transition(
            avatar=avatar,
            to=to,
            fields=fields,
            enters=enters,
            delay_s=delay_s,
            by=by,
            detail=fields,
            unbury=True,
        )
        return self._store.advance([change])[0].applied


def _read(item: str, text: str | None) -> DeadLetter | None:
    """A letter as it is kept; one that this version cannot read is left to a newer one."""
    if text is None:
        return None
    try:
        return DeadLetter.from_dict(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        facts = {"item": item, "error": str(error)[:200]}
        log.error("dead_letter_unreadable", extra=facts)
        return None
