"""Which tests are fast, and what holds them to it; and which tests one process must run together.

A test under `tests/unit` is `fast` unless it, or its module, is marked `process`. While a fast test
runs, starting a process or reaching for the network is refused, so that the tier stays one that
runs anywhere within a minute.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

#: Audit events of the interpreter; see https://docs.python.org/3/library/audit_events.html.
REFUSED = frozenset(
    {
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.system",
        "socket.bind",
        "socket.connect",
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "subprocess.Popen",
    }
)

#: Fixtures and folders whose tests share servers; a second process would start them again.
SHARED_FIXTURES = {"stack": "stack"}
SHARED_FOLDERS = ("tests/integration/ledger/", "tests/wordpress/")

_guarded: set[int] = set()


def sort_into_tiers(items: list[pytest.Item]) -> None:
    """Mark the fast tests, and group the rest by file or by the instance that they share."""
    for item in items:
        folder = item.nodeid.partition("/")[2].partition("/")[0]
        if folder == "unit" and item.get_closest_marker("process") is None:
            item.add_marker(pytest.mark.fast)
        item.add_marker(pytest.mark.xdist_group(_group_of(item)))


def _group_of(item: pytest.Item) -> str:
    fixtures = getattr(item, "fixturenames", ())
    for fixture, group in SHARED_FIXTURES.items():
        if fixture in fixtures:
            return group
    for folder in SHARED_FOLDERS:
        if item.nodeid.startswith(folder):
            return folder
    return item.nodeid.partition("::")[0]


@contextlib.contextmanager
def no_outside_world() -> Iterator[None]:
    """Refuse processes and sockets to the calling thread."""
    if not _refuse_installed.is_set():
        _refuse_installed.set()
        sys.addaudithook(_refuse)  # for good: the interpreter has no way to take one off
    thread = threading.get_ident()
    _guarded.add(thread)
    try:
        yield
    finally:
        _guarded.discard(thread)


_refuse_installed = threading.Event()


def _refuse(event: str, _arguments: tuple[Any, ...]) -> None:
    if event in REFUSED and threading.get_ident() in _guarded:
        raise RuntimeError(f"{event} in a fast test: mark it with @pytest.mark.process")
