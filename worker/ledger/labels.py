"""What people and review providers said pictures are: labels to judge the models by.

Two kinds, which must not be mixed up. Whoever decides about a gray or overruled upload labels the
difficult ones; an audit labels an approval that was drawn at random, so its labels are a fair
sample of what passes.
"""

from __future__ import annotations

import sqlalchemy as sa

from producer.contract import UNDONE, AvatarState
from worker.ledger.counts import ALL_TIERS, AuditAnswer
from worker.ledger.schema import events

#: Kind of the event that ends an audit.
LABEL = "label"


class Labels:
    """The part of the ledger's questions that is about labels."""

    def __init__(self, engine: sa.Engine, namespace: str) -> None:
        self.engine = engine
        self.namespace = namespace

    def labels(self, contents: sa.Select[tuple[str]] | None = None) -> dict[str, tuple[bool, str]]:
        """What people and providers said of each content: sha256 -> (explicit, who said so).

        An operator's word beats a provider's until it is taken back; of two by the same kind the
        later one counts. The content's hash stands on the first look of the same upload where the
        verdict has none.

        Args:
            contents: only these hashes.
        """
        return {sha256: word[:2] for sha256, word in self.words(contents).items()}

    def words(
        self, contents: sa.Select[tuple[str]] | None = None
    ) -> dict[str, tuple[bool, str, int]]:
        """The same with the id of the row that says so."""
        c = events.c
        asked = [c.sha256.in_(contents)] if contents is not None else []
        looked = (
            sa.select(c.upload_id, sa.func.max(c.sha256).label("sha256"))
            .where(self._mine(), c.kind == "transition", c.sha256 != "", *asked)
            .group_by(c.upload_id)
            .subquery()
        )
        taken_back = sa.and_(c.to_state == str(AvatarState.HELD), c.reason == UNDONE)
        said = sa.and_(c.tier.in_(("review", "operator")), c.to_state.in_(("approved", "blocked")))
        query = (
            sa.select(c.id, c.upload_id, looked.c.sha256, c.to_state, c.tier, c.decided_by)
            .join(looked, looked.c.upload_id == c.upload_id)
            .where(self._mine(), c.kind == "transition", sa.or_(said, taken_back))
            .order_by(c.id)
        )
        providers: dict[str, tuple[bool, str, int]] = {}
        # Of people one word each, the last one at the end, as `transition.lua` keeps them.
        operators: dict[str, dict[str, tuple[bool, str, int]]] = {}
        of_upload: dict[str, tuple[bool, str, int]] = {}
        with self.engine.connect() as connection:
            for row, upload_id, sha256, state, tier, who in connection.execute(query):
                word = (state == "blocked", who, row)
                words = operators.setdefault(sha256, {})
                if state == AvatarState.HELD:
                    gone = of_upload.pop(upload_id, None)
                    if gone and words.get(gone[1], gone)[0] == gone[0]:
                        words.pop(gone[1], None)
                elif tier == "operator":
                    words.pop(who, None)
                    words[who] = of_upload[upload_id] = word
                else:
                    providers[sha256] = word
        last = {sha256: [*words.values()][-1] for sha256, words in operators.items() if words}
        return providers | last

    def audit_labels(self) -> dict[str, tuple[bool, str]]:
        """What audits found of each content: sha256 -> (explicit, who said so)."""
        c = events.c
        query = (
            sa.select(c.sha256, c.to_state, c.decided_by)
            .where(self._mine(), c.kind == LABEL, c.to_state.in_(("harmless", "explicit")))
            .order_by(c.id)
        )
        with self.engine.connect() as connection:
            return {
                sha256: (label == "explicit", who)
                for sha256, label, who in connection.execute(query)
            }

    def audits(self, start: float, end: float) -> list[AuditAnswer]:
        """How the audits of a period ended, by when they ended.

        What a person decides about the content beats a provider's answer; it gives none where
        there was none, for what is decided without an audit is no fair sample.
        """
        c = events.c
        ended = [self._mine(), c.kind == LABEL, c.tier.in_(ALL_TIERS), c.at >= start, c.at < end]
        query = sa.select(c.sha256, c.to_state, c.probability, c.style).where(*ended)
        with self.engine.connect() as connection:
            rows = connection.execute(query).all()
        labels = self.labels(sa.select(c.sha256).where(*ended)) if rows else {}
        people = {sha256: said for sha256, said in labels.items() if _by_person(said)}
        found = []
        for sha256, label, probability, style in rows:
            if label != "unanswered" and sha256 in people:
                label = "explicit" if people[sha256][0] else "harmless"
            found.append(AuditAnswer(label, probability, style))
        return found

    def _mine(self) -> sa.ColumnElement[bool]:
        return events.c.namespace == self.namespace


def _by_person(said: tuple[bool, str]) -> bool:
    return said[1].startswith("operator")
