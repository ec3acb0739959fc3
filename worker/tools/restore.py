"""Brings back into Redis what it lost and the ledger still knows.

People's decisions first, so that whatever is decided next obeys them, and the memory of what the
pictures showed; then opinions that were paid for; then uploads: open ones are judged anew or held
again, and verdicts that nobody was told of are told.
Everything is safe to repeat and beside live traffic: what is in Redis by now is left as it is.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from producer.contract import FINAL_STATES, NO_CALLBACK, Avatar, AvatarState, Priority, Region
from producer.errors import InvalidUpload, UnknownUpload
from producer.findings import LooksLike, Opinion, Seen
from producer.record.decisions import Decisions
from producer.record.memory import Remembered
from producer.record.store import Store
from worker.ledger.last_words import LastWord, LastWords
from worker.ledger.queries import LedgerReads

#: Keeps a paid opinion: (sha256, where it is kept, opinion, dry run) -> whether it was missing.
KeepOpinion = Callable[[str, str, Opinion, bool], bool]

#: Fields of a record that the ledger's details tell, beside the places of their own.
_FIELDS = (
    *("sha256", "style", "bundle", "second_bundle", "policy", "decided_by", "reason"),
    *("background", "tried", "block_reason", "note", "appeal", "appealed_from"),
)
_PARTS = {"looks_like": LooksLike.from_json, "decided_on": Seen.from_json}
_NUMBERS = ("raw_score", "probability", "second_raw", "second_probability")


@dataclasses.dataclass
class Restored:
    """What came of it; `lost` are uploads that only the web tier can bring: (id, why)."""

    uploads: Counter[str] = dataclasses.field(default_factory=Counter)
    decisions: Counter[str] = dataclasses.field(default_factory=Counter)
    memory: Counter[str] = dataclasses.field(default_factory=Counter)
    opinions: Counter[str] = dataclasses.field(default_factory=Counter)
    blocked_again: list[str] = dataclasses.field(default_factory=list)
    lost: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "uploads": dict(self.uploads),
            "decisions": dict(self.decisions),
            "memory": dict(self.memory),
            "opinions": dict(self.opinions),
            "blocked_again": self.blocked_again,
            "lost": [{"upload_id": upload_id, "why": why} for upload_id, why in self.lost],
        }


def find_open(store: Store, ledger: LedgerReads) -> Iterator[LastWord]:
    """Uploads that are not over by the ledger's last word, and of which Redis knows nothing."""
    words = LastWords(ledger, since=store.now() - store.record_ttl_s)
    for page in words.pages():
        known = zip(page, store.get_many(page), strict=True)
        for word in words.of([upload_id for upload_id, avatar in known if avatar is None]):
            if word.row["to_state"] not in FINAL_STATES or not word.is_told:
                yield word


class Restore:
    """One run over the ledger.

    Args:
        store: what is filled.
        ledger: what is known; drained before.
        keep_opinion: puts paid opinions back.
        dry_run: count, change nothing.
    """

    def __init__(
        self, store: Store, ledger: LedgerReads, keep_opinion: KeepOpinion, *, dry_run: bool
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._keep_opinion = keep_opinion
        self._dry_run = dry_run
        self._ttl_s = store.record_ttl_s
        self.done = Restored()

    def run(self) -> Iterator[str]:
        """Do everything; yields after each thing that was done, so that the caller may show it."""
        remembered, taken_out = LastWords(self._ledger, since=0.0).memory()
        yield from self._decisions(taken_out)
        yield from self._memory(remembered)
        yield from self._opinions()
        for word in find_open(self._store, self._ledger):
            self._upload(word)
            yield "upload"

    def _decisions(self, taken_out: Mapping[str, int]) -> Iterator[str]:
        blocks: dict[str, tuple[str, int]] = {}
        for sha256, (is_blocked, who, row) in self._ledger.words().items():
            kind, _, name = who.partition(":")
            if kind != "operator" or taken_out.get(sha256, 0) > row:
                continue
            state = AvatarState.BLOCKED if is_blocked else AvatarState.APPROVED
            said = {"state": str(state), "reason": "overruled", "decided_by": who}
            self.done.decisions[self._keep_decision(sha256, said)] += 1
            if is_blocked:
                blocks[sha256] = name, row
            yield "decision"
        yield from self._block_again(blocks)

    def _keep_decision(self, sha256: str, said: dict[str, str]) -> str:
        if self._dry_run:
            return "known" if self._store.overruled(sha256) else "restored"
        return "restored" if self._store.overrule_anew(sha256, said) else "known"

    def _block_again(self, blocks: dict[str, tuple[str, int]]) -> Iterator[str]:
        """What came back approved while the decision was forgotten.

        Not what was approved before it: whoever decided left that as it was.
        """
        data_set = self._store.data_sets.look()
        if data_set is None or not blocks:
            return
        words = LastWords(self._ledger, since=0.0)
        decisions = Decisions(self._store)
        rows = {sha256: row for sha256, (_, row) in blocks.items()}
        for upload_id, sha256 in words.approved_since(data_set.born, rows).items():
            avatar = self._store.get(upload_id)
            if avatar is None or (avatar.state, avatar.sha256) != (AvatarState.APPROVED, sha256):
                continue
            self.done.blocked_again.append(upload_id)
            if not self._dry_run:
                by, seen = blocks[sha256][0], Seen(sha256=sha256)
                try:
                    decisions.decide(upload_id, "blocked", by=by, seen=seen)
                except (UnknownUpload, InvalidUpload):
                    continue  # it changed in this moment
            yield "upload"

    def _memory(self, remembered: Mapping[str, dict[str, Any]]) -> Iterator[str]:
        """By what pictures that were decided, and lists, are found again."""
        for key, row in remembered.items():
            is_known = self._store.memory.get(key) is not None
            self.done.memory["known" if is_known else "restored"] += 1
            if not is_known and not self._dry_run:
                self._store.memory.restore(Remembered.from_event(row))
            yield "memory"

    def _opinions(self) -> Iterator[str]:
        for row in LastWords(self._ledger, since=self._store.now() - self._ttl_s).opinions():
            for said in row["detail"]["opinions"]:
                opinion = dataclasses.replace(Opinion.from_dict(said), raw=None)
                place = row["sha256"], row["detail"]["file"]
                is_new = self._keep_opinion(*place, opinion, self._dry_run)
                self.done.opinions["restored" if is_new else "known"] += 1
            yield "opinion"

    def _upload(self, word: LastWord) -> None:
        if word.accepted.get("image_has_secret"):
            why = "its picture's address held a secret, which the ledger does not keep"
            self.done.lost.append((word.upload_id, why))
            return
        avatar = self._record_of(word)
        if not self._dry_run and not self._store.restore(
            avatar,
            after_seq=int(word.row["seq"]),
            detail={**word.seen, **word.accepted, "restored_from": word.row["to_state"]},
        ):
            self.done.uploads["known by now"] += 1
            return
        self.done.uploads[str(avatar.state)] += 1
        if word.accepted.get("callback_url_has_secret"):
            why = "restored, but nobody hears of it: its callback address held a secret"
            self.done.lost.append((word.upload_id, why))

    def _record_of(self, word: LastWord) -> Avatar:
        """As it shall stand: what a machine had in hands is judged anew."""
        state = AvatarState(word.row["to_state"])
        if state == AvatarState.APPROVED and self._store.copies.are_promised():
            state = AvatarState.QUEUED  # its safe copy went with the record
        if state not in FINAL_STATES and state != AvatarState.HELD:
            state = AvatarState.QUEUED
        accepted, seen = word.accepted, word.seen
        address = NO_CALLBACK if accepted.get("callback_url_has_secret") else ""
        fields: dict[str, Any] = {}
        if state != AvatarState.QUEUED:
            fields = {name: str(seen[name]) for name in _FIELDS if seen.get(name)}
            fields |= {n: float(seen[n]) for n in _NUMBERS if seen.get(n) not in (None, "")}
            fields |= {n: read(seen[n]) for n, read in _PARTS.items() if seen.get(n)}
        return Avatar(
            upload_id=word.upload_id,
            state=state,
            seq=0,
            image=str(accepted.get("image", "")),
            region=Region(accepted.get("region") or word.row["region"] or Region.DOMESTIC),
            priority=Priority(accepted.get("priority", Priority.NORMAL)),
            callback_url=str(accepted.get("callback_url", address)),
            created_at=float(word.row["created_at"] or word.row["at"]),
            **fields,
        )
