"""What is remembered of a picture that somebody shows: the look-up behind the console's search.

Each question has a process of its own, so that the console's holds neither numpy nor the index. The
picture is decoded as the workers do, in a confined child; it is not kept. The process reads a line
of JSON and then the picture from its standard input, and answers with JSON.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import redis

from producer.errors import (
    ConfigurationError,
    DecoderUnavailable,
    ModerationError,
    StorageUnavailable,
)
from producer.findings import LooksLike
from producer.texts import say
from worker.image.preview import error_of, raise_for
from worker.settings import WorkerSettings

#: Pictures that are named at most.
MOST_FOUND = 24

#: Seconds after which a look-up is given up.
TIMEOUT_S = 60.0

#: Settings that the process cannot know of its own: those of its parent may come from elsewhere.
_PASSED = ("redis_url", "namespace", "data_folder", "models_folder", "bundle")


def look_up(settings: WorkerSettings, data: bytes, prints: Sequence[bytes]) -> list[LooksLike]:
    """Remembered pictures that look like one, the nearest first.

    Args:
        settings: of this process.
        data: a picture's file; empty: only `prints` are looked for.
        prints: perceptual hashes of 32 bytes.

    Raises:
        ModerationError: it is no picture, or cannot be looked up now.
    """
    values = {name: getattr(settings, name) for name in _PASSED}
    if settings.redis_url is not None:
        values["redis_url"] = settings.redis_url.get_secret_value()
    asked = {"settings": values, "prints": [digest.hex() for digest in prints]}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "worker.look_up"],
            input=json.dumps(asked, default=str).encode() + b"\n" + data,
            stdout=subprocess.PIPE,
            timeout=TIMEOUT_S,
            check=False,
        )
        answer = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise DecoderUnavailable(say("pictures cannot be looked up now; see the log")) from error
    raise_for(answer)
    return [LooksLike(**one) for one in answer["found"]]


def find(settings: WorkerSettings, data: bytes, prints: Sequence[bytes]) -> list[LooksLike]:
    """The same, in this process."""
    from producer.connect import connect_store
    from worker.memory.memory import PictureMemory, shared_file

    pixels = ""
    if data:
        picture = _decode(settings, data)
        prints, pixels = picture.prints, picture.pixels
    store = connect_store(settings)
    try:
        memory = PictureMemory(store.memory, shared_file(settings))
        found = memory.alike(prints, pixels, MOST_FOUND)
        return [one.entry.looked_like(one.distance) for one in found]
    finally:
        store.close()


def _decode(settings: WorkerSettings, data: bytes) -> Any:
    """As the workers read it, so that the names of its pixels are the same."""
    from worker.model.bundle import Bundle
    from worker.moderation.road import make_decoder

    spec = Bundle.load(settings.bundle, settings.models_folder).input
    with make_decoder(settings, spec) as decoder:
        return decoder.decode(data, patient=True, prints=True)


def main() -> None:
    """Answer one question."""
    asked = json.loads(sys.stdin.buffer.readline())
    data = sys.stdin.buffer.read()
    prints = [bytes.fromhex(text) for text in asked["prints"]]
    try:
        found = find(WorkerSettings(**asked["settings"]), data, prints)
        answer: dict[str, Any] = {"found": [dataclasses.asdict(one) for one in found]}
    except ModerationError as error:
        answer = error_of(error)
    except (redis.RedisError, ConfigurationError) as error:
        answer = error_of(
            StorageUnavailable(say("{who}: {error}", who=type(error).__name__, error=str(error)))
        )
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
