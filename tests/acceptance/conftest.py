"""A real `avatarmod up` on its own data folder, and uploads to put through it."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr

from producer.client import Producer
from producer.connect import connect_store
from producer.contract import AvatarState, Stage
from producer.record.store import Store
from producer.settings import Settings, load_settings
from tests.support import FREE_NETWORKS, events, wait_until
from worker.demo.webhook_receiver import Receiver

#: Seconds that anything here may take on a busy machine.
PATIENCE_S = 90.0

#: Signs the callbacks of these tests and nothing else.
SECRET = "whsec_" + base64.b64encode(os.urandom(32)).decode()


class WebTierSide:
    """This process beside workers of other processes, on their Redis and broker."""

    def settings(self) -> Settings:
        """Settings of a web tier there."""
        raise NotImplementedError

    @contextlib.contextmanager
    def producer(self) -> Iterator[Producer]:
        """A producer of this process on the workers' queue."""
        producer = Producer.connect(self.settings())
        try:
            yield producer
        finally:
            producer.store.redis.close()

    @contextlib.contextmanager
    def store(self) -> Iterator[Store]:
        """The workers' store."""
        store = connect_store(self.settings())
        try:
            yield store
        finally:
            store.redis.close()


class Instance(WebTierSide):
    """One `avatarmod up` with everything it starts; use as a context manager."""

    def __init__(self, folder: Path, web_tier: Receiver, **env: str) -> None:
        self.folder = folder
        self.log = folder / "up.log"
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("AVATARMOD_")},
            "AVATARMOD_DATA_FOLDER": str(folder),
            "AVATARMOD_CALLBACK_URL": web_tier.url,
            "AVATARMOD_CALLBACK_SECRETS": SECRET,
            "AVATARMOD_PRIVATE_NETWORKS": FREE_NETWORKS,
            "AVATARMOD_THREADS": "1",
            "AVATARMOD_MICRO_BATCH": "4",
            "AVATARMOD_LEASE_S": "3",
            "AVATARMOD_LOG_FORMAT": "json",
            # Events stay where the test can count them; no API is asked.
            "AVATARMOD_LEDGER_URL": "off",
            "AVATARMOD_API_PORT": "0",
            **env,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Instance:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start and wait until it says that it is ready."""
        with self.log.open("ab") as log:
            start = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "producer.cli", "up"],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

        def is_ready() -> bool:
            text = self.log.read_bytes()[start:].decode(errors="replace")
            assert self.process is not None
            assert self.process.poll() is None, text
            return "Ready." in text

        wait_until(is_ready, PATIENCE_S, "avatarmod up is ready")

    def stop(self, timeout_s: float = 60.0) -> int:
        """Send SIGTERM and wait; returns the exit code."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"still running after {timeout_s:g} s:\n{self.tail()}") from None
        self.process = None
        return code

    def tail(self) -> str:
        """The end of the log."""
        return self.log.read_text(errors="replace")[-4000:]

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """One `avatarmod` command beside the running instance."""
        return subprocess.run(
            [sys.executable, "-m", "producer.cli", *arguments],
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def settings(self) -> Settings:
        """Settings of a web tier beside the instance."""
        return load_settings(
            Settings,
            data_folder=self.folder,
            callback_url=self.env["AVATARMOD_CALLBACK_URL"],
            max_backlog=10_000,
            **{
                name: self.env[f"AVATARMOD_{name.upper()}"]
                for name in ("redis_url", "broker_url", "redis_replicas", "namespace")
                if f"AVATARMOD_{name.upper()}" in self.env
            },
        )

    def pid_of(self, role: str) -> int:
        """Process id of the living worker of a role."""
        alive: list[int] = []

        def look() -> bool:
            with self.store() as store:
                facts = [fact for fact in store.workers() if fact["role"] == role]
            alive[:] = [int(fact["pid"]) for fact in facts if _lives(int(fact["pid"]))]
            return bool(alive)

        wait_until(look, PATIENCE_S, f"a worker {role} lives")
        return alive[-1]

    def valkey_pid(self) -> int:
        """Process id of the embedded Valkey."""
        with self.store() as store:
            info: Any = store.redis.info("server")
        return int(info["process_id"])

    def put_image(self, upload_id: str, data: bytes) -> None:
        """What a web tier does before it enqueues."""
        folder = self.folder / "images"
        folder.mkdir(exist_ok=True)
        (folder / upload_id).write_bytes(data)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def web_tier() -> Iterator[Receiver]:
    """A web tier that hears of every test in a module."""
    with Receiver(SecretStr(SECRET)) as receiver:
        yield receiver


@pytest.fixture(scope="module")
def make_instance(
    tmp_path_factory: pytest.TempPathFactory, web_tier: Receiver
) -> Iterator[Callable[..., Instance]]:
    """Makes instances, each on a folder of its own; whatever still runs at the end is stopped."""
    made: list[Instance] = []

    def make(**env: str) -> Instance:
        made.append(Instance(tmp_path_factory.mktemp("up"), web_tier, **env))
        return made[-1]

    yield make
    for instance in made:
        instance.stop()


@pytest.fixture(scope="module")
def shared(make_instance: Callable[..., Instance]) -> Instance:
    """An instance that tests share where what came before does not matter."""
    instance = make_instance()
    instance.start()
    return instance


def picture(seed: int) -> bytes:
    """A small colourful JPEG, another one for every seed."""
    cells = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(cells).resize((64, 64), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def fill(instance: Instance, prefix: str, count: int) -> dict[str, str]:
    """Files of `count` uploads, every fifth damaged in some way; upload id -> expected outcome.

    Expected is `scored` for a good picture, else the reason code of the rejection.
    """
    expected = {}
    for upload_id, data, outcome in uploads(prefix, count):
        if data is not None:
            instance.put_image(upload_id, data)
        expected[upload_id] = outcome
    return expected


def uploads(prefix: str, count: int) -> Iterator[tuple[str, bytes | None, str]]:
    """Uploads of every outcome: id, bytes (None: missing) and outcome, as `fill` has them."""
    for number in range(count):
        upload_id = f"{prefix}-{number:04d}"
        data, outcome = picture(zlib.crc32(upload_id.encode())), "scored"
        match number % 20:
            case 3:
                data, outcome = data[: len(data) // 2], "damaged"
            case 7:
                data, outcome = b"", "damaged"
            case 11:
                data, outcome = b"<html>no picture</html>", "unsupported"
            case 15:
                outcome = "missing"
        yield upload_id, None if outcome == "missing" else data, outcome


class Deployment(Protocol):
    """What can be looked at when its work is done."""

    def store(self) -> contextlib.AbstractContextManager[Store]:
        """Its store."""

    def tail(self) -> str:
        """The end of its log."""


def check_outcomes(
    instance: Deployment, web_tier: Receiver, expected: dict[str, str], *, exactly_once: bool = True
) -> None:
    """Every upload has its one right record, one final event, and its verified callbacks."""
    with instance.store() as store:

        def undecided() -> int:
            counts = store.open_counts()
            return counts["queued"] + counts["reviewing"]

        eventually(lambda: undecided() == 0, f"all are decided\n{instance.tail()}")
        avatars = dict(zip(expected, store.get_many(list(expected)), strict=True))
        for upload_id, outcome in expected.items():
            avatar = avatars[upload_id]
            assert avatar is not None
            if outcome == "scored":
                assert avatar.state in ("approved", "held", "blocked"), avatar
                assert avatar.probability is not None
            else:
                assert (avatar.state, avatar.reason) == (AvatarState.REJECTED, outcome), avatar
        assert store.waiting(Stage.MODERATE) == {"waiting": 0, "leased": 0}
        decisions = [
            event["upload_id"]
            for event in events(store)
            if event["kind"] == "transition" and event["from"] and event["upload_id"] in expected
        ]
        assert sorted(decisions) == sorted(expected)
        known = [avatar for avatar in avatars.values() if avatar]
        states = {avatar.upload_id: str(avatar.state) for avatar in known}
        assert web_tier.wait_for(set(expected), states, PATIENCE_S), instance.tail()
        # A callback whose worker is killed before it is confirmed is sent again.
        eventually(
            lambda: not any(store.outbox.get_many([f"{a.upload_id}#{a.seq}" for a in known])),
            "the outbox is empty",
        )
    mine = [r for r in web_tier.received if r.data.get("upload_id") in expected]
    assert all(received.verified for received in web_tier.received)
    assert len({received.webhook_id for received in mine}) == len(expected)
    if exactly_once:
        assert len(mine) == len(expected)


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait for what must come, as long as anything may take."""
    wait_until(condition, PATIENCE_S, what)


def enqueue_all(instance: Instance, expected: dict[str, str]) -> None:
    """Enqueue as a web tier does."""
    with instance.producer() as producer:
        for upload_id in expected:
            producer.enqueue(upload_id)
