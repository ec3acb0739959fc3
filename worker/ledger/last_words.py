"""What the ledger knows of uploads, decisions and opinions that Redis may have lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from producer.contract import FINAL_STATES, AvatarState
from producer.record.memory import FORGOTTEN, RETENTION
from worker.ledger.lists import AFTER_IDS
from worker.ledger.queries import LedgerReads, public_row
from worker.ledger.schema import events, in_order

#: Uploads looked at in one query.
PAGE = 500

_OPEN = tuple(str(state) for state in AvatarState if state not in FINAL_STATES)

#: Ends of a callback after which nobody need be told again.
_TOLD = ("delivered", "discarded")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LastWord:
    """Where the ledger saw an upload last.

    Args:
        row: its last transition.
        accepted: what was kept of its arrival (image, region, priority, callback_url).
        seen: everything that its transitions said, later ones over earlier ones.
        is_told: whether a callback of the last transition ended, or none went out.
    """

    row: dict[str, Any]
    accepted: dict[str, Any]
    seen: dict[str, Any]
    is_told: bool

    @property
    def upload_id(self) -> str:
        """Whose it is."""
        return str(self.row["upload_id"])


class LastWords:
    """Reads one namespace's ledger.

    Args:
        ledger: the ledger.
        since: verdicts before this, seconds since the epoch, are over: nobody need hear of them.
    """

    def __init__(self, ledger: LedgerReads, *, since: float) -> None:
        self._ledger = ledger
        self._since = since

    def pages(self) -> Iterator[list[str]]:
        """Ids of uploads that were open or decided of late when the ledger saw them last."""
        c, later = events.c, events.alias("later")
        has_later = sa.exists().where(
            later.c.namespace == c.namespace,
            later.c.upload_id == c.upload_id,
            later.c.seq > c.seq,
            later.c.kind == "transition",
        )
        after = 0
        while True:
            query = (
                sa.select(c.id, c.upload_id)
                .where(
                    in_order(self._ledger.namespace),
                    c.kind == "transition",
                    c.upload_id < AFTER_IDS,
                    sa.or_(c.to_state.in_(_OPEN), c.at >= self._since),
                    c.id > after,
                    ~has_later,
                )
                .order_by(c.id)
                .limit(PAGE)
            )
            with self._ledger.engine.connect() as connection:
                rows = connection.execute(query).all()
            if not rows:
                return
            after = rows[-1][0]
            yield list(dict.fromkeys(str(row[1]) for row in rows))

    def of(self, upload_ids: Sequence[str]) -> list[LastWord]:
        """The last words on some uploads."""
        c = events.c
        query = (
            sa.select(events)
            .where(
                c.namespace == self._ledger.namespace,
                c.upload_id.in_(upload_ids),
                c.kind.in_(("transition", "callback")),
            )
            .order_by(c.seq, c.id)
        )
        stories: dict[str, list[dict[str, Any]]] = {}
        with self._ledger.engine.connect() as connection:
            for row in connection.execute(query).mappings():
                stories.setdefault(row["upload_id"], []).append(public_row(dict(row)))
        found = (_last_word(story) for story in stories.values())
        return [word for word in found if word is not None]

    def opinions(self) -> Iterator[dict[str, Any]]:
        """Rows of paid opinions that say under which rules they may be used again."""
        for row in self._ledger.stream(since=self._since, kind="opinion"):
            if row["sha256"] and row["detail"].get("file"):
                yield row

    def memory(self) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
        """What the memory knows, and what people took out of it.

        Returns:
            The last row of each content that was not forgotten since; and contents that people
            took out at some time, with the row that says so last.
        """
        last: dict[str, dict[str, Any]] = {}
        taken_out: dict[str, int] = {}
        for row in self._ledger.stream(kind="memory"):
            sha256 = str(row["detail"]["sha256"])
            if row["to_state"] != FORGOTTEN:
                last[sha256] = row
                continue
            last.pop(sha256, None)
            if row["detail"]["decided_by"] != RETENTION:
                taken_out[sha256] = int(row["id"])
        return last, taken_out

    def approved_since(self, start: float, contents: Mapping[str, int]) -> dict[str, str]:
        """Uploads that a machine approved after a moment, with their contents.

        Args:
            start: the moment, seconds since the epoch.
            contents: hashes, each with the row after which an approval counts.
        """
        c, hashes = events.c, list(contents)
        found: dict[str, str] = {}
        for first in range(0, len(hashes), PAGE):
            query = sa.select(c.id, c.upload_id, c.sha256).where(
                c.namespace == self._ledger.namespace,
                c.kind == "transition",
                c.to_state == str(AvatarState.APPROVED),
                c.tier != "operator",
                c.at >= start,
                c.sha256.in_(hashes[first : first + PAGE]),
            )
            with self._ledger.engine.connect() as connection:
                for row, upload_id, sha256 in connection.execute(query):
                    if row > contents[sha256]:
                        found[str(upload_id)] = str(sha256)
        return found


def _last_word(story: list[dict[str, Any]]) -> LastWord | None:
    steps = [row for row in story if row["kind"] == "transition"]
    if not steps:
        return None
    # An id may have been used before; of its last story.
    begins = max((n for n, row in enumerate(steps) if not row["from_state"]), default=0)
    seen: dict[str, Any] = {}
    for row in steps[begins:]:
        seen |= row["detail"]
        seen["sha256"] = row["sha256"] or seen.get("sha256", "")
    last = steps[-1]
    ended = {row["seq"] for row in story if row["kind"] == "callback" and row["to_state"] in _TOLD}
    return LastWord(
        row=last,
        accepted=steps[begins]["detail"],
        seen=seen,
        is_told=not last["detail"].get("tells") or last["seq"] in ended,
    )
