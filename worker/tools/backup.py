"""One file with all that an instance knows: Redis, ledger, policy, bundles; and its way back.

Pictures are the image store's and secrets the operator's: neither is in it.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib.metadata
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from producer.connect import connect_store, redis_client, running_instance
from producer.errors import ConfigurationError
from producer.record.copying import NoSnapshot
from producer.record.store import Store
from worker.ledger.database import ledger_url
from worker.moderation.policy_file import PolicyFile
from worker.process.valkey import FROZEN, EmbeddedValkey
from worker.settings import WorkerSettings

#: Grows when an older program cannot read the file any more.
FORMAT = 1

#: The file's name inside, where the policy was ever changed.
POLICY_HISTORY = "policy.toml.history"


@contextlib.contextmanager
def open_store(settings: WorkerSettings) -> Iterator[Store]:
    """The store; where the embedded Valkey does not run, it is started for this."""
    with contextlib.ExitStack() as stack:
        if settings.redis_url is None and running_instance(settings.data_folder) is None:
            valkey = EmbeddedValkey(settings.data_folder / "valkey")
            valkey.start()
            stack.callback(valkey.stop)
            store = Store(redis_client(valkey.url), settings.namespace)
        else:
            store = connect_store(settings)
        stack.callback(store.close)
        yield store


def make_backup(settings: WorkerSettings, target: Path, *, bundles: bool) -> dict[str, Any]:
    """Write the file; returns what is in it.

    Raises:
        ConfigurationError: Redis does not give a copy of itself.
        OSError: the file cannot be written.
    """
    facts: dict[str, Any] = {
        "format": FORMAT,
        "version": importlib.metadata.version("avatar-moderation"),
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "namespace": settings.namespace,
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".backup-") as name:
        folder = Path(name)
        facts["keys"] = _copy_redis(settings, folder)
        facts["ledger"] = _copy_ledger(settings, folder)
        policy = settings.policy_path()
        facts["policy"] = policy is not None and policy.exists()
        if policy is not None and facts["policy"]:
            shutil.copyfile(policy, folder / "policy.toml")
        if (history := PolicyFile(settings).history_path).exists():
            shutil.copyfile(history, folder / POLICY_HISTORY)
        facts["bundles"] = bundle_names(settings) if bundles else []
        (folder / "facts.json").write_text(json.dumps(facts, indent=1))
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as tar:
            for path in sorted(folder.iterdir()):
                if path.is_file():
                    tar.add(path, path.name)
            for bundle in facts["bundles"]:
                tar.add(settings.models_folder / bundle, f"models/{bundle}")
    os.replace(part, target)
    return facts


def bundle_names(settings: WorkerSettings) -> list[str]:
    """Bundles in the models folder, and the links that say which is the current one."""
    with contextlib.suppress(OSError):
        found = sorted(settings.models_folder.iterdir())
        return [one.name for one in found if one.is_symlink() or (one / "model.json").is_file()]
    return []


def _copy_redis(settings: WorkerSettings, folder: Path) -> int:
    with open_store(settings) as store, tempfile.TemporaryDirectory(prefix="avatarmod-") as name:
        frozen = EmbeddedValkey(Path(name), FROZEN)
        try:
            store.copying.snapshot(Path(name) / "dump.rdb")
            frozen.start()
        except (NoSnapshot, ConfigurationError) as error:
            raise ConfigurationError(
                f"this Redis gives no copy of itself that can be read here ({error}); use the "
                "backups of whoever runs it, and copy the ledger"
            ) from None
        count = 0
        try:
            copy = Store(redis_client(frozen.url), settings.namespace)
            with (
                contextlib.closing(copy),
                gzip.open(folder / "redis.jsonl.gz", "wt", encoding="utf-8") as file,
            ):
                for row in copy.copying.rows():
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                    count += 1
        finally:
            frozen.stop()
    return count


def ledger_file(settings: WorkerSettings) -> Path | None:
    """Where an SQLite ledger lies; None where it is a server's or off."""
    if not settings.has_ledger:
        return None
    url = ledger_url(settings)
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def _copy_ledger(settings: WorkerSettings, folder: Path) -> str:
    """What the file holds of the ledger: `sqlite`, `elsewhere`, or nothing."""
    path = ledger_file(settings)
    if path is None:
        return "elsewhere" if settings.has_ledger else ""
    if not path.exists():
        return ""
    with (
        contextlib.closing(sqlite3.connect(path, timeout=60)) as source,
        contextlib.closing(sqlite3.connect(folder / "ledger.sqlite3")) as copy,
    ):
        source.backup(copy)
    return "sqlite"


class Backup:
    """A file that `make_backup` wrote.

    Raises:
        ConfigurationError: it is none, or a newer program wrote it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with tarfile.open(path) as tar:
                member = tar.extractfile("facts.json")
                assert member is not None
                self.facts: dict[str, Any] = json.load(member)
        except (tarfile.TarError, KeyError, ValueError, AssertionError, EOFError) as error:
            raise ConfigurationError(f"{path} is no backup of ours, or is damaged") from error
        if self.facts["format"] > FORMAT:
            raise ConfigurationError(
                f"{path} was written by version {self.facts['version']}; install that"
            )

    def restore(self, settings: WorkerSettings) -> list[str]:
        """Put everything in its place; returns what was done, in sentences.

        Redis must hold no upload yet, and no worker may run. What else is there already stays.

        Raises:
            ConfigurationError: one of these is not so; nothing was changed.
        """
        done = []
        with open_store(settings) as store, tempfile.TemporaryDirectory() as name:
            if store.workers():
                raise ConfigurationError("workers are running; stop them first")
            if not store.copying.is_empty():
                raise ConfigurationError(
                    f"Redis holds data under {store.prefix} already; restore into an empty one, "
                    "or use --from-ledger to add what it lost"
                )
            folder = Path(name)
            with tarfile.open(self._path) as tar:
                tar.extractall(folder, filter="data")
            with gzip.open(folder / "redis.jsonl.gz", "rt", encoding="utf-8") as file:
                count = store.copying.write(map(json.loads, file))
            done.append(f"Redis: {count} keys")
            done += self._files(settings, folder)
        return done

    def _files(self, settings: WorkerSettings, folder: Path) -> Iterator[str]:
        ledger = ledger_file(settings)
        if self.facts["ledger"] == "elsewhere" or (self.facts["ledger"] and ledger is None):
            yield "ledger: not here; bring it back with your database's own means"
        elif self.facts["ledger"] and ledger is not None:
            yield _place(folder / "ledger.sqlite3", ledger, "ledger")
        if self.facts["policy"]:
            yield _place(folder / "policy.toml", PolicyFile(settings).path, "policy")
        if (folder / POLICY_HISTORY).exists():
            place = PolicyFile(settings).history_path
            yield _place(folder / POLICY_HISTORY, place, "the policy's history")
        for bundle in self.facts["bundles"]:
            yield _place(folder / "models" / bundle, settings.models_folder / bundle, "bundle")


def _place(source: Path, target: Path, what: str) -> str:
    """Move something into its place, unless something is there."""
    if target.exists() or target.is_symlink():
        return f"{what}: {target} is there already and stays"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)
    return f"{what}: {target}"
