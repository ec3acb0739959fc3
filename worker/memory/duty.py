"""Makes the prints of pictures that people decide about, and forgets what is too old.

A picture is printed as soon as it waits for a person or a provider, for whoever is told of a block
may delete it at once; one that was decided without that, just after.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import redis
import structlog

from producer.contract import Avatar
from producer.errors import ImageChanged, InvalidInput, Transient
from producer.record.memory import Prints
from producer.record.store import Store
from worker.memory.memory import rebuild

log = structlog.get_logger()

#: Uploads looked at before the log is asked again.
PAGE = 50

#: Seconds between two looks for what is too old, by whichever process.
EVERY_S = 6 * 3600


class MemoryDuty:
    """A duty of the sweeper; works in a thread of its own, for pictures must be fetched.

    Args:
        store: the memory, and records.
        fetch: image reference and upload id to bytes.
        prints: bytes and record to perceptual hashes and the name of its pixels.
        path: of the file that this machine's processes share.
        retention_days: how long an entry is kept.
        stop: ends it early.
    """

    def __init__(
        self,
        store: Store,
        *,
        fetch: Callable[[str, str], bytes],
        prints: Callable[[bytes, Avatar], tuple[tuple[bytes, ...], str]],
        path: Path,
        retention_days: float,
        stop: threading.Event,
    ) -> None:
        self._store = store
        self._fetch = fetch
        self._prints = prints
        self._path = path
        self._retention_s = retention_days * 86400
        self._stop = stop
        self._thread: threading.Thread | None = None

    def __call__(self) -> None:
        """Start the thread where there is something to do and none runs."""
        if self._thread is not None and self._thread.is_alive():
            return
        is_time = self._store.memory.start_sweep(every_s=EVERY_S)
        if is_time or self._store.memory.wanted(1):
            self._thread = threading.Thread(
                target=self._work, args=(is_time,), name="memory", daemon=True
            )
            self._thread.start()

    def _work(self, is_time: bool) -> None:
        try:
            self.print_all()
            if is_time:
                self.sweep()
        except redis.RedisError as error:
            log.warning("memory_waits", error=type(error).__name__)
        except Exception:
            log.exception("memory_failed")

    def sweep(self) -> int:
        """Forget what is too old and write the shared file anew; returns how many went."""
        memory = self._store.memory
        gone = memory.expire(self._store.now() - self._retention_s)
        if gone:
            log.info("memory_expired", pictures=gone)
        if memory.count():
            rebuild(memory, self._path)
        return gone

    def print_all(self) -> None:
        """Make all prints that are wanted now."""
        while upload_ids := self._store.memory.wanted(PAGE):
            for upload_id in upload_ids:
                if self._stop.is_set():
                    return
                self._print(upload_id)

    def _print(self, upload_id: str) -> None:
        memory, avatar = self._store.memory, self._store.get(upload_id)
        if avatar is None or not avatar.sha256:
            memory.not_printed(upload_id)
            return
        try:
            data = self._fetch(avatar.image, upload_id)
            if hashlib.sha256(data).hexdigest() != avatar.sha256:
                raise ImageChanged("the picture is not the one that was scored")
            hashes, pixels = self._prints(data, avatar)
        except Transient as error:
            log.info("picture_printed_later", upload_id=upload_id, error=type(error).__name__)
            memory.print_later(upload_id)
        except InvalidInput as error:
            # Its exact bytes are remembered all the same.
            log.warning("picture_not_printed", upload_id=upload_id, error=type(error).__name__)
            memory.not_printed(upload_id)
        except redis.RedisError:
            raise
        except Exception:
            log.exception("picture_not_printed", upload_id=upload_id)
            memory.not_printed(upload_id)
        else:
            memory.put_prints(avatar.sha256, Prints(pixels=pixels, hashes=hashes), upload_id)
