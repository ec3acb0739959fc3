"""Notices within seconds that Redis lost its data, and brings back at once who may use it.

Each running process knows the mark of the data that it works on, and keeps it in the data folder
with a copy of API keys and users (hashes, no secrets), readable by this user alone. Where another
mark stands in Redis, the loss is noted there for alarms, `/readyz` and `avatarmod restore`.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

from producer.record.data_set import DataSet
from producer.record.store import Store
from producer.whole_files import write_whole

log = logging.getLogger(__name__)

#: The copy in the data folder.
FILE = "data-set.json"

#: Seconds between two copies of keys and users.
COPY_EVERY_S = 2.0

#: Seconds after which the file is written anew though nothing changed, so that its age is known.
WRITE_EVERY_S = 600.0

#: Age of a file, in seconds, beyond which its keys and users are not believed: what was revoked
#: while this machine was off must not come back.
BELIEVED_S = 86400.0


class LossWatch:
    """One process's knowledge of the data in Redis; `look` is to be called every second or two.

    Args:
        store: the data.
        folder: where the copy is kept; a folder that cannot be written costs the copy only.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._path = folder / FILE
        self._known, self._access = self._read_file()
        self._copied_s = self._wrote_s = float("-inf")

    def look(self) -> DataSet:
        """Compare the mark, and keep or bring back keys and users.

        Raises:
            redis.RedisError: Redis did not answer.
        """
        present = self._store.data_sets.watch(self._known)
        if self._known not in ("", present.id):
            back = self._store.put_access_back(self._access)
            log.error("redis_lost_data", extra={"known": self._known, "keys_and_users": back})
        elif time.monotonic() - self._copied_s < COPY_EVERY_S:
            return present
        self._copy(present.id)
        return present

    def _copy(self, mark: str) -> None:
        self._copied_s = time.monotonic()
        found, access = self._store.access()
        if found != mark:
            return  # lost in the middle: the next look says so
        changed = (mark, access) != (self._known, self._access)
        self._known, self._access = mark, access
        if changed or time.monotonic() - self._wrote_s > WRITE_EVERY_S:
            self._wrote_s = time.monotonic()
            self._write_file()

    def _read_file(self) -> tuple[str, dict[str, dict[str, str]]]:
        try:
            kept: dict[str, Any] = json.loads(self._path.read_text())[self._store.prefix]
            believed = time.time() - float(kept["at"]) < BELIEVED_S
            return str(kept["id"]), dict(kept["access"]) if believed else {}
        except (OSError, ValueError, KeyError, TypeError):
            return "", {}

    def _write_file(self) -> None:
        try:
            others = json.loads(self._path.read_text())
        except (OSError, ValueError):
            others = {}
        mine = {"id": self._known, "at": time.time(), "access": self._access}
        try:
            text = json.dumps({**others, self._store.prefix: mine})
            write_whole(self._path, text.encode(), 0o600)
        except OSError as error:
            log.info("data_set_not_kept", extra={"reason": error.strerror})
