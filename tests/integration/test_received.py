"""Pictures of the API are deleted when they are old, and never while somebody must see them."""

from __future__ import annotations

import datetime
import threading
from pathlib import Path
from typing import Any

import pytest
import redis

from producer.contract import AvatarState, Stage
from producer.record.store import Store
from producer.web.api.uploads import picture_name
from tests.support import change, submit, wait_until
from worker.app import RoleName, Worker
from worker.duties.retention import ReceivedDuty
from worker.settings import WorkerSettings


def put(folder: Path, name: str, *, days_ago: int) -> str:
    """A file as the API would have stored it some days ago; returns its name in the store."""
    day = datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days=days_ago)
    path = folder / "received" / day.isoformat() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"picture")
    return path.relative_to(folder).as_posix()


def duty(store: Store, folder: Path, days: int = 30) -> ReceivedDuty:
    """The duty under test."""
    return ReceivedDuty(store, folder, retention_days=days, stop=threading.Event())


def sweeping() -> bool:
    """Whether a look is under way in this process."""
    return any(thread.name == "received" for thread in threading.enumerate())


def test_the_api_stores_where_the_duty_looks(store: Store, tmp_path: Path) -> None:
    """The name that the API gives today is young, and is understood."""
    name = picture_name("a", b"picture")
    put(tmp_path, name.rpartition("/")[2], days_ago=0)
    old = put(tmp_path, name.rpartition("/")[2], days_ago=31)
    assert duty(store, tmp_path).sweep() == 1
    assert (tmp_path / name).is_file()
    assert not (tmp_path / old).exists()


def test_a_day_goes_when_it_is_older_than_the_retention(store: Store, tmp_path: Path) -> None:
    """The folder too; the last day that is kept stays whole."""
    kept = put(tmp_path, "kept", days_ago=30)
    gone = [put(tmp_path, f"gone{n}", days_ago=31) for n in range(3)]
    assert duty(store, tmp_path).sweep() == 3
    assert (tmp_path / kept).is_file()
    assert not (tmp_path / gone[0]).parent.exists()
    assert duty(store, tmp_path).sweep() == 0


@pytest.mark.parametrize("state", ["queued", "reviewing", "held", "dead"])
def test_the_picture_of_an_open_upload_stays_until_it_is_decided(
    store: Store, tmp_path: Path, state: str
) -> None:
    """However old it is; once decided, the next look takes it."""
    image = put(tmp_path, "mine", days_ago=400)
    other = put(tmp_path, "other", days_ago=400)
    submit(store, "a", image=image)
    submit(store, "b", image=other)
    store.advance([change(store, "b", AvatarState.APPROVED, leaves=Stage.MODERATE)])
    if state != "queued":
        store.advance([change(store, "a", AvatarState(state), leaves=Stage.MODERATE)])
    assert duty(store, tmp_path).sweep() == 1
    assert (tmp_path / image).is_file()
    assert not (tmp_path / other).exists()
    store.advance([change(store, "a", AvatarState.BLOCKED, leaves=Stage.MODERATE)])
    assert duty(store, tmp_path).sweep() == 1
    assert not (tmp_path / image).parent.exists()


def test_a_reference_in_other_words_protects_too(store: Store, tmp_path: Path) -> None:
    """An upload by JSON may name a received picture with a dot or a double slash."""
    image = put(tmp_path, "mine", days_ago=400)
    submit(store, "a", image="./" + image.replace("/", "//"))
    assert duty(store, tmp_path).sweep() == 0


def test_more_open_uploads_than_fit_one_round_trip(store: Store, tmp_path: Path) -> None:
    """Every page of the records is asked for."""
    for number in range(1203):
        submit(store, f"u{number}", image=put(tmp_path, f"p{number}", days_ago=50))
    put(tmp_path, "orphan", days_ago=50)
    assert duty(store, tmp_path).sweep() == 1


def test_what_is_not_a_day_of_ours_is_left_alone(store: Store, tmp_path: Path) -> None:
    """Other folders, other names, links that lead elsewhere, and the rest of the store."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_bytes(b"x")
    folder = tmp_path / "images"
    for name in ("20200101", "2020-W01-1", "notes"):
        (folder / "received" / name).mkdir(parents=True)
        (folder / "received" / name / "file").write_bytes(b"x")
    (folder / "received" / "2020-01-01").symlink_to(elsewhere)
    (folder / "2020-01-01").mkdir()
    (folder / "2020-01-01" / "file").write_bytes(b"x")
    assert duty(store, folder).sweep() == 0
    assert (elsewhere / "file").is_file()
    assert len(list(folder.rglob("file"))) == 4


def test_a_day_that_cannot_be_emptied_does_not_keep_the_others(
    store: Store, tmp_path: Path
) -> None:
    """A folder where only files should be is somebody else's, and stays."""
    odd = tmp_path / "received" / "2020-01-01" / "folder"
    odd.mkdir(parents=True)
    others = [tmp_path / put(tmp_path, "old", days_ago=days) for days in (40, 50)]
    assert duty(store, tmp_path).sweep() == 2
    assert odd.is_dir()
    assert not any(path.exists() for path in others)


def test_nothing_is_deleted_while_redis_cannot_say_what_is_open(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error is no empty list."""
    image = put(tmp_path, "mine", days_ago=400)

    def fail(*_: object, **__: object) -> None:
        raise redis.ConnectionError("away")

    monkeypatch.setattr(store.redis, "pipeline", fail)
    with pytest.raises(redis.ConnectionError):
        duty(store, tmp_path).sweep()
    assert (tmp_path / image).is_file()


def test_one_look_an_hour_by_whichever_process(store: Store, tmp_path: Path) -> None:
    """The second process, or a second tick, finds that somebody has looked."""
    first = tmp_path / put(tmp_path, "first", days_ago=400)
    duty(store, tmp_path)()
    wait_until(lambda: not first.exists(), 30, "the first look deletes")
    wait_until(lambda: not sweeping(), 30, "it ends")
    second = tmp_path / put(tmp_path, "second", days_ago=400)
    duty(store, tmp_path)()
    assert not sweeping()
    assert second.is_file()
    assert 0 < store.redis.ttl(store.key("received", "swept")) <= 3600  # type: ignore[operator]


@pytest.mark.parametrize(
    ("role", "options", "expected"),
    [
        ("io", {}, True),
        ("io", {"received_retention_days": 0}, False),
        ("io", {"image_store": "s3://bucket/avatars"}, False),
        ("moderate", {}, False),
    ],
)
def test_only_io_sweeps_and_only_a_folder(
    role: RoleName, options: dict[str, Any], expected: bool, valkey_url: str, tmp_path: Path
) -> None:
    """For ever and S3 have no duty; the moderate worker has no time."""
    settings = WorkerSettings(
        redis_url=valkey_url,
        namespace=tmp_path.name,
        data_folder=tmp_path,
        ledger_url="off",
        **options,
    )
    worker = Worker(role, settings)
    try:
        assert ("received" in worker.role.duties()) is expected
    finally:
        worker.close()
