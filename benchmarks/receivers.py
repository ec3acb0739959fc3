"""Do bad receivers delay a good one? A good one among 20 nasty ones of all kinds, one io worker.

Prints, with and without the nasty ones, how long after its transition each callback to the good
receiver arrived. Run: python benchmarks/receivers.py [--nasty 20] [--good 300] [--rate 10] [--json]
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import itertools
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from pydantic import SecretStr

from benchmarks.nasty import KINDS, NastyReceiver
from producer.connect import redis_client
from producer.contract import Avatar, AvatarState, Stage
from producer.doorbell import Bells
from producer.record.store import Store, Transition
from producer.settings import Settings, load_settings
from worker.demo.webhook_receiver import Receiver
from worker.process.valkey import EmbeddedValkey

#: Seconds that the last good callback may take before the run is given up.
PATIENCE_S = 120.0


class TimedReceiver(Receiver):
    """Notes for each callback how many seconds after its transition it came."""

    def __init__(self, secret: SecretStr) -> None:
        super().__init__(secret)
        self.took_s: list[float] = []

    def _take(self, body: bytes, headers: dict[str, str]) -> int:
        then = datetime.fromisoformat(json.loads(body)["timestamp"]).timestamp()
        self.took_s.append(time.time() - then)
        return super()._take(body, headers)


def main() -> int:
    options = _options()
    quiet, among = measure(options, 0), measure(options, options.nasty)
    result = {"alone": quiet, f"among {options.nasty} nasty receivers": among}
    if options.json:
        print(json.dumps(result))
    else:
        for name, figures in result.items():
            print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in figures.items()))
    return 0 if among["arrived"] == options.good and among["p95_s"] <= options.limit_s else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nasty", type=int, default=20, help="nasty receivers, of all kinds")
    parser.add_argument("--good", type=int, default=300, help="callbacks to the good one")
    parser.add_argument("--rate", type=float, default=10.0, help="of them a second")
    parser.add_argument("--limit-s", type=float, default=2.0, help="most for 95 of 100")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def measure(options: argparse.Namespace, nasty: int) -> dict[str, Any]:
    """One run; seconds from transition to receipt."""
    secret = SecretStr("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="receivers-"))
        valkey = EmbeddedValkey(Path(folder) / "valkey")
        valkey.start()
        stack.callback(valkey.stop)
        good = stack.enter_context(TimedReceiver(secret))
        kinds = itertools.islice(itertools.cycle(KINDS), nasty)
        bad = [stack.enter_context(NastyReceiver(kind)) for kind in kinds]
        store = Store(stack.enter_context(redis_client(valkey.url)))
        settings = load_settings(Settings, redis_url=valkey.url, data_folder=folder)
        bells = Bells.connect(store, settings)
        stack.callback(_start_io(folder, valkey.url, secret).kill)
        while not store.workers():
            time.sleep(0.1)
        started_s = time.monotonic()
        for number in range(options.good):
            time.sleep(max(0.0, started_s + number / options.rate - time.monotonic()))
            _decide(store, f"good{number}", good.url)
            if bad:
                _decide(store, f"bad{number}", bad[number % nasty].url)
            bells.ring(Stage.CALLBACK)
        deadline_s = time.monotonic() + PATIENCE_S
        while len(good.took_s) < options.good and time.monotonic() < deadline_s:
            time.sleep(0.1)
        took_s = sorted(good.took_s)
        asked = sum(receiver.requests for receiver in bad)
    return {
        "arrived": len(took_s),
        "median_s": round(float(np.median(took_s)), 3),
        "p95_s": round(float(np.percentile(took_s, 95)), 3),
        "worst_s": round(took_s[-1], 3),
        "calls to nasty ones": asked,
    }


def _decide(store: Store, upload_id: str, url: str) -> None:
    """An upload that is approved the moment it comes, and its callback."""
    avatar = Avatar(upload_id=upload_id, state=AvatarState.QUEUED, seq=1, callback_url=url)
    _, avatar = store.submit(avatar, max_backlog=10**6)
    done = Transition(avatar=avatar, to=AvatarState.APPROVED, leaves=Stage.MODERATE)
    [moved] = store.advance([done])
    assert moved.applied, moved


def _start_io(folder: str, redis_url: str, secret: SecretStr) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "producer.cli", "worker", "io"],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "AVATARMOD_REDIS_URL": redis_url,
            "AVATARMOD_DATA_FOLDER": folder,
            "AVATARMOD_LOG_LEVEL": "error",
            "AVATARMOD_CALLBACK_SECRETS": secret.get_secret_value(),
            "AVATARMOD_PRIVATE_NETWORKS": "127.0.0.0/8",
        },
    )


if __name__ == "__main__":
    raise SystemExit(main())
