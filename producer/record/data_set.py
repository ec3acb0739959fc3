"""Which set of data Redis holds: a mark with a birthday, whose absence means that data was lost.

Whoever knew another mark (a running process, the data folder, the ledger) says so with `watch`; the
loss stays noted until an operator has seen to it.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from producer.record.base import Base

#: Seconds by which `next_seq` is ahead of time.
AHEAD = 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSet:
    """One set of data; times are seconds since the epoch.

    Args:
        id: its mark, 16 hex digits.
        born: when it began.
        lost_at: when it was noticed that the one before is gone; None where nothing is amiss.
    """

    id: str
    born: float
    lost_at: float | None


class DataSets:
    """Reads and notes the set of data; `Store.data_sets`."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._key = base.keys.data_set

    def watch(self, known: str = "") -> DataSet:
        """The present set, begun now where there was none.

        Args:
            known: the set that the caller knows; another one in its place is a loss.
        """
        flat = self._base.run("watch", [self._key], known=known, **self._base.beginning())
        return _read(dict(zip(flat[::2], flat[1::2], strict=True)))

    def look(self) -> DataSet | None:
        """The present set; None where there is none."""
        fields = cast("dict[str, str]", self._base.redis.hgetall(self._key))
        return _read(fields) if fields else None

    def next_seq(self) -> int:
        """A first seq that no record begun within the next seconds exceeds."""
        now = self._base.now()
        floor = int(cast("str | None", self._base.redis.hget(self._key, "floor")) or 0)
        return max(1, int(now - self._base.seq_from) + AHEAD, floor + 1)

    def accept_loss(self) -> bool:
        """Somebody has seen to the loss; False when there was none."""
        return bool(self._base.redis.hdel(self._key, "lost_at"))


def _read(fields: dict[str, Any]) -> DataSet:
    lost_at = fields.get("lost_at")
    return DataSet(
        id=str(fields["id"]),
        born=float(fields["born"]),
        lost_at=float(lost_at) if lost_at else None,
    )
