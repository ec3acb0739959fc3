"""What is forgotten is gone: from Redis, stores and the ledger, whoever still had it in hand."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from producer.cli import cli
from producer.client import Producer
from producer.contract import AvatarState, Stage
from producer.errors import InvalidUpload, LedgerUnavailable
from producer.forget import Forgetter
from producer.images import Images
from producer.record.dead_letters import DeadLetter, DeadLetters
from producer.record.decisions import Decisions
from producer.record.forgetting import LOOK_AGAIN_S
from producer.record.store import SLOW, Store
from producer.safe_copies import SafeCopies
from producer.settings import Settings, load_settings
from tests.support import CALLBACK_URL, TOKEN, change, claim, put_back, submit
from worker.forget import make_forgetter
from worker.ledger.lazy import LazyLedger
from worker.ledger.writer import Ledger

ID = "person-17/avatar.2"
BYTES = b"a picture, as far as this test goes"
SHA = hashlib.sha256(BYTES).hexdigest()


class Place:
    """A store, folders for pictures and copies, a ledger, and what forgets."""

    def __init__(self, store: Store, folder: Path, **settings: Any) -> None:
        self.store, self.folder = store, folder
        self.pictures, self.copies = folder / "pictures", folder / "copies"
        for each in (self.pictures, self.copies):
            each.mkdir()
        # Else an empty store is one that is not mounted.
        (self.pictures / "another").write_bytes(b"")
        self.settings = load_settings(
            Settings,
            **{
                "namespace": store.keys.prefix.strip("{}:"),
                "data_folder": folder,
                "image_store": str(self.pictures),
                "safe_copies": str(self.copies),
                **settings,
            },
        )
        self.ledger = Ledger.open(self.settings) if settings.get("ledger_url") != "off" else None
        self.lazy = LazyLedger(self.settings)
        self.forgetter = make_forgetter(self.settings, store, Images(self.settings), self.lazy)

    def forget(self, upload_id: str = ID) -> Any:
        [answer] = self.forgetter.forget([upload_id], by="ann")
        return answer

    def look_again(self) -> int:
        """As the workers do when the time has come."""
        for upload_id in self.store.redis.zrange(self.store.keys.forgotten, 0, -1):
            self.store.redis.zadd(self.store.keys.forgotten, {str(upload_id): 0})
        return self.forgetter.look_again()

    def drain(self) -> None:
        assert self.ledger is not None
        self.ledger.drain(self.store)

    def approved(self, upload_id: str = ID, **fields: Any) -> None:
        """An upload through the model: its picture, a copy, a callback, a cached verdict."""
        (self.pictures / "17.png").write_bytes(BYTES)
        submit(self.store, upload_id, image="17.png", callback_url=CALLBACK_URL, **fields)
        SafeCopies(self.settings).put(upload_id, b"copy", "image/jpeg")
        self.store.copies.note(upload_id)
        verdict = {"sha256": SHA, "probability": "0.01", "decided_by": "model"}
        wanted = change(
            self.store,
            upload_id,
            AvatarState.APPROVED,
            fields=verdict,
            leaves=Stage.MODERATE,
            detail={**verdict, "views": [["whole", 0.01, 0.01]]},
            remember=((SHA, "bundle", "policy"), json.dumps({"state": "approved"})),
        )
        assert self.store.advance([wanted])[0].applied
        self.store.redis.hset(self.store.key("review", "opinions", SHA), "fake", "{}")


@pytest.fixture
def place(store: Store, tmp_path: Path) -> Iterator[Place]:
    place = Place(store, tmp_path)
    yield place
    place.lazy.close()
    if place.ledger is not None:
        place.ledger.close()


def contents(store: Store) -> dict[str, str]:
    """Every key of a namespace, with all that is in it as text."""
    readers: dict[str, Callable[[str], object]] = {
        "string": store.redis.get,
        "hash": store.redis.hgetall,
        "zset": lambda key: store.redis.zrange(key, 0, -1),
        "set": store.redis.smembers,
        "stream": store.redis.xrange,
    }
    keys = [str(key) for key in store.redis.scan_iter(match=f"{store.prefix}*", count=1000)]
    return {key: str(readers[str(store.redis.type(key))](key)) for key in keys}


def traces(store: Store, *texts: str) -> list[str]:
    """Keys in whose name or content a text occurs."""
    found = contents(store).items()
    return sorted(key for key, value in found if any(text in key + value for text in texts))


def bury(store: Store, upload_id: str) -> None:
    """Let an upload end in the dead letters."""
    letter = DeadLetter.of(
        upload_id,
        Stage.MODERATE,
        ValueError("odd"),
        attempts=1,
        first_failed_at=0,
        now=store.now(),
    )
    wanted = change(
        store, upload_id, AvatarState.DEAD, leaves=Stage.MODERATE, bury=letter.to_dict()
    )
    assert store.advance([wanted])[0].applied


def test_nothing_is_left_anywhere(place: Place) -> None:
    """Neither id nor hash nor name of the file: not in a key, a value, a folder or the ledger.

    Counts of reports stay; that it was done stays, under a hash that nobody can guess.
    """
    store = place.store
    place.approved(subject="someone")
    Decisions(store).decide(ID, "blocked", by="ann")
    store.events.audit(by="ann", action="block", item=ID, outcome="done", address="10.0.0.9")
    place.drain()
    before = place.ledger.count(0, 1e12).to_json()
    latencies = place.ledger.latencies(0, 1e12)

    answer = place.forget()
    assert answer.removed == {
        "record": 1,
        "callback": 2,
        "picture": 1,
        "safe copy": 1,
        "activity": 1,
        "verdict": 2,
        "ledger row": 4,
    }
    assert (answer.kept, answer.pending) == ((), ())
    assert traces(store, ID, "17.png") == [store.keys.forgotten, store.keys.forgotten_facts]

    assert [place.look_again() for _ in LOOK_AGAIN_S] == [0, 1]
    # What a person decided about a content protects everybody else.
    kept = [store.keys.memory, store.keys.memory_index, store.key("overrule", SHA)]
    assert traces(store, ID, SHA, "17.png", "someone") == kept
    assert traces(store, ID, "17.png", "someone") == []
    assert [entry.upload_id for entry in store.memory.all()] == [""]
    assert sorted(path.name for path in place.pictures.iterdir()) == ["another"]
    assert list(place.copies.iterdir()) == []
    place.drain()
    assert place.ledger.count(0, 1e12).to_json() == before
    assert place.ledger.latencies(0, 1e12) == latencies
    assert place.ledger.recent() == []
    for path in place.folder.glob("ledger.sqlite3*"):
        held = path.read_bytes()
        assert not [text for text in (ID, SHA, "17.png") if text.encode() in held], path.name
    [said] = [row for row in place.ledger.stream(kind="audit") if row["to_state"] == "forget"]
    assert said["upload_id"] == f"~{store.subjects.hashed(ID)}"
    assert (said["detail"]["by"], "1 picture" in said["detail"]["outcome"]) == ("ann", True)


def test_a_second_time_nothing_is_left(place: Place) -> None:
    """No error, before the workers looked again and after; an id that never was is the same."""
    place.approved()
    place.drain()
    assert place.forget().removed
    assert place.forget().removed.keys() <= {"ledger row"}
    for _ in LOOK_AGAIN_S:
        place.drain()
        place.look_again()
    for upload_id in (ID, "never-seen"):
        answer = place.forget(upload_id)
        assert (answer.removed, answer.kept, answer.pending) == ({}, (), ())
    with pytest.raises(InvalidUpload):
        place.forget("../x")


def test_a_file_that_no_upload_names_is_not_touched(place: Place) -> None:
    """An id that is not known is no reason to delete a file of that name."""
    (place.pictures / "stranger").write_bytes(BYTES)
    assert place.forget("stranger").removed == {}
    assert (place.pictures / "stranger").exists()


@pytest.mark.parametrize("lane", ["normal", SLOW])
def test_a_worker_that_finishes_later_brings_nothing_back(place: Place, lane: str) -> None:
    """Its verdict, its retry, its renewal and its lease are refused; its copy goes later."""
    store = place.store
    place.approved("other")  # so that the folder is not empty
    submit(store, ID, image="17.png", callback_url=CALLBACK_URL)
    if lane == SLOW:
        claim(store)
        put_back(store, ID, priority=SLOW)
    [lease] = claim(store, lanes=[lane])
    assert lease.item == ID
    verdict = change(
        store,
        ID,
        AvatarState.BLOCKED,
        fields={"sha256": "f" * 64},
        leaves=Stage.MODERATE,
        remember=(("f" * 64, "bundle"), "{}"),
    )
    dead = change(store, ID, AvatarState.DEAD, leaves=Stage.MODERATE, bury={"item": ID})
    place.forget()

    store.copies.promise(True)
    late_approval = dataclasses.replace(verdict, to=AvatarState.APPROVED)
    results = store.advance([verdict, dead, late_approval])
    assert [(result.applied, result.state) for result in results] == [(False, "")] * 3
    assert store.renew(Stage.MODERATE, [ID], lease_s=9, token=TOKEN) == 0
    assert not put_back(store, ID, fields={"attempts": "1"})
    store.copies.note(ID)
    SafeCopies(place.settings).put(ID, b"late", "image/jpeg")
    store.events.note("opinion", ID, 1, "approve", {"sha256": "f" * 64})

    assert store.get(ID) is None
    assert store.redis.keys(f"{store.prefix}verdict:{'f' * 64}*") == []
    for _ in LOOK_AGAIN_S:
        place.drain()
        place.look_again()
    assert traces(store, ID, "f" * 64) == []
    assert len(list(place.copies.iterdir())) == 1  # the other's
    assert [row for row in place.ledger.stream() if row["upload_id"] == ID] == []


def test_a_callback_in_hand_is_not_sent_again(place: Place) -> None:
    """Whoever delivers it may end or postpone it as ever; nothing comes back."""
    store = place.store
    place.approved()
    entry = store.outbox.get(f"{ID}#2")
    line = f"callback:{entry.endpoint}"
    [lease] = claim(store, line)
    place.forget()
    assert not store.outbox.end(entry, token=TOKEN, detail={})
    assert not put_back(store, lease.item, line, delay_s=1.0)
    assert store.outbox.get(f"{ID}#2") is None
    assert store.waiting(line) == {"waiting": 0, "leased": 0}


def test_dead_letters_go(place: Place) -> None:
    """Of the upload and of its callbacks, also when the record has gone before."""
    store = place.store
    submit(store, ID)
    bury(store, ID)
    for item in (f"{ID}#7", f"{ID}0#7"):
        store.redis.zadd(store.keys.dead, {item: 1})
        store.redis.hset(store.keys.letter(item), "letter", "{}")
    assert place.forget().removed["dead letter"] == 2
    assert DeadLetters(store).count() == 1
    store.redis.zadd(store.keys.dead, {f"{ID}#7": 1})
    assert place.forget().removed["dead letter"] == 1
    assert DeadLetters(store).count() == 1


def test_a_picture_that_is_not_ours_is_named(place: Place) -> None:
    """At an address, in another bucket, or in a folder that we may not change: it stays."""
    store = place.store
    for number, image in enumerate(["https://user:pw@web.example/a.png?key=1", "s3://other/a"]):
        submit(store, f"u{number}", image=image)
        answer = place.forget(f"u{number}")
        assert [line for line in answer.kept if "is not in our image store" in line]
        assert "pw" not in answer.kept[0]
        assert answer.pending == ()


def test_a_folder_that_is_read_only_is_said(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture stays, with the reason; everything else goes."""
    place.approved()

    def refuse(_path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    answer = place.forget()
    assert ["the picture stays" in line for line in answer.kept] == [True]
    monkeypatch.undo()
    assert place.store.get(ID) is None
    place.drain()
    assert [place.look_again() for _ in LOOK_AGAIN_S] == [0, 1]


def test_what_cannot_be_done_now_is_done_by_the_workers(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the ledger and a store are away it is noted, and tried until it is done."""
    place.approved()
    place.drain()

    def away(*_args: object, **_options: object) -> int:
        raise LedgerUnavailable("the database does not answer")

    with monkeypatch.context() as patch:
        patch.setattr("worker.ledger.erase.Eraser.erase", away)
        patch.setattr(Path, "unlink", lambda _: (_ for _ in ()).throw(OSError(5, "I/O error")))
        answer = place.forget()
        assert {line.partition(":")[0] for line in answer.pending} >= {"ledger row", "picture"}
        for _ in range(3):
            assert place.look_again() == 0
    assert [place.look_again() for _ in LOOK_AGAIN_S] == [0, 1]
    assert not (place.pictures / "17.png").exists()
    assert [row for row in place.ledger.stream() if row["upload_id"] == ID] == []


def test_one_that_fails_in_an_unforeseen_way_holds_up_no_other(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays noted and is tried again; the steps behind, and uploads behind, are done."""
    place.approved()
    place.approved("other")
    place.drain()
    remove = place.forgetter._images.remove_of

    def fail(reference: str, upload_id: str) -> bool:
        if upload_id == ID:
            raise ValueError("odd")
        return remove(reference, upload_id)

    with monkeypatch.context() as patch:
        patch.setattr(place.forgetter._images, "remove_of", fail)
        first, second = place.forgetter.forget([ID, "other"], by="ann")
        assert (first.pending, first.removed["safe copy"]) == (("picture: ValueError",), 1)
        assert (second.pending, second.removed["picture"]) == ((), 1)
        assert [place.look_again() for _ in LOOK_AGAIN_S] == [0, 1]
    (place.pictures / "17.png").write_bytes(BYTES)
    assert [place.look_again() for _ in LOOK_AGAIN_S] == [0, 1]
    assert not (place.pictures / "17.png").exists()


def test_events_on_their_way_to_the_ledger_are_waited_for(place: Place) -> None:
    """The id stays noted until the ledger has drained what was written before."""
    place.approved()
    place.forget()
    assert [place.look_again() for _ in range(4)] == [0] * 4
    place.drain()
    assert [place.look_again() for _ in LOOK_AGAIN_S] == [0, 1]
    assert {row["upload_id"][:1] for row in place.ledger.stream()} == {"~"}


def test_an_id_that_is_used_again_is_a_new_upload(place: Place) -> None:
    """Looking again takes nothing from it: neither picture nor copy nor rows."""
    place.approved()
    place.drain()
    place.forget()
    place.store.redis.delete(place.store.keys.copies_promised)
    place.approved()
    place.drain()
    for _ in LOOK_AGAIN_S:
        place.look_again()
    assert place.store.get(ID).state == AvatarState.APPROVED
    assert (place.pictures / "17.png").read_bytes() == BYTES
    assert len(list(place.copies.iterdir())) == 1
    assert len([row for row in place.ledger.stream() if row["upload_id"] == ID]) == 2


def test_without_a_ledger_events_go_from_redis(store: Store, tmp_path: Path) -> None:
    """Of this upload alone."""
    place = Place(store, tmp_path, ledger_url="off")
    place.approved()
    submit(store, "other")
    assert place.forget().removed["event"] == 2
    assert [fields["upload_id"] for _, fields in store.events.first(9)][:1] == ["other"]


def test_a_record_that_has_expired_is_forgotten_by_its_rows(place: Place) -> None:
    """The ledger says where the picture lies and what its hash is."""
    place.approved()
    place.drain()
    place.store.redis.delete(place.store.keys.avatar(ID))
    answer = place.forget()
    assert answer.removed["picture"] == 1
    assert answer.removed["ledger row"] == 2
    assert answer.removed["verdict"] == 2


def test_a_person_is_kept_as_a_hash_and_found_by_it(store: Store, tmp_path: Path) -> None:
    """The index has no other names, and goes with the records."""
    settings = load_settings(Settings, data_folder=tmp_path)
    producer = Producer(store, _Silent(), settings)  # type: ignore[arg-type]
    for number in range(3):
        producer.enqueue(f"u{number}", subject="person/1" if number < 2 else "person/2")
    assert store.subjects.uploads_of("person/1") == ["u0", "u1"]
    assert store.get("u0").subject == store.subjects.hashed("person/1") != "person/1"
    assert traces(store, "person/1") == []
    with pytest.raises(InvalidUpload, match="subject"):
        producer.enqueue("u9", subject="a\nb")

    store.redis.delete(store.keys.avatar("u0"))
    for entry in store.redis.zrange(store.keys.subjects, 0, -1):
        store.redis.zadd(store.keys.subjects, {str(entry): 0})
    assert store.subjects.drop_over(10) == 1
    assert store.subjects.uploads_of("person/1") == ["u1"]
    assert store.subjects.drop_over(10) == 0


def test_a_person_may_be_kept_in_clear(store: Store, tmp_path: Path) -> None:
    """Where a setting says so; found by the same name."""
    settings = load_settings(Settings, data_folder=tmp_path, subjects_in_clear=True)
    Producer(store, _Silent(), settings).enqueue("u0", subject="p 1")  # type: ignore[arg-type]
    assert store.get("u0").subject == "p 1"
    assert store.subjects.uploads_of("p 1") == ["u0"]


class _Silent:
    def ring(self, _stage: Stage) -> None:
        """Nobody sleeps."""


@pytest.fixture
def shell(place: Place, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A command line with the place's settings."""
    for name in ("namespace", "data_folder", "image_store", "safe_copies"):
        monkeypatch.setenv(f"AVATARMOD_{name.upper()}", str(getattr(place.settings, name)))
    monkeypatch.setenv("AVATARMOD_REDIS_URL", valkey_url)
    return place


def test_the_command_asks_says_and_repeats(shell: Place) -> None:
    """--dry-run changes nothing; without --yes somebody must be asked; twice is no error."""
    shell.approved(subject="hash")
    run = CliRunner().invoke
    assert "safe copy" not in run(cli, ["forget", ID, "--dry-run"]).output
    assert shell.store.get(ID) is not None
    assert run(cli, ["forget", ID]).exit_code == 2
    assert run(cli, ["forget"]).exit_code == run(cli, ["forget", "a", "--subject", "b"]).exit_code
    said = run(cli, ["forget", ID, "--yes"])
    assert (said.exit_code, said.output.startswith(f"{ID}  forgotten: record, ")) == (0, True)
    for _ in LOOK_AGAIN_S:
        shell.drain()
        shell.look_again()
    again = run(cli, ["forget", ID, "--yes", "--json"])
    assert again.exit_code == 0
    assert json.loads(again.stdout) == [{"upload_id": ID, "removed": {}, "kept": [], "pending": []}]


def test_the_command_forgets_a_person(shell: Place) -> None:
    """Every upload that came with the subject, and no other's."""
    for number in range(3):
        submit(
            shell.store,
            f"u{number}",
            image="17.png",
            subject=shell.store.subjects.hashed("me" if number else "you"),
        )
    said = CliRunner().invoke(cli, ["forget", "--subject", "me", "--yes", "--json"])
    assert [one["upload_id"] for one in json.loads(said.stdout)] == ["u1", "u2"]
    assert [shell.store.get(f"u{number}") is None for number in range(3)] == [False, True, True]
    empty = CliRunner().invoke(cli, ["forget", "--subject", "nobody", "--yes"])
    assert (empty.exit_code, empty.output) == (
        0,
        "No upload that is still recorded came with this subject.\n",
    )


def test_a_copy_without_a_place_is_said(store: Store, tmp_path: Path) -> None:
    """A host without AVATARMOD_SAFE_COPIES names what it could not remove."""
    place = Place(store, tmp_path)
    place.approved()
    copy = {"name": "x.jpg", "sha256": "", "media_type": "", "width_px": 1, "height_px": 1}
    store.redis.hset(store.keys.avatar(ID), "safe_copy", json.dumps(copy))
    blind = Forgetter(store, Images(place.settings), None, place.lazy.eraser, has_ledger=True)
    [answer] = blind.forget([ID], by="ann")
    assert answer.kept == ("the safe copy x.jpg: AVATARMOD_SAFE_COPIES is not set here",)


def test_an_id_that_is_used_again_at_once_goes_on_counting(place: Place) -> None:
    """A receiver that keeps the highest seq must hear of the new picture."""
    submit(place.store, ID)
    for _ in range(5):
        place.store.advance([change(place.store, ID, AvatarState.HELD)])
    last = place.store.get(ID)
    assert last is not None
    place.forget()
    assert submit(place.store, ID).seq > last.seq
