"""What people decided: how much each, how often the model was of the same mind, and others were."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from producer.contract import UNDONE
from worker.ledger.counts import DECIDED, PersonCounts
from worker.ledger.schema import events
from worker.ledger.sums import AGREES, NOT_SCORED, PEOPLE, Amounts, Found, read, snapshot


class People:
    """The part of the ledger's questions that is about people's work."""

    engine: sa.Engine
    namespace: str

    def people(self, periods: Sequence[tuple[float, float]]) -> list[dict[str, PersonCounts]]:
        """Decisions of each period by who took them; what was taken back counts too.

        A person agrees with the model by a block where it gave 0.5 and more, by an approval where
        it gave less.

        Args:
            periods: (start, end), seconds since the epoch.
        """
        with snapshot(self.engine) as connection:
            found = read(connection, self.namespace, PEOPLE, periods)
        return [_by_person(period) for period in found]

    def second_opinions(self, start: float, end: float) -> tuple[int, int]:
        """How often people said the same of one content, and how many contents two or more decided.

        Counted are contents decided in the period, with what was ever said of them; of each person
        the last word, unless it was taken back.

        Args:
            start: seconds since the epoch.
            end: likewise, excluded.
        """
        c = events.c
        mine = [c.namespace == self.namespace, c.kind == "transition", c.sha256 != ""]
        decided = [*mine, c.tier == "operator", c.to_state.in_(DECIDED)]
        asked = sa.select(c.sha256).where(*decided, c.at >= start, c.at < end)
        taken_back = sa.and_(c.to_state == "held", c.reason == UNDONE)
        query = (
            sa.select(c.sha256, c.to_state, c.decided_by)
            .where(*mine, c.sha256.in_(asked))
            .where(sa.or_(sa.and_(c.tier == "operator", c.to_state.in_(DECIDED)), taken_back))
            .order_by(c.id)
        )
        words: dict[str, dict[str, str]] = {}
        with self.engine.connect() as connection:
            for sha256, state, who in connection.execute(query):
                said = words.setdefault(sha256, {})
                if state in DECIDED:
                    said.pop(who, None)
                    said[who] = state
                elif said:
                    said.popitem()
        both = [set(said.values()) for said in words.values() if len(said) > 1]
        return sum(len(verdicts) == 1 for verdicts in both), len(both)


def _by_person(period: Found) -> dict[str, PersonCounts]:
    found: dict[str, PersonCounts] = {}
    for (key, amount), number in period.items():
        if amount != Amounts._fields[0]:
            continue
        before = found.get(key.name, PersonCounts())
        found[key.name] = PersonCounts(
            approved=before.approved + number * (key.to_state == DECIDED[0]),
            blocked=before.blocked + number * (key.to_state == DECIDED[1]),
            agreed=before.agreed + number * (key.bin == AGREES),
            scored=before.scored + number * (key.bin != NOT_SCORED),
        )
    return dict(sorted(found.items()))
