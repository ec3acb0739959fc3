"""Erases uploads: the picture, the safe copy, every trace in Redis, and names in the ledger.

What Redis holds goes in one step (see producer/record/forgetting.py), so that no worker can bring
it back. The rest follows at once; what cannot be done now, because a store or the ledger is away,
is noted and done by the workers, which also look again ten seconds and a quarter of an hour later
for what somebody wrote late. Only then is the id itself gone.

The ledger's rows stay as anonymous numbers, so that reports keep their counts. What a person
decided about a content stays under the hash of the content: it protects everybody and names nobody.
Nobody is called back: whoever asks for an upload to be forgotten knows.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import redis

from producer.contract import check_upload_id
from producer.errors import LedgerUnavailable, StorageUnavailable
from producer.images import Images, NotOurs
from producer.record.forgetting import LOOK_AGAIN_S, RETRY_S, Facts, Removed
from producer.record.store import Store
from producer.safe_copies import SafeCopies

log = logging.getLogger(__name__)

#: Uploads looked for again in one round.
PIECE = 100


class LedgerEraser(Protocol):
    """What is asked of the ledger; see worker/ledger/erase.py."""

    def known_of(self, upload_id: str) -> tuple[str, set[str]] | None:
        """Its image reference and the hashes of its content; None where no row names it."""

    def erase(self, upload_id: str, alias: str, *, before: float) -> int:
        """Take names out of its rows of before a time; returns of how many."""


@dataclasses.dataclass(frozen=True)
class Forgotten:
    """What came of one upload.

    Attributes:
        upload_id: which.
        removed: how much of what: record, picture, safe copy, callback, dead letter, verdict,
            event, activity, ledger row. Empty: nothing is left.
        kept: what is not ours to remove, in sentences.
        pending: what the workers will remove as soon as it can be done, in sentences.
    """

    upload_id: str
    removed: dict[str, int]
    kept: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return dataclasses.asdict(self)


@dataclasses.dataclass
class _Work:
    """One upload while it is being forgotten; `facts` is None where nothing is known of it."""

    upload_id: str
    facts: Facts | None
    removed: Removed = dataclasses.field(default_factory=collections.Counter)
    kept: list[str] = dataclasses.field(default_factory=list)
    pending: list[str] = dataclasses.field(default_factory=list)

    def do(self, what: str, step: Callable[[], int]) -> bool:
        """Do one step and count what it removed; whether nothing of it is left to do."""
        try:
            self.removed[what] += int(step())
        except NotOurs as error:
            self.kept.append(str(error))
        except (StorageUnavailable, LedgerUnavailable) as error:
            self.pending.append(f"{what}: {error}")
            log.warning("forgetting_waits", extra={"what": what, "why": str(error)[:200]})
            return False
        except redis.RedisError:
            raise
        except Exception as error:  # one upload must not keep all others from being forgotten
            self.pending.append(f"{what}: {type(error).__name__}")
            log.exception("forgetting_failed", extra={"what": what})
            return False
        return True

    def answer(self) -> Forgotten:
        """For whoever asked."""
        removed = {what: number for what, number in self.removed.items() if number}
        return Forgotten(self.upload_id, removed, tuple(self.kept), tuple(self.pending))


class Forgetter:
    """Forgets uploads. Safe to share between threads.

    Args:
        store: the records.
        images: where pictures lie.
        copies: where safe copies lie; None where none are made.
        ledger: opens the ledger; None while it cannot be had here.
        has_ledger: whether events are drained into a ledger at all.
    """

    def __init__(
        self,
        store: Store,
        images: Images,
        copies: SafeCopies | None,
        ledger: Callable[[], LedgerEraser | None],
        *,
        has_ledger: bool,
    ) -> None:
        self._store = store
        self._images = images
        self._copies = copies
        self._ledger = ledger
        self._has_ledger = has_ledger

    def uploads_of(self, subject: str) -> list[str]:
        """Ids of a person's uploads while their records are kept."""
        return self._store.subjects.uploads_of(subject)

    def look(self, upload_id: str) -> Forgotten:
        """What `forget` would find; changes nothing."""
        avatar, removed = self._store.forgetting.look(check_upload_id(upload_id))
        if self._in_ledger(upload_id):
            removed["ledger row"] += 1
        if avatar is not None:
            removed["picture"] += 1
        return Forgotten(upload_id, dict(removed))

    def forget(self, upload_ids: Iterable[str], *, by: str, address: str = "") -> list[Forgotten]:
        """Erase uploads; a second time nothing is left, which is no error.

        Args:
            upload_ids: which.
            by: who asks; noted beside a keyed hash of each id.
            address: where from.

        Returns:
            What came of each, in order.

        Raises:
            InvalidUpload: no upload can have this id.
            redis.RedisError: Redis did not answer; whether anything was removed is not known.
        """
        works = [self._take(check_upload_id(upload_id)) for upload_id in upload_ids]
        known = [work for work in works if work.facts is not None]
        self._clear(known)
        for work in known:
            self._note(work, LOOK_AGAIN_S[0])
            self._store.events.audit(
                by=by,
                action="forget",
                item=f"~{self._store.subjects.hashed(work.upload_id)}",
                outcome=in_words(work.removed) or "nothing was left",
                address=address,
            )
        return [work.answer() for work in works]

    def look_again(self) -> int:
        """Remove what is left of forgotten uploads that are due; returns how many were done with.

        Raises:
            redis.RedisError: Redis did not answer; they stay due.
        """
        forgetting = self._store.forgetting
        works = [_Work(one, forgetting.noted(one)) for one in forgetting.due(PIECE)]
        self._clear([work for work in works if work.facts is not None], looks_again=True)
        done = 0
        for work in works:
            looks = work.facts.looks + 1 if work.facts is not None else len(LOOK_AGAIN_S)
            if work.pending:
                self._note(work, RETRY_S)
            elif looks < len(LOOK_AGAIN_S):
                assert work.facts is not None
                work.facts = dataclasses.replace(work.facts, looks=looks)
                self._note(work, LOOK_AGAIN_S[looks])
            else:
                forgetting.end(work.upload_id)
                done += 1
        return done

    def _take(self, upload_id: str) -> _Work:
        """Out of Redis; without facts where nothing is known of it."""
        forgetting = self._store.forgetting
        avatar, traces = forgetting.look(upload_id)
        known, noted = self._in_ledger(upload_id), forgetting.noted(upload_id)
        if avatar is None and not traces and known is None and noted is None:
            return _Work(upload_id, None)
        image, hashes = known or ("", set())
        removed, facts = forgetting.take(upload_id, image, hashes)
        return _Work(upload_id, facts, removed)

    def _note(self, work: _Work, again_s: float) -> None:
        assert work.facts is not None
        again_s = RETRY_S if work.pending else again_s
        self._store.forgetting.note(work.upload_id, work.facts, again_s=again_s)

    # -- what lies outside of the record -------------------------------------------------------

    def _clear(self, works: Sequence[_Work], *, looks_again: bool = False) -> None:
        """Remove what is not in the record; what fails stops nothing else and stays noted."""
        for work in works:
            self._clear_one(work, looks_again)
        hashes = {one for work in works if work.facts for one in work.facts.hashes}
        dropped = self._store.forgetting.drop_verdicts(hashes)
        for work in works:
            for one in work.facts.hashes if work.facts else ():
                work.removed["verdict"] += dropped.pop(one, 0)

    def _clear_one(self, work: _Work, looks_again: bool) -> None:
        """The id may be in use again: then what is newer, and what has its name, is not ours."""
        upload_id, facts = work.upload_id, work.facts
        assert facts is not None
        avatar = self._store.get(upload_id)
        before = self._store.now() if avatar is None else avatar.created_at
        forgetting = self._store.forgetting
        work.do("activity", lambda: forgetting.drop_audit(upload_id, before))
        forgetting.drop_changes(upload_id, before)
        for content in facts.hashes:
            self._store.memory.disown(content, upload_id)
            forgetting.unname(content, upload_id)
        is_free = avatar is None or avatar.image != facts.image
        if facts.has_picture and is_free:
            done = work.do("picture", lambda: self._images.remove_of(facts.image, upload_id))
            work.facts = dataclasses.replace(facts, has_picture=not done)
        if avatar is None:
            work.do("safe copy", lambda: self._remove_copy(upload_id, facts))
        if self._has_ledger:
            work.do("ledger row", lambda: self._erase(upload_id, facts, before, looks_again))
        else:
            work.do("event", lambda: forgetting.drop_events(upload_id, before))

    def _erase(self, upload_id: str, facts: Facts, before: float, looks_again: bool) -> int:
        ledger = self._ledger()
        if ledger is None:
            raise LedgerUnavailable("the ledger cannot be reached from here")
        count = ledger.erase(upload_id, facts.alias, before=before)
        oldest = self._store.events.first(1)
        if looks_again and oldest and float(oldest[0][1]["at"]) < facts.at:
            raise LedgerUnavailable("events are still on their way to the ledger")
        return count

    def _remove_copy(self, upload_id: str, facts: Facts) -> int:
        if self._copies is None:
            if facts.copy:
                raise NotOurs(f"the safe copy {facts.copy}: AVATARMOD_SAFE_COPIES is not set here")
            return 0
        gone = self._copies.remove(upload_id)
        self._store.copies.forget(upload_id)
        return int(gone)

    def _in_ledger(self, upload_id: str) -> tuple[str, set[str]] | None:
        try:
            ledger = self._ledger() if self._has_ledger else None
            return ledger.known_of(upload_id) if ledger is not None else None
        except LedgerUnavailable:
            return None


def in_words(removed: Mapping[str, int]) -> str:
    """Numbers as people read them: `record, 2 callbacks, 5 ledger rows`."""
    return ", ".join(_counted(what, number) for what, number in removed.items() if number)


def _counted(what: str, number: int) -> str:
    many = {"safe copy": "safe copies", "activity": "entries of activity"}.get(what, f"{what}s")
    one = {"activity": "entry of activity"}.get(what, what)
    return f"{number} {many}" if number != 1 else one if what == "record" else f"1 {one}"
