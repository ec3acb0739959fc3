"""Test runs beside a configured instance tell nobody but themselves."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from producer.contract import NO_CALLBACK, Avatar, AvatarState
from producer.enqueue import Enqueued
from worker.commands.demo import _callbacks, _stand_alone
from worker.tools.send_and_wait import Passage, Sample, send_all, summarise


def test_the_demo_joins_nothing_that_is_configured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What it runs with is kept; whom a worker would talk to is not."""
    for name, value in {
        "REDIS_URL": "redis://production:6379/0",
        "BROKER_URL": "amqp://a:b@production//",
        "LEDGER_URL": "postgresql://a:b@production/x",
        "IMAGE_STORE": "s3://production",
        "NAMESPACE": "production",
        "REVIEW_DOMESTIC": "aliyun",
        "ALARM_URLS": "json://production",
        "DATA_FOLDER": str(tmp_path),
        "THREADS": "1",
    }.items():
        monkeypatch.setenv(f"AVATARMOD_{name}", value)
    settings = _stand_alone({"AVATARMOD_CALLBACK_URL": "http://127.0.0.1:1/demo"})
    assert "production" not in repr(settings.model_dump(mode="json"))
    assert settings.redis_url is settings.ledger_url is settings.broker_url is None
    assert settings.callback_url == "http://127.0.0.1:1/demo"
    assert settings.threads == 1
    assert settings.data_folder == tmp_path / "demo"
    assert settings.models_folder == tmp_path / "models"


class Recording:
    """A producer and image store that only remember."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []
        self.store = self

    def enqueue(self, upload_id: str, _image: str, *, callback_url: str | None) -> Enqueued:
        """Remembered."""
        self.asked.append(callback_url)
        return Enqueued(Avatar(upload_id=upload_id, state=AvatarState.APPROVED, seq=2), True)

    def put(self, _name: str, _data: bytes) -> None:
        """Forgotten."""

    def get_many(self, ids: list[str]) -> list[Avatar]:
        """All approved."""
        return [Avatar(upload_id=i, state=AvatarState.APPROVED, seq=2) for i in ids]


@pytest.mark.parametrize(("options", "heard"), [({}, NO_CALLBACK), ({"callback_url": None}, None)])
def test_a_scan_calls_nobody_back(options: dict[str, Any], heard: str | None) -> None:
    """No web tier knows its ids; the demo, which brings its own receiver, says so."""
    both: Any = Recording()
    samples = [Sample("a.png", lambda: b"x"), Sample("b.png", lambda: b"y")]
    send_all(both, both, samples, on_settled=lambda _n: None, stop=threading.Event(), **options)
    assert both.asked == [heard, heard]


def test_an_interrupted_run_waits_for_nothing_and_calls_nothing_failed() -> None:
    """What still waits, or was never sent, is unfinished; what could not be sent has failed."""
    stop = threading.Event()
    stop.set()
    sample = Sample("a.png", lambda: b"x")
    queued = Avatar(upload_id="a", state=AvatarState.QUEUED, seq=1)
    approved = Avatar(upload_id="b", state=AvatarState.APPROVED, seq=2)
    passages = [
        Passage(sample, "a", queued),
        Passage(sample, "b", approved),
        Passage(sample, "c"),
        Passage(sample, "d", error="the disk is full"),
    ]
    asked: list[float] = []

    class Deaf:
        received = ()

        def wait_for(self, ids: set[str], _states: dict[str, str], timeout_s: float) -> bool:
            """Nothing comes; only what has settled is asked for."""
            assert ids == {"b"}
            asked.append(timeout_s)
            return False

    receiver: Any = Deaf()
    assert _callbacks(receiver, passages, stop) == {"received": 0, "verified": 0}
    assert sum(asked) < 1
    found = summarise(passages, 1.0, interrupted=True)
    assert (found["approved"], found["failed"], found["unfinished"]) == (1, 1, 2)
    assert summarise(passages, 1.0)["failed"] == 3
    states = [passage.to_json()["state"] for passage in passages]
    assert states == ["queued", "approved", "unsent", "failed"]
