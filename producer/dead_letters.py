"""Dead letters: what failed for good, why, and what an operator does about it.

A letter is written by the script that ends the upload's or callback's progress; see store.py.

Keys, behind the store's prefix:

    dead             zset    items, score: when they were buried
    dead:<item>      hash    letter (JSON), at; kept `record_ttl_s` after a replay as its history

An item is an upload id, or `<upload id>#<seq>` for a callback.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from producer.contract import Stage

#: Characters of an error message that are kept.
MAX_MESSAGE_CHARS = 500


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """Why one item stopped.

    Args:
        item: upload id, or `<upload id>#<seq>` for a callback.
        stage: where it stopped; a replay re-enters here.
        error: class name of the last error.
        message: its message, cut to 500 characters.
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

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> DeadLetter:
        """Read what `to_dict` wrote; unknown fields of a newer version are ignored."""
        known = {field.name for field in dataclasses.fields(cls)}
        values = {name: value for name, value in data.items() if name in known}
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
            attempts=attempts,
            first_failed_at=first_failed_at or now,
            last_failed_at=now,
        )
