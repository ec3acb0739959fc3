"""Every trace of one upload in Redis, and its removal; `Store.forgetting`.

One step removes the record and all that hangs on it, so that a worker which still has the upload in
its hands finds neither its lease nor its record and changes nothing. The same step notes what lies
elsewhere (the picture, the safe copy, the ledger's rows): producer/forget.py removes that at once
and once more when every worker has let go, for one may have written late.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import re
import secrets
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import cast

from producer.contract import Avatar, Stage
from producer.findings import LooksLike
from producer.record.base import Base
from producer.record.events import Entry
from producer.record.keyspace import ALL_LANES, OPEN_STATES, callback_line, review_key
from producer.record.outbox import Outbox
from producer.record.records import Records

#: Seconds after which traces are looked for again: what was on its way to the ledger then, and what
#: a worker wrote that held the upload all the while.
LOOK_AGAIN_S = (10.0, 900.0)

#: Seconds until the next try while a store or the ledger is away.
RETRY_S = 60.0

#: Callbacks of one upload that are looked for, the newest.
MAX_CALLBACKS = 1000

#: Stages that an upload itself waits for.
STAGES = tuple(stage for stage in Stage if stage != Stage.CALLBACK)

#: How often a removal is tried again when a worker changes the record at the same moment.
TRIES = 20

#: Keys and events read in one round trip.
PAGE = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What of an upload lies outside of its record.

    Attributes:
        at: when it was forgotten, seconds since the epoch.
        has_picture: whether its picture is still to be removed.
        image: where that is, as in the record.
        copy: name of its safe copy; empty where there is none.
        hashes: of its content, and of what providers saw of it.
        alias: stands for its id in the ledger's rows from now on; drawn, never derived.
        looks: how often traces were looked for again.
    """

    at: float
    has_picture: bool = True
    image: str = ""
    copy: str = ""
    hashes: tuple[str, ...] = ()
    alias: str = dataclasses.field(default_factory=lambda: f"~{secrets.token_hex(8)}")
    looks: int = 0

    def to_json(self) -> str:
        """As Redis keeps it."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Facts:
        """Read what `to_json` wrote."""
        found = json.loads(text)
        return cls(**{**found, "hashes": tuple(found["hashes"])})


@dataclasses.dataclass(frozen=True)
class Removal:
    """One command that removes something: what it is to people, where, and which member."""

    what: str
    command: str
    key: str
    member: str = ""


#: Removing command -> the one that only looks.
LOOKS = {"DEL": "EXISTS", "ZREM": "ZSCORE", "HDEL": "HEXISTS", "SREM": "SISMEMBER"}

Removed = collections.Counter[str]


class Forgetting:
    """Finds and removes the traces of uploads. Safe to share between threads."""

    def __init__(self, base: Base, outbox: Outbox) -> None:
        self._base = base
        self._redis = base.redis
        self._keys = base.keys
        # Not the store itself: it holds us.
        self._records = Records()
        self._records.base = base
        self._outbox = outbox

    # -- one upload ----------------------------------------------------------------------------

    def look(self, upload_id: str) -> tuple[Avatar | None, Removed]:
        """The record, and how many traces of each kind there are; changes nothing."""
        avatar = self._records.get(upload_id)
        removals = list(self._removals(upload_id, avatar))
        pipe = self._redis.pipeline(transaction=False)
        for one in removals:
            pipe.execute_command(  # type: ignore[no-untyped-call]
                LOOKS[one.command], one.key, *([one.member] if one.member else [])
            )
        return avatar, _counted(removals, map(_is_there, pipe.execute()))

    def take(self, upload_id: str, image: str, hashes: Iterable[str]) -> tuple[Removed, Facts]:
        """Remove every trace in Redis and note what lies elsewhere.

        Args:
            upload_id: what is forgotten.
            image: where its picture is, if no record says so.
            hashes: of its content, as far as they are known from elsewhere.

        Returns:
            How much was removed, by kind, and what is noted.
        """
        for _ in range(TRIES):
            avatar = self._records.get(upload_id)
            facts = self._facts(upload_id, avatar, image, hashes)
            removals = list(self._removals(upload_id, avatar))
            if (counts := self._remove(upload_id, avatar, facts, removals)) is not None:
                return _counted(removals, counts), facts
        raise RuntimeError(f"{upload_id!r} changes faster than it can be forgotten; try again")

    def _facts(
        self, upload_id: str, avatar: Avatar | None, image: str, hashes: Iterable[str]
    ) -> Facts:
        known = set(hashes)
        if avatar is not None and avatar.sha256:
            known |= {avatar.sha256, avatar.shown_sha256}
        earlier = self.noted(upload_id)
        facts = Facts(at=self._base.now(), image=image, hashes=tuple(sorted(known)))
        if earlier is not None:
            facts = dataclasses.replace(facts, alias=earlier.alias)
            if avatar is None:
                merged = tuple(sorted(known | set(earlier.hashes)))
                return dataclasses.replace(earlier, at=facts.at, hashes=merged, looks=0)
        if avatar is None:
            return facts
        copy = avatar.safe_copy.name if avatar.safe_copy else ""
        return dataclasses.replace(facts, image=avatar.image, copy=copy)

    def _remove(
        self, upload_id: str, avatar: Avatar | None, facts: Facts, removals: Sequence[Removal]
    ) -> list[int] | None:
        """What each removal removed, or None when the record is another by now."""
        record = self._keys.avatar(upload_id)
        seq, created_at = self._redis.hmget(record, "seq", "created_at") if avatar else ("", "")
        if avatar is not None and seq != str(avatar.seq):
            return None
        keys = list(dict.fromkeys(one.key for one in removals))
        number = {key: place for place, key in enumerate(keys, start=5)}
        answer = self._base.run(
            "forget",
            [
                record,
                self._keys.forgotten,
                self._keys.forgotten_facts,
                self._keys.data_set,
                *keys,
            ],
            id=upload_id,
            seq=seq or "",
            created_at=created_at or "",
            facts=facts.to_json(),
            again_s=LOOK_AGAIN_S[0],
            removals=[
                [one.command, number[one.key], *([one.member] if one.member else [])]
                for one in removals
            ],
        )
        return [int(count) for count in answer[1:]] if int(answer[0]) else None

    def _removals(self, upload_id: str, avatar: Avatar | None) -> Iterator[Removal]:
        keys = self._keys
        yield Removal("record", "DEL", keys.avatar(upload_id))
        for state in OPEN_STATES:
            yield Removal("index", "ZREM", keys.open(state), upload_id)
        for index in (
            keys.copies,
            keys.audits,
            keys.audits_explicit,
            keys.claims_until,
            keys.memory_wanted,
            keys.appeals,
        ):
            yield Removal("index", "ZREM", index, upload_id)
        if avatar is not None and avatar.looks_like is not None:
            like = f"{avatar.looks_like.sha256} {upload_id}"
            yield Removal("index", "ZREM", keys.memory_met, like)
            alike = keys.memory_alike(avatar.looks_like.sha256)
            yield Removal("index", "SREM", alike, upload_id)
        yield Removal("index", "HDEL", keys.claims, upload_id)
        if avatar is not None and avatar.subject:
            yield Removal("index", "SREM", keys.subject(avatar.subject), upload_id)
            yield Removal("index", "SREM", keys.blocked(avatar.subject), upload_id)
            yield Removal("index", "ZREM", keys.subjects, f"{avatar.subject} {upload_id}")
        if avatar is not None and avatar.sha256:
            for which in ("waiting", "decided"):
                yield Removal("index", "SREM", keys.same(avatar.sha256, which), upload_id)
        for stage in STAGES:
            yield from self._line(stage, upload_id)
        yield Removal("dead letter", "ZREM", keys.dead, upload_id)
        yield Removal("index", "DEL", keys.letter(upload_id))
        items = self._callback_items(upload_id, avatar)
        for item, entry in zip(items, self._outbox.get_many(items), strict=True):
            yield Removal("callback", "DEL", keys.callback(item))
            yield Removal("dead letter", "ZREM", keys.dead, item)
            yield Removal("index", "DEL", keys.letter(item))
            if entry is not None:
                yield from self._line(callback_line(entry.endpoint), item)

    def _line(self, line: str, item: str) -> Iterator[Removal]:
        for lane in ALL_LANES:
            yield Removal("index", "ZREM", self._keys.due(line, lane), item)
        yield Removal("index", "ZREM", self._keys.lease(line), item)
        yield Removal("index", "HDEL", self._keys.holder(line), item)
        yield Removal("index", "HDEL", self._keys.crashes(line), item)

    def _callback_items(self, upload_id: str, avatar: Avatar | None) -> list[str]:
        """Items whose callbacks or letters may exist; a record that is gone leaves letters only."""
        items = {
            str(item)
            for item, _ in self._redis.zscan_iter(
                self._keys.dead, match=f"{_literal(upload_id)}#*", count=PAGE
            )
        }
        last = avatar.seq if avatar is not None else 0
        first = max(1, last - MAX_CALLBACKS + 1)
        return sorted(items | {f"{upload_id}#{seq}" for seq in range(first, last + 1)})

    # -- what is not the upload's alone --------------------------------------------------------

    def drop_verdicts(self, hashes: Collection[str]) -> Removed:
        """Forget what models and providers said of contents; returns how much by hash.

        What a person decided about a content stays: it protects everybody else and names nobody.
        """
        if not hashes:
            return collections.Counter()
        prefix = self._keys.verdict("")
        some = f"{next(iter(hashes))}:*" if len(hashes) == 1 else "*"
        found = map(str, self._redis.scan_iter(match=f"{_literal(prefix)}{some}", count=PAGE))
        gone = {key: key.removeprefix(prefix).partition(":")[0] for key in found}
        for one in hashes:
            gone |= dict.fromkeys(
                (review_key(self._keys.prefix, "opinions", one), self._keys.doubted(one)), one
            )
        removed: Removed = collections.Counter()
        for key, one in gone.items():
            if one in hashes:
                removed[one] += int(self._redis.delete(key))
        return removed

    def drop_events(self, upload_id: str, before: float) -> int:
        """Remove an upload's events of before a time, where no ledger drains them."""
        return self._drop(self._keys.events, "upload_id", upload_id, before)

    def drop_audit(self, upload_id: str, before: float) -> int:
        """Remove what people did to an upload before a time from the page of activity."""
        return self._drop(self._keys.audit, "item", upload_id, before)

    def drop_changes(self, upload_id: str, before: float) -> int:
        """Take an upload's changes of before a time out of the list that web tiers read."""
        return self._drop(self._keys.changes, "id", upload_id, before)

    def unname(self, content: str, upload_id: str) -> None:
        """Let records of what looked like a content no longer name an upload that had it."""
        for other in cast("set[str]", self._redis.smembers(self._keys.memory_alike(content))):
            record = self._keys.avatar(other)
            text = cast("str | None", self._redis.hget(record, "looks_like"))
            like = LooksLike.from_json(text) if text else None
            if like is not None and like.upload_id == upload_id:
                named = dataclasses.replace(like, upload_id="").to_json()
                self._base.run("unname", [record], was=text, now=named)

    def _drop(self, stream: str, field: str, upload_id: str, before: float) -> int:
        removed, start, end = 0, "-", f"({int(before * 1000)}"
        while entries := cast("list[Entry]", self._redis.xrange(stream, start, end, count=PAGE)):
            gone = [
                stream_id
                for stream_id, fields in entries
                if fields and fields.get(field, "").partition("#")[0] == upload_id
            ]
            removed += int(self._redis.xdel(stream, *gone)) if gone else 0
            start = f"({entries[-1][0]}"
        return removed

    # -- looking again -------------------------------------------------------------------------

    def noted(self, upload_id: str) -> Facts | None:
        """What is noted of an upload that is being forgotten."""
        text = cast("str | None", self._redis.hget(self._keys.forgotten_facts, upload_id))
        return Facts.from_json(text) if text else None

    def due(self, limit: int) -> list[str]:
        """Up to `limit` uploads whose traces are to be looked for now."""
        now = self._base.now()
        found = self._redis.zrangebyscore(self._keys.forgotten, "-inf", now, start=0, num=limit)
        return [str(upload_id) for upload_id in cast("list[str]", found)]

    def note(self, upload_id: str, facts: Facts, *, again_s: float) -> None:
        """Keep what is left to do, and when."""
        pipe = self._redis.pipeline()
        pipe.hset(self._keys.forgotten_facts, upload_id, facts.to_json())
        pipe.zadd(self._keys.forgotten, {upload_id: self._base.now() + again_s})
        pipe.execute()

    def end(self, upload_id: str) -> None:
        """Nothing is left to do: its id is nowhere now."""
        pipe = self._redis.pipeline()
        pipe.hdel(self._keys.forgotten_facts, upload_id)
        pipe.zrem(self._keys.forgotten, upload_id)
        pipe.execute()


def _counted(removals: Sequence[Removal], counts: Iterable[int]) -> Removed:
    """Numbers by kind; entries of indexes, which say nothing to people, are left out."""
    found: Removed = collections.Counter()
    for one, count in zip(removals, counts, strict=True):
        if one.what != "index" and count:
            found[one.what] += int(count)
    return found


def _is_there(answer: object) -> bool:
    """What a looking command says; a score of 0 is one."""
    return answer is not None and not (isinstance(answer, int) and answer == 0)


def _literal(text: str) -> str:
    """A text that a pattern of Redis takes as it is."""
    return re.sub(r"([\[\]?*^\\])", r"\\\1", text)
