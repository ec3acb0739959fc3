"""The ledger on SQLite, PostgreSQL and MariaDB: drained exactly once, read back right."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from producer.contract import AvatarState
from producer.errors import ConfigurationError, LedgerUnavailable
from producer.findings import Opinion
from producer.record.decisions import Decisions
from producer.record.store import Store
from producer.settings import Settings
from tests.integration.ledger.conftest import advance, upload
from worker.ledger.database import HEAD, MIGRATIONS, ledger_url
from worker.ledger.drain import LedgerDrain
from worker.ledger.schema import events
from worker.ledger.writer import Ledger
from worker.tools.report import make_report, tier_rows

TENCENT = Opinion(provider="tencent", decision="block", cost_yuan=0.0015, latency_s=0.2)  # type: ignore[arg-type]


def drain_all(ledger: Ledger, store: Store) -> int:
    """Drain until the stream is empty."""
    total = 0
    while moved := ledger.drain(store):
        total += moved
    return total


def count(ledger: Ledger) -> int:
    with ledger.engine.connect() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(events)) or 0)


def test_a_story_reads_back_in_order_with_money_and_times(ledger: Ledger, store: Store) -> None:
    """Every transition of an upload is there once, with what reports need."""
    upload(store, "a/1", AvatarState.REVIEWING, probability=0.4, style="drawn", waited_s=0.25)
    advance(
        store,
        "a/1",
        AvatarState.BLOCKED,
        {"decided_by": "review:tencent", "reason": "Porn"},
        opinions=[TENCENT.to_dict()],
    )
    assert drain_all(ledger, store) == 3
    assert store.events.first(10) == []
    first, second, third = ledger.story("a/1")
    assert (first["from_state"], first["to_state"], first["region"]) == ("", "queued", "domestic")
    assert (second["probability"], second["style"], second["step_s"]) == (0.4, "drawn", 0.25)
    assert second["tier"] == "model"
    assert (third["tier"], third["provider"], third["provider_calls"]) == ("review", "tencent", 1)
    assert third["cost_yuan"] == pytest.approx(0.0015)
    assert third["latency_s"] == pytest.approx(third["at"] - first["at"], abs=1e-4)
    assert third["detail"]["opinions"][0]["labels"] == []


def test_a_reused_opinion_costs_nothing(ledger: Ledger, store: Store) -> None:
    """An opinion on file is no call and no money."""
    upload(store, "a/1", AvatarState.REVIEWING)
    advance(
        store,
        "a/1",
        AvatarState.BLOCKED,
        {"decided_by": "review:tencent"},
        opinions=[TENCENT.to_dict()],
        reused=True,
    )
    drain_all(ledger, store)
    assert ledger.story("a/1")[-1]["provider_calls"] == 0
    assert ledger.daily(1)[0].cost_yuan == 0


def test_events_drained_twice_are_kept_once(
    ledger: Ledger, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drain that dies between commit and trim does no harm."""
    for number in range(5):
        upload(store, f"u{number}")
    monkeypatch.setattr(store.events, "forget", lambda up_to: 0)
    assert ledger.drain(store) == 10
    monkeypatch.undo()
    upload(store, "u5")
    assert ledger.drain(store) == 12
    assert count(ledger) == 12


def test_ids_that_differ_by_case_are_different(ledger: Ledger, store: Store) -> None:
    """No database may fold upload ids."""
    upload(store, "User", AvatarState.BLOCKED)
    upload(store, "user", AvatarState.APPROVED)
    drain_all(ledger, store)
    assert [row["to_state"] for row in ledger.story("user")] == ["queued", "approved"]


def test_recent_shows_each_upload_where_it_stands(ledger: Ledger, store: Store) -> None:
    """One row an upload, newest first, in pages, filtered by present state, id and hash."""
    for number in range(5):
        upload(store, f"u{number}", AvatarState.HELD)
    blocked = advance(store, "u1", AvatarState.BLOCKED, {"decided_by": "operator:eve"})
    drain_all(ledger, store)
    assert [row["upload_id"] for row in ledger.recent()] == ["u1", "u4", "u3", "u2", "u0"]
    page = ledger.recent(limit=2)
    rest = ledger.recent(limit=10, before=page[-1]["id"])
    assert [row["upload_id"] for row in rest] == ["u3", "u2", "u0"]
    assert [row["upload_id"] for row in ledger.recent(state="blocked")] == ["u1"]
    assert len(ledger.recent(state="held")) == 4
    assert [row["upload_id"] for row in ledger.recent(search="u3")] == ["u3"]
    assert ledger.recent(search="u%") == []
    assert blocked.sha256
    found = ledger.recent(search=ledger.story("u0")[1]["sha256"])
    assert [row["upload_id"] for row in found] == ["u0"]


def test_counts_by_tier_state_and_provider(ledger: Ledger, store: Store) -> None:
    """A day's counts equal what was put in."""
    for number in range(6):
        upload(store, f"clear{number}")
    upload(store, "flat", probability=None, decided_by="rule")
    upload(store, "bad", AvatarState.REJECTED, probability=None, decided_by="rule")
    for number in range(3):
        upload(store, f"gray{number}", AvatarState.REVIEWING, probability=0.5)
    for number in range(2):
        advance(
            store,
            f"gray{number}",
            AvatarState.BLOCKED,
            {"decided_by": "review:tencent"},
            opinions=[TENCENT.to_dict()],
        )
    advance(store, "gray2", AvatarState.APPROVED, {"decided_by": "operator:eve"})
    drain_all(ledger, store)
    [day] = ledger.daily(1)
    assert day.uploads == 11
    assert day.first_looks == {"approved": 7, "rejected": 1, "gray": 3}
    assert day.gray_share == pytest.approx(0.3)
    assert day.tiers == {"model": 6, "rule": 1, "review": 2, "operator": 1}
    assert day.providers == {"tencent": (2, pytest.approx(0.003))}
    assert day.to_json()["cost_yuan"] == pytest.approx(0.003)
    latencies = ledger.latencies(day.start, day.end)
    assert {tier: found.count for tier, found in latencies.items()} == {
        "machine": 10,
        "model": 6,
        "rule": 2,
        "review": 2,
        "operator": 1,
    }


def test_histogram_counts_every_probability_once(ledger: Ledger, store: Store) -> None:
    """Bins are half open, the last one closed; gray is apart."""
    for number, (probability, to) in enumerate(
        [
            (0.0, AvatarState.APPROVED),
            (0.1, AvatarState.REVIEWING),
            (0.1, AvatarState.HELD),
            (0.95, AvatarState.BLOCKED),
            (1.0, AvatarState.BLOCKED),
        ]
    ):
        upload(store, f"u{number}", to, probability=probability)
    drain_all(ledger, store)
    bins = ledger.histogram(days=1, bins=10)
    assert len(bins) == 10
    assert [b.approved for b in bins] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    assert bins[1].gray == 2
    assert bins[9].blocked == 2


def test_labels_prefer_the_operator_and_find_the_content(ledger: Ledger, store: Store) -> None:
    """A provider's verdict is a label until a person says otherwise."""
    upload(store, "g", AvatarState.REVIEWING)
    advance(store, "g", AvatarState.BLOCKED, {"decided_by": "review:tencent"})
    advance(store, "g", AvatarState.APPROVED, {"decided_by": "operator:eve"})
    upload(store, "h", AvatarState.REVIEWING)
    advance(store, "h", AvatarState.BLOCKED, {"decided_by": "review:aliyun"})
    upload(store, "i")
    drain_all(ledger, store)
    hashes = {name: ledger.story(name)[1]["sha256"] for name in "ghi"}
    assert ledger.labels() == {
        hashes["g"]: (False, "operator:eve"),
        hashes["h"]: (True, "review:aliyun"),
    }


def test_a_decision_that_was_taken_back_is_no_label(ledger: Ledger, store: Store) -> None:
    """The last word of an operator counts; taken back it is none, and a provider's counts again."""
    decisions = Decisions(store)
    for name in "uvw":
        upload(store, name, AvatarState.REVIEWING)
    advance(store, "v", AvatarState.APPROVED, {"decided_by": "review:tencent"})
    for name in "uvw":
        decisions.decide(name, "approved", by="eve")
        decisions.decide(name, "blocked", by="eve")
        decisions.undo(name, by="ann")
    decisions.decide("w", "approved", by="ann")
    drain_all(ledger, store)
    hashes = {name: ledger.story(name)[1]["sha256"] for name in "vw"}
    assert ledger.labels() == {
        hashes["v"]: (False, "review:tencent"),
        hashes["w"]: (False, "operator:ann"),
    }


def test_the_word_before_one_that_was_taken_back_is_the_label(ledger: Ledger, store: Store) -> None:
    """Of two people on one picture, as it sticks in Redis again; with whom said it."""
    decisions, sha256 = Decisions(store), "ff" * 32
    for name in ("one", "two"):
        upload(store, name, AvatarState.REVIEWING)
        advance(store, name, AvatarState.HELD, {"sha256": sha256})
    decisions.decide("one", "blocked", by="eve")
    decisions.decide("two", "approved", by="ann")
    decisions.undo("two", by="ann")
    drain_all(ledger, store)
    assert ledger.labels() == {sha256: (True, "operator:eve")}


def test_latencies_are_those_of_the_first_verdict_and_people_stand_apart(
    ledger: Ledger, store: Store
) -> None:
    """A decision after one taken back and a rescan's review are no second first verdict."""
    decisions = Decisions(store)
    for name in ("clear", "rescanned"):
        upload(store, name)
    advance(store, "rescanned", AvatarState.REVIEWING, {"decided_by": "model"})
    advance(store, "rescanned", AvatarState.BLOCKED, {"decided_by": "review:tencent"})
    upload(store, "gray", AvatarState.HELD)
    decisions.decide("gray", "approved", by="eve")
    decisions.undo("gray", by="eve")
    decisions.decide("gray", "blocked", by="eve")
    drain_all(ledger, store)
    made = make_report(ledger, Settings(), "day", 2)
    found = {tier: latency.count for tier, latency in made.latencies.items()}
    assert found == {"model": 2, "machine": 2, "operator": 1}
    assert [row[0] for row in tier_rows(made)[1]] == ["model", "machine", "operator"]


def test_uploads_are_counted_by_region(ledger: Ledger, store: Store) -> None:
    """Each upload once, however often it was decided."""
    for number in range(3):
        upload(store, f"u{number}", AvatarState.HELD)
    advance(store, "u0", AvatarState.APPROVED, {"decided_by": "operator:eve"})
    drain_all(ledger, store)
    assert ledger.regions() == {"domestic": 3}


def test_old_events_are_deleted(ledger: Ledger, store: Store) -> None:
    """Retention removes what is older, and nothing else."""
    for number in range(3):
        upload(store, f"u{number}")
    drain_all(ledger, store)
    middle = ledger.story("u1")[0]["at"]
    assert ledger.expire(middle) == 2
    assert count(ledger) == 4
    assert ledger.expire(middle) == 0


def test_a_hole_in_a_story_is_found(ledger: Ledger, store: Store) -> None:
    """Events lost before they got here show as missing sequence numbers."""
    for number in range(3):
        upload(store, f"u{number}", AvatarState.HELD)
        advance(store, f"u{number}", AvatarState.APPROVED, {"decided_by": "operator:eve"})
    lost = next(
        stream_id
        for stream_id, fields in store.events.first(100)
        if (fields["upload_id"], fields["seq"]) == ("u1", "2")
    )
    store.redis.xdel(store.key("events"), lost)
    drain_all(ledger, store)
    assert ledger.broken_stories() == [("u1", 2, 3)]


def test_an_unreadable_event_is_kept_and_blocks_nothing(ledger: Ledger, store: Store) -> None:
    """Nonsense in the stream goes to the ledger as it came; what follows it too."""
    nonsense = {"kind": "x" * 99, "upload_id": "u\x00", "seq": "many", "detail": "{", "at": "nan"}
    store.redis.xadd(store.key("events"), nonsense)  # type: ignore[arg-type]
    store.redis.xadd(store.key("events"), {"detail": "[1]"})
    upload(store, "next")
    assert drain_all(ledger, store) == 4
    assert len(ledger.story("next")) == 2
    assert ledger.story("u")[0]["detail"] == {"unreadable": "{"}


@pytest.mark.parametrize(
    "nonsense",
    [
        {"seq": "1e30"},
        {"seq": str(2**31)},
        {"at": "1e300", "created_at": "-1e300"},
        {"detail": '{"opinions": 7}'},
        {"detail": '{"opinions": [{"cost_yuan": 1e300}]}'},
        {"detail": '{"opinions": [{"cost_yuan": 1%s}]}' % ("0" * 400)},
        {"detail": "[" * 100_000},
        {"detail": '{"reason": "\\ud800", "decided_by": {"a": 1}}'},
    ],
)
def test_no_event_is_one_that_sql_refuses(
    ledger: Ledger, store: Store, nonsense: dict[str, str]
) -> None:
    """It would be tried again for ever, and all later ones behind it."""
    store.redis.xadd(store.key("events"), nonsense | {"upload_id": "odd"})  # type: ignore[arg-type]
    upload(store, "next")
    assert drain_all(ledger, store) == 3
    assert len(ledger.story("next")) == 2
    assert len(ledger.story("odd")) == 1


def test_two_services_share_a_database(settings: Settings, store: Store) -> None:
    """Namespaces do not see each other, even with equal stream ids."""
    here = Ledger.open(settings)
    there = Ledger.open(settings.model_copy(update={"namespace": "other"}))
    other_store = Store(store.redis, "other")
    for target in (store, other_store):
        target.redis.xadd(
            target.key("events"),
            {"kind": "transition", "upload_id": "u", "seq": 1, "from": "", "to": "queued"},
            id="5-1",
        )
    assert (here.drain(store), there.drain(other_store)) == (1, 1)
    assert (len(here.recent()), len(there.recent())) == (1, 1)
    here.close()
    there.close()


def test_many_processes_may_open_a_new_ledger_at_once(settings: Settings) -> None:
    """Migrating is done once, whoever comes first."""
    errors: list[Exception] = []

    def open_it() -> None:
        try:
            Ledger.open(settings).close()
        except Exception as error:  # noqa: BLE001 - reported below
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_tables_of_a_newer_version_are_refused(settings: Settings) -> None:
    """An old program does not write into what it does not know."""
    book = Ledger.open(settings)
    with book.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    book.close()
    with pytest.raises(ConfigurationError, match="revision 9999, newer"):
        Ledger.open(settings)


DRAINER = """
import sys
from pathlib import Path
import redis
from producer.settings import Settings
from producer.record.store import Store
from worker.ledger.writer import Ledger
socket, url, folder = sys.argv[1:]
settings = Settings(data_folder=Path(folder), ledger_url=url or None)
store = Store(redis.Redis(unix_socket_path=socket, decode_responses=True))
ledger = Ledger.open(settings)
print("ready", flush=True)
while True:
    ledger.drain(store, 7)
"""


def test_drainers_killed_again_and_again_drain_exactly_once(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    """SIGKILL at random moments, two drainers at a time: every event is kept exactly once."""
    rng = random.Random(7)
    ledger = Ledger.open(settings)
    url = settings.ledger_url.get_secret_value() if settings.ledger_url else ""
    path = store.redis.connection_pool.connection_kwargs["path"]
    command = [sys.executable, "-c", DRAINER, path, url, str(tmp_path)]
    total = 400
    for number in range(total):
        upload(store, f"u{number:04d}")
    for _ in range(4):
        drainers = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            for _ in range(2)
        ]
        for drainer in drainers:
            assert drainer.stdout is not None
            assert drainer.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0.0, 0.12))
        for drainer in drainers:
            os.kill(drainer.pid, signal.SIGKILL)
            drainer.wait()
            assert drainer.stdout is not None
            drainer.stdout.close()
    before = count(ledger)
    drain_all(ledger, store)
    assert before > 0
    assert count(ledger) == 2 * total
    assert ledger.broken_stories() == []
    ledger.close()


def test_the_memory_guard_counts_what_it_drops(store: Store) -> None:
    """Events lost to the bound of the stream are counted, so that they can be alarmed."""
    for _ in range(500):
        store.events.note("opinion", "u", 1, "", {})
    dropped = store.events.guard(100)
    assert dropped > 0
    assert store.events.dropped() == dropped
    assert store.redis.xlen(store.key("events")) == 500 - dropped


def test_the_duty_waits_for_a_database_that_is_away(store: Store, tmp_path: Path) -> None:
    """Events wait in Redis without an error for the ticker, and arrive in the end."""
    folder = tmp_path / "late"
    settings = Settings(data_folder=tmp_path, ledger_url=f"sqlite:///{folder}/ledger.db")  # type: ignore[arg-type]
    upload(store, "u")
    drain = LedgerDrain(settings, store)
    folder.rmdir()
    folder.write_text("a file where the folder should be")
    drain()
    time.sleep(0.3)
    assert store.redis.xlen(store.key("events")) == 2
    folder.unlink()
    deadline = time.monotonic() + 20
    while store.redis.xlen(store.key("events")) and time.monotonic() < deadline:
        drain()
        time.sleep(0.05)
    drain.close()
    assert store.redis.xlen(store.key("events")) == 0


def test_closing_drains_what_the_last_verdicts_left(store: Store, tmp_path: Path) -> None:
    """A worker that stops leaves nothing behind in Redis."""
    drain = LedgerDrain(Settings(data_folder=tmp_path), store)
    drain()
    upload(store, "u")
    drain.close()
    assert store.redis.xlen(store.key("events")) == 0


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("oracle://h/d", "'oracle' is not known"),
        ("no address", "no database address"),
        ("off", "switched off"),
    ],
)
def test_an_unusable_address_is_named_without_its_secrets(url: str, match: str) -> None:
    """What is wrong is said, the address is not repeated."""
    with pytest.raises(ConfigurationError, match=match):
        ledger_url(Settings(ledger_url=url))  # type: ignore[arg-type]


def test_a_server_that_is_away_is_one_clear_line(tmp_path: Path) -> None:
    """No password and no statement in the message."""
    settings = Settings(
        data_folder=tmp_path,
        ledger_url="postgresql://eve:hunter2@127.0.0.1:1/x",  # type: ignore[arg-type]
    )
    with pytest.raises(LedgerUnavailable) as caught:
        Ledger.open(settings)
    assert "hunter2" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


def test_the_last_migration_is_the_one_named(tmp_path: Path) -> None:
    """Opening compares with a constant; it must not fall behind the files."""
    names = sorted(path.name for path in (MIGRATIONS / "versions").glob("0*.py"))
    assert names[-1].partition("_")[0] == HEAD
