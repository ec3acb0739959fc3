"""The web tier of chaos.py: enqueues steadily, asks by GET, and brings again what was lost."""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import httpx
import numpy as np
from PIL import Image

from producer.client import Producer
from producer.errors import ModerationError
from producer.images import Images
from worker.demo import pictures as samples
from worker.settings import WorkerSettings

#: Share of the uploads whose callback goes to a nasty receiver.
NASTY_SHARE = 0.03

#: One in so many uploads is followed by a question about an earlier one.
ASK_EVERY = 10


class WebTier:
    """Steady uploads; one counts as accepted when enqueue returned.

    Args:
        settings: of the instance.
        rate: uploads a second.
        seed: of pictures and choices.
        nasty: addresses of receivers that take no callback.
        api: where the API listens.
    """

    def __init__(
        self, settings: WorkerSettings, rate: float, seed: int, nasty: Sequence[str], api: str
    ) -> None:
        self.accepted: list[str] = []
        #: Uploads whose callback goes to a receiver that takes none, with its address.
        self.untold: dict[str, str] = {}
        #: Broken promises that a GET showed.
        self.complaints: dict[str, list[str]] = defaultdict(list)
        #: Uploads that were lost with Redis before the ledger knew them, and brought once more.
        self.brought_again: list[str] = []
        #: Whether Redis was ever emptied: then GET may know nothing of what is over.
        self.has_forgotten = False
        self._nasty = nasty
        self._rate = rate
        self._rng = np.random.default_rng(seed)
        self._producer = Producer.connect(settings)
        self._images = Images(settings)
        self._api = httpx.Client(base_url=api, timeout=5.0)
        self._key_file = settings.data_folder / "api-key"
        self._highest: dict[str, int] = {}
        self._grays = itertools.count(1000 * seed)
        self._last_gray = b""
        self._whole = samples.encode(samples.landscape(), "JPEG")

    def enqueue_next(self) -> None:
        """One more upload; while something is away the same id is tried again."""
        upload_id = f"chaos/{len(self.accepted):07d}"
        picture = self._picture()
        if self._rng.random() < NASTY_SHARE:
            self.untold[upload_id] = str(self._rng.choice(self._nasty))
        while True:
            with contextlib.suppress(ModerationError):
                self._images.put(upload_id, picture)
                self.enqueue_again(upload_id)
                self.accepted.append(upload_id)
                break
            time.sleep(0.1)
        if len(self.accepted) % ASK_EVERY == 0:
            self.ask(str(self._rng.choice(self.accepted)))

    def enqueue_again(self, upload_id: str) -> None:
        """The same id as a web tier that is not sure would."""
        self._producer.enqueue(upload_id, upload_id, callback_url=self.untold.get(upload_id))

    def pace(self, started_s: float) -> None:
        """Sleep until the next upload is due."""
        due_s = started_s + len(self.accepted) / self._rate
        time.sleep(max(0.0, due_s - time.monotonic()))

    def ask(self, upload_id: str, patience_s: float = 0.0) -> dict[str, Any] | None:
        """What GET says of an upload; None where it says nothing, or not in time."""
        deadline_s = time.monotonic() + patience_s
        while True:
            with contextlib.suppress(httpx.HTTPError, OSError):
                headers = {"x-api-key": self._key()}
                answer = self._api.get(f"/v1/avatars/{upload_id}", headers=headers)
                if answer.status_code == 200:
                    return self._heed(upload_id, answer.json()["data"])
                if answer.status_code == 404:
                    if not self.has_forgotten:
                        self.complaints["GET knows nothing of it"].append(upload_id)
                    return None
                if answer.status_code in (401, 403) and not self.has_forgotten:
                    self.complaints["the key is not taken"].append(upload_id)
            if time.monotonic() >= deadline_s:
                return None
            time.sleep(0.2)

    def is_ready(self) -> bool | None:
        """What `/readyz` says; None where it does not answer."""
        with contextlib.suppress(httpx.HTTPError, OSError):
            return self._api.get("/readyz").status_code == 200
        return None

    def bring_again(self, lost: Iterable[str]) -> None:
        """Whatever GET knows nothing of and nobody was told of, as the guide says."""
        for upload_id in sorted(lost):
            if self.ask(upload_id, patience_s=60.0) is None:
                self.enqueue_again(upload_id)
                self.brought_again.append(upload_id)

    def _heed(self, upload_id: str, data: dict[str, Any]) -> dict[str, Any]:
        if data["seq"] < self._highest.get(upload_id, 0):
            self.complaints["seq fell"].append(f"{upload_id}#{data['seq']}")
        self._highest[upload_id] = data["seq"]
        return data

    def _key(self) -> str:
        return self._key_file.read_text().strip() if self._key_file.exists() else ""

    def _picture(self) -> bytes:
        kind = self._rng.random()
        if kind < 0.06:
            # Gray with the default model at many seeds; one in three was seen before.
            if not self._last_gray or kind < 0.04:
                gray = samples.dunes(next(self._grays), 0.5, 2)
                self._last_gray = samples.encode(gray, "JPEG")
            return self._last_gray
        if kind < 0.11:
            return self._whole[: int(self._rng.integers(1, len(self._whole) - 100))]
        if kind < 0.16:
            return self._whole
        colour = tuple(int(v) for v in self._rng.integers(0, 256, 3))
        return samples.encode(Image.new("RGB", (96, 96), colour), "PNG")


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
