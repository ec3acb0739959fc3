"""What the review tests share: a Valkey, settings without the environment, a small JPEG."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import redis

from producer.contract import Region
from producer.errors import ModerationError
from producer.findings import Decision
from worker.review.answers import Answer
from worker.review.providers.base import Reply, ReviewProvider
from worker.review.router import Router
from worker.settings import WorkerSettings

PREFIX = "{test}:"


def tiny_jpeg(width_px: int = 256, height_px: int = 256) -> bytes:
    """A JPEG's frame header and end: enough for whoever reads only the size."""
    size = height_px.to_bytes(2, "big") + width_px.to_bytes(2, "big")
    frame = b"\xff\xc0\x00\x11\x08" + size + b"\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01"
    return b"\xff\xd8" + frame + b"\xff\xd9"


def sha(name: object) -> str:
    """A content hash for a made-up picture."""
    return hashlib.sha256(str(name).encode()).hexdigest()


def settings(**values: Any) -> WorkerSettings:
    """Settings that no environment variable reaches."""
    return WorkerSettings.model_validate({"review_daily_yuan": None, **values})


class ScriptedProvider(ReviewProvider):
    """Answers what the test says; counts its calls."""

    name: ClassVar[str] = "fake"

    def __init__(
        self,
        config: WorkerSettings,
        answer: Callable[[str], Decision | ModerationError],
        *,
        name: str = "fake",
        home: Region | None = None,
    ) -> None:
        self.name = name  # type: ignore[misc]
        super().__init__(config)
        self._answer = answer
        self._home = home
        self._lock = threading.Lock()
        self.asked: list[str] = []

    @property
    def home(self) -> Region | None:
        """As the test says."""
        return self._home

    def _ask(self, jpeg: bytes, data_id: str) -> Reply:
        with self._lock:
            self.asked.append(data_id)
        answer = self._answer(data_id)
        if isinstance(answer, ModerationError):
            raise answer
        return Reply(decision=answer, score=0.5, labels=("scripted",), request_id="r-1", raw={})


def build(
    client: redis.Redis,
    answers: Mapping[str, Callable[[str], Decision | ModerationError]],
    *,
    random: Callable[[], float] = lambda: 0.5,
    **values: Any,
) -> tuple[Router, dict[str, ScriptedProvider]]:
    """A router over scripted providers, all in the domestic route unless `values` say otherwise."""
    config = settings(**{"review_domestic": tuple(answers), **values})
    providers = {
        name: ScriptedProvider(config, answer, name=name) for name, answer in answers.items()
    }
    return Router(config, client, PREFIX, random=random, providers=providers), providers


def ask(router: Router, name: object, **values: Any) -> Answer:
    """Ask about one made-up picture."""
    given: dict[str, Any] = {
        "upload_id": str(name),
        "seq": 2,
        "sha256": sha(name),
        "region": Region.DOMESTIC,
        "jpeg": tiny_jpeg,
        "probability": 0.5,
        "waiting_since_s": 0.0,
        "tried": (),
        **values,
    }
    return router.review(**given)
