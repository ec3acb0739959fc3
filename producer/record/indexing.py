"""Uploads of before there were lists of those with the same picture are put into them, once.

What waits first, for a decision must find it; then all other records, some at each call. How far it
came is in Redis: whoever calls next goes on there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast

from producer.contract import AvatarState
from producer.record.base import Step
from producer.record.store import Store

#: Uploads that are read, and indexed, in one round trip.
PAGE = 500

#: Seconds that one call takes at most, about.
FOR_S = 0.2

#: Said instead of a place once all is done.
DONE = "done"


def index_former(store: Store, for_s: float = FOR_S) -> int:
    """Go on indexing for about `for_s` seconds, a page at least; returns how often it indexed one.

    Costs one read once it is done.
    """
    redis, key = store.base.redis, store.keys.same_indexed
    place = cast("str | None", redis.get(key))
    if place == DONE:
        return 0
    done, end_s = 0, time.monotonic() + for_s
    if place is None:
        done, place = _index_waiting(store), "0"
        redis.set(key, place)
    while True:
        cursor, found = cast(
            "tuple[int, list[str]]",
            redis.scan(int(place), match=store.keys.avatar("*"), count=PAGE),
        )
        start = len(store.keys.avatar(""))
        done += _index(store, [str(name)[start:] for name in found])
        if not cursor:
            # Workers of the version before may have left more meanwhile.
            done += _index_waiting(store)
        place = str(cursor or DONE)
        redis.set(key, place)
        if place == DONE or time.monotonic() >= end_s:
            return done


def _index_waiting(store: Store) -> int:
    done = 0
    for state in (AvatarState.HELD, AvatarState.REVIEWING):
        start = 0
        while ids := store.open_ids(state, start, PAGE):
            done += _index(store, ids)
            start += PAGE
    return done


def _index(store: Store, upload_ids: Sequence[str]) -> int:
    if not upload_ids:
        return 0
    keys, pipe = store.keys, store.base.redis.pipeline(transaction=False)
    for upload_id in upload_ids:
        pipe.hget(keys.avatar(upload_id), "sha256")
    steps = [
        Step(
            "index_same",
            [keys.avatar(upload_id), *(keys.same(sha256, w) for w in ("waiting", "decided"))],
            {"id": upload_id, "sha256": sha256, "keep_s": store.record_ttl_s},
        )
        for upload_id, sha256 in zip(upload_ids, pipe.execute(), strict=True)
        if sha256
    ]
    return sum(int(answer) for answer in store.base.run_all(steps)) if steps else 0
