"""The moderating loop on a real Valkey, with a decoder and a model that do as they are told."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from structlog.testing import capture_logs

from producer.contract import AvatarState, Priority, Stage
from producer.errors import CorruptImage, ImageMissing, InferenceFailed, StorageUnavailable
from producer.image_stores import FolderStore
from producer.metrics import Recorder
from producer.record.dead_letters import DeadLetters
from producer.record.store import Advanced, Store, Transition
from tests.support import change, claim, events, places, put_back, submit, wait_until
from worker import retry
from worker.moderation.batch import BatchKnobs, ModerateDrain
from worker.moderation.policy import Policy
from worker.outcomes import Outcomes

#: What the stub model says of a picture, by the first byte of its file.
CLEAR, GRAY, EXPLICIT = 0, 128, 255


@dataclasses.dataclass
class StubView:
    pixels: Any
    frame: int = 0
    background: str = ""
    crop: str = "whole"


@dataclasses.dataclass
class StubPicture:
    views: list[StubView]
    flat: str | None = None
    is_small: bool = False
    unseen: str = ""


class StubDecoder:
    """A picture whose one view is filled with the file's first byte."""

    def __init__(self) -> None:
        self.decoded: list[bytes] = []
        self.before: Callable[[bytes], object] = lambda data: None

    def decode(self, data: bytes, *, patient: bool = False, prints: bool = False) -> StubPicture:
        self.before(data)
        self.decoded.append(data)
        if data.startswith(b"!"):
            raise CorruptImage("the file is damaged")
        if data.startswith(b"_"):
            return StubPicture([], flat="single colour")
        return StubPicture([StubView(np.full((2, 2, 3), data[0], np.uint8))])


@dataclasses.dataclass
class StubScore:
    raw_score: float
    probability: float


class StubEngine:
    """Scores a view by its brightness; counts how often it is asked and for how many."""

    micro_batch = 4

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.before: Callable[[Any], object] = lambda pixels: None

    def score(self, pixels: Any, cut_offs: Sequence[float] = ()) -> list[StubScore]:
        self.batches.append(len(pixels))
        self.before(pixels)
        values = [float(view.flat[0]) / 255 for view in pixels]
        return [StubScore(raw_score=v, probability=v) for v in values]


class Bench:
    """A moderating loop with stubs around it, and the files it fetches."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.files: dict[str, bytes] = {}
        self.fetch: Callable[[str, str], bytes] = self._from_files
        self.decoder = StubDecoder()
        self.engine = StubEngine()
        self.reviewers = False
        self.stop = threading.Event()
        self.outcomes = Outcomes(store, Recorder())
        self.drain = self.new_drain()

    def new_drain(self, **knobs: Any) -> ModerateDrain:
        options = {
            "batch_size": 32,
            "batch_wait_s": 0.0,
            "lease_s": 30.0,
            "fetch_threads": 4,
            "bundle_id": "stub-1",
        }
        return ModerateDrain(
            store=self.store,
            outcomes=self.outcomes,
            fetch=lambda image, upload_id: self.fetch(image, upload_id),
            decoder=self.decoder,
            engine=self.engine,
            policy=Policy(),
            drawn_probability=lambda view: 0.0,
            has_reviewers=lambda region: self.reviewers,
            recorder=Recorder(),
            knobs=BatchKnobs(**{**options, **knobs}),
        )

    def _from_files(self, image: str, upload_id: str) -> bytes:
        try:
            return self.files[upload_id]
        except KeyError:
            raise ImageMissing(f"no file {upload_id!r}") from None

    def upload(self, upload_id: str, data: bytes, **fields: Any) -> None:
        self.files[upload_id] = data
        submit(self.store, upload_id, **fields)

    def run(self) -> int:
        return self.drain.drain(self.stop)

    def state(self, upload_id: str) -> tuple[str, str]:
        avatar = self.store.get(upload_id)
        assert avatar is not None
        return str(avatar.state), avatar.reason


@pytest.fixture
def bench(store: Store) -> Iterator[Bench]:
    """A fresh loop."""
    bench = Bench(store)
    yield bench
    bench.drain.close()


def picture(kind: int, number: int = 0) -> bytes:
    """A file that the stub model judges as told; different numbers are different contents."""
    return bytes([kind]) + number.to_bytes(4, "big")


def test_every_upload_of_a_batch_has_its_own_outcome(bench: Bench) -> None:
    """Clear, explicit, gray, damaged, missing and flat side by side, none touching another."""
    bench.upload("clear", picture(CLEAR))
    bench.upload("explicit", picture(EXPLICIT))
    bench.upload("gray", picture(GRAY))
    bench.upload("damaged", b"!")
    bench.upload("flat", b"_")
    submit(bench.store, "missing")
    assert bench.run() == 6
    assert {name: bench.state(name) for name in ("clear", "explicit", "gray")} == {
        "clear": ("approved", "clear"),
        "explicit": ("blocked", "explicit"),
        "gray": ("held", "no_provider"),
    }
    assert bench.state("damaged") == ("rejected", "damaged")
    assert bench.state("missing") == ("rejected", "missing")
    assert bench.state("flat") == ("approved", "flat: single colour")
    assert bench.store.waiting(Stage.MODERATE) == {"waiting": 0, "leased": 0}


def test_a_gray_picture_goes_to_the_providers_of_its_region(bench: Bench) -> None:
    """With a provider configured, gray is due for review."""
    bench.reviewers = True
    bench.upload("gray", picture(GRAY))
    bench.run()
    assert bench.state("gray") == ("reviewing", "gray")
    assert places(bench.store, "gray", Stage.REVIEW) == ["due:normal"]


def test_more_than_one_batch_is_emptied_in_one_drain(bench: Bench) -> None:
    """The loop goes on claiming until nothing is due."""
    for number in range(100):
        bench.upload(f"u{number}", picture(CLEAR, number))
    assert bench.run() == 100
    assert max(bench.engine.batches) <= bench.engine.micro_batch


def test_a_busy_worker_writes_its_verdicts_together(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One round trip for many; the last are written when the model has nothing more to do."""
    monkeypatch.setattr("worker.moderation.writing.WRITE_EVERY_S", 3600.0)
    sizes: list[int] = []
    advance = bench.store.advance

    def noted(transitions: Sequence[Any]) -> list[Any]:
        sizes.append(len(transitions))
        return advance(transitions)

    monkeypatch.setattr(bench.store, "advance", noted)
    bench.engine.micro_batch = 1
    bench.engine.before = lambda pixels: time.sleep(0.05)
    for number in range(12):
        bench.upload(f"u{number}", picture(CLEAR, number))
    assert bench.run() == 12
    assert sum(sizes) == 12
    assert max(sizes) > 1
    assert bench.store.waiting(Stage.MODERATE) == {"waiting": 0, "leased": 0}


def test_the_same_content_is_scored_once(bench: Bench) -> None:
    """Twins in one micro-batch share a score; a later copy is answered from the cache."""
    scoring = threading.Event()
    bench.decoder.before = lambda data: data[0] == EXPLICIT or scoring.wait(5)

    def wait_for_the_twins(pixels: Any) -> None:
        scoring.set()
        if pixels[0].flat[0] == EXPLICIT:
            wait_until(lambda: len(bench.decoder.decoded) == 3, 30, "both twins are decoded")
            time.sleep(0.1)

    bench.engine.before = wait_for_the_twins
    bench.drain = bench.new_drain(fetch_threads=1)
    bench.upload("first", picture(EXPLICIT))
    for name in ("a", "b"):
        bench.upload(name, picture(CLEAR))
    bench.run()
    bench.upload("c", picture(CLEAR))
    bench.run()
    assert [bench.state(name) for name in "abc"] == [("approved", "clear")] * 3
    assert bench.engine.batches == [1, 1]
    avatar = bench.store.get("c")
    assert avatar is not None
    assert (avatar.decided_by, avatar.probability) == ("cache", 0.0)


def test_a_verdict_holds_only_where_pictures_are_looked_at_alike(bench: Bench) -> None:
    """After a change of frames, crops or backgrounds the same content is scored again."""
    for views_id, upload_id in (("whole", "a"), ("whole", "b"), ("whole and circle", "c")):
        bench.drain.close()
        bench.drain = bench.new_drain(views_id=views_id)
        bench.upload(upload_id, picture(CLEAR))
        bench.run()
    found = [bench.store.get(upload_id) for upload_id in "abc"]
    assert [avatar and avatar.decided_by for avatar in found] == ["model", "cache", "model"]


def test_twins_with_one_bad_neighbour_are_all_decided(bench: Bench) -> None:
    """A split micro-batch still answers every copy of the same content."""

    def fail(pixels: Any) -> None:
        if any(view.flat[0] == 7 for view in pixels):
            raise InferenceFailed("this picture")

    bench.engine.before = fail
    bench.drain = bench.new_drain(batch_wait_s=0.0, fetch_threads=1)
    for number in range(4):
        bench.upload(f"twin{number}", picture(CLEAR))
    bench.upload("bad", picture(7))
    bench.run()
    assert [bench.state(f"twin{n}")[0] for n in range(4)] == ["approved"] * 4
    assert bench.state("bad") == ("dead", "inference_failed")


@pytest.mark.parametrize("error", [RuntimeError("out of arenas"), MemoryError(), ValueError("x")])
def test_an_unforeseen_error_of_the_model_costs_one_attempt_of_one_upload(
    bench: Bench, error: Exception
) -> None:
    """Neighbours are decided; the upload waits for its next attempt and does not spin."""

    def fail(pixels: Any) -> None:
        if any(view.flat[0] == 7 for view in pixels):
            raise error

    bench.engine.before = fail
    bench.upload("bad", picture(7))
    for number in range(6):
        bench.upload(f"u{number}", picture(CLEAR, number))
    assert bench.run() == 6
    avatar = bench.store.get("bad")
    assert avatar is not None
    assert (avatar.state, avatar.attempts) == (AvatarState.QUEUED, 1)
    assert places(bench.store, "bad") == ["due:normal"]
    assert claim(bench.store) == []


def test_a_store_that_does_not_answer_postpones_one_upload(bench: Bench) -> None:
    """The attempt is counted and the next one is due later."""

    def fetch(image: str, upload_id: str) -> bytes:
        if upload_id == "away":
            raise StorageUnavailable("no answer")
        return picture(CLEAR)

    bench.fetch = fetch
    submit(bench.store, "away")
    submit(bench.store, "here")
    assert bench.run() == 1
    avatar = bench.store.get("away")
    assert avatar is not None
    assert (avatar.attempts, avatar.seq) == (1, 1)
    assert places(bench.store, "away") == ["due:normal"]


def test_an_image_store_that_is_not_mounted_rejects_nobody(bench: Bench, tmp_path: Path) -> None:
    """Uploads wait for the repair; then they are decided as if nothing had been."""
    folder = tmp_path / "mount"
    bench.fetch = lambda image, _: FolderStore(folder, max_bytes=100).fetch(image)
    for name in ("a", "b"):
        submit(bench.store, name, image=f"{name}.png")
    assert bench.run() == 0
    assert [bench.state(name)[0] for name in "ab"] == ["queued", "queued"]
    folder.mkdir()
    (folder / "a.png").write_bytes(picture(CLEAR))
    for name in "ab":
        bench.store.redis.zadd(bench.store.keys.due(Stage.MODERATE, Priority.NORMAL), {name: 1.0})
    assert bench.run() == 2
    assert [bench.state(name) for name in "ab"] == [("approved", "clear"), ("rejected", "missing")]


def test_what_comes_back_during_a_slow_write_is_not_lost_sight_of(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postponed, due and claimed again before its first batch is settled: decided all the same."""
    monkeypatch.setattr(retry, "STORAGE_SCHEDULE_S", (0.1,))
    monkeypatch.setattr("worker.moderation.writing.WRITE_EVERY_S", 0.0)
    bench.engine.micro_batch = 1
    asked: list[str] = []

    def fetch(_image: str, upload_id: str) -> bytes:
        asked.append(upload_id)
        if asked.count("away") == 1 and upload_id == "away":
            time.sleep(0.2)
            raise StorageUnavailable("no answer")
        return bench.files[upload_id]

    def slowly(transitions: Sequence[Transition]) -> list[Advanced]:
        results = advance(transitions)
        time.sleep(0.6)
        return results

    bench.fetch = fetch
    advance = bench.store.advance
    monkeypatch.setattr(bench.store, "advance", slowly)
    for number, name in enumerate(("a", "b", "away", "c")):
        bench.upload(name, picture(CLEAR, number))
    bench.run()
    assert asked.count("away") == 2, "it came back while the drain ran"
    assert bench.state("away") == ("approved", "clear")


def test_the_last_attempt_ends_in_the_dead_letters(bench: Bench) -> None:
    """After the whole schedule the upload is dead, with the error and the number of attempts."""

    def fetch(image: str, upload_id: str) -> bytes:
        raise StorageUnavailable("no answer")

    bench.fetch = fetch
    submit(bench.store, "a", image="x")
    attempts = len(retry.STORAGE_SCHEDULE_S)
    bench.store.redis.hset(bench.store.key("avatar", "a"), "attempts", attempts)
    bench.run()
    assert bench.state("a") == ("dead", "attempts_exhausted")
    letter = DeadLetters(bench.store).get("a")
    assert letter is not None
    assert (letter.stage, letter.error, letter.attempts) == (
        Stage.MODERATE,
        "StorageUnavailable",
        attempts + 1,
    )


def test_what_an_operator_said_of_the_content_beats_the_model(bench: Bench) -> None:
    """The same bytes under a new id get the operator's answer, unseen by the model."""
    data = picture(CLEAR)
    key = bench.store.key("overrule", hashlib.sha256(data).hexdigest())
    sticky = {"state": "blocked", "reason": "overruled", "decided_by": "operator:ann"}
    bench.store.redis.set(key, json.dumps(sticky))
    bench.upload("a", data)
    bench.run()
    assert bench.state("a") == ("blocked", "overruled")
    assert bench.engine.batches == []


def test_a_stop_gives_back_what_is_not_scored(bench: Bench) -> None:
    """Whatever was in hand is due at once, and nothing is decided twice afterwards."""
    release = threading.Event()

    def hang(data: bytes) -> None:
        bench.stop.set()
        release.wait(10)

    bench.decoder.before = hang
    for number in range(10):
        bench.upload(f"u{number}", picture(CLEAR, number))
    bench.run()
    release.set()
    assert bench.store.waiting(Stage.MODERATE)["leased"] == 0
    assert bench.store.open_counts()["queued"] == 10
    bench.stop.clear()
    bench.decoder.before = lambda data: None
    assert bench.run() == 10
    transitions = [event["upload_id"] for event in events(bench.store) if event["to"] == "approved"]
    assert sorted(transitions) == sorted(f"u{number}" for number in range(10))


def test_a_slow_picture_keeps_its_lease(bench: Bench) -> None:
    """While it is being fetched its lease is renewed, so that nobody else starts on it."""
    bench.drain = bench.new_drain(lease_s=1.0)
    taken: list[str] = []

    def slow(data: bytes) -> None:
        deadline_s = time.monotonic() + 2.0
        while time.monotonic() < deadline_s:
            taken.extend(lease.item for lease in claim(bench.store, token="other"))
            time.sleep(0.05)

    bench.decoder.before = slow
    bench.upload("a", picture(CLEAR))
    assert bench.run() == 1
    assert taken == []


def test_a_decision_from_elsewhere_ends_the_lease(bench: Bench) -> None:
    """An upload that is decided while it waits is dropped, and the loop goes on to what follows."""
    bench.drain = bench.new_drain(batch_size=2)
    for number in range(5):
        bench.upload(f"u{number}", picture(CLEAR, number))
    for number in range(2):
        key = bench.store.key("avatar", f"u{number}")
        bench.store.redis.hset(key, "state", "approved")
    assert bench.run() == 3
    assert bench.store.waiting(Stage.MODERATE) == {"waiting": 0, "leased": 0}


def test_a_record_that_this_version_cannot_read_does_not_hold_up_others(bench: Bench) -> None:
    """A state of a newer version costs nobody else anything."""
    for number in range(5):
        bench.upload(f"u{number}", picture(CLEAR, number))
    bench.store.redis.hset(bench.store.key("avatar", "u2"), "state", "quarantined")
    assert bench.run() == 4


class TestSuspects:
    """An upload whose holder died is worked on with nobody else at risk."""

    def forsake(self, bench: Bench, *names: str, times: int = 1) -> None:
        """Leave uploads as a worker does that was killed with them in its hands."""
        for name in names:
            bench.upload(name, picture(CLEAR, len(bench.files)))
        for _ in range(times):
            for _ in names:
                claim(bench.store, lease_s=0.001, token="dead")
            time.sleep(0.02)

    def watch_the_suspect(self, bench: Bench) -> set[int]:
        """How many uploads are leased at any moment while the suspect is being decoded."""
        seen: set[int] = set()

        def look(data: bytes) -> None:
            if data == bench.files.get("suspect"):
                for _ in range(30):
                    seen.add(bench.store.waiting(Stage.MODERATE)["leased"])
                    time.sleep(0.02)

        bench.decoder.before = look
        return seen

    def test_it_is_alone_while_others_are_due(self, bench: Bench) -> None:
        """Neither lingering for more nor topping up puts neighbours beside it."""
        self.forsake(bench, "suspect")
        for number in range(20):
            bench.upload(f"u{number}", picture(CLEAR, 100 + number))
        bench.drain = bench.new_drain(batch_wait_s=0.05)
        beside = self.watch_the_suspect(bench)
        assert bench.run() == 21
        assert beside == {1}

    def test_it_waits_until_the_hands_are_empty(self, bench: Bench) -> None:
        """A lease that runs out during a batch is taken after the batch, not into it."""
        bench.upload("suspect", picture(CLEAR, 99))
        claim(bench.store, lease_s=0.4, token="dead")
        for number in range(3):
            bench.upload(f"u{number}", picture(CLEAR, 100 + number))
        beside = self.watch_the_suspect(bench)
        watch = bench.decoder.before

        def look(data: bytes) -> None:
            if data == bench.files["u0"]:
                time.sleep(0.7)
            watch(data)

        bench.decoder.before = look
        assert bench.run() == 4
        assert beside == {1}

    def test_an_upload_that_killed_three_workers_is_quarantined(self, bench: Bench) -> None:
        """It becomes a dead letter without being touched again; those that were near go on."""
        self.forsake(bench, "poison", times=3)
        bench.upload("clear", picture(CLEAR, 99))
        assert bench.run() == 2
        assert bench.state("poison") == ("dead", "worker_killed")
        assert bench.state("clear") == ("approved", "clear")
        letter = DeadLetters(bench.store).get("poison")
        assert letter is not None
        assert letter.error == "WorkerKilled"
        assert bench.files["poison"] not in bench.decoder.decoded


def test_redis_going_away_in_mid_batch_loses_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim that fails ends the drain; the next drain decides all that was in hand."""
    bench.drain = bench.new_drain(batch_size=4, lease_s=0.2)
    for number in range(12):
        bench.upload(f"u{number}", picture(CLEAR, number))
    real = bench.store.claim
    calls = []

    def flaky(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise redis.ConnectionError("gone")
        return real(*args, **options)

    monkeypatch.setattr(bench.store, "claim", flaky)
    with pytest.raises(redis.ConnectionError):
        bench.run()
    time.sleep(0.3)
    bench.run()
    assert bench.store.open_counts()["queued"] == 0
    decided = [event["upload_id"] for event in events(bench.store) if event["to"] == "approved"]
    assert sorted(decided) == sorted(f"u{number}" for number in range(12))


def test_a_late_worker_does_not_disturb_its_successor(bench: Bench) -> None:
    """Who stalled beyond its lease and comes back commits nothing a second time."""
    bench.drain = bench.new_drain(lease_s=0.2)
    bench.upload("a", picture(CLEAR))

    def stall(pixels: Any) -> None:
        time.sleep(0.4)
        [lease] = claim(bench.store, token="other")
        assert lease.crashes == 1
        avatar = bench.store.get("a")
        assert avatar is not None
        assert put_back(bench.store, "a", token="other", delay_s=60.0)

    bench.engine.before = stall
    bench.run()
    assert bench.state("a") == ("approved", "clear")
    assert places(bench.store, "a") == []


def test_a_full_batch_calls_other_workers(bench: Bench, store: Store) -> None:
    """A burst wakes idle workers one after another: whoever takes as much as it may rings again."""
    rung: list[Stage] = []
    bench.outcomes = Outcomes(store, Recorder(), rung.append)
    bench.drain = bench.new_drain(batch_size=2)
    bench.upload("a", bytes([CLEAR]))
    assert bench.run() == 1
    assert rung == []
    for upload_id in ("b", "c", "d"):
        bench.upload(upload_id, bytes([CLEAR]))
    assert bench.run() == 3
    wait_until(lambda: rung == [Stage.MODERATE], 30, "help is called")


def test_a_late_verdict_is_dropped_and_said(bench: Bench, store: Store) -> None:
    """Decided elsewhere after our lease ran out: the first verdict stands, the log names it."""
    bench.upload("a", bytes([EXPLICIT]))

    def decide_elsewhere(_pixels: Any) -> None:
        store.advance([change(store, "a", AvatarState.APPROVED, leaves=Stage.MODERATE)])

    bench.engine.before = decide_elsewhere
    with capture_logs() as logs:
        assert bench.run() == 0
    assert bench.state("a")[0] == "approved"
    [said] = [line for line in logs if line["event"] == "verdict_superseded"]
    assert (said["upload_id"], said["state"], said["seq"]) == ("a", "approved", 2)
