"""How long people wait: `python -m benchmarks.start [--bundle NAME] [--rounds 3] [--json]`.

`avatarmod up` from its start until it is ready, and until the first upload, which was sent as soon
as anybody could, has its verdict; then the commands that people type, against that instance. By the
clock, and the processor time of all processes, which also holds on a machine that does other
things. Caches are warm after the first round, which is not counted. A second model that is
installed in the models folder judges along.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from redis import RedisError

from benchmarks.box import cpu_seconds
from producer.client import Producer
from producer.errors import ConfigurationError, ModerationError
from producer.images import Images
from producer.logs import quiet_logging
from producer.settings import Settings, load_settings
from worker.demo.pictures import encode, landscape
from worker.settings import WorkerSettings

AVATARMOD = (sys.executable, "-m", "producer.cli")
COMMANDS = {
    "status": ("status", "first"),
    "enqueue": ("enqueue", "first"),
    "doctor": ("doctor",),
}
#: Seconds after which something is wrong.
PATIENCE_S = 120.0

Found = TypeVar("Found")

#: Name -> seconds by the clock, seconds of the processor.
Times = dict[str, tuple[float, float]]


def main() -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="open-nsfw")
    parser.add_argument(
        "--models-folder", type=Path, default=load_settings(WorkerSettings).models_folder
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    quiet_logging()
    count = 2 if options.quick else options.rounds + 1
    rounds = [one_round(options.bundle, options.models_folder) for _ in range(count)]
    found = {
        name: [round(statistics.median(each[name][n] for each in rounds[1:]), 2) for n in (0, 1)]
        for name in rounds[0]
    }
    if options.json:
        print(json.dumps(found))
        return
    for name, (seconds, cpu_s) in found.items():
        print(f"{name:<28} {seconds:6.2f} s   processor {cpu_s:6.2f} s")


def one_round(bundle: str, models_folder: Path) -> Times:
    """Start everything, ask everything, stop everything."""
    with tempfile.TemporaryDirectory(prefix="start-") as folder:
        env = {name: value for name, value in os.environ.items() if "AVATARMOD_" not in name}
        env |= {"AVATARMOD_DATA_FOLDER": folder, "AVATARMOD_BUNDLE": bundle}
        env |= {"AVATARMOD_ALLOW_RANDOM_WEIGHTS": "true"}
        env |= {"AVATARMOD_MODELS_FOLDER": str(models_folder)}
        log = Path(folder) / "up.log"
        started_s = time.monotonic()
        with log.open("wb") as file:
            up = subprocess.Popen([*AVATARMOD, "up"], env=env, stdout=file, stderr=file)
        times: Times = {}

        def note(name: str) -> None:
            times[name] = time.monotonic() - started_s, sum(cpu_seconds(up.pid).values())

        try:
            producer = until(lambda: first_upload(Path(folder)), up)
            until(lambda: is_decided(producer), up)
            note("up to the first verdict")
            until(lambda: b"Ready." in log.read_bytes() or None, up)
            note("up until it is ready")
            for name, arguments in COMMANDS.items():
                times[name] = command([*AVATARMOD, *arguments], env)
        finally:
            up.terminate()
            up.wait()
    return times


def until(look: Callable[[], Found | None], up: subprocess.Popen[bytes]) -> Found:
    """What `look` finds, as soon as it does."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s and up.poll() is None:
        if (found := look()) is not None:
            return found
        time.sleep(0.01)
    raise SystemExit("avatarmod up did not get so far; `avatarmod doctor` says why")


def first_upload(folder: Path) -> Producer | None:
    """Enqueued as soon as there is a queue."""
    try:
        settings = load_settings(Settings, data_folder=folder)
        producer = Producer.connect(settings)
        Images(settings).put("first", encode(landscape(1), "JPEG"))
        producer.enqueue("first")
    except (ConfigurationError, ModerationError, RedisError, OSError):
        return None
    return producer


def is_decided(producer: Producer) -> bool | None:
    avatar = producer.store.get("first")
    return True if avatar is not None and avatar.state != "queued" else None


def command(line: list[str], env: dict[str, str]) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    before, started_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(line, env=env, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - started_s, cpu_s


if __name__ == "__main__":
    main()
