"""What the first version left in Redis is read, moved on and finished; both may run side by side.

`tests/data/records_0_1_0.json` holds the keys of a store that version 0.1.0 filled through its own
code; `tests/data/lua_0_1_0` its scripts, as its workers send them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import redis

from producer.contract import AvatarState, Priority, Stage
from producer.loss_watch import LossWatch
from producer.record import base
from producer.record.dead_letters import DeadLetters
from producer.record.decisions import Decisions
from producer.record.endpoints import Endpoints
from producer.record.indexing import index_former
from producer.record.keyspace import server_of
from producer.record.settling import Settling
from producer.record.store import Store, Transition
from producer.web.api_keys import ApiKeys
from producer.web.users import Sessions, Users
from tests.support import claim, events, new_upload, places, submit
from worker.callback import webhook_id
from worker.duties.alarm_duty import raised

DATA = Path(__file__).parents[1] / "data"
OLD: dict[str, Any] = json.loads((DATA / "records_0_1_0.json").read_text())
DEFAULT = OLD["default_callback_url"]


@pytest.fixture
def old(store: Store, redis_server: redis.Redis) -> Store:
    """A store that the first version filled, with the default callback address it ran with.

    Whoever is signed in has been so for an hour: a session ends after a day.
    """
    for command, key, *arguments in OLD["commands"]:
        name = key.replace("{upgrade}:", store.prefix)
        if ":session:" in name and command == "SET":
            since = {"created_at": store.now() - 3600}
            arguments = [json.dumps(json.loads(arguments[0]) | since)]
        redis_server.execute_command(command, name, *arguments)  # type: ignore[no-untyped-call]
    return Store(redis_server, store.prefix.strip("{}:"), default_callback_url=DEFAULT)


def drain(store: Store, line: str, to: AvatarState) -> list[str]:
    """Decide whatever a line has, as a worker would."""
    done: list[str] = []
    while leases := claim(store, line, token="new-worker"):
        for avatar in filter(None, store.get_many([lease.item for lease in leases])):
            [result] = store.advance([Transition(avatar=avatar, to=to, leaves=Stage(line))])
            assert result.applied
            done.append(avatar.upload_id)
    return sorted(done)


def deliver(store: Store) -> dict[str, set[str]]:
    """Deliver every callback; what each server heard."""
    heard: dict[str, set[str]] = {}
    for line in store.lines()[2:]:
        while leases := claim(store, line, token="new-worker"):
            for lease in leases:
                entry = store.outbox.get(lease.item)
                assert entry is not None
                heard.setdefault(server_of(entry.url), set()).add(lease.item)
                assert store.outbox.end(entry, token="new-worker", detail={})
    return heard


def test_everything_that_waits_is_found_and_finished(old: Store) -> None:
    """In queues, in the hands of workers that are gone, under review: decided, and told once."""
    assert drain(old, Stage.MODERATE, AvatarState.APPROVED) == [
        "again",
        "leased",
        "own",
        "silent",
        "urgent",
        "waits",
    ]
    assert drain(old, Stage.REVIEW, AvatarState.BLOCKED) == ["gray", "gray-leased"]
    counts = old.open_counts()
    assert counts == {"queued": 0, "reviewing": 0, "held": 1, "dead": 2}
    heard = deliver(old)
    assert heard["https://own.example"] == {"own#2"}
    told = heard["https://web.example"]
    assert told >= {"waits#2", "urgent#2", "gray#2", "gray#3", "gray-leased#3", "failing#2"}
    assert not {item for item in told if item.startswith("silent")}
    assert not {"delivered#2", "dead-callback#2"} & told
    assert old.due_lines() == []


def test_counts_of_failures_go_on_where_they_stood(old: Store) -> None:
    """A record without kinds: what failed so far counts for whatever fails next."""
    [again, gray] = old.get_many(["again", "gray"])
    assert again is not None
    assert gray is not None
    assert (again.attempts, again.failures_of("storage_unavailable")) == (3, 3)
    assert gray.failures_of("provider") == 4
    assert again.after_failure("image", 9.0) == {
        "attempts": "4",
        "failures": "image=4",
        "first_failed_at": "1795000000.5",
    }


def test_dead_letters_are_replayed_and_decisions_taken_back(old: Store) -> None:
    """Also of callbacks; an operator's word still holds for the content until it is undone."""
    letters, decisions = DeadLetters(old), Decisions(old)
    found = {letter.item: letter.stage for letter in letters.find()}
    assert found == {"dead": "moderate", "dead-review": "review", "dead-callback#2": "callback"}
    assert all(letters.replay(item, by="bob") for item in found)
    assert letters.count() == 0
    assert "dead" in drain(old, Stage.MODERATE, AvatarState.APPROVED)
    assert "dead-review" in drain(old, Stage.REVIEW, AvatarState.APPROVED)
    assert "dead-callback#2" in deliver(old)["https://web.example"]
    blocked = old.get("blocked")
    assert blocked is not None
    said = old.known(blocked.sha256, "b", "v", "p", "domestic")
    assert (said or {})["decided_by"] == "operator:ann"
    assert decisions.undo("blocked", by="bob").avatar.state == AvatarState.HELD
    assert old.overruled(blocked.sha256) is None
    assert old.known(f"{8:064x}", "b", "v", "p", "domestic") == {
        "state": "approved",
        "decided_by": "cache",
    }


def test_people_keys_alarms_and_totals_are_kept(old: Store) -> None:
    """Who was signed in still is."""
    users = Users(old)
    assert users.check("ann", "correct horse battery") is not None
    session = Sessions(old, users, 3600.0).find(OLD["session"])
    assert session is not None
    assert session.user.name == "ann"
    key = ApiKeys(old).check(OLD["token"])
    assert key is not None
    assert key.name == "web tier"
    assert {alarm["code"] for alarm in raised(old)} >= {"sweeper_not_running"}
    assert old.totals() == {'avatarmod_retries|["moderate", "StorageUnavailable"]|': 1.0}
    assert old.transition_counts()["blocked"] == 2
    [(_, entry)] = old.events.audited(10)
    assert (entry["action"], entry["by"]) == ("blocked", "ann")
    [failing] = [e for e in Endpoints(old, disable_after_s=9e9).all() if e.failing_since]
    assert failing.last_error == "the endpoint answers 500"
    first = old.events.newest(9999)
    assert all(float(fields["at"]) > 1.7e9 for _, fields in first), "no event of 1970"


def test_records_go_on_counting_and_new_ones_begin_higher(
    old: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on its way keeps its webhook id; an id whose old record is gone never falls back."""
    monkeypatch.setattr(base.Base, "seq_from", base.SEQ_FROM)
    failing = old.outbox.get("failing#2")
    assert failing is not None
    assert webhook_id(failing) == "msg_" + hashlib.sha256(b"failing#2").hexdigest()[:32]
    before = old.get("waits")
    assert before is not None
    drain(old, Stage.MODERATE, AvatarState.APPROVED)
    after = old.get("waits")
    assert after is not None
    assert after.seq == before.seq + 1
    assert LossWatch(old, Path("/nowhere")).look().lost_at is None
    old.redis.delete(old.key("avatar", "waits"))
    assert submit(old, "waits").seq > 10**6


def test_a_decision_finds_the_same_picture_among_what_the_first_version_left(old: Store) -> None:
    """What waits follows; what is shown is offered, as if it had always been in the lists."""
    assert index_former(old, for_s=60.0) >= 8
    assert dict(Settling(old).counts(f"{7:064x}", "blocked")) == {"approved": 1}
    done = Decisions(old).decide("held", "blocked", by="bob")
    assert [other.upload_id for other in done.others] == ["gray"]
    gray = old.get("gray")
    assert gray is not None
    assert (gray.state, gray.decided_by) == ("blocked", "operator:bob")
    assert "gray#3" in deliver(old)["https://web.example"]
    assert index_former(old) == 0, "once"


class OldWorker:
    """Sends the scripts of the first version, with their arguments by position."""

    def __init__(self, store: Store) -> None:
        self.store, self.key = store, store.key
        folder = DATA / "lua_0_1_0"
        self._scripts = {
            p.stem: store.redis.register_script(p.read_text()) for p in folder.iterdir()
        }

    def submit(self, upload_id: str) -> Any:
        """Accept one upload; no address is kept where the default will do."""
        key = self.key
        return self._scripts["submit"](
            keys=[
                key("avatar", upload_id),
                key("due", "moderate", "normal"),
                key("open", "queued"),
                key("open", "reviewing"),
                key("events"),
            ],
            args=[upload_id, 100, "{}", "region", "domestic", "priority", "normal", "schema", "1"],
        )

    def claim(self) -> list[str]:
        """Take all that is due."""
        key = self.key
        lanes = [key("due", "moderate", lane) for lane in Priority]
        keys = [key(what, "moderate") for what in ("lease", "holder", "crashes")]
        found: Any = self._scripts["claim"](keys=[*keys, *lanes], args=[32, 30, "old", 0, 0])
        return found[::2]  # type: ignore[no-any-return]

    def approve(self, upload_id: str, seq: int) -> Any:
        """Write a verdict that nobody hears of."""
        key = self.key
        return self._scripts["transition"](
            keys=[
                key("avatar", upload_id),
                key("events"),
                key("counts"),
                key("open", "queued"),
                key("open", "approved"),
                *(key(what, "moderate") for what in ("lease", "holder", "crashes")),
                *[key("due", "moderate", "normal")] * 2,
                key("callback", ""),
                key("due", "callback:", "normal"),
                key("endpoints"),
                key("dead"),
                key("dead", ""),
            ],
            args=[upload_id, seq, "queued", "approved", 0, 0, 60, "{}", "", "", "", "", "", "", 0],
        )


def test_old_and_new_workers_share_the_work(store: Store) -> None:
    """Each takes what the other accepted and leaves what the other holds; nothing is told twice."""
    old = OldWorker(store)
    assert old.submit("a")[0] == "created"
    submit(store, "b", callback_url=DEFAULT)
    assert store.submit(new_upload("a"), max_backlog=9)[0] == "exists"
    assert sorted(old.claim()) == ["a", "b"]
    assert claim(store) == []
    assert old.approve("b", 1) == [1, "approved", "2"]
    avatar = store.get("a")
    assert avatar is not None
    blocked = Transition(avatar=avatar, to=AvatarState.BLOCKED, leaves=Stage.MODERATE)
    assert store.advance([blocked])[0].applied, "its lease was the other's; the record decides"
    assert old.approve("a", 1) == [0, "blocked", "2"]
    assert (places(store, "a"), places(store, "b")) == ([], [])
    assert store.open_counts()["queued"] == 0
    assert [e["to"] for e in events(store)] == ["queued", "queued", "approved", "blocked"]
