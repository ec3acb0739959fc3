"""One instance on a data folder, and how commands find it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from producer.connect import instance_file, running_instance
from producer.environment import ENV_PREFIX
from producer.errors import ConfigurationError

#: Seconds for all workers to load their model and be ready.
READY_TIMEOUT_S = 120.0


def wait_for_starting(data_folder: Path) -> None:
    """Return when an instance that is just starting on this folder says where it is, or ends."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline_s and running_instance(data_folder) is None:
        try:
            with (data_folder / "instance.lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return
        except (FileNotFoundError, NotADirectoryError):
            return
        except BlockingIOError:
            time.sleep(0.1)


@contextlib.contextmanager
def alone_on(folder: Path) -> Iterator[None]:
    """Be the only instance on a data folder.

    Raises:
        ConfigurationError: another runs there.
        OSError: the folder cannot be written to.
    """
    with (folder / "instance.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            instance = running_instance(folder) or {}
            raise ConfigurationError(
                f"avatarmod is already running on {folder} (process "
                f"{instance.get('pid', 'unknown')}); stop it first, or set "
                f"{ENV_PREFIX}DATA_FOLDER to another folder"
            ) from None
        yield


@contextlib.contextmanager
def findable(folder: Path, redis_url: str) -> Iterator[None]:
    """Say to commands on this folder who runs here and where its embedded Redis is.

    Args:
        folder: of the data.
        redis_url: of the embedded server; empty where Redis is configured.
    """
    path = instance_file(folder)
    content = {"pid": os.getpid(), "redis_url": redis_url}
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
