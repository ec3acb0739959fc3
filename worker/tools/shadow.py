"""A second bundle or policy looks at the same uploads and decides nothing: what would it have said?

Follows the ledger instead of standing in the moderating loop, so the live path neither waits for it
nor knows of it, and it can be pointed at last week as well. Each look is one event of kind
`shadow`: `from` is the live verdict, `to` what the shadow would have said.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from producer.contract import Region, Verdict
from producer.errors import InvalidInput, ModerationError
from producer.record.store import Store
from producer.whole_files import write_whole
from worker.ledger.queries import LedgerReads
from worker.moderation.policy import Policy
from worker.tools.scoring import Scorer

log = structlog.get_logger()

#: First looks read from the ledger at a time.
PIECE = 200

#: Live states and the verdict that they stand for.
VERDICTS = {
    "approved": Verdict.APPROVED,
    "blocked": Verdict.BLOCKED,
    "reviewing": Verdict.GRAY,
    "held": Verdict.GRAY,
}


class Shadow:
    """One bundle with one policy, following one ledger.

    Args:
        ledger: what the live model decided.
        store: where the looks are noted; the ledger drains them.
        fetch: image reference and upload id to bytes.
        scorer: the shadow's bundle.
        policy: the shadow's rules.
        share: part of the uploads that is looked at, 0..1; the same content always or never.
        position_file: remembers the last row, so that a restart goes on there.
    """

    def __init__(
        self,
        *,
        ledger: LedgerReads,
        store: Store,
        fetch: Callable[[str, str], bytes],
        scorer: Scorer,
        policy: Policy,
        share: float,
        position_file: Path,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._fetch = fetch
        self._scorer = scorer
        self._policy = policy
        self._share = share
        self._position_file = position_file
        self.looked = 0
        self.gone = 0

    def step(self) -> int:
        """Follow up to `PIECE` first looks; returns how many rows were read."""
        rows = self._ledger.judged_after(self._position(), PIECE)
        for row in rows:
            if is_sampled(row["sha256"], self._share):
                self._look(row)
        if rows:
            self._remember(rows[-1]["id"])
        return len(rows)

    def skip_to_now(self) -> None:
        """Begin with what is decided from now on, unless a position is remembered."""
        if not self._position_file.exists():
            self._remember(self._ledger.last_id())

    def _look(self, row: dict[str, Any]) -> None:
        upload_id = row["upload_id"]
        region = Region(row["region"] or "domestic")
        try:
            data = self._fetch(self._ledger.image_of(upload_id), upload_id)
            _, judgement = self._scorer.look(data, self._policy, region)
        except ModerationError as error:
            self.gone += 1
            # Refused: no longer where it was, or another decoder's limits by now.
            if not isinstance(error, InvalidInput):
                log.warning("shadow_skipped", upload_id=upload_id, error=type(error).__name__)
            return
        fields = self._scorer.fields(judgement, self._policy)
        verdict = fields.pop("state")
        detail = {
            **fields,
            "bundle": self._scorer.bundle.id,
            "sha256": row["sha256"],
            "live_probability": row["probability"],
        }
        live = VERDICTS.get(row["to_state"], Verdict.GRAY)
        self._store.events.note("shadow", upload_id, row["seq"], verdict, detail, from_=live.value)
        self.looked += 1

    def _position(self) -> int:
        try:
            return int(self._position_file.read_text())
        except (OSError, ValueError):
            return 0

    def _remember(self, position: int) -> None:
        self._position_file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._position_file, str(position).encode(), 0o644)


def is_sampled(sha256: str, share: float) -> bool:
    """Whether content belongs to a sample; by its hash, so every process agrees."""
    return int(sha256[:8] or "0", 16) < share * 0x1_0000_0000
