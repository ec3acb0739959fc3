"""Life after Redis lost everything: noticed, said, and brought back from the ledger."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from producer.contract import AvatarState, Priority, Region, Stage
from producer.findings import Opinion, Seen
from producer.health import NOT_READY, find_alarms
from producer.loss_watch import LossWatch
from producer.record.decisions import Decisions, Why
from producer.record.store import Store
from producer.web.api_keys import ApiKeys
from producer.web.users import Users
from tests.integration.ledger.conftest import advance, upload
from tests.support import TOKEN, change, claim, places, submit
from worker.callback import webhook_id
from worker.commands.ledger import ledger as ledger_command
from worker.commands.restore import restore as command
from worker.ledger.drain import LedgerDrain
from worker.ledger.writer import Ledger
from worker.review.limits import Limits
from worker.settings import WorkerSettings

SHA = "ab" * 32


@pytest.fixture
def ledger(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A ledger in SQLite, and the environment of a second shell."""
    server = store.redis.connection_pool.connection_kwargs["path"]
    monkeypatch.setenv("AVATARMOD_REDIS_URL", f"unix://{server}")
    monkeypatch.setenv("AVATARMOD_DATA_FOLDER", str(tmp_path))
    return Ledger.open(WorkerSettings(data_folder=tmp_path))


def drain(ledger: Ledger, store: Store) -> None:
    while ledger.drain(store):
        continue


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(command, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def lose(store: Store, watch: LossWatch) -> None:
    """Redis forgets, and a running process sees it."""
    store.redis.flushall()
    watch.look()


@pytest.fixture
def watch(store: Store, tmp_path: Path) -> LossWatch:
    """A process that runs since before."""
    watch = LossWatch(store, tmp_path)
    watch.look()
    return watch


class TestNoticing:
    @pytest.mark.usefixtures("ledger")
    def test_a_loss_is_an_alarm_until_somebody_has_seen_to_it(
        self, store: Store, watch: LossWatch
    ) -> None:
        """Readiness and the doctor know it from the next look on, whoever writes meanwhile."""
        assert "redis_lost_data" not in {alarm.code for alarm in find_alarms(store)}
        store.redis.flushall()
        submit(store, "first-afterwards")
        assert watch.look().lost_at is not None
        [alarm] = [alarm for alarm in find_alarms(store) if alarm.code == "redis_lost_data"]
        assert alarm.severity == "critical"
        assert alarm.code in NOT_READY
        assert "restore --from-ledger" in alarm.fix
        assert run("--accept-loss").output == "the alarm ends\n"
        watch.look()
        assert "redis_lost_data" not in {alarm.code for alarm in find_alarms(store)}

    def test_keys_and_users_are_back_without_a_restart(
        self, store: Store, watch: LossWatch
    ) -> None:
        """From the memory of a running process; what was revoked before does not come back."""
        keys, users = ApiKeys(store), Users(store)
        _, token = keys.create("web tier", ["enqueue"])
        revoked, dead_token = keys.create("old", ["enqueue"])
        users.save("ann", "moderator", "correct horse battery")
        keys.revoke(revoked.id)
        time.sleep(2.1)
        watch.look()
        lose(store, watch)
        assert ApiKeys(store).check(token) is not None
        assert ApiKeys(store).check(dead_token) is None
        assert users.check("ann", "correct horse battery") is not None

    def test_a_process_that_starts_after_the_loss_knows_from_its_folder(
        self, store: Store, watch: LossWatch, tmp_path: Path
    ) -> None:
        """The whole machine was off. The file is this user's alone; old keys are not believed."""
        _, token = ApiKeys(store).create("web tier", ["enqueue"])
        LossWatch(store, tmp_path).look()
        file = tmp_path / "data-set.json"
        assert file.stat().st_mode & 0o077 == 0
        store.redis.flushall()
        assert LossWatch(store, tmp_path).look().lost_at is not None
        assert ApiKeys(store).check(token) is not None
        kept = json.loads(file.read_text())
        kept[store.prefix]["at"] -= 100_000
        file.write_text(json.dumps(kept))
        store.redis.flushall()
        assert LossWatch(store, tmp_path).look().lost_at is not None
        assert ApiKeys(store).check(token) is None

    def test_the_ledger_knows_where_the_data_folder_went_too(
        self, store: Store, ledger: Ledger, tmp_path: Path
    ) -> None:
        """A container that lost its volume: the newest event names the data that is gone."""
        upload(store, "a")
        drain(ledger, store)
        store.redis.flushall()
        submit(store, "b")
        drain_duty = LedgerDrain(WorkerSettings(data_folder=tmp_path), store)
        drain_duty._drain_all()
        data_set = store.data_sets.look()
        assert data_set is not None
        assert data_set.lost_at is not None
        assert ledger.story("b")

    def test_a_new_installation_is_no_loss(self, store: Store, tmp_path: Path) -> None:
        """Nor is data of a version that had no mark."""
        store.redis.set(store.key("callback_default"), "none")
        assert LossWatch(store, tmp_path).look().lost_at is None


class TestSeq:
    @pytest.fixture(autouse=True)
    def _real_seqs(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        from producer.record import base

        monkeypatch.setattr(base.Base, "seq_from", base.SEQ_FROM)

    def test_seq_never_falls_whatever_was_lost_or_expired(self, store: Store) -> None:
        """Nor is a webhook id used twice, even within the same second."""
        seqs, ids = [], set()
        for _ in range(4):
            submit(store, "again")
            store.advance([change(store, "again", AvatarState.APPROVED, leaves=Stage.MODERATE)])
            avatar = store.get("again")
            assert avatar is not None
            entry = store.outbox.get(f"again#{avatar.seq}")
            assert entry is not None
            seqs.append(avatar.seq)
            ids.add(webhook_id(entry))
            store.redis.flushall()
        assert seqs == sorted(set(seqs))
        assert len(ids) == 4
        assert all(10**6 < seq < 2**31 for seq in seqs), "they fit into 32 bits"

    def test_a_record_that_runs_ahead_of_time_raises_what_follows(self, store: Store) -> None:
        """A hundred transitions in a second: the next life of the id begins behind them."""
        avatar = submit(store, "busy")
        for _ in range(100):
            avatar = advance(store, "busy", AvatarState.HELD, {})
        store.redis.delete(store.key("avatar", "busy"))
        assert submit(store, "busy").seq > avatar.seq

    def test_the_answer_says_the_seq(self, store: Store) -> None:
        """Who enqueues learns where it begins."""
        given = submit(store, "a")
        kept = store.get("a")
        assert kept is not None
        assert given.seq == kept.seq > 10**6

    def test_stories_of_one_id_are_two_stories(self, store: Store, ledger: Ledger) -> None:
        """No hole is reported where an id was used again; a real one still is."""
        for _ in range(2):
            upload(store, "twice")
            drain(ledger, store)
            store.redis.flushall()
        assert ledger.broken_stories() == []
        upload(store, "hole")
        entries = store.events.first(10)
        store.redis.xdel(store.key("events"), entries[1][0])
        advance(store, "hole", AvatarState.BLOCKED, {})
        drain(ledger, store)
        assert [story[0] for story in ledger.broken_stories()] == ["hole"]

    def test_one_event_is_one_event_though_ids_come_again(
        self, store: Store, ledger: Ledger
    ) -> None:
        """After a loss with the clock set back, new events get the ids of old ones."""
        stream = store.key("events")
        for name in ("old", "new"):
            submit(store, f"{name}-mark")
            store.redis.delete(stream)
            for n in range(50):
                fields = {"kind": "transition", "upload_id": f"{name}{n}", "seq": "1", "to": "held"}
                store.redis.xadd(stream, fields, id=f"1700000000000-{n}")
            drain(ledger, store)
            store.redis.flushall()
        assert all(ledger.story(f"{name}{n}") for name in ("old", "new") for n in range(50))


class TestRestoring:
    def fill(self, store: Store, ledger: Ledger) -> None:
        """One of each kind, in the ledger."""
        submit(
            store,
            "queued",
            image="https://pictures.example/q.png",
            region=Region.OVERSEAS,
            priority=Priority.LOW,
            callback_url="https://own.example/hook",
        )
        submit(store, "secret", image="https://pictures.example/q.png?token=x")
        upload(store, "reviewing", AvatarState.REVIEWING)
        upload(store, "held", AvatarState.HELD, probability=0.5, reason="provider_uncertain")
        upload(store, "done")
        submit(store, "blocked", callback_url="none")
        advance(store, "blocked", AvatarState.APPROVED, {"sha256": SHA})
        Decisions(store).decide("blocked", "blocked", by="ann")
        submit(store, "untold", callback_url="https://own.example/hook")
        advance(store, "untold", AvatarState.BLOCKED, {"reason": "explicit", "sha256": "cd" * 32})
        drain(ledger, store)

    def test_what_comes_back_is_settled_and_appealed_as_before(
        self, store: Store, ledger: Ledger, watch: LossWatch
    ) -> None:
        """In the list of its picture, in the lane of appeals, with what its decider had seen."""
        for name, state in (("one", AvatarState.HELD), ("two", AvatarState.HELD)):
            submit(store, name, callback_url="https://own.example/hook")
            advance(store, name, state, {"sha256": SHA})
        submit(store, "objects")
        advance(store, "objects", AvatarState.HELD, {"sha256": "cd" * 32})
        decisions, seen = Decisions(store), Seen(2, "cd" * 32)
        decisions.decide("objects", "blocked", by="ann", seen=seen, why=Why("hate"))
        decisions.appeal("objects", "It is a statue.")
        drain(ledger, store)
        lose(store, watch)
        run("--from-ledger", "--yes")
        objects = store.get("objects")
        assert objects is not None
        assert (objects.appeal, objects.appealed_from) == ("It is a statue.", "operator:ann")
        assert store.open_ids("appeals", 0, 9) == ["objects"]
        done = decisions.decide("one", "blocked", by="bob")
        assert [other.upload_id for other in done.others] == ["two"]

    def test_everything_that_is_open_is_found_and_brought_back(
        self, store: Store, ledger: Ledger, watch: LossWatch
    ) -> None:
        """First said, then done, with the next seq; a second run finds nothing to do."""
        self.fill(store, ledger)
        seqs = {name: ledger.story(name)[-1]["seq"] for name in ("queued", "held", "untold")}
        lose(store, watch)
        checked = CliRunner().invoke(ledger_command, ["check", "--json"])
        assert checked.exit_code == 1
        unknown = json.loads(checked.stdout)["open_but_unknown_to_redis"]
        assert {line.partition(":")[0] for line in unknown} == {
            *("queued", "secret", "reviewing", "held", "untold")
        }
        said = json.loads(run("--from-ledger", "--json").stdout)
        assert said["dry_run"]
        assert said["uploads"] == {"queued": 2, "held": 1, "blocked": 1}
        assert store.get("queued") is None

        assert run("--from-ledger", "--yes").exit_code == 1, "one is named that it cannot bring"
        queued, held, untold = (store.get(name) for name in ("queued", "held", "untold"))
        assert queued is not None
        assert (queued.state, queued.image) == ("queued", "https://pictures.example/q.png")
        assert (queued.region, queued.priority) == (Region.OVERSEAS, Priority.LOW)
        assert queued.callback_url == "https://own.example/hook"
        assert places(store, "queued") == ["due:low"]
        assert held is not None
        assert (held.state, held.probability, held.reason) == ("held", 0.5, "provider_uncertain")
        assert untold is not None
        assert (untold.state, untold.reason) == ("blocked", "explicit")
        told = store.outbox.get(f"untold#{untold.seq}")
        assert told is not None
        assert (told.data["state"], told.url) == ("blocked", "https://own.example/hook")
        for avatar in (queued, held, untold):
            assert avatar.seq > seqs[avatar.upload_id]
        assert (store.overruled(SHA) or {})["decided_by"] == "operator:ann"
        assert store.open_counts() == {"queued": 2, "reviewing": 0, "held": 1, "dead": 0}
        assert "redis_lost_data" not in {alarm.code for alarm in find_alarms(store)}

        before = ledger.last_id()
        again = json.loads(run("--from-ledger", "--yes", "--json").stdout)
        assert again["uploads"] == {}
        assert again["decisions"] == {"known": 1}
        assert ledger.last_id() == before
        assert ledger.broken_stories() == []

    def test_what_was_delivered_after_all_is_left_alone(
        self, store: Store, ledger: Ledger, watch: LossWatch
    ) -> None:
        """The ledger knows of the delivery; nobody hears of it twice."""
        submit(store, "told", callback_url="https://own.example/hook")
        avatar = advance(store, "told", AvatarState.APPROVED, {})
        [line] = [line for line in store.lines() if line.startswith("callback:")]
        claim(store, line)
        entry = store.outbox.get(f"told#{avatar.seq}")
        assert entry is not None
        assert store.outbox.end(entry, token=TOKEN, detail={})
        drain(ledger, store)
        lose(store, watch)
        assert json.loads(run("--from-ledger", "--json").stdout)["uploads"] == {}

    def test_what_lives_by_now_stays_as_it_is(
        self, store: Store, ledger: Ledger, watch: LossWatch
    ) -> None:
        """The web tier enqueued again meanwhile, and a moderator decided anew."""
        self.fill(store, ledger)
        lose(store, watch)
        live = submit(store, "queued", image="new.png")
        submit(store, "other")
        advance(store, "other", AvatarState.HELD, {"sha256": SHA})
        Decisions(store).decide("other", "approved", by="bob")
        run("--from-ledger", "--yes")
        assert store.get("queued") == live or (store.get("queued") or live).image == "new.png"
        assert (store.overruled(SHA) or {})["decided_by"] == "operator:bob"

    def test_what_came_back_approved_while_the_block_was_forgotten_is_blocked(
        self, store: Store, ledger: Ledger, watch: LossWatch
    ) -> None:
        """The same picture under another id, judged by the model alone in between."""
        self.fill(store, ledger)
        lose(store, watch)
        submit(store, "sneaked", callback_url="https://own.example/hook")
        advance(store, "sneaked", AvatarState.APPROVED, {"sha256": SHA, "decided_by": "model"})
        found = json.loads(run("--from-ledger", "--yes", "--json").stdout)
        assert found["blocked_again"] == ["sneaked"]
        avatar = store.get("sneaked")
        assert avatar is not None
        assert (avatar.state, avatar.decided_by) == ("blocked", "operator:ann")

    def test_what_nobody_decided_about_stays_as_it_is(self, store: Store, ledger: Ledger) -> None:
        """Beside live data: shown since before a block that left it, or of other bytes now."""
        for name, sha256 in (("shown", SHA), ("reused", SHA), ("held", SHA)):
            submit(store, name)
            state = AvatarState.HELD if name == "held" else AvatarState.APPROVED
            advance(store, name, state, {"sha256": sha256, "decided_by": "model"})
        Decisions(store).decide("held", "blocked", by="ann")
        store.redis.delete(store.key("overrule", SHA))
        submit(store, "later")
        advance(store, "later", AvatarState.APPROVED, {"sha256": SHA, "decided_by": "model"})
        for name in ("reused", "later"):
            store.redis.delete(store.key("avatar", name))
            submit(store, name)
            advance(store, name, AvatarState.APPROVED, {"sha256": "cd" * 32})
        drain(ledger, store)
        found = json.loads(run("--from-ledger", "--yes", "--json").stdout)
        assert found["blocked_again"] == []
        avatars = store.get_many(["shown", "reused", "later"])
        assert {avatar.state for avatar in avatars if avatar} == {AvatarState.APPROVED}

    @pytest.mark.parametrize("is_lost", [False, True])
    def test_what_was_taken_out_of_the_memory_stays_out(
        self, store: Store, ledger: Ledger, watch: LossWatch, is_lost: bool
    ) -> None:
        """Beside live data too; what people decided about it again comes back."""
        self.fill(store, ledger)
        other, decisions = "ef" * 32, Decisions(store)

        def approve(name: str, sha256: str) -> None:
            submit(store, name)
            advance(store, name, AvatarState.APPROVED, {"sha256": sha256, "decided_by": "model"})

        approve("again", other)
        decisions.decide("again", "blocked", by="ann")
        for sha256 in (SHA, other):
            assert store.memory.forget(sha256, by="bob")
        approve("second", SHA)
        approve("anew", other)
        decisions.decide("anew", "blocked", by="eve")
        drain(ledger, store)
        if is_lost:
            lose(store, watch)
        found = json.loads(run("--from-ledger", "--yes", "--json").stdout)
        assert found["blocked_again"] == []
        assert store.overruled(SHA) is None
        assert (store.overruled(other) or {})["decided_by"] == "operator:eve"

    def test_an_opinion_that_was_paid_for_is_not_paid_again(
        self, store: Store, ledger: Ledger, watch: LossWatch, tmp_path: Path
    ) -> None:
        """The ledger says under which rules it was given."""
        settings = WorkerSettings(data_folder=tmp_path)
        limits = Limits(*store.limits_client(), settings, lambda: 0.5)
        said = Opinion(provider="fake", decision="block", cost_yuan=0.001)  # type: ignore[arg-type]
        leave = limits.admit(SHA, ["fake"], opinions=0)
        limits.settle(
            leave,  # type: ignore[arg-type]
            SHA,
            outcome="answered",
            billed=True,
            opinion_field="fake@1",
            opinion=said,
        )
        kept = limits.opinions(SHA)
        drain(ledger, store)
        lose(store, watch)
        assert limits.opinions(SHA) == {}
        for words, counts in (
            ((), {"restored": 1}),
            (("--yes",), {"restored": 1}),
            ((), {"known": 1}),
            (("--yes",), {"known": 1}),
        ):
            found = json.loads(run("--from-ledger", *words, "--json").stdout)
            assert found["opinions"] == counts
            assert limits.opinions(SHA) == (kept if words or "known" in counts else {})

    def test_killed_in_the_middle_and_run_again_it_comes_to_the_same_end(
        self, store: Store, ledger: Ledger, watch: LossWatch
    ) -> None:
        """Kill -9, twice, then a whole run."""
        for n in range(400):
            submit(store, f"u{n}", image="a.png")
        drain(ledger, store)
        lose(store, watch)
        code = "from producer.cli import main; main()"
        for after in (40, 200):
            command = [sys.executable, "-c", code, "restore", "--from-ledger", "--yes"]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            while process.poll() is None and store.open_counts()["queued"] < after:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        data_set = store.data_sets.look()
        assert data_set is not None
        assert data_set.lost_at is not None, "it was killed before its end"
        done = run("--from-ledger", "--yes", "--json")
        assert done.exit_code == 0, done.output
        assert store.open_counts()["queued"] == 400
        drain(ledger, store)
        assert all(len(ledger.story(f"u{n}")) == 2 for n in range(400))
