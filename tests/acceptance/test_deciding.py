"""People decide while every process is killed, one after the other: nothing half done, all told."""

from __future__ import annotations

import collections
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import redis

from benchmarks.chaos_people import NAMES, People, verdict_of
from producer.contract import AvatarState
from producer.record.store import Store
from tests.acceptance.brokers import free_port
from tests.acceptance.conftest import Instance, enqueue_all, eventually, picture
from tests.support import events
from worker.demo.webhook_receiver import Receiver

#: Different pictures, each under two ids: one decision settles both.
PICTURES = 60

#: Whoever is killed with SIGKILL, in turn; `people` are processes that decide as the console does.
KILLED = ("people", "io", "api", "people", "moderate", "valkey", "people", "io", "api")

#: Who may have decided.
PEOPLE = (*NAMES, "eve")


@pytest.fixture
def instance(make_instance: Callable[..., Instance], tmp_path: Path) -> Instance:
    """An instance with an API, whose model is never sure, so that people decide everything."""
    policy = tmp_path / "policy.toml"
    edges = "approve_below = 0.0\nblock_from = 1.0\n"
    policy.write_text(f"[photo]\n{edges}[drawn]\n{edges}")
    return make_instance(
        AVATARMOD_POLICY_FILE=str(policy),
        AVATARMOD_API_PORT=str(free_port()),
        AVATARMOD_CALLBACK_SCHEDULE_S="0.5,0.5,1,1,2,2,4,4",
    )


class Caller(threading.Thread):
    """A site's own review tool: decides through the API what is held, until it is told to stop."""

    def __init__(self, instance: Instance) -> None:
        super().__init__()
        self._instance = instance
        self._url = f"http://127.0.0.1:{instance.env['AVATARMOD_API_PORT']}"
        self.words: list[tuple[str, int, str]] = []
        self.stop = threading.Event()

    def run(self) -> None:
        """Decide one picture at a time, with what was seen; what failed is decided again."""
        key = (self._instance.folder / "api-key").read_text().strip()
        with (
            self._instance.store() as store,
            httpx.Client(headers={"x-api-key": key}, timeout=10, trust_env=False) as http,
        ):
            while not self.stop.wait(0.05):
                with _patience():
                    self._decide(store, http)

    def _decide(self, store: Store, http: httpx.Client) -> None:
        newest = store.open_ids(AvatarState.HELD, 0, 1000)[-1:]
        for avatar in filter(None, store.get_many(newest)):
            verdict = verdict_of(avatar.sha256)
            answer = http.post(
                f"{self._url}/v1/avatars/{avatar.upload_id}/decision",
                json={
                    "verdict": verdict,
                    "by": "eve",
                    "seq": avatar.seq,
                    "sha256": avatar.sha256,
                },
            )
            # 409: somebody else, or this very call before its answer was lost, was first.
            assert answer.status_code in (200, 409, 503), answer.text
            if answer.status_code == 200:
                data = answer.json()["data"]
                self.words.append((avatar.upload_id, data["seq"], data["state"]))


class _patience:
    """Whoever calls a process that is just being killed calls again."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, (httpx.HTTPError, OSError, redis.RedisError))


def kill(instance: Instance, people: People, who: str) -> None:
    """SIGKILL."""
    if who == "people":
        people.kill_one()
        people.watch()
    else:
        pid = instance.valkey_pid() if who == "valkey" else instance.pid_of(who)
        os.kill(pid, signal.SIGKILL)


def test_whoever_is_killed_no_decision_is_half_done(
    instance: Instance, web_tier: Receiver, tmp_path: Path
) -> None:
    """Both uploads of a picture are decided alike, it is remembered, and each change is told."""
    instance.start()
    ids = [f"{which}-{number:02d}" for number in range(PICTURES) for which in ("one", "two")]
    for upload_id in ids:
        instance.put_image(upload_id, picture(1000 + int(upload_id[-2:])))
    enqueue_all(instance, dict.fromkeys(ids, ""))
    with instance.store() as store:
        eventually(lambda: states(store, ids) == {"held"}, "all wait for people")
    caller, people = Caller(instance), People(tmp_path, instance.env)
    people.watch()
    caller.start()
    try:
        for who in KILLED:
            kill(instance, people, who)
            caller.stop.wait(1.5)
        with instance.store() as store:
            decided = {"approved", "blocked"}
            eventually(lambda: states(store, ids) <= decided, "all is decided")
            people.stop()
            # What a person took back last is decided once more.
            eventually(lambda: states(store, ids) <= decided, "all is decided again")
    finally:
        people.stop()
        caller.stop.set()
        caller.join()
    words = [*caller.words, *((word.upload_id, word.seq, word.state) for word in people.words())]
    with instance.store() as store:
        eventually(lambda: not store.redis.hlen(store.keys.settling), "nothing is left to follow")
        check_pictures(store, ids)
        happened = {
            (e["upload_id"], int(e["seq"]), e["to"])
            for e in events(store)
            if e["kind"] == "transition"
        }
        assert set(words) <= happened, "what somebody was told is decided"
        assert len({e["detail"] for e in events(store) if '"by": "' in e["detail"]}) > 1
        check_told(web_tier, happened, ids)
        eventually(lambda: callbacks_left(store, ids) == 0, "nothing waits to be told")
    instance.stop()


def states(store: Store, ids: list[str]) -> set[str]:
    return {str(avatar.state) if avatar else "" for avatar in store.get_many(ids)}


def check_pictures(store: Store, ids: list[str]) -> None:
    """Both uploads of a picture, what sticks to it and what is remembered of it say the same."""
    for avatar in store.get_many(ids):
        assert avatar is not None
        verdict = verdict_of(avatar.sha256)
        said, entry = store.overruled(avatar.sha256), store.memory.get(avatar.sha256)
        assert said is not None
        assert entry is not None
        assert (avatar.state, said["state"], entry.state) == (verdict,) * 3, avatar
        assert avatar.decided_by.removeprefix("operator:") in PEOPLE


def check_told(web_tier: Receiver, happened: set[tuple[str, int, str]], ids: list[str]) -> None:
    """Of each change under one webhook id, which names nothing else."""
    heard: dict[tuple[str, int, str], set[str]] = collections.defaultdict(set)

    def read() -> bool:
        heard.clear()
        for one in list(web_tier.received):
            if (data := one.data).get("upload_id") in ids:
                heard[data["upload_id"], data["seq"], data["state"]].add(one.webhook_id)
        return {one for one in happened if one[2] != "queued"} <= set(heard)

    eventually(read, "each change is told")
    assert set(heard) <= happened
    assert {len(names) for names in heard.values()} == {1}
    names = [name for found in heard.values() for name in found]
    assert len(set(names)) == len(names)


def callbacks_left(store: Store, ids: list[str]) -> int:
    return sum(sum(store.waiting(line).values()) for line in store.lines() if "callback" in line)
