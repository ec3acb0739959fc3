"""Backfill on a real Valkey, with a stand-in for the workers; killed, paused, rate-limited."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from click.testing import CliRunner
from moto.server import ThreadedMotoServer

from producer.client import Producer
from producer.contract import AvatarState, Priority, Stage
from producer.doorbell import Bells
from producer.errors import ConfigurationError
from producer.record.store import Store, Transition
from worker.commands.backfill import backfill, duration
from worker.demo.pictures import cartoon_face, encode, landscape
from worker.duties.retention import ReceivedDuty
from worker.settings import WorkerSettings
from worker.tools.backfill import Backfill, BackfillFile, Item, Progress, item_id, only_one
from worker.tools.backfill_sources import list_source, slug


@pytest.fixture
def settings(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerSettings:
    path = store.redis.connection_pool.connection_kwargs["path"]
    monkeypatch.setenv("AVATARMOD_DATA_FOLDER", str(tmp_path / "data"))
    monkeypatch.setenv("AVATARMOD_REDIS_URL", f"unix://{path}")
    return WorkerSettings()


@pytest.fixture
def producer(store: Store, settings: WorkerSettings) -> Producer:
    return Producer(store, Bells.connect(store, settings), settings)


def approve_due(store: Store, limit: int = 50) -> list[str]:
    """What a worker does, without looking."""
    leases = store.claim(Stage.MODERATE, limit, lease_s=30, token="t")
    avatars = [a for a in store.get_many([lease.item for lease in leases]) if a]
    store.advance(
        [
            Transition(avatar=a, to=AvatarState.APPROVED, leaves=Stage.MODERATE)
            for a in avatars
            if a.state == AvatarState.QUEUED
        ]
    )
    return [a.upload_id for a in avatars]


@pytest.fixture
def workers(store: Store) -> Iterator[None]:
    """Approves whatever is due, all the time."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.01):
            approve_due(store)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    stop.set()
    thread.join()


def a_file(folder: Path, count: int) -> BackfillFile:
    file = BackfillFile(folder / "b.sqlite3")
    file.list_items("test", (Item(f"old/{n:05d}", "") for n in range(count)))
    return file


def run(
    file: BackfillFile,
    producer: Producer,
    on_progress: Callable[[Progress], object] = lambda _: None,
    *,
    per_s: float | None = None,
    window: int = 100,
    stop: threading.Event | None = None,
) -> bool:
    return Backfill(
        file,
        producer,
        per_s=per_s,
        window=window,
        put=None,
        forget=lambda _: None,
        stop=stop or threading.Event(),
    ).run(on_progress)


def accepted(store: Store) -> Counter[str]:
    """How often each id entered the queue."""
    return Counter(f["upload_id"] for _, f in store.events.first(10**6) if f["to"] == "queued")


def test_killed_five_times_it_ends_with_each_id_once(
    store: Store, settings: WorkerSettings, workers: None, tmp_path: Path
) -> None:
    """SIGKILL while listing and while sending; the same command goes on, nothing is sent twice."""
    total = 3000
    ids = tmp_path / "ids.csv"
    ids.write_text("upload_id\n" + "".join(f"old/{n:05d}\n" for n in range(total)))
    command = [sys.executable, "-m", "producer.cli", "backfill", str(ids), "--name", "k", "--json"]
    command += ["--rate", "1500"]
    rng = random.Random(3)
    kills = 0
    for _ in range(5):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        before = store.redis.xlen(store.key("events"))
        deadline = time.monotonic() + 30
        while store.redis.xlen(store.key("events")) == before and time.monotonic() < deadline:
            if process.poll() is not None:
                break
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.2))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert kills == 5
    assert answer["finished"] is True
    assert answer["outcomes"] == {"approved": total}
    assert accepted(store) == {f"old/{n:05d}": 1 for n in range(total)}


def test_live_uploads_go_first(store: Store, producer: Producer, tmp_path: Path) -> None:
    """Whatever is uploaded now is claimed before the backfill's items."""
    stop = threading.Event()
    with a_file(tmp_path, 50) as file:

        def filled(progress: Progress) -> None:
            if progress.in_queue == 50:
                stop.set()

        run(file, producer, filled, stop=stop)
    producer.enqueue("live-1")
    producer.enqueue("live-2", priority=Priority.HIGH)
    assert approve_due(store, 2) == ["live-2", "live-1"]
    assert approve_due(store, 1)[0].startswith("old/")


def test_the_rate_is_kept(store: Store, producer: Producer, workers: None, tmp_path: Path) -> None:
    """40 items at 40 a second, after one that goes at once, take about a second or more."""
    with a_file(tmp_path, 41) as file:
        started_s = time.monotonic()
        assert run(file, producer, per_s=40)
        assert time.monotonic() - started_s >= 0.95


def test_the_window_bounds_what_is_in_the_queue(
    store: Store, producer: Producer, workers: None, tmp_path: Path
) -> None:
    """Never more than the window is waiting, so a pause takes effect at once."""
    seen = []
    with a_file(tmp_path, 200) as file:
        assert run(file, producer, lambda p: seen.append(p.in_queue), window=7)
    assert max(seen) <= 7


def test_pausing_stops_sending_and_resuming_goes_on(
    store: Store, producer: Producer, workers: None, tmp_path: Path
) -> None:
    """A note in the file is enough; another process may write it."""
    with a_file(tmp_path, 300) as file:
        file.note("paused", "yes")
        waited = []

        def go_on(progress: Progress) -> None:
            waited.append(progress)
            if len(waited) == 3:
                assert not accepted(store)
                with BackfillFile(file.path) as other:
                    other.note("paused", "")

        assert run(file, producer, go_on)
        assert [p.paused for p in waited[:3]] == [True, True, True]
        assert file.outcomes() == {"approved": 300}


def test_the_time_left_is_told(
    store: Store, producer: Producer, workers: None, tmp_path: Path
) -> None:
    """Once something has settled there is a rate and a time."""
    seen: list[Progress] = []
    with a_file(tmp_path, 60) as file:
        run(file, producer, seen.append, per_s=60, window=10)
    middle = [p for p in seen if 0 < p.settled < p.total and p.left_s is not None]
    assert middle
    assert seen[-1].settled == seen[-1].total == 60


def test_refused_items_do_not_stop_the_rest(
    store: Store, producer: Producer, workers: None, tmp_path: Path
) -> None:
    """An id that cannot be is noted with its reason."""
    with BackfillFile(tmp_path / "b.sqlite3") as file:
        file.list_items("test", [Item("good", ""), Item("bad id", ""), Item("fine", "/etc/x")])
        assert run(file, producer)
        assert file.outcomes() == {"approved": 1, "invalid_upload": 2}


def test_a_sample_is_spread_and_holds_all_of_a_short_list(tmp_path: Path) -> None:
    """More asked for than there is: everything."""
    with a_file(tmp_path, 10) as file:
        assert len(file.sample(200)) == len(file.sample(10)) == 10
        assert [item.upload_id for item in file.sample(2)] == ["old/00000", "old/00005"]


def test_only_one_process_runs_a_backfill(tmp_path: Path) -> None:
    """The second is told so."""
    with (
        a_file(tmp_path, 1) as file,
        only_one(file.path),
        pytest.raises(ConfigurationError, match="another process"),
        only_one(file.path),
    ):
        pass


def test_another_source_under_the_same_name_is_refused(tmp_path: Path) -> None:
    """Two lists do not mix."""
    with a_file(tmp_path, 1) as file, pytest.raises(ConfigurationError, match="another --name"):
        file.list_items("other", [])


def test_a_folder_outside_the_store_is_copied_and_cleaned_up(
    store: Store, settings: WorkerSettings, workers: None, tmp_path: Path
) -> None:
    """Workers read the copy; when the picture is decided it is gone again."""
    folder = tmp_path / "old avatars"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "1.png").write_bytes(encode(cartoon_face(), "PNG"))
    (folder / "a" / "头像.png").write_bytes(encode(landscape(), "PNG"))
    result = CliRunner().invoke(backfill, [str(folder), "--id-prefix", "u/", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["outcomes"] == {"approved": 2}
    ids = set(accepted(store))
    assert "u/a/1.png" in ids
    assert all(i.startswith("u/") for i in ids)
    copies = [p for p in Path(settings.image_folder).rglob("*") if p.is_file()]
    assert copies == []


@pytest.mark.parametrize(
    ("options", "heard"),
    [([], "none"), (["--callbacks"], ""), (["--id-prefix", "u/"], "")],
    ids=["ids that only we know", "told to", "the web tier's ids"],
)
def test_the_web_tier_hears_of_ids_that_it_knows(
    store: Store,
    settings: WorkerSettings,
    workers: None,
    tmp_path: Path,
    options: list[str],
    heard: str,
) -> None:
    """A folder from elsewhere has ids of our making: nobody is told unless it is asked for."""
    folder = tmp_path / "from elsewhere"
    folder.mkdir()
    (folder / "a.png").write_bytes(encode(landscape(), "PNG"))
    result = CliRunner().invoke(backfill, [str(folder), *options, "--json"])
    assert result.exit_code == 0, result.output
    prefix = options[-1] if "--id-prefix" in options else ""
    avatar = store.get(item_id(prefix, "a.png"))
    assert avatar is not None
    assert avatar.callback_url == heard


def test_a_dry_run_tells_time_and_money(
    store: Store, settings: WorkerSettings, tmp_path: Path
) -> None:
    """Nothing is enqueued; the sample's seconds and gray share are scaled up, with an interval."""
    folder = tmp_path / "old"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.png").write_bytes(encode(landscape(number), "PNG"))
    result = CliRunner().invoke(backfill, [str(folder), "--dry-run", "--sample", "4", "--json"])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert (answer["total"], answer["sampled"]) == (8, 4)
    assert answer["duration_s"] == pytest.approx(8 * answer["seconds_per_picture"], abs=0.06)
    cost = answer["cost_yuan"]
    assert cost["low"] <= cost["expected"] <= cost["high"]
    assert not accepted(store)
    assert CliRunner().invoke(backfill, ["--status"]).output == "no backfills\n"
    one = CliRunner().invoke(backfill, [str(folder), "--dry-run", "--sample", "1", "--json"])
    assert json.loads(one.stdout)["duration_s"] > 0


def test_a_bucket_is_listed_page_by_page(
    settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys become ids and references; empty objects are left out."""
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    try:
        there = settings.model_copy(
            update={
                "s3_endpoint_url": f"http://{host}:{port}",
                "s3_access_key_id": settings_secret("test"),
                "s3_secret_access_key": settings_secret("test"),
            }
        )
        client = boto3.client(
            "s3",
            endpoint_url=there.s3_endpoint_url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        client.create_bucket(Bucket="avatars")
        for number in range(3):
            client.put_object(Bucket="avatars", Key=f"old/{number}.png", Body=b"x")
        client.put_object(Bucket="avatars", Key="old/empty", Body=b"")
        client.put_object(Bucket="avatars", Key="new/1.png", Body=b"x")
        items = list(list_source(there, "s3://avatars/old/", "u/"))
        client.close()
    finally:
        server.stop()
    assert items == [Item(f"u/{n}.png", f"s3://avatars/old/{n}.png") for n in range(3)]


def settings_secret(text: str) -> object:
    from pydantic import SecretStr

    return SecretStr(text)


def test_pause_and_status_by_name(settings: WorkerSettings) -> None:
    """What runs can be seen and stopped from another terminal."""
    with BackfillFile(settings.data_folder / "backfills" / "mine.sqlite3") as file:
        file.list_items("ids.csv", [Item("a", "")])
    assert CliRunner().invoke(backfill, ["--pause", "--name", "mine"]).exit_code == 0
    result = CliRunner().invoke(backfill, ["--status", "--json"])
    [row] = json.loads(result.stdout)
    assert (row["name"], row["paused"], row["steps"]) == ("mine", True, {"waiting": 1})
    result = CliRunner().invoke(backfill, ["--pause", "--name", "other"])
    assert result.exit_code == 2
    assert "there are: mine" in result.output


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (None, "no folder or file"),
        ("name\nx\n", "needs the column upload_id"),
        ("upload_id,region\na,\nb,mars\n", "line 3: region 'mars'"),
        ("upload_id\n", "no pictures in"),
    ],
)
def test_what_cannot_be_listed_is_no_backfill(
    settings: WorkerSettings, tmp_path: Path, lines: str | None, said: str
) -> None:
    """A slip of the pen leaves no entry behind."""
    source = tmp_path / "ids.csv"
    if lines is not None:
        source.write_text(lines)
    result = CliRunner().invoke(backfill, [str(source)])
    assert said in str(result.exception)
    assert CliRunner().invoke(backfill, ["--status", "--json"]).stdout == "[]\n"
    assert list((settings.data_folder / "backfills").iterdir()) == []


def test_the_state_is_told_and_a_finished_one_forgotten(settings: WorkerSettings) -> None:
    """Running while its process lives, then stopped and to be gone on with, at last finished."""

    def status() -> str:
        result = CliRunner().invoke(backfill, ["--status"], env={"COLUMNS": "160"})
        assert result.exit_code == 0, result.output
        return result.output

    path = settings.data_folder / "backfills" / "mine.sqlite3"
    forget = ["--forget", "--name", "mine"]
    with BackfillFile(path) as file:
        file.list_items("my ids.csv", [Item("a", ""), Item("b", "")])
        with only_one(path):
            assert status().splitlines()[1].split()[:6] == ["mine", "running", "2", "2", "0", "0"]
            assert "another process" in str(CliRunner().invoke(backfill, forget).exception)
        file.move("sent", {"a": ""})
        assert "stopped" in status()
        assert "avatarmod backfill 'my ids.csv' --name mine" in status()
        assert "not finished" in str(CliRunner().invoke(backfill, forget).exception)
        file.move("settled", {"a": "approved", "b": "blocked"})
    assert status().splitlines()[1].split()[:2] == ["mine", "finished"]
    assert "1 approved, 1 blocked" in status()
    assert "forgotten" in CliRunner().invoke(backfill, forget).output
    assert status() == "no backfills\n"
    assert list(path.parent.iterdir()) == []


def test_a_backfill_of_a_long_path_can_be_named(settings: WorkerSettings, tmp_path: Path) -> None:
    """The name that the status shows is the name that the other options take."""
    source = tmp_path / "-".join(["avatars"] * 9)
    folder = settings.data_folder / "backfills"
    with BackfillFile(folder / f"{slug(str(source))}.sqlite3") as file:
        file.list_items(str(source), [Item("a", "")])
    [row] = json.loads(CliRunner().invoke(backfill, ["--status", "--json"]).stdout)
    assert CliRunner().invoke(backfill, ["--pause", "--name", row["name"]]).exit_code == 0


def test_a_prefix_that_no_id_can_have_is_refused(settings: WorkerSettings, tmp_path: Path) -> None:
    """Before anything is listed, rather than once for each picture."""
    for prefix in ("../", "a b/", "/./"):
        with pytest.raises(ConfigurationError, match="cannot begin an upload id"):
            list(list_source(settings, str(tmp_path), prefix))


def test_ids_are_readable_where_they_can_be() -> None:
    """A path with characters that an id may not have becomes a hash; times are for people."""
    assert item_id("u/", "a/1.png") == "u/a/1.png"
    assert item_id("u/", "头像.png").startswith("u/")
    assert len(item_id("u/", "头像.png")) == 34
    assert len(item_id("u/", "a/../b.png")) == 34
    assert [duration(s) for s in (40, 700, 11_100)] == [
        "40 seconds",
        "12 minutes",
        "3 hours and 5 minutes",
    ]


def test_what_redis_forgot_before_it_was_seen_settled_is_sent_again(
    store: Store, producer: Producer, tmp_path: Path
) -> None:
    """A lost Redis in the middle: every picture gets its verdict, and none is called expired."""
    with a_file(tmp_path, 60) as file:
        lost = threading.Event()

        def progress(seen: Progress) -> None:
            if seen.in_queue == 30 and not lost.is_set():
                store.redis.flushall()
                lost.set()
            elif lost.is_set():
                approve_due(store)

        assert run(file, producer, progress, window=30)
        assert file.outcomes() == {"approved": 60}
    assert lost.is_set()


def test_a_smaller_window_after_a_stop_keeps_the_bounds(
    store: Store, producer: Producer, tmp_path: Path
) -> None:
    """More is in the queue than the new window allows: nothing is sent until there is room."""
    stop = threading.Event()
    with a_file(tmp_path, 500) as file:
        run(file, producer, lambda p: p.in_queue >= 100 and stop.set(), window=100, stop=stop)
        stop, seen = threading.Event(), []

        def progress(now: Progress) -> None:
            seen.append(now.in_queue)
            if len(seen) == 6:
                stop.set()

        run(file, producer, progress, window=10, stop=stop)
    assert seen == [100] * 6


def test_copies_of_gray_pictures_go_in_the_end(
    store: Store, settings: WorkerSettings, producer: Producer, tmp_path: Path
) -> None:
    """With the decision, while the backfill runs or in its next run; else by the worker."""
    gone: list[str] = []
    with a_file(tmp_path, 2) as file:
        work = Backfill(
            file,
            producer,
            per_s=None,
            window=10,
            put=lambda item: None,
            forget=lambda item: gone.append(item.upload_id),
            stop=threading.Event(),
        )

        def hold(seen: Progress) -> None:
            for lease in store.claim(Stage.MODERATE, 10, lease_s=30, token="t"):
                avatar = store.get(lease.item)
                assert avatar is not None
                held = Transition(avatar=avatar, to=AvatarState.HELD, leaves=Stage.MODERATE)
                store.advance([held])

        assert work.run(hold)
        assert file.outcomes() == {"held": 2}
        assert gone == []
        avatar = store.get("old/00000")
        assert avatar is not None
        store.advance([Transition(avatar=avatar, to=AvatarState.BLOCKED)])
        work._gray_s = float("-inf")
        assert work.run(lambda _: None)
        assert gone == ["old/00000"]
        assert file.outcomes() == {"held": 1, "blocked": 1}

    folder = Path(settings.image_folder)
    copies = [folder / "backfill" / "x" / name for name in ("open.png", "decided.png", "new.png")]
    for copy in copies:
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(b"")
    for copy in copies[:2]:
        os.utime(copy, (1e9, 1e9))
    producer.enqueue("still-open", "backfill/x/open.png")
    duty = ReceivedDuty(store, folder, retention_days=1, stop=threading.Event())
    assert duty.sweep_copies() == 1
    assert [copy.exists() for copy in copies] == [True, False, True]
