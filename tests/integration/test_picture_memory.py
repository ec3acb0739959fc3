"""What people decided of a picture, met again in other files: worker, Redis and real pictures."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from producer.contract import Avatar, AvatarState, Stage
from producer.errors import ImageMissing, StorageUnavailable
from producer.findings import LooksLike
from producer.metrics import Recorder
from producer.record.decisions import Decisions
from producer.record.memory import MOST_CLEARED, Prints
from producer.record.store import Store, Transition
from producer.settings import load_settings
from tests.support import change, events, submit
from tests.unit.test_look_alikes import painting
from worker.duties.alarms import evaluate
from worker.duties.facts import gather
from worker.image.decoder import DecodeLimits, Decoder, Picture, ViewOptions
from worker.image.preprocess import InputSpec
from worker.ledger.last_words import LastWords
from worker.memory.duty import MemoryDuty
from worker.memory.index import Index
from worker.memory.memory import PictureMemory, rebuild
from worker.moderation.batch import BatchKnobs, ModerateDrain
from worker.moderation.policy import Policy
from worker.outcomes import Outcomes
from worker.settings import WorkerSettings
from worker.tools.restore import Restore

SPEC = InputSpec(
    width_px=64, height_px=64, resize="short_side", resize_px=64, interpolation="bilinear"
)


def file_of(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@dataclasses.dataclass
class Score:
    raw_score: float
    probability: float


class Bench:
    """The moderating loop on real files; the model says the same of all."""

    def __init__(self, store: Store, decoder: Decoder, folder: Path) -> None:
        self.store, self.decoder, self.path = store, decoder, folder / "memory" / "x.index"
        self.files: dict[str, bytes] = {}
        self.probability, self.reviewers, self.scored = 0.0, False, 0
        self.asked_prints: list[bool] = []
        self.micro_batch = 4
        self.memory = PictureMemory(store.memory, self.path)
        self.decisions = Decisions(store)
        self.duty = MemoryDuty(
            store,
            fetch=self.fetch,
            prints=lambda data, avatar: decoder.prints(
                data, frame=avatar.frame, background=avatar.background
            ),
            path=self.path,
            retention_days=400,
            stop=threading.Event(),
        )
        self.drain = ModerateDrain(
            store=store,
            outcomes=Outcomes(store, Recorder()),
            fetch=self.fetch,
            decoder=self,
            engine=self,  # type: ignore[arg-type]
            policy=Policy(),
            drawn_probability=lambda view: 0.0,
            has_reviewers=lambda region: self.reviewers,
            recorder=Recorder(),
            knobs=BatchKnobs(
                batch_size=32, batch_wait_s=0.0, lease_s=30.0, fetch_threads=2, bundle_id="stub-1"
            ),
            memory=self.memory,
        )

    def fetch(self, image: str, upload_id: str) -> bytes:
        if upload_id not in self.files:
            raise ImageMissing("no such file")
        return self.files[upload_id]

    def decode(self, data: bytes, *, patient: bool = False, prints: bool = False) -> Picture:
        self.asked_prints.append(prints)
        return self.decoder.decode(data, patient=patient, prints=prints)

    def score(self, pixels: Any, cut_offs: Sequence[float] = ()) -> list[Score]:
        self.scored += len(pixels)
        return [Score(self.probability, self.probability) for _ in pixels]

    def upload(self, upload_id: str, data: bytes) -> Avatar:
        """Accepted and decided by the worker, which has read what people did until now."""
        self.files[upload_id] = data
        submit(self.store, upload_id)
        self.memory._followed_s = -10.0
        self.drain.drain(threading.Event())
        return self.get(upload_id)

    def get(self, upload_id: str) -> Avatar:
        avatar = self.store.get(upload_id)
        assert avatar is not None
        return avatar

    def decide(self, upload_id: str, verdict: Any) -> Avatar:
        """By a person; the duty follows."""
        avatar = self.decisions.decide(upload_id, verdict, by="ann").avatar
        self.duty.print_all()
        return avatar


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(DecodeLimits(), ViewOptions(spec=SPEC)) as decoder:
        yield decoder


@pytest.fixture
def bench(store: Store, decoder: Decoder, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(store, decoder, tmp_path)
    yield bench
    bench.drain.close()


@pytest.fixture
def blocked(bench: Bench) -> Bench:
    """A picture that the model passed and a person blocked."""
    assert bench.upload("first", file_of(painting(1))).state == "approved"
    bench.decide("first", "blocked")
    return bench


def test_a_look_alike_of_a_blocked_picture_waits_for_a_person(blocked: Bench) -> None:
    """With the earlier one, its decision and how far they are apart; no provider is asked."""
    blocked.reviewers = True
    avatar = blocked.upload("copy", file_of(painting(1).resize((200, 150)), "JPEG", quality=60))
    assert (avatar.state, avatar.reason, avatar.decided_by) == (
        "held",
        "looks_like_blocked",
        "memory",
    )
    like = avatar.looks_like
    assert like is not None
    assert (like.upload_id, like.sha256) == ("first", blocked.get("first").sha256)
    assert (like.state, like.decided_by) == ("blocked", "operator:ann")
    assert 0 <= like.distance <= 31
    held = [json.loads(event["detail"]) for event in events(blocked.store) if event["to"] == "held"]
    assert LooksLike.from_json(held[0]["looks_like"]) == dataclasses.replace(like, upload_id="")
    assert blocked.upload("other", file_of(painting(2))).state == "approved"


def test_the_same_pixels_in_other_bytes_are_decided_alike(blocked: Bench) -> None:
    """One appended byte, or another lossless form, changes nothing."""
    image = painting(1)
    for name, data in {
        "byte": file_of(image) + b"\0",
        "webp": file_of(image, "WEBP", lossless=True, exact=True),
        "level": file_of(image, compress_level=1),
    }.items():
        avatar = blocked.upload(name, data)
        assert (avatar.state, avatar.reason, avatar.decided_by) == (
            "blocked",
            "overruled",
            "operator:ann",
        ), name
    blocked.probability = 0.99
    assert blocked.upload("model", file_of(painting(3))).state == "blocked"
    blocked.decide("model", "approved")
    assert blocked.upload("again", file_of(painting(3)) + b"\0").state == "approved"
    assert blocked.upload("like", file_of(painting(3), "JPEG", quality=80)).state == "blocked"


def test_without_a_decision_nothing_is_hashed(bench: Bench) -> None:
    """A site whose people decide nothing pays nothing."""
    for seed in range(3):
        bench.upload(f"u{seed}", file_of(painting(seed)))
    assert bench.asked_prints == [False] * 3
    assert bench.store.memory.wanted(9) == []
    bench.decide("u1", "blocked")
    bench.upload("u4", file_of(painting(4)))
    assert bench.asked_prints[-1]


def test_a_verdict_on_file_does_not_hide_a_look_alike(bench: Bench) -> None:
    """The copy was approved before its like was blocked; its bytes come once more."""
    copy = file_of(painting(1), "JPEG", quality=70)
    for name, data in (("first", file_of(painting(1))), ("copy", copy), ("copy2", copy)):
        assert bench.upload(name, data).state == "approved"
    assert bench.get("copy2").decided_by == "cache"
    bench.decide("first", "blocked")
    assert bench.upload("copy3", copy).reason == "looks_like_blocked"
    scored = bench.scored
    assert bench.upload("copy4", copy).reason == "looks_like_blocked"
    assert bench.scored == scored
    bench.decisions.undo("first", by="ann")
    bench.decide("copy3", "blocked")
    bench.decisions.undo("copy3", by="ann")
    bench.upload("fifth", file_of(painting(5)))
    bench.decide("fifth", "blocked")
    assert bench.upload("copy6", copy).decided_by == "cache"


def test_a_decision_taken_back_is_forgotten(blocked: Bench) -> None:
    """What looked like it passes again."""
    blocked.decisions.undo("first", by="ann")
    assert blocked.store.memory.count() == 0
    assert blocked.upload("copy", file_of(painting(1), "JPEG", quality=60)).state == "approved"
    assert blocked.upload("byte", file_of(painting(1)) + b"\0").state == "approved"


def test_an_approved_match_is_not_held_against_that_picture_again(blocked: Bench) -> None:
    """For the pair only: another look-alike is held, and the first stays blocked."""
    first = file_of(painting(1), "JPEG", quality=60)
    blocked.upload("copy", first)
    blocked.decide("copy", "approved")
    assert blocked.upload("again", first).state == "approved"
    assert blocked.store.memory.forget(blocked.get("copy").sha256)
    assert blocked.upload("pair", first).reason != "looks_like_blocked"
    assert blocked.upload("third", file_of(painting(1), "JPEG", quality=50)).state == "held"


def test_a_hash_that_people_keep_overruling_is_ignored(blocked: Bench) -> None:
    """After four different pictures were approved though they look like it; not before."""
    for number in range(MOST_CLEARED + 1):
        name = f"copy{number}"
        data = file_of(painting(1), "JPEG", quality=60 + number)
        assert blocked.upload(name, data).reason == "looks_like_blocked"
        blocked.decide(name, "approved")
    assert blocked.upload("last", file_of(painting(1), "JPEG", quality=90)).state == "approved"
    blocked.decisions.undo("copy0", by="ann")
    assert blocked.upload("more", file_of(painting(1), "JPEG", quality=91)).state == "held"


def test_a_list_of_harmless_pictures_keeps_what_is_nearer_from_being_held(blocked: Bench) -> None:
    """And a list of blocked ones holds what looks like it, though nobody here decided."""
    copy = file_of(painting(1).resize((160, 120)))
    digest = blocked.decoder.decode(copy, prints=True).prints[0]
    other = blocked.decoder.decode(file_of(painting(7)), prints=True).prints[0]
    blocked.store.memory.add_listed([(digest, "harmless", ""), (other, "blocked", "from a friend")])
    assert blocked.upload("copy", copy).state == "approved"
    avatar = blocked.upload("listed", file_of(painting(7), "JPEG"))
    assert (avatar.reason, avatar.looks_like and avatar.looks_like.upload_id) == (
        "looks_like_blocked",
        "",
    )


def test_a_providers_block_is_remembered(bench: Bench) -> None:
    """Explicit by a provider: the same pixels are blocked, a look-alike is held."""
    bench.reviewers, bench.probability = True, 0.5
    bench.upload("gray", file_of(painting(1)))
    bench.duty.print_all()
    fields = {"decided_by": "review:fake", "reason": "Porn"}
    step = change(bench.store, "gray", AvatarState.BLOCKED, fields=fields, leaves=Stage.REVIEW)
    del bench.files["gray"]  # by whoever was told of the block
    bench.store.advance([step])
    bench.duty.print_all()
    same = bench.upload("same", file_of(painting(1)) + b"\0")
    assert (same.state, same.reason, same.decided_by) == ("blocked", "same_pixels", "memory")
    assert bench.upload("like", file_of(painting(1), "JPEG")).reason == "looks_like_blocked"


def test_what_a_rule_explains_is_not_looked_for(bench: Bench) -> None:
    """A single colour that a person blocked is remembered by its pixels only."""
    assert bench.upload("red", file_of(Image.new("RGB", (90, 90), "red"))).state == "approved"
    bench.decide("red", "blocked")
    entry = bench.store.memory.get(bench.get("red").sha256)
    assert entry is not None
    assert (entry.state, entry.prints.hashes) == ("blocked", ())
    assert bench.upload("blue", file_of(Image.new("RGB", (90, 90), "blue"))).state == "approved"


def test_a_late_decision_changes_nothing_in_the_memory(blocked: Bench) -> None:
    """It is one step: the record moved on, so neither it nor the memory changes."""
    stale = dataclasses.replace(blocked.get("first"), seq=1)
    fields = {"decided_by": "operator:bob", "reason": "overruled"}
    late = Transition(avatar=stale, to=AvatarState.APPROVED, fields=fields, by="bob")
    assert not blocked.store.advance([late])[0].applied
    [entry] = blocked.store.memory.all()
    assert (entry.state, entry.by) == ("blocked", "operator:ann")


def test_a_picture_that_cannot_be_fetched_now_is_printed_later(bench: Bench) -> None:
    """And one that is gone is remembered by its bytes; nothing waits for it."""
    memory = bench.store.memory
    for seed, name in enumerate(("away", "gone")):
        bench.upload(name, file_of(painting(seed)))
        bench.decisions.decide(name, "blocked", by="ann")

    def fetch(image: str, upload_id: str) -> bytes:
        raise StorageUnavailable("no answer") if upload_id == "away" else ImageMissing("gone")

    bench.duty._fetch = fetch
    bench.duty.print_all()
    assert memory.wanted(9) == []
    assert bench.store.redis.zrange(bench.store.keys.memory_wanted, 0, -1) == ["away"]
    assert memory.count() == 2


def test_processes_share_a_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One writes it when much was added, others map it; what was forgotten goes with a rebuild."""
    monkeypatch.setattr("worker.memory.memory.MOST_BESIDE", 10)
    hashes = [hashlib.sha256(bytes([n])).digest() for n in range(25)]
    memory = bench.store.memory
    memory.add_listed((digest, "blocked", "") for digest in hashes)
    one, two = (PictureMemory(memory, bench.path) for _ in range(2))
    for process in (one, two):
        assert all(process.find((digest,), "", "") for digest in hashes)
        assert not process.find((bytes(32),), "", "")
    shared = Index.open(bench.path)
    assert shared is not None
    assert (len(shared), shared.origin) == (25, memory.origin())
    assert memory.forget(f"list:{hashes[3].hex()}")
    assert not one.find((hashes[3],), "", "")
    assert rebuild(memory, bench.path) == 24
    one._followed_s = -10.0
    assert one.find((hashes[4],), "", "") is not None
    # Another memory under the same name, as after the loss of Redis, does not take it for its own.
    bench.store.redis.flushdb()
    assert PictureMemory(memory, bench.path).is_empty()
    one._followed_s = -10.0
    assert one.is_empty()


def test_entries_expire(blocked: Bench) -> None:
    """After their retention; what was written since stays."""
    memory, now = blocked.store.memory, blocked.store.now()
    assert memory.expire(now - 400 * 86400) == 0
    assert memory.expire(now + 1) == 1
    assert (memory.count(), memory.get(blocked.get("first").sha256)) == (0, None)


def test_the_ledger_hears_what_is_needed_to_restore_it(blocked: Bench) -> None:
    """An event with the prints for each entry, and one when it is forgotten."""
    [said] = [event for event in events(blocked.store) if event["kind"] == "memory"]
    detail = json.loads(said["detail"])
    assert (said["upload_id"], said["to"]) == ("first", "blocked")
    assert detail["sha256"] == blocked.get("first").sha256
    assert len(Prints.from_json(detail["seen"]).hashes) == 5
    [entry] = blocked.store.memory.all()
    blocked.upload("other", file_of(painting(2)))
    blocked.decide("other", "blocked")
    blocked.decisions.undo("other", by="ann")
    told = [event for event in events(blocked.store) if event["kind"] == "memory"]
    assert [event["to"] for event in told] == ["blocked", "blocked", "forgotten"]

    class Ledger:
        def stream(self, *, kind: str) -> list[dict[str, Any]]:
            assert kind == "memory"
            rows = [{**e, "to_state": e["to"], "detail": json.loads(e["detail"])} for e in told]
            return [{**row, "id": number} for number, row in enumerate(rows)]

    blocked.store.redis.flushdb()
    for expected in ("restored", "known"):
        run = Restore(blocked.store, Ledger(), lambda *_: False, dry_run=False)
        remembered, _ = LastWords(Ledger(), since=0.0).memory()
        assert list(run._memory(remembered)) == ["memory"]
        assert run.done.memory == {expected: 1}
    [again] = blocked.store.memory.all()
    assert dataclasses.replace(again, id="") == dataclasses.replace(entry, id="")


def test_an_upload_that_is_forgotten_is_no_longer_named(blocked: Bench) -> None:
    """What was decided of the content stays, with its prints, as long as before."""
    sha256 = blocked.get("first").sha256
    blocked.store.redis.delete(blocked.store.keys.memory_seen(sha256))
    blocked.store.memory.disown(sha256, "somebody else's")
    assert blocked.store.memory.get(sha256).upload_id == "first"
    blocked.store.memory.disown(sha256, "first")
    avatar = blocked.upload("copy", file_of(painting(1), "JPEG", quality=60))
    assert (avatar.reason, avatar.looks_like.upload_id) == ("looks_like_blocked", "")


def test_what_many_uploads_look_like_is_counted(blocked: Bench) -> None:
    """Per picture and hour, each upload once; as many as the setting says raise an alarm."""
    settings = load_settings(WorkerSettings, alarm_look_alikes=3)

    def codes() -> list[str]:
        found = evaluate(gather(blocked.store, settings), settings)
        return [alarm.code for alarm in found if alarm.code.startswith("look_alikes_")]

    for number in range(3):
        blocked.upload(f"copy{number}", file_of(painting(1), "JPEG", quality=60 + number))
        assert (number == 2) == bool(codes())
    sha256 = blocked.get("first").sha256
    assert blocked.store.memory.met() == {sha256: 3}
    assert codes() == [f"look_alikes_{sha256[:12]}"]


def test_lists_go_in_and_out_as_csv(
    blocked: Bench, store: Store, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `export` prints `import` reads; wrong lines are named and nothing is added."""
    from producer.cli import cli

    monkeypatch.setenv("AVATARMOD_REDIS_URL", valkey_url)
    monkeypatch.setenv("AVATARMOD_NAMESPACE", store.prefix[1:-2])
    run = CliRunner().invoke

    exported = run(cli, ["memory", "export"]).output
    assert len(exported.splitlines()) == 6
    done = run(cli, ["memory", "import", "-"], input=exported)
    assert (done.output, done.exception) == ("5 hashes added or replaced\n", None)
    assert json.loads(run(cli, ["memory", "stats", "--json"]).output)["entries"] == {
        "blocked": 1,
        "blocked, listed": 5,
    }
    rows = json.loads(run(cli, ["memory", "list", "--json"]).output)
    assert (rows[0]["upload_id"], rows[0]["hashes"]) == ("first", 5)
    assert "first" in run(cli, ["memory", "list"]).output
    bad = run(cli, ["memory", "import", "-"], input=f"{'ab' * 32},blocked\n12,blocked\n")
    assert (bad.exit_code, "line 2" in bad.output) == (1, True)
    assert run(cli, ["memory", "import", "-"], input="ab" * 32).exit_code == 1
    for note in ("=1+1", "'=1+1"):
        odd = f"{'cd' * 32},blocked,{note}\n"
        assert run(cli, ["memory", "import", "-"], input=odd).exit_code == 0
        assert f"{'cd' * 32},blocked,'=1+1\n" in run(cli, ["memory", "export"]).output
        entry = store.memory.get(f"list:{'cd' * 32}")
        assert (entry and entry.note) == "=1+1"
    listed = "ab" * 32
    assert run(cli, ["memory", "import", "--label", "harmless", "-"], input=listed).exit_code == 0
    assert run(cli, ["memory", "forget", listed, "first"]).exit_code == 0
    assert run(cli, ["memory", "forget", "first"]).exit_code == 1
    assert blocked.upload("copy", file_of(painting(9))).state == "approved"
