"""A real `avatarmod up` on its own data folder, and uploads to put through it."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr

from producer.connect import connect_store
from producer.contract import AvatarState, Stage
from producer.enqueue import Producer
from producer.settings import Settings, load_settings
from producer.store import Store
from tests.support import FREE_NETWORKS, wait_until
from worker.receiver import Receiver
from worker.sweeper import signs_of_life

#: Seconds that anything here may take on a busy machine.
PATIENCE_S = 90.0


class Instance:
    """One `avatarmod up` with everything it starts; use as a context manager."""

    def __init__(self, folder: Path, receiver: Receiver, secret: SecretStr, **env: str) -> None:
        self.folder = folder
        self.log = folder / "up.log"
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("AVATARMOD_")},
            "AVATARMOD_DATA_FOLDER": str(folder),
            "AVATARMOD_CALLBACK_URL": receiver.url,
            "AVATARMOD_CALLBACK_SECRETS": secret.get_secret_value(),
            "AVATARMOD_PRIVATE_NETWORKS": FREE_NETWORKS,
            "AVATARMOD_THREADS": "1",
            "AVATARMOD_MICRO_BATCH": "4",
            "AVATARMOD_LEASE_S": "3",
            "AVATARMOD_LOG_FORMAT": "json",
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

    @contextlib.contextmanager
    def producer(self) -> Iterator[Producer]:
        """A producer of this process on the instance's queue."""
        producer = Producer.connect(self.settings())
        try:
            yield producer
        finally:
            producer.store.redis.close()

    @contextlib.contextmanager
    def store(self) -> Iterator[Store]:
        """The instance's store."""
        store = connect_store(self.settings())
        try:
            yield store
        finally:
            store.redis.close()

    def settings(self) -> Settings:
        """Settings of a web tier beside the instance."""
        return load_settings(
            Settings,
            data_folder=self.folder,
            callback_url=self.env["AVATARMOD_CALLBACK_URL"],
            max_backlog=10_000,
        )

    def pid_of(self, role: str) -> int:
        """Process id of the living worker of a role."""
        with self.store() as store:
            facts = [fact for fact in signs_of_life(store) if fact["role"] == role]
        alive = [int(fact["pid"]) for fact in facts if _lives(int(fact["pid"]))]
        assert alive, self.tail()
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


@pytest.fixture
def make_instance(
    tmp_path: Path, receiver: Receiver, secret: SecretStr
) -> Iterator[Callable[..., Instance]]:
    """Makes instances; whatever still runs after the test is stopped."""
    made: list[Instance] = []

    def make(**env: str) -> Instance:
        made.append(Instance(tmp_path, receiver, secret, **env))
        return made[-1]

    yield make
    for instance in made:
        instance.stop()


def picture(seed: int) -> bytes:
    """A small colourful JPEG, another one for every seed."""
    cells = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(cells).resize((64, 64), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def fill(instance: Instance, count: int, *, start: int = 0) -> dict[str, str]:
    """Files of `count` uploads, every fifth damaged in some way; upload id -> expected outcome.

    Expected is `scored` for a good picture, else the reason code of the rejection.
    """
    expected = {}
    for number in range(start, start + count):
        upload_id = f"upload-{number:04d}"
        data, outcome = picture(number), "scored"
        match number % 20:
            case 3:
                data, outcome = data[: len(data) // 2], "damaged"
            case 7:
                data, outcome = b"", "damaged"
            case 11:
                data, outcome = b"<html>no picture</html>", "unsupported"
            case 15:
                outcome = "missing"
        if outcome != "missing":
            instance.put_image(upload_id, data)
        expected[upload_id] = outcome
    return expected


def check_outcomes(
    instance: Instance, receiver: Receiver, expected: dict[str, str], *, exactly_once: bool = True
) -> None:
    """Every upload has its one right record, one final event, and its verified callbacks."""
    with instance.store() as store:

        def undecided() -> int:
            counts = store.open_counts()
            return counts["queued"] + counts["reviewing"]

        wait_until(lambda: undecided() == 0, PATIENCE_S, f"all decided\n{instance.tail()}")
        avatars = dict(zip(expected, store.get_many(list(expected)), strict=True))
        for upload_id, outcome in expected.items():
            avatar = avatars[upload_id]
            assert avatar is not None
            assert avatar.seq == 2, avatar
            if outcome == "scored":
                assert avatar.state in ("approved", "held", "blocked"), avatar
                assert avatar.probability is not None
            else:
                assert (avatar.state, avatar.reason) == (AvatarState.REJECTED, outcome), avatar
        assert store.waiting(Stage.MODERATE) == {"waiting": 0, "leased": 0}
        transitions = [
            fields["upload_id"]
            for _, fields in store.redis.xrange(store.key("events"))  # type: ignore[union-attr]
            if fields["kind"] == "transition" and fields["from"]
        ]
        assert sorted(transitions) == sorted(expected)
        states = {upload_id: str(a.state) for upload_id, a in avatars.items() if a}
        assert receiver.wait_for(set(expected), states, PATIENCE_S), instance.tail()
        # A callback that is being confirmed when its worker is killed is sent again.
        wait_until(
            lambda: not any(store.callback(f"{upload_id}#2") for upload_id in expected),
            PATIENCE_S,
            "the outbox is empty",
        )
    assert all(received.verified for received in receiver.received)
    ids = [received.webhook_id for received in receiver.received]
    assert len(set(ids)) == len(expected)
    if exactly_once:
        assert len(ids) == len(expected)


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait for what must come, as long as anything may take."""
    wait_until(condition, PATIENCE_S, what)


def pause(seconds: float) -> None:
    """Let load build up."""
    time.sleep(seconds)
