"""What can be wrong with this machine and its settings, looked at without anything that runs.

Each function looks at one thing and says what it found, and what to do where it is not well. It
imports what only it needs, so that `avatarmod doctor` ends soon; models are in checks_models.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import re
import shlex
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from producer.errors import (
    BrokerUnavailable,
    ConfigurationError,
    StorageUnavailable,
)
from producer.networks import parse_networks
from producer.record.keyspace import server_of
from worker.settings import WorkerSettings, unknown_variables

#: Bytes of free disk below which the append-only file and the ledger are in danger.
LOW_DISK_BYTES = 500 * 2**20


Status = Literal["fine", "warning", "critical"]


#: Lowest versions without a known vulnerability of what a virtual environment brings.
#: Source: CVE-2025-8869 (pip unpacks links that lead out), CVE-2025-47273 (setuptools likewise).
SAFE_TOOLS = {"pip": (25, 3), "setuptools": (78, 2)}


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: Status
    message: str
    fix: str = ""


def known_settings() -> Check:
    """Variables that look like settings and are none."""
    unknown = unknown_variables()
    if not unknown:
        return Check("settings", "fine", "readable")
    found = "; ".join(
        f"{name} is no setting{f', {near} is' if near else ''}" for name, near in unknown.items()
    )
    return Check("settings", "warning", found, "correct or remove it: it has no effect")


def environment() -> Iterator[Check]:
    """Packages that come with a virtual environment, and are as old as its Python."""
    for name, least in SAFE_TOOLS.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if tuple(map(int, re.findall(r"\d+", found)[:2])) < least:
            yield Check(
                "environment",
                "warning",
                f"{name} {found} has known vulnerabilities",
                f"{shlex.quote(sys.executable)} -m pip install --upgrade {name}",
            )


def broker(settings: WorkerSettings) -> Check:
    """Where doorbells go, if not to Redis."""
    from producer.doorbell import check_broker

    try:
        place = check_broker(settings)
    except BrokerUnavailable as error:
        return Check(
            "broker",
            "critical",
            f"{error}: uploads are accepted and wait",
            "start it, or correct AVATARMOD_BROKER_URL",
        )
    return Check("broker", "fine", f"{place} answers")


def image_store(settings: WorkerSettings) -> Check:
    """Where pictures are fetched."""
    place = settings.image_folder
    if not settings.image_store and not any(Path(place).glob("*")):
        return Check("image store", "fine", f"{place}, where no picture has been put yet")
    from producer.images import Images

    try:
        with contextlib.closing(Images(settings)) as images:
            images.check()
    except (StorageUnavailable, ConfigurationError) as error:
        fix = "repair it; uploads are tried again by themselves for eight hours"
        return Check("image store", "critical", str(error), fix)
    return Check("image store", "fine", place)


def callback(settings: WorkerSettings) -> Iterator[Check]:
    """Its address and its signature; nothing is sent."""
    if not settings.callback_url:
        yield Check("callback", "fine", "none configured: the web tier polls")
        return
    from worker.ping import unreachable

    fault = unreachable(settings.callback_url, parse_networks(settings.private_networks))
    if fault:
        fix = (
            "correct AVATARMOD_CALLBACK_URL; a network of yours goes in AVATARMOD_PRIVATE_NETWORKS"
        )
        yield Check("callback", "critical", fault, fix)
    if not settings.callback_secrets:
        fix = "set AVATARMOD_CALLBACK_SECRETS"
        yield Check("callback", "warning", "callbacks are not signed", fix)
    elif not fault:
        place = server_of(settings.callback_url)
        message = f"signed, to {place}; `avatarmod callbacks test` asks whether it reads them"
        yield Check("callback", "fine", message)


def providers(settings: WorkerSettings) -> Iterator[Check]:
    """Every provider that a route names can be built: SDK, keys, border; nothing is called."""
    if not settings.review_providers:
        return
    from worker.review.registry import border_problems, build_provider

    for name in settings.review_providers:
        try:
            provider = build_provider(name, settings)
        except ConfigurationError as error:
            yield Check(f"provider {name}", "critical", str(error), "the io worker does not start")
            continue
        problems = border_problems(settings, name, provider)
        provider.close()
        message = "; ".join(problems) or "configured; `avatarmod providers check` makes a call"
        yield Check(f"provider {name}", "critical" if problems else "fine", message)


def disk(settings: WorkerSettings) -> Check:
    """The data folder: room, and the right to write."""
    wanted = folder = settings.data_folder
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < LOW_DISK_BYTES:
        return Check(
            "disk",
            "critical",
            f"{free / 2**20:.0f} MiB free in {folder}",
            "make room: Redis refuses writes when its file cannot grow",
        )
    if not os.access(folder, os.W_OK):
        if folder == wanted:
            fix = "correct its owner or mode, or run this as the user that the workers run as"
            return Check("disk", "critical", f"{folder} is not writable", fix)
        message = f"{wanted} does not exist and cannot be made in {folder}"
        fix = "make it for the user that the workers run as, or set AVATARMOD_DATA_FOLDER"
        return Check("disk", "critical", message, fix)
    return Check("disk", "fine", f"{free / 2**30:.1f} GiB free in {folder}")


def privacy(settings: WorkerSettings) -> Iterator[Check]:
    """Say when other users of this machine can read the ledger, the pictures and first keys."""
    folder = settings.data_folder
    if folder.exists() and (mode := stat.S_IMODE(folder.stat().st_mode)) & (
        stat.S_IROTH | stat.S_IXOTH
    ):
        yield Check(
            "privacy",
            "warning",
            f"every user of this machine can read {folder} (mode {mode:04o}): decisions, pictures",
            f"chmod o-rwx {shlex.quote(str(folder))}",
        )
