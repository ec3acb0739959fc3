"""What was decided of pictures, by what they show; `Store.memory`.

One entry a content that a person approved or blocked, or that a review provider found explicit; and
one for each hash of a list. An entry carries prints: perceptual hashes (PDQ, 32 bytes each), and a
hash of the decoded pixels. Entries are written in the same atomic step as the decision. Workers
make the prints, and read the log to find look-alikes; see docs/memory.md.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

from producer.contract import Avatar, AvatarState, Stage
from producer.findings import LooksLike
from producer.record.base import Base, Step

#: A hash that met more different contents which people then approved says nothing any more.
MOST_CLEARED = 3

#: Bytes of one perceptual hash.
PRINT_BYTES = 32

#: What a hash of a list may be labelled.
LABELS = ("blocked", "harmless")

#: What the ledger says of an entry that is no more.
FORGOTTEN = "forgotten"

#: Who forgot it where nobody did: its time was over. What was decided of the bytes goes on.
RETENTION = "retention"

#: Key of an entry that came from a list, before its hash.
LISTED = "list:"

#: Entries read or written in one round trip.
PAGE = 500

#: Seconds until a picture that could not be printed is tried again.
AGAIN_S = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prints:
    """By what a content is found again: `pixels` in hex, and perceptual hashes."""

    pixels: str = ""
    hashes: tuple[bytes, ...] = ()

    def to_json(self) -> str:
        """As Redis keeps it."""
        joined = base64.b64encode(b"".join(self.hashes)).decode()
        return json.dumps({"pixels": self.pixels, "prints": joined})

    @classmethod
    def from_json(cls, text: str) -> Prints:
        """Read what `to_json` wrote; nothing where there is nothing."""
        said = json.loads(text or "{}")
        joined = base64.b64decode(said.get("prints", ""))
        starts = range(0, len(joined), PRINT_BYTES)
        return cls(
            pixels=said.get("pixels", ""),
            hashes=tuple(joined[at : at + PRINT_BYTES] for at in starts),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remembered:
    """One entry.

    Attributes:
        id: place in the log; a changed entry gets a new one.
        key: sha256 of the content, or `list:` and the hash of a list.
        state: `approved`, `blocked`, or `harmless` of a list.
        by: who said so, as in records; `list` for a list.
        upload_id: of the upload that was decided.
        note: of a list.
        prints: by what it is found again.
    """

    id: str
    key: str
    state: str
    by: str
    upload_id: str
    note: str
    prints: Prints

    @classmethod
    def from_event(cls, row: dict[str, Any]) -> Remembered:
        """As a row of the ledger tells it; one that no longer names its upload has none."""
        detail, upload_id = row["detail"], str(row["upload_id"])
        return cls(
            id="",
            key=str(detail["sha256"]),
            state=str(row["to_state"]),
            by=str(detail["decided_by"]),
            upload_id="" if upload_id.startswith("~") else upload_id,
            note=str(detail["note"]),
            prints=Prints.from_json(str(detail["seen"])),
        )

    @property
    def at(self) -> float:
        """When it was written, seconds since the epoch."""
        return int(self.id.partition("-")[0]) / 1000

    def looked_like(self, distance: int) -> LooksLike:
        """As the record of a picture that looks like it says it."""
        return LooksLike(
            sha256=self.key,
            upload_id=self.upload_id,
            state=self.state,
            decided_by=self.by,
            distance=distance,
        )


def said_of(
    avatar: Avatar,
    to: AvatarState,
    fields: dict[str, str],
    *,
    by: str,
    leaves: Stage | None,
    settles: bool,
) -> dict[str, Any] | None:
    """What a transition changes in the memory, as `remember.lua` reads it; None for nothing.

    What a person says of the content is remembered, or no more, with the one transition that
    settles it, not with those that follow.
    """
    key = fields.get("sha256", avatar.sha256)
    decided_by = fields.get("decided_by", "")
    if not key:
        return None
    waits = to in (AvatarState.HELD, AvatarState.REVIEWING)
    pair = avatar.looks_like.sha256 if by and avatar.looks_like is not None else key
    is_explicit = leaves == Stage.REVIEW and decided_by.startswith("review:")
    if (settles and to in (AvatarState.APPROVED, AvatarState.BLOCKED)) or (
        is_explicit and to == AvatarState.BLOCKED
    ):
        entry = {"state": to, "by": decided_by, "upload_id": avatar.upload_id, "note": ""}
        said: dict[str, Any] = {"key": key, "entry": entry, "wants": avatar.upload_id}
    elif not waits and not fields.get("looks_like") and pair == key:
        return None
    else:
        # People may decide about what waits, and its picture may be gone by then.
        said = {"key": key, "wants": avatar.upload_id if waits else None}
        if settles:
            said |= {"forgets": True, "by": f"operator:{by}"}
    if pair != key:
        said |= {"pair": pair, "is_cleared": to == AvatarState.APPROVED}
    if found := fields.get("looks_like"):
        like = LooksLike.from_json(found).sha256
        said |= {"met": like, "met_by": avatar.upload_id, "is_held": waits}
    return {name: value for name, value in said.items() if value is not None}


class Memory:
    """Reads and changes entries. Safe to share between threads."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._redis = base.redis
        self._keys = base.keys

    # -- reading -------------------------------------------------------------------------------

    def origin(self) -> str:
        """Names this memory, so that nobody takes a copy of another one for it."""
        key = self._keys.memory_origin
        while (found := self._redis.get(key)) is None:
            self._redis.set(key, secrets.token_hex(8), nx=True)
        return str(found)

    def count(self) -> int:
        """How many entries there are."""
        return int(self._redis.xlen(self._keys.memory))

    def after(self, place: str, limit: int = PAGE) -> list[Remembered]:
        """Entries after one of the log, oldest first.

        Args:
            place: id of the last entry that was seen; empty: from the beginning.
            limit: most entries to return.
        """
        start = f"({place}" if place else "-"
        found = self._redis.xrange(self._keys.memory, min=start, count=limit)
        return [_entry(stream_id, fields) for stream_id, fields in cast("Any", found)]

    def all(self) -> Iterator[Remembered]:
        """Every entry, oldest first."""
        place = ""
        while page := self.after(place):
            yield from page
            place = page[-1].id

    def newest(self, limit: int) -> list[Remembered]:
        """Up to `limit` entries, the newest first."""
        found: list[Remembered] = []
        while len(found) < limit:
            place, count = (f"({found[-1].id}" if found else "+"), min(PAGE, limit - len(found))
            page = cast("Any", self._redis.xrevrange(self._keys.memory, max=place, count=count))
            found += [_entry(stream_id, fields) for stream_id, fields in page]
            if len(page) < count:
                break
        return found

    def get(self, key: str) -> Remembered | None:
        """The entry of one content."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Sequence[str]) -> dict[str, Remembered]:
        """The entries of contents; those of which nothing is remembered are left out."""
        if not keys:
            return {}
        places = cast("list[str | None]", self._redis.hmget(self._keys.memory_index, list(keys)))
        found = self.at([place for place in places if place])
        return {entry.key: entry for entry in found if entry is not None}

    def at(self, ids: Sequence[str]) -> list[Remembered | None]:
        """Entries by their places, in that order; None for one that is no more."""
        pipe = self._redis.pipeline(transaction=False)
        for place in ids:
            pipe.xrange(self._keys.memory, min=place, max=place)
        return [_entry(*found[0]) if found else None for found in pipe.execute()]

    def cleared(self, keys: Sequence[str], content: str) -> list[bool]:
        """Whether people have said that entries are not to be held against a content.

        Because somebody approved this content though it looks like the entry, or more than
        `MOST_CLEARED` different ones.
        """
        pipe = self._redis.pipeline(transaction=False)
        for key in keys:
            pipe.sismember(self._keys.memory_cleared(key), content)
            pipe.scard(self._keys.memory_cleared(key))
        said = pipe.execute()
        pairs = zip(said[::2], said[1::2], strict=True)
        return [bool(here) or int(number) > MOST_CLEARED for here, number in pairs]

    def met(self) -> dict[str, int]:
        """How many different uploads looked like each entry within the last hour, by its key."""
        now = self._base.now()
        counts: dict[str, int] = {}
        for member in self._redis.zrangebyscore(self._keys.memory_met, now - 3600, now):
            key = str(member).partition(" ")[0]
            counts[key] = counts.get(key, 0) + 1
        return counts

    def alike(self, key: str, limit: int) -> list[str]:
        """Up to `limit` uploads that looked like an entry when they were scored, sorted by id."""
        found = cast("set[str]", self._redis.smembers(self._keys.memory_alike(key)))
        return sorted(found)[:limit]

    # -- changing ------------------------------------------------------------------------------

    def forget(self, key: str, *, by: str = "") -> bool:
        """Take a content out of the memory, its exact bytes too; False where it was not in it.

        Uploads that were decided keep their verdicts. The ledger is told, or it would bring back
        what was decided of the bytes.
        """
        exact = bool(self._redis.exists(self._keys.overrule(key)))
        [gone] = self._base.run_all([self._step(key, forgets=True, by=by, is_exact=exact)])
        self._redis.delete(self._keys.overrule(key), self._keys.memory_seen(key))
        return bool(gone or exact)

    def disown(self, key: str, upload_id: str) -> None:
        """Let the entry of a content no longer name an upload, which is being forgotten.

        What people decided about the content stays: it protects everybody else.
        """
        entry = self.get(key)
        if entry is not None and entry.upload_id == upload_id:
            said = {"state": entry.state, "by": entry.by, "upload_id": "", "note": entry.note}
            self._base.run_all([self._step(key, entry=said, id=entry.id)])
        self._redis.delete(self._keys.memory_seen(key))

    def add_listed(self, rows: Iterable[tuple[bytes, str, str]]) -> int:
        """Add hashes of a list, as (hash, label, note); what is there already is replaced.

        Returns:
            How many were added or replaced.
        """
        steps, done = [], 0
        for digest, label, note in rows:
            entry = {"state": label, "by": "list", "upload_id": "", "note": note}
            prints = Prints(hashes=(digest,)).to_json()
            steps.append(self._step(f"{LISTED}{digest.hex()}", entry=entry, seen=prints))
            if len(steps) == PAGE:
                done += len(self._base.run_all(steps))
                steps = []
        return done + (len(self._base.run_all(steps)) if steps else 0)

    def restore(self, entry: Remembered) -> None:
        """Put an entry back as it was, from a row of the ledger; it gets a new place."""
        said = {name: getattr(entry, name) for name in ("state", "by", "upload_id", "note")}
        self._base.run_all([self._step(entry.key, entry=said, seen=entry.prints.to_json())])

    def expire(self, before: float) -> int:
        """Forget entries written before a time (seconds since the epoch); returns how many."""
        gone = 0
        while True:
            found = cast(
                "Any",
                self._redis.xrange(self._keys.memory, max=f"{int(before * 1000)}", count=PAGE),
            )
            if not found:
                return gone
            steps = [
                self._step(fields["key"], forgets=True, id=place, by=RETENTION)
                for place, fields in found
            ]
            self._base.run_all(steps)
            # One that the index does not know, whatever made it so, goes too.
            self._redis.xdel(self._keys.memory, *(place for place, _ in found))
            gone += len(found)

    # -- prints --------------------------------------------------------------------------------

    def wanted(self, limit: int) -> list[str]:
        """Uploads whose pictures are to be printed now, the longest-waiting first."""
        now = self._base.now()
        found = self._redis.zrangebyscore(self._keys.memory_wanted, "-inf", now, 0, limit)
        return [str(upload_id) for upload_id in found]

    def put_prints(self, key: str, prints: Prints, upload_id: str) -> None:
        """Keep the prints of a content, as long as a record, and in its entry if it has one."""
        self._base.run_all([self._step(key, refresh=True, seen=prints.to_json())])
        self._redis.zrem(self._keys.memory_wanted, upload_id)

    def not_printed(self, upload_id: str) -> None:
        """A picture cannot be printed, now or ever."""
        self._redis.zrem(self._keys.memory_wanted, upload_id)

    def print_later(self, upload_id: str) -> None:
        """A picture is to be tried again in a minute."""
        due = {upload_id: self._base.now() + AGAIN_S}
        self._redis.zadd(self._keys.memory_wanted, due, xx=True)

    def start_sweep(self, *, every_s: int) -> bool:
        """Whether the caller should look for entries whose time is over."""
        return bool(self._redis.set(self._keys.memory_swept, 1, nx=True, ex=every_s))

    def _step(self, key: str, **said: Any) -> Step:
        said = {"key": key, "seen_ttl_s": self._base.record_ttl_s, **said}
        return Step("memory", step_keys(self._base, said), said)


def step_keys(base: Base, said: dict[str, Any] | None) -> list[str]:
    """The keys that `remember.lua` is given."""
    keys, said = base.keys, said or {}
    return [
        keys.memory,
        keys.memory_index,
        keys.memory_seen(said.get("key", "")),
        keys.memory_wanted,
        keys.memory_cleared(said.get("pair", "")),
        keys.memory_met,
        keys.events,
        keys.memory_alike(said.get("met", "")),
    ]


def _entry(place: str, fields: dict[str, str]) -> Remembered:
    return Remembered(
        id=str(place),
        key=fields["key"],
        state=fields["state"],
        by=fields["by"],
        upload_id=fields["upload_id"],
        note=fields["note"],
        prints=Prints.from_json(fields["seen"]),
    )
