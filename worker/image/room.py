"""Memory for one large picture at a time, whichever process of this machine decodes it.

A small picture costs a decoding process a few dozen megabytes, one at the limits ten times as much;
several at once would not fit into a small box.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import filelock

#: Seconds between two looks at whether whoever waits is to give up.
_LOOK_EVERY_S = 0.2


class Room:
    """One place, shared by all that were given the same file."""

    def __init__(self, path: str = "") -> None:
        """Prepare.

        Args:
            path: the file that says whether the place is taken; "" shares it within this object
                only. Where it cannot be written the place counts as free: what it saves is memory.
        """
        self._path = path
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def taken(self, timeout_s: float, gives_up: threading.Event | None = None) -> Iterator[bool]:
        """Hold the place.

        Args:
            timeout_s: how long to wait for it; 0 asks once.
            gives_up: ends the waiting when set.

        Yields:
            Whether it is held.
        """
        with contextlib.ExitStack() as held:
            yield self._waits_well(held, timeout_s, gives_up or threading.Event())

    def _waits_well(
        self, held: contextlib.ExitStack, timeout_s: float, gives_up: threading.Event
    ) -> bool:
        left_s = timeout_s
        while not self._take(held, min(left_s, _LOOK_EVERY_S)):
            left_s -= _LOOK_EVERY_S
            if left_s <= 0 or gives_up.is_set():
                return False
        return True

    def _take(self, held: contextlib.ExitStack, wait_s: float) -> bool:
        if not self._path:
            if not self._lock.acquire(timeout=wait_s):
                return False
            held.callback(self._lock.release)
            return True
        lock = filelock.FileLock(self._path)  # one of its own each time, so that threads compete
        try:
            lock.acquire(timeout=wait_s, poll_interval=_LOOK_EVERY_S / 4)
        except filelock.Timeout:
            return False
        except OSError:
            return True
        held.callback(lock.release)
        return True
