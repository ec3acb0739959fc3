"""A moderating process with a decoder that one picture kills: the script of test_poison.py."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from producer.connect import redis_client
from producer.metrics import Recorder
from producer.record.store import Store
from worker.moderation.batch import BatchKnobs, ModerateDrain
from worker.moderation.policy import Policy
from worker.outcomes import Outcomes


class Engine:
    """Everything is clear; a view of the poison ends the process as a crash in native code does."""

    micro_batch = 4

    def score(self, pixels: Any, cut_offs: Any = ()) -> list[Any]:
        if any(view.flat[0] == ord("P") for view in pixels):
            os._exit(139)
        return [SimpleNamespace(raw_score=0.0, probability=0.0) for _ in pixels]


class Decoder:
    """The first byte of the file, as a view."""

    def decode(self, data: bytes, *, patient: bool = False, prints: bool = False) -> Any:
        view = SimpleNamespace(
            pixels=np.full((2, 2, 3), data[0], np.uint8), frame=0, background="", crop="whole"
        )
        return SimpleNamespace(views=[view], flat=None, is_small=False, unseen="")


def main(url: str, namespace: str, folder: str) -> None:
    """Drain once."""
    store = Store(redis_client(url), namespace)
    drain = ModerateDrain(
        store=store,
        outcomes=Outcomes(store, Recorder()),
        fetch=lambda image, upload_id: Path(folder, upload_id).read_bytes(),
        decoder=Decoder(),
        engine=Engine(),
        policy=Policy(),
        drawn_probability=lambda view: 0.0,
        has_reviewers=lambda region: False,
        recorder=Recorder(),
        knobs=BatchKnobs(
            batch_size=32, batch_wait_s=0.05, lease_s=1.0, fetch_threads=4, bundle_id="stub"
        ),
    )
    drain.drain(threading.Event())
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
