"""What the console does with the policy: try other cut-offs, apply them, go back.

What other cut-offs would do is `what_if`'s answer about the newest first looks in the ledger; what
is applied goes through `PolicyFile`, as `avatarmod policy` does.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from typing import Protocol

from producer.contract import Region
from producer.errors import PolicyError
from worker.ledger.queries import LedgerReads
from worker.moderation.policy import CutOffs, Policy, parse_policy
from worker.moderation.policy_file import MAX_NOTE, Change, PolicyFile, PolicyInUse
from worker.settings import WorkerSettings
from worker.tools.what_if import WhatIf, what_if

#: First looks that are judged again, the newest; they take about 0.3 s.
JUDGED_AGAIN = 3_000

#: Changed pictures that are kept one by one.
MOST_CHANGES = 2_000

#: In the data folder: what `avatarmod tune --propose` found.
PROPOSAL_FILE = "policy.proposed.toml"


class Numbers(Protocol):
    """A pair of cut-offs, of whichever side."""

    @property
    def approve_below(self) -> float:
        """0..1."""

    @property
    def block_from(self) -> float:
        """0..1."""


class Policies:
    """The policy of one region, for people. Safe to share between threads.

    Args:
        settings: where it lies.
        ledger: opens the ledger, or None where there is none.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        ledger: Callable[[], LedgerReads | None],
        now: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._now = now
        self._file = PolicyFile(settings)
        self._in_use = PolicyInUse(settings)
        self._proposal = settings.data_folder / PROPOSAL_FILE
        self._region = settings.default_region

    def in_use(self) -> Policy:
        """What this machine judges by."""
        return self._in_use.get()

    def cut_offs(self, region: Region) -> tuple[CutOffs, CutOffs]:
        """(photo, drawn) for a region."""
        return self.in_use().cut_offs(region)

    @property
    def version(self) -> str:
        """Of what is in use."""
        return self.in_use().version

    @property
    def place(self) -> str:
        """The file."""
        return str(self._file.path)

    def problem(self) -> str:
        """Why this process cannot change it; empty where it can."""
        return self._file.problem()

    def proposal(self) -> tuple[tuple[CutOffs, CutOffs], Sequence[str]] | None:
        """(photo, drawn) that `tune` proposed, and its words; None where it did not."""
        try:
            text = self._proposal.read_text(encoding="utf-8")
            found = parse_policy(tomllib.loads(text), str(self._proposal))
        except (OSError, tomllib.TOMLDecodeError, PolicyError):
            return None
        words = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
        return found.cut_offs(self._region), words

    def history(self) -> list[Change]:
        """Every state that is known, the present one first."""
        return self._file.history()

    def judge_again(self, days: float, photo: Numbers, drawn: Numbers) -> WhatIf:
        """The newest first looks of some days by the present policy and by other cut-offs.

        What cannot be judged again without its picture is counted as unknown.
        """
        newest, ledger = [], self._ledger()
        if ledger is not None:
            # An upload has three to five events in the ledger.
            after = max(0, ledger.last_id() - 5 * JUDGED_AGAIN)
            since = self._now() - days * 86400
            newest = [row for row in ledger.judged_after(after, JUDGED_AGAIN) if row["at"] >= since]
        present = self.in_use()
        other = present.with_cut_offs(self._region, _own(photo), _own(drawn))
        return what_if(newest, {}, present, other, lambda _row: None, most_changes=MOST_CHANGES)

    def apply(self, photo: Numbers, drawn: Numbers, *, by: str, note: str) -> Change:
        """Put other cut-offs in force; all other rules of the file stay.

        Raises:
            PolicyError: they cannot be, or the file cannot be written; nothing was changed.
        """
        policy = self._file.policy().with_cut_offs(self._region, _own(photo), _own(drawn))
        text = policy.to_toml([f"Set in the console by {by}.", *note[:MAX_NOTE].splitlines()])
        return self._file.apply(text, by=by, note=note)

    def roll_back(self, *, by: str, note: str) -> Change:
        """Go back to what held before the last change.

        Raises:
            PolicyError: nothing was changed before, or the file cannot be written.
        """
        return self._file.roll_back(by=by, note=note)


def _own(numbers: Numbers) -> CutOffs:
    return CutOffs(approve_below=numbers.approve_below, block_from=numbers.block_from)
