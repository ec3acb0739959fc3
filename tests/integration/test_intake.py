"""Uploads that come by the stream: taken over like others, refused in words, never lost."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from producer import Producer
from producer.contract import AvatarState, Stage
from producer.record import intake as record_intake
from producer.record.store import Store
from producer.settings import Settings, load_settings
from worker.intake import IntakeThread

ROOT = Path(__file__).parents[2]

Make = Callable[..., IntakeThread]


class Silent:
    """Takes every doorbell."""

    def ring(self, _stage: Stage) -> bool:
        return True


@pytest.fixture
def make(store: Store) -> Make:
    """Makes the thread of a worker, not started."""

    def start(stop: threading.Event | None = None, **settings: Any) -> IntakeThread:
        producer = Producer(store, Silent(), load_settings(Settings, **settings))
        ours = ("s3://ours/received/",)
        return IntakeThread(store, producer, ours=ours, stop=stop or threading.Event())

    return start


def add(store: Store, **fields: Any) -> str:
    """One entry, as a foreign program writes it."""
    return str(store.redis.xadd(store.key("intake"), fields))


def created(bucket: str, key: str, etag: str, name: str = "s3:ObjectCreated:Put") -> dict[str, Any]:
    """One record of a bucket event."""
    return {
        "eventName": name,
        "s3": {"bucket": {"name": bucket}, "object": {"key": key, "eTag": etag}},
    }


def test_an_entry_becomes_an_upload_and_is_gone(store: Store, make: Make) -> None:
    """All fields arrive as `enqueue` takes them; the stream holds only what waits."""
    add(store, upload_id="user-17/3", image="s3://a/17.png", region="overseas", subject="17")
    assert store.intake.facts()[0] == 1
    assert make().look(wait_s=0.1)
    avatar = store.get("user-17/3")
    assert avatar is not None
    assert (avatar.state, avatar.image, avatar.region) == ("queued", "s3://a/17.png", "overseas")
    assert avatar.subject == store.subjects.hashed("17")
    assert store.intake.facts() == (0, None)
    assert store.intake.refusals(10) == []


def test_sending_it_again_changes_nothing(store: Store, make: Make) -> None:
    """The id is the key, here as everywhere."""
    for _ in range(3):
        add(store, upload_id="again", image="first.png")
    make().look(wait_s=0.1)
    avatar = store.get("again")
    assert avatar is not None
    assert avatar.image == "first.png"
    assert store.open_counts()["queued"] == 1


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"image": "x"}, "upload_id"),
        ({"upload_id": "a b"}, "upload_id"),
        ({"upload_id": "a", "image": "ftp://x/y"}, "image"),
        ({"upload_id": "a", "image": "https://169.254.169.254/x"}, "image"),
        ({"upload_id": "a", "region": "moon"}, "region"),
        ({"upload_id": "a", "priority": "now"}, "priority"),
        ({"upload_id": "a", "callback_url": "https://elsewhere.example"}, "callback_url"),
        ({"upload_id": "a", "colour": "red"}, "colour"),
        ({"upload_id": "a", "event": "{}"}, "upload_id"),
        ({"event": "{}"}, "event"),
        ({"event": "no JSON"}, "event"),
        ({"event": "[1]"}, "event"),
        ({"upload_id": "a", "image": b"\xff\xfe"}, ""),
    ],
)
def test_what_enqueue_refuses_is_answered_on_the_stream(
    store: Store, make: Make, fields: dict[str, Any], field: str
) -> None:
    """The answer names entry, id, code and field; the neighbour is taken all the same."""
    place = add(store, **fields)
    add(store, upload_id="good")
    assert make().look(wait_s=0.1)
    (refusal,) = store.intake.refusals(10)
    assert (refusal["entry"], refusal["field"]) == (place, field)
    assert refusal["upload_id"] == str(fields.get("upload_id", "") if field != "" else "")
    assert refusal["code"] in ("invalid_upload", "private_address")
    assert refusal["detail"]
    assert store.get("good") is not None
    assert store.get("a") is None
    assert store.intake.facts()[0] == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"image": "https://me:s3cret@host.example:99999/a.png"},
        {"image": "https://host.example:99999/a.png?token=s3cret"},
        {"image": "ftp://me:s3cret@host.example/a.png"},
        {"image": "s3://me:s3cret@host.example"},
        {"image": "https://me:s3cret@[host.example/a.png"},
        {"image": "https://me:s3cret@host.example/\x07"},
        {"image": "https://me:s3cret@10.0.0.1/a.png"},
        {"image": "http://me:s3cret@host.example/a.png?s3cret"},
        {"callback_url": "https://me:s3cret@host.example/hook"},
        {"callback_url": "https://host.example/hook?s3cret"},
        {"callback_url": "https://me:s3cret@[host.example/hook"},
    ],
)
def test_a_refused_address_repeats_no_secret(
    store: Store, make: Make, capsys: pytest.CaptureFixture[str], fields: dict[str, str]
) -> None:
    """Neither on the stream nor in the log: no user, no password, no query."""
    add(store, upload_id="a", **fields)
    assert make(callback_allowed_urls=["https://web.example/"]).look(wait_s=0.1)
    [refusal] = store.intake.refusals(10)
    assert refusal["field"] in fields or refusal["code"] in ("private_address", "insecure_address")
    said = capsys.readouterr()
    assert "intake_refused" in said.out + said.err
    assert "s3cret" not in said.out + said.err + refusal["detail"]


@pytest.mark.parametrize(
    "event",
    [
        '{"Records": ' + "[" * 100_000 + "]" * 100_000 + "}",
        json.dumps({"Records": [created("\ud800", "a.png", "e")]}),
        json.dumps({"Records": [created("bucket", "\ud800.png", "e")]}),
        json.dumps({"Records": [created("bucket", "a.png", "e")]}).replace('"e"', "9" * 5000),
    ],
    ids=["deep", "half a character in the bucket", "half a character in the key", "a long number"],
)
def test_an_event_that_nobody_can_read_holds_up_no_other(
    store: Store, make: Make, event: str
) -> None:
    """It is refused in words, and what came with it is taken over."""
    thread = make()
    add(store, event=event)
    add(store, upload_id="a")
    assert thread.look(wait_s=0.1)
    assert store.get("a") is not None
    [refusal] = store.intake.refusals(10)
    assert refusal["code"] == "invalid_upload"
    assert store.intake.facts()[0] == 0


def test_what_a_dead_worker_took_is_taken_by_another(
    store: Store, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever dies between taking and settling loses nothing; after it was accepted, either."""
    add(store, upload_id="half-1")
    add(store, upload_id="half-2")
    taken = store.intake.take(1, wait_s=0.1)
    assert len(taken) == 1
    make().look(wait_s=0.1)
    assert store.get("half-1") is None, "somebody has it, and may be at work"
    monkeypatch.setattr(record_intake, "TAKEN_AGAIN_S", 0.05)
    time.sleep(0.1)
    make().look(wait_s=0.1)
    assert store.get("half-1") is not None
    assert store.intake.facts()[0] == 0


def test_a_full_queue_leaves_entries_where_they_are(
    store: Store, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is refused for it: they are taken once there is room."""
    monkeypatch.setattr(record_intake, "TAKEN_AGAIN_S", 0.05)
    add(store, upload_id="one")
    add(store, upload_id="two")
    assert not make(max_backlog=1).look(wait_s=0.1)
    assert store.intake.facts()[0] == 1
    assert store.intake.refusals(10) == []
    time.sleep(0.1)
    assert make(max_backlog=10).look(wait_s=0.1)
    assert store.open_counts()["queued"] == 2


def test_a_lost_group_is_made_again(store: Store, make: Make) -> None:
    """Redis may forget everything under a running worker."""
    thread = make()
    thread.look(wait_s=0.05)
    store.redis.delete(store.key("intake"))
    add(store, upload_id="after")
    thread.look(wait_s=0.1)
    assert store.get("after") is not None


def test_the_thread_works_and_stops(store: Store, make: Make) -> None:
    """Started, it takes over within a second, survives a wrong type of key, and ends when told."""
    stop = threading.Event()
    thread = make(stop)
    thread.start()
    add(store, upload_id="live")
    deadline = time.monotonic() + 10
    while store.get("live") is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert store.get("live") is not None
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def test_bucket_events_become_uploads(store: Store, make: Make) -> None:
    """S3's form by XADD; an odd key gets an id of its hash; removals and our own writes none."""
    records = [
        created("avatars", "u/17+a%C3%A9.png", "e1"),
        created("avatars", "u/18.png", "e2", "ObjectCreated:CompleteMultipartUpload"),
        created("avatars", "u/19.png", "e3", "s3:ObjectRemoved:Delete"),
        created("ours", "received/2026-11-22/x", "e4"),
    ]
    add(store, event=json.dumps({"Records": records}), region="overseas")
    add(store, event=json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent"}))
    assert make().look(wait_s=0.1)
    assert store.intake.refusals(10) == []
    images = {avatar.image for avatar in store.get_many(store.open_ids("queued", 0, 10)) if avatar}
    assert images == {"s3://avatars/u/17 aé.png", "s3://avatars/u/18.png"}
    plain = store.get("avatars/u/18.png@e2")
    assert plain is not None
    assert plain.region == "overseas"


def test_minio_appends_to_a_list_which_is_moved_in_order(store: Store, make: Make) -> None:
    """What its target for Redis writes in the format `access`, more than one page of it."""
    for number in range(150):
        event = {"Event": [created("avatars", f"{number}.png", "e")], "EventTime": "2026-11-22"}
        store.redis.rpush(store.key("intake", "events"), json.dumps([event]))
    assert store.intake.facts()[0] == 150
    thread = make()
    for _ in range(3):
        thread.look(wait_s=0.1)
    assert store.open_counts()["queued"] == 150
    assert store.intake.facts()[0] == 0
    assert store.open_ids("queued", 0, 2) == ["avatars/0.png@e", "avatars/1.png@e"]


def test_php_without_any_extension_puts_an_upload_in(
    store: Store, make: Make, valkey_url: str
) -> None:
    """The example is run by the real php against the real server; errors are thrown."""
    php = shutil.which("php")
    if php is None:
        pytest.skip("php is not installed; on Debian: apt-get install php-cli")
    example = ROOT / "examples" / "php" / "avatarmod-xadd.php"
    namespace = store.prefix.strip("{}:")
    script = (
        f"require '{example}';"
        "$fields = ['upload_id' => 'php/17', 'image' => 'a.png'];"
        "echo avatarmod_xadd($argv[1], $fields, null, $argv[2]);"
    )
    server = valkey_url.partition("?")[0].removeprefix("redis://").removesuffix("/0")
    command = [php, "-n", "-d", "display_errors=stderr", "-r", script, "--", server, namespace]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.partition("-")[0].isdigit()
    make().look(wait_s=0.1)
    avatar = store.get("php/17")
    assert avatar is not None
    assert (avatar.state, avatar.image) == (AvatarState.QUEUED, "a.png")
    command[-2] = "127.0.0.1:9"
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Redis does not answer" in done.stderr + done.stdout


def test_a_server_that_is_away_is_waited_out(
    store: Store, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread goes on; nothing is settled meanwhile."""
    stop = threading.Event()
    thread = make(stop)
    looks = []

    def away(limit: int) -> int:
        looks.append(limit)
        stop.set()
        raise redis.ConnectionError("away")

    monkeypatch.setattr(store.intake, "adopt_events", away)
    thread.run()
    assert looks


PAGE = (ROOT / "docs" / "integration" / "redis.md").read_text(encoding="utf-8")


def documented(begins: str, store: Store) -> list[str]:
    """A command of `redis-cli` on the page, for the keys of this test."""
    [line] = re.findall(
        rf"^\$? ?redis-cli (?:--user \S+ --pass \S+ )?({begins}.*)$", PAGE, re.MULTILINE
    )
    return shlex.split(line.replace("{avatarmod}:", store.prefix))


@pytest.fixture
def site(store: Store) -> Iterator[str]:
    """The page's user `site`, made by its line of redis.conf; its name."""
    [line] = re.findall(r"^user site (.*)$", PAGE, re.MULTILINE)
    name = f"site-{store.prefix.strip('{}:')}"
    rules = line.replace("{avatarmod}:", store.prefix).split()
    store.redis.execute_command("ACL", "SETUSER", name, "resetkeys", *rules)
    yield name
    store.redis.execute_command("ACL", "DELUSER", name)


def test_the_page_is_true(store: Store, make: Make, site: str, valkey_url: str) -> None:
    """Its commands, as its user of few rights: an upload in, a refusal read, a verdict read."""
    theirs = redis.Redis.from_url(valkey_url, username=site, password="AND-THIS")
    theirs.execute_command(*documented("XADD", store))
    for forbidden in (documented("HMGET", store), ["XREAD", "STREAMS", "a", "0"], ["GET", "a"]):
        with pytest.raises(redis.exceptions.NoPermissionError):
            theirs.execute_command(*forbidden)
    make().look(wait_s=0.1)
    state, seq, reason = store.redis.execute_command(*documented("HMGET", store))
    assert (state, reason) == ("queued", None)
    assert int(seq) > 0
    theirs.xadd(store.key("intake"), {"upload_id": "user 17"})
    make().look(wait_s=0.1)
    [[_, [[_, said]]]] = store.redis.execute_command(*documented("XREAD", store))
    assert (said["code"], said["field"]) == ("invalid_upload", "upload_id")
    assert said["detail"] in PAGE
    theirs.close()


def test_php_sends_as_a_user_of_few_rights(
    store: Store, make: Make, site: str, valkey_url: str
) -> None:
    """The page's program."""
    php = shutil.which("php")
    if php is None:
        pytest.skip("php is not installed; on Debian: apt-get install php-cli")
    [program] = re.findall(r"```php\n<\?php\n(.*?)```", PAGE, re.DOTALL)
    server = valkey_url.partition("?")[0].removeprefix("redis://").removesuffix("/0")
    for old, new in (
        ("'avatarmod-xadd.php'", f"'{ROOT}/examples/php/avatarmod-xadd.php'"),
        ("'127.0.0.1:6379'", f"'{server}'"),
        ("'avatarmod', 'site'", f"'{store.prefix.strip('{}:')}', '{site}'"),
    ):
        assert old in program
        program = program.replace(old, new)
    command = [php, "-n", "-d", "display_errors=stderr", "-r", program + "echo $entry;"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.partition("-")[0].isdigit(), done.stdout
    make().look(wait_s=0.1)
    assert store.get("user-17/3") is not None


def test_minio_is_told_the_list_that_we_read(store: Store) -> None:
    """The page's key is ours."""
    [key] = re.findall(r"key='([^']+)'", PAGE)
    assert key.replace("{avatarmod}:", store.prefix) == store.key("intake") + ":events"
