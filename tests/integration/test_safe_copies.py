"""Safe copies on the road: written before anybody is told, gone when nobody may see them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import redis
from click.testing import CliRunner
from moto.server import ThreadedMotoServer

from producer.cli import cli
from producer.contract import Avatar, AvatarState, Stage
from producer.errors import ConfigurationError, InvalidUpload
from producer.findings import SafeCopy, Seen
from producer.images import Images
from producer.metrics import Recorder
from producer.record.dead_letters import DeadLetters
from producer.record.decisions import Decisions, Outdated
from producer.record.store import Advanced, Store
from producer.safe_copies import SafeCopies
from producer.settings import Settings, load_settings
from tests.support import (
    CALLBACK_URL,
    TOKEN,
    callback_line_of,
    change,
    claim,
    places,
    submit,
)
from tests.unit.pictures import STRETCH, blotches, encode
from worker.duties.retention import CopiesDuty
from worker.image.decoder import DecodeLimits, Decoder, ViewOptions
from worker.outcomes import Outcomes
from worker.safe_copies import Copier, CopyStep
from worker.tools.safe_copies import CopyBackfill

PICTURE = encode(blotches(120, 90), "JPEG", comment=b"secret")
WAITS = "approved as soon as its safe copy is written"

SHA = hashlib.sha256(PICTURE).hexdigest()


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(DecodeLimits(), ViewOptions(spec=STRETCH)) as decoder:
        yield decoder


class Shop:
    """A store that promises copies, its two folders, and the step that makes them."""

    def __init__(self, store: Store, folder: Path, decoder: Decoder, **settings: Any) -> None:
        self.store = store
        self.copies_folder, self.images_folder = folder / "copies", folder / "images"
        for each in (self.copies_folder, self.images_folder):
            each.mkdir(exist_ok=True)
        self.settings = load_settings(
            Settings,
            image_store=str(self.images_folder),
            **{"safe_copies": str(self.copies_folder), **settings},
        )
        self.stop = threading.Event()
        self.images = Images(self.settings)
        self.copier = Copier(
            store=store,
            fetch=self.images.fetch,
            encoder=decoder,
            copies=SafeCopies(self.settings),
            max_side_px=64,
        )
        self.step = CopyStep(
            store=store,
            outcomes=Outcomes(store, Recorder()),
            copier=self.copier,
            stop=self.stop,
        )
        store.copies.promise(True)

    def upload(self, upload_id: str, data: bytes = PICTURE) -> None:
        """Accepted, with its bytes in the image store."""
        (self.images_folder / upload_id).write_bytes(data)
        submit(self.store, upload_id, callback_url=CALLBACK_URL)

    def approve(self, upload_id: str, **options: Any) -> Advanced:
        """What a worker does that found a picture clear."""
        options = {"leaves": Stage.MODERATE, "fields": {"sha256": SHA}, **options}
        wanted = change(self.store, upload_id, AvatarState.APPROVED, **options)
        return self.store.advance([wanted])[0]

    def work(self) -> int:
        """Do what is due on the line of copies."""
        leases = claim(self.store, Stage.COPY)
        for lease in leases:
            self.step.handle(Stage.COPY, lease, TOKEN)
        return len(leases)

    def record(self, upload_id: str) -> Avatar:
        """As it stands."""
        avatar = self.store.get(upload_id)
        assert avatar is not None
        return avatar

    def told(self, upload_id: str) -> list[dict[str, Any]]:
        """What the web tier is told of an upload, oldest first."""
        entries = [self.store.outbox.get(f"{upload_id}#{seq}") for seq in range(1, 9)]
        return [entry.data for entry in entries if entry is not None]

    def files(self) -> list[str]:
        """Names of the copies that there are."""
        return sorted(path.name for path in self.copies_folder.iterdir())


@pytest.fixture
def shop(store: Store, tmp_path: Path, decoder: Decoder) -> Shop:
    return Shop(store, tmp_path, decoder)


def test_the_copy_is_written_before_the_approval_is_told(shop: Shop) -> None:
    """Until it is there, the upload stands where it stood, for those who poll and those who hear.

    Then record, callback and answer name it, with the hash of the bytes that lie there.
    """
    shop.upload("a")
    assert shop.approve("a").applied
    before = shop.record("a")
    assert (before.state, before.seq, before.safe_copy) == (AvatarState.QUEUED, 1, None)
    assert (shop.told("a"), shop.files()) == ([], [])
    assert places(shop.store, "a") == []
    assert places(shop.store, "a", Stage.COPY) == ["due:normal"]

    assert shop.work() == 1
    after = shop.record("a")
    assert (after.state, after.seq, after.approval) == (AvatarState.APPROVED, 2, "")
    assert after.safe_copy is not None
    [name] = shop.files()
    path = shop.copies_folder / name
    assert after.safe_copy == SafeCopy(
        name=name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        media_type="image/jpeg",
        width_px=64,
        height_px=48,
    )
    assert b"secret" not in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o644
    [told] = shop.told("a")
    assert told["state"] == "approved"
    assert told["safe_copy"] == dataclasses.asdict(after.safe_copy)
    assert places(shop.store, "a", Stage.COPY) == []
    assert places(shop.store, "a#2", callback_line_of()) == ["due:normal"]


def test_the_ledger_hears_of_one_transition(shop: Shop) -> None:
    """From the state that it stood in, with what the approval said; waiting leaves no trace."""
    shop.upload("a")
    shop.approve("a", detail={"views": [1]}, fields={"sha256": SHA, "decided_by": "model"})
    shop.work()
    rows = [row for row in shop.store.events.first(10) if row[1]["kind"] == "transition"]
    assert [(row["from"], row["to"], row["seq"]) for _, row in rows] == [
        ("", "queued", "1"),
        ("queued", "approved", "2"),
    ]
    assert json.loads(rows[1][1]["detail"]) == {"views": [1]}
    assert shop.store.last_verdict_at() is not None


def test_noting_an_approval_twice_makes_one(shop: Shop) -> None:
    """Redis took it and its answer was lost: the worker writes it again, also after the copy."""
    shop.upload("a")
    avatar = shop.record("a")
    for _ in range(2):
        assert shop.approve("a").applied
    shop.work()
    again = change(shop.store, "a", AvatarState.APPROVED, leaves=Stage.MODERATE)
    late = dataclasses.replace(again, avatar=avatar)
    assert not shop.store.advance([late])[0].applied
    assert shop.work() == 0
    assert len(shop.told("a")) == 1


@pytest.mark.parametrize("state", ["held", "blocked", "dead"])
def test_a_person_approves_and_the_copy_is_made(shop: Shop, state: str) -> None:
    """A console cannot decode; whatever state it stood in, it stays there until the copy is."""
    shop.upload("a")
    bury = {"stage": "moderate"} if state == "dead" else None
    options: dict[str, Any] = {"leaves": Stage.MODERATE, "fields": {"sha256": SHA}}
    shop.store.advance([change(shop.store, "a", AvatarState(state), bury=bury, **options)])
    assert Decisions(shop.store).decide("a", "approved", by="eve").avatar.state == state
    assert not any(told["state"] == "approved" for told in shop.told("a"))
    shop.work()
    after = shop.record("a")
    assert (after.state, after.decided_by) == (AvatarState.APPROVED, "operator:eve")
    assert after.safe_copy is not None
    assert after.sha256 == SHA
    assert [after.safe_copy.name] == shop.files()
    assert not DeadLetters(shop.store).is_buried("a")


def test_a_review_providers_approval_waits_too(shop: Shop) -> None:
    """It leaves the line of reviews; the provider is not asked twice."""
    shop.upload("a")
    options: dict[str, Any] = {"leaves": Stage.MODERATE, "enters": Stage.REVIEW}
    fields = {"sha256": SHA}
    shop.store.advance([change(shop.store, "a", AvatarState.REVIEWING, fields=fields, **options)])
    assert len(claim(shop.store, Stage.REVIEW)) == 1
    shop.approve("a", leaves=Stage.REVIEW, fields={"decided_by": "review:tencent"})
    assert shop.record("a").state == AvatarState.REVIEWING
    assert places(shop.store, "a", Stage.REVIEW) == []
    shop.work()
    assert shop.record("a").decided_by == "review:tencent"
    assert len(shop.files()) == 1


def test_a_person_who_blocks_removes_the_copy(shop: Shop) -> None:
    """At once unnamed in all answers, and gone with the next look; twice does no harm."""
    shop.upload("a")
    shop.approve("a")
    shop.work()
    Decisions(shop.store).decide("a", "blocked", by="eve")
    blocked = shop.record("a")
    assert (blocked.state, blocked.safe_copy) == (AvatarState.BLOCKED, None)
    assert shop.told("a")[-1]["safe_copy"] is None
    assert shop.work() == 1
    assert shop.files() == []
    assert shop.store.copies.over(10) == []
    shop.copier.remove("a")
    assert shop.work() == 0


@pytest.mark.parametrize("to", ["blocked", "reviewing", "held"])
def test_a_rescan_that_changes_its_mind_removes_the_copy(shop: Shop, to: str) -> None:
    """Whatever an approved upload becomes, what it was shown with goes."""
    shop.upload("a")
    shop.approve("a")
    shop.work()
    enters = Stage.REVIEW if to == "reviewing" else None
    shop.store.advance([change(shop.store, "a", AvatarState(to), enters=enters)])
    assert shop.work() == 1
    assert shop.files() == []
    if enters:
        assert places(shop.store, "a", Stage.REVIEW) == ["due:normal"]


def test_blocking_what_waits_for_its_copy_leaves_none(shop: Shop) -> None:
    """A person was faster than the copy, even after it was written."""
    shop.upload("a")
    shop.approve("a")
    Decisions(shop.store).decide("a", "blocked", by="eve")
    shop.work()
    assert (shop.record("a").state, shop.files()) == (AvatarState.BLOCKED, [])

    shop.upload("b")
    shop.approve("b")
    make = shop.copier.make

    def make_and_be_late(avatar: Avatar, sha256: str) -> dict[str, str]:
        fields = make(avatar, sha256)
        assert len(shop.files()) == 1
        Decisions(shop.store).decide("b", "blocked", by="eve")
        return fields

    shop.copier.make = make_and_be_late  # type: ignore[method-assign]
    shop.work()
    assert (shop.record("b").state, shop.files()) == (AvatarState.BLOCKED, [])
    assert places(shop.store, "b", Stage.COPY) == []


def test_two_people_do_not_decide_differently_while_the_copy_is_written(shop: Shop) -> None:
    """Who looked before the approval is told of it; who made it, or says nothing, may change it."""
    decisions = Decisions(shop.store)
    for name in ("a", "b"):
        shop.upload(name)
        held = change(shop.store, name, AvatarState.HELD, leaves=Stage.MODERATE)
        fields = {"sha256": SHA if name == "a" else "cd" * 32}
        shop.store.advance([dataclasses.replace(held, fields=fields)])
        decisions.decide(name, "approved", by="eve")
    seen = Seen(shop.record("a").seq, SHA)
    with pytest.raises(Outdated, match="approved \\(decided by eve\\)"):
        decisions.decide("a", "blocked", by="bob", seen=seen)
    assert decisions.decide("b", "blocked", by="bob").avatar.state == "blocked"
    shop.work()
    assert (shop.record("a").state, shop.record("a").decided_by) == ("approved", "operator:eve")


@pytest.mark.parametrize("state", ["held", "blocked"])
def test_an_approval_that_waits_for_its_copy_is_taken_back(shop: Shop, state: str) -> None:
    """By an undo at once: the upload is held, and is not approved later."""
    shop.upload("a")
    options: dict[str, Any] = {"leaves": Stage.MODERATE, "fields": {"sha256": SHA}}
    shop.store.advance([change(shop.store, "a", AvatarState(state), **options)])
    decisions = Decisions(shop.store)
    decisions.decide("a", "approved", by="eve")
    assert decisions.undo("a", by="eve").avatar.state == "held"
    shop.work()
    after = shop.record("a")
    assert (after.state, after.approval, after.reason) == ("held", "", "undone")
    assert shop.files() == []
    with pytest.raises(InvalidUpload, match="not decided by an operator"):
        decisions.undo("a", by="eve")


def test_no_later_change_leaves_an_approval_that_waits(shop: Shop) -> None:
    """Nor one by somebody who had read the record before; so nothing takes it for approved."""
    shop.upload("a")
    early = change(shop.store, "a", AvatarState.BLOCKED, leaves=Stage.MODERATE)
    shop.approve("a")
    assert shop.store.advance([dataclasses.replace(early, fields={"sha256": SHA})])[0].applied
    assert shop.record("a").approval == ""
    shop.upload("b")
    held = change(shop.store, "b", AvatarState.HELD, leaves=Stage.MODERATE)
    shop.store.advance([dataclasses.replace(held, fields={"sha256": SHA})])
    Decisions(shop.store).decide("b", "approved", by="eve", copies=True)
    shop.work()
    Decisions(shop.store).settling.finish_all()
    shop.work()
    assert (shop.record("a").state, shop.record("b").state) == ("approved", "approved")


def test_a_block_that_comes_while_the_copy_is_written_is_obeyed(shop: Shop) -> None:
    """Of the same picture under another id: what a machine cleared is looked at again."""
    for name in ("a", "b"):
        shop.upload(name)
    shop.approve("a")
    held = change(shop.store, "b", AvatarState.HELD, leaves=Stage.MODERATE)
    shop.store.advance([dataclasses.replace(held, fields={"sha256": SHA})])
    Decisions(shop.store).decide("b", "blocked", by="eve")
    shop.work()
    after = shop.record("a")
    assert (after.state, after.approval, shop.files()) == ("queued", "", [])
    assert places(shop.store, "a") == ["due:normal"]
    assert places(shop.store, "a", Stage.COPY) == []


def test_while_the_store_is_away_nothing_is_approved(shop: Shop) -> None:
    """The upload is postponed as with every store, and approved once the store is back."""
    shop.upload("a")
    shop.approve("a")
    shop.copies_folder.rmdir()
    shop.work()
    waiting = shop.record("a")
    assert (waiting.state, waiting.failures) == (AvatarState.QUEUED, "storage_misconfigured=1")
    assert shop.told("a") == []
    assert "AVATARMOD_SAFE_COPIES" in shop.copier.fault
    assert places(shop.store, "a", Stage.COPY) == ["due:normal"]
    shop.copies_folder.mkdir()
    shop.store.redis.zadd(shop.store.key("due", "copy", "normal"), {"a": 1.0})
    shop.work()
    assert shop.record("a").state == AvatarState.APPROVED
    assert (shop.copier.fault, len(shop.files())) == ("", 1)


def test_a_store_that_is_away_when_a_copy_must_go_is_asked_again(shop: Shop) -> None:
    """Without end: what was blocked must not stay."""
    shop.upload("a")
    shop.approve("a")
    shop.work()
    Decisions(shop.store).decide("a", "blocked", by="eve")
    shop.copies_folder.rename(shop.copies_folder.with_name("away"))
    for _ in range(3):
        shop.work()
        assert places(shop.store, "a", Stage.COPY) == ["due:normal"]
        shop.store.redis.zadd(shop.store.key("due", "copy", "normal"), {"a": 1.0})
    shop.copies_folder.with_name("away").rename(shop.copies_folder)
    shop.work()
    assert shop.files() == []


def test_another_picture_than_the_one_that_was_scored_is_not_approved(shop: Shop) -> None:
    """It was replaced between verdict and copy: rejected, and nothing lies there."""
    shop.upload("a")
    shop.approve("a")
    (shop.images_folder / "a").write_bytes(encode(blotches(120, 90, 7), "JPEG"))
    shop.work()
    rejected = shop.record("a")
    assert (rejected.state, rejected.reason) == (AvatarState.REJECTED, "changed")
    assert shop.files() == []


def test_a_dead_letter_of_copying_is_judged_anew(shop: Shop) -> None:
    """Replayed, it takes the whole road once more and gets its copy."""
    shop.upload("a")
    shop.approve("a")
    for _ in range(3):
        # Holders that died with it in their hands.
        claim(shop.store, Stage.COPY)
        shop.store.redis.zadd(shop.store.key("lease", "copy"), {"a": 1.0})
    shop.work()
    assert shop.record("a").state == AvatarState.DEAD
    assert DeadLetters(shop.store).replay("a", by="eve")
    assert shop.record("a").state == AvatarState.QUEUED
    assert places(shop.store, "a") == ["due:normal"]
    assert shop.work() == 0
    shop.approve("a")
    shop.work()
    assert shop.record("a").safe_copy is not None


def test_switched_off_what_waits_is_approved_without_a_copy(shop: Shop) -> None:
    """Nothing is stuck, and new approvals do not wait."""
    shop.upload("a")
    shop.approve("a")
    shop.store.copies.promise(False)
    outcomes = Outcomes(shop.store, Recorder())
    shop.step = CopyStep(store=shop.store, outcomes=outcomes, copier=None, stop=shop.stop)
    shop.work()
    shop.upload("b")
    shop.approve("b")
    for upload_id in ("a", "b"):
        avatar = shop.record(upload_id)
        assert (avatar.state, avatar.safe_copy) == (AvatarState.APPROVED, None)
        assert shop.told(upload_id)[-1]["safe_copy"] is None


def test_who_decides_with_other_settings_keeps_the_promise(
    shop: Shop, redis_server: redis.Redis
) -> None:
    """A console or a command reads in Redis what the workers promise."""
    shop.upload("a")
    held = change(shop.store, "a", AvatarState.HELD, fields={"sha256": SHA}, leaves=Stage.MODERATE)
    shop.store.advance([held])
    elsewhere = Store(redis_server, shop.store.prefix.strip("{}:"))
    Decisions(elsewhere).decide("a", "approved", by="eve")
    assert shop.record("a").state == AvatarState.HELD
    shop.work()
    assert len(shop.files()) == 1


def test_a_copy_goes_with_its_record(shop: Shop) -> None:
    """Not before: the record's time may have begun anew since."""
    duty = CopiesDuty(shop.store, shop.copier.remove, stop=threading.Event())
    for upload_id in ("old", "young"):
        shop.upload(upload_id)
        shop.approve(upload_id)
        shop.work()
    index = shop.store.key("copies")
    assert duty.sweep() == 0
    shop.store.redis.zadd(index, {"old": 1.0, "young": 1.0})
    shop.store.redis.delete(shop.store.key("avatar", "old"))
    assert duty.sweep() == 1
    young = shop.record("young").safe_copy
    assert young is not None
    assert shop.files() == [young.name]
    later = shop.store.redis.zscore(index, "young")
    assert later is not None
    assert later > shop.store.now() + 3000
    assert shop.store.redis.zscore(index, "old") is None


def test_a_classification_takes_its_copy_along_soon(shop: Shop) -> None:
    """A record that is to go early takes the copy with it."""
    shop.upload("a")
    shop.approve("a")
    shop.work()
    shop.store.forget_after("a", 60)
    at = shop.store.redis.zscore(shop.store.key("copies"), "a")
    assert at is not None
    assert at < shop.store.now() + 61


def test_copies_cannot_lie_among_the_originals(tmp_path: Path) -> None:
    """A name of ours must never stand for a file of the web tier's."""
    settings = load_settings(Settings, image_store=str(tmp_path), safe_copies=f"{tmp_path}/")
    with pytest.raises(ConfigurationError, match="image store itself"):
        SafeCopies(settings)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """An S3-compatible server."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def test_copies_lie_in_a_bucket(
    store: Store, tmp_path: Path, decoder: Decoder, endpoint: str
) -> None:
    """Under the prefix, with their media type, postponed without the bucket, removed on block."""
    keys = {"s3_access_key_id": "key", "s3_secret_access_key": "secret"}
    shop = Shop(
        store,
        tmp_path,
        decoder,
        safe_copies="s3://shown/safe/",
        s3_endpoint_url=endpoint,
        **keys,
    )
    shop.upload("a")
    shop.approve("a")
    shop.work()
    assert shop.record("a").failures == "storage_misconfigured=1"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    client.create_bucket(Bucket="shown")
    store.redis.zadd(store.key("due", "copy", "normal"), {"a": 1.0})
    shop.work()
    copy = shop.record("a").safe_copy
    assert copy is not None
    found = client.get_object(Bucket="shown", Key=f"safe/{copy.name}")
    assert found["ContentType"] == copy.media_type
    assert hashlib.sha256(found["Body"].read()).hexdigest() == copy.sha256
    Decisions(store).decide("a", "blocked", by="eve")
    shop.work()
    assert client.list_objects_v2(Bucket="shown")["KeyCount"] == 0
    client.close()


def backfill(shop: Shop, *options: str) -> dict[str, Any]:
    """The command's answer."""
    run = CliRunner().invoke(cli, ["backfill", "--safe-copies", "--json", *options])
    assert run.exit_code == 0, run.output
    return dict(json.loads(run.stdout))


@pytest.fixture
def earlier(shop: Shop, monkeypatch: pytest.MonkeyPatch, valkey_url: str) -> Shop:
    """Approved before copies were switched on: two with their pictures, one whose is gone."""
    for name, value in (
        ("REDIS_URL", valkey_url),
        ("NAMESPACE", shop.store.prefix.strip("{}:")),
        ("IMAGE_STORE", str(shop.images_folder)),
        ("SAFE_COPIES", str(shop.copies_folder)),
        ("SAFE_COPY_MAX_SIDE_PX", "64"),
    ):
        monkeypatch.setenv(f"AVATARMOD_{name}", value)
    shop.store.copies.promise(False)
    for upload_id in ("a", "b", "gone", "bad"):
        shop.upload(upload_id)
        if upload_id != "bad":
            shop.approve(upload_id, fields={"sha256": SHA, "decided_by": "model"})
    shop.store.advance([change(shop.store, "bad", AvatarState.BLOCKED, leaves=Stage.MODERATE)])
    (shop.images_folder / "gone").unlink()
    return shop


def test_what_was_approved_earlier_gets_its_copy(earlier: Shop) -> None:
    """The web tier hears the name; what has no picture any more stays approved without one.

    A second run finds only that one again, and nothing of what was blocked is copied.
    """
    assert backfill(earlier, "--dry-run")["total"] == 3
    assert earlier.files() == []
    answer = backfill(earlier)
    assert answer["finished"]
    assert answer["outcomes"] == {"copied": 2, "missing": 1}
    for upload_id in ("a", "b"):
        copied = earlier.record(upload_id)
        assert (copied.state, copied.seq, copied.decided_by) == (AvatarState.APPROVED, 3, "model")
        assert copied.safe_copy is not None
        assert earlier.told(upload_id)[-1]["safe_copy"]["name"] == copied.safe_copy.name
    gone = earlier.record("gone")
    assert (gone.state, gone.seq, gone.safe_copy) == (AvatarState.APPROVED, 2, None)
    assert len(earlier.files()) == 2
    assert backfill(earlier)["outcomes"] == {"missing": 1}


def test_a_backfill_of_copies_can_be_silent(earlier: Shop) -> None:
    """Nobody is told, and the answer to a poll names it all the same."""
    backfill(earlier, "--no-callbacks")
    assert [told["seq"] for told in earlier.told("a")] == [2]
    assert earlier.record("a").safe_copy is not None


def test_a_backfill_of_copies_goes_on_where_it_was_stopped(earlier: Shop) -> None:
    """What was done is not done again; who was blocked meanwhile has no copy afterwards."""
    stop = threading.Event()
    work = CopyBackfill(earlier.store, earlier.copier, callbacks=True, stop=stop)
    for outcome in work.run(["a", "b"]):
        assert outcome == "copied"
        break
    assert list(earlier.store.copies.missing()).count("a") == 0
    make = earlier.copier.make

    def make_late(avatar: Avatar, sha256: str) -> dict[str, str]:
        fields = make(avatar, sha256)
        Decisions(earlier.store).decide("b", "blocked", by="eve")
        return fields

    earlier.copier.make = make_late  # type: ignore[method-assign]
    assert list(work.run(["a", "b"])) == ["has one", "changed meanwhile"]
    assert len(earlier.files()) == 1
    earlier.copies_folder.rename(earlier.copies_folder.with_name("away"))
    stop.set()
    assert list(work.run(["gone"])) == []


def test_status_names_the_copy(shop: Shop, earlier: Shop) -> None:
    """In words and as JSON; what waits for its copy is said too."""
    backfill(earlier)
    copy = shop.record("a").safe_copy
    assert copy is not None
    shown = CliRunner().invoke(cli, ["status", "a"]).output
    assert f"safe copy {copy.name} sha256 {copy.sha256}" in shown
    [row] = json.loads(CliRunner().invoke(cli, ["status", "a", "--json"]).output)
    assert row["safe_copy"] == dataclasses.asdict(copy)
    shop.store.copies.promise(True)
    shop.upload("c")
    shop.approve("c")
    assert CliRunner().invoke(cli, ["status", "c"]).output.count(WAITS) == 1
    assert CliRunner().invoke(cli, ["approve", "c"]).output.count(WAITS) == 1
