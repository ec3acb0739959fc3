"""What tests of several tiers share: factories that fill in what a test is not about."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from producer.contract import NO_CALLBACK, Avatar, AvatarState, Priority, Stage
from producer.findings import LooksLike
from producer.record.keyspace import callback_line, endpoint_name
from producer.record.store import LANES, Lease, Store, Transition

#: Networks of this machine that a test's servers live in.
FREE_NETWORKS = "127.0.0.0/8,::1/128"

CALLBACK_URL = "http://web.example/verdict"

TOKEN = "worker-1"


def new_upload(upload_id: str = "a", **fields: Any) -> Avatar:
    """An upload as `enqueue` would hand it to the store."""
    return Avatar(upload_id=upload_id, state=AvatarState.QUEUED, seq=1, **fields)


def submit(store: Store, upload_id: str = "a", **fields: Any) -> Avatar:
    """An accepted upload."""
    outcome, avatar = store.submit(new_upload(upload_id, **fields), max_backlog=10_000)
    assert outcome == "created"
    return avatar


def claim(store: Store, line: str = Stage.MODERATE, **options: Any) -> list[Lease]:
    """Up to 32 leases of a line."""
    options = {"limit": 32, "lease_s": 30.0, "token": TOKEN, **options}
    return store.claim(line, options.pop("limit"), **options)


def change(store: Store, upload_id: str, to: AvatarState, **options: Any) -> Transition:
    """A transition from the record as it stands."""
    avatar = store.get(upload_id)
    assert avatar is not None
    hears = options.pop("callback_url", avatar.callback_url or CALLBACK_URL) or NO_CALLBACK
    return Transition(avatar=dataclasses.replace(avatar, callback_url=hears), to=to, **options)


def put_back(store: Store, upload_id: str, line: str = Stage.MODERATE, **options: Any) -> bool:
    """Give one lease back."""
    options = {"token": TOKEN, "priority": Priority.NORMAL, "delay_s": 0.0, **options}
    return store.put_back(line, upload_id, **options)


def places(store: Store, item: str, line: str = Stage.MODERATE) -> list[str]:
    """Where an item of a line is: the names of its due lanes, `leased`, or both (never right)."""
    found = [
        f"due:{lane}"
        for lane in LANES
        if store.redis.zscore(store.key("due", line, lane), item) is not None
    ]
    if store.redis.zscore(store.key("lease", line), item) is not None:
        found.append("leased")
    return found


def events(store: Store) -> list[dict[str, str]]:
    """Everything in the event stream, oldest first."""
    return [fields for _, fields in store.redis.xrange(store.key("events"))]  # type: ignore[union-attr]


def callback_line_of(url: str = CALLBACK_URL) -> str:
    """The line of the callbacks to a URL."""
    return callback_line(endpoint_name(url))


def wait_until(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    """Wait for something that must come; fail with its name when it does not."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"{what}: not within {timeout_s:g} s"
        time.sleep(0.02)


def like_of(upload_id: str, sha256: str = "ab" * 32, distance: int = 14) -> LooksLike:
    """What an upload looks like: one that ann has blocked."""
    return LooksLike(
        sha256=sha256,
        upload_id=upload_id,
        state="blocked",
        decided_by="operator:ann",
        distance=distance,
    )
